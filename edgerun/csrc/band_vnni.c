/* Images in bytes, padding laid out, for the convolutions of `conv_vnni.c` and `depthwise_vnni.c`. */
#include "band_vnni.h"

#ifdef ER_VNNI
/* What `outputs` of k taps see along an axis. */
static int64_t span(int32_t outputs, int32_t taps, int32_t stride, int32_t dilation) {
    return (int64_t)(outputs - 1) * stride + (int64_t)(taps - 1) * dilation + 1;
}

static int has_room(const er_window *g, int32_t rows, int32_t columns, int32_t phases) {
    const int64_t deep = span(rows, g->kernel_h, g->stride_h, g->dilation_h);
    const int64_t wide = span(columns, g->kernel_w, g->stride_w, g->dilation_w) + phases - 1;
    return deep <= ER_BAND && wide <= ER_BAND && g->channels <= ER_BAND &&
           deep * (wide / phases * phases) * g->channels <= ER_BAND;
}

/* How many of a phase's slots lie left of column w. */
static int32_t slots_before(const er_band *b, int32_t w, int32_t phase) {
    const int32_t found = (w - phase + b->phases - 1) / b->phases;
    return w <= phase ? 0 : found < b->slots ? found : b->slots;
}

static void set_place(er_band *b, const er_window *g, int32_t row, int32_t column) {
    b->row = row;
    b->column = column;
    b->rows = g->out_h - row < b->tall ? g->out_h - row : b->tall;
    b->columns = g->out_w - column < b->broad ? g->out_w - column : b->broad;
    b->deep = (int32_t)span(b->rows, g->kernel_h, g->stride_h, g->dilation_h);
    b->wide = (int32_t)span(b->columns, g->kernel_w, g->stride_w, g->dilation_w);
    b->slots = (b->wide + b->phases - 1) / b->phases;
    b->line = b->slots * b->phases * g->channels;
    for (int32_t phase = 0, left = column * g->stride_w - g->left; phase < b->phases; phase++) {
        b->first[phase] = slots_before(b, -left, phase);
        b->end[phase] = slots_before(b, g->width - left, phase);
    }
}

/* Whether nothing here overflows: records are asked for their packed form before it is known that they fit. */
static int has_bounds(const er_window *g) {
    const int32_t positive[] = {g->height,   g->width,    g->channels,   g->kernel_h,   g->kernel_w, g->stride_h,
                                g->stride_w, g->dilation_h, g->dilation_w, g->out_h,    g->out_w};
    const int32_t most = 1 << 24;
    int found = g->top >= 0 && g->top <= most && g->left >= 0 && g->left <= most;
    for (size_t k = 0; k < sizeof positive / sizeof *positive; k++) found &= positive[k] >= 1 && positive[k] <= most;
    return found;
}

int er_band_first(er_band *b, const er_window *g, int32_t phases) {
    if (!has_bounds(g) || phases > ER_PHASES) return 0;
    b->tall = g->out_h;
    b->broad = g->out_w;
    b->phases = phases;
    while (b->broad > 1 && !has_room(g, 1, b->broad, phases)) b->broad = (b->broad + 1) / 2;
    while (b->tall > 1 && !has_room(g, b->tall, b->broad, phases)) b->tall = (b->tall + 1) / 2;
    if (!has_room(g, b->tall, b->broad, phases)) return 0;
    set_place(b, g, 0, 0);
    return 1;
}

int er_band_next(er_band *b, const er_window *g) {
    const int32_t right = b->column + b->columns, below = b->row + b->rows;
    if (right < g->out_w)
        set_place(b, g, b->row, right);
    else if (below < g->out_h)
        set_place(b, g, below, 0);
    else
        return 0;
    return 1;
}

/* Rows are laid from left to right by whole vectors: what goes too far is written over by what comes next. */
typedef struct pen {
    uint8_t *to;
    __m512i fill, wrong; /* wrong: bits above the lowest 8 of values that did not fit */
} pen;

ER_LEVEL static void pad(pen *p, int32_t n) {
    for (int32_t i = 0; i < n; i += 64) _mm512_storeu_si512(p->to + i, p->fill);
    p->to += n;
}

/* x + 128 of the first n of 32 values. */
ER_LEVEL static __m512i lifted(const int16_t *x, int32_t n) {
    const __m512i up = _mm512_set1_epi16(128);
    if (n >= 32) return _mm512_add_epi16(_mm512_loadu_si512(x), up);
    const __mmask32 some = n > 0 ? (1u << n) - 1u : 0;
    return _mm512_maskz_add_epi16(some, _mm512_maskz_loadu_epi16(some, x), up);
}

ER_LEVEL static void narrow(pen *p, const int16_t *x, int32_t n) {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    __m512i wrong = p->wrong;
    uint8_t *to = p->to;
    p->to += n;
    for (; n > 0; n -= 64, x += 64, to += 64) {
        const __m512i low = lifted(x, n), high = lifted(n > 32 ? x + 32 : x, n - 32);
        wrong = _mm512_ternarylogic_epi64(wrong, low, high, 0xfe);
        _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, _mm512_packus_epi16(low, high)));
    }
    p->wrong = wrong;
}

/* One row of a band from image row `from`, or NULL outside of the image. */
ER_LEVEL static void lay_row(pen *p, const int16_t *from, const er_band *b, const er_window *g) {
    const int32_t left = b->column * g->stride_w - g->left, c = g->channels;
    if (!from) {
        pad(p, b->line);
        return;
    }
    for (int32_t phase = 0; phase < b->phases; phase++) {
        const int32_t first = b->first[phase], end = b->end[phase];
        const int16_t *x = from + (int64_t)(left + first * b->phases + phase) * c;
        pad(p, first * c);
        if (b->phases == 1)
            narrow(p, x, (end - first) * c);
        else
            for (int32_t slot = first; slot < end; slot++, x += b->phases * c) narrow(p, x, c);
        pad(p, (b->slots - end) * c);
    }
}

ER_LEVEL int er_band_lay(uint8_t *bytes, const er_band *b, const int16_t *x, const er_window *g, int32_t fill) {
    pen p = {bytes, _mm512_set1_epi8((char)(fill + 128)), _mm512_setzero_si512()};
    const int32_t above = b->row * g->stride_h - g->top;
    const int rows_join = b->phases == 1 && b->first[0] == 0 && b->end[0] == g->width && b->slots == g->width;
    if (rows_join && above >= 0 && above + b->deep <= g->height)
        narrow(&p, x + (int64_t)above * g->width * g->channels, b->deep * b->line);
    else
        for (int32_t row = 0, h = above; row < b->deep; row++, h++)
            lay_row(&p, h >= 0 && h < g->height ? x + (int64_t)h * g->width * g->channels : NULL, b, g);
    return fill >= -128 && fill <= 127 && !_mm512_test_epi16_mask(p.wrong, _mm512_set1_epi16(~255));
}
#endif
