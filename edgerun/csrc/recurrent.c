/* RNN, GRU and LSTM layers: integer gates by table, state that forgets nothing by rounding. */
#include "clones.h"
#include "dense_vnni.h"
#include "kinds.h"

enum { ONE = 1 << 15, HALF = 1 << 14, CHUNK = 32 };

/* ---------------------------------------------------------------- what all kinds share */

/* sums (n,) <- sums * m >> s, half up. Shifts lie in 64 bits, none goes left: so compilers take several at a time. */
ER_CLONES
static void rescale(int32_t *restrict sums, const int32_t *restrict multiplier, const uint8_t *restrict shift,
                    int32_t n) {
    for (int32_t first = 0; first < n; first += CHUNK) {
        int64_t but_one[CHUNK];
        const int32_t count = n - first < CHUNK ? n - first : CHUNK, *m = multiplier + first;
        int32_t *s = sums + first;
        for (int32_t k = 0; k < count; k++) but_one[k] = shift[first + k] - 1;
        for (int32_t k = 0; k < count; k++) s[k] = (int32_t)((((int64_t)s[k] * m[k] >> but_one[k]) + 1) >> 1);
    }
}

/* Bytes of one product's packed form. */
static int64_t packed_part(int32_t rows, int32_t columns) {
#ifdef ER_VNNI
    return er_vnni_packed(rows, columns);
#else
    (void)rows, (void)columns;
    return 0;
#endif
}

/* The input's part, then the recurrent one; either may be none. */
int64_t er_gates_packed(int64_t rows, int32_t inputs, int32_t units) {
    return packed_part((int32_t)rows, inputs) + packed_part((int32_t)rows, units);
}

static void pack(int8_t *packed, const int8_t *weight, const int8_t *recurrent, const int32_t *bias,
                 const int32_t *recurrent_bias, int32_t rows, int32_t inputs, int32_t units) {
#ifdef ER_VNNI
    er_vnni_pack(packed, weight, bias, rows, inputs);
    er_vnni_pack(packed + packed_part(rows, inputs), recurrent, recurrent_bias, rows, units);
#else
    (void)packed, (void)weight, (void)recurrent, (void)bias, (void)recurrent_bias, (void)rows, (void)inputs, (void)units;
#endif
}
#define PACKS(record, gates_of_a_unit) \
    void record##_pack(const record *r, int8_t *packed) { \
        pack(packed, r->weight, r->recurrent, r->bias, r->recurrent_bias, (gates_of_a_unit) * r->units, r->inputs, \
             r->units); \
    }
PACKS(er_rnn, 1)
PACKS(er_gru, 3)
PACKS(er_lstm, 4)
PACKS(er_lstm_q12, 4)
PACKS(er_slstm, 4)

/* Of one product the rows `first` to `last`: W x + b, rescaled where there are multipliers. packed is of all `rows`. */
static void project(const er_rows *r, const int8_t *weight, const int16_t *x, int32_t m) {
    const int32_t first = r->first, n = r->last - first;
#ifdef ER_VNNI
    if (r->packed && er_vnni_rows(r, x, m)) return;
#endif
    er_layer_sums(r->sums + first, weight + (size_t)first * (size_t)m, x, r->bias + first, n, m);
    if (r->multiplier) rescale(r->sums + first, r->multiplier + first, r->shift + first, n);
}

#define INPUT_PART(r, t, by, rows) \
    project(&(er_rows){(r)->gates, (r)->packed, (r)->bias, by, (r)->shift, 0, rows, rows}, (r)->weight, \
            (r)->x + (int64_t)(t) * (r)->inputs, (r)->inputs)
#define BACK_PART(r, by, first, last, rows) \
    project(&(er_rows){(r)->back, (r)->packed ? (r)->packed + packed_part(rows, (r)->inputs) : NULL, \
                       (r)->recurrent_bias, by, (r)->recurrent_shift, first, last, rows}, \
            (r)->recurrent, (r)->view, (r)->units)

/* Walk through a window: `see` lays the view of the state, `advance` makes step t and the view after it, which goes
 * out. */
#define WALK(r, silence, see, advance) \
    do { \
        if ((r)->reverse) silence(r); \
        see(r); \
        for (int32_t k = 0; k < (r)->steps; k++) { \
            const int32_t t = (r)->reverse ? (r)->steps - 1 - k : k; \
            advance(r, t); \
            if ((r)->sequence || k == (r)->steps - 1) \
                memcpy((r)->y + ((r)->sequence ? (int64_t)t * (r)->units : 0), (r)->view, \
                       (size_t)(r)->units * sizeof *(r)->view); \
        } \
    } while (0)

/* view (n,) <- h (n,) in Q0.15, as the int8 that goes out and back. */
ER_CLONES
static void map(int16_t *restrict view, const int32_t *restrict h, int32_t m, int32_t s, int32_t zero, int32_t low,
                int32_t high, int32_t n) {
    const int64_t half = (int64_t)1 << (s - 1);
    for (int32_t j = 0; j < n; j++) {
        const int64_t q = ((h[j] * (int64_t)m + half) >> s) + zero, floor = q > low ? q : low;
        view[j] = (int16_t)(floor < high ? floor : high);
    }
}
#define TO_INT8(r, h) \
    map((r)->view, h, (r)->map_multiplier, (r)->map_shift, (r)->map_zero, (r)->map_min, (r)->map_max, (r)->units)

static void keep8(int8_t *hidden, const int16_t *view, int32_t n) {
    for (int32_t j = 0; j < n; j++) hidden[j] = (int8_t)view[j];
}
static void fill8(int8_t *x, int32_t value, int32_t n) {
    for (int32_t j = 0; j < n; j++) x[j] = (int8_t)value;
}
static void fill16(int16_t *x, int32_t value, int32_t n) {
    for (int32_t j = 0; j < n; j++) x[j] = (int16_t)value;
}

/* What follows is free of branches, for the same reason. */
static inline int32_t narrow(int32_t x, int32_t limit) {
    const int32_t floor = x > -limit ? x : -limit;
    return floor < limit ? floor : limit;
}
static inline int32_t saturate(int32_t x) {
    const int32_t floor = x > -ONE ? x : -ONE;
    return floor < ONE - 1 ? floor : ONE - 1;
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
enum { FIRST = 16, SECOND = 0 };
#else
enum { FIRST = 0, SECOND = 16 };
#endif

/* The straight line through the knots around p, in [0, 2**15], which one load brings. */
static inline int32_t line(const uint16_t *knots, int32_t p) {
    const int32_t before = p >> 5, k = before < ER_KNOTS - 2 ? before : ER_KNOTS - 2;
    uint32_t both;
    memcpy(&both, knots + k, sizeof both);
    const int32_t low = (int32_t)(both >> FIRST & 0xffff), high = (int32_t)(both >> SECOND & 0xffff);
    return low + (((high - low) * (p - 32 * k) + 16) >> 5);
}
static inline int32_t sigmoid(const uint16_t *knots, int32_t p) {
    const int32_t q = saturate(p), y = line(knots, q < 0 ? -q : q);
    return q < 0 ? ONE - y : y;
}
static inline int32_t hyperbolic(const uint16_t *knots, int32_t p) {
    const int32_t q = saturate(p), y = line(knots, q < 0 ? -q : q);
    return q < 0 ? -y : y;
}
static inline int32_t product(int32_t a, int32_t b) { return (a * b + HALF) >> 15; }

/* gates (n,) <- f(gates + back) */
ER_CLONES
static void open_sigmoid(int32_t *restrict gates, const int32_t *restrict back, const uint16_t *restrict knots,
                         int32_t n) {
    for (int32_t k = 0; k < n; k++) gates[k] = sigmoid(knots, gates[k] + back[k]);
}
ER_CLONES
static void open_tanh(int32_t *restrict gates, const int32_t *restrict back, const uint16_t *restrict knots,
                      int32_t n) {
    for (int32_t k = 0; k < n; k++) gates[k] = hyperbolic(knots, gates[k] + back[k]);
}

/* ---------------------------------------------------------------- rnn */

static void rnn_silence(const er_rnn *r) { fill8(r->hidden, r->map_zero, r->units); }
static void rnn_see(const er_rnn *r) { er_copy8(r->view, r->hidden, r->units); }

static void rnn_advance(const er_rnn *r, int32_t t) {
    const int32_t n = r->units;
    INPUT_PART(r, t, r->multiplier, n);
    BACK_PART(r, r->recurrent_multiplier, 0, n, n);
    if (r->tanh)
        open_tanh(r->gates, r->back, r->tanh, n);
    else
        for (int32_t j = 0; j < n; j++) r->gates[j] = er_clip((int64_t)r->gates[j] + r->back[j], 0, ONE - 1);
    TO_INT8(r, r->gates);
}

void er_rnn_step(const er_rnn *r) {
    WALK(r, rnn_silence, rnn_see, rnn_advance);
    keep8(r->hidden, r->view, r->units);
}
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

static void gru_see(const er_gru *r) {
    er_widen(r->gates, r->hidden, r->units);
    TO_INT8(r, r->gates);
}

/* The candidate's recurrent part where the reset gate acts on it. */
ER_CLONES
static void hear(int32_t *restrict part, const int32_t *restrict reset, int32_t n) {
    for (int32_t j = 0; j < n; j++) part[j] = product(saturate(part[j]), reset[j]);
}

/* reset <- what of the hidden state goes through the gate. */
ER_CLONES
static void let_through(int32_t *restrict reset, const int16_t *restrict hidden, int32_t n) {
    for (int32_t j = 0; j < n; j++) reset[j] = product(reset[j], hidden[j]);
}

/* The candidate's recurrent part where the reset gate acts on the hidden state, before the product. */
static void hear_before(const er_gru *r) {
    let_through(r->gates, r->hidden, r->units);
    TO_INT8(r, r->gates);
    BACK_PART(r, r->recurrent_multiplier, 2 * r->units, 3 * r->units, 3 * r->units);
}

/* z * h + (2**15 - z) * n + carry, which 31 bits hold; leaves the new hidden values in `candidate` too. */
ER_CLONES
static void blend(int16_t *restrict hidden, uint16_t *restrict carry, const int32_t *restrict z,
                  int32_t *restrict candidate, int32_t n) {
    for (int32_t j = 0; j < n; j++) {
        const int32_t whole = z[j] * hidden[j] + (ONE - z[j]) * candidate[j] + carry[j];
        carry[j] = (uint16_t)(whole & 0x7fff);
        candidate[j] = whole >> 15;
        hidden[j] = (int16_t)candidate[j];
    }
}

static void gru_advance(const er_gru *r, int32_t t) {
    const int32_t n = r->units, last = 2 * n;
    INPUT_PART(r, t, r->multiplier, 3 * n);
    BACK_PART(r, r->recurrent_multiplier, 0, r->reset_after ? 3 * n : last, 3 * n);
    open_sigmoid(r->gates, r->back, r->sigmoid, last);
    if (r->reset_after)
        hear(r->back + last, r->gates, n);
    else
        hear_before(r);
    open_tanh(r->gates + last, r->back + last, r->tanh, n);
    blend(r->hidden, r->carry, r->gates + n, r->gates + last, n);
    TO_INT8(r, r->gates + last);
}

void er_gru_step(const er_gru *r) { WALK(r, gru_silence, gru_see, gru_advance); }
void er_gru_reset(const er_gru *r) {
    gru_silence(r);
    fill16(r->y, r->map_zero, r->outputs);
}
void er_gru_reading(const er_gru *r, int32_t *out) { er_widen(out, r->y, r->outputs); }

/* ---------------------------------------------------------------- lstm */

/* The cells of one step from the gates i, f, g, o (n,) each: f * c + (i * g >> 15 - e, half up) + carry, which 32 bits
 * hold. i <- o * tanh(cell) in Q0.15. */
ER_CLONES
static void remember(int32_t *restrict i, const int32_t *restrict f, const int32_t *restrict g,
                     const int32_t *restrict o, int16_t *restrict cell, uint16_t *restrict carry, int32_t exponent,
                     int32_t limit, const uint16_t *restrict tanhs, int32_t n) {
    const int32_t shift = 15 - exponent, half = (1 << shift) >> 1;
    const int32_t up = 1 << (exponent < 11 ? 11 - exponent : 0), down = exponent > 11 ? exponent - 11 : 0;
    const int32_t half_down = (1 << down) >> 1;
    for (int32_t j = 0; j < n; j++) {
        const int32_t t = f[j] * cell[j] + ((i[j] * g[j] + half) >> shift) + carry[j];
        carry[j] = (uint16_t)(t & 0x7fff);
        i[j] = narrow(t >> 15, limit);
        cell[j] = (int16_t)i[j];
    }
    for (int32_t j = 0; j < n; j++) i[j] = product(hyperbolic(tanhs, (i[j] * up + half_down) >> down), o[j]);
}

/* One step of any record with an LSTM's fields: gates (n,) <- hidden values in Q0.15. */
#define LSTM_STEP(r, t) \
    do { \
        const int32_t n = (r)->units; \
        int32_t *i = (r)->gates, *f = i + n, *g = f + n, *o = g + n; \
        INPUT_PART(r, t, (r)->multiplier, 4 * n); \
        BACK_PART(r, (r)->recurrent_multiplier, 0, 4 * n, 4 * n); \
        open_sigmoid(i, (r)->back, (r)->sigmoid, 2 * n); \
        open_tanh(g, (r)->back + 2 * n, (r)->tanh, n); \
        open_sigmoid(o, (r)->back + 3 * n, (r)->sigmoid, n); \
        remember(i, f, g, o, (r)->cell, (r)->carry, (r)->cell_exponent, (r)->cell_limit, (r)->tanh, n); \
    } while (0)

static void lstm_silence(const er_lstm *r) {
    fill8(r->hidden, r->map_zero, r->units);
    ER_CLEAR(r->cell, r->units);
    ER_CLEAR(r->carry, r->units);
}
static void lstm_see(const er_lstm *r) { er_copy8(r->view, r->hidden, r->units); }

static void lstm_advance(const er_lstm *r, int32_t t) {
    LSTM_STEP(r, t);
    TO_INT8(r, r->gates);
}

void er_lstm_step(const er_lstm *r) {
    WALK(r, lstm_silence, lstm_see, lstm_advance);
    keep8(r->hidden, r->view, r->units);
}
void er_lstm_reset(const er_lstm *r) {
    lstm_silence(r);
    fill16(r->y, r->map_zero, r->outputs);
}
void er_lstm_reading(const er_lstm *r, int32_t *out) { er_widen(out, r->y, r->outputs); }

/* ---------------------------------------------------------------- slstm */

void er_slstm_step(const er_slstm *r) {
    er_copy8(r->view, r->hidden, r->units);
    LSTM_STEP(r, 0);
    for (int32_t j = 0; j < r->units; j++) {
        int32_t u = r->gates[j];
        if (r->fired[j] && r->reset != ER_RESET_NONE) u = r->reset == ER_RESET_SUBTRACT ? u - r->threshold[j] : 0;
        r->fired[j] = u >= r->threshold[j];
        r->counts[j] = (uint16_t)(r->counts[j] + r->fired[j]);
        r->gates[j] = u;
        r->y[j] = r->fired[j];
    }
    TO_INT8(r, r->gates);
    keep8(r->hidden, r->view, r->units);
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
static inline int32_t high(int32_t a, int32_t b) {
    const int32_t found = (a * b + HALF) >> 15;
    return found < ONE ? found : ONE - 1;
}

/* x / 2**shift, half away from zero; |x| < 2**31 */
static inline int32_t away(int32_t x, int32_t shift) {
    const int32_t before = shift > 1 ? shift - 1 : 0, size = x < 0 ? -x : x;
    const int32_t found = shift ? ((size >> before) + 1) >> 1 : size;
    return x < 0 ? -found : found;
}

/* (x * m * 2**left + 2**30) >> 31 */
static inline int32_t upper(int32_t x, int32_t m, int64_t left) {
    return (int32_t)((int64_t)(((uint64_t)((int64_t)x * m) << left) + ((uint64_t)1 << 30)) >> 31);
}

/* What a scale of m / 2**shift shifts to the left before the product, and to the right behind it. */
static inline int32_t left_of(int32_t shift) { return shift < 31 ? 31 - shift : 0; }
static inline int32_t right_of(int32_t shift) { return shift > 31 ? shift - 31 : 0; }

/* One bit of what p lies under: its factor. */
static inline int32_t factor(int32_t y, int32_t is_set, int32_t power) { return is_set ? high(y, power) : y; }

/* exp(p / 2**fraction) in Q0.15, p < 0: a polynomial about -1/8 under a multiple of 1/4, then a factor a bit of it. */
static inline int32_t exp_negative(int32_t p, int32_t fraction) {
    const int32_t quarter = 1 << (fraction - 2), under = (p & (quarter - 1)) - quarter, bits = under - p;
    const int32_t x = under * (1 << (15 - fraction)) + (1 << 12), square = high(x, x);
    const int32_t cube = high(square, x), fourth = high(square, square);
    const int32_t third = high(away(fourth, 2) + cube, 10923);
    int32_t y = saturate(28918 + high(x + away(third + square, 1), 28918));
    y = factor(y, bits & quarter, 25520);
    y = factor(y, bits & 2 * quarter, 19875);
    y = factor(y, bits & 4 * quarter, 12055);
    y = factor(y, bits & 8 * quarter, 4435);
    y = factor(y, bits & 16 * quarter, 600);
    y = factor(y, bits & 32 * quarter, 11);
    y = factor(y, bits & 64 * quarter, 0);
    return p < -128 * quarter ? 0 : y;
}

/* 2 / (1 + e / 2**15) in Q2.13: three of Newton's steps */
static inline int32_t inverse_half(int32_t e) {
    const int32_t half = (e + ONE) >> 1;
    int32_t x = 23130 + high(half, -15420);
    x += saturate(4 * high(x, (1 << 13) - high(half, x)));
    x += saturate(4 * high(x, (1 << 13) - high(half, x)));
    return x + saturate(4 * high(x, (1 << 13) - high(half, x)));
}

/* p (n,) <- sigmoid(p / 2**12) in Q0.15 */
ER_CLONES
static void sigmoid_by_exp(int32_t *p, int32_t n) {
    for (int32_t k = 0; k < n; k++) {
        const int32_t at = p[k], y = saturate(2 * inverse_half(exp_negative(at < 0 ? at : -at, 12)));
        p[k] = at > 0 ? y : at < 0 ? ONE - 1 - y : HALF;
    }
}

/* p (n,) <- tanh(p / 2**fraction) in Q0.15 */
ER_CLONES
static void tanh_by_exp(int32_t *p, int32_t fraction, int32_t n) {
    for (int32_t k = 0; k < n; k++) {
        const int32_t at = p[k];
        const int32_t y = saturate(4 * (inverse_half(exp_negative(at < 0 ? at : -at, fraction - 1)) - (1 << 13)));
        p[k] = at > 0 ? y : at < 0 ? -y : 0;
    }
}

/* sums (n,) <- both roundings of sums * m */
ER_CLONES
static void round_twice(int32_t *restrict sums, const int32_t *restrict multiplier, const uint8_t *restrict shift,
                        int32_t n) {
    for (int32_t first = 0; first < n; first += CHUNK) {
        int64_t left[CHUNK];
        const int32_t count = n - first < CHUNK ? n - first : CHUNK, *m = multiplier + first;
        int32_t *s = sums + first;
        for (int32_t k = 0; k < count; k++) left[k] = left_of(shift[first + k]);
        for (int32_t k = 0; k < count; k++) s[k] = upper(s[k], m[k], left[k]);
        for (int32_t k = 0; k < count; k++) s[k] = away(s[k], right_of(shift[first + k]));
    }
}

/* gates (n,) <- what goes into them: in int16, as both parts were cut off */
ER_CLONES
static void join(int32_t *restrict gates, const int32_t *restrict back, int32_t n) {
    for (int32_t k = 0; k < n; k++) gates[k] = saturate(saturate(gates[k]) + back[k]);
}

/* The cells of one step from the gates i, f and g (n,) each. i <- the new cell. */
ER_CLONES
static void remember_rounded(int32_t *restrict i, const int32_t *restrict f, const int32_t *restrict g,
                             int16_t *restrict cell, int32_t shift, int32_t limit, int32_t n) {
    for (int32_t j = 0; j < n; j++) {
        const int32_t found = saturate(away(f[j] * cell[j], 15) + away(i[j] * g[j], shift));
        i[j] = limit ? narrow(found, limit) : found;
        cell[j] = (int16_t)i[j];
    }
}

/* view (n,) <- h * o, in Q0.30, as the int8 that goes out and back. */
ER_CLONES
static void map_twice(int16_t *restrict view, const int32_t *restrict h, const int32_t *restrict o, int32_t m,
                      int32_t shift, int32_t zero, int32_t n) {
    const int32_t left = left_of(shift), right = right_of(shift);
    for (int32_t j = 0; j < n; j++) {
        const int32_t q = away(upper(h[j] * o[j], m, left), right) + zero, floor = q > -128 ? q : -128;
        view[j] = (int16_t)(floor < 127 ? floor : 127);
    }
}

static void q12_silence(const er_lstm_q12 *r) {
    fill8(r->hidden, r->start, r->units);
    ER_CLEAR(r->cell, r->units);
}

static void q12_see(const er_lstm_q12 *r) { er_copy8(r->view, r->hidden, r->units); }

static void q12_advance(const er_lstm_q12 *r, int32_t t) {
    const int32_t n = r->units, rows = 4 * n;
    int32_t *i = r->gates, *f = i + n, *g = f + n, *o = g + n;
    INPUT_PART(r, t, NULL, rows);
    BACK_PART(r, NULL, 0, rows, rows);
    round_twice(r->gates, r->multiplier, r->shift, rows);
    round_twice(r->back, r->recurrent_multiplier, r->recurrent_shift, rows);
    join(r->gates, r->back, rows);
    sigmoid_by_exp(i, 2 * n);
    tanh_by_exp(g, 12, n);
    sigmoid_by_exp(o, n);
    remember_rounded(i, f, g, r->cell, 30 - r->cell_exponent, r->cell_limit, n);
    tanh_by_exp(i, r->cell_exponent, n);
    map_twice(r->view, i, o, r->map_multiplier, r->map_shift, r->map_zero, n);
}

void er_lstm_q12_step(const er_lstm_q12 *r) {
    WALK(r, q12_silence, q12_see, q12_advance);
    keep8(r->hidden, r->view, r->units);
}
void er_lstm_q12_reset(const er_lstm_q12 *r) {
    q12_silence(r);
    fill16(r->y, r->start, r->outputs);
}
void er_lstm_q12_reading(const er_lstm_q12 *r, int32_t *out) { er_widen(out, r->y, r->outputs); }
