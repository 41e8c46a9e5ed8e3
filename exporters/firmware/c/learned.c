#include "learned.h"

#include "model.h"

#define CLEAR_SHADOW(p) ((p)->small ? 128 : 0)

#if MODEL_PLASTIC
static void plant(const er_plastic *p, const int8_t *factory) {
    for (int32_t i = 0; i < p->rows * p->columns; i++) {
        p->shadow[i] = (int16_t)(factory[i] * 256 + CLEAR_SHADOW(p));
        if (p->ref) p->ref[i] = p->shadow[i];
        if (p->ref_high) p->ref_high[i] = factory[i];
    }
}

static void publish_weights(const er_plastic *p) {
    for (int32_t i = 0; p->weight && i < p->rows * p->columns; i++)
        p->weight[i] = (int8_t)er_clip((p->shadow[i] + 128) >> 8, -127, 127);
}
#endif

void learned_publish(void) {
#if MODEL_PLASTIC
    for (int32_t k = 0; k < MODEL_PLASTIC; k++) publish_weights(&learner.plastic[k]);
#endif
    const er_plan *plan = &model.plan;
    if (plan->capacity)
        er_class_means(plan->mean, plan->sums, plan->counts, plan->means * plan->capacity, plan->width);
}

void learned_reset(void) {
    model_reset();
#if MODEL_PLASTIC
    for (int32_t k = 0; k < MODEL_PLASTIC; k++) plant(&learner.plastic[k], model_factory[k]);
#endif
    model_counters = (er_counters){.threshold = MODEL_THRESHOLD, .known = MODEL_CLASSES};
    learned_publish();
}

static int within(int64_t x, int64_t low, int64_t high) { return x >= low && x <= high; }

static int labels_sound(const int16_t *labels, int32_t count) {
    for (int32_t i = 0; i < count; i++)
        if (!within(labels[i], -1, model_counters.known - 1)) return 0;
    return 1;
}

int learned_sound(void) {
    const er_lessons *plan = &pupil.plan;
    const er_counters *at = &model_counters;
    for (int32_t i = 0; i < model.plan.means * model.plan.capacity; i++)
        if (model.plan.counts[i] < 0) return 0;
    for (int32_t i = 0; plan->capacity && i < plan->classes; i++)
        if (plan->seen[i] < 0) return 0;
#if MODEL_PLASTIC
    for (int32_t k = 0; k < MODEL_PLASTIC; k++) {
        const er_plastic *p = &learner.plastic[k];
        for (int32_t i = 0; i < p->rows * p->columns; i++)
            if (!within(p->shadow[i] - CLEAR_SHADOW(p), -32512, 32512)) return 0;
    }
#endif
    return within(at->known, MODEL_CLASSES, plan->classes) && within(at->recent_at, 0, plan->recents - 1) &&
           within(at->threshold, 0, 1 << 15) && within(at->lessons, 0, INT64_MAX - 1) &&
           within(at->updates, 0, INT64_MAX - 256) && within(at->deep_lessons, 0, at->lessons) &&
           labels_sound(plan->recent, plan->recents) && labels_sound(plan->label, plan->capacity);
}
