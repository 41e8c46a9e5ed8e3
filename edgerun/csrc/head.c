/* The prototype head: nearest class mean in squared distance. */
#include "kinds.h"

void er_class_means(int32_t *means, const int32_t *sums, const int32_t *counts, int32_t k, int32_t d) {
    for (int32_t row = 0; row < k; row++) {
        const int64_t n = counts[row] > 1 ? counts[row] : 1;
        for (int32_t i = 0; i < d; i++)
            means[(size_t)row * d + i] = (int32_t)er_floor_div(2 * (int64_t)sums[(size_t)row * d + i] + n, 2 * n);
    }
}

void er_prototype_scores(int32_t *scores, const int32_t *z, const int32_t *means, const int32_t *bias,
                         const int32_t *counts, int32_t k, int32_t d) {
    for (int32_t row = 0; row < k; row++) {
        const int32_t *c = means + (size_t)row * d;
        int64_t score = bias[row];
        for (int32_t i = 0; i < d; i++) score += c[i] * (2 * (int64_t)z[i] - c[i]);
        scores[row] = counts[row] > 0 ? er_clip(score, INT32_MIN + 1, INT32_MAX) : INT32_MIN;
    }
}
