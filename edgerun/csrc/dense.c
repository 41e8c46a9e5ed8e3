/* Dense layers: int8 weights times int16 values, four rows at a time, so that each value is read once for four sums. */
#include "clones.h"
#include "dense_vnni.h"
#include "kinds.h"

enum { ROWS = 256 }; /* sums that lie on the stack at once */

ER_CLONES
static void portable_sums(int32_t *restrict sums, const int8_t *restrict weight, const int16_t *restrict x,
                   const int32_t *restrict bias, int32_t n, int32_t m) {
    int32_t k = 0;
    for (; k + 4 <= n; k += 4) {
        const int8_t *w0 = weight + (size_t)k * (size_t)m, *w1 = w0 + m, *w2 = w1 + m, *w3 = w2 + m;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (int32_t i = 0; i < m; i++) {
            s0 += w0[i] * x[i];
            s1 += w1[i] * x[i];
            s2 += w2[i] * x[i];
            s3 += w3[i] * x[i];
        }
        sums[k] = s0 + bias[k];
        sums[k + 1] = s1 + bias[k + 1];
        sums[k + 2] = s2 + bias[k + 2];
        sums[k + 3] = s3 + bias[k + 3];
    }
    for (; k < n; k++) {
        const int8_t *w = weight + (size_t)k * (size_t)m;
        int32_t sum = 0;
        for (int32_t i = 0; i < m; i++) sum += w[i] * x[i];
        sums[k] = sum + bias[k];
    }
}

void er_layer_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m) {
#ifdef ER_VNNI
    if (er_vnni_sums(sums, weight, x, bias, n, m)) return;
#endif
    portable_sums(sums, weight, x, bias, n, m);
}

/* Branch-free, so that compilers take several at a time. */
ER_CLONES
static void requant_row(int16_t *restrict y, const int32_t *restrict sums, const int32_t *restrict multiplier,
                        const uint8_t *restrict shift, int64_t zero_point, int64_t low, int64_t high, int32_t n) {
    for (int32_t k = 0; k < n; k++) {
        const int64_t s = shift[k], q = ((sums[k] * (int64_t)multiplier[k] + ((int64_t)1 << (s - 1))) >> s) + zero_point;
        const int64_t floor = q > low ? q : low;
        y[k] = (int16_t)(floor < high ? floor : high);
    }
}

void er_requant_row(int16_t *y, const int32_t *sums, const int32_t *multiplier, const uint8_t *shift,
                    int64_t zero_point, int64_t low, int64_t high, int32_t n) {
    requant_row(y, sums, multiplier, shift, zero_point, low, high, n);
}

void er_dense_step(const er_dense *r) {
    int32_t total = 0;
    if (r->weight_zero)
        for (int32_t i = 0; i < r->inputs; i++) total += r->x[i];
    for (int32_t first = 0; first < r->outputs; first += ROWS) {
        int32_t sums[ROWS], n = r->outputs - first < ROWS ? r->outputs - first : ROWS;
        er_layer_sums(sums, r->weight + (size_t)first * (size_t)r->inputs, r->x, r->bias + first, n, r->inputs);
        for (int32_t k = 0; r->weight_zero && k < n; k++) sums[k] -= r->weight_zero[first + k] * total;
        er_requant_row(r->y + first, sums, r->multiplier + first, r->shift + first, r->zero_point, r->qmin, r->qmax, n);
    }
}
ER_READS_OUTPUT(er_dense)
