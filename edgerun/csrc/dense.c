/* Dense layers: int8 weights times int16 values, four rows at a time, so that each value is read once for four sums. */
#include "edgerun.h"

#include "clones.h"

ER_CLONES
void er_layer_sums(int32_t *restrict sums, const int8_t *restrict weight, const int16_t *restrict x,
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

void er_dense_step(const er_dense *r) {
    int32_t total = 0;
    if (r->weight_zero)
        for (int32_t i = 0; i < r->inputs; i++) total += r->x[i];
    for (int32_t first = 0; first < r->outputs; first += 64) {
        int32_t sums[64], n = r->outputs - first < 64 ? r->outputs - first : 64;
        er_layer_sums(sums, r->weight + (size_t)first * (size_t)r->inputs, r->x, r->bias + first, n, r->inputs);
        for (int32_t k = 0; k < n; k++) {
            int32_t at = first + k, sum = r->weight_zero ? sums[k] - r->weight_zero[at] * total : sums[k];
            r->y[at] = er_requant(sum, r->multiplier[at], r->shift[at], r->zero_point, r->qmin, r->qmax);
        }
    }
}
