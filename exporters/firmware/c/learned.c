#include "learned.h"

#include "model.h"

/* What the shadow of a weight 0 holds. */
#define MIDDLE(p) ((p)->small ? 128 : 0)

enum { SHADOW_MAX = 32512, TOP_CODE = 231 };

#if MODEL_PLASTIC
static void plant(const er_plastic *p, const int8_t *factory) {
    for (int32_t i = 0; i < p->rows * p->columns; i++) {
        p->shadow[i] = (int16_t)(factory[i] * 256 + MIDDLE(p));
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

int32_t learned_room(void) {
    const er_lessons *plan = &pupil.plan;
    return pupil.learner && plan->outputs < plan->classes ? plan->outputs : plan->classes;
}

static int within(int64_t x, int64_t low, int64_t high) { return x >= low && x <= high; }

static int labels_sound(const int16_t *labels, int32_t count) {
    for (int32_t i = 0; i < count; i++)
        if (!within(labels[i], -1, model_counters.known - 1)) return 0;
    return 1;
}

#if MODEL_PLASTIC
static int plastic_sound(const er_plastic *p) {
    for (int32_t i = 0; i < p->rows * p->columns; i++)
        if (!within(p->shadow[i] - MIDDLE(p), -SHADOW_MAX, SHADOW_MAX) || (p->importance && p->importance[i] > TOP_CODE))
            return 0;
    return 1;
}
#endif

static int reservoir_sound(const er_lessons *plan) {
    for (int32_t i = 0; i < plan->capacity; i++)
        if (plan->field[i] > 1) return 0;
    for (int32_t i = 0; plan->capacity && i < plan->classes; i++)
        if (plan->seen[i] < 0) return 0;
    return labels_sound(plan->label, plan->capacity);
}

static int doubt_sound(const er_lessons *plan) {
    return !plan->margins || (within(*plan->agreed, 0, plan->margins) && labels_sound(plan->told, plan->classes * plan->votes));
}

int learned_sound(void) {
    const er_lessons *plan = &pupil.plan;
    const er_counters *at = &model_counters;
    for (int32_t i = 0; i < model.plan.means * model.plan.capacity; i++)
        if (model.plan.counts[i] < 0) return 0;
#if MODEL_PLASTIC
    for (int32_t k = 0; k < MODEL_PLASTIC; k++)
        if (!plastic_sound(&learner.plastic[k])) return 0;
#endif
    return within(at->known, MODEL_CLASSES, learned_room()) && within(at->recent_at, 0, plan->recents - 1) &&
           within(at->threshold, 0, 1 << 15) && within(at->lessons, 0, INT64_MAX / 2) &&
           within(at->updates, 0, INT64_MAX / 2) && within(at->deep_lessons, 0, at->lessons) &&
           labels_sound(plan->recent, plan->recents) && reservoir_sound(plan) && doubt_sound(plan);
}
