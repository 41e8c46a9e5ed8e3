/* Depthwise convolutions on x86-64 processors with AVX-512 VNNI: 64 lanes at once, four taps a product.
 *
 * A lane is a channel; where they are few, lanes beyond them are the same channels of the next places, for a band's
 * columns lie phase by phase: whatever the stride, the next output's tap is the next channels. Bytes of four taps
 * are interleaved, so that a lane's four lie in one word: `lane_of` is the order in which that leaves them.
 */
#include "conv_vnni.h"

#ifdef ER_VNNI
#include <string.h>

#include "band_vnni.h"
#include "kinds.h"

enum {
    LANES = 64,
    PARTS = 4,
    PART = 64,          /* bytes of a part: a word for each of 16 lanes */
    ROW = PARTS * PART, /* bytes of a quad of taps of all lanes */
    TAIL = 4,           /* rows behind the weights: starts, factors, zero points, whether they are wide */
    MOST = 128          /* taps */
};

/* Which lane is word `word` of a row, part by part. */
static int32_t lane_of(int32_t word) { return word % 16 / 4 * 16 + word / 16 * 4 + word % 4; }

static int32_t taps_of(const er_depthwise *r) { return r->kernel_h * r->kernel_w; }
static int32_t quads_of(const er_depthwise *r) { return (taps_of(r) + 3) / 4; }
static int64_t column_size(const er_depthwise *r) { return ((int64_t)quads_of(r) + TAIL) * ROW; }

int64_t er_vnni_depthwise_packed(const er_depthwise *r) {
    const er_window g = ER_WINDOW_OF;
    er_band band;
    if (!__builtin_cpu_supports("avx512vnni") || !er_rounds(r->zero_point, r->qmin, r->qmax) ||
        r->filters != r->channels || ER_TAPS > MOST || !er_band_first(&band, &g, g.stride_w))
        return 0;
    return (r->filters + LANES - 1) / LANES * column_size(r);
}

/* Filter f into word `word` of a column's rows. */
static void lay_filter(int8_t *column, const er_depthwise *r, int32_t f, int32_t word) {
    const int32_t taps = taps_of(r);
    const int8_t *w = r->weight + (int64_t)f * taps;
    er_lay_tail(column + quads_of(r) * ROW, ROW, word, w, taps, r->bias[f], r->multiplier[f], r->shift[f],
                r->weight_zero ? r->weight_zero[f] : 0);
    for (int32_t t = 0; t < taps; t++) column[t / 4 * ROW + 4 * word + t % 4] = w[t];
}

void er_vnni_depthwise_pack(const er_depthwise *r, int8_t *packed) {
    const int64_t size = er_vnni_depthwise_packed(r);
    if (!size) return;
    ER_CLEAR(packed, size);
    for (int32_t f = 0; f < r->filters; f += LANES, packed += column_size(r)) {
        const int32_t left = r->filters - f, period = left < LANES ? left : LANES;
        const int32_t lanes = r->filters < LANES ? LANES / period * period : period;
        for (int32_t word = 0; word < LANES; word++)
            if (lane_of(word) < lanes) lay_filter(packed, r, f + lane_of(word) % period, word);
    }
}

/* What 64 lanes of outputs are made of: a column of packed weights, where the taps lie, how many of them. */
typedef struct plan {
    int32_t taps[MOST], quads;
    int32_t ones[MOST / 4]; /* 1 for each tap of a quad that there is */
    er_rounding rounding;
} plan;

/* quad (4, 16 words) <- bytes of four taps by lanes, in the order of `lane_of`. */
ER_LEVEL static inline void interleave(__m512i *quad, const uint8_t *x, const int32_t *taps) {
    const __m512i a = er_load(x + taps[0]), b = er_load(x + taps[1]);
    const __m512i c = er_load(x + taps[2]), d = er_load(x + taps[3]);
    const __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
    const __m512i next_low = _mm512_unpacklo_epi8(c, d), next_high = _mm512_unpackhi_epi8(c, d);
    quad[0] = _mm512_unpacklo_epi16(low, next_low);
    quad[1] = _mm512_unpackhi_epi16(low, next_low);
    quad[2] = _mm512_unpacklo_epi16(high, next_high);
    quad[3] = _mm512_unpackhi_epi16(high, next_high);
}

/* The sums of 64 lanes in four parts. */
ER_LEVEL static inline __attribute__((always_inline)) void add_taps(__m512i *sums, const int8_t *column,
                                                                    const uint8_t *x, const int32_t *taps,
                                                                    const int32_t quads) {
    const int8_t *tail = column + quads * ROW;
    __m512i quad[PARTS], a = er_load(tail), b = er_load(tail + PART);
    __m512i c = er_load(tail + 2 * PART), d = er_load(tail + 3 * PART);
    for (int32_t q = 0; q < quads; q++, column += ROW) {
        interleave(quad, x, taps + 4 * q);
        a = _mm512_dpbusd_epi32(a, quad[0], er_load(column));
        b = _mm512_dpbusd_epi32(b, quad[1], er_load(column + PART));
        c = _mm512_dpbusd_epi32(c, quad[2], er_load(column + 2 * PART));
        d = _mm512_dpbusd_epi32(d, quad[3], er_load(column + 3 * PART));
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}

/* sums -= zero points times what x + 128 add up to. */
ER_LEVEL static void take_zeros(__m512i *sums, const int8_t *zeros, const uint8_t *x, const plan *p) {
    __m512i quad[PARTS], total[PARTS] = {_mm512_setzero_si512()};
    for (int32_t k = 1; k < PARTS; k++) total[k] = total[0];
    for (int32_t q = 0; q < p->quads; q++) {
        interleave(quad, x, p->taps + 4 * q);
        for (int32_t k = 0; k < PARTS; k++)
            total[k] = _mm512_dpbusd_epi32(total[k], quad[k], _mm512_set1_epi32(p->ones[q]));
    }
    for (int32_t k = 0; k < PARTS; k++)
        sums[k] = _mm512_sub_epi32(sums[k], _mm512_mullo_epi32(er_load(zeros + k * PART), total[k]));
}

ER_LEVEL static inline __attribute__((always_inline)) void round_all(__m512i *sums, const int8_t *tail,
                                                                     const er_rounding *to, const int wide) {
    for (int32_t k = 0; k < PARTS; k++)
        sums[k] = er_floor(sums[k], er_load_factors(tail + ROW + k * PART), to, wide);
}

/* y (count,) <- the outputs of the first lanes. */
ER_LEVEL static inline void finish(int16_t *y, int32_t count, __m512i *sums, const int8_t *tail, const er_rounding *to) {
    if (tail[3 * ROW])
        round_all(sums, tail, to, 1);
    else
        round_all(sums, tail, to, 0);
    const __m512i even = er_clipped(sums[0], sums[1], to), odd = er_clipped(sums[2], sums[3], to);
    const __m512i low = _mm512_permutex2var_epi64(even, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), odd);
    const __m512i high = _mm512_permutex2var_epi64(even, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), odd);
    if (count >= LANES) {
        _mm512_storeu_si512(y, low);
        _mm512_storeu_si512(y + 32, high);
    } else {
        const __mmask64 some = ((__mmask64)1 << count) - 1;
        _mm512_mask_storeu_epi16(y, (__mmask32)some, low);
        _mm512_mask_storeu_epi16(y + 32, (__mmask32)(some >> 32), high);
    }
}

ER_LEVEL static plan plan_of(const er_depthwise *r, const er_window *g, const er_band *b) {
    plan p = {.quads = quads_of(r), .rounding = er_rounding_of(r->zero_point, r->qmin, r->qmax)};
    for (int32_t u = 0, t = 0; u < g->kernel_h; u++)
        for (int32_t v = 0; v < g->kernel_w; v++, t++) {
            p.taps[t] = er_band_tap(b, g, u, v);
            p.ones[t / 4] |= 1 << 8 * (t % 4);
        }
    return p;
}

/* One row of a band's outputs. */
ER_LEVEL static void row_of_places(const er_depthwise *r, int16_t *y, const uint8_t *x, int32_t places, const plan *p) {
    const int32_t n = r->filters, together = n < LANES ? LANES / n : 1, quads = p->quads;
    const int8_t *const packed = r->packed;
    const int asymmetric = r->weight_zero != NULL;
    const int64_t size = column_size(r);
    __m512i sums[PARTS];
    for (int32_t j = 0; j < places; j += together, x += together * n, y += together * n) {
        const int32_t lanes = (places - j < together ? places - j : together) * n;
        const int8_t *column = packed;
        for (int32_t at = 0; at < lanes; at += LANES, column += size) {
            const int8_t *tail = column + quads * ROW;
            if (quads == 3) /* of 3 by 3 taps, most often */
                add_taps(sums, column, x + at, p->taps, 3);
            else
                add_taps(sums, column, x + at, p->taps, quads);
            if (asymmetric) take_zeros(sums, tail + 2 * ROW, x + at, p);
            finish(y + at, lanes - at, sums, tail, &p->rounding);
        }
    }
}

ER_LEVEL int er_vnni_depthwise(const er_depthwise *r) {
    const er_window g = ER_WINDOW_OF;
    uint8_t bytes[ER_BAND + ER_BEYOND] __attribute__((aligned(64)));
    er_band band;
    if (!__builtin_cpu_supports("avx512vnni") || !er_band_first(&band, &g, g.stride_w)) return 0;
    do {
        const plan p = plan_of(r, &g, &band);
        if (!er_band_lay(bytes, &band, r->x, &g, r->fill)) return 0;
        for (int32_t i = 0; i < band.rows; i++) {
            int16_t *y = r->y + ((int64_t)(band.row + i) * g.out_w + band.column) * r->filters;
            row_of_places(r, y, bytes + i * g.stride_h * band.line, band.columns, &p);
        }
    } while (er_band_next(&band, &g));
    return 1;
}
#endif
