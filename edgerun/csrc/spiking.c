/* Spiking neurons and leaky integrators, event by event. */
#include "clones.h"
#include "kinds.h"

ER_CLONES
static void add_once(int32_t *restrict sums, const int8_t *restrict row, int32_t n) {
    for (int32_t j = 0; j < n; j++) sums[j] += row[j];
}

ER_CLONES
static void add_times(int32_t *restrict sums, const int8_t *restrict row, int32_t value, int32_t n) {
    for (int32_t j = 0; j < n; j++) sums[j] += value * row[j];
}

void er_add_row(int32_t *sums, const int8_t *row, int32_t value, int32_t n) {
    if (value == 1)
        add_once(sums, row, n);
    else
        add_times(sums, row, value, n);
}

/* Whether eight bytes from here on are zero: what comes in is mostly silence. */
static inline int silent(const void *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return !word;
}

void er_add_rows(int32_t *sums, const int8_t *weight, const int16_t *x, int32_t m, int32_t n) {
    for (int32_t i = 0; i < m; i++) {
        if (i + 4 <= m && silent(x + i))
            i += 3;
        else if (x[i])
            er_add_row(sums, weight + (size_t)i * (size_t)n, x[i], n);
    }
}

void er_add_wide_rows(int32_t *sums, const int8_t *weight, const int32_t *x, int32_t m, int32_t n) {
    for (int32_t i = 0; i < m; i++)
        if (x[i]) er_add_row(sums, weight + (size_t)i * (size_t)n, x[i], n);
}

void er_add_spikes(int32_t *sums, const int8_t *weight, const uint8_t *spikes, int32_t unit, int32_t m, int32_t n) {
    for (int32_t i = 0; i < m; i++) {
        if (i + 8 <= m && silent(spikes + i))
            i += 7;
        else if (spikes[i])
            er_add_row(sums, weight + (size_t)i * (size_t)n, unit, n);
    }
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

static void add_wide_rows_high(int32_t *sums, const int16_t *shadow, const int32_t *x, int32_t m, int32_t n) {
    for (int32_t i = 0; i < m; i++)
        if (x[i]) add_row_high(sums, shadow + (size_t)i * (size_t)n, x[i], n);
}

/* sums += x W, of either width of x, of weights or of the high bytes of their shadows. */
static void add_source(int32_t *sums, const int8_t *weight, const int16_t *shadow, const int16_t *x, const int32_t *wide,
                       int32_t m, int32_t n) {
    if (shadow && x)
        er_add_rows_high(sums, shadow, x, m, n);
    else if (shadow)
        add_wide_rows_high(sums, shadow, wide, m, n);
    else if (x)
        er_add_rows(sums, weight, x, m, n);
    else
        er_add_wide_rows(sums, weight, wide, m, n);
}

/* sums <- what the synapses give: input and, where there are any, the layer's own spikes */
static void synapses(const er_lif *r) {
    const int32_t n = r->outputs, unit = 1 << r->recurrent_shift;
    ER_CLEAR(r->sums, n);
    add_source(r->sums, r->input, r->input_shadow, r->x, r->wide, r->inputs, n);
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

/* A step of neurons that neither adapt nor rest and lose their threshold a step after they spiked, which most do:
 * branch-free, so that compilers take several at a time. sums (n,) leave as the margins. */
ER_CLONES
static void plain_neurons(int16_t *restrict v, uint16_t *restrict carry, uint8_t *restrict fired,
                          uint16_t *restrict counts, int32_t *restrict sums, const uint16_t *restrict decay,
                          const int32_t *restrict bias, int32_t shift, int32_t threshold, int32_t n) {
    const int32_t left = shift > 0 ? 1 << shift : 1, right = shift < 0 ? -shift : 0, half = (1 << right) >> 1;
    for (int32_t j = 0; j < n; j++) {
        const int32_t current = ((sums[j] * left + half) >> right) + bias[j] - fired[j] * threshold;
        const int32_t t = v[j] * decay[j] + carry[j], x = (t >> 15) + current;
        const int32_t low = x < INT16_MIN ? INT16_MIN : x, membrane = low > INT16_MAX ? INT16_MAX : low;
        carry[j] = (uint16_t)(t & 0x7fff);
        v[j] = (int16_t)membrane;
        sums[j] = membrane - threshold;
        fired[j] = (uint8_t)(membrane >= threshold);
        counts[j] = (uint16_t)(counts[j] + (membrane >= threshold));
    }
}

static void tell_plain(const er_lif *r, uint8_t *psi) {
    const int32_t n = r->outputs;
    for (int32_t j = 0; psi && j < n; j++) psi[j] = er_surrogate(r->sums[j], r->threshold);
    for (int32_t j = 0; r->y && j < n; j++) r->y[j] = r->fired[j];
}

/* One step of any other neuron. */
static void neuron(const er_lif *r, int32_t j, int32_t shift, uint8_t *psi) {
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

void er_lif_step(const er_lif *r, uint8_t *psi) {
    const int32_t n = r->outputs, shift = 12 - r->weight_exponent;
    synapses(r);
    if (!r->rho && !r->resting && r->reset == ER_RESET_SUBTRACT && r->reset_delay) {
        plain_neurons(r->v, r->carry, r->fired, r->counts, r->sums, r->decay, r->bias, shift, r->threshold, n);
        tell_plain(r, psi);
        return;
    }
    for (int32_t j = 0; j < n; j++) neuron(r, j, shift, psi);
}

void er_lif_reset(const er_lif *r) {
    ER_CLEAR(r->v, r->outputs);
    ER_CLEAR(r->carry, r->outputs);
    ER_CLEAR(r->fired, r->outputs);
    ER_CLEAR(r->counts, r->outputs);
    if (r->rho) {
        ER_CLEAR(r->adaptation, r->outputs);
        ER_CLEAR(r->adaptation_carry, r->outputs);
    }
    if (r->resting) ER_CLEAR(r->resting, r->outputs);
    if (r->y) ER_CLEAR(r->y, r->outputs);
}

void er_lif_reading(const er_lif *r, int32_t *out) {
    for (int32_t j = 0; j < r->outputs; j++) out[j] = r->counts[j];
}

void er_readout_step(const er_readout *r) {
    const int32_t n = r->outputs, shift = 24 - r->weight_exponent;
    ER_CLEAR(r->sums, n);
    add_source(r->sums, r->input, r->input_shadow, r->x, r->wide, r->inputs, n);
    for (int32_t k = 0; k < n; k++)
        er_integrate(&r->y[k], &r->carry[k], r->kappa[k], er_scale_sum(r->sums[k], shift) + r->bias[k]);
}

void er_readout_reset(const er_readout *r) {
    ER_CLEAR(r->y, r->outputs);
    ER_CLEAR(r->carry, r->outputs);
}

void er_readout_reading(const er_readout *r, int32_t *out) { memcpy(out, r->y, (size_t)r->outputs * sizeof *out); }
