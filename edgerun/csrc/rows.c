/* Softmax, its logarithm and layer normalisation, row by row. */
#include "kinds.h"

static int32_t largest(const int16_t *x, int32_t n) {
    int32_t top = x[0];
    for (int32_t k = 1; k < n; k++) top = x[k] > top ? x[k] : top;
    return top;
}

/* The table's entry for a value under the row's largest. */
static int64_t exponential(const int32_t *table, int32_t distance) { return table[distance < 255 ? distance : 255]; }

static int64_t total(const int32_t *table, const int16_t *x, int32_t top, int32_t n) {
    int64_t sum = 0;
    for (int32_t k = 0; k < n; k++) sum += exponential(table, top - x[k]);
    return sum;
}

void er_softmax_step(const er_softmax *r) {
    for (int32_t first = 0; first < r->outputs; first += r->row) {
        const int16_t *x = r->x + first;
        const int32_t top = largest(x, r->row);
        const int64_t whole = total(r->exponentials, x, top, r->row) * ((int64_t)1 << r->shift);
        for (int32_t k = 0; k < r->row; k++) {
            const int64_t e = exponential(r->exponentials, top - x[k]);
            const int64_t p = (2 * e * r->multiplier + whole) / (2 * whole);
            r->y[first + k] = (int16_t)er_clip(p + r->zero_point, INT16_MIN, 127);
        }
    }
}
ER_READS_OUTPUT(er_softmax)

static int32_t bits(int64_t x) { /* x > 0 */
    int32_t n = 0;
    for (; x; x >>= 1) n++;
    return n;
}

/* ln(sum / 2**30) in Q12; ln 2 is 2839 there. */
static int64_t logarithm(const int16_t *logarithms, int64_t sum) {
    const int32_t k = bits(sum) - 1;
    const int64_t ten = k >= 10 ? sum >> (k - 10) : sum * ((int64_t)1 << (10 - k));
    return logarithms[ten & 1023] + (int64_t)(k - 30) * 2839;
}

void er_log_softmax_step(const er_log_softmax *r) {
    const int64_t half = (int64_t)1 << (r->shift - 1);
    for (int32_t first = 0; first < r->outputs; first += r->row) {
        const int16_t *x = r->x + first;
        const int32_t top = largest(x, r->row);
        const int64_t log = logarithm(r->logarithms, total(r->exponentials, x, top, r->row));
        for (int32_t k = 0; k < r->row; k++) {
            const int64_t down = half - log * r->multiplier_l - (int64_t)(top - x[k]) * r->multiplier_d;
            r->y[first + k] = (int16_t)er_clip((down >> r->shift) + r->zero_point, -128, INT16_MAX);
        }
    }
}
ER_READS_OUTPUT(er_log_softmax)

/* floor(sqrt(x)), 0 <= x < 2**52 */
static int64_t root(int64_t x) {
    int64_t found = 0, bit = (int64_t)1 << 50;
    for (; bit; bit >>= 2) {
        if (x >= found + bit) {
            x -= found + bit;
            found = (found >> 1) + bit;
        } else {
            found >>= 1;
        }
    }
    return found;
}

void er_layer_norm_step(const er_layer_norm *r) {
    const int64_t c = r->row;
    for (int32_t first = 0; first < r->outputs; first += r->row) {
        const int16_t *x = r->x + first;
        int64_t sum = 0, squares = 0;
        for (int32_t k = 0; k < r->row; k++) {
            sum += x[k];
            squares += x[k] * x[k];
        }
        int64_t power = 256 * (c * squares - sum * sum) + *r->epsilon;
        if (power < 1) power = 1;
        const int32_t t = (52 - bits(power)) >> 1, shift = 27 - t;
        const int64_t reciprocal = ((int64_t)1 << 51) / root(power * ((int64_t)1 << (2 * t)));
        for (int32_t k = 0; k < r->row; k++) {
            const int64_t n = ((c * x[k] - sum) * reciprocal + ((int64_t)1 << (shift - 1))) >> shift;
            const int64_t y = (n * r->multiplier[k] + r->offset[k]) >> r->shift;
            r->y[first + k] = (int16_t)er_clip(y + r->zero_point, r->qmin, r->qmax);
        }
    }
}
ER_READS_OUTPUT(er_layer_norm)
