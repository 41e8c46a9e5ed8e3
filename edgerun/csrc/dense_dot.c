/* The sums of dense layers on 64-bit Arm processors with dot products (a Raspberry Pi 5): 16 products of 8 bits an
 * instruction. Values that do not fit int8 leave the work to the portable form.
 */
#include "dense_dot.h"

#ifdef ER_DOT
#include <arm_neon.h>
#include <stddef.h>
#include <sys/auxv.h>

enum { CHUNK = 2048, ROWS = 4, DOT_PRODUCTS = 1 << 20 /* of AT_HWCAP */ };

#define ER_LEVEL __attribute__((target("arch=armv8.2-a+dotprod")))

/* x8 <- x. 0 where a value does not fit int8. */
static int narrow(int8_t *x8, const int16_t *x, int32_t m) {
    int32_t wrong = 0;
    for (int32_t i = 0; i < m; i++) {
        x8[i] = (int8_t)x[i];
        wrong |= x8[i] - x[i];
    }
    return !wrong;
}

/* sums (count,) <- bias + rows of weights (count, m) times x, modulo 2**32, count at most ROWS: x is read once for all of
 * them.
 */
ER_LEVEL static void sum_rows(int32_t *sums, const int32_t *bias, const int8_t *w, const int8_t *x, int32_t m,
                              int32_t count) {
    int32x4_t parts[ROWS] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    const int8_t *rows[ROWS];
    int32_t i = 0;
    for (int32_t k = 0; k < ROWS; k++) rows[k] = w + (size_t)(k < count ? k : 0) * (size_t)m;
    for (; i + 16 <= m; i += 16) {
        const int8x16_t values = vld1q_s8(x + i);
        for (int32_t k = 0; k < ROWS; k++) parts[k] = vdotq_s32(parts[k], vld1q_s8(rows[k] + i), values);
    }
    for (int32_t k = 0; k < count; k++) {
        uint32_t sum = (uint32_t)bias[k] + (uint32_t)vaddvq_s32(parts[k]);
        for (int32_t rest = i; rest < m; rest++) sum += (uint32_t)(rows[k][rest] * x[rest]);
        sums[k] = (int32_t)sum;
    }
}

int er_dot_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m) {
    int8_t x8[CHUNK];
    if (m < 16 || m > CHUNK || !(getauxval(AT_HWCAP) & DOT_PRODUCTS) || !narrow(x8, x, m)) return 0;
    for (int32_t k = 0; k < n; k += ROWS) {
        const int32_t count = n - k < ROWS ? n - k : ROWS;
        sum_rows(sums + k, bias + k, weight + (size_t)k * (size_t)m, x8, m, count);
    }
    return 1;
}
#endif
