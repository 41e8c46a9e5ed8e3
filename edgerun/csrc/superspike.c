/* SuperSpike: a window of populations written down, and what their last one's spikes lack, filtered and sent down. */
#include "edgerun.h"

#ifdef ER_POPULATIONS

#include <string.h>

#include "clones.h"

enum { ONE_SPIKE = 1 << 14, SURE = 1 << 15 };

static const er_patterns *patterns_of(const er_learner *l) {
    return &l->net->layers[l->net->plan.layers - 1].as.patterns;
}

/* ---------------------------------------------------------------- recording */

/* 1 / (1 + |h|)**2 in Q0.15 at the middle of a sixteenth, |h| = |margin| / 2**shift; 0 behind 256 of them */
static uint16_t surrogate(int32_t margin, int32_t shift) {
    const int32_t step = (margin < 0 ? -margin : margin) >> (shift - 4);
    if (step >= 256) return 0;
    const int32_t d = (33 + 2 * step) * (33 + 2 * step);
    return (uint16_t)((32767 * 2048 + d) / (2 * d));
}

/* Write down step t of a population that has just run, whose membranes were so far from their thresholds. */
static void note(const er_learner *l, const er_population *each, const int32_t *margin, int32_t t) {
    const er_dense_sum *from = &l->net->layers[each->synapses].as.dense_sum;
    const size_t n = (size_t)each->outputs, row = (size_t)t * n;
    uint8_t *pre = each->pre + (size_t)t * (size_t)each->inputs;
    for (int32_t i = 0; i < each->inputs; i++) pre[i] = (uint8_t)er_value(from->x, from->wide, i);
    for (size_t j = 0; j < n; j++) each->psi[row + j] = surrogate(margin[j], l->rule.width_shift);
    if (each->spikes) memcpy(each->spikes + row, l->net->layers[each->neurons].as.cells.fired, n);
}

static const er_population *population_of(const er_learner *l, int32_t layer) {
    for (int32_t k = 0; k < l->rule.populations; k++)
        if (l->populations[k].neurons == layer) return &l->populations[k];
    return NULL;
}

static void record(const er_learner *l, const int16_t *q) {
    const er_net *net = l->net;
    er_net_reset(net);
    for (int32_t t = 0; t < net->plan.steps; t++) {
        er_net_encode(net, q, t);
        for (int32_t k = 0; k < net->plan.layers; k++) {
            const er_population *each = population_of(l, k);
            if (!each) {
                er_layer_step(&net->layers[k]);
                continue;
            }
            er_cells_feel(&net->layers[k].as.cells, l->rule.state);
            note(l, each, l->rule.state, t);
        }
    }
}

int32_t er_superspike_record(const er_learner *l, const int16_t *q, int32_t label) {
    const er_rule *r = &l->rule;
    record(l, q);
    const int64_t distance = -(int64_t)patterns_of(l)->score[label], silence = r->silence[label];
    int64_t sure = distance ? 0 : SURE;
    if (silence) sure = SURE - (distance * SURE + silence - 1) / silence;
    memset(r->error, 0, (size_t)r->classes * sizeof *r->error);
    r->error[label] = er_clip(sure, 0, SURE) - SURE;
    return r->error[label] + SURE;
}

/* ---------------------------------------------------------------- factors */

/* One step of a convex filter of values of 16 bits: x <- x * decay + row * (2**15 - decay), row <- x. */
ER_CLONES
static void smooth(int16_t *restrict row, int32_t *restrict x, int32_t *restrict carry, int32_t decay, int32_t n) {
    for (int32_t j = 0; j < n; j++) {
        const int32_t t = x[j] * decay + row[j] * ((1 << 15) - decay) + carry[j];
        carry[j] = t & 0x7fff;
        x[j] = t >> 15;
        row[j] = (int16_t)x[j];
    }
}

/* The same over a window, from rest, in place.   rows (steps, n)   state (2, n) scratch */
static void smooth_rows(int16_t *rows, int32_t *state, int32_t decay, int32_t steps, int32_t n, int backwards) {
    memset(state, 0, 2 * (size_t)n * sizeof *state);
    for (int32_t t = 0; t < steps; t++)
        smooth(rows + (size_t)(backwards ? steps - 1 - t : t) * (size_t)n, state, state + n, decay, n);
}

/* post <- 2**14 (spikes - target) of the last population */
static void lacking(const er_population *last, const uint8_t *target) {
    const size_t size = (size_t)last->steps * (size_t)last->outputs;
    for (size_t i = 0; i < size; i++) last->post[i] = (int16_t)((last->spikes[i] - target[i]) * ONE_SPIKE);
}

/* post <- what comes down of the signal of the population above */
static void project(const er_rule *r, const er_population *each, const er_population *above) {
    for (int32_t t = 0; t < each->steps; t++) {
        const int16_t *signal = above->post + (size_t)t * (size_t)above->outputs;
        for (int32_t k = 0; k < above->outputs; k++) r->state[k] = signal[k];
        er_learning_signal(each->post + (size_t)t * (size_t)each->outputs, r->state, each->feedback, NULL,
                           r->signal_shift, 1, each->outputs, above->outputs);
    }
}

/* post <- psi times the signal, filtered as an error (van Rossum) and, backwards, as an eligibility */
static void filter_signal(const er_learner *l, const er_population *each) {
    const er_patterns *patterns = patterns_of(l);
    const int32_t steps = each->steps, n = each->outputs, shift = l->rule.post_shift;
    const size_t size = (size_t)steps * (size_t)n;
    int32_t *state = l->rule.state;
    smooth_rows(each->post, state, patterns->rise, steps, n, 0);
    smooth_rows(each->post, state, patterns->fall, steps, n, 0);
    smooth_rows(each->post, state, patterns->fall, steps, n, 1);
    smooth_rows(each->post, state, patterns->rise, steps, n, 1);
    for (size_t i = 0; i < size; i++)
        each->post[i] = er_sat16((each->psi[i] * each->post[i] + (1 << (shift - 1))) >> shift);
}

/* history <- what each presynaptic spike makes of a membrane */
static void potentials(const er_rule *r, const er_population *each) {
    const er_trace trace = {.steps = each->steps, .kept = each->steps, .units = each->inputs, .decay = each->alpha,
                            .reach = 1, .spikes = each->pre, .history = each->history, .state = r->state};
    er_traces(&trace);
    smooth_rows(each->history, r->state, each->decay, each->steps, each->inputs, 0);
}

void er_superspike_factors(const er_learner *l) {
    const er_rule *r = &l->rule;
    const er_patterns *patterns = patterns_of(l);
    const int32_t last = r->populations - 1;
    int32_t label = 0;
    for (int32_t k = 1; k < r->classes; k++)
        if (r->error[k] < r->error[label]) label = k;
    lacking(&l->populations[last], patterns->target + (size_t)label * (size_t)patterns->steps * (size_t)patterns->inputs);
    for (int32_t k = last - 1; k >= 0; k--) project(r, &l->populations[k], &l->populations[l->populations[k].above]);
    for (int32_t k = 0; k <= last; k++) {
        filter_signal(l, &l->populations[k]);
        potentials(r, &l->populations[k]);
    }
}

#endif
