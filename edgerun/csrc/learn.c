/* One labelled window: run, record, take the error, make the factors, update. */
#include "edgerun.h"

#include <string.h>

#include "clones.h"

/* ---------------------------------------------------------------- recording */

static const er_tape *tape_of(const er_tape *tapes, int32_t count, int32_t layer) {
    for (int32_t k = 0; k < count; k++)
        if (tapes[k].layer == layer) return &tapes[k];
    return NULL;
}

/* Run step t of a layer that learns, and keep what came in and what came of it. */
static void record_step(const er_lif *lif, const er_tape *tape, int32_t t) {
    const size_t m = (size_t)tape->inputs, n = (size_t)tape->outputs, row = (size_t)t * m;
    const int32_t kept = t - (tape->steps - tape->chunk);
    for (size_t i = 0; i < m; i++) {
        const int32_t x = lif->x ? lif->x[i] : lif->wide[i];
        if (tape->pre)
            tape->pre[row + i] = (int8_t)x;
        else
            tape->pre_wide[row + i] = (int16_t)x;
    }
    er_lif_step(lif, kept < 0 ? NULL : tape->psi + (size_t)kept * n);
    memcpy(tape->spikes + (size_t)t * n, lif->fired, n);
}

void er_net_record(const er_net *net, const int16_t *q, const er_tape *tapes, int32_t count, int32_t *outputs,
                   int32_t last) {
    const er_plan *plan = &net->plan;
    er_net_reset(net);
    for (int32_t t = 0; t < plan->steps; t++) {
        const int32_t kept = t - (plan->steps - last), running = kept < 0 ? plan->each_step : plan->layers;
        er_net_encode(net, q, t);
        for (int32_t k = 0; k < running; k++) {
            const er_tape *tape = tape_of(tapes, count, k);
            if (tape)
                record_step(&net->layers[k].as.lif, tape, t);
            else
                er_layer_step(&net->layers[k]);
        }
        if (kept >= 0) er_layer_reading(&net->layers[plan->layers - 1], outputs + (size_t)kept * (size_t)plan->outputs);
    }
}

/* ---------------------------------------------------------------- e-prop */

/* Error (Q0.15) of the last steps; returns the mean p, rounded down. */
static int32_t eprop_error(const er_learner *l, int32_t label, const uint8_t *in_play) {
    const er_rule *r = &l->rule;
    if (r->kind == ER_EPROP_VALUES)
        return er_value_error(r->error, r->logits, r->target, r->error_shift, r->last * r->classes);
    int32_t total = 0;
    for (int32_t t = 0; t < r->last; t++) {
        const size_t row = (size_t)t * (size_t)r->classes;
        total += er_softmax_error(r->error + row, r->logits + row, r->temperature_shift, in_play, label, r->classes);
    }
    return total / r->last;
}

static void eprop_post(const er_learner *l, const er_tape *tape, const er_taught *taught) {
    const er_rule *r = &l->rule;
    const er_lif *lif = &l->net->layers[tape->layer].as.lif;
    const int32_t n = taught->outputs, chunk = taught->chunk;
    const uint8_t *spikes = tape->spikes + (size_t)(tape->steps - chunk) * (size_t)n;
    int16_t *signal = taught->post + (size_t)(chunk - r->last) * (size_t)n;
    memset(taught->post, 0, (size_t)(chunk - r->last) * (size_t)n * sizeof *signal);
    er_learning_signal(signal, r->error, taught->feedback, taught->feedback_shadow, r->signal_shift, r->last, n,
                       r->classes);
    er_filter_backwards(taught->post, r->kappa, r->state, chunk, n);
    if (r->spikes_cost) er_regularise(taught->post, spikes, r->spikes_target, r->spikes_cost, chunk, n);
    if (taught->adjoint)
        er_post_factor_adaptive(taught->post, tape->psi, r->post_shift, r->gamma, lif->beta, lif->rho, taught->adjoint,
                                chunk, n);
    else
        er_post_factor(taught->post, tape->psi, r->post_shift, chunk, n);
}

static void eprop_traces(const er_learner *l, const er_tape *tape, const er_taught *taught) {
    er_trace trace = {.steps = tape->steps, .kept = taught->chunk, .units = taught->inputs, .decay = taught->decay,
                      .reach = taught->reach, .pre = tape->pre, .pre_wide = tape->pre_wide, .history = taught->input,
                      .history_high = taught->input_high, .state = l->rule.state};
    if (trace.history || trace.history_high) er_traces(&trace);
    trace = (er_trace){.steps = tape->steps, .kept = taught->chunk, .units = taught->outputs, .decay = taught->decay,
                       .reach = 1, .late = 1, .spikes = tape->spikes, .history = taught->recurrent,
                       .history_high = taught->recurrent_high, .state = l->rule.state};
    if (trace.history || trace.history_high) er_traces(&trace);
    trace.kept = taught->last;
    trace.decay = l->rule.kappa;
    trace.late = 0;
    trace.history = taught->readout;
    trace.history_high = taught->readout_high;
    if (trace.history || trace.history_high) er_traces(&trace);
}

static void clip_errors(const er_rule *r) {
    for (int32_t i = 0; i < r->last * r->classes; i++) r->clipped[i] = er_sat16(r->error[i]);
}

/* ---------------------------------------------------------------- e-prop at every step */

static const er_taught *taught_of(const er_learner *l, int32_t layer) {
    for (int32_t k = 0; k < l->rule.taught; k++)
        if (l->taught[k].layer == layer) return &l->taught[k];
    return NULL;
}

static const er_lif *lif_of(const er_learner *l, const er_taught *taught) {
    return &l->net->layers[taught->layer].as.lif;
}

static void clear_traces(const er_learner *l) {
    for (int32_t k = 0; k < l->rule.taught; k++) {
        const er_taught *each = &l->taught[k];
        memset(each->input_state, 0, 3 * (size_t)each->inputs * sizeof *each->input_state);
        memset(each->recurrent_state, 0, 3 * (size_t)each->outputs * sizeof *each->recurrent_state);
        memset(each->readout_state, 0, 3 * (size_t)each->outputs * sizeof *each->readout_state);
    }
}

/* One step of so many layers, with traces of the spikes before it, of what drove it and of its own spikes. */
static void online_step(const er_learner *l, int32_t layers) {
    for (int32_t k = 0; k < l->rule.taught; k++) {
        const er_taught *each = &l->taught[k];
        er_trace_step(each->recurrent, each->recurrent_state, NULL, NULL, lif_of(l, each)->fired, each->decay, 1,
                      each->outputs);
    }
    for (int32_t k = 0; k < layers; k++) {
        const er_taught *taught = taught_of(l, k);
        if (taught)
            er_lif_step(lif_of(l, taught), taught->psi);
        else
            er_layer_step(&l->net->layers[k]);
    }
    for (int32_t k = 0; k < l->rule.taught; k++) {
        const er_taught *each = &l->taught[k];
        const er_lif *lif = lif_of(l, each);
        er_trace_step(each->input, each->input_state, lif->x, lif->wide, NULL, each->decay, each->reach, each->inputs);
        er_trace_step(each->readout, each->readout_state, NULL, NULL, lif->fired, l->rule.kappa, 1, each->outputs);
    }
}

/* The factors of the step that has just run, whose error acts at once. */
static void online_factors(const er_learner *l) {
    const er_rule *r = &l->rule;
    clip_errors(r);
    for (int32_t k = 0; k < r->taught; k++) {
        const er_taught *each = &l->taught[k];
        er_learning_signal(each->post, r->error, each->feedback, each->feedback_shadow, r->signal_shift, 1,
                           each->outputs, r->classes);
        er_post_factor(each->post, each->psi, r->post_shift, 1, each->outputs);
    }
}

int32_t er_learn_online(const er_learner *l, const int16_t *q, int32_t label, int32_t threshold, const uint8_t *in_play,
                        uint64_t update, int32_t *p, int64_t *changed) {
    const er_rule *r = &l->rule;
    const er_plan *plan = &l->net->plan;
    int32_t updates = 0;
    er_net_reset(l->net);
    clear_traces(l);
    for (int32_t t = 0; t < plan->steps; t++) {
        const int32_t at = t - (plan->steps - r->targets);
        er_net_encode(l->net, q, t);
        online_step(l, at < 0 ? plan->each_step : plan->layers);
        if (at < 0) continue;
        er_layer_reading(&l->net->layers[plan->layers - 1], r->error);
        p[at] = er_softmax_error(r->error, r->error, r->temperature_shift, in_play, label, r->classes);
        changed[at] = -1;
        if (p[at] >= threshold) continue;
        online_factors(l);
        changed[at] = er_learn_update(l, update + (uint64_t)updates++);
    }
    return updates;
}

/* ---------------------------------------------------------------- backpropagation */

/* Run one sample, keep what each layer read, and take the error from the last one's sums; returns p(label). */
static int32_t backprop_error(const er_learner *l, const int16_t *q, int32_t label, const uint8_t *in_play) {
    const er_rule *r = &l->rule;
    er_net_encode(l->net, q, l->net->plan.steps - 1);
    for (int32_t k = 0; k < r->links; k++) {
        const er_link *link = &l->links[k];
        const er_dense *dense = &l->net->layers[link->layer].as.dense;
        memcpy(link->read, dense->x, (size_t)link->inputs * sizeof *link->read);
        er_dense_step(dense);
    }
    const er_link *last = &l->links[r->links - 1];
    const er_dense *dense = &l->net->layers[last->layer].as.dense;
    er_layer_sums(r->error, dense->weight, last->read, dense->bias, last->outputs, last->inputs);
    return er_softmax_error(r->error, r->error, r->temperature_shift, in_play, label, r->classes);
}

/* below (count,) <- a part of it, sums of a width that holds them */
#define BELOW(name, type) \
    ER_CLONES static void name(int16_t *restrict below, const int8_t *restrict weight, const int16_t *restrict error, \
                               int32_t shift, const int16_t *restrict active, int32_t n, int32_t m, int32_t count) { \
        type sums[64] = {0}; \
        for (int32_t k = 0; k < n; k++) \
            if (error[k]) \
                for (int32_t i = 0; i < count; i++) sums[i] += error[k] * weight[(size_t)k * (size_t)m + (size_t)i]; \
        const int64_t half = ((int64_t)1 << shift) >> 1; \
        for (int32_t i = 0; i < count; i++) below[i] = active[i] > 0 ? er_sat16((sums[i] + half) >> shift) : 0; \
    }
BELOW(below_short, int32_t)
BELOW(below_wide, int64_t)

void er_error_below(int16_t *below, const int8_t *weight, const int16_t *error, int32_t shift, const int16_t *active,
                    int32_t n, int32_t m) {
    int64_t size = 0;
    for (int32_t k = 0; k < n; k++) size += error[k] < 0 ? -error[k] : error[k];
    for (int32_t first = 0; first < m; first += 64) {
        const int32_t count = m - first < 64 ? m - first : 64;
        if (size < 1 << 24) /* times 128 */
            below_short(below + first, weight + first, error, shift, active + first, n, m, count);
        else
            below_wide(below + first, weight + first, error, shift, active + first, n, m, count);
    }
}

static void backprop_factors(const er_learner *l) {
    const er_link *above = &l->links[l->rule.links - 1];
    for (int32_t k = 0; k < above->outputs; k++) above->error[k] = er_sat16(l->rule.error[k]);
    for (; above > l->links && above[-1].error; above--) {
        const er_dense *dense = &l->net->layers[above->layer].as.dense;
        er_error_below(above[-1].error, dense->weight, above->error, above->back_shift, above->read, above->outputs,
                       above->inputs);
    }
}

/* ---------------------------------------------------------------- the inner step */

/* Run one window with the readout's traces beside it, and take its error, small ones left out; returns p(label). */
static int32_t inner_error(const er_learner *l, const int16_t *q, int32_t label, const uint8_t *in_play) {
    const er_rule *r = &l->rule;
    const er_plan *plan = &l->net->plan;
    const er_taught *each = &l->taught[0];
    const er_readout *readout = &l->net->layers[each->layer].as.readout;
    er_net_reset(l->net);
    memset(each->input_state, 0, 3 * (size_t)each->inputs * sizeof *each->input_state);
    for (int32_t t = 0; t < plan->steps; t++) {
        const int32_t running = t + 1 < plan->steps ? plan->each_step : plan->layers;
        er_net_encode(l->net, q, t);
        for (int32_t k = 0; k < running; k++) er_layer_step(&l->net->layers[k]);
        er_trace_step(each->input, each->input_state, readout->x, readout->wide, NULL, each->decay, each->reach,
                      each->inputs);
    }
    er_layer_reading(&l->net->layers[plan->layers - 1], r->error);
    const int32_t p = er_softmax_error(r->error, r->error, r->temperature_shift, in_play, label, r->classes);
    for (int32_t k = 0; k < r->classes; k++)
        if (r->error[k] <= r->gate && r->error[k] >= -r->gate) r->error[k] = 0;
    return p;
}

static void inner_factors(const er_learner *l) {
    for (int32_t k = 0; k < l->rule.classes; k++) l->taught[0].post[k] = er_sat16(l->rule.error[k]);
}

/* ---------------------------------------------------------------- a window */

static void eprop_factors(const er_learner *l) {
    clip_errors(&l->rule);
    for (int32_t k = 0; k < l->rule.taught; k++) {
        eprop_post(l, &l->tapes[k], &l->taught[k]);
        eprop_traces(l, &l->tapes[k], &l->taught[k]);
    }
}

void er_learn_factors(const er_learner *l) {
    switch (l->rule.kind) {
    case ER_BACKPROP: backprop_factors(l); break;
    case ER_INNER: inner_factors(l); break;
#ifdef ER_POPULATIONS
    case ER_SUPERSPIKE: er_superspike_factors(l); break;
#endif
    default: eprop_factors(l);
    }
}

static uint64_t seed_of(const er_learner *l) { return l->rule.seed[0] | (uint64_t)l->rule.seed[1] << 32; }

int32_t er_learn_record(const er_learner *l, const int16_t *q, int32_t label, const uint8_t *in_play) {
    if (l->rule.kind == ER_BACKPROP) return backprop_error(l, q, label, in_play);
    if (l->rule.kind == ER_INNER) return inner_error(l, q, label, in_play);
#ifdef ER_POPULATIONS
    if (l->rule.kind == ER_SUPERSPIKE) return er_superspike_record(l, q, label);
#endif
    er_net_record(l->net, q, l->tapes, l->rule.taught, l->rule.logits, l->rule.last);
    return eprop_error(l, label, in_play);
}

int64_t er_learn_update(const er_learner *l, uint64_t update) {
    int64_t changed = 0;
    for (int32_t k = 0; k < l->rule.plastic; k++) changed += er_update(&l->plastic[k], seed_of(l), update);
    return changed;
}

int32_t er_learn_window(const er_learner *l, const int16_t *q, int32_t label, int32_t threshold, const uint8_t *in_play,
                        uint64_t update, int64_t *changed) {
    const int32_t p = er_learn_record(l, q, label, in_play);
    *changed = -1;
    if (p >= threshold) return p;
    er_learn_factors(l);
    *changed = er_learn_update(l, update);
    return p;
}

void er_learn_consolidate(const er_learner *l, uint64_t update) {
    for (int32_t k = 0; k < l->rule.plastic; k++)
        if (l->plastic[k].importance) er_consolidate(&l->plastic[k], seed_of(l), update);
}

void er_learn_rewire(const er_learner *l) {
    for (int32_t k = 0; k < l->rule.plastic; k++)
        if (l->plastic[k].mask) er_rewire(&l->plastic[k]);
}

void er_boundary(const er_learner *l, uint64_t update) {
    er_learn_consolidate(l, update);
    er_learn_rewire(l);
}
