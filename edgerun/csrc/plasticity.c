/* Changing weights: from a gradient's factors to shadows, weights and credit, a tile of a row at a time. */
#include "edgerun.h"

#include <string.h>

#include "clones.h"

enum { TILE = 256, SHADOW_MAX = 32512, WEIGHT_MAX = 127, LARGEST_STEP = 1 << 30, TOP_CODE = 231 };

/* What is the same for all tiles of an update. */
typedef struct numbers {
    er_key update, decay, pull, omega;
    int32_t shift, small_shift, middle, drop;
    int64_t heaviest; /* max_j sum_t |post_j| */
} numbers;

typedef struct tile {
    int32_t wanted[TILE], small[TILE], made[TILE];
} tile;

static int32_t clip32(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

static inline int32_t history_at(const er_plastic *p, int32_t t, int32_t row) {
    const size_t at = (size_t)t * (size_t)p->rows + (size_t)row;
    return p->history_high ? p->history_high[at] : p->history[at];
}

static int64_t heaviest(const er_plastic *p) {
    int64_t most = 0;
    for (int32_t j = 0; j < p->columns; j++) {
        int64_t total = 0;
        for (int32_t t = 0; t < p->steps; t++) {
            const int32_t post = p->post[(size_t)t * (size_t)p->columns + (size_t)j];
            total += post < 0 ? -post : post;
        }
        most = total > most ? total : most;
    }
    return most;
}

static int32_t largest(const er_plastic *p, int32_t row) {
    int32_t most = 0;
    for (int32_t t = 0; t < p->steps; t++) {
        const int32_t h = history_at(p, t, row), size = h < 0 ? -h : h;
        most = size > most ? size : most;
    }
    return most;
}

/* wanted <- SR(-g * eta, shift), cut at LARGEST_STEP; small <- sat16(half_up(g / 2**sg)), of g as wide as it must be. */
#define DESCEND(name, type) \
    static inline void name(const er_plastic *p, const numbers *w, tile *at, const type *restrict g, uint32_t first, \
                            int32_t count) { \
        const int32_t eta = -p->eta; \
        const uint32_t mask = ((uint32_t)1 << w->shift) - 1; \
        for (int32_t j = 0; j < count; j++) { \
            const int64_t x = (int64_t)g[j] * eta + (int64_t)(er_word(w->update, first + (uint32_t)j) & mask); \
            at->wanted[j] = er_clip(x >> w->shift, -LARGEST_STEP, LARGEST_STEP); \
        } \
        const type half = (type)((type)1 << w->small_shift >> 1); \
        for (int32_t j = 0; j < count; j++) { \
            const type x = (type)((g[j] + half) >> w->small_shift); \
            at->small[j] = (int32_t)(x < INT16_MIN ? INT16_MIN : x > INT16_MAX ? INT16_MAX : x); \
        } \
    }
DESCEND(descend, int32_t)
DESCEND(descend_wide, int64_t)

#define GRADIENT(name, type) \
    static inline void name(const er_plastic *p, type *restrict g, int32_t row, int32_t column, int32_t count) { \
        memset(g, 0, (size_t)count * sizeof *g); \
        for (int32_t t = 0; t < p->steps; t++) { \
            const type h = history_at(p, t, row); \
            const int16_t *restrict post = p->post + (size_t)t * (size_t)p->columns + column; \
            if (h) \
                for (int32_t j = 0; j < count; j++) g[j] += h * post[j]; \
        } \
    }
GRADIENT(gradient, int32_t)
GRADIENT(gradient_wide, int64_t)

/* d -= SR(shadow - middle, k) */
static inline void fade(const er_plastic *p, const numbers *w, tile *at, size_t first, int32_t count) {
    const int16_t *restrict shadow = p->shadow + first;
    const uint32_t mask = ((uint32_t)1 << p->decay_shift) - 1;
    for (int32_t j = 0; j < count; j++) {
        const int32_t noise = (int32_t)(er_word(w->decay, (uint32_t)first + (uint32_t)j) & mask);
        at->wanted[j] -= (shadow[j] - w->middle + noise) >> p->decay_shift;
    }
}

/* The shadow that an anchor stands for. */
static inline int32_t anchor(const er_plastic *p, size_t at) {
    return p->ref_high ? p->ref_high[at] * 256 + 128 : p->ref[at];
}

/* d += SR(mantissa * (ref - shadow), max(4, strength - exponent)); a shift over 30 gives nothing. */
static inline void pull(const er_plastic *p, const numbers *w, tile *at, size_t first, int32_t count) {
    const uint8_t *restrict code = p->importance + first;
    const int16_t *restrict shadow = p->shadow + first;
    for (int32_t j = 0; j < count; j++) {
        const int32_t c = code[j], mantissa = c < 8 ? c : 8 + (c & 7), exponent = c < 8 ? 0 : (c >> 3) - 1;
        const int32_t shift = p->strength - exponent, held = shift < 4 ? 4 : shift > 30 ? 30 : shift;
        const int32_t noise = (int32_t)(er_word(w->pull, (uint32_t)first + (uint32_t)j) & (((uint32_t)1 << held) - 1));
        const int32_t force = (mantissa * (anchor(p, first + (size_t)j) - shadow[j]) + noise) >> held;
        at->wanted[j] += shift <= 30 && c ? force : 0;
    }
}

/* shadow <- clip(shadow + clip(d, +-max_step), middle +- SHADOW_MAX); made <- the change; returns its squares' sum. */
static inline int64_t change(const er_plastic *p, const numbers *w, tile *at, size_t first, int32_t count) {
    int16_t *restrict shadow = p->shadow + first;
    const int32_t low = w->middle - SHADOW_MAX, high = w->middle + SHADOW_MAX;
    int64_t changed = 0;
    for (int32_t j = 0; j < count; j++) {
        const int32_t step = clip32(at->wanted[j], -p->max_step, p->max_step), after = clip32(step + shadow[j], low, high);
        at->made[j] = after - shadow[j];
        shadow[j] = (int16_t)after;
        changed += (int64_t)at->made[j] * at->made[j];
    }
    return changed;
}

static inline void weights_from_shadow(const er_plastic *p, size_t first, int32_t count) {
    const int16_t *restrict shadow = p->shadow + first;
    int8_t *restrict weight = p->weight + first;
    for (int32_t j = 0; j < count; j++)
        weight[j] = (int8_t)clip32((shadow[j] + 128) >> 8, -WEIGHT_MAX, WEIGHT_MAX);
}

/* omega <- sat(omega + SR(-(g * d), drop)) at the ends of its own type; |SR(...)| <= 2**22 */
#define CREDIT(name, type, least, most) \
    static inline void name(type *restrict omega, const numbers *w, const tile *at, size_t first, int32_t count) { \
        const uint32_t mask = ((uint32_t)1 << w->drop) - 1; \
        for (int32_t j = 0; j < count; j++) { \
            const int32_t noise = (int32_t)(er_word(w->omega, (uint32_t)first + (uint32_t)j) & mask); \
            const int32_t term = (noise - at->small[j] * at->made[j]) >> w->drop; \
            const int32_t top = most - (term > 0 ? term : 0), bottom = least - (term < 0 ? term : 0); \
            omega[first + (size_t)j] = (type)(clip32(omega[first + (size_t)j], bottom, top) + term); \
        } \
    }
CREDIT(credit, int32_t, INT32_MIN, INT32_MAX)
CREDIT(credit_narrow, int16_t, INT16_MIN, INT16_MAX)

static int any(const uint8_t *code, int32_t count) {
    uint8_t all = 0;
    for (int32_t j = 0; j < count; j++) all |= code[j];
    return all != 0;
}

/* One tile of a row whose history is at most `reach`. */
ER_CLONES
static int64_t update_tile(const er_plastic *p, const numbers *w, int32_t row, int32_t column, int32_t count,
                           int32_t reach) {
    const size_t first = (size_t)row * (size_t)p->columns + (size_t)column;
    const int pulls = p->importance && any(p->importance + first, count);
    tile at;
    if (!reach && !pulls && !p->decay_shift) return 0;
    if (!reach) {
        memset(at.wanted, 0, (size_t)count * sizeof *at.wanted);
    } else if (reach * w->heaviest < (int64_t)1 << 30) {
        int32_t g[TILE];
        gradient(p, g, row, column, count);
        descend(p, w, &at, g, (uint32_t)first, count);
    } else {
        int64_t g[TILE];
        gradient_wide(p, g, row, column, count);
        descend_wide(p, w, &at, g, (uint32_t)first, count);
    }
    if (p->decay_shift) fade(p, w, &at, first, count);
    if (pulls) pull(p, w, &at, first, count);
    const int64_t changed = change(p, w, &at, first, count);
    if (p->weight) weights_from_shadow(p, first, count);
    if (p->omega && reach) credit(p->omega, w, &at, first, count);
    if (p->omega_narrow && reach) credit_narrow(p->omega_narrow, w, &at, first, count);
    return changed;
}

static er_key key_of(const er_plastic *p, uint64_t seed, uint64_t number, enum er_use use) {
    return er_noise_key(seed, number, (uint32_t)p->index * 16 + (uint32_t)use);
}

int64_t er_update(const er_plastic *p, uint64_t seed, uint64_t number) {
    const int32_t narrow = p->history_high ? 8 : 0;
    const numbers w = {
        .update = key_of(p, seed, number, ER_USE_UPDATE),
        .decay = key_of(p, seed, number, ER_USE_DECAY),
        .pull = key_of(p, seed, number, ER_USE_PULL),
        .omega = key_of(p, seed, number, ER_USE_OMEGA),
        .shift = p->shift + er_limit_shift(p) - narrow,
        .small_shift = p->gradient_shift - narrow,
        .middle = p->small ? 128 : 0,
        .drop = p->small ? 18 : 8,
        .heaviest = heaviest(p),
    };
    int64_t changed = 0;
    for (int32_t row = 0; row < p->rows; row++) {
        const int32_t reach = largest(p, row);
        for (int32_t column = 0; column < p->columns; column += TILE) {
            const int32_t count = p->columns - column < TILE ? p->columns - column : TILE;
            changed += update_tile(p, &w, row, column, count, reach);
        }
    }
    return changed;
}

/* ---------------------------------------------------------------- boundaries */

static int64_t decode(int32_t code) {
    return code < 8 ? code : (int64_t)(8 + (code & 7)) * ((int64_t)1 << ((code >> 3) - 1));
}

/* The code of a value >= 0, its low bits dropped stochastically. */
static uint8_t encode(int64_t value, uint32_t word) {
    const int64_t top = decode(TOP_CODE);
    int32_t drop = 0;
    if (value > top) value = top;
    while (value >> drop > 15) drop++;
    int64_t rounded = (value + (int64_t)(word & (((uint32_t)1 << drop) - 1))) >> drop;
    if (rounded == 16) {
        rounded = 8;
        drop++;
    }
    return (uint8_t)er_clip(rounded < 8 ? rounded : (drop + 1) * 8 + (rounded & 7), 0, TOP_CODE);
}

void er_consolidate(const er_plastic *p, uint64_t seed, uint64_t number) {
    const er_key key = key_of(p, seed, number, ER_USE_IMPORTANCE);
    const size_t size = (size_t)p->rows * (size_t)p->columns;
    for (size_t at = 0; at < size; at++) {
        const int64_t moved = p->shadow[at] - anchor(p, at), omega = p->omega ? p->omega[at] : p->omega_narrow[at];
        const uint64_t den = (uint64_t)(moved * moved >> 8) + (uint64_t)p->damping;
        uint64_t term = ((uint64_t)(omega > 0 ? omega : 0) << (p->small ? 26 : 16)) / den;
        if (term > (uint64_t)1 << 40) term = (uint64_t)1 << 40;
        p->importance[at] = encode(decode(p->importance[at]) + (int64_t)term, er_word(key, (uint32_t)at));
        if (p->ref)
            p->ref[at] = p->shadow[at];
        else
            p->ref_high[at] = (int8_t)(p->shadow[at] >> 8);
        if (p->omega)
            p->omega[at] = 0;
        else
            p->omega_narrow[at] = 0;
    }
}
