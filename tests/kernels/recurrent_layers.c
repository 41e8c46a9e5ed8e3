/* Windows of many random recurrent layers, packed and not: prints a digest of all that they gave and kept. Run by
 * test_native_processors.py, which asks every processor for the same.
 */
#include <stdio.h>
#include <string.h>

#include "edgerun.h"

enum { UNITS = 40, INPUTS = 70, STEPS = 3, ROWS = 4 * UNITS, ROUNDS = 400 };

static uint64_t state = 88172645463325252u, digest = 14695981039346656037u;

static uint64_t word(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 11;
}
static int32_t between(int32_t low, int32_t high) { return low + (int32_t)(word() % (uint64_t)(high - low + 1)); }
static void note(int64_t value) { digest = (digest ^ (uint64_t)value) * 1099511628211u; }

static int8_t weight[ROWS * INPUTS], recurrent[ROWS * UNITS], packed[2 * ROWS * (INPUTS + UNITS + 80)], hidden8[UNITS];
static int16_t x[STEPS * INPUTS], y[STEPS * UNITS], view[UNITS], hidden[UNITS], cell[UNITS];
static int32_t bias[2][ROWS], multiplier[2][ROWS], gates[ROWS], back[ROWS];
static uint8_t shift[2][ROWS];
static uint16_t carry[UNITS], sigmoids[ER_KNOTS], tanhs[ER_KNOTS];

/* Rising knots, as a gate's are, of one to the other. */
static void draw_knots(uint16_t *knots, int32_t from, int32_t to) {
    for (int32_t k = 0; k < ER_KNOTS; k++) knots[k] = (uint16_t)(to - (to - from) * 20 / (20 + k));
    knots[ER_KNOTS - 1] = (uint16_t)to;
}

static void draw(int twice) {
    for (int32_t k = 0; k < ROWS * INPUTS; k++) weight[k] = (int8_t)between(-128, 127);
    for (int32_t k = 0; k < ROWS * UNITS; k++) recurrent[k] = (int8_t)between(-128, 127);
    for (int32_t k = 0; k < STEPS * INPUTS; k++) x[k] = (int16_t)between(-128, 127 + (word() % 999 == 0));
    for (int32_t part = 0; part < 2; part++)
        for (int32_t k = 0; k < ROWS; k++) {
            bias[part][k] = between(-30000, 30000);
            multiplier[part][k] = twice ? between(1 << 30, INT32_MAX) : between(1 << 23, (1 << 24) - 1);
            shift[part][k] = (uint8_t)(twice ? between(28, 36) : between(20, 28));
        }
}

/* The fields that all kinds have. */
#define FILL(r) \
    do { \
        (r).inputs = between(1, INPUTS), (r).units = between(1, UNITS), (r).steps = between(1, STEPS); \
        (r).sequence = (int32_t)(word() % 2), (r).reverse = (int32_t)(word() % 2); \
        (r).outputs = ((r).sequence ? (r).steps : 1) * (r).units; \
        (r).map_multiplier = 1 << 23, (r).map_shift = between(30, 32), (r).map_zero = between(-9, 9); \
        (r).weight = weight, (r).bias = bias[0], (r).multiplier = multiplier[0], (r).shift = shift[0]; \
        (r).recurrent = recurrent, (r).recurrent_bias = bias[1], (r).recurrent_multiplier = multiplier[1]; \
        (r).recurrent_shift = shift[1], (r).x = x, (r).y = y, (r).gates = gates, (r).back = back, (r).view = view; \
    } while (0)
#define GATED(r) ((r).map_min = -128, (r).map_max = 127, (r).sigmoid = sigmoids, (r).tanh = tanhs)

/* Two windows as weights lie, and the same two with packed ones where this processor has them. */
#define RUN(kind, r, gates_of_a_unit, KEPT) \
    for (int32_t again = 0; again < 2; again++) { \
        const int64_t size = er_gates_packed((int64_t)(gates_of_a_unit) * (r).units, (r).inputs, (r).units); \
        if (size > (int64_t)sizeof packed) return 1; \
        if (again && size) er_##kind##_pack(&(r), packed); \
        (r).packed = again && size ? packed : NULL; \
        er_##kind##_reset(&(r)); \
        for (int32_t window = 0; window < 2; window++) { \
            er_##kind##_step(&(r)); \
            for (int32_t k = 0; k < (r).outputs; k++) note(y[k]); \
            for (int32_t k = 0; k < (r).units; k++) KEPT; \
        } \
    }

int main(void) {
    draw_knots(sigmoids, 1 << 14, 1 << 15);
    draw_knots(tanhs, 0, (1 << 15) - 1);
    for (int32_t round = 0; round < ROUNDS; round++) {
        er_rnn rnn = {0};
        er_gru gru = {0};
        er_lstm lstm = {0};
        er_lstm_q12 exact = {0};
        draw(0);
        FILL(rnn);
        rnn.map_min = -128, rnn.map_max = 127, rnn.tanh = round % 2 ? tanhs : NULL, rnn.hidden = hidden8;
        RUN(rnn, rnn, 1, note(hidden8[k]))
        FILL(gru);
        GATED(gru), gru.reset_after = round % 2, gru.hidden = hidden, gru.carry = carry;
        RUN(gru, gru, 3, (note(hidden[k]), note(carry[k])))
        FILL(lstm);
        GATED(lstm), lstm.cell_exponent = between(4, 15), lstm.cell_limit = between(1, 32767);
        lstm.hidden = hidden8, lstm.cell = cell, lstm.carry = carry;
        RUN(lstm, lstm, 4, (note(hidden8[k]), note(cell[k]), note(carry[k])))
        draw(1);
        FILL(exact);
        exact.map_multiplier = between(1 << 30, INT32_MAX), exact.map_shift = between(50, 56), exact.hidden = hidden8;
        exact.cell = cell, exact.cell_exponent = between(9, 15), exact.cell_limit = round % 2 ? between(1, 32767) : 0;
        RUN(lstm_q12, exact, 4, (note(hidden8[k]), note(cell[k])))
    }
    printf("%016llx\n", (unsigned long long)digest);
    return 0;
}
