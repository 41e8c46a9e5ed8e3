/* Maxima, means and sums of windows over images (height, width, channel). */
#include "clones.h"
#include "kinds.h"

/* The taps of one window along an axis that lie in the image: first <= t < last. */
typedef struct span {
    int32_t first, last;
} span;

static span inside(int32_t start, int32_t size, int32_t taps, int32_t dilation) {
    span found = {0, taps};
    if (start < 0) found.first = (-start + dilation - 1) / dilation;
    const int32_t room = start < size ? (size - 1 - start) / dilation + 1 : 0;
    if (room < found.last) found.last = room;
    if (found.first > found.last) found.first = found.last;
    return found;
}

/* One window: its first row and column, and its taps in the image. */
typedef struct place {
    int32_t row, column;
    span down, across;
} place;

static place place_of(const er_window *g, int32_t i, int32_t j) {
    place p = {i * g->stride_h - g->top, j * g->stride_w - g->left, {0, 0}, {0, 0}};
    p.down = inside(p.row, g->height, g->kernel_h, g->dilation_h);
    p.across = inside(p.column, g->width, g->kernel_w, g->dilation_w);
    return p;
}

/* Where the channels of tap (u, v) begin. */
static int64_t tap(const er_window *g, const place *p, int32_t u, int32_t v) {
    return ((int64_t)(p->row + u * g->dilation_h) * g->width + p->column + v * g->dilation_w) * g->channels;
}

ER_CLONES
static void raise_to(int16_t *restrict y, const int16_t *restrict x, int32_t n) {
    for (int32_t k = 0; k < n; k++) y[k] = x[k] > y[k] ? x[k] : y[k];
}

void er_max_pool_step(const er_max_pool *r) {
    const er_window g = ER_WINDOW_OF;
    int16_t *y = r->y;
    for (int32_t i = 0; i < g.out_h; i++)
        for (int32_t j = 0; j < g.out_w; j++, y += g.channels) {
            const place p = place_of(&g, i, j);
            for (int32_t k = 0; k < g.channels; k++) y[k] = -128;
            for (int32_t u = p.down.first; u < p.down.last; u++)
                for (int32_t v = p.across.first; v < p.across.last; v++)
                    raise_to(y, r->x + tap(&g, &p, u, v), g.channels);
            for (int32_t k = 0; k < g.channels; k++) y[k] = (int16_t)er_clip(y[k], r->qmin, r->qmax);
        }
}
ER_READS_OUTPUT(er_max_pool)

/* sums (channels,) += the taps of a window, one source of two. */
ER_CLONES
static void add_narrow(int32_t *restrict sums, const int16_t *restrict x, const er_window *g, const place *p) {
    for (int32_t u = p->down.first; u < p->down.last; u++)
        for (int32_t v = p->across.first; v < p->across.last; v++) {
            const int16_t *from = x + tap(g, p, u, v);
            for (int32_t k = 0, n = g->channels; k < n; k++) sums[k] += from[k];
        }
}

ER_CLONES
static void add_wide(int32_t *restrict sums, const int32_t *restrict x, const er_window *g, const place *p) {
    for (int32_t u = p->down.first; u < p->down.last; u++)
        for (int32_t v = p->across.first; v < p->across.last; v++) {
            const int32_t *from = x + tap(g, p, u, v);
            for (int32_t k = 0, n = g->channels; k < n; k++) sums[k] += from[k];
        }
}

/* sums (channels,) <- the sum of a window. */
static void sum_window(int32_t *sums, const int16_t *x, const int32_t *wide, const er_window *g, const place *p) {
    ER_CLEAR(sums, g->channels);
    if (x)
        add_narrow(sums, x, g, p);
    else
        add_wide(sums, wide, g, p);
}

static int32_t mean(const er_average_pool *r, int32_t sum, int32_t which, int64_t offset) {
    const int64_t quotient = ((int64_t)sum * r->multiplier[which] + offset) >> r->shift[which];
    return er_clip(quotient + r->zero_point, r->qmin, r->qmax);
}

/* Halves go up; where they do not, `down` is where `offset` less by 2**-15 of a step sends them. */
static int32_t settle(const er_average_pool *r, int32_t sum, int32_t which) {
    const int32_t up = mean(r, sum, which, r->offset[which]);
    if (r->ties == ER_TIES_UP) return up;
    const int32_t bits = r->shift[which] - 15;
    const int32_t down = mean(r, sum, which, r->offset[which] - ((int64_t)1 << (bits > 0 ? bits : 0)));
    return (r->ties == ER_TIES_EVEN ? (up - r->zero_point) & 1 : up <= 0) ? down : up;
}

void er_average_pool_step(const er_average_pool *r) {
    const er_window g = ER_WINDOW_OF;
    int16_t *y = r->y;
    for (int32_t i = 0; i < g.out_h; i++)
        for (int32_t j = 0; j < g.out_w; j++, y += g.channels) {
            const place p = place_of(&g, i, j);
            const int32_t seen = (p.down.last - p.down.first) * (p.across.last - p.across.first);
            int32_t which = 0;
            while (which + 1 < r->sizes && r->size[which] < seen) which++;
            sum_window(r->sums, r->x, NULL, &g, &p);
            for (int32_t k = 0; k < g.channels; k++) y[k] = (int16_t)settle(r, r->sums[k], which);
        }
}
ER_READS_OUTPUT(er_average_pool)

void er_sum_pool_step(const er_sum_pool *r) {
    const er_window g = ER_WINDOW_OF;
    int32_t *sums = r->sums;
    for (int32_t i = 0; i < g.out_h; i++)
        for (int32_t j = 0; j < g.out_w; j++, sums += g.channels) {
            const place p = place_of(&g, i, j);
            sum_window(sums, r->x, r->wide, &g, &p);
        }
    er_narrow(r->y, r->sums, r->outputs);
}
ER_READS_SUMS(er_sum_pool)
