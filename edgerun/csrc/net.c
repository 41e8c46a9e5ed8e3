/* A bundle's graph, running: encode, step, decide. */
#include "edgerun.h"

/* No network at work records a surrogate. */
#define er_lif_step(r) er_lif_step(r, NULL)

#define STEP(kind, record, fields) \
    case ER_KIND_##kind: record##_step(&layer->as.kind); break;
#define RESET(kind, record, fields) \
    case ER_KIND_##kind: record##_reset(&layer->as.kind); break;
#define READING(kind, record, fields) \
    case ER_KIND_##kind: record##_reading(&layer->as.kind, out); break;
#define OUTPUTS(kind, record, fields) \
    case ER_KIND_##kind: return layer->as.kind.outputs;

void er_layer_step(const er_layer *layer) {
    switch (layer->kind) { ER_LAYERS(STEP) }
}

void er_layer_reset(const er_layer *layer) {
    switch (layer->kind) { ER_LAYERS(RESET) }
}

void er_layer_reading(const er_layer *layer, int32_t *out) {
    switch (layer->kind) { ER_LAYERS(READING) }
}

int32_t er_layer_outputs(const er_layer *layer) {
    switch (layer->kind) { ER_LAYERS(OUTPUTS) }
    return 0;
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
    for (int32_t k = 0; k < plan->each_step; k++) er_layer_reset(&net->layers[k]);
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
