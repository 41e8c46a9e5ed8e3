/* Sums and products of two sources, tables of one, and raw sums added up. */
#include "clones.h"
#include "kinds.h"

ER_CLONES
static void add_row(const er_add *restrict r, int16_t *restrict y, const int16_t *restrict a, const int16_t *restrict b,
                    int32_t n, int64_t offset) {
    const int64_t ma = r->multiplier_a, mb = r->multiplier_b, low = r->qmin, high = r->qmax, zero_point = r->zero_point;
    const int32_t s = r->shift, one_a = r->stride_a[r->rank - 1] == 0, one_b = r->stride_b[r->rank - 1] == 0;
    if (one_a || one_b) {
        for (int32_t k = 0; k < n; k++) {
            const int64_t sum = a[one_a ? 0 : k] * ma + b[one_b ? 0 : k] * mb + offset;
            y[k] = (int16_t)er_clip((sum >> s) + zero_point, r->qmin, r->qmax);
        }
        return;
    }
    for (int32_t k = 0; k < n; k++) {
        const int64_t q = ((a[k] * ma + b[k] * mb + offset) >> s) + zero_point, up = q > low ? q : low;
        y[k] = (int16_t)(up < high ? up : high);
    }
}

void er_add_step(const er_add *r) {
    int32_t index[ER_RANK] = {0}, n = r->shape[r->rank - 1];
    int64_t a = 0, b = 0;
    int16_t *y = r->y;
    do {
        add_row(r, y, r->a + a, r->b + b, n, *r->offset);
        y += n;
    } while (er_next(index, r->shape, r->rank, r->stride_a, &a, r->stride_b, &b));
}
ER_READS_OUTPUT(er_add)

static void multiply_row(const er_mul *r, int16_t *y, const int16_t *a, const int16_t *b, int32_t n) {
    const int32_t step_a = r->stride_a[r->rank - 1], step_b = r->stride_b[r->rank - 1];
    for (int32_t k = 0; k < n; k++) {
        const int32_t product = (a[k * step_a] - r->zero_a) * (b[k * step_b] - r->zero_b);
        y[k] = er_requant(product, r->multiplier, r->shift, r->zero_point, r->qmin, r->qmax);
    }
}

void er_mul_step(const er_mul *r) {
    int32_t index[ER_RANK] = {0}, n = r->shape[r->rank - 1];
    int64_t a = 0, b = 0;
    int16_t *y = r->y;
    do {
        multiply_row(r, y, r->a + a, r->b + b, n);
        y += n;
    } while (er_next(index, r->shape, r->rank, r->stride_a, &a, r->stride_b, &b));
}
ER_READS_OUTPUT(er_mul)

void er_lookup_step(const er_lookup *r) {
    for (int32_t k = 0; k < r->outputs; k++) r->y[k] = r->table[er_clip(r->x[k], -128, 127) + 128];
}
ER_READS_OUTPUT(er_lookup)

void er_total_step(const er_total *r) {
    for (int32_t k = 0; k < r->outputs; k++)
        r->sums[k] = er_value(r->x, r->wide, k) + er_value(r->other, r->wide_other, k);
    er_narrow(r->y, r->sums, r->outputs);
}
ER_READS_SUMS(er_total)
