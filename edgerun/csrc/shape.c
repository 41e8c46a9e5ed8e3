/* Moving values: one copy between two views. */
#include "kinds.h"

static void fill(int16_t *y, int32_t *sums, int32_t value, int32_t n) {
    for (int32_t k = 0; k < n; k++) {
        if (y) y[k] = (int16_t)value;
        if (sums) sums[k] = value;
    }
}

static void read_moved(const int16_t *y, const int32_t *sums, int32_t *out, int32_t n) {
    for (int32_t k = 0; k < n; k++) out[k] = er_value(y, sums, k);
}

static void move_row(const er_move *r, int64_t from, int64_t to, int32_t n) {
    const int32_t step_from = r->step_from[r->rank - 1], step_to = r->step_to[r->rank - 1];
    const int16_t *x = r->x ? r->x + from : NULL;
    if (r->y) {
        int16_t *y = r->y + to;
        for (int32_t k = 0; k < n; k++) y[k * step_to] = x[k * step_from];
    } else {
        const int32_t *wide = r->wide ? r->wide + from : NULL;
        int32_t *sums = r->sums + to;
        for (int32_t k = 0; k < n; k++) sums[k * step_to] = er_value(x, wide, k * step_from);
    }
}

void er_move_step(const er_move *r) {
    int32_t index[ER_RANK] = {0}, n = r->shape[r->rank - 1];
    int64_t from = r->from, to = r->to;
    if (r->fills) fill(r->y, r->sums, r->value, r->outputs);
    do move_row(r, from, to, n);
    while (er_next(index, r->shape, r->rank, r->step_from, &from, r->step_to, &to));
}

void er_move_reset(const er_move *r) { fill(r->y, r->sums, r->fills ? r->value : 0, r->outputs); }
void er_move_reading(const er_move *r, int32_t *out) { read_moved(r->y, r->sums, out, r->outputs); }

void er_take_step(const er_take *r) {
    for (int32_t o = 0; o < r->outer; o++)
        for (int32_t k = 0; k < r->count; k++) {
            const int64_t from = ((int64_t)o * r->size + er_clip(r->index[k], 0, r->size - 1)) * r->inner;
            const int64_t to = ((int64_t)o * r->count + k) * r->inner;
            if (r->y)
                memcpy(r->y + to, r->x + from, (size_t)r->inner * sizeof *r->y);
            else
                memcpy(r->sums + to, r->wide + from, (size_t)r->inner * sizeof *r->sums);
        }
}

void er_take_reset(const er_take *r) { fill(r->y, r->sums, 0, r->outputs); }
void er_take_reading(const er_take *r, int32_t *out) { read_moved(r->y, r->sums, out, r->outputs); }
