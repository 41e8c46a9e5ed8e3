/* RNN, GRU and LSTM layers: integer gates by table, state that forgets nothing by rounding. */
#include "kinds.h"

enum { ONE = 1 << 15, HALF = 1 << 14 };

/* ---------------------------------------------------------------- what all kinds share */

/* Rows of one product, rescaled: (W x + b) * m >> s, half up.   sums (n,) written */
static void project(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias,
                    const int32_t *multiplier, const uint8_t *shift, int32_t n, int32_t m) {
    er_layer_sums(sums, weight, x, bias, n, m);
    for (int32_t k = 0; k < n; k++)
        sums[k] = (int32_t)(((int64_t)sums[k] * multiplier[k] + ((int64_t)1 << (shift[k] - 1))) >> shift[k]);
}

#define INPUT_PART(r, t, count) \
    project((r)->gates, (r)->weight, (r)->x + (int64_t)(t) * (r)->inputs, (r)->bias, (r)->multiplier, (r)->shift, \
            count, (r)->inputs)
#define BACK_PART(r, first, count) \
    project((r)->back + (first), (r)->recurrent + (int64_t)(first) * (r)->units, (r)->view, \
            (r)->recurrent_bias + (first), (r)->recurrent_multiplier + (first), (r)->recurrent_shift + (first), count, \
            (r)->units)

/* Walk through a window: `advance` makes step t, `given` is then what goes out. */
#define WALK(r, silence, advance, given) \
    do { \
        if ((r)->reverse) silence(r); \
        for (int32_t k = 0; k < (r)->steps; k++) { \
            const int32_t t = (r)->reverse ? (r)->steps - 1 - k : k; \
            advance(r, t); \
            int16_t *y = (r)->y + ((r)->sequence ? (int64_t)t * (r)->units : 0); \
            for (int32_t j = 0; j < (r)->units; j++) y[j] = (given)[j]; \
        } \
    } while (0)

/* The map from Q0.15 to int8. */
#define TO_INT8(r, h) er_requant(h, (r)->map_multiplier, (r)->map_shift, (r)->map_zero, (r)->map_min, (r)->map_max)

static void fill8(int8_t *x, int32_t value, int32_t n) {
    for (int32_t j = 0; j < n; j++) x[j] = (int8_t)value;
}
static void fill16(int16_t *x, int32_t value, int32_t n) {
    for (int32_t j = 0; j < n; j++) x[j] = (int16_t)value;
}

static int32_t line(const uint16_t *knots, int32_t p) { /* p in [0, 2**15] */
    const int32_t k = p >> 5, low = knots[k];
    return k == ER_KNOTS - 1 ? low : low + (((knots[k + 1] - low) * (p & 31) + 16) >> 5);
}
static int32_t sigmoid(const uint16_t *knots, int32_t p) {
    const int32_t q = er_sat16(p);
    return q < 0 ? ONE - line(knots, -q) : line(knots, q);
}
static int32_t hyperbolic(const uint16_t *knots, int32_t p) {
    const int32_t q = er_sat16(p);
    return q < 0 ? -line(knots, -q) : line(knots, q);
}
static int32_t product(int32_t a, int32_t b) { return (a * b + HALF) >> 15; }

/* ---------------------------------------------------------------- rnn */

static void rnn_silence(const er_rnn *r) { fill8(r->hidden, r->map_zero, r->units); }

static void rnn_advance(const er_rnn *r, int32_t t) {
    const int32_t n = r->units;
    er_copy8(r->view, r->hidden, n);
    INPUT_PART(r, t, n);
    BACK_PART(r, 0, n);
    for (int32_t j = 0; j < n; j++) {
        const int32_t p = er_sat16((int64_t)r->gates[j] + r->back[j]);
        r->hidden[j] = (int8_t)TO_INT8(r, r->tanh ? hyperbolic(r->tanh, p) : p > 0 ? p : 0);
    }
}

void er_rnn_step(const er_rnn *r) { WALK(r, rnn_silence, rnn_advance, r->hidden); }
void er_rnn_reset(const er_rnn *r) {
    rnn_silence(r);
    fill16(r->y, r->map_zero, r->outputs);
}
void er_rnn_reading(const er_rnn *r, int32_t *out) { er_widen(out, r->y, r->outputs); }

/* ---------------------------------------------------------------- gru */

static void gru_silence(const er_gru *r) {
    ER_CLEAR(r->hidden, r->units);
    ER_CLEAR(r->carry, r->units);
}

static void gru_view(const er_gru *r) {
    for (int32_t j = 0; j < r->units; j++) r->view[j] = TO_INT8(r, r->hidden[j]);
}

/* The candidate's recurrent part where the reset gate acts on the hidden state, before the product. */
static void gru_reset_before(const er_gru *r) {
    for (int32_t j = 0; j < r->units; j++) r->view[j] = TO_INT8(r, product(r->gates[j], r->hidden[j]));
    BACK_PART(r, 2 * r->units, r->units);
}

static void gru_advance(const er_gru *r, int32_t t) {
    const int32_t n = r->units, *u = r->gates + 2 * n, *v = r->back + 2 * n;
    gru_view(r);
    INPUT_PART(r, t, 3 * n);
    BACK_PART(r, 0, r->reset_after ? 3 * n : 2 * n);
    for (int32_t k = 0; k < 2 * n; k++) r->gates[k] = sigmoid(r->sigmoid, r->gates[k] + r->back[k]);
    if (!r->reset_after) gru_reset_before(r);
    for (int32_t j = 0; j < n; j++) {
        const int32_t heard = r->reset_after ? product(er_sat16(v[j]), r->gates[j]) : v[j];
        const int32_t z = r->gates[n + j], candidate = hyperbolic(r->tanh, heard + u[j]);
        const int64_t whole = (int64_t)(r->hidden[j] - candidate) * z + candidate * ONE + r->carry[j];
        r->carry[j] = (uint16_t)(whole & 0x7fff);
        r->hidden[j] = (int16_t)(whole >> 15);
    }
    gru_view(r);
}

void er_gru_step(const er_gru *r) { WALK(r, gru_silence, gru_advance, r->view); }
void er_gru_reset(const er_gru *r) {
    gru_silence(r);
    fill16(r->y, r->map_zero, r->outputs);
}
void er_gru_reading(const er_gru *r, int32_t *out) { er_widen(out, r->y, r->outputs); }

/* ---------------------------------------------------------------- lstm */

/* The gates of one step, of any record with an LSTM's fields. */
#define OPEN(r, t) \
    do { \
        er_copy8((r)->view, (r)->hidden, (r)->units); \
        INPUT_PART(r, t, 4 * (r)->units); \
        BACK_PART(r, 0, 4 * (r)->units); \
    } while (0)

/* Unit j's new cell; returns o * tanh(cell) in Q0.15. */
static int32_t remember(const int32_t *gates, const int32_t *back, int32_t n, int32_t j, int16_t *cell, uint16_t *carry,
                        int32_t exponent, int32_t limit, const uint16_t *sigmoids, const uint16_t *tanhs) {
    const int32_t i = sigmoid(sigmoids, gates[j] + back[j]), f = sigmoid(sigmoids, gates[n + j] + back[n + j]);
    const int32_t g = hyperbolic(tanhs, gates[2 * n + j] + back[2 * n + j]);
    const int32_t o = sigmoid(sigmoids, gates[3 * n + j] + back[3 * n + j]);
    const int32_t shift = 15 - exponent;
    const int64_t t = (int64_t)f * *cell + ((i * g + ((1 << shift) >> 1)) >> shift) + *carry;
    *carry = (uint16_t)(t & 0x7fff);
    *cell = (int16_t)er_clip(t >> 15, -limit, limit);
    const int32_t up = exponent < 11 ? 11 - exponent : 0, down = exponent > 11 ? exponent - 11 : 0;
    return product(hyperbolic(tanhs, (*cell * (1 << up) + ((1 << down) >> 1)) >> down), o);
}

static void lstm_silence(const er_lstm *r) {
    fill8(r->hidden, r->map_zero, r->units);
    ER_CLEAR(r->cell, r->units);
    ER_CLEAR(r->carry, r->units);
}

static void lstm_advance(const er_lstm *r, int32_t t) {
    OPEN(r, t);
    for (int32_t j = 0; j < r->units; j++) {
        const int32_t h = remember(r->gates, r->back, r->units, j, &r->cell[j], &r->carry[j], r->cell_exponent,
                                   r->cell_limit, r->sigmoid, r->tanh);
        r->hidden[j] = (int8_t)TO_INT8(r, h);
    }
}

void er_lstm_step(const er_lstm *r) { WALK(r, lstm_silence, lstm_advance, r->hidden); }
void er_lstm_reset(const er_lstm *r) {
    lstm_silence(r);
    fill16(r->y, r->map_zero, r->outputs);
}
void er_lstm_reading(const er_lstm *r, int32_t *out) { er_widen(out, r->y, r->outputs); }

/* ---------------------------------------------------------------- slstm */

void er_slstm_step(const er_slstm *r) {
    OPEN(r, 0);
    for (int32_t j = 0; j < r->units; j++) {
        int32_t u = remember(r->gates, r->back, r->units, j, &r->cell[j], &r->carry[j], r->cell_exponent, r->cell_limit,
                             r->sigmoid, r->tanh);
        if (r->fired[j] && r->reset != ER_RESET_NONE) u = r->reset == ER_RESET_SUBTRACT ? u - r->threshold[j] : 0;
        r->fired[j] = u >= r->threshold[j];
        r->counts[j] = (uint16_t)(r->counts[j] + r->fired[j]);
        r->hidden[j] = (int8_t)TO_INT8(r, u);
        r->y[j] = r->fired[j];
    }
}
void er_slstm_reset(const er_slstm *r) {
    fill8(r->hidden, r->map_zero, r->units);
    ER_CLEAR(r->cell, r->units);
    ER_CLEAR(r->carry, r->units);
    ER_CLEAR(r->fired, r->units);
    ER_CLEAR(r->counts, r->units);
    ER_CLEAR(r->y, r->units);
}
void er_slstm_reading(const er_slstm *r, int32_t *out) {
    for (int32_t j = 0; j < r->outputs; j++) out[j] = r->counts[j];
}

/* ---------------------------------------------------------------- lstm-q12: LiteRT's arithmetic */

/* (a * b + 2**14) >> 15, at most 2**15 - 1 */
static int32_t high(int32_t a, int32_t b) {
    const int32_t found = (a * b + HALF) >> 15;
    return found < ONE ? found : ONE - 1;
}

/* x / 2**shift, half away from zero; shift from 1 */
static int64_t away(int64_t x, int32_t shift) { return (x + ((int64_t)1 << (shift - 1)) + (x < 0 ? -1 : 0)) >> shift; }

/* (x * m * 2**max(31 - s, 0) + 2**30 >> 31) / 2**max(s - 31, 0), half away from zero */
static int64_t rescale_twice(int64_t x, int32_t m, int32_t s) {
    const int64_t up = ((s < 31 ? x * ((int64_t)1 << (31 - s)) : x) * m + ((int64_t)1 << 30)) >> 31;
    return s > 31 ? away(up, s - 31) : up;
}

/* exp(p / 2**fraction) in Q0.15, p < 0: a polynomial about -1/8 under a multiple of 1/4, then a factor a bit of it. */
static int32_t exp_negative(int32_t p, int32_t fraction) {
    static const int32_t powers[7] = {25520, 19875, 12055, 4435, 600, 11, 0};
    const int32_t quarter = 1 << (fraction - 2), under = (p & (quarter - 1)) - quarter;
    const int32_t x = under * (1 << (15 - fraction)) + (1 << 12), square = high(x, x);
    const int32_t cube = high(square, x), fourth = high(square, square);
    const int32_t third = high((int32_t)away(fourth, 2) + cube, 10923);
    int32_t y = er_sat16(28918 + high(x + (int32_t)away(third + square, 1), 28918));
    for (int32_t k = 0; k < 7; k++)
        if ((under - p) & (1 << (fraction + k - 2))) y = high(y, powers[k]);
    return p < -32 * (1 << fraction) ? 0 : y;
}

/* 2 / (1 + e / 2**15) in Q2.13: three of Newton's steps */
static int32_t inverse_half(int32_t e) {
    const int32_t half = (e + ONE) >> 1;
    int32_t x = 23130 + high(half, -15420);
    for (int32_t k = 0; k < 3; k++) x += er_sat16(4 * (int64_t)high(x, (1 << 13) - high(half, x)));
    return x;
}

static int32_t sigmoid_q12(int32_t p) {
    if (!p) return HALF;
    const int32_t y = er_sat16(2 * (int64_t)inverse_half(exp_negative(p < 0 ? p : -p, 12)));
    return p > 0 ? y : ONE - 1 - y;
}

static int32_t tanh_by_exp(int32_t p, int32_t fraction) {
    if (!p) return 0;
    const int32_t y = er_sat16(4 * (int64_t)(inverse_half(exp_negative(p < 0 ? p : -p, fraction - 1)) - (1 << 13)));
    return p > 0 ? y : -y;
}

/* rows <- both roundings of (W x + b) * m */
static void project_twice(int32_t *rows, const int8_t *weight, const int16_t *x, const int32_t *bias,
                          const int32_t *multiplier, const uint8_t *shift, int32_t n, int32_t m) {
    er_layer_sums(rows, weight, x, bias, n, m);
    for (int32_t k = 0; k < n; k++) rows[k] = (int32_t)rescale_twice(rows[k], multiplier[k], shift[k]);
}

static void q12_silence(const er_lstm_q12 *r) {
    fill8(r->hidden, r->start, r->units);
    ER_CLEAR(r->cell, r->units);
}

static void q12_remember(const er_lstm_q12 *r, int32_t j) {
    const int32_t n = r->units, e = r->cell_exponent, *p = r->gates + j;
    const int32_t i = sigmoid_q12(p[0]), f = sigmoid_q12(p[n]), g = tanh_by_exp(p[2 * n], 12);
    const int32_t o = sigmoid_q12(p[3 * n]);
    int32_t cell = er_sat16(away((int64_t)f * r->cell[j], 15) + away((int64_t)i * g, 30 - e));
    if (r->cell_limit) cell = er_clip(cell, -r->cell_limit, r->cell_limit);
    r->cell[j] = (int16_t)cell;
    const int64_t h = rescale_twice((int64_t)tanh_by_exp(cell, e) * o, r->map_multiplier, r->map_shift);
    r->hidden[j] = (int8_t)er_clip(h + r->map_zero, -128, 127);
}

static void q12_advance(const er_lstm_q12 *r, int32_t t) {
    const int32_t n = 4 * r->units;
    er_copy8(r->view, r->hidden, r->units);
    project_twice(r->gates, r->weight, r->x + (int64_t)t * r->inputs, r->bias, r->multiplier, r->shift, n, r->inputs);
    project_twice(r->back, r->recurrent, r->view, r->recurrent_bias, r->recurrent_multiplier, r->recurrent_shift, n,
                  r->units);
    for (int32_t k = 0; k < n; k++) r->gates[k] = er_sat16((int64_t)er_sat16(r->gates[k]) + r->back[k]);
    for (int32_t j = 0; j < r->units; j++) q12_remember(r, j);
}

void er_lstm_q12_step(const er_lstm_q12 *r) { WALK(r, q12_silence, q12_advance, r->hidden); }
void er_lstm_q12_reset(const er_lstm_q12 *r) {
    q12_silence(r);
    fill16(r->y, r->start, r->outputs);
}
void er_lstm_q12_reading(const er_lstm_q12 *r, int32_t *out) { er_widen(out, r->y, r->outputs); }
