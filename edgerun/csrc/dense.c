/* Dense layers: int8 weights times int16 values, four rows at a time, so that each value is read once for four sums.
 * Sums are taken modulo 2**32: parts of them may leave int32 where the whole does not.
 */
#include "clones.h"
#include "dense_dot.h"
#include "dense_vnni.h"
#include "kinds.h"

enum { ROWS = 256 }; /* sums that lie on the stack at once */

ER_CLONES
static void portable_sums(int32_t *restrict sums, const int8_t *restrict weight, const int16_t *restrict x,
                   const int32_t *restrict bias, int32_t n, int32_t m) {
    int32_t k = 0;
    for (; k + 4 <= n; k += 4) {
        const int8_t *w0 = weight + (size_t)k * (size_t)m, *w1 = w0 + m, *w2 = w1 + m, *w3 = w2 + m;
        uint32_t s0 = (uint32_t)bias[k], s1 = (uint32_t)bias[k + 1], s2 = (uint32_t)bias[k + 2],
                 s3 = (uint32_t)bias[k + 3];
        for (int32_t i = 0; i < m; i++) {
            s0 += (uint32_t)(w0[i] * x[i]);
            s1 += (uint32_t)(w1[i] * x[i]);
            s2 += (uint32_t)(w2[i] * x[i]);
            s3 += (uint32_t)(w3[i] * x[i]);
        }
        sums[k] = (int32_t)s0;
        sums[k + 1] = (int32_t)s1;
        sums[k + 2] = (int32_t)s2;
        sums[k + 3] = (int32_t)s3;
    }
    for (; k < n; k++) {
        const int8_t *w = weight + (size_t)k * (size_t)m;
        uint32_t sum = (uint32_t)bias[k];
        for (int32_t i = 0; i < m; i++) sum += (uint32_t)(w[i] * x[i]);
        sums[k] = (int32_t)sum;
    }
}

#ifdef __ARM_FEATURE_DSP
#include <arm_acle.h>
#include <string.h>

static inline uint32_t word(const void *from) {
    uint32_t found;
    memcpy(&found, from, sizeof found);
    return found;
}

/* s + w[0] x[0] + w[2] x[2] + w[1] x[1] + w[3] x[3]: two products an instruction of Cortex-M4 and later. */
static inline int32_t four(int32_t s, uint32_t w, int16x2_t even, int16x2_t odd) {
    return __smlad(__sxtb16((int8x4_t)(w >> 8 | w << 24)), odd, __smlad(__sxtb16((int8x4_t)w), even, s));
}

/* The sums of the first values, as many as are a multiple of four; returns how many. x is taken apart once for 4 rows. */
static int32_t dsp_sums(int32_t *s, const int8_t *weight, const int16_t *x, int32_t m) {
    int32_t i = 0;
    for (; i + 4 <= m; i += 4) {
        const uint32_t low = word(x + i), high = word(x + i + 2);
        const int16x2_t even = (int16x2_t)((low & 0xffff) | high << 16), odd = (int16x2_t)(low >> 16 | (high & 0xffff0000));
        s[0] = four(s[0], word(weight + i), even, odd);
        s[1] = four(s[1], word(weight + m + i), even, odd);
        s[2] = four(s[2], word(weight + 2 * m + i), even, odd);
        s[3] = four(s[3], word(weight + 3 * m + i), even, odd);
    }
    return i;
}

static void few_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m) {
    int32_t k = 0;
    for (; k + 4 <= n; k += 4) {
        int32_t s[4] = {bias[k], bias[k + 1], bias[k + 2], bias[k + 3]};
        const int8_t *rows = weight + (size_t)k * (size_t)m;
        for (int32_t i = dsp_sums(s, rows, x, m); i < m; i++)
            for (int32_t j = 0; j < 4; j++)
                s[j] = (int32_t)((uint32_t)s[j] + (uint32_t)(rows[(size_t)j * (size_t)m + (size_t)i] * x[i]));
        memcpy(sums + k, s, sizeof s);
    }
    if (k < n) portable_sums(sums + k, weight + (size_t)k * (size_t)m, x, bias + k, n - k, m);
}
#define portable_sums few_sums
#endif

void er_layer_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m) {
#ifdef ER_VNNI
    if (er_vnni_sums(sums, weight, x, bias, n, m)) return;
#endif
#ifdef ER_DOT
    if (er_dot_sums(sums, weight, x, bias, n, m)) return;
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
#ifdef ER_VNNI
    if (er_vnni_requant(y, sums, multiplier, shift, (int32_t)zero_point, (int32_t)low, (int32_t)high, n)) return;
#endif
    requant_row(y, sums, multiplier, shift, zero_point, low, high, n);
}

int64_t er_dense_packed(const er_dense *r) {
#ifdef ER_VNNI
    return er_vnni_packed(r->outputs, r->inputs);
#else
    (void)r;
    return 0;
#endif
}

void er_dense_pack(const er_dense *r, int8_t *packed) {
#ifdef ER_VNNI
    er_vnni_pack(packed, r->weight, r->bias, r->outputs, r->inputs);
#else
    (void)r, (void)packed;
#endif
}

void er_dense_step(const er_dense *r) {
#ifdef ER_VNNI
    if (r->packed && er_vnni_dense(r)) return;
#endif
    uint32_t total = 0;
    if (r->weight_zero)
        for (int32_t i = 0; i < r->inputs; i++) total += (uint32_t)r->x[i];
    for (int32_t first = 0; first < r->outputs; first += ROWS) {
        int32_t sums[ROWS], n = r->outputs - first < ROWS ? r->outputs - first : ROWS;
        er_layer_sums(sums, r->weight + (size_t)first * (size_t)r->inputs, r->x, r->bias + first, n, r->inputs);
        for (int32_t k = 0; r->weight_zero && k < n; k++)
            sums[k] = (int32_t)((uint32_t)sums[k] - (uint32_t)r->weight_zero[first + k] * total);
        er_requant_row(r->y + first, sums, r->multiplier + first, r->shift + first, r->zero_point, r->qmin, r->qmax, n);
    }
}
ER_READS_OUTPUT(er_dense)
