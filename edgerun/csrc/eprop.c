/* e-prop over one recorded window: traces, signals, and the size of a gradient that is not formed. */
#include "edgerun.h"

#include <string.h>

#include "clones.h"

/* ---------------------------------------------------------------- traces */

/* f of the trace's increment 2**f: the largest with which a unit giving `reach` at every step cannot saturate. */
static int32_t trace_gain(int32_t decay, int32_t reach) {
    int32_t room = (int32_t)((int64_t)32767 * (32768 - decay) >> 15) / reach, f = 0;
    while (room >> (f + 1) > 0) f++;
    return f;
}

/* drive (units,) <- what comes in at one step, times 2**f */
static void take_in(const er_trace *r, int32_t *drive, int32_t step, int32_t unit) {
    const size_t first = (size_t)step * (size_t)r->units;
    if (r->pre)
        for (int32_t i = 0; i < r->units; i++) drive[i] = r->pre[first + (size_t)i] * unit;
    else if (r->pre_wide)
        for (int32_t i = 0; i < r->units; i++) drive[i] = r->pre_wide[first + (size_t)i] * unit;
    else
        for (int32_t i = 0; i < r->units; i++) drive[i] = r->spikes[first + (size_t)i] * unit;
}

/* x <- sat16((x * decay + carry >> 15) + drive)   all (n,) */
ER_CLONES
static void leak(int32_t *restrict x, int32_t *restrict carry, const int32_t *restrict drive, int32_t decay,
                 int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        const int32_t t = x[i] * decay + carry[i], y = (t >> 15) + drive[i];
        carry[i] = t & 0x7fff;
        x[i] = y < INT16_MIN ? INT16_MIN : y > INT16_MAX ? INT16_MAX : y;
    }
}

/* The high byte of the trace, what it leaves out going along in `rest`. */
ER_CLONES
static void keep_high(int8_t *restrict history, const int32_t *restrict x, int32_t *restrict rest, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        const int32_t w = rest[i] + x[i], high = w >> 8;
        history[i] = (int8_t)(high < INT8_MAX ? high : INT8_MAX);
        rest[i] = w & 0xff;
    }
}

void er_traces(const er_trace *r) {
    const int32_t n = r->units, unit = 1 << trace_gain(r->decay, r->reach);
    int32_t *x = r->state, *carry = x + n, *drive = carry + n, *rest = drive + n;
    memset(x, 0, 3 * (size_t)n * sizeof *x);
    for (int32_t i = 0; i < n; i++) rest[i] = 128;
    for (int32_t t = 0; t < r->steps; t++) {
        if (t >= r->late) take_in(r, drive, t - r->late, unit);
        leak(x, carry, drive, r->decay, n);
        const int32_t kept = t - (r->steps - r->kept);
        if (kept < 0) continue;
        if (r->history_high)
            keep_high(r->history_high + (size_t)kept * (size_t)n, x, rest, n);
        else
            for (int32_t i = 0; i < n; i++) r->history[(size_t)kept * (size_t)n + (size_t)i] = (int16_t)x[i];
    }
}

void er_trace_step(int16_t *history, int32_t *state, const int16_t *x, const int32_t *wide, const uint8_t *spikes,
                   int32_t decay, int32_t reach, int32_t units) {
    const int32_t unit = 1 << trace_gain(decay, reach);
    int32_t *trace = state, *carry = trace + units, *drive = carry + units;
    for (int32_t i = 0; i < units; i++) drive[i] = (x ? x[i] : wide ? wide[i] : spikes[i]) * unit;
    leak(trace, carry, drive, decay, units);
    for (int32_t i = 0; i < units; i++) history[i] = (int16_t)trace[i];
}

/* ---------------------------------------------------------------- errors and signals */

int32_t er_value_error(int32_t *error, const int32_t *outputs, const int16_t *target, int32_t shift, int32_t size) {
    int64_t total = 0;
    for (int32_t i = 0; i < size; i++) {
        const int64_t missed = outputs[i] - (int64_t)target[i] * 4096 + ((int64_t)1 << (shift - 1));
        error[i] = er_sat16(missed >> shift);
        total += error[i] < 0 ? -error[i] : error[i];
    }
    const int64_t near = (1 << 15) - total / size;
    return near > 0 ? (int32_t)near : 0;
}

void er_learning_signal(int16_t *signal, const int32_t *error, const int8_t *feedback, const int16_t *shadow,
                        int32_t shift, int32_t steps, int32_t n, int32_t k) {
    for (int32_t t = 0; t < steps; t++)
        for (int32_t j = 0; j < n; j++) {
            const int32_t *e = error + (size_t)t * (size_t)k;
            int64_t sum = (int64_t)1 << (shift - 1);
            for (int32_t i = 0; i < k; i++) {
                const size_t at = (size_t)j * (size_t)k + (size_t)i;
                sum += (int64_t)e[i] * (feedback ? feedback[at] : shadow[at] >> 8);
            }
            signal[(size_t)t * (size_t)n + (size_t)j] = er_sat16(sum >> shift);
        }
}

/* One step of the filter: |x| and |signal| <= 2**15, so a convex sum of both fits 31 bits. */
ER_CLONES
static void filter(int16_t *restrict signal, int32_t *restrict x, int32_t *restrict carry, int32_t kappa, int32_t n) {
    for (int32_t j = 0; j < n; j++) {
        const int32_t t = x[j] * kappa + signal[j] * ((1 << 15) - kappa) + carry[j], y = t >> 15;
        carry[j] = t & 0x7fff;
        x[j] = y < INT16_MIN ? INT16_MIN : y > INT16_MAX ? INT16_MAX : y;
        signal[j] = (int16_t)x[j];
    }
}

void er_filter_backwards(int16_t *filtered, int32_t kappa, int32_t *state, int32_t steps, int32_t n) {
    memset(state, 0, 2 * (size_t)n * sizeof *state);
    for (int32_t t = steps - 1; t >= 0; t--) filter(filtered + (size_t)t * (size_t)n, state, state + n, kappa, n);
}

void er_regularise(int16_t *filtered, const uint8_t *spikes, int32_t target, int32_t cost, int32_t steps, int32_t n) {
    for (int32_t j = 0; j < n; j++) {
        int32_t count = 0;
        for (int32_t t = 0; t < steps; t++) count += spikes[(size_t)t * (size_t)n + (size_t)j];
        const int64_t surplus = 256 * count - target;
        const int32_t push = er_sat16((surplus * cost + (1 << 15)) >> 16);
        for (int32_t t = 0; t < steps; t++) {
            int16_t *at = filtered + (size_t)t * (size_t)n + j;
            *at = er_sat16(*at + push);
        }
    }
}

ER_CLONES
static void post_factors(int16_t *restrict post, const uint8_t *restrict psi, int32_t shift, size_t size) {
    for (size_t i = 0; i < size; i++) {
        const int32_t x = (psi[i] * post[i] + (1 << (shift - 1))) >> shift;
        post[i] = (int16_t)(x < INT16_MIN ? INT16_MIN : x > INT16_MAX ? INT16_MAX : x);
    }
}

void er_post_factor(int16_t *post, const uint8_t *psi, int32_t shift, int32_t steps, int32_t n) {
    post_factors(post, psi, shift, (size_t)steps * (size_t)n);
}

void er_post_factor_adaptive(int16_t *post, const uint8_t *psi, int32_t shift, int32_t gamma, const int16_t *beta,
                             const uint16_t *rho, int64_t *adjoint, int32_t steps, int32_t n) {
    memset(adjoint, 0, (size_t)n * sizeof *adjoint);
    for (int32_t t = steps - 1; t >= 0; t--)
        for (int32_t j = 0; j < n; j++) {
            const size_t at = (size_t)t * (size_t)n + (size_t)j;
            const int64_t seen = post[at] - ((beta[j] * adjoint[j] + 2048) >> 12);
            const int64_t slope = (gamma * psi[at] * seen + (1 << 15)) >> 16;
            post[at] = er_sat16((psi[at] * seen + (1 << (shift - 1))) >> shift);
            adjoint[j] = er_sat32(slope + ((rho[j] * adjoint[j] + (1 << 14)) >> 15));
        }
}

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
