/* er_layer_sums beside its definition in 64 bits: prints how many of many sums differ. Run by test_native_processors.py.
 */
#include <stdio.h>

#include "edgerun.h"

enum { ROWS = 40, WIDEST = 2100, ROUNDS = 2000 };

static uint64_t word(void) {
    static uint64_t s = 88172645463325252u;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return s >> 11;
}

int main(void) {
    static int8_t w[ROWS * WIDEST];
    static int16_t x[WIDEST];
    static int32_t bias[ROWS], sums[ROWS];
    long wrong = 0;
    for (int t = 0; t < ROUNDS; t++) {
        const int32_t n = 1 + (int32_t)(word() % ROWS), m = 1 + (int32_t)(word() % (t % 7 ? 90 : WIDEST));
        for (int32_t i = 0; i < n * m; i++) w[i] = (int8_t)(t % 5 ? (int)(word() % 256) - 128 : word() % 2 ? -128 : 127);
        for (int32_t i = 0; i < m; i++) x[i] = (int16_t)((int)(word() % 256) - 128);
        if (t % 11 == 0) x[m / 2] = (int16_t)(128 + (int)(word() % 300)); /* beyond int8 */
        for (int32_t k = 0; k < n; k++) bias[k] = (int32_t)(word() % 100000) - 50000;
        for (int32_t k = 0; t % 3 == 0 && k < n; k++) { /* sums at the ends of int32, parts of which lie beyond */
            int32_t products = 0;
            for (int32_t i = 0; i < m; i++) products += w[k * m + i] * x[i];
            bias[k] = (products > 0 ? INT32_MAX : INT32_MIN) - products;
        }
        er_layer_sums(sums, w, x, bias, n, m);
        for (int32_t k = 0; k < n; k++) {
            int64_t sum = bias[k];
            for (int32_t i = 0; i < m; i++) sum += w[k * m + i] * x[i];
            wrong += sum != sums[k];
        }
    }
    printf("%ld\n", wrong);
    return 0;
}
