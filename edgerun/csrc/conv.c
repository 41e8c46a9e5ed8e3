/* Convolutions over images (height, width, channel). Each place's window is laid out in one row, padding included, so
 * that one loop of four filters serves every kernel, stride and dilation.
 */
#include "clones.h"
#include "conv_vnni.h"
#include "kinds.h"

/* to (taps, c) <- a row of a kernel's taps from image row `from`, columns first, first + dilation, ... */
static void see_row(int16_t *to, const int16_t *from, const er_window *g, int32_t first, int32_t fill) {
    const int32_t c = g->channels, run = first >= 0 && first + g->kernel_w <= g->width && g->dilation_w == 1;
    if (run) {
        memcpy(to, from + (int64_t)first * c, (size_t)g->kernel_w * (size_t)c * sizeof *to);
        return;
    }
    for (int32_t v = 0; v < g->kernel_w; v++, to += c) {
        const int32_t w = first + v * g->dilation_w;
        if (w >= 0 && w < g->width)
            memcpy(to, from + (int64_t)w * c, (size_t)c * sizeof *to);
        else
            for (int32_t k = 0; k < c; k++) to[k] = (int16_t)fill;
    }
}

const int16_t *er_see(int16_t *window, const int16_t *x, const er_window *g, int32_t i, int32_t j, int32_t fill) {
    const int32_t row = i * g->stride_h - g->top, column = j * g->stride_w - g->left, c = g->channels;
    if (g->kernel_h == 1 && g->kernel_w == 1 && row >= 0 && row < g->height && column >= 0 && column < g->width)
        return x + ((int64_t)row * g->width + column) * c;
    for (int32_t u = 0; u < g->kernel_h; u++) {
        const int32_t h = row + u * g->dilation_h;
        int16_t *to = window + (int64_t)u * g->kernel_w * c;
        if (h >= 0 && h < g->height)
            see_row(to, x + (int64_t)h * g->width * c, g, column, fill);
        else
            for (int32_t k = 0; k < g->kernel_w * c; k++) to[k] = (int16_t)fill;
    }
    return window;
}

/* sums -= zero * total: what the filters' own zero points add up to. */
static void take_zeros(int32_t *sums, const int8_t *zero, const int16_t *window, int32_t taps, int32_t filters) {
    int32_t total = 0;
    for (int32_t k = 0; k < taps; k++) total += window[k];
    for (int32_t f = 0; f < filters; f++) sums[f] -= zero[f] * total;
}

int64_t er_conv_packed(const er_conv *r) {
#ifdef ER_VNNI
    return er_vnni_conv_packed(r);
#else
    (void)r;
    return 0;
#endif
}

void er_conv_pack(const er_conv *r, int8_t *packed) {
#ifdef ER_VNNI
    er_vnni_conv_pack(r, packed);
#else
    (void)r, (void)packed;
#endif
}

void er_conv_step(const er_conv *r) {
#ifdef ER_VNNI
    if (r->packed && er_vnni_conv(r)) return;
#endif
    const er_window g = ER_WINDOW_OF;
    const int32_t taps = g.kernel_h * g.kernel_w * g.channels;
    int16_t *y = r->y;
    for (int32_t i = 0; i < g.out_h; i++)
        for (int32_t j = 0; j < g.out_w; j++, y += r->filters) {
            const int16_t *window = er_see(r->window, r->x, &g, i, j, r->fill);
            er_layer_sums(r->sums, r->weight, window, r->bias, r->filters, taps);
            if (r->weight_zero) take_zeros(r->sums, r->weight_zero, window, taps, r->filters);
            er_requant_row(y, r->sums, r->multiplier, r->shift, r->zero_point, r->qmin, r->qmax, r->filters);
        }
}
ER_READS_OUTPUT(er_conv)

/* Weights less their zero points, tap by tap: within +-255. */
static void lay_taps(const er_depthwise *r, int32_t taps) {
    for (int32_t f = 0; f < r->filters; f++)
        for (int32_t t = 0; t < taps; t++)
            r->taps[t * r->filters + f] =
                (int16_t)(r->weight[(int64_t)f * taps + t] - (r->weight_zero ? r->weight_zero[f] : 0));
}

/* sums (n,) += x * w. A product of 8 bits and 9 fits 16. */
ER_CLONES
static void add_products(int32_t *restrict sums, const int16_t *restrict x, const int16_t *restrict w, int32_t n) {
    for (int32_t k = 0; k < n; k++) sums[k] += (int16_t)(x[k] * w[k]);
}

/* The same where each value of x meets m weights. */
static void add_repeated(int32_t *sums, const int16_t *x, const int16_t *w, int32_t channels, int32_t m) {
    for (int32_t c = 0; c < channels; c++)
        for (int32_t k = 0; k < m; k++) sums[c * m + k] += x[c] * w[c * m + k];
}

/* The same where x is `fill` everywhere. */
static void add_fill(int32_t *sums, int32_t fill, const int16_t *w, int32_t n) {
    for (int32_t k = 0; k < n; k++) sums[k] += fill * w[k];
}

static void depthwise_sums(const er_depthwise *r, const er_window *g, int32_t i, int32_t j) {
    const int32_t n = r->filters, m = n / g->channels;
    const int16_t *w = r->taps;
    memcpy(r->sums, r->bias, (size_t)n * sizeof *r->sums);
    for (int32_t u = 0; u < g->kernel_h; u++) {
        const int32_t row = i * g->stride_h - g->top + u * g->dilation_h;
        for (int32_t v = 0; v < g->kernel_w; v++, w += n) {
            const int32_t column = j * g->stride_w - g->left + v * g->dilation_w;
            const int16_t *x = r->x + ((int64_t)row * g->width + column) * g->channels;
            if (row < 0 || row >= g->height || column < 0 || column >= g->width)
                add_fill(r->sums, r->fill, w, n);
            else if (m == 1)
                add_products(r->sums, x, w, n);
            else
                add_repeated(r->sums, x, w, g->channels, m);
        }
    }
}

int64_t er_depthwise_packed(const er_depthwise *r) {
#ifdef ER_VNNI
    return er_vnni_depthwise_packed(r);
#else
    (void)r;
    return 0;
#endif
}

void er_depthwise_pack(const er_depthwise *r, int8_t *packed) {
#ifdef ER_VNNI
    er_vnni_depthwise_pack(r, packed);
#else
    (void)r, (void)packed;
#endif
}

void er_depthwise_step(const er_depthwise *r) {
    const er_window g = ER_WINDOW_OF;
    int16_t *y = r->y;
#ifdef ER_VNNI
    if (r->packed && er_vnni_depthwise(r)) return;
#endif
    lay_taps(r, g.kernel_h * g.kernel_w);
    for (int32_t i = 0; i < g.out_h; i++)
        for (int32_t j = 0; j < g.out_w; j++, y += r->filters) {
            depthwise_sums(r, &g, i, j);
            er_requant_row(y, r->sums, r->multiplier, r->shift, r->zero_point, r->qmin, r->qmax, r->filters);
        }
}
ER_READS_OUTPUT(er_depthwise)

/* Where an output lies whose window has a place under tap `tap`, or -1 where there is none. */
static int32_t output_of(int32_t place, int32_t tap, int32_t dilation, int32_t stride, int32_t outputs) {
    const int32_t from = place - tap * dilation;
    return from >= 0 && from % stride == 0 && from / stride < outputs ? from / stride : -1;
}

/* sums (out_w, filters) of one row of outputs += a value at column w of the padded image, times `taps`, what a row of
 * the kernel has for its channel, last column first: the outputs of neighbouring taps are neighbours.
 */
static void add_row_of_taps(int32_t *sums, const int8_t *taps, const er_window *g, int32_t w, int32_t value,
                            int32_t n) {
    if (g->stride_w == 1 && g->dilation_w == 1) {
        const int32_t start = w - g->kernel_w + 1, first = start > 0 ? start : 0, end = w < g->out_w ? w + 1 : g->out_w;
        if (first < end) er_add_row(sums + (int64_t)first * n, taps + (first - start) * n, value, (end - first) * n);
        return;
    }
    for (int32_t v = 0; v < g->kernel_w; v++) {
        const int32_t j = output_of(w, v, g->dilation_w, g->stride_w, g->out_w);
        if (j >= 0) er_add_row(sums + (int64_t)j * n, taps + (g->kernel_w - 1 - v) * n, value, n);
    }
}

void er_conv_sum_step(const er_conv_sum *r) {
    const er_window g = ER_WINDOW_OF;
    const int32_t n = r->filters;
    ER_CLEAR(r->sums, r->outputs);
    for (int32_t at = 0, end = g.height * g.width * g.channels; at < end; at++) {
        const int32_t value = er_value(r->x, r->wide, at) - r->zero_point;
        if (!value) continue;
        const int32_t c = at % g.channels, place = at / g.channels;
        for (int32_t u = 0; u < g.kernel_h; u++) {
            const int32_t i = output_of(place / g.width + g.top, u, g.dilation_h, g.stride_h, g.out_h);
            const int8_t *taps = r->weight + ((int64_t)u * g.channels + c) * g.kernel_w * n;
            int32_t *sums = r->sums + (int64_t)(i < 0 ? 0 : i) * g.out_w * n;
            if (i >= 0) add_row_of_taps(sums, taps, &g, place % g.width + g.left, value, n);
        }
    }
    er_narrow(r->y, r->sums, r->outputs);
}
ER_READS_SUMS(er_conv_sum)
