/* edgerun: integer inference and learning, once for workstations, Linux boards and microcontrollers.
 *
 * C99, no allocation, no libc beyond memcpy and memset, no float but in `rounding_vnni.h`, where it holds an integer.
 * Every function here gives the bits that the numpy kernel of the same name gives (`edgerun/kernels`, `edgerun/ops`);
 * `docs/arithmetic.md` is the specification of both.
 *
 * Values between layers are int16 where |value| < 2**15, int32 sums otherwise. Arrays lie in C order and never overlap
 * unless a function says that they may. No array needs an alignment beyond its element's.
 *
 * A record describes a layer at work: numbers, arrays that it reads, arrays that it keeps or writes. Records are made
 * from lists, so that whoever fills one (module.c, or a generated C project) is checked against the same list:
 *
 *     I(name)                  int32_t
 *     IN(type, name, count)    const type *, read, `count` elements
 *     OPT(type, name, count)   the same, or NULL
 *     OUT(type, name, count)   type *, written
 *     MAY(type, name, count)   the same, or NULL
 *
 * `count` may use the record's own numbers as r->name.
 */
#ifndef EDGERUN_H
#define EDGERUN_H

#include <stddef.h>
#include <stdint.h>

#if (-3 >> 1) != -2
#error "edgerun needs a compiler whose >> of negative numbers is arithmetic"
#endif

#define ER_NUMBER(name) int32_t name;
#define ER_READ(type, name, count) const type *name;
#define ER_WRITE(type, name, count) type *name;
#define ER_RECORD(tag, FIELDS) \
    typedef struct tag { FIELDS(ER_NUMBER, ER_READ, ER_READ, ER_WRITE, ER_WRITE) } tag;

/* A source: int16, or int32 where its values reach further. The pointer to the other is NULL. */
#define ER_SOURCE(OPT, count) OPT(int16_t, x, count) OPT(int32_t, wide, count)
static inline int32_t er_value(const int16_t *x, const int32_t *wide, int32_t i) { return x ? x[i] : wide[i]; }

/* Sums (count,), and the same in int16 for the layers behind where they always fit. */
#define ER_SUMS(OUT, MAY, count) OUT(int32_t, sums, count) MAY(int16_t, y, count)

static inline int32_t er_clip(int64_t x, int32_t low, int32_t high) {
    return x < low ? low : x > high ? high : (int32_t)x;
}
static inline int16_t er_sat16(int64_t x) { return (int16_t)er_clip(x, INT16_MIN, INT16_MAX); }
static inline int32_t er_sat32(int64_t x) { return er_clip(x, INT32_MIN, INT32_MAX); }

/* Elements of an array of a times b; -1, which no array has, where one is below 0 or they are more than 2**62. */
static inline int64_t er_product(int64_t a, int64_t b) {
    return a < 0 || b < 0 || (a && b > ((int64_t)1 << 62) / a) ? -1 : a * b;
}

/* ---------------------------------------------------------------- dense layers */

/* y = clip(((sum * m + 2**(s-1)) >> s) + zero_point, qmin, qmax), sum = W x + b, m < 2**24, 1 <= s <= 46, |sum| < 2**31
 *
 * weight (outputs, inputs)   x (inputs,) |x| <= 128   bias, multiplier, shift (outputs,)
 * weight_zero (outputs,) or NULL   packed: see er_layer_pack
 */
#define ER_DENSE(I, IN, OPT, OUT, MAY) \
    I(inputs) I(outputs) I(zero_point) I(qmin) I(qmax) \
    IN(int8_t, weight, (int64_t)r->outputs * r->inputs) IN(int32_t, bias, r->outputs) \
    IN(int32_t, multiplier, r->outputs) IN(uint8_t, shift, r->outputs) OPT(int8_t, weight_zero, r->outputs) \
    IN(int16_t, x, r->inputs) OUT(int16_t, y, r->outputs) OPT(int8_t, packed, er_dense_packed(r))
ER_RECORD(er_dense, ER_DENSE)
void er_dense_step(const er_dense *r);
int64_t er_dense_packed(const er_dense *r);
void er_dense_pack(const er_dense *r, int8_t *packed);

/* sums <- W x + b. x may be any int16 as long as sums fit int32.  weight (n, m), x (m,), bias, sums (n,) */
void er_layer_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m);

/* clip(((sum * m + 2**(s-1)) >> s) + zero_point, low, high) */
static inline int16_t er_requant(int32_t sum, int32_t m, int32_t s, int32_t zero_point, int32_t low, int32_t high) {
    return (int16_t)er_clip((((int64_t)sum * m + ((int64_t)1 << (s - 1))) >> s) + zero_point, low, high);
}

/* ---------------------------------------------------------------- images (height, width, channel) */

/* Windows over an image. Along one axis, output o of k taps sees the places o * stride + dilation * t - before. */
#define ER_WINDOW(I) \
    I(height) I(width) I(channels) I(kernel_h) I(kernel_w) I(stride_h) I(stride_w) I(dilation_h) I(dilation_w) \
    I(top) I(left) I(out_h) I(out_w)
#define ER_IMAGE er_product((int64_t)r->height * r->width, r->channels)
#define ER_TAPS ((int64_t)r->kernel_h * r->kernel_w)
typedef struct er_window { ER_WINDOW(ER_NUMBER) } er_window;

/* y[i, j, f] = requant(b[f] + sum of w[f, r, t, c] * x[...]), |x| <= 128; padding holds `fill`.
 * y (out_h, out_w, filters). packed: see er_layer_pack. Scratch: sums, and window, what one place sees.
 */
#define ER_CONV(I, IN, OPT, OUT, MAY) \
    I(outputs) ER_WINDOW(I) I(filters) I(fill) I(zero_point) I(qmin) I(qmax) \
    IN(int8_t, weight, er_product(r->filters, er_product(ER_TAPS, r->channels))) IN(int32_t, bias, r->filters) \
    IN(int32_t, multiplier, r->filters) IN(uint8_t, shift, r->filters) OPT(int8_t, weight_zero, r->filters) \
    IN(int16_t, x, ER_IMAGE) OUT(int16_t, y, r->outputs) OUT(int32_t, sums, r->filters) \
    OUT(int16_t, window, er_product(ER_TAPS, r->channels)) OPT(int8_t, packed, er_conv_packed(r))
ER_RECORD(er_conv, ER_CONV)
void er_conv_step(const er_conv *r);
int64_t er_conv_packed(const er_conv *r);
void er_conv_pack(const er_conv *r, int8_t *packed);

/* The same where filter f sees channel f / (filters / channels) alone: w (filters, kh, kw). |x| <= 128.
 * Scratch: sums, and taps (kh, kw, filters), the weights in the order that rows of filters multiply in.
 */
#define ER_DEPTHWISE(I, IN, OPT, OUT, MAY) \
    I(outputs) ER_WINDOW(I) I(filters) I(fill) I(zero_point) I(qmin) I(qmax) \
    IN(int8_t, weight, er_product(r->filters, ER_TAPS)) IN(int32_t, bias, r->filters) \
    IN(int32_t, multiplier, r->filters) IN(uint8_t, shift, r->filters) OPT(int8_t, weight_zero, r->filters) \
    IN(int16_t, x, ER_IMAGE) OUT(int16_t, y, r->outputs) OUT(int32_t, sums, r->filters) \
    OUT(int16_t, taps, er_product(r->filters, ER_TAPS)) OPT(int8_t, packed, er_depthwise_packed(r))
ER_RECORD(er_depthwise, ER_DEPTHWISE)
void er_depthwise_step(const er_depthwise *r);
int64_t er_depthwise_packed(const er_depthwise *r);
void er_depthwise_pack(const er_depthwise *r, int8_t *packed);

/* Raw sums of a convolution of x - zero_point, event by event; padding is the zero point. No learning writes its
 * weights: they lie as (kernel_h, channels, kernel_w, filters), the last column first.
 */
#define ER_CONV_SUM(I, IN, OPT, OUT, MAY) \
    I(outputs) ER_WINDOW(I) I(filters) I(zero_point) \
    IN(int8_t, weight, er_product(r->filters, er_product(ER_TAPS, r->channels))) \
    ER_SOURCE(OPT, ER_IMAGE) ER_SUMS(OUT, MAY, r->outputs)
ER_RECORD(er_conv_sum, ER_CONV_SUM)
void er_conv_sum_step(const er_conv_sum *r);

/* y = clip(the largest x of the window). x >= -128; every window sees a value. */
#define ER_MAX_POOL(I, IN, OPT, OUT, MAY) \
    I(outputs) ER_WINDOW(I) I(qmin) I(qmax) IN(int16_t, x, ER_IMAGE) OUT(int16_t, y, r->outputs)
ER_RECORD(er_max_pool, ER_MAX_POOL)
void er_max_pool_step(const er_max_pool *r);

enum er_ties { ER_TIES_UP, ER_TIES_EVEN, ER_TIES_AWAY };

/* y = clip((sum * m + o >> s) + zero_point); m, o, s belong to the number of values that a window sees: `size`, in
 * rising order. `ties` as in `edgerun.layers.AveragePool`. Scratch: sums.
 */
#define ER_AVERAGE_POOL(I, IN, OPT, OUT, MAY) \
    I(outputs) ER_WINDOW(I) I(sizes) I(ties) I(zero_point) I(qmin) I(qmax) IN(int32_t, size, r->sizes) \
    IN(int32_t, multiplier, r->sizes) IN(int64_t, offset, r->sizes) IN(uint8_t, shift, r->sizes) \
    IN(int16_t, x, ER_IMAGE) OUT(int16_t, y, r->outputs) OUT(int32_t, sums, r->channels)
ER_RECORD(er_average_pool, ER_AVERAGE_POOL)
void er_average_pool_step(const er_average_pool *r);

/* The sum of each window, padding 0. */
#define ER_SUM_POOL(I, IN, OPT, OUT, MAY) \
    I(outputs) ER_WINDOW(I) ER_SOURCE(OPT, ER_IMAGE) ER_SUMS(OUT, MAY, r->outputs)
ER_RECORD(er_sum_pool, ER_SUM_POOL)
void er_sum_pool_step(const er_sum_pool *r);

/* ---------------------------------------------------------------- value by value */

/* Two sources under one shape (shape[0], .., shape[rank - 1]): each goes on by its own stride along an axis, 0 where it
 * has one value for all; along the last one by 0 or 1.
 */
#define ER_PAIR(I, IN) \
    I(outputs) I(rank) I(size_a) I(size_b) IN(int32_t, shape, r->rank) IN(int32_t, stride_a, r->rank) \
    IN(int32_t, stride_b, r->rank) IN(int16_t, a, r->size_a) IN(int16_t, b, r->size_b)

/* y = clip(((a * ma + b * mb + offset) >> s) + zero_point) */
#define ER_ADD(I, IN, OPT, OUT, MAY) \
    ER_PAIR(I, IN) I(multiplier_a) I(multiplier_b) I(shift) I(zero_point) I(qmin) I(qmax) IN(int64_t, offset, 1) \
    OUT(int16_t, y, r->outputs)
ER_RECORD(er_add, ER_ADD)
void er_add_step(const er_add *r);

/* y = clip((((a - za) * (b - zb) * m + 2**(s-1)) >> s) + zero_point) */
#define ER_MUL(I, IN, OPT, OUT, MAY) \
    ER_PAIR(I, IN) I(zero_a) I(zero_b) I(multiplier) I(shift) I(zero_point) I(qmin) I(qmax) OUT(int16_t, y, r->outputs)
ER_RECORD(er_mul, ER_MUL)
void er_mul_step(const er_mul *r);

/* y = table[x + 128], |x| <= 128 */
#define ER_LOOKUP(I, IN, OPT, OUT, MAY) \
    I(outputs) IN(int8_t, table, 256) IN(int16_t, x, r->outputs) OUT(int16_t, y, r->outputs)
ER_RECORD(er_lookup, ER_LOOKUP)
void er_lookup_step(const er_lookup *r);

/* sums <- a + b. More sources make a chain; x may be the chain's own sums so far. */
#define ER_TOTAL(I, IN, OPT, OUT, MAY) \
    I(outputs) ER_SOURCE(OPT, r->outputs) OPT(int16_t, other, r->outputs) OPT(int32_t, wide_other, r->outputs) \
    ER_SUMS(OUT, MAY, r->outputs)
ER_RECORD(er_total, ER_TOTAL)
void er_total_step(const er_total *r);

/* ---------------------------------------------------------------- moving values */

/* y[to + sum i * step_to] <- x[from + sum i * step_from] for every i under shape: joining, turning, padding, cutting.
 * With `fills` all of y is `value` first. Where values reach further than int16, sums is there in place of y.
 */
#define ER_MOVE(I, IN, OPT, OUT, MAY) \
    I(inputs) I(outputs) I(rank) I(from) I(to) I(fills) I(value) IN(int32_t, shape, r->rank) \
    IN(int32_t, step_from, r->rank) IN(int32_t, step_to, r->rank) ER_SOURCE(OPT, r->inputs) \
    MAY(int16_t, y, r->outputs) MAY(int32_t, sums, r->outputs)
ER_RECORD(er_move, ER_MOVE)
void er_move_step(const er_move *r);

/* y[outer, k, inner] <- x[outer, index[k], inner]      x (outer, size, inner), index in [0, size) */
#define ER_TAKE(I, IN, OPT, OUT, MAY) \
    I(inputs) I(outputs) I(outer) I(size) I(count) I(inner) IN(int32_t, index, r->count) ER_SOURCE(OPT, r->inputs) \
    MAY(int16_t, y, r->outputs) MAY(int32_t, sums, r->outputs)
ER_RECORD(er_take, ER_TAKE)
void er_take_step(const er_take *r);

/* ---------------------------------------------------------------- by rows */

/* y = min(half_up(e * m / (S * 2**s)) + zero_point, 127), e = exponentials[max x - x], S their sum in a row, <= 2**50 */
#define ER_SOFTMAX(I, IN, OPT, OUT, MAY) \
    I(outputs) I(row) I(multiplier) I(shift) I(zero_point) IN(int32_t, exponentials, 256) \
    IN(int16_t, x, r->outputs) OUT(int16_t, y, r->outputs)
ER_RECORD(er_softmax, ER_SOFTMAX)
void er_softmax_step(const er_softmax *r);

/* y = max(((2**(s-1) - d * md - L * ml) >> s) + zero_point, -128), L = ln(S / 2**30) in Q12 by ten bits' logarithms */
#define ER_LOG_SOFTMAX(I, IN, OPT, OUT, MAY) \
    I(outputs) I(row) I(multiplier_d) I(multiplier_l) I(shift) I(zero_point) IN(int32_t, exponentials, 256) \
    IN(int16_t, logarithms, 1024) IN(int16_t, x, r->outputs) OUT(int16_t, y, r->outputs)
ER_RECORD(er_log_softmax, ER_LOG_SOFTMAX)
void er_log_softmax_step(const er_log_softmax *r);

/* Rows to mean 0 and variance 1 in Q20, then scaled channel by channel: `edgerun.kernels.norm`.   |x| <= 128 */
#define ER_LAYER_NORM(I, IN, OPT, OUT, MAY) \
    I(outputs) I(row) I(shift) I(zero_point) I(qmin) I(qmax) IN(int64_t, epsilon, 1) IN(int32_t, multiplier, r->row) \
    IN(int64_t, offset, r->row) IN(int16_t, x, r->outputs) OUT(int16_t, y, r->outputs)
ER_RECORD(er_layer_norm, ER_LAYER_NORM)
void er_layer_norm_step(const er_layer_norm *r);

/* ---------------------------------------------------------------- spiking layers */

/* t = x * decay + carry; carry = t mod 2**15; x = sat16((t >> 15) + drive).   decay in [0, 2**15], |drive| < 2**30 */
static inline void er_leak(int16_t *x, uint16_t *carry, int32_t decay, int32_t drive) {
    int32_t t = *x * decay + *carry;
    *carry = (uint16_t)(t & 0x7fff);
    *x = er_sat16((t >> 15) + drive);
}

/* The same in 32 bits: t = y * kappa + carry; y = sat32((t >> 15) + drive). */
static inline void er_integrate(int32_t *y, uint16_t *carry, int32_t kappa, int64_t drive) {
    int64_t t = (int64_t)*y * kappa + *carry;
    *carry = (uint16_t)(t & 0x7fff);
    *y = er_sat32((t >> 15) + drive);
}

/* sum * 2**shift, or half up sum / 2**-shift */
static inline int64_t er_scale_sum(int32_t sum, int32_t shift) {
    return shift >= 0 ? (int64_t)sum * ((int64_t)1 << shift) : ((int64_t)sum + ((int64_t)1 << (-shift - 1))) >> -shift;
}

/* psi <- min(255, max(0, width - |margin|) * 256 / width), width the threshold, or 4096 where that is under 256 */
static inline uint8_t er_surrogate(int32_t margin, int32_t threshold) {
    int32_t width = threshold >= 256 ? threshold : 4096, near = width - (margin < 0 ? -margin : margin);
    near = near > 0 ? (near << 8) / width : 0;
    return (uint8_t)(near < 255 ? near : 255);
}

/* sums (n,) += value * row */
void er_add_row(int32_t *sums, const int8_t *row, int32_t value, int32_t n);
/* sums (n,) += x W, event by event: rows of W (m, n) whose x is 0 are not read. */
void er_add_rows(int32_t *sums, const int8_t *weight, const int16_t *x, int32_t m, int32_t n);
/* The same of int32 values. */
void er_add_wide_rows(int32_t *sums, const int8_t *weight, const int32_t *x, int32_t m, int32_t n);
/* The same of spikes (m,) 0 or 1, each counting `unit`. */
void er_add_spikes(int32_t *sums, const int8_t *weight, const uint8_t *spikes, int32_t unit, int32_t m, int32_t n);
/* Both with the high bytes of shadows (m, n) as weights: learning's profile `small`. */
void er_add_rows_high(int32_t *sums, const int16_t *shadow, const int16_t *x, int32_t m, int32_t n);
void er_add_spikes_high(int32_t *sums, const int16_t *shadow, const uint8_t *spikes, int32_t unit, int32_t m, int32_t n);

enum er_reset { ER_RESET_SUBTRACT, ER_RESET_ZERO, ER_RESET_HOLD, ER_RESET_NONE, ER_RESET_SOFT };

/* Recurrent LIF or ALIF neurons: `edgerun.layers.Lif`. Weights are pre-major. recurrent, rho and resting are NULL where
 * the layer has none. y, a copy of the newest spikes for the layers behind, is NULL where nobody reads it. Weights that
 * learn in profile `small` are the high bytes of their shadows: input_shadow in place of input, and so on.
 */
#define ER_LIF(I, IN, OPT, OUT, MAY) \
    I(inputs) I(outputs) I(weight_exponent) I(recurrent_shift) I(threshold) I(reset) I(reset_delay) I(refractory_steps) \
    OPT(int8_t, input, (int64_t)r->inputs * r->outputs) OPT(int16_t, input_shadow, (int64_t)r->inputs * r->outputs) \
    OPT(int8_t, recurrent, (int64_t)r->outputs * r->outputs) \
    OPT(int16_t, recurrent_shadow, (int64_t)r->outputs * r->outputs) \
    IN(int32_t, bias, r->outputs) IN(uint16_t, decay, r->outputs) \
    OPT(uint16_t, rho, r->outputs) OPT(int16_t, beta, r->outputs) ER_SOURCE(OPT, r->inputs) \
    OUT(int16_t, v, r->outputs) OUT(uint16_t, carry, r->outputs) OUT(uint8_t, fired, r->outputs) \
    OUT(uint16_t, counts, r->outputs) MAY(int16_t, adaptation, r->outputs) MAY(uint16_t, adaptation_carry, r->outputs) \
    MAY(uint8_t, resting, r->outputs) OUT(int32_t, sums, r->outputs) MAY(int16_t, y, r->outputs)
ER_RECORD(er_lif, ER_LIF)
/* One step. psi (outputs,), the surrogate derivative, is written where it is not NULL. */
void er_lif_step(const er_lif *r, uint8_t *psi);

/* Leaky integrators, y in Q7.24: `edgerun.layers.Readout`. Weights are pre-major, or high bytes as above. */
#define ER_READOUT(I, IN, OPT, OUT, MAY) \
    I(inputs) I(outputs) I(weight_exponent) \
    OPT(int8_t, input, (int64_t)r->inputs * r->outputs) OPT(int16_t, input_shadow, (int64_t)r->inputs * r->outputs) \
    IN(int32_t, bias, r->outputs) IN(uint16_t, kappa, r->outputs) \
    ER_SOURCE(OPT, r->inputs) OUT(int32_t, y, r->outputs) OUT(uint16_t, carry, r->outputs) \
    OUT(int32_t, sums, r->outputs)
ER_RECORD(er_readout, ER_READOUT)
void er_readout_step(const er_readout *r);

/* sums <- W (x - zero_point): synapses without neurons. weight (inputs, outputs), pre-major. */
#define ER_DENSE_SUM(I, IN, OPT, OUT, MAY) \
    I(inputs) I(outputs) I(zero_point) IN(int8_t, weight, (int64_t)r->inputs * r->outputs) \
    ER_SOURCE(OPT, r->inputs) ER_SUMS(OUT, MAY, r->outputs)
ER_RECORD(er_dense_sum, ER_DENSE_SUM)
void er_dense_sum_step(const er_dense_sum *r);

/* Leaky integrate-and-fire neurons on raw sums: `edgerun.layers.Cells`. Parameter j % parameters is neuron j's. alpha
 * and current are NULL without a synaptic current, own and recurrent without that kind of recurrence. Spike counts are
 * read where reads_counts; else the largest membrane where there is peak, the mean where there are sum and seen, or the
 * newest. Scratch of a dense recurrence: sums.
 */
#define ER_CELLS(I, IN, OPT, OUT, MAY) \
    I(outputs) I(parameters) I(shift) I(back_shift) I(reset) I(reset_delay) I(inhibition) I(reads_counts) \
    IN(int32_t, bias, r->parameters) IN(uint16_t, decay, r->parameters) IN(int16_t, threshold, r->parameters) \
    OPT(uint16_t, alpha, r->parameters) OPT(int32_t, own, r->parameters) \
    OPT(int8_t, recurrent, (int64_t)r->outputs * r->outputs) ER_SOURCE(OPT, r->outputs) \
    OUT(int16_t, v, r->outputs) OUT(uint16_t, carry, r->outputs) OUT(uint8_t, fired, r->outputs) \
    OUT(uint16_t, counts, r->outputs) MAY(int32_t, current, r->outputs) MAY(uint16_t, current_carry, r->outputs) \
    MAY(int16_t, peak, r->outputs) MAY(int64_t, sum, r->outputs) MAY(int32_t, seen, 1) \
    MAY(int32_t, sums, r->outputs) OUT(int16_t, y, r->outputs)
ER_RECORD(er_cells, ER_CELLS)
void er_cells_step(const er_cells *r);
/* The same; margin (outputs,) <- membrane less threshold before any reset of this step's spikes. */
void er_cells_feel(const er_cells *r, int32_t *margin);

/* Neurons behind an alpha-function synapse: `edgerun.layers.AlphaCells`. */
#define ER_ALPHA_CELLS(I, IN, OPT, OUT, MAY) \
    I(outputs) I(parameters) I(shift) I(reset) I(inhibition) I(reads_counts) \
    IN(int32_t, bias, r->parameters) IN(uint16_t, alpha, r->parameters) IN(uint16_t, beta, r->parameters) \
    IN(int32_t, tau, r->parameters) IN(int16_t, threshold, r->parameters) ER_SOURCE(OPT, r->outputs) \
    OUT(int16_t, v, r->outputs) OUT(uint8_t, fired, r->outputs) OUT(uint16_t, counts, r->outputs) \
    OUT(int32_t, excitatory, r->outputs) OUT(uint16_t, excitatory_carry, r->outputs) \
    OUT(int32_t, inhibitory, r->outputs) OUT(uint16_t, inhibitory_carry, r->outputs) \
    MAY(int16_t, peak, r->outputs) MAY(int64_t, sum, r->outputs) MAY(int32_t, seen, 1) OUT(int16_t, y, r->outputs)
ER_RECORD(er_alpha_cells, ER_ALPHA_CELLS)
void er_alpha_cells_step(const er_alpha_cells *r);

/* Leaky integrators on raw sums, v in Q7.24: `edgerun.layers.Integrators`. No layer reads them. */
#define ER_INTEGRATORS(I, IN, OPT, OUT, MAY) \
    I(outputs) I(parameters) I(shift) IN(int32_t, bias, r->parameters) IN(uint16_t, decay, r->parameters) \
    OPT(uint16_t, alpha, r->parameters) ER_SOURCE(OPT, r->outputs) \
    OUT(int32_t, v, r->outputs) OUT(uint16_t, carry, r->outputs) MAY(int32_t, current, r->outputs) \
    MAY(uint16_t, current_carry, r->outputs) MAY(int32_t, peak, r->outputs) MAY(int64_t, sum, r->outputs) \
    MAY(int32_t, seen, 1)
ER_RECORD(er_integrators, ER_INTEGRATORS)
void er_integrators_step(const er_integrators *r);

/* Van Rossum distances to target spike trains (outputs, steps, inputs): `edgerun.layers.Patterns`. x is 0 or 1. */
#define ER_PATTERNS(I, IN, OPT, OUT, MAY) \
    I(inputs) I(outputs) I(steps) I(rise) I(fall) IN(uint8_t, target, er_product((int64_t)r->outputs * r->steps, r->inputs)) \
    IN(int16_t, x, r->inputs) OUT(int16_t, rising, (int64_t)r->outputs * r->inputs) \
    OUT(int16_t, falling, (int64_t)r->outputs * r->inputs) \
    OUT(uint16_t, rising_carry, (int64_t)r->outputs * r->inputs) \
    OUT(uint16_t, falling_carry, (int64_t)r->outputs * r->inputs) OUT(int32_t, score, r->outputs) \
    OUT(int32_t, seen, 1) ER_SUMS(OUT, MAY, r->outputs)
ER_RECORD(er_patterns, ER_PATTERNS)
void er_patterns_step(const er_patterns *r);

/* ---------------------------------------------------------------- recurrent layers */

/* A window (steps, inputs) walked through. Rows of the weights lie by gate, then by unit; what goes into a gate is
 * (W x + b) * m >> s rounded half up, plus the same of the recurrent product. y holds the hidden vector after every
 * step where `sequence`, else after the last; with `reverse` the last step comes first, from silence in every call. The map
 * takes a hidden value in Q0.15 to the int8 that goes out and back. Scratch: gates, back and view. packed: see
 * er_layer_pack.
 */
int64_t er_gates_packed(int64_t rows, int32_t inputs, int32_t units);
#define ER_RECURRENT(I, IN, OPT, OUT, gates_of_a_unit) \
    I(outputs) I(inputs) I(units) I(steps) I(sequence) I(reverse) I(map_multiplier) I(map_shift) I(map_zero) \
    IN(int8_t, weight, er_product((int64_t)(gates_of_a_unit) * r->units, r->inputs)) \
    IN(int32_t, bias, (gates_of_a_unit) * r->units) \
    IN(int32_t, multiplier, (gates_of_a_unit) * r->units) IN(uint8_t, shift, (gates_of_a_unit) * r->units) \
    IN(int8_t, recurrent, er_product((int64_t)(gates_of_a_unit) * r->units, r->units)) \
    IN(int32_t, recurrent_bias, (gates_of_a_unit) * r->units) \
    IN(int32_t, recurrent_multiplier, (gates_of_a_unit) * r->units) \
    IN(uint8_t, recurrent_shift, (gates_of_a_unit) * r->units) \
    IN(int16_t, x, (int64_t)r->steps * r->inputs) OUT(int16_t, y, r->outputs) \
    OUT(int32_t, gates, (gates_of_a_unit) * r->units) OUT(int32_t, back, (gates_of_a_unit) * r->units) \
    OUT(int16_t, view, r->units) \
    OPT(int8_t, packed, er_gates_packed((int64_t)(gates_of_a_unit) * r->units, r->inputs, r->units))

/* sigmoid and tanh in Q0.15: their values at k / 64, k = 0 .. 1024; between them a straight line. */
#define ER_KNOTS 1025

/* h = f(W x + R h); tanh is NULL where f is relu. */
#define ER_RNN(I, IN, OPT, OUT, MAY) \
    ER_RECURRENT(I, IN, OPT, OUT, 1) I(map_min) I(map_max) OPT(uint16_t, tanh, ER_KNOTS) OUT(int8_t, hidden, r->units)
ER_RECORD(er_rnn, ER_RNN)
void er_rnn_step(const er_rnn *r);
void er_rnn_pack(const er_rnn *r, int8_t *packed);

/* Gates r, z, n. reset_after: the reset gate acts behind the recurrent product. */
#define ER_GRU(I, IN, OPT, OUT, MAY) \
    ER_RECURRENT(I, IN, OPT, OUT, 3) I(map_min) I(map_max) I(reset_after) IN(uint16_t, sigmoid, ER_KNOTS) \
    IN(uint16_t, tanh, ER_KNOTS) OUT(int16_t, hidden, r->units) OUT(uint16_t, carry, r->units)
ER_RECORD(er_gru, ER_GRU)
void er_gru_step(const er_gru *r);
void er_gru_pack(const er_gru *r, int8_t *packed);

#define ER_CELL(I, IN, OPT, OUT) \
    ER_RECURRENT(I, IN, OPT, OUT, 4) I(cell_exponent) I(cell_limit) OUT(int8_t, hidden, r->units) \
    OUT(int16_t, cell, r->units)

/* Gates i, f, g, o; the cell has cell_exponent binary places and a remainder. */
#define ER_LSTM(I, IN, OPT, OUT, MAY) \
    ER_CELL(I, IN, OPT, OUT) I(map_min) I(map_max) IN(uint16_t, sigmoid, ER_KNOTS) IN(uint16_t, tanh, ER_KNOTS) \
    OUT(uint16_t, carry, r->units)
ER_RECORD(er_lstm, ER_LSTM)
void er_lstm_step(const er_lstm *r);
void er_lstm_pack(const er_lstm *r, int8_t *packed);

/* The same in LiteRT's arithmetic: gates in Q3.12, two roundings a product; `start` goes back before the first step. */
#define ER_LSTM_Q12(I, IN, OPT, OUT, MAY) ER_CELL(I, IN, OPT, OUT) I(start)
ER_RECORD(er_lstm_q12, ER_LSTM_Q12)
void er_lstm_q12_step(const er_lstm_q12 *r);
void er_lstm_q12_pack(const er_lstm_q12 *r, int8_t *packed);

/* An LSTM whose hidden values are membranes in Q0.15 that spike: one step a call. y and fired are the newest spikes. */
#define ER_SLSTM(I, IN, OPT, OUT, MAY) \
    ER_LSTM(I, IN, OPT, OUT, MAY) I(reset) IN(uint16_t, threshold, r->units) OUT(uint8_t, fired, r->units) \
    OUT(uint16_t, counts, r->units)
ER_RECORD(er_slstm, ER_SLSTM)
void er_slstm_step(const er_slstm *r);
void er_slstm_pack(const er_slstm *r, int8_t *packed);

/* ---------------------------------------------------------------- the network */

/* Every kind of layer that has a C form: kind, record, its fields. A new one adds a row here and its functions: step,
 * reset, and reading, which writes what a head reads, out (outputs,). Who defines the list first has these kinds alone;
 * dense, lif and readout must be among them, and where dense_sum, cells and patterns are, so is ER_POPULATIONS.
 */
#ifndef ER_LAYERS
#define ER_POPULATIONS
#define ER_LAYERS(ROW) \
    ROW(dense, er_dense, ER_DENSE) \
    ROW(lif, er_lif, ER_LIF) \
    ROW(readout, er_readout, ER_READOUT) \
    ROW(conv, er_conv, ER_CONV) \
    ROW(depthwise, er_depthwise, ER_DEPTHWISE) \
    ROW(conv_sum, er_conv_sum, ER_CONV_SUM) \
    ROW(max_pool, er_max_pool, ER_MAX_POOL) \
    ROW(average_pool, er_average_pool, ER_AVERAGE_POOL) \
    ROW(sum_pool, er_sum_pool, ER_SUM_POOL) \
    ROW(add, er_add, ER_ADD) \
    ROW(mul, er_mul, ER_MUL) \
    ROW(lookup, er_lookup, ER_LOOKUP) \
    ROW(total, er_total, ER_TOTAL) \
    ROW(move, er_move, ER_MOVE) \
    ROW(take, er_take, ER_TAKE) \
    ROW(softmax, er_softmax, ER_SOFTMAX) \
    ROW(log_softmax, er_log_softmax, ER_LOG_SOFTMAX) \
    ROW(layer_norm, er_layer_norm, ER_LAYER_NORM) \
    ROW(dense_sum, er_dense_sum, ER_DENSE_SUM) \
    ROW(cells, er_cells, ER_CELLS) \
    ROW(alpha_cells, er_alpha_cells, ER_ALPHA_CELLS) \
    ROW(integrators, er_integrators, ER_INTEGRATORS) \
    ROW(patterns, er_patterns, ER_PATTERNS) \
    ROW(rnn, er_rnn, ER_RNN) \
    ROW(gru, er_gru, ER_GRU) \
    ROW(lstm, er_lstm, ER_LSTM) \
    ROW(lstm_q12, er_lstm_q12, ER_LSTM_Q12) \
    ROW(slstm, er_slstm, ER_SLSTM)
#endif

#define ER_KIND(kind, record, fields) ER_KIND_##kind,
enum er_kind { ER_LAYERS(ER_KIND) ER_KINDS };

typedef struct er_layer {
    int32_t kind;
    union {
#define ER_MEMBER(kind, record, fields) record kind;
        ER_LAYERS(ER_MEMBER)
    } as;
} er_layer;

#define ER_DECLARE(kind, record, fields) \
    void record##_reset(const record *r); \
    void record##_reading(const record *r, int32_t *out);
ER_LAYERS(ER_DECLARE)

void er_layer_step(const er_layer *layer);
void er_layer_reset(const er_layer *layer);
/* What a head reads of a layer at the end of a window.   out (outputs,) */
void er_layer_reading(const er_layer *layer, int32_t *out);
int32_t er_layer_outputs(const er_layer *layer);
/* Whether the numbers of a record, whose arrays have the lengths that it states, keep every step inside of them. */
int er_layer_fits(const er_layer *layer);

/* Weights that nothing will change may lie a second time, in the order that this processor multiplies them in: in the
 * record's `packed`, NULL for the others. So many bytes, 0 where processor or kind read weights as they lie:
 */
int64_t er_layer_packed(const er_layer *layer);
/* packed <- weights and bias so; nothing where that is 0. */
void er_layer_pack(const er_layer *layer, int8_t *packed);

enum er_encoder { ER_PHASE_RATE, ER_FRAMES, ER_CONSTANT };

/* How a quantised sample q (size,) becomes `steps` moments x (moment,).
 *
 *     phase rate   phase <- phase + clip(q, 0, full_scale), from full_scale / 2; a spike where it passes full_scale
 *     frames       q[t * moment ...] - offset                constant   q - offset at every step
 *
 * Prototypes decide where `capacity` is not 0: row k is class k, row capacity + k what the field has taught of it where
 * means is 2. z is what the features give: the reading (readings,) of one layer, through `whiten`, from raw to (width,),
 * where there is one.
 */
#define ER_NET(I, IN, OPT, OUT, MAY) \
    I(encoder) I(size) I(moment) I(steps) I(full_scale) I(offset) I(layers) I(each_step) \
    I(features) I(readings) I(width) I(capacity) I(means) I(outputs) \
    OUT(int16_t, x, r->moment) MAY(uint16_t, phase, r->size) \
    MAY(int32_t, z, r->readings > r->width ? r->readings : r->width) MAY(int16_t, raw, r->readings) \
    MAY(int32_t, sums, er_product((int64_t)r->means * r->capacity, r->width)) MAY(int32_t, counts, (int64_t)r->means * r->capacity) \
    MAY(int32_t, bias, (int64_t)r->means * r->capacity) MAY(int32_t, mean, er_product((int64_t)r->means * r->capacity, r->width))
ER_RECORD(er_plan, ER_NET)

typedef struct er_net {
    er_plan plan;
    const er_layer *layers; /* (plan.layers,) in running order; those before plan.each_step run at every step */
    const er_dense *whiten; /* or NULL */
} er_net;

void er_net_reset(const er_net *net);
/* Fill x with moment t of a window. Moments of a phase code come in order, from t = 0. */
void er_net_encode(const er_net *net, const int16_t *q, int32_t t);
/* One step of all layers on x: the streaming form. */
void er_net_step(const er_net *net);
/* One window from a clean state.   q (size,) */
void er_net_run(const er_net *net, const int16_t *q);
/* z of the window that has just run. Only where prototypes decide. */
void er_net_features(const er_net *net);
/* Scores (known,) of the window that has just run, or the last layer's outputs (outputs,). */
void er_net_decide(const er_net *net, int32_t known, int32_t *scores);

/* ---------------------------------------------------------------- heads */

/* c <- half_up(S / n), 0 where n is 0.   means, sums (k, d)   counts (k,) */
void er_class_means(int32_t *means, const int32_t *sums, const int32_t *counts, int32_t k, int32_t d);
/* score_k <- sat32(2 z.c_k - c_k.c_k + bias_k), at least the second smallest int32; the smallest where counts_k is 0 */
void er_prototype_scores(int32_t *scores, const int32_t *z, const int32_t *means, const int32_t *bias,
                         const int32_t *counts, int32_t k, int32_t d);

/* ---------------------------------------------------------------- noise */

typedef struct er_key {
    uint32_t k0, k1;
} er_key;

/* What a stream of words is for: stream = tensor * 16 + use. */
enum er_use { ER_USE_UPDATE, ER_USE_PULL, ER_USE_OMEGA, ER_USE_IMPORTANCE, ER_USE_HISTORY, ER_USE_DECAY, ER_USE_FEEDBACK,
              ER_USE_NORMALISE, ER_USE_GROWTH };

er_key er_noise_key(uint64_t seed, uint64_t update, uint32_t stream);

/* The word at linear index i. */
static inline uint32_t er_word(er_key key, uint32_t i) {
    uint32_t x = i * 0x9e3779b1u + key.k0;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x ^= key.k1;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

/* ---------------------------------------------------------------- plastic weights */

/* A plastic tensor, the factors of its gradient and what consolidation notes about it: `edgerun.learn.stages`.
 *
 * G = history' post, of T = `steps` outer products, T <= 128. In profile small (`small` is 1) the history is
 * history_high, which counts 2**8, shadows' high bytes are the weights (weight is NULL), anchors and credit are the
 * narrow ones; else the others. Without consolidation importance, anchor and credit are NULL. index is the tensor's
 * place in the learning plan. |shadow - 128 * small| <= 32512. With a limit of the norm (max_norm) rows and columns are
 * at most 2**16.
 *
 * A normaliser makes a step of the gradient where there is one: RMaxProp, by the largest that each weight has met
 * (largest; fade, floor), or MQ, by the tensor's running mean in Q8 and this update's sum (mean; memory).
 *
 * Where there is a mask, rows of ceil(columns / 8) bytes with the first place in the highest bit, synapses are where it
 * is 1. Elsewhere weights stay 0 and growth sums gradients; a move takes `share` / 2**15 of the synapses at once.
 */
#define ER_PLASTIC(I, IN, OPT, OUT, MAY) \
    I(rows) I(columns) I(steps) I(index) I(small) I(eta) I(shift) I(max_step) I(max_norm) I(decay_shift) \
    I(gradient_shift) I(strength) I(damping) \
    OPT(int16_t, history, (int64_t)r->steps * r->rows) OPT(int8_t, history_high, (int64_t)r->steps * r->rows) \
    IN(int16_t, post, (int64_t)r->steps * r->columns) \
    OUT(int16_t, shadow, (int64_t)r->rows * r->columns) MAY(int8_t, weight, (int64_t)r->rows * r->columns) \
    MAY(uint8_t, importance, (int64_t)r->rows * r->columns) \
    MAY(int16_t, ref, (int64_t)r->rows * r->columns) MAY(int8_t, ref_high, (int64_t)r->rows * r->columns) \
    MAY(int32_t, omega, (int64_t)r->rows * r->columns) MAY(int16_t, omega_narrow, (int64_t)r->rows * r->columns) \
    I(fade) I(floor) I(memory) MAY(uint8_t, largest, (int64_t)r->rows * r->columns) MAY(int64_t, mean, 2) \
    I(share) I(growth_shift) MAY(uint8_t, mask, (int64_t)r->rows * (((int64_t)r->columns + 7) / 8)) \
    MAY(int16_t, growth, (int64_t)r->rows * r->columns)
ER_RECORD(er_plastic, ER_PLASTIC)

/* Whether a synapse is there, by the mask. */
static inline int er_alive(const er_plastic *p, int32_t row, int32_t column) {
    const size_t byte = (size_t)row * (((size_t)p->columns + 7) / 8) + (size_t)column / 8;
    return p->mask[byte] >> (7 - (column & 7)) & 1;
}

/* One update: descend, decay, pull, write, credit. Returns the squared norm of the change made, in shadow LSB. */
int64_t er_update(const er_plastic *p, uint64_t seed, uint64_t number);
/* A boundary: credit becomes importance, the anchor moves here. */
void er_consolidate(const er_plastic *p, uint64_t seed, uint64_t number);
/* Of a tensor with a mask: the weakest synapses go, as many come where growth is largest, of equals the first in stored
 * order; growth begins again. Returns how many.
 */
int64_t er_rewire(const er_plastic *p);
/* The weight at a place becomes 0, with all that synaptic intelligence noted of it. */
void er_clear_weight(const er_plastic *p, size_t at);
/* The fewest halvings e >= 0 with |G| * eta <= max_norm * 2**(shift + e), shift + e <= 30; 0 where max_norm is 0. */
int32_t er_limit_shift(const er_plastic *p);

/* ---------------------------------------------------------------- a recorded window */

/* Where one window of a Lif layer is written: what drives it (pre, or pre_wide where that leaves int8) and its spikes at
 * all steps, its surrogate derivative at the last `chunk` of them.
 */
#define ER_TAPE(I, IN, OPT, OUT, MAY) \
    I(layer) I(inputs) I(outputs) I(steps) I(chunk) \
    MAY(int8_t, pre, (int64_t)r->steps * r->inputs) MAY(int16_t, pre_wide, (int64_t)r->steps * r->inputs) \
    OUT(uint8_t, spikes, (int64_t)r->steps * r->outputs) OUT(uint8_t, psi, (int64_t)r->chunk * r->outputs)
ER_RECORD(er_tape, ER_TAPE)

/* One window from a clean state, written down.   q (size,)   outputs (last, outputs): the last layer's, at the end */
void er_net_record(const er_net *net, const int16_t *q, const er_tape *tapes, int32_t count, int32_t *outputs,
                   int32_t last);

/* ---------------------------------------------------------------- e-prop */

/* A layer's part in e-prop, beside its tape: traces of its input, of its spikes one step late and of its spikes as the
 * readout filters them (NULL where no gradient needs them), its learning signal, filtered, then its post factor, in
 * `post`, and the matrix that its error comes through. In profile small traces are the ones called high, of 8 bits.
 */
#define ER_TAUGHT(I, IN, OPT, OUT, MAY) \
    I(inputs) I(outputs) I(chunk) I(last) I(classes) I(decay) I(reach) \
    MAY(int16_t, input, (int64_t)r->chunk * r->inputs) MAY(int8_t, input_high, (int64_t)r->chunk * r->inputs) \
    MAY(int16_t, recurrent, (int64_t)r->chunk * r->outputs) MAY(int8_t, recurrent_high, (int64_t)r->chunk * r->outputs) \
    MAY(int16_t, readout, (int64_t)r->last * r->outputs) MAY(int8_t, readout_high, (int64_t)r->last * r->outputs) \
    OUT(int16_t, post, (int64_t)r->chunk * r->outputs) MAY(int64_t, adjoint, r->outputs) \
    OPT(int8_t, feedback, (int64_t)r->outputs * r->classes) OPT(int16_t, feedback_shadow, (int64_t)r->outputs * r->classes) \
    I(layer) MAY(int32_t, input_state, 3 * (int64_t)r->inputs) MAY(int32_t, recurrent_state, 3 * (int64_t)r->outputs) \
    MAY(int32_t, readout_state, 3 * (int64_t)r->outputs) MAY(uint8_t, psi, r->outputs)
ER_RECORD(er_taught, ER_TAUGHT)

/* history (S, units) <- a presynaptic trace after each of the last S = `kept` of `steps` steps, from zero at the start.
 *
 * One of pre, pre_wide and spikes (steps, units) is read, `late` steps late; |pre| <= reach. One of history and
 * history_high is written.   state (4, units) scratch
 */
typedef struct er_trace {
    int32_t steps, kept, units, decay, reach, late;
    const int8_t *pre;
    const int16_t *pre_wide;
    const uint8_t *spikes;
    int16_t *history;
    int8_t *history_high;
    int32_t *state;
} er_trace;
void er_traces(const er_trace *r);
/* The same for one step after the other, of the only row that x, wide or spikes (units,) has: history (units,) <- the
 * newest trace. state (3, units) goes along, zeros at the start.
 */
void er_trace_step(int16_t *history, int32_t *state, const int16_t *x, const int32_t *wide, const uint8_t *spikes,
                   int32_t decay, int32_t reach, int32_t units);

/* L <- sat16(half_up(sum_k B_jk error_k / 2**shift)).   signal (S, n)   error (S, k)   B feedback or shadow (n, k) */
void er_learning_signal(int16_t *signal, const int32_t *error, const int8_t *feedback, const int16_t *shadow,
                        int32_t shift, int32_t steps, int32_t n, int32_t k);
/* error <- sat16(half_up((y - target * 2**12) / 2**shift)); returns max(0, 2**15 - mean|error|).   all (size,) */
int32_t er_value_error(int32_t *error, const int32_t *outputs, const int16_t *target, int32_t shift, int32_t size);
/* The readout filter, backwards in time, in place.   filtered (S, n)   state (2, n) scratch */
void er_filter_backwards(int16_t *filtered, int32_t kappa, int32_t *state, int32_t steps, int32_t n);
/* Lf <- sat16(Lf + R), R_j = sat16(half_up((256 sum_t spikes_j - target) * cost / 2**16)).   all (S, n) */
void er_regularise(int16_t *filtered, const uint8_t *spikes, int32_t target, int32_t cost, int32_t steps, int32_t n);
/* post <- sat16(half_up(psi * post / 2**shift)), in place.   all (S, n) */
void er_post_factor(int16_t *post, const uint8_t *psi, int32_t shift, int32_t steps, int32_t n);
/* The same of adaptive neurons, credit running backwards through their adaptation.   beta, rho, adjoint (n,) */
void er_post_factor_adaptive(int16_t *post, const uint8_t *psi, int32_t shift, int32_t gamma, const int16_t *beta,
                             const uint16_t *rho, int64_t *adjoint, int32_t steps, int32_t n);

/* error <- softmax(logits) - onehot(label) in Q0.15 over the classes in play, 0 for others; returns p(label).
 * All (k,); in_play holds the label; error may be logits. */
int32_t er_softmax_error(int32_t *error, const int32_t *logits, int32_t shift, const uint8_t *in_play, int32_t label,
                         int32_t k);
extern const uint16_t er_softmax_table[256];

/* ---------------------------------------------------------------- dense chains */

/* A layer of a dense chain, in running order: its place in the net, what it read, its error (NULL below those that
 * learn). What goes back from it to the layer below is divided by 2**back_shift.
 */
#define ER_LINK(I, IN, OPT, OUT, MAY) \
    I(layer) I(inputs) I(outputs) I(back_shift) OUT(int16_t, read, r->inputs) MAY(int16_t, error, r->outputs)
ER_RECORD(er_link, ER_LINK)

/* below <- sat16(half_up(W' error / 2**shift)) where active > 0, else 0.   below, active (m,)  weight (n, m)  error (n,) */
void er_error_below(int16_t *below, const int8_t *weight, const int16_t *error, int32_t shift, const int16_t *active,
                    int32_t n, int32_t m);

/* ---------------------------------------------------------------- populations that learn spike patterns */

/* A population of cells, in running order, and the synapses before it, by their places in the net: what drove them, what
 * the neurons felt, and the factors of their gradient. Its error comes from population `above` of `fed` neurons, through
 * feedback; the last one has none, and its spikes are written down.
 */
#define ER_POPULATION(I, IN, OPT, OUT, MAY) \
    I(synapses) I(neurons) I(inputs) I(outputs) I(steps) I(above) I(fed) I(alpha) I(decay) \
    OUT(uint8_t, pre, (int64_t)r->steps * r->inputs) OUT(uint16_t, psi, (int64_t)r->steps * r->outputs) \
    OUT(int16_t, history, (int64_t)r->steps * r->inputs) OUT(int16_t, post, (int64_t)r->steps * r->outputs) \
    MAY(uint8_t, spikes, (int64_t)r->steps * r->outputs) OPT(int8_t, feedback, (int64_t)r->outputs * r->fed)
ER_RECORD(er_population, ER_POPULATION)

/* ---------------------------------------------------------------- one labelled window */

enum er_rule_kind { ER_EPROP, ER_EPROP_VALUES, ER_BACKPROP, ER_EPROP_ONLINE, ER_SUPERSPIKE, ER_INNER };

/* What a rule needs as a whole: `edgerun.rules.EProp`, `EPropValues`, `Backprop`, `EPropOnline`, `SuperSpike`,
 * `InnerStep`. error, logits, clipped
 * and target are of the last `last` steps. Online there is no tape, taught layers have the states of their traces and
 * psi, and each of the last `targets` steps may be an update; else targets is 1. seed: low word, high word. state is the
 * scratch of traces, 4 rows of the widest. SuperSpike's surrogate is 2**width_shift wide, 4 to 12, and silence (classes,)
 * is each pattern's distance from no spike at all. The inner step has one taught layer, the readout itself, of which
 * input, input_state and post are there; errors of at most gate teach nothing.
 */
#define ER_RULE(I, IN, OPT, OUT, MAY) \
    I(kind) I(plastic) I(taught) I(links) I(populations) I(classes) I(last) I(targets) I(temperature_shift) I(error_shift) \
    I(kappa) I(signal_shift) I(post_shift) I(gamma) I(spikes_target) I(spikes_cost) I(widest) I(width_shift) I(gate) \
    IN(uint32_t, seed, 2) OUT(int32_t, error, (int64_t)r->last * r->classes) \
    MAY(int16_t, clipped, (int64_t)r->last * r->classes) MAY(int32_t, logits, (int64_t)r->last * r->classes) \
    MAY(int16_t, target, (int64_t)r->last * r->classes) MAY(int32_t, state, 4 * (int64_t)r->widest) \
    OPT(int64_t, silence, r->classes)
ER_RECORD(er_rule, ER_RULE)

typedef struct er_learner {
    const er_net *net;
    er_rule rule;
    const er_plastic *plastic; /* (rule.plastic,) in the order of the learning plan's rates */
    const er_tape *tapes;      /* (rule.taught,) e-prop's layers; NULL online */
    const er_taught *taught;   /* (rule.taught,) */
    const er_link *links;      /* (rule.links,) backpropagation's layers */
    const er_population *populations; /* (rule.populations,) SuperSpike's, the last of which meets the patterns */
} er_learner;

/* Learn from one labelled window: run it, record it, take its error and, unless p >= threshold, update every plastic
 * tensor once. Values learn towards rule.target, their label is 0.
 *
 * q (size,)   in_play (classes,) 1 for the label and all classes that the error is about   update its number
 *
 * Returns p in Q0.15, p(label) or how near the values were, and in *changed the squared norm of the change in shadow
 * LSB, or -1 where nothing was done.
 */
int32_t er_learn_window(const er_learner *l, const int16_t *q, int32_t label, int32_t threshold, const uint8_t *in_play,
                        uint64_t update, int64_t *changed);
/* Its parts, one after the other. Run, record and take the error; returns p. */
int32_t er_learn_record(const er_learner *l, const int16_t *q, int32_t label, const uint8_t *in_play);
/* From tape and error to the factors of every gradient. */
void er_learn_factors(const er_learner *l);
/* Both of SuperSpike: p is 1 - distance / silence, at least 0, and the error is p - 1 at the label. */
int32_t er_superspike_record(const er_learner *l, const int16_t *q, int32_t label);
void er_superspike_factors(const er_learner *l);
/* Update every plastic tensor; returns the squared norm of the change. */
int64_t er_learn_update(const er_learner *l, uint64_t update);
/* The window of ER_EPROP_ONLINE, in place of all these: each of its last steps that p is not high enough at is an update
 * of its own, and what it writes the next step runs on. Returns how many updates there were; p and changed (targets,)
 * are those of each step.
 */
int32_t er_learn_online(const er_learner *l, const int16_t *q, int32_t label, int32_t threshold, const uint8_t *in_play,
                        uint64_t update, int32_t *p, int64_t *changed);
/* For every plastic tensor: credit becomes importance, where it is noted; synapses move, where there are masks; both. */
void er_learn_consolidate(const er_learner *l, uint64_t update);
void er_learn_rewire(const er_learner *l);
void er_boundary(const er_learner *l, uint64_t update);

/* ---------------------------------------------------------------- prototypes that learn */

/* One more sample z (d,) of a mean: S + z, n + 1, both halved, rounded down, where they have no room in 32 bits. */
void er_prototype_add(int32_t *sums, int32_t *count, const int32_t *z, int32_t d);

/* ---------------------------------------------------------------- lessons */

/* A bounded memory of quantised samples, its seen (classes,), and all else that `edgerun.learn.learner` keeps beside a
 * rule. x or x_unsigned (capacity, size) holds samples in the input's type; label is -1 where a place is free; field is
 * 1 for what was met in the field. classes is how many may be known, factory how many the factory knew, factory_count
 * their samples in the head. every and rewire_every: updates between two boundaries and two moves of synapses, 0 for
 * none. update_share is 2**15 where the
 * threshold is no state. in_play (outputs,), sample (size,) and scores are scratch.
 *
 * Where margins is not 0 labels are doubted: margin holds the newest that labels agreed with, the newest last, agreed how
 * many there are, and told (classes, votes) the newest labels of what surely looked like a class, -1 for none. The share
 * sure / 2**15 of the margins lies under what is sure.
 */
#define ER_LESSONS(I, IN, OPT, OUT, MAY) \
    I(size) I(classes) I(factory) I(outputs) I(capacity) I(passes) I(refresh_every) I(every) I(rewire_every) \
    I(recents) I(recent_labels) I(update_share) I(error_threshold) IN(uint32_t, seed, 2) \
    OUT(int16_t, recent, r->recents) OPT(int32_t, factory_count, r->factory) \
    MAY(int8_t, x, (int64_t)r->capacity * r->size) MAY(uint8_t, x_unsigned, (int64_t)r->capacity * r->size) \
    MAY(int16_t, label, r->capacity) MAY(uint8_t, field, r->capacity) MAY(int32_t, since, r->capacity) \
    MAY(int32_t, seen, r->classes) OUT(uint8_t, in_play, r->outputs) OUT(int16_t, sample, r->size) \
    I(margins) I(sure) I(votes) MAY(int32_t, margin, r->margins) MAY(int16_t, agreed, 1) \
    MAY(int16_t, told, (int64_t)r->classes * r->votes) \
    OUT(int32_t, scores, r->classes > r->outputs ? r->classes : r->outputs)
ER_RECORD(er_lessons, ER_LESSONS)

/* The learned state that is no array; a checkpoint holds it. */
typedef struct er_counters {
    int64_t updates, lessons, deep_lessons, recent_at, threshold, known;
} er_counters;

/* A device that is taught. learner is NULL where no rule learns: then lessons are of level ER_HEAD. */
typedef struct er_pupil {
    const er_net *net;
    const er_learner *learner;
    er_lessons plan;
    er_counters *at;
} er_pupil;

enum er_level { ER_FULL, ER_LIGHT, ER_SPARSE, ER_HEAD };

/* What one lesson did. p is Q0.15, of its own window, -1 at level ER_HEAD; changed adds up windows; aside is 1 where the
 * label was doubted and nothing learned. */
typedef struct er_report {
    int32_t label, p, updates, aside;
    int64_t changed;
} er_report;

/* One lesson: answer, learn from the sample and from replayed ones, keep it, settle and consolidate where it is time:
 * `Learner._lesson`, and its draws. |z| < 2**13 of features. label in [0, known), 0 where values are learned.
 */
er_report er_lesson(const er_pupil *pupil, const int16_t *q, int32_t label, enum er_level level);
/* The same of feedback on a sample of the stream: its label may be doubted, where the plan doubts any. */
er_report er_feedback(const er_pupil *pupil, const int16_t *q, int32_t label, enum er_level level);
/* Prototypes from the reservoir, then biases of classes that joined: `Learner.refresh`. */
void er_settle(const er_pupil *pupil);
/* One class, without a trace: its prototypes, samples, votes, place among recent labels and, of the inner step, weights. */
void er_forget(const er_pupil *pupil, int32_t label);

#endif
