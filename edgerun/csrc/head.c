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

/* Whether S + z and n + 1, halved so often, have room in 32 bits. */
static int has_room(const int32_t *sums, int32_t count, const int32_t *z, int32_t d, int32_t halvings) {
    if (((int64_t)count + 1) >> halvings > INT32_MAX) return 0;
    for (int32_t i = 0; i < d; i++) {
        const int64_t total = ((int64_t)sums[i] + z[i]) >> halvings;
        if (total > INT32_MAX || total < -INT32_MAX) return 0;
    }
    return 1;
}

void er_prototype_add(int32_t *sums, int32_t *count, const int32_t *z, int32_t d) {
    int32_t halvings = 0;
    while (!has_room(sums, *count, z, d, halvings)) halvings++;
    for (int32_t i = 0; i < d; i++) sums[i] = (int32_t)(((int64_t)sums[i] + z[i]) >> halvings);
    *count = (int32_t)(((int64_t)*count + 1) >> halvings);
}
