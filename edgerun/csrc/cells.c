/* Synapses without neurons, and neurons and integrators on raw sums. */
#include "kinds.h"

void er_dense_sum_step(const er_dense_sum *r) {
    ER_CLEAR(r->sums, r->outputs);
    for (int32_t i = 0; i < r->inputs; i++) {
        const int32_t value = er_value(r->x, r->wide, i) - r->zero_point;
        if (value) er_add_row(r->sums, r->weight + (size_t)i * (size_t)r->outputs, value, r->outputs);
    }
    er_narrow(r->y, r->sums, r->outputs);
}
ER_READS_SUMS(er_dense_sum)

/* ---------------------------------------------------------------- what all on sums share */

/* The largest value so far, or the sum of all: peak and sum are NULL where a reading does not need them. */
#define NOTE(r, j, value) \
    do { \
        if ((r)->peak && (value) > (r)->peak[j]) (r)->peak[j] = (value); \
        if ((r)->sum) (r)->sum[j] += (value); \
    } while (0)

#define CLEAR_NOTES(r, least) \
    do { \
        for (int32_t j = 0; (r)->peak && j < (r)->outputs; j++) (r)->peak[j] = (least); \
        if ((r)->sum) ER_CLEAR((r)->sum, (r)->outputs); \
        if ((r)->seen) *(r)->seen = 0; \
    } while (0)

/* Every neuron j of a layer and its parameter p. */
#define EACH_NEURON(r, j, p) \
    for (int32_t j = 0, p = 0; j < (r)->outputs; j++, p = p + 1 == (r)->parameters ? 0 : p + 1)

/* A membrane as it is read: the newest, the largest, or the mean, rounded down. */
#define READ_MEMBRANE(r, j) \
    ((r)->peak ? (r)->peak[j] : (r)->sum ? mean_of((r)->sum[j], *(r)->seen) : (r)->v[j])

static int32_t mean_of(int64_t sum, int32_t seen) { return (int32_t)er_floor_div(sum, seen > 1 ? seen : 1); }

/* Leave of all spikes that of the largest margin, the first of equals. */
static void leave_one(uint8_t *spikes, const int16_t *v, const int16_t *threshold, int32_t parameters, int32_t n) {
    int32_t best = 0, most = INT32_MIN;
    for (int32_t j = 0, p = 0; j < n; j++, p = p + 1 == parameters ? 0 : p + 1) {
        const int32_t margin = v[j] - threshold[p];
        if (margin > most) {
            best = j;
            most = margin;
        }
    }
    for (int32_t j = 0; j < n; j++)
        if (j != best) spikes[j] = 0;
}

/* ---------------------------------------------------------------- cells */

/* The membrane under a current of its own, whose low bits go into the carry. */
static void leak_fine(int16_t *v, uint16_t *carry, int32_t decay, int64_t drive) {
    const int64_t t = *v * decay + *carry + 8 * (drive & 4095);
    *carry = (uint16_t)(t & 0x7fff);
    *v = er_sat16((t >> 15) + (drive >> 12));
}

/* What drives neuron j: its sum, its bias and what the spikes of the step before bring back. */
static int64_t drive_of(const er_cells *r, int32_t j, int32_t p) {
    int64_t drive = er_scale_sum(er_value(r->x, r->wide, j), r->shift) + r->bias[p];
    if (r->own) drive += r->own[p] * (int64_t)r->fired[j];
    if (r->recurrent) drive += er_scale_sum(r->sums[j], r->back_shift);
    return drive;
}

/* Leak neuron j; returns whether it was over its threshold before. */
static int advance(const er_cells *r, int32_t j, int32_t p) {
    const int32_t threshold = r->threshold[p];
    const int over = r->v[j] >= threshold;
    int64_t drive = drive_of(r, j, p);
    if (over && r->reset == ER_RESET_ZERO) r->v[j] = 0, r->carry[j] = 0;
    if (r->alpha) {
        er_integrate(&r->current[j], &r->current_carry[j], r->alpha[p], drive);
        drive = r->current[j];
    }
    if (over && r->reset == ER_RESET_SUBTRACT) drive -= r->alpha ? threshold * (1 << 12) : threshold;
    if (r->alpha)
        leak_fine(&r->v[j], &r->carry[j], r->decay[p], drive);
    else
        er_leak(&r->v[j], &r->carry[j], r->decay[p], (int32_t)drive);
    if (over && r->reset == ER_RESET_HOLD) r->v[j] = 0, r->carry[j] = 0;
    return over;
}

/* Reset neuron j in the spike's own step; what the step's beginning has already taken is given back. */
static void reset_now(const er_cells *r, int32_t j, int32_t threshold, int32_t spike, int32_t over) {
    if (r->reset == ER_RESET_SOFT)
        r->v[j] = (int16_t)(r->v[j] - spike * threshold);
    else if (r->reset == ER_RESET_SUBTRACT)
        r->v[j] = er_sat16(r->v[j] - (spike - over) * threshold);
    else if (r->reset != ER_RESET_NONE && spike)
        r->v[j] = 0, r->carry[j] = 0;
}

void er_cells_feel(const er_cells *r, int32_t *margin) {
    const int32_t n = r->outputs;
    if (r->recurrent) {
        ER_CLEAR(r->sums, n);
        er_add_spikes(r->sums, r->recurrent, r->fired, 1, n, n);
    }
    EACH_NEURON(r, j, p) {
        r->y[j] = (int16_t)advance(r, j, p); /* y is free until the spikes are known */
        r->fired[j] = r->v[j] >= r->threshold[p];
        if (margin) margin[j] = r->v[j] - r->threshold[p];
    }
    if (r->inhibition) leave_one(r->fired, r->v, r->threshold, r->parameters, n);
    EACH_NEURON(r, j, p) {
        if (!r->reset_delay) reset_now(r, j, r->threshold[p], r->fired[j], r->y[j]);
        r->counts[j] = (uint16_t)(r->counts[j] + r->fired[j]);
        r->y[j] = r->fired[j];
        NOTE(r, j, r->v[j]);
    }
    if (r->seen) *r->seen += 1;
}

void er_cells_step(const er_cells *r) { er_cells_feel(r, NULL); }

void er_cells_reset(const er_cells *r) {
    ER_CLEAR(r->v, r->outputs);
    ER_CLEAR(r->carry, r->outputs);
    ER_CLEAR(r->fired, r->outputs);
    ER_CLEAR(r->counts, r->outputs);
    ER_CLEAR(r->y, r->outputs);
    if (r->current) ER_CLEAR(r->current, r->outputs);
    if (r->current_carry) ER_CLEAR(r->current_carry, r->outputs);
    CLEAR_NOTES(r, INT16_MIN);
}

void er_cells_reading(const er_cells *r, int32_t *out) {
    for (int32_t j = 0; j < r->outputs; j++) out[j] = r->reads_counts ? r->counts[j] : READ_MEMBRANE(r, j);
}

/* ---------------------------------------------------------------- alpha cells */

/* Reset what neuron j's membrane, over its threshold before this step, came from. */
static void reset_alpha(const er_alpha_cells *r, int32_t j, int32_t threshold, int32_t before) {
    if (r->reset == ER_RESET_HOLD) {
        r->v[j] = 0;
        r->excitatory[j] = 0;
        r->excitatory_carry[j] = 0;
    } else {
        r->excitatory[j] = er_sat32((int64_t)r->excitatory[j] - threshold * (1 << 12));
        r->v[j] = er_sat16(r->v[j] + (before >> 12));
    }
    r->inhibitory[j] = 0;
    r->inhibitory_carry[j] = 0;
}

void er_alpha_cells_step(const er_alpha_cells *r) {
    const int32_t n = r->outputs;
    EACH_NEURON(r, j, p) {
        const int32_t threshold = r->threshold[p], before = r->inhibitory[j];
        const int over = r->v[j] >= threshold;
        const int64_t drive = er_scale_sum(er_value(r->x, r->wide, j), r->shift) + r->bias[p];
        er_integrate(&r->excitatory[j], &r->excitatory_carry[j], r->alpha[p], drive);
        er_integrate(&r->inhibitory[j], &r->inhibitory_carry[j], r->beta[p], -drive);
        const int64_t apart = (int64_t)r->excitatory[j] + r->inhibitory[j];
        r->v[j] = er_sat16((apart * r->tau[p] + (1 << 27)) >> 28);
        if (over && r->reset != ER_RESET_NONE) reset_alpha(r, j, threshold, before);
        r->fired[j] = r->v[j] >= threshold;
    }
    if (r->inhibition) leave_one(r->fired, r->v, r->threshold, r->parameters, n);
    for (int32_t j = 0; j < n; j++) {
        r->counts[j] = (uint16_t)(r->counts[j] + r->fired[j]);
        r->y[j] = r->fired[j];
        NOTE(r, j, r->v[j]);
    }
    if (r->seen) *r->seen += 1;
}

void er_alpha_cells_reset(const er_alpha_cells *r) {
    ER_CLEAR(r->v, r->outputs);
    ER_CLEAR(r->fired, r->outputs);
    ER_CLEAR(r->counts, r->outputs);
    ER_CLEAR(r->y, r->outputs);
    ER_CLEAR(r->excitatory, r->outputs);
    ER_CLEAR(r->excitatory_carry, r->outputs);
    ER_CLEAR(r->inhibitory, r->outputs);
    ER_CLEAR(r->inhibitory_carry, r->outputs);
    CLEAR_NOTES(r, INT16_MIN);
}

void er_alpha_cells_reading(const er_alpha_cells *r, int32_t *out) {
    for (int32_t j = 0; j < r->outputs; j++) out[j] = r->reads_counts ? r->counts[j] : READ_MEMBRANE(r, j);
}

/* ---------------------------------------------------------------- integrators */

void er_integrators_step(const er_integrators *r) {
    EACH_NEURON(r, j, p) {
        int64_t drive = er_scale_sum(er_value(r->x, r->wide, j), r->shift) + r->bias[p];
        if (r->alpha) {
            er_integrate(&r->current[j], &r->current_carry[j], r->alpha[p], drive);
            drive = r->current[j];
        }
        er_integrate(&r->v[j], &r->carry[j], r->decay[p], drive);
        NOTE(r, j, r->v[j]);
    }
    if (r->seen) *r->seen += 1;
}

void er_integrators_reset(const er_integrators *r) {
    ER_CLEAR(r->v, r->outputs);
    ER_CLEAR(r->carry, r->outputs);
    if (r->current) ER_CLEAR(r->current, r->outputs);
    if (r->current_carry) ER_CLEAR(r->current_carry, r->outputs);
    CLEAR_NOTES(r, INT32_MIN);
}

void er_integrators_reading(const er_integrators *r, int32_t *out) {
    for (int32_t j = 0; j < r->outputs; j++) out[j] = READ_MEMBRANE(r, j);
}

/* ---------------------------------------------------------------- patterns */

enum { ONE_SPIKE = 1 << 14, ENERGY_SHIFT = 8 };

/* One step of a convex filter: t = x * decay + drive * (2**15 - decay) + carry. */
static void smooth(int16_t *x, uint16_t *carry, int32_t decay, int32_t drive) {
    const int32_t t = *x * decay + drive * ((1 << 15) - decay) + *carry;
    *carry = (uint16_t)(t & 0x7fff);
    *x = (int16_t)(t >> 15);
}

/* One pattern: how many inputs differ from it now, its filters moved on. */
static int32_t compare(const er_patterns *r, int32_t k, const uint8_t *target) {
    const int64_t first = (int64_t)k * r->inputs;
    int32_t differ = 0;
    int64_t energy = 0;
    for (int32_t i = 0; i < r->inputs; i++) {
        const int64_t at = first + i;
        const int32_t raw = r->x[i] - (target ? target[i] : 0);
        differ += raw < 0 ? -raw : raw;
        smooth(&r->rising[at], &r->rising_carry[at], r->rise, raw * ONE_SPIKE);
        smooth(&r->falling[at], &r->falling_carry[at], r->fall, r->rising[at]);
        energy += r->falling[at] * r->falling[at];
    }
    const int64_t score = r->score[k] - (energy >> ENERGY_SHIFT);
    r->score[k] = (int32_t)(score > INT32_MIN ? score : INT32_MIN);
    return differ;
}

void er_patterns_step(const er_patterns *r) {
    const int32_t t = *r->seen;
    for (int32_t k = 0; k < r->outputs; k++) {
        const int known = t >= 0 && t < r->steps; /* behind its last step a target is silent */
        r->sums[k] = compare(r, k, known ? r->target + ((int64_t)k * r->steps + t) * r->inputs : NULL);
    }
    *r->seen = t + 1;
    er_narrow(r->y, r->sums, r->outputs);
}

void er_patterns_reset(const er_patterns *r) {
    const size_t each = (size_t)r->outputs * (size_t)r->inputs;
    ER_CLEAR(r->rising, each);
    ER_CLEAR(r->falling, each);
    ER_CLEAR(r->rising_carry, each);
    ER_CLEAR(r->falling_carry, each);
    ER_CLEAR(r->score, r->outputs);
    *r->seen = 0;
}

void er_patterns_reading(const er_patterns *r, int32_t *out) {
    memcpy(out, r->score, (size_t)r->outputs * sizeof *out);
}
