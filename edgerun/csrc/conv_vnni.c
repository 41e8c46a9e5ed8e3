/* Convolutions on x86-64 processors with AVX-512 VNNI: two panels of 16 filters times 8 places at once.
 *
 * sum w x = sum w (x + 128) - 128 sum w, the first by products of bytes, the second laid into where sums start. What a
 * window sees is runs of a band's bytes, so none is laid out for itself. A panel holds 16 filters side by side, 4 taps
 * of each in a row; runs that are no multiple of 4 go on with weights of 0.
 */
#include "conv_vnni.h"

#ifdef ER_VNNI
#include "band_vnni.h"
#include "kinds.h"

enum {
    LANES = 16, /* filters of a panel */
    ROW = 64,   /* bytes of a row of it */
    TAIL = 4,   /* rows behind its weights: starts, factors, zero points, whether it is wide */
    PLACES = 8,
    FEWEST = 4, /* places: below, weights are read once as they are */
    MOST = 8192 /* words that a window sees */
};

/* What a kernel sees: `runs` runs of `words` times 4 bytes in each of its rows, `all` words together. */
typedef struct shape {
    int32_t rows, runs, run, words;
    int64_t all, panel; /* panel: its bytes */
} shape;

static shape shape_of(const er_window *g) {
    const int whole = g->dilation_w == 1;
    shape found = {.rows = g->kernel_h, .runs = whole ? 1 : g->kernel_w};
    found.run = (whole ? g->kernel_w : 1) * g->channels;
    found.words = (found.run + 3) / 4;
    found.all = (int64_t)found.rows * found.runs * found.words;
    found.panel = (found.all + TAIL) * ROW;
    return found;
}

static int64_t panels_of(const er_conv *r) { return r->filters / LANES + (r->filters % LANES != 0); }

int64_t er_vnni_conv_packed(const er_conv *r) {
    const er_window g = ER_WINDOW_OF;
    er_band band;
    if (!__builtin_cpu_supports("avx512vnni") || !er_rounds(r->zero_point, r->qmin, r->qmax) || r->filters < 1 ||
        (int64_t)g.out_h * g.out_w < FEWEST || !er_band_first(&band, &g, 1))
        return 0;
    const shape s = shape_of(&g);
    return s.all <= MOST ? (panels_of(r) + (r->weight_zero != NULL)) * s.panel : 0;
}

/* Filter f into its lane of a panel. */
static void lay_filter(int8_t *panel, const er_conv *r, const shape *s, int32_t f) {
    const int32_t lane = f % LANES, taps = s->rows * s->runs * s->run;
    const int8_t *w = r->weight + (int64_t)f * taps;
    er_lay_tail(panel + s->panel - TAIL * ROW, ROW, lane, w, taps, r->bias[f], r->multiplier[f], r->shift[f],
                r->weight_zero ? r->weight_zero[f] : 0);
    for (int32_t k = 0; k < s->rows * s->runs; k++)
        for (int32_t t = 0; t < s->run; t++, w++)
            panel[((int64_t)k * s->words + t / 4) * ROW + 4 * lane + t % 4] = *w;
}

/* Weights of 1 in all lanes: what x + 128 add up to. */
static void lay_ones(int8_t *panel, const shape *s) {
    for (int32_t k = 0; k < s->rows * s->runs; k++)
        for (int32_t word = 0; word < s->words; word++, panel += ROW)
            for (int32_t b = 0; b < ROW; b++) panel[b] = 4 * word + b % 4 < s->run;
}

void er_vnni_conv_pack(const er_conv *r, int8_t *packed) {
    const er_window g = ER_WINDOW_OF;
    const shape s = shape_of(&g);
    const int64_t size = er_vnni_conv_packed(r);
    if (!size) return;
    ER_CLEAR(packed, size);
    for (int32_t f = 0; f < r->filters; f++) lay_filter(packed + f / LANES * s.panel, r, &s, f);
    if (r->weight_zero) lay_ones(packed + panels_of(r) * s.panel, &s);
}

ER_LEVEL static inline __m512i spread(const uint8_t *four) {
    int32_t word;
    memcpy(&word, four, sizeof word);
    return _mm512_set1_epi32(word);
}

/* A group of places: where their windows begin, where their outputs go, and where a window's words lie in it. */
typedef struct group {
    const uint8_t *x[PLACES];
    int16_t *y[PLACES];
    int32_t places;
    uint16_t word[MOST];
} group;

static void find_words(group *to, const shape *s, const er_band *b, const er_window *g) {
    uint16_t *word = to->word;
    for (int32_t row = 0; row < s->rows; row++)
        for (int32_t run = 0; run < s->runs; run++) {
            const int32_t first = er_band_tap(b, g, row, run);
            for (int32_t k = 0; k < s->words; k++) *word++ = (uint16_t)(first + 4 * k);
        }
}

#define ER_INLINE static inline __attribute__((always_inline))
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)

/* sums (2, 8, 16) <- those of 8 windows and the 16 filters of one panel or of two. */
ER_LEVEL ER_INLINE void multiply(__m512i (*sums)[PLACES], const int8_t *panel, const group *of, const shape *s,
                                 const int two) {
    const int64_t beyond = two ? s->panel : 0, all = s->all;
    const int8_t *tail = panel + s->panel - TAIL * ROW;
    const __m512i start = er_load(tail), other_start = er_load(tail + beyond);
#define BEGIN(p) \
    const uint8_t *const x##p = of->x[p]; \
    __m512i a##p = start, b##p = other_start;
#define ADD(p) \
    v = spread(x##p + k), a##p = _mm512_dpbusd_epi32(a##p, v, w); \
    if (two) b##p = _mm512_dpbusd_epi32(b##p, v, o);
#define END(p) sums[0][p] = a##p, sums[1][p] = b##p;
    EACH(BEGIN)
    for (int64_t word = 0; word < all; word++, panel += ROW) {
        const __m512i w = er_load(panel), o = er_load(panel + beyond);
        const uint32_t k = of->word[word];
        __m512i v;
        EACH(ADD)
    }
    EACH(END)
#undef BEGIN
#undef ADD
#undef END
}

/* Take zero points times what x + 128 add up to off sums. Both (8, 16). */
ER_LEVEL static void take_zeros(__m512i *sums, const int8_t *zeros, const __m512i *totals) {
    for (int32_t p = 0; p < PLACES; p++)
        sums[p] = _mm512_sub_epi32(sums[p], _mm512_mullo_epi32(er_load(zeros), totals[p]));
}

/* The outputs of up to `left` filters from f on, of sums (2, 8, 16); tails are those of their panels. */
ER_LEVEL ER_INLINE void finish(const group *to, __m512i (*sums)[PLACES], const int8_t *tail, const int8_t *other,
                               int32_t f, int32_t left, const er_rounding *rounding, const int wide) {
    const __m512 factor = er_load_factors(tail + ROW), next = er_load_factors(other + ROW);
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (int32_t p = 0; p < to->places; p++) {
        const __m512i a = er_floor(sums[0][p], factor, rounding, wide), b = er_floor(sums[1][p], next, rounding, wide);
        const __m512i y = _mm512_permutexvar_epi64(order, er_clipped(a, b, rounding));
        if (left >= 2 * LANES)
            _mm512_storeu_si512(to->y[p] + f, y);
        else
            _mm512_mask_storeu_epi16(to->y[p] + f, (1u << left) - 1u, y);
    }
}

/* A group of places through all panels. */
ER_LEVEL static void through_panels(const er_conv *r, const group *to, const shape *s, const er_rounding *rounding) {
    const int8_t *panel = r->packed;
    const int asymmetric = r->weight_zero != NULL;
    __m512i sums[2][PLACES], totals[2][PLACES];
    if (asymmetric) multiply(totals, panel + panels_of(r) * s->panel, to, s, 0);
    for (int32_t f = 0; f < r->filters; f += 2 * LANES, panel += 2 * s->panel) {
        const int two = f + LANES < r->filters;
        const int8_t *tail = panel + s->panel - TAIL * ROW, *other = two ? tail + s->panel : tail;
        if (two)
            multiply(sums, panel, to, s, 1);
        else
            multiply(sums, panel, to, s, 0);
        if (asymmetric) {
            take_zeros(sums[0], tail + 2 * ROW, totals[0]);
            take_zeros(sums[1], other + 2 * ROW, totals[0]);
        }
        if (tail[3 * ROW] || other[3 * ROW])
            finish(to, sums, tail, other, f, r->filters - f, rounding, 1);
        else
            finish(to, sums, tail, other, f, r->filters - f, rounding, 0);
    }
}

/* The places of a band, in groups. */
ER_LEVEL static void through_band(const er_conv *r, group *to, const er_band *b, const uint8_t *bytes, const shape *s,
                                  const er_rounding *rounding) {
    const int32_t places = b->rows * b->columns;
    for (int32_t first = 0, i = 0, j = 0; first < places; first += PLACES) {
        to->places = places - first < PLACES ? places - first : PLACES;
        for (int32_t p = 0; p < to->places; p++) {
            to->x[p] = bytes + i * r->stride_h * b->line + j * r->stride_w * r->channels;
            to->y[p] = r->y + ((int64_t)(b->row + i) * r->out_w + b->column + j) * r->filters;
            j = j + 1 < b->columns ? j + 1 : 0;
            i += j == 0;
        }
        for (int32_t p = to->places; p < PLACES; p++) to->x[p] = to->x[0];
        through_panels(r, to, s, rounding);
    }
}

ER_LEVEL int er_vnni_conv(const er_conv *r) {
    const er_window g = ER_WINDOW_OF;
    const er_rounding rounding = er_rounding_of(r->zero_point, r->qmin, r->qmax);
    const shape s = shape_of(&g);
    uint8_t bytes[ER_BAND + ER_BEYOND] __attribute__((aligned(64)));
    er_band band;
    group to;
    if (!__builtin_cpu_supports("avx512vnni") || !er_band_first(&band, &g, 1)) return 0;
    do {
        if (!er_band_lay(bytes, &band, r->x, &g, r->fill)) return 0;
        find_words(&to, &s, &band, &g);
        through_band(r, &to, &band, bytes, &s, &rounding);
    } while (er_band_next(&band, &g));
    return 1;
}
#endif
