/* One update of a plastic tensor on x86-64 processors with AVX-512 VNNI: 32 weights go through the chain in registers.
 *
 * The gradient is a product of pairs of steps: history and post lie as (steps / 2, n) pairs of int16, and vpdpwssd adds
 * two products at a time, exact as long as the sum is. 32 weights of int16 are two vectors of int32, `a` and `b`, in the
 * order that unpacking gives: of every 8 columns the first four are in a, the others in b; packing restores theirs.
 */
#include "plasticity.h"

#ifdef ER_AVX512
#include <immintrin.h>

enum {
    HALF = 32,      /* columns that go through the chain together */
    CHUNK = 64,     /* columns whose products are summed together, */
    QUAD = 4,       /* for so many rows */
    GROUP = 16,     /* rows whose history is laid out together */
    PAIRS = 64,     /* of 128 steps */
    ROOM = 64 * 64, /* pairs of post that are laid out at once */
    LEAST = 10,     /* products of a row: below, registers would be empty */
};

#define ER_LEVEL __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE ER_LEVEL static inline __attribute__((always_inline))

typedef __m512i vec;

/* Two vectors of int32 in the order above. */
typedef struct both {
    vec a, b;
} both;

/* A stream of words, and which bits of them are noise. */
typedef struct stream {
    vec k0, k1, mask;
} stream;

/* What is the same for all weights of an update, in vectors: read from memory, where there are too few registers. */
typedef struct steady {
    stream update, decay, pull, omega;
    both golden; /* 0x9e3779b1 times the places of the first 32 weights */
    vec first, second, ones, eta, half, least, most, low, high, middle, one, strength, four, thirty, round, lightest;
    vec end;
    both plus_minus; /* (1, -1) */
    __m128i shift, small_shift, decay_shift, drop;
} steady;

/* What moves a row: nothing, a gradient whose product with eta fits int32, or one that does not. */
enum kind { STILL, SHORT, LONG };

/* x + y, and so on, of both. */
#define EACH(name, argument, body) \
    INLINE both name(both x, argument y) { return (both){body(x.a, y), body(x.b, y)}; }
#define PAIRED(name, body) \
    INLINE both name(both x, both y) { return (both){body(x.a, y.a), body(x.b, y.b)}; }
#define MOVED_DOWN(x, bits) ((both){_mm512_srli_epi32((x).a, bits), _mm512_srli_epi32((x).b, bits)})
EACH(plus, vec, _mm512_add_epi32)
EACH(times, vec, _mm512_mullo_epi32)
EACH(halved, __m128i, _mm512_sra_epi32)
PAIRED(sum, _mm512_add_epi32)
PAIRED(difference, _mm512_sub_epi32)
PAIRED(exclusive, _mm512_xor_si512)
PAIRED(halved_each, _mm512_srav_epi32)

/* (x, y) pairs of int16 */
INLINE both pairs_of(vec x, vec y) { return (both){_mm512_unpacklo_epi16(x, y), _mm512_unpackhi_epi16(x, y)}; }
/* z + the products of two pairs, added */
INLINE both dotted(both z, both x, both y) {
    return (both){_mm512_dpwssd_epi32(z.a, x.a, y.a), _mm512_dpwssd_epi32(z.b, x.b, y.b)};
}
INLINE vec saturated(both x) { return _mm512_packs_epi32(x.a, x.b); }
INLINE vec clipped(vec x, vec low, vec high) { return _mm512_min_epi16(_mm512_max_epi16(x, low), high); }
/* x ^ y ^ z, (x ^ y) & z, (x ^ y) & ~z, (x ^ z) & (y ^ z) */
#define TERNARY(name, table) \
    INLINE vec name(vec x, vec y, vec z) { return _mm512_ternarylogic_epi32(x, y, z, table); }
TERNARY(exclusive_of_three, 0x96)
TERNARY(exclusive_within, 0x28)
TERNARY(exclusive_without, 0x14)
TERNARY(both_differ, 0x42)

/* `er_word` at places, given times 0x9e3779b1, before its last line. */
INLINE both almost_words(const steady *c, const stream *from, both place) {
    both x = plus(place, from->k0);
    x = times(exclusive(x, MOVED_DOWN(x, 16)), c->first);
    const both y = MOVED_DOWN(x, 15);
    x = (both){exclusive_of_three(x.a, y.a, from->k1), exclusive_of_three(x.b, y.b, from->k1)};
    return times(x, c->second);
}

INLINE both noise(const steady *c, const stream *from, both place) {
    const both x = almost_words(c, from, place), y = MOVED_DOWN(x, 16);
    return (both){exclusive_within(x.a, y.a, from->mask), exclusive_within(x.b, y.b, from->mask)};
}

/* The low bits of words, so many of each. */
INLINE both varied_noise(const steady *c, const stream *from, both place, both bits) {
    const both x = almost_words(c, from, place), y = MOVED_DOWN(x, 16);
    return (both){exclusive_without(x.a, y.a, _mm512_sllv_epi32(c->ones, bits.a)),
                  exclusive_without(x.b, y.b, _mm512_sllv_epi32(c->ones, bits.b))};
}

/* clip((g * eta + noise) >> shift, +-LARGEST_STEP), products of 64 bits */
INLINE vec descended_long(const steady *c, vec g, vec noise) {
    const vec low = _mm512_set1_epi64(-ER_LARGEST_STEP), high = _mm512_set1_epi64(ER_LARGEST_STEP);
    vec even = _mm512_mul_epi32(g, c->eta), odd = _mm512_mul_epi32(_mm512_srli_epi64(g, 32), c->eta);
    even = _mm512_add_epi64(even, _mm512_maskz_mov_epi32(0x5555, noise));
    odd = _mm512_add_epi64(odd, _mm512_srli_epi64(noise, 32));
    even = _mm512_min_epi64(_mm512_max_epi64(_mm512_sra_epi64(even, c->shift), low), high);
    odd = _mm512_min_epi64(_mm512_max_epi64(_mm512_sra_epi64(odd, c->shift), low), high);
    return _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
}

INLINE both descended(const steady *c, both place, both g, enum kind kind) {
    const both words = noise(c, &c->update, place);
    if (kind == LONG) return (both){descended_long(c, g.a, words.a), descended_long(c, g.b, words.b)};
    return halved(sum(times(g, c->eta), words), c->shift);
}

/* SR(shadow - middle, k) */
INLINE both faded(const steady *c, both place, vec shadow) {
    return halved(dotted(noise(c, &c->decay, place), pairs_of(shadow, c->middle), c->plus_minus), c->decay_shift);
}

/* The anchors of 32 weights. */
INLINE vec anchors(const er_plastic *p, const steady *c, size_t at, __mmask32 some) {
    if (p->ref) return _mm512_maskz_loadu_epi16(some, p->ref + at);
    const vec high = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(some, p->ref_high + at));
    return _mm512_or_si512(_mm512_slli_epi16(high, 8), c->round);
}

/* SR(mantissa * (ref - shadow), max(4, strength - exponent)); where the shift is over 30 the mantissa is cleared. */
INLINE both pulled(const steady *c, both place, vec shadow, vec ref, __m256i codes) {
    const vec code = _mm512_cvtepu8_epi16(codes), zero = _mm512_setzero_si512();
    const vec exponent = _mm512_subs_epu16(_mm512_srli_epi16(code, 3), c->one);
    const vec shift = _mm512_sub_epi16(c->strength, exponent);
    const __mmask32 pulls = _mm512_cmple_epi16_mask(shift, c->thirty);
    const vec mantissa = _mm512_maskz_sub_epi16(pulls, code, _mm512_slli_epi16(exponent, 3));
    const both held = pairs_of(clipped(shift, c->four, c->thirty), zero);
    const both factors = pairs_of(mantissa, _mm512_sub_epi16(zero, mantissa));
    const both words = varied_noise(c, &c->pull, place, held);
    return halved_each(dotted(words, pairs_of(ref, shadow), factors), held);
}

/* x + y, saturating */
INLINE vec sum_saturated(const steady *c, vec x, vec y) {
    const vec all = _mm512_add_epi32(x, y), over = both_differ(x, y, all); /* in its sign */
    const vec end = _mm512_xor_si512(_mm512_srai_epi32(x, 31), c->end);
    return _mm512_mask_mov_epi32(all, _mm512_cmplt_epi32_mask(over, _mm512_setzero_si512()), end);
}

/* omega <- sat(omega + SR(-(g * d), drop)), given g and -d */
INLINE void credited(const er_plastic *p, const steady *c, both place, vec small, vec unmade, size_t at,
                     __mmask32 some) {
    const both products = pairs_of(_mm512_mullo_epi16(small, unmade), _mm512_mulhi_epi16(small, unmade));
    const both term = halved(sum(products, noise(c, &c->omega, place)), c->drop);
    if (p->omega) {
        const vec first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        const vec second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
        const __mmask16 low = (__mmask16)some, high = (__mmask16)(some >> 16);
        int32_t *omega = p->omega + at;
        const vec x = _mm512_maskz_loadu_epi32(low, omega), y = _mm512_maskz_loadu_epi32(high, omega + 16);
        const vec dx = _mm512_permutex2var_epi32(term.a, first, term.b);
        const vec dy = _mm512_permutex2var_epi32(term.a, second, term.b);
        _mm512_mask_storeu_epi32(omega, low, sum_saturated(c, x, dx));
        _mm512_mask_storeu_epi32(omega + 16, high, sum_saturated(c, y, dy));
    } else {
        const vec x = _mm512_maskz_loadu_epi16(some, p->omega_narrow + at);
        _mm512_mask_storeu_epi16(p->omega_narrow + at, some, _mm512_adds_epi16(x, saturated(term)));
    }
}

/* The weights at `at` and behind it, `some` of 32: descend, decay, pull, write, credit. Adds to squares, 8 of int64. */
INLINE void chain(const er_plastic *p, const steady *c, size_t at, __mmask32 some, both g, enum kind kind,
                  vec *squares) {
    const __m256i codes = p->importance ? _mm256_maskz_loadu_epi8(some, p->importance + at) : _mm256_setzero_si256();
    const int pulls = p->importance && _mm256_test_epi8_mask(codes, codes);
    if (kind == STILL && !pulls && !p->decay_shift) return;
    const both place = plus(c->golden, _mm512_set1_epi32((int)((uint32_t)at * 0x9e3779b1u)));
    const vec shadow = _mm512_maskz_loadu_epi16(some, p->shadow + at);
    both wanted = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    if (kind != STILL) wanted = descended(c, place, g, kind);
    if (p->decay_shift) wanted = difference(wanted, faded(c, place, shadow));
    if (pulls) wanted = sum(wanted, pulled(c, place, shadow, anchors(p, c, at, some), codes));
    const vec step = clipped(saturated(wanted), c->least, c->most);
    const vec after = clipped(_mm512_adds_epi16(shadow, step), c->low, c->high);
    const vec unmade = _mm512_maskz_sub_epi16(some, shadow, after), square = _mm512_madd_epi16(unmade, unmade);
    _mm512_mask_storeu_epi16(p->shadow + at, some, after);
    *squares = _mm512_add_epi64(*squares, _mm512_maskz_mov_epi32(0x5555, square));
    *squares = _mm512_add_epi64(*squares, _mm512_srli_epi64(square, 32));
    if (p->weight) {
        const vec byte = _mm512_srai_epi16(_mm512_adds_epi16(after, c->round), 8);
        _mm256_mask_storeu_epi8(p->weight + at, some, _mm512_cvtepi16_epi8(_mm512_max_epi16(byte, c->lightest)));
    }
    if (kind != STILL && p->importance)
        credited(p, c, place, saturated(halved(plus(g, c->half), c->small_shift)), unmade, at, some);
}

ER_LEVEL static stream stream_of(er_key key, int32_t bits) {
    return (stream){_mm512_set1_epi32((int)key.k0), _mm512_set1_epi32((int)key.k1),
                    _mm512_set1_epi32((int)(((uint32_t)1 << bits) - 1))};
}

ER_LEVEL static void steady_of(steady *c, const er_plastic *p, const er_numbers *w) {
    const vec places = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    const vec golden = _mm512_mullo_epi32(places, _mm512_set1_epi32((int)0x9e3779b1u));
    *c = (steady){
        .update = stream_of(w->update, w->shift),
        .decay = stream_of(w->decay, p->decay_shift),
        .pull = stream_of(w->pull, 0),
        .omega = stream_of(w->omega, w->drop),
        .golden = {golden, _mm512_add_epi32(golden, _mm512_set1_epi32((int)(4 * 0x9e3779b1u)))},
        .first = _mm512_set1_epi32(0x7feb352d),
        .second = _mm512_set1_epi32((int)0x846ca68bu),
        .ones = _mm512_set1_epi32(-1),
        .eta = _mm512_set1_epi32(-p->eta),
        .half = _mm512_set1_epi32(1 << w->small_shift >> 1),
        .least = _mm512_set1_epi16((short)-p->max_step),
        .most = _mm512_set1_epi16((short)p->max_step),
        .low = _mm512_set1_epi16((short)(w->middle - ER_SHADOW_MAX)),
        .high = _mm512_set1_epi16((short)(w->middle + ER_SHADOW_MAX)),
        .middle = _mm512_set1_epi16((short)w->middle),
        .one = _mm512_set1_epi16(1),
        .strength = _mm512_set1_epi16((short)p->strength),
        .four = _mm512_set1_epi16(4),
        .thirty = _mm512_set1_epi16(30),
        .round = _mm512_set1_epi16(128),
        .lightest = _mm512_set1_epi16(-ER_WEIGHT_MAX),
        .end = _mm512_set1_epi32(INT32_MAX),
        .plus_minus = pairs_of(_mm512_set1_epi16(1), _mm512_set1_epi16(-1)),
        .shift = _mm_cvtsi32_si128(w->shift),
        .small_shift = _mm_cvtsi32_si128(w->small_shift),
        .decay_shift = _mm_cvtsi32_si128(p->decay_shift),
        .drop = _mm_cvtsi32_si128(w->drop),
    };
}

/* ---------------------------------------------------------------- factors */

/* to <- the post factors of a chunk in pairs of steps: (steps / 2, a, b, a, b); returns max_j sum_t |post_j| */
ER_LEVEL static int32_t lay_post(vec *to, const er_plastic *p, int32_t column) {
    const vec one = _mm512_set1_epi16(1);
    vec most = _mm512_setzero_si512();
    for (int32_t half = 0; half < CHUNK / HALF; half++) {
        const int32_t left = p->columns - column - half * HALF;
        if (left <= 0) break;
        const __mmask32 some = left >= HALF ? 0xffffffffu : ((__mmask32)1 << left) - 1;
        both total = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (int32_t t = 0; t < p->steps; t += 2) {
            const int16_t *post = p->post + (size_t)t * (size_t)p->columns + column + half * HALF;
            const vec x = _mm512_maskz_loadu_epi16(some, post);
            const int pair = t + 1 < p->steps;
            const vec y = pair ? _mm512_maskz_loadu_epi16(some, post + p->columns) : _mm512_setzero_si512();
            const both z = pairs_of(x, y);
            to[t / 2 * 4 + half * 2] = z.a;
            to[t / 2 * 4 + half * 2 + 1] = z.b;
            total.a = _mm512_dpwssd_epi32(total.a, z.a, _mm512_or_si512(_mm512_srai_epi16(z.a, 15), one));
            total.b = _mm512_dpwssd_epi32(total.b, z.b, _mm512_or_si512(_mm512_srai_epi16(z.b, 15), one));
        }
        most = _mm512_max_epi32(most, _mm512_max_epi32(total.a, total.b));
    }
    return _mm512_reduce_max_epi32(most);
}

/* 16 values of history, int16 in int32 */
INLINE vec history_of(const er_plastic *p, size_t at, __mmask16 some) {
    if (p->history) return _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(some, p->history + at));
    return _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(some, p->history_high + at));
}

/* to (steps / 2, GROUP) <- the history of rows in pairs of steps; reach (GROUP,) <- max_t |history| */
ER_LEVEL static void lay_history(int32_t *to, int32_t *reach, const er_plastic *p, int32_t row, int32_t rows) {
    const __mmask16 some = (__mmask16)((1u << rows) - 1);
    vec most = _mm512_setzero_si512();
    for (int32_t t = 0; t < p->steps; t += 2) {
        const size_t at = (size_t)t * (size_t)p->rows + (size_t)row;
        const int pair = t + 1 < p->steps;
        const vec x = history_of(p, at, some);
        const vec y = pair ? history_of(p, at + (size_t)p->rows, some) : _mm512_setzero_si512();
        most = _mm512_max_epi32(most, _mm512_max_epi32(_mm512_abs_epi32(x), _mm512_abs_epi32(y)));
        _mm512_storeu_si512(to + t / 2 * GROUP, _mm512_mask_mov_epi16(x, 0xaaaaaaaau, _mm512_slli_epi32(y, 16)));
    }
    _mm512_storeu_si512(reach, most);
}

/* g (QUAD, 4) <- the gradient of four rows of a group at so many quarters of a chunk */
INLINE void products(vec *g, const int32_t *history, const int32_t *row, const vec *post, int32_t pairs, int quarters) {
    vec s[QUAD][4];
    for (int k = 0; k < QUAD; k++)
        for (int j = 0; j < quarters; j++) s[k][j] = _mm512_setzero_si512();
    for (int32_t t = 0; t < pairs; t++)
        for (int k = 0; k < QUAD; k++) {
            const vec h = _mm512_set1_epi32(history[t * GROUP + row[k]]);
            for (int j = 0; j < quarters; j++) s[k][j] = _mm512_dpwssd_epi32(s[k][j], post[t * 4 + j], h);
        }
    for (int k = 0; k < QUAD; k++)
        for (int j = 0; j < quarters; j++) g[k * 4 + j] = s[k][j];
}

/* ---------------------------------------------------------------- the whole */

/* Columns that lie ready, and rows of a group. */
typedef struct ready {
    vec post[ROOM / 16];
    int32_t history[PAIRS * GROUP], heaviest[ROOM / CHUNK];
    int32_t column, columns, row, pairs;
} ready;

/* A row, or a part of one, whose gradient is g. */
INLINE void walk(const er_plastic *p, const steady *c, int32_t row, int32_t column, int32_t columns, const vec *g,
                 enum kind kind, vec *squares) {
    const size_t at = (size_t)row * (size_t)p->columns + (size_t)column;
    for (int32_t j = 0; j < columns; j += HALF) {
        const __mmask32 some = columns - j >= HALF ? 0xffffffffu : ((__mmask32)1 << (columns - j)) - 1;
        const both at_half = {g[j / HALF * 2], g[j / HALF * 2 + 1]};
        chain(p, c, at + (size_t)j, some, at_half, kind, squares);
    }
}

/* Up to four moving rows of a group, whose history is at most `reach`; returns what the portable form changed. */
ER_LEVEL __attribute__((noinline)) static int64_t quad(const er_plastic *p, const er_numbers *w, const steady *c,
                                                       const ready *r, const int32_t *row, int32_t rows, int32_t reach,
                                                       vec *squares) {
    const er_plastic own = *p; /* nothing that is written may be one of its numbers */
    int64_t changed = 0;
    vec g[QUAD * 4], all = *squares;
    for (int32_t j = 0; j < r->columns; j += CHUNK) {
        const int32_t column = r->column + j, columns = r->columns - j < CHUNK ? r->columns - j : CHUNK;
        const int64_t bound = (int64_t)reach * r->heaviest[j / CHUNK];
        const vec *post = r->post + (size_t)(j / CHUNK * r->pairs * 4);
        if (bound >= 1 << 30) {
            for (int32_t k = 0; k < rows; k++) {
                const er_place here = {r->row + row[k], 1, column, columns, bound};
                changed += er_update_place(p, w, &here);
            }
            continue;
        }
        if (columns > HALF)
            products(g, r->history, row, post, r->pairs, 4);
        else
            products(g, r->history, row, post, r->pairs, 2);
        for (int32_t k = 0; k < rows; k++)
            if (bound * own.eta < 1 << 30)
                walk(&own, c, r->row + row[k], column, columns, g + k * 4, SHORT, &all);
            else
                walk(&own, c, r->row + row[k], column, columns, g + k * 4, LONG, &all);
    }
    *squares = all;
    return changed;
}

/* A row without a gradient: decay and pull. */
ER_LEVEL __attribute__((noinline)) static void still(const er_plastic *p, const steady *c, const ready *r, int32_t row,
                                                     vec *squares) {
    const vec zero = _mm512_setzero_si512(), none[4] = {zero, zero, zero, zero};
    if (!p->importance && !p->decay_shift) return;
    for (int32_t j = 0; j < r->columns; j += CHUNK)
        walk(p, c, row, r->column + j, r->columns - j < CHUNK ? r->columns - j : CHUNK, none, STILL, squares);
}

/* The rows of a group, four by four those that move. */
ER_LEVEL static int64_t group(const er_plastic *p, const er_numbers *w, const steady *c, ready *r, int32_t rows,
                              vec *squares) {
    int32_t reach[GROUP], moving[QUAD] = {0}, found = 0, most = 0;
    int64_t changed = 0;
    lay_history(r->history, reach, p, r->row, rows);
    for (int32_t k = 0; k < rows; k++) {
        if (!reach[k]) {
            still(p, c, r, r->row + k, squares);
        } else {
            moving[found++] = k;
            most = reach[k] > most ? reach[k] : most;
        }
        if (found < QUAD && (k + 1 < rows || !found)) continue;
        changed += quad(p, w, c, r, moving, found, most, squares);
        found = most = 0;
    }
    return changed;
}

ER_LEVEL int64_t er_update_avx512(const er_plastic *p, const er_numbers *w) {
    const int other = p->largest || p->mean || p->mask, short_rows = (int64_t)p->columns * p->steps < LEAST;
    if (!__builtin_cpu_supports("avx512vnni") || other || short_rows) return -1;
    ready r;
    steady c;
    steady_of(&c, p, w);
    vec squares = _mm512_setzero_si512();
    int64_t changed = 0;
    r.pairs = (p->steps + 1) / 2;
    const int32_t width = ROOM / (r.pairs ? r.pairs : 1) / CHUNK * CHUNK;
    for (r.column = 0; r.column < p->columns; r.column += width) {
        r.columns = p->columns - r.column < width ? p->columns - r.column : width;
        for (int32_t j = 0; j < r.columns; j += CHUNK)
            r.heaviest[j / CHUNK] = lay_post(r.post + (size_t)(j / CHUNK * r.pairs * 4), p, r.column + j);
        for (r.row = 0; r.row < p->rows; r.row += GROUP)
            changed += group(p, w, &c, &r, p->rows - r.row < GROUP ? p->rows - r.row : GROUP, &squares);
    }
    return changed + _mm512_reduce_add_epi64(squares);
}
#endif
