/* A bundle's graph, running: encode, step, decide. */
#include "edgerun.h"

#include <string.h>

void er_layer_step(const er_layer *layer) {
    switch (layer->kind) {
    case ER_KIND_dense: er_dense_step(&layer->as.dense); break;
    case ER_KIND_lif: er_lif_step(&layer->as.lif, NULL); break;
    case ER_KIND_readout: er_readout_step(&layer->as.readout); break;
    }
}

#define CLEAR(array, count) memset(array, 0, (size_t)(count) * sizeof *(array))

static void reset_lif(const er_lif *r) {
    CLEAR(r->v, r->outputs);
    CLEAR(r->carry, r->outputs);
    CLEAR(r->fired, r->outputs);
    CLEAR(r->counts, r->outputs);
    if (r->rho) {
        CLEAR(r->adaptation, r->outputs);
        CLEAR(r->adaptation_carry, r->outputs);
    }
    if (r->resting) CLEAR(r->resting, r->outputs);
    if (r->y) CLEAR(r->y, r->outputs);
}

void er_layer_reset(const er_layer *layer) {
    switch (layer->kind) {
    case ER_KIND_dense: CLEAR(layer->as.dense.y, layer->as.dense.outputs); break;
    case ER_KIND_lif: reset_lif(&layer->as.lif); break;
    case ER_KIND_readout:
        CLEAR(layer->as.readout.y, layer->as.readout.outputs);
        CLEAR(layer->as.readout.carry, layer->as.readout.outputs);
        break;
    }
}

int32_t er_layer_outputs(const er_layer *layer) {
    switch (layer->kind) {
    case ER_KIND_dense: return layer->as.dense.outputs;
    case ER_KIND_lif: return layer->as.lif.outputs;
    case ER_KIND_readout: return layer->as.readout.outputs;
    }
    return 0;
}

void er_layer_reading(const er_layer *layer, int32_t *out) {
    const int32_t n = er_layer_outputs(layer);
    switch (layer->kind) {
    case ER_KIND_dense:
        for (int32_t j = 0; j < n; j++) out[j] = layer->as.dense.y[j];
        break;
    case ER_KIND_lif:
        for (int32_t j = 0; j < n; j++) out[j] = layer->as.lif.counts[j];
        break;
    case ER_KIND_readout: memcpy(out, layer->as.readout.y, (size_t)n * sizeof *out); break;
    }
}

void er_net_reset(const er_net *net) {
    for (int32_t k = 0; k < net->plan.layers; k++) er_layer_reset(&net->layers[k]);
}

/* One moment of the phase code: a unit spikes each time its phase passes full_scale. */
static void encode_phase(const er_plan *plan, const int16_t *q, int32_t t) {
    for (int32_t i = 0; i < plan->size; i++) {
        if (t == 0) plan->phase[i] = (uint16_t)(plan->full_scale / 2);
        int32_t phase = plan->phase[i] + er_clip(q[i], 0, plan->full_scale);
        plan->x[i] = phase >= plan->full_scale;
        plan->phase[i] = (uint16_t)(plan->x[i] ? phase - plan->full_scale : phase);
    }
}

void er_net_encode(const er_net *net, const int16_t *q, int32_t t) {
    const er_plan *plan = &net->plan;
    if (plan->encoder == ER_PHASE_RATE) {
        encode_phase(plan, q, t);
        return;
    }
    if (plan->encoder == ER_CONSTANT && t > 0) return;
    const int16_t *moment = plan->encoder == ER_FRAMES ? q + (size_t)t * plan->moment : q;
    for (int32_t i = 0; i < plan->moment; i++) plan->x[i] = (int16_t)(moment[i] - plan->offset);
}

void er_net_step(const er_net *net) {
    for (int32_t k = 0; k < net->plan.layers; k++) er_layer_step(&net->layers[k]);
}

void er_net_run(const er_net *net, const int16_t *q) {
    const er_plan *plan = &net->plan;
    er_net_reset(net);
    for (int32_t t = 0; t < plan->steps; t++) {
        const int32_t running = t + 1 < plan->steps ? plan->each_step : plan->layers;
        er_net_encode(net, q, t);
        for (int32_t k = 0; k < running; k++) er_layer_step(&net->layers[k]);
    }
}

void er_net_features(const er_net *net) {
    const er_plan *plan = &net->plan;
    er_layer_reading(&net->layers[plan->features], plan->z);
    if (!net->whiten) return;
    for (int32_t i = 0; i < plan->readings; i++) plan->raw[i] = (int16_t)plan->z[i];
    er_dense_step(net->whiten);
    for (int32_t i = 0; i < plan->width; i++) plan->z[i] = net->whiten->y[i];
}

void er_net_decide(const er_net *net, int32_t known, int32_t *scores) {
    const er_plan *plan = &net->plan;
    if (!plan->capacity) {
        er_layer_reading(&net->layers[plan->layers - 1], scores);
        return;
    }
    er_net_features(net);
    er_prototype_scores(scores, plan->z, plan->mean, plan->bias, plan->counts, known, plan->width);
    for (int32_t k = 0; plan->means > 1 && k < known; k++) {
        const size_t row = (size_t)plan->capacity + (size_t)k;
        int32_t nearer;
        er_prototype_scores(&nearer, plan->z, plan->mean + row * (size_t)plan->width, plan->bias + row,
                            plan->counts + row, 1, plan->width);
        if (nearer > scores[k]) scores[k] = nearer;
    }
}
