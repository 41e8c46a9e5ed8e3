/* e-prop over one recorded window: traces, signals and the size of a gradient that is not formed. */
#include "edgerun.h"

#include <string.h>

#include "clones.h"

/* ---------------------------------------------------------------- the norm of a gradient */

/* 160 bits, the lowest 32 first: |G|**2 eta**2 / 2**24 stays under 2**113. */
typedef struct wide {
    uint32_t limb[5];
} wide;

/* x += value * 2**shift, modulo 2**160.   shift < 32 */
static void add_shifted(wide *x, int64_t value, int32_t shift) {
    const uint32_t sign = value < 0 ? UINT32_MAX : 0;
    const uint64_t low = (uint64_t)value << shift;
    const uint32_t over = shift ? (uint32_t)(value >> (64 - shift)) : sign;
    const uint32_t added[5] = {(uint32_t)low, (uint32_t)(low >> 32), over, sign, sign};
    uint64_t carry = 0;
    for (int k = 0; k < 5; k++) {
        carry += (uint64_t)x->limb[k] + added[k];
        x->limb[k] = (uint32_t)carry;
        carry >>= 32;
    }
}

static void multiply(wide *x, uint32_t factor) {
    uint64_t carry = 0;
    for (int k = 0; k < 5; k++) {
        carry += (uint64_t)x->limb[k] * factor;
        x->limb[k] = (uint32_t)carry;
        carry >>= 32;
    }
}

/* x >= 0 times 2**bits, bits < 64 */
static wide shifted(wide x, int32_t bits) {
    for (; bits >= 16; bits -= 16) multiply(&x, 1 << 16);
    multiply(&x, (uint32_t)1 << bits);
    return x;
}

static int exceeds(const wide *a, const wide *b) {
    for (int k = 4; k >= 0; k--)
        if (a->limb[k] != b->limb[k]) return a->limb[k] > b->limb[k];
    return 0;
}

ER_CLONES
static int64_t product(const int16_t *restrict a, const int16_t *restrict b, int32_t n) {
    int64_t sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (int64_t)(a[i] * b[i]);
    return sum;
}

ER_CLONES
static int32_t product_high(const int8_t *restrict a, const int8_t *restrict b, int32_t n) {
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* <h_t, h_s> >> 12, of histories that count 2**8 where they are high bytes */
static int64_t history_bracket(const er_plastic *p, int32_t t, int32_t s) {
    const size_t a = (size_t)t * (size_t)p->rows, b = (size_t)s * (size_t)p->rows;
    if (p->history_high) return (int64_t)product_high(p->history_high + a, p->history_high + b, p->rows) * 16;
    return product(p->history + a, p->history + b, p->rows) >> 12;
}

/* |G|**2 / 2**24 = sum_ts (<h_t, h_s> >> 12) * (<p_t, p_s> >> 12) of G = h' p, at least 0.   rows, columns <= 2**16
 *
 * A bracket reaches 2**34, a product 2**68: one factor is cut at bit 17, and 128 of each part fit 64 bits.
 */
static wide squared_norm(const er_plastic *p) {
    wide total = {{0}};
    for (int32_t t = 0; t < p->steps; t++) {
        int64_t high = 0, low = 0;
        for (int32_t s = 0; s <= t; s++) {
            const int64_t left = history_bracket(p, t, s);
            if (!left) continue;
            const size_t a = (size_t)t * (size_t)p->columns, b = (size_t)s * (size_t)p->columns;
            const int64_t right = (product(p->post + a, p->post + b, p->columns) >> 12) * (s < t ? 2 : 1);
            high += (left >> 17) * right;
            low += (left & 0x1ffff) * right;
        }
        add_shifted(&total, high, 17);
        add_shifted(&total, low, 0);
    }
    return total.limb[4] >> 31 ? (wide){{0}} : total;
}

int32_t er_limit_shift(const er_plastic *p) {
    if (!p->max_norm) return 0;
    wide left = squared_norm(p), right = {{0}};
    multiply(&left, (uint32_t)p->eta * (uint32_t)p->eta);
    add_shifted(&right, (int64_t)p->max_norm * p->max_norm, 0);
    int32_t extra = 0;
    for (; p->shift + extra < 30; extra++) {
        const int32_t bits = 2 * (p->shift + extra) - 24; /* left * 2**24 > right * 2**(2 (shift + extra)) */
        const wide a = bits < 0 ? shifted(left, -bits) : left, b = bits > 0 ? shifted(right, bits) : right;
        if (!exceeds(&a, &b)) break;
    }
    return extra;
}
