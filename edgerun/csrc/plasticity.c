/* Changing weights: from a gradient's factors to shadows, weights and credit, a tile of a row at a time. */
#include "plasticity.h"

#include <string.h>

#include "clones.h"

/* Weights that are worked on together: what a stack holds of them. Bits do not depend on it. */
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
enum { TILE = 64 };
#else
enum { TILE = 256 };
#endif
enum { TOP_CODE = 231 };

typedef struct tile {
    int32_t wanted[TILE], small[TILE], made[TILE];
} tile;

static int32_t clip32(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

static inline int32_t history_at(const er_plastic *p, int32_t t, int32_t row) {
    const size_t at = (size_t)t * (size_t)p->rows + (size_t)row;
    return p->history_high ? p->history_high[at] : p->history[at];
}

/* max_j sum_t |post_j| */
ER_CLONES
static int64_t heaviest(const er_plastic *p) {
    int32_t most = 0;
    for (int32_t first = 0; first < p->columns; first += TILE) {
        const int32_t count = p->columns - first < TILE ? p->columns - first : TILE;
        int32_t total[TILE] = {0};
        for (int32_t t = 0; t < p->steps; t++) {
            const int16_t *post = p->post + (size_t)t * (size_t)p->columns + first;
            for (int32_t j = 0; j < count; j++) total[j] += post[j] < 0 ? -post[j] : post[j];
        }
        for (int32_t j = 0; j < count; j++) most = total[j] > most ? total[j] : most;
    }
    return most;
}

/* reach (count,) <- max_t |history| of so many rows */
ER_CLONES
static void reaches(const er_plastic *p, int32_t *restrict reach, int32_t row, int32_t count) {
    memset(reach, 0, (size_t)count * sizeof *reach);
    for (int32_t t = 0; t < p->steps; t++) {
        const size_t first = (size_t)t * (size_t)p->rows + (size_t)row;
        for (int32_t i = 0; i < count; i++) {
            const int32_t h = p->history_high ? p->history_high[first + (size_t)i] : p->history[first + (size_t)i];
            const int32_t size = h < 0 ? -h : h;
            reach[i] = size > reach[i] ? size : reach[i];
        }
    }
}

/* wanted <- SR(g * eta, shift), cut at ER_LARGEST_STEP, of g and g * eta as wide as they must be */
#define DESCEND(name, type, product) \
    static inline void name(const er_numbers *w, tile *at, const type *restrict g, uint32_t first, int32_t count, \
                            int32_t eta) { \
        const er_key key = w->update; \
        const int32_t shift = w->shift; \
        const uint32_t mask = ((uint32_t)1 << shift) - 1; \
        for (int32_t j = 0; j < count; j++) { \
            const product x = ((product)g[j] * eta + (product)(er_word(key, first + (uint32_t)j) & mask)) >> shift; \
            at->wanted[j] = (int32_t)(x < -ER_LARGEST_STEP ? -ER_LARGEST_STEP : x > ER_LARGEST_STEP ? ER_LARGEST_STEP : x); \
        } \
    }
DESCEND(descend_short, int32_t, int32_t)
DESCEND(descend, int32_t, int64_t)
DESCEND(descend_wide, int64_t, int64_t)

/* small <- sat16(half_up(g / 2**sg)) */
#define SMALL_GRADIENT(name, type) \
    static inline void name(const er_numbers *w, tile *at, const type *restrict g, int32_t count) { \
        const int32_t drop = w->small_shift; \
        const type half = (type)((type)1 << drop >> 1); \
        for (int32_t j = 0; j < count; j++) { \
            const type x = (type)((g[j] + half) >> drop); \
            at->small[j] = (int32_t)(x < INT16_MIN ? INT16_MIN : x > INT16_MAX ? INT16_MAX : x); \
        } \
    }
SMALL_GRADIENT(small_gradient, int32_t)
SMALL_GRADIENT(small_gradient_wide, int64_t)

/* ---------------------------------------------------------------- normalisers */

static inline int32_t bit_length(int64_t x) { /* x >= 0 */
    int32_t bits = 0;
    for (int32_t step = 32; step; step >>= 1) {
        const int32_t more = x >> step ? step : 0;
        x >>= more;
        bits += more;
    }
    return bits + (x > 0);
}

/* RMaxProp's code of a size: the least whose value is at least that much. */
static int32_t largest_code(int64_t size) {
    const int32_t bits = bit_length(size), drop = bits > 4 ? bits - 4 : 0;
    return (int32_t)(size < 8 ? size : 8 * drop + ((size + ((int64_t)1 << drop) - 1) >> drop));
}

/* g <- g in units of the largest that each weight has met, Q0.15; the codes follow. */
static void rmaxprop(const er_plastic *p, const er_numbers *w, int64_t *g, size_t first, int32_t count) {
    const int64_t most = (int64_t)15 << 30;
    const int32_t floor = largest_code((int64_t)1 << p->floor);
    for (int32_t j = 0; j < count; j++) {
        const int64_t size = g[j] < 0 ? -g[j] : g[j], cut = size < most ? size : most;
        const uint32_t noise = er_word(w->normalise, (uint32_t)first + (uint32_t)j) & 255;
        const int32_t faded = p->largest[first + (size_t)j] - (int32_t)(((uint32_t)p->fade + noise) >> 8);
        int32_t code = largest_code(cut);
        code = code > faded ? code : faded;
        code = code > floor ? code : floor;
        const int32_t mantissa = code < 8 ? code : 8 + (code & 7), exponent = code < 8 ? 0 : (code >> 3) - 1;
        const int64_t unit = mantissa ? ((int64_t)1 << 22) / mantissa : 0, whole = cut * unit >> (exponent + 7);
        p->largest[first + (size_t)j] = (uint8_t)code;
        g[j] = g[j] < 0 ? -whole : whole;
    }
}

/* g <- SR(g, e), or g * 2**-e: the tensor's mean size comes near 2**10; nothing before anything was measured. */
static void quotient(const er_plastic *p, const er_numbers *w, int64_t *g, size_t first, int32_t count) {
    const int64_t mean = p->mean[0], most = (int64_t)1 << 28;
    const int32_t e = er_clip(bit_length(mean + (mean >> 1)) - 1 - 18, -30, 30);
    for (int32_t j = 0; j < count; j++) {
        p->mean[1] += g[j] < 0 ? -g[j] : g[j];
        const int64_t cut = g[j] < -most ? -most : g[j] > most ? most : g[j];
        const uint32_t word = er_word(w->normalise, (uint32_t)first + (uint32_t)j);
        if (!mean)
            g[j] = 0;
        else if (e < 0)
            g[j] = cut * ((int64_t)1 << -e);
        else
            g[j] = (g[j] + (int64_t)(word & (((uint32_t)1 << e) - 1))) >> e;
    }
}

/* The running mean after this update. */
static void follow(const er_plastic *p, uint64_t number) {
    const int64_t seen = p->mean[1] * 256 / ((int64_t)p->rows * p->columns), step = seen - p->mean[0];
    const int64_t memory = (int64_t)1 << p->memory, weight = number < (uint64_t)memory ? (int64_t)number + 1 : memory;
    p->mean[0] += step >= 0 ? step / weight : -((-step + weight - 1) / weight);
    p->mean[1] = 0;
}

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
static inline void fade(const er_plastic *p, const er_numbers *w, tile *at, size_t first, int32_t count) {
    const int16_t *restrict shadow = p->shadow + first;
    const er_key key = w->decay;
    const int32_t shift = p->decay_shift, middle = w->middle;
    const uint32_t mask = ((uint32_t)1 << shift) - 1;
    for (int32_t j = 0; j < count; j++) {
        const int32_t noise = (int32_t)(er_word(key, (uint32_t)first + (uint32_t)j) & mask);
        at->wanted[j] -= (shadow[j] - middle + noise) >> shift;
    }
}

/* The shadow that an anchor stands for. */
static inline int32_t anchor(const er_plastic *p, size_t at) {
    return p->ref_high ? p->ref_high[at] * 256 + 128 : p->ref[at];
}

/* moved <- anchor - shadow */
static inline void distance(const er_plastic *p, int32_t *restrict moved, size_t first, int32_t count) {
    const int16_t *restrict shadow = p->shadow + first;
    if (p->ref_high) {
        const int8_t *restrict ref = p->ref_high + first;
        for (int32_t j = 0; j < count; j++) moved[j] = ref[j] * 256 + 128 - shadow[j];
    } else {
        const int16_t *restrict ref = p->ref + first;
        for (int32_t j = 0; j < count; j++) moved[j] = ref[j] - shadow[j];
    }
}

/* d += SR(mantissa * (ref - shadow), max(4, strength - exponent)); a shift over 30 gives nothing. */
static inline void pull(const er_plastic *p, const er_numbers *w, tile *at, size_t first, int32_t count) {
    const uint8_t *restrict code = p->importance + first;
    const er_key key = w->pull;
    const int32_t strength = p->strength;
    int32_t moved[TILE];
    distance(p, moved, first, count);
    for (int32_t j = 0; j < count; j++) {
        const int32_t c = code[j], octave = c >> 3, large = octave > 0;
        const int32_t mantissa = c - 8 * (octave - large), shift = strength - (octave - large);
        const int32_t held = shift < 4 ? 4 : shift > 30 ? 30 : shift, pulls = -(shift <= 30 && c > 0);
        const int32_t noise = (int32_t)(er_word(key, (uint32_t)first + (uint32_t)j) & ~(UINT32_MAX << held));
        at->wanted[j] += ((mantissa * moved[j] + noise) >> held) & pulls;
    }
}

/* shadow <- clip(shadow + clip(d, +-max_step), middle +- ER_SHADOW_MAX); made <- the change; returns its squares' sum. */
static inline int64_t change(const er_plastic *p, const er_numbers *w, tile *at, size_t first, int32_t count) {
    int16_t *restrict shadow = p->shadow + first;
    const int32_t low = w->middle - ER_SHADOW_MAX, high = w->middle + ER_SHADOW_MAX, most = p->max_step;
    int64_t changed = 0;
    for (int32_t j = 0; j < count; j++) {
        const int32_t step = clip32(at->wanted[j], -most, most), after = clip32(step + shadow[j], low, high);
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
        weight[j] = (int8_t)clip32((shadow[j] + 128) >> 8, -ER_WEIGHT_MAX, ER_WEIGHT_MAX);
}

/* omega <- sat(omega + SR(-(g * d), drop)) at the ends of its own type; |SR(...)| <= 2**22 */
#define CREDIT(name, type, least, most) \
    static inline void name(type *restrict omega, const er_numbers *w, const tile *at, size_t first, int32_t count) { \
        const er_key key = w->omega; \
        const int32_t drop = w->drop; \
        const uint32_t mask = ((uint32_t)1 << drop) - 1; \
        for (int32_t j = 0; j < count; j++) { \
            const int32_t noise = (int32_t)(er_word(key, (uint32_t)first + (uint32_t)j) & mask); \
            const int32_t term = (noise - at->small[j] * at->made[j]) >> drop; \
            const int32_t top = most - (term > 0 ? term : 0), bottom = least - (term < 0 ? term : 0); \
            omega[j] = (type)(clip32(omega[j], bottom, top) + term); \
        } \
    }
CREDIT(credit, int32_t, INT32_MIN, INT32_MAX)
CREDIT(credit_narrow, int16_t, INT16_MIN, INT16_MAX)

static int any(const uint8_t *code, int32_t count) {
    uint8_t all = 0;
    for (int32_t j = 0; j < count; j++) all |= code[j];
    return all != 0;
}

/* In one row of a tile, where no synapse is: growth <- sat16(growth + SR(g, shift)), and nothing is wanted there. */
static inline void grow(const er_plastic *p, const er_numbers *w, tile *at, const er_place *here, int32_t k) {
    const int32_t row = here->row + k, shift = p->growth_shift, from = k * here->columns;
    const size_t first = (size_t)row * (size_t)p->columns + (size_t)here->column;
    const er_key key = w->growth;
    const uint32_t mask = ((uint32_t)1 << shift) - 1;
    int16_t *restrict growth = p->growth + first;
    for (int32_t j = 0; j < here->columns; j++) {
        const int32_t absent = er_alive(p, row, here->column + j) - 1;
        const int32_t noise = (int32_t)(er_word(key, (uint32_t)first + (uint32_t)j) & mask);
        const int32_t term = here->bound ? (at->small[from + j] + noise) >> shift : 0;
        growth[j] = (int16_t)clip32(growth[j] + (term & absent), INT16_MIN, INT16_MAX);
        at->wanted[from + j] &= ~absent;
    }
}

ER_CLONES
static int64_t update_tile(const er_plastic *p, const er_numbers *w, const er_place *here) {
    const size_t first = (size_t)here->row * (size_t)p->columns + (size_t)here->column;
    const int32_t count = here->rows * here->columns;
    const int pulls = p->importance && any(p->importance + first, count);
    tile at;
    if (!here->bound) {
        if (!pulls && !p->decay_shift) return 0;
        memset(at.wanted, 0, (size_t)count * sizeof *at.wanted);
    } else if (here->bound < 1 << 30 && !p->largest && !p->mean) {
        int32_t g[TILE];
        for (int32_t k = 0; k < here->rows; k++)
            gradient(p, g + k * here->columns, here->row + k, here->column, here->columns);
        small_gradient(w, &at, g, count);
        if (here->bound * p->eta < 1 << 30)
            descend_short(w, &at, g, (uint32_t)first, count, -p->eta);
        else
            descend(w, &at, g, (uint32_t)first, count, -p->eta);
    } else {
        int64_t g[TILE];
        for (int32_t k = 0; k < here->rows; k++)
            gradient_wide(p, g + k * here->columns, here->row + k, here->column, here->columns);
        small_gradient_wide(w, &at, g, count);
        if (p->largest) rmaxprop(p, w, g, first, count);
        if (p->mean) quotient(p, w, g, first, count);
        descend_wide(w, &at, g, (uint32_t)first, count, -p->eta);
    }
    if (p->decay_shift) fade(p, w, &at, first, count);
    if (pulls) pull(p, w, &at, first, count);
    for (int32_t k = 0; p->mask && k < here->rows; k++) grow(p, w, &at, here, k);
    const int64_t changed = change(p, w, &at, first, count);
    if (p->weight) weights_from_shadow(p, first, count);
    if (p->omega && here->bound) credit(p->omega + first, w, &at, first, count);
    if (p->omega_narrow && here->bound) credit_narrow(p->omega_narrow + first, w, &at, first, count);
    return changed;
}

int64_t er_update_place(const er_plastic *p, const er_numbers *w, const er_place *here) {
    return update_tile(p, w, here);
}

/* How many rows from the first one on, whose reach is given, go into one tile: all of them still, or all moving. */
static int32_t together(const er_plastic *p, const int32_t *reach, int32_t rows, int32_t *most) {
    const int32_t room = p->columns < TILE ? TILE / p->columns : 1;
    int32_t k = 1;
    *most = reach[0];
    for (; k < rows && k < room && !reach[k] == !reach[0]; k++)
        if (reach[k] > *most) *most = reach[k];
    return k;
}

static er_key key_of(const er_plastic *p, uint64_t seed, uint64_t number, enum er_use use) {
    return er_noise_key(seed, number, (uint32_t)p->index * 16 + (uint32_t)use);
}

/* Every row, a tile at a time. */
static int64_t update_tiles(const er_plastic *p, const er_numbers *w) {
    const int64_t most = heaviest(p);
    int64_t changed = 0;
    for (int32_t block = 0; block < p->rows; block += TILE) {
        int32_t reach[TILE], here_reach;
        const int32_t rows = p->rows - block < TILE ? p->rows - block : TILE;
        reaches(p, reach, block, rows);
        for (int32_t k = 0; k < rows;) {
            er_place here = {.row = block + k};
            here.rows = together(p, reach + k, rows - k, &here_reach);
            here.bound = here_reach * most + !!p->largest; /* with it none is still: what was met fades */
            for (; here.column < p->columns; here.column += here.columns) {
                const int32_t left = p->columns - here.column;
                here.columns = left < TILE ? left : TILE;
                changed += update_tile(p, w, &here);
            }
            k += here.rows;
        }
    }
    return changed;
}

int64_t er_update(const er_plastic *p, uint64_t seed, uint64_t number) {
    const int32_t narrow = p->history_high ? 8 : 0;
    const er_numbers w = {
        .update = key_of(p, seed, number, ER_USE_UPDATE),
        .decay = key_of(p, seed, number, ER_USE_DECAY),
        .pull = key_of(p, seed, number, ER_USE_PULL),
        .omega = key_of(p, seed, number, ER_USE_OMEGA),
        .normalise = key_of(p, seed, number, ER_USE_NORMALISE),
        .growth = key_of(p, seed, number, ER_USE_GROWTH),
        .shift = p->shift + er_limit_shift(p) - narrow,
        .small_shift = p->gradient_shift - narrow,
        .middle = p->small ? 128 : 0,
        .drop = p->small ? 18 : 8,
    };
#ifdef ER_AVX512
    const int64_t done = er_update_avx512(p, &w);
    if (done >= 0) return done;
#endif
    const int64_t changed = update_tiles(p, &w);
    if (p->mean) follow(p, number);
    return changed;
}

/* ---------------------------------------------------------------- boundaries */

static int64_t decode(int32_t code) {
    return code < 8 ? code : (int64_t)(8 + (code & 7)) * ((int64_t)1 << ((code >> 3) - 1));
}

/* The code of a value >= 0, its low bits dropped stochastically. */
static uint8_t encode(int64_t value, uint32_t word) {
    const int64_t top = decode(TOP_CODE);
    if (value > top) value = top;
    const int32_t bits = bit_length(value);
    int32_t drop = bits > 4 ? bits - 4 : 0;
    int64_t rounded = (value + (int64_t)(word & (((uint32_t)1 << drop) - 1))) >> drop;
    if (rounded == 16) {
        rounded = 8;
        drop++;
    }
    return (uint8_t)er_clip(rounded < 8 ? rounded : (drop + 1) * 8 + (rounded & 7), 0, TOP_CODE);
}

/* The importance of a weight that has moved by so much and earned so much credit. */
static uint8_t gained(const er_plastic *p, int32_t code, int64_t moved, int64_t credit, uint32_t word) {
    const uint64_t den = (uint64_t)(moved * moved >> 8) + (uint64_t)p->damping;
    const uint64_t term = ((uint64_t)credit << (p->small ? 26 : 16)) / den, most = (uint64_t)1 << 40;
    return encode(decode(code) + (int64_t)(term < most ? term : most), word);
}

void er_consolidate(const er_plastic *p, uint64_t seed, uint64_t number) {
    const er_key key = key_of(p, seed, number, ER_USE_IMPORTANCE);
    const size_t size = (size_t)p->rows * (size_t)p->columns;
    for (size_t at = 0; at < size; at++) {
        const int32_t moved = p->shadow[at] - anchor(p, at), omega = p->omega ? p->omega[at] : p->omega_narrow[at];
        const uint8_t code = p->importance[at];
        if (omega > 0 || code > TOP_CODE) /* else decoding and encoding give the code again */
            p->importance[at] = gained(p, code, moved, omega > 0 ? omega : 0, er_word(key, (uint32_t)at));
    }
    if (p->ref)
        memcpy(p->ref, p->shadow, size * sizeof *p->ref);
    else
        for (size_t at = 0; at < size; at++) p->ref_high[at] = (int8_t)(p->shadow[at] >> 8);
    if (p->omega)
        memset(p->omega, 0, size * sizeof *p->omega);
    else
        memset(p->omega_narrow, 0, size * sizeof *p->omega_narrow);
}

void er_clear_weight(const er_plastic *p, size_t at) {
    p->shadow[at] = (int16_t)(128 * p->small);
    if (p->weight) p->weight[at] = 0;
    if (p->importance) p->importance[at] = 0;
    if (p->ref) p->ref[at] = 0;
    if (p->ref_high) p->ref_high[at] = 0;
    if (p->omega) p->omega[at] = 0;
    if (p->omega_narrow) p->omega_narrow[at] = 0;
}
