/* er_error_below beside its definition in 64 bits: prints how many of many errors differ. Run by
 * test_native_processors.py.
 */
#include <stdio.h>

#include "edgerun.h"

enum { MOST = 600, WIDEST = 200, ROUNDS = 1000 };

static uint64_t word(void) {
    static uint64_t s = 88172645463325252u;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return s >> 11;
}

/* In turn: anything, what saturates with one sign, and sums on both sides of the one that 32 bits stop at. */
static int32_t draw(int t) {
    if (t % 3 == 0) return (int32_t)(word() % 65536) - 32768;
    return t % 3 == 1 ? (t % 2 ? INT16_MIN : INT16_MAX) : 32767 - (int32_t)(word() % 9);
}

int main(void) {
    static int8_t w[MOST * WIDEST];
    static int16_t error[MOST], active[WIDEST], below[WIDEST];
    long wrong = 0;
    for (int t = 0; t < ROUNDS; t++) {
        const int32_t n = t % 3 == 2 ? 511 + (int32_t)(word() % 4) : 1 + (int32_t)(word() % MOST);
        const int32_t m = 1 + (int32_t)(word() % WIDEST), shift = (int32_t)(word() % 20);
        for (int32_t k = 0; k < n; k++) error[k] = (int16_t)(word() % 5 || t % 3 == 2 ? draw(t) : 0);
        for (int32_t i = 0; i < n * m; i++) w[i] = (int8_t)(t % 5 ? -128 : (int)(word() % 256) - 128);
        for (int32_t i = 0; i < m; i++) active[i] = (int16_t)(word() % 4);
        er_error_below(below, w, error, shift, active, n, m);
        for (int32_t i = 0; i < m; i++) {
            int64_t sum = ((int64_t)1 << shift) >> 1;
            for (int32_t k = 0; k < n; k++) sum += error[k] * w[k * m + i];
            wrong += below[i] != (active[i] ? er_sat16(sum >> shift) : 0);
        }
    }
    printf("%ld\n", wrong);
    return 0;
}
