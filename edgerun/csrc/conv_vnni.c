/* Convolutions on x86-64 processors with AVX-512 VNNI: 16 filters or 32 channels at once, the same sums as elsewhere.
 *
 * conv        sum w (x + 128) - 128 sum w, the first by products of bytes, the second once for all places. A panel
 *             holds 16 filters side by side, 4 taps of each in a row, so that 8 places share what is read of it.
 * depthwise   two taps a product of 16 bits: both taps of a channel lie side by side.
 */
#include "conv_vnni.h"

#ifdef ER_VNNI
#include <immintrin.h>
#include <string.h>

#include "kinds.h"

enum {
    LANES = 16,   /* filters of a panel */
    PLACES = 8,   /* windows that go through a panel together */
    TAPS = 1024,  /* of a window, at most: beyond them rows of weights are long enough for `er_layer_sums` */
    PANEL = 16384, /* bytes of panels that are made at once */
    FILTERS = 256  /* and their filters, at most */
};

#define ER_LEVEL __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

/* ---------------------------------------------------------------- from sums to outputs */

/* What takes 16 sums to outputs; even and odd lanes apart, for their products have 64 bits. */
typedef struct scale {
    __m512i m[2], shift[2], half[2], low, high, zero_point;
} scale;

ER_LEVEL static __m512i halves(__m512i lanes, int odd) {
    return odd ? _mm512_srli_epi64(lanes, 32) : _mm512_and_si512(lanes, _mm512_set1_epi64(0xffffffff));
}

/* Of the lanes whose channels are m and s. */
ER_LEVEL static scale scale_of(__m512i m, __m512i s, int32_t zero_point, int32_t low, int32_t high) {
    scale found;
    for (int odd = 0; odd < 2; odd++) {
        found.m[odd] = halves(m, odd);
        found.shift[odd] = halves(s, odd);
        found.half[odd] =
            _mm512_sllv_epi64(_mm512_set1_epi64(1), _mm512_sub_epi64(found.shift[odd], _mm512_set1_epi64(1)));
    }
    found.low = _mm512_set1_epi64(low - zero_point);
    found.high = _mm512_set1_epi64(high - zero_point);
    found.zero_point = _mm512_set1_epi32(zero_point);
    return found;
}

ER_LEVEL static __m512i quotient(__m512i sums, const scale *to, int odd) {
    const __m512i product = _mm512_add_epi64(_mm512_mul_epi32(sums, to->m[odd]), to->half[odd]);
    const __m512i found = _mm512_srav_epi64(product, to->shift[odd]);
    return _mm512_min_epi64(_mm512_max_epi64(found, to->low), to->high);
}

/* clip(((sum * m + 2**(s-1)) >> s) + zero_point), 16 of them. */
ER_LEVEL static __m512i requantised(__m512i sums, const scale *to) {
    const __m512i even = quotient(sums, to, 0), odd = quotient(_mm512_srli_epi64(sums, 32), to, 1);
    return _mm512_add_epi32(_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32)), to->zero_point);
}

/* The first n of 16 lanes. */
static __mmask16 first(int32_t n) { return n >= LANES ? 0xffff : (__mmask16)((1u << n) - 1u); }

ER_LEVEL static __m512i shifts(const uint8_t *shift, __mmask16 some) {
    const __m512i found = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(some, shift));
    return _mm512_mask_mov_epi32(_mm512_set1_epi32(1), some, found); /* no lane shifts by -1 */
}

/* ---------------------------------------------------------------- conv */

/* panel (taps / 4, 16, 4) <- n filters; returns their sums. Taps behind the last are 0. */
ER_LEVEL static __m512i lay_panel(int8_t *panel, const int8_t *weight, int32_t n, int32_t taps) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i rows = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(taps)), ones = _mm512_set1_epi8(1);
    __m512i sum = _mm512_setzero_si512();
    for (int32_t k = 0; k < taps; k += 4, panel += 4 * LANES) {
        __m512i four = _mm512_setzero_si512();
        if (k + 4 <= taps) {
            four = _mm512_mask_i32gather_epi32(four, first(n), rows, (const void *)(weight + k), 1);
        } else {
            int8_t last[4 * LANES] = {0};
            for (int32_t f = 0; f < n; f++)
                memcpy(last + 4 * f, weight + (size_t)f * (size_t)taps + k, (size_t)(taps - k));
            four = _mm512_loadu_si512(last);
        }
        _mm512_storeu_si512(panel, four);
        sum = _mm512_dpbusd_epi32(sum, ones, four);
    }
    return sum;
}

/* bytes <- x + 128. 0 where a value does not fit int8. */
ER_LEVEL static int narrow(uint8_t *bytes, const int16_t *x, int32_t n) {
    const __m256i top = _mm256_set1_epi8((char)0x80);
    __mmask32 wrong = 0;
    for (int32_t i = 0; i < n; i += 32) {
        const __mmask32 some = n - i >= 32 ? 0xffffffffu : (1u << (n - i)) - 1u;
        const __m512i wide = _mm512_maskz_loadu_epi16(some, x + i);
        const __m256i slim = _mm512_cvtepi16_epi8(wide);
        wrong |= _mm512_cmpneq_epi16_mask(_mm512_cvtepi8_epi16(slim), wide);
        _mm256_mask_storeu_epi8(bytes + i, some, _mm256_xor_si256(slim, top));
    }
    return !wrong;
}

/* bytes <- window (i, j) + 128, straight from the image's rows where it lies inside. 0 as above. */
ER_LEVEL static int see_bytes(const er_conv *r, const er_window *g, uint8_t *bytes, int32_t i, int32_t j) {
    const int32_t h = i * g->stride_h - g->top, w = j * g->stride_w - g->left, run = g->kernel_w * g->channels;
    const int32_t below = h + (g->kernel_h - 1) * g->dilation_h, beyond = w + g->kernel_w;
    if (g->dilation_w != 1 || h < 0 || below >= g->height || w < 0 || beyond > g->width)
        return narrow(bytes, er_see(r->window, r->x, g, i, j, r->fill), g->kernel_h * run);
    const int16_t *row = r->x + ((int64_t)h * g->width + w) * g->channels;
    int fits = 1;
    for (int32_t u = 0; u < g->kernel_h; u++, row += (int64_t)g->dilation_h * g->width * g->channels)
        fits &= narrow(bytes + u * run, row, run);
    return fits;
}

ER_LEVEL static inline __m512i spread(const uint8_t *four) {
    int32_t word;
    memcpy(&word, four, sizeof word);
    return _mm512_set1_epi32(word);
}

/* sums (8, 16) <- start + the products of 8 windows, `width` bytes apart, with a panel. */
ER_LEVEL static void multiply(__m512i *sums, __m512i start, const int8_t *panel, const uint8_t *x, int32_t width) {
    __m512i a = start, b = start, c = start, d = start, e = start, f = start, g = start, h = start;
    for (int32_t k = 0; k < width; k += 4) {
        const __m512i w = _mm512_loadu_si512(panel + k * LANES);
        const uint8_t *at = x + k;
#define ADD(sum, place) sum = _mm512_dpbusd_epi32(sum, spread(at + (place)*width), w)
        ADD(a, 0), ADD(b, 1), ADD(c, 2), ADD(d, 3), ADD(e, 4), ADD(f, 5), ADD(g, 6), ADD(h, 7);
#undef ADD
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d, sums[4] = e, sums[5] = f, sums[6] = g, sums[7] = h;
}

/* A group of windows through all panels from filter `at` on. */
ER_LEVEL static void multiply_all(const er_conv *r, int16_t *y, const int8_t *panels, const __m512i *starts,
                                  const uint8_t *x, int32_t width, int32_t places, int32_t at, int32_t count) {
    for (int32_t f = 0; f < count; f += LANES) {
        const __mmask16 some = first(count - f);
        const __m512i m = _mm512_maskz_loadu_epi32(some, r->multiplier + at + f);
        const scale to = scale_of(m, shifts(r->shift + at + f, some), r->zero_point, r->qmin, r->qmax);
        __m512i sums[PLACES];
        multiply(sums, starts[f / LANES], panels + (size_t)f * (size_t)width, x, width);
        for (int32_t p = 0; p < places; p++)
            _mm256_mask_storeu_epi16(y + (size_t)p * (size_t)r->filters + at + f, some,
                                     _mm512_cvtepi32_epi16(requantised(sums[p], &to)));
    }
}

/* All windows through the panels of `count` filters from `at` on. */
ER_LEVEL static int through_panels(const er_conv *r, const er_window *g, int32_t taps, int32_t at, int32_t count) {
    const int32_t width = (taps + 3) / 4 * 4, places = g->out_h * g->out_w;
    int8_t panels[PANEL];
    uint8_t x[PLACES * TAPS];
    __m512i starts[FILTERS / LANES];
    memset(x, 0, (size_t)(PLACES * width));
    for (int32_t f = 0; f < count; f += LANES) {
        const int32_t n = count - f < LANES ? count - f : LANES;
        const int8_t *weight = r->weight + (size_t)(at + f) * (size_t)taps;
        const __m512i sum = lay_panel(panels + (size_t)f * (size_t)width, weight, n, taps);
        const __m512i bias = _mm512_maskz_loadu_epi32(first(n), r->bias + at + f);
        starts[f / LANES] = _mm512_sub_epi32(bias, _mm512_slli_epi32(sum, 7));
    }
    for (int32_t place = 0, i = 0, j = 0; place < places; place += PLACES) {
        const int32_t n = places - place < PLACES ? places - place : PLACES;
        for (int32_t p = 0; p < n; p++) {
            if (!see_bytes(r, g, x + p * width, i, j)) return 0;
            j = j + 1 < g->out_w ? j + 1 : 0;
            i += j == 0;
        }
        multiply_all(r, r->y + (size_t)place * (size_t)r->filters, panels, starts, x, width, n, at, count);
    }
    return 1;
}

int er_vnni_conv(const er_conv *r) {
    const er_window g = ER_WINDOW_OF;
    const int64_t taps = (int64_t)g.kernel_h * g.kernel_w * g.channels;
    if (!__builtin_cpu_supports("avx512vnni") || r->weight_zero || taps > TAPS) return 0;
    const int32_t width = ((int32_t)taps + 3) / 4 * 4, fit = PANEL / (LANES * width) * LANES;
    const int32_t most = fit < FILTERS ? fit : FILTERS;
    for (int32_t at = 0; at < r->filters; at += most) {
        const int32_t count = r->filters - at < most ? r->filters - at : most;
        if (!through_panels(r, &g, (int32_t)taps, at, count)) return 0;
    }
    return 1;
}

/* ---------------------------------------------------------------- depthwise */

enum { CHANNELS = 32, PAIRS = 16, COLUMNS = 4, OUTSIDE = -1 };

/* 32 lanes: each pair of taps side by side, in the order in which rows of values are laid side by side too. A lane is a
 * channel; where they are few, lanes beyond them are the same channels of the next places.
 */
typedef struct column {
    __m512i w[PAIRS][2], start[2];
    scale to[2];
} column;

/* Lanes of 32 channels that `_mm512_unpacklo_epi16` (part 0) and `_mm512_unpackhi_epi16` leave together. */
ER_LEVEL static __m512i part_of(__m512i a, __m512i b, int part) {
    return part ? _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(3, 1, 3, 1))
                : _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(2, 0, 2, 0));
}

/* Channel at + lane % period in each lane. */
ER_LEVEL static void lay_column(column *c, const er_depthwise *r, int32_t taps, int32_t at, int32_t period) {
    int32_t m[CHANNELS], s[CHANNELS], bias[CHANNELS];
    int16_t w[2 * PAIRS + 1][CHANNELS] = {{0}};
    for (int32_t k = 0; k < CHANNELS; k++) {
        const int again = k >= period; /* the channel of lane k - period */
        m[k] = again ? m[k - period] : r->multiplier[at + k];
        s[k] = again ? s[k - period] : r->shift[at + k];
        bias[k] = again ? bias[k - period] : r->bias[at + k];
    }
    for (int32_t t = 0; t < taps; t++) {
        memcpy(w[t], r->taps + (size_t)t * (size_t)r->filters + at, (size_t)period * sizeof w[t][0]);
        for (int32_t k = period; k < CHANNELS; k++) w[t][k] = w[t][k - period];
    }
    for (int part = 0; part < 2; part++) {
#define PART(of) part_of(_mm512_loadu_si512(of), _mm512_loadu_si512((of) + LANES), part)
        c->start[part] = PART(bias);
        c->to[part] = scale_of(PART(m), PART(s), r->zero_point, r->qmin, r->qmax);
#undef PART
    }
    for (int32_t t = 0; t < taps; t += 2) {
        c->w[t / 2][0] = _mm512_unpacklo_epi16(_mm512_loadu_si512(w[t]), _mm512_loadu_si512(w[t + 1]));
        c->w[t / 2][1] = _mm512_unpackhi_epi16(_mm512_loadu_si512(w[t]), _mm512_loadu_si512(w[t + 1]));
    }
}

/* One place, or several: rows (taps,) are where each tap's lanes lie, counted from x, or OUTSIDE. `some` work. */
ER_LEVEL static void add_taps(const column *c, int16_t *y, const int16_t *x, const int64_t *rows, int32_t taps,
                              __m512i fill, __mmask32 some) {
    __m512i low = c->start[0], high = c->start[1];
    for (int32_t t = 0; t < taps; t += 2) {
        const int64_t next = t + 1 < taps ? rows[t + 1] : OUTSIDE;
        const __m512i one = rows[t] == OUTSIDE ? fill : _mm512_maskz_loadu_epi16(some, x + rows[t]);
        const __m512i two = next == OUTSIDE ? fill : _mm512_maskz_loadu_epi16(some, x + next);
        low = _mm512_dpwssd_epi32(low, _mm512_unpacklo_epi16(one, two), c->w[t / 2][0]);
        high = _mm512_dpwssd_epi32(high, _mm512_unpackhi_epi16(one, two), c->w[t / 2][1]);
    }
    _mm512_mask_storeu_epi16(y, some, _mm512_packs_epi32(requantised(low, &c->to[0]), requantised(high, &c->to[1])));
}

/* rows (taps,) of place (i, j), from the first channel on. */
static void find_rows(int64_t *rows, const er_window *g, int32_t i, int32_t j) {
    for (int32_t u = 0; u < g->kernel_h; u++)
        for (int32_t v = 0; v < g->kernel_w; v++) {
            const int32_t h = i * g->stride_h - g->top + u * g->dilation_h;
            const int32_t w = j * g->stride_w - g->left + v * g->dilation_w;
            const int inside = h >= 0 && h < g->height && w >= 0 && w < g->width;
            *rows++ = inside ? ((int64_t)h * g->width + w) * g->channels : OUTSIDE;
        }
}

static __mmask32 first_channels(int32_t n) { return n >= CHANNELS ? 0xffffffffu : (1u << n) - 1u; }

ER_LEVEL static void columns(const er_depthwise *r, const er_window *g, int32_t taps, int32_t at, int32_t count) {
    const __m512i fill = _mm512_set1_epi16((short)r->fill);
    int64_t rows[2 * PAIRS];
    int16_t *y = r->y + at;
    column c[COLUMNS];
    for (int32_t k = 0; k < count; k += CHANNELS)
        lay_column(&c[k / CHANNELS], r, taps, at + k, count - k < CHANNELS ? count - k : CHANNELS);
    for (int32_t i = 0; i < g->out_h; i++)
        for (int32_t j = 0; j < g->out_w; j++, y += r->filters) {
            find_rows(rows, g, i, j);
            for (int32_t k = 0; k < count; k += CHANNELS)
                add_taps(&c[k / CHANNELS], y + k, r->x + at + k, rows, taps, fill, first_channels(count - k));
        }
}

/* Few channels, and windows that go on by one column: as many places at once as lanes hold, where all lie inside. */
ER_LEVEL static void neighbours(const er_depthwise *r, const er_window *g, int32_t taps) {
    const __m512i fill = _mm512_set1_epi16((short)r->fill);
    const int32_t n = r->filters, together = CHANNELS / n, reach = (g->kernel_w - 1) * g->dilation_w;
    int64_t rows[2 * PAIRS];
    int16_t *y = r->y;
    column c;
    lay_column(&c, r, taps, 0, n);
    for (int32_t i = 0; i < g->out_h; i++)
        for (int32_t j = 0, places; j < g->out_w; j += places, y += places * n) {
            const int32_t last = j + together - 1;
            places = j >= g->left && last < g->out_w && last - g->left + reach < g->width ? together : 1;
            find_rows(rows, g, i, j);
            add_taps(&c, y, r->x, rows, taps, fill, first_channels(places * n));
        }
}

int er_vnni_depthwise(const er_depthwise *r) {
    const er_window g = ER_WINDOW_OF;
    const int64_t taps = (int64_t)g.kernel_h * g.kernel_w;
    if (!__builtin_cpu_supports("avx512vnni") || r->filters != g.channels || taps > 2 * PAIRS) return 0;
    if (CHANNELS % r->filters == 0 && g.stride_w == 1) {
        neighbours(r, &g, (int32_t)taps);
        return 1;
    }
    for (int32_t at = 0; at < r->filters; at += CHANNELS * COLUMNS) {
        const int32_t left = r->filters - at;
        columns(r, &g, (int32_t)taps, at, left < CHANNELS * COLUMNS ? left : CHANNELS * COLUMNS);
    }
    return 1;
}
#endif
