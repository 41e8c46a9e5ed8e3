/* Spiking neurons and leaky integrators, event by event. */
#include "edgerun.h"

#include <string.h>

#include "clones.h"

ER_CLONES
static void add_row(int32_t *restrict sums, const int8_t *restrict row, int32_t value, int32_t n) {
    for (int32_t j = 0; j < n; j++) sums[j] += value * row[j];
}

void er_add_rows(int32_t *sums, const int8_t *weight, const int16_t *x, int32_t m, int32_t n) {
    for (int32_t i = 0; i < m; i++)
        if (x[i]) add_row(sums, weight + (size_t)i * (size_t)n, x[i], n);
}

void er_add_spikes(int32_t *sums, const int8_t *weight, const uint8_t *spikes, int32_t unit, int32_t m, int32_t n) {
    for (int32_t i = 0; i < m; i++)
        if (spikes[i]) add_row(sums, weight + (size_t)i * (size_t)n, unit, n);
}

ER_CLONES
static void add_row_high(int32_t *restrict sums, const int16_t *restrict row, int32_t value, int32_t n) {
    for (int32_t j = 0; j < n; j++) sums[j] += value * (row[j] >> 8);
}

void er_add_rows_high(int32_t *sums, const int16_t *shadow, const int16_t *x, int32_t m, int32_t n) {
    for (int32_t i = 0; i < m; i++)
        if (x[i]) add_row_high(sums, shadow + (size_t)i * (size_t)n, x[i], n);
}

void er_add_spikes_high(int32_t *sums, const int16_t *shadow, const uint8_t *spikes, int32_t unit, int32_t m, int32_t n) {
    for (int32_t i = 0; i < m; i++)
        if (spikes[i]) add_row_high(sums, shadow + (size_t)i * (size_t)n, unit, n);
}

/* sums <- what the synapses give: input and, where there are any, the layer's own spikes */
static void synapses(const er_lif *r) {
    const int32_t n = r->outputs, unit = 1 << r->recurrent_shift;
    memset(r->sums, 0, (size_t)n * sizeof *r->sums);
    if (r->input)
        er_add_rows(r->sums, r->input, r->x, r->inputs, n);
    else
        er_add_rows_high(r->sums, r->input_shadow, r->x, r->inputs, n);
    if (r->recurrent) er_add_spikes(r->sums, r->recurrent, r->fired, unit, n, n);
    if (r->recurrent_shadow) er_add_spikes_high(r->sums, r->recurrent_shadow, r->fired, unit, n, n);
}

/* The spikes' own reset: `target` (v or the current) loses the threshold, or the membrane is cleared. */
static inline int32_t reset(const er_lif *r, int32_t j, int32_t target) {
    if (r->reset == ER_RESET_SUBTRACT) return target - r->threshold;
    if (r->reset != ER_RESET_NONE) {
        r->v[j] = 0;
        r->carry[j] = 0;
    }
    return target;
}

/* Whether neuron j may not spike now. */
static inline int rests(const er_lif *r, int32_t j) {
    if (!r->resting || !r->resting[j]) return 0;
    r->resting[j]--;
    return 1;
}

void er_lif_step(const er_lif *r, uint8_t *psi) {
    const int32_t n = r->outputs, shift = 12 - r->weight_exponent;
    synapses(r);
    for (int32_t j = 0; j < n; j++) {
        int32_t current = (int32_t)er_scale_sum(r->sums[j], shift) + r->bias[j], threshold = r->threshold;
        const int due = r->fired[j];
        if (due && r->reset_delay && r->reset != ER_RESET_HOLD) current = reset(r, j, current);
        if (r->rho) {
            er_leak(&r->adaptation[j], &r->adaptation_carry[j], r->rho[j], due ? r->beta[j] : 0);
            threshold += r->adaptation[j];
        }
        er_leak(&r->v[j], &r->carry[j], r->decay[j], current);
        if (due && r->reset_delay && r->reset == ER_RESET_HOLD) reset(r, j, 0);
        int32_t margin = r->v[j] - threshold;
        int spike = margin >= 0;
        if (rests(r, j)) {
            spike = 0;
            margin = 2 * INT16_MIN;
        }
        if (spike && r->resting) r->resting[j] = (uint8_t)r->refractory_steps;
        if (psi) psi[j] = er_surrogate(margin, r->threshold);
        if (spike && !r->reset_delay) {
            int32_t after = reset(r, j, r->v[j]);
            if (r->reset == ER_RESET_SUBTRACT) r->v[j] = (int16_t)after;
        }
        r->fired[j] = (uint8_t)spike;
        r->counts[j] = (uint16_t)(r->counts[j] + spike);
        if (r->y) r->y[j] = (int16_t)spike;
    }
}

void er_readout_step(const er_readout *r) {
    const int32_t n = r->outputs, shift = 24 - r->weight_exponent;
    memset(r->sums, 0, (size_t)n * sizeof *r->sums);
    if (r->input)
        er_add_rows(r->sums, r->input, r->x, r->inputs, n);
    else
        er_add_rows_high(r->sums, r->input_shadow, r->x, r->inputs, n);
    for (int32_t k = 0; k < n; k++)
        er_integrate(&r->y[k], &r->carry[k], r->kappa[k], er_scale_sum(r->sums[k], shift) + r->bias[k]);
}
