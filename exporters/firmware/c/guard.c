#include "guard.h"

#include "checkpoint.h"
#include "learned.h"
#include "lessons.h"
#include "lines.h"
#include "model.h"

enum { ONE = 1 << 15 };

guard_state guard;
static int32_t every;

void guard_reset(void) { guard = (guard_state){.group = 0, .best = MODEL_FACTORY_SHARE}; }

int guard_sound(void) { return guard.group >= 0 && guard.group < INT32_MAX && guard.best >= 0 && guard.best <= ONE; }

void guard_every(int32_t lessons) { every = lessons; }

typedef struct {
    int32_t right, of;
} score;

static void answer(score *found, int32_t label) {
    found->right += decide(pupil.plan.sample) == label;
    found->of++;
}

#if MODEL_PROBE
static void ask_probe(score *found) {
    for (int32_t i = 0; i < MODEL_PROBE; i++) {
        for (int32_t k = 0; k < MODEL_SIZE; k++) pupil.plan.sample[k] = model_probe[i * MODEL_SIZE + k];
        answer(found, model_probe_label[i]);
    }
}
#else
#define ask_probe(found) ((void)(found))
#endif

static int from_field(int32_t i) { return pupil.plan.label[i] >= 0 && pupil.plan.field[i]; }

/* How many field samples came after a place's. */
static int32_t newer(int32_t i) {
    const int32_t *since = pupil.plan.since;
    int32_t count = 0;
    for (int32_t k = 0; k < pupil.plan.capacity; k++)
        count += from_field(k) && (since[k] > since[i] || (since[k] == since[i] && k > i));
    return count;
}

static void ask_newest(score *found) {
    const er_lessons *r = &pupil.plan;
    for (int32_t i = 0; i < r->capacity; i++) {
        if (!from_field(i) || newer(i) >= MODEL_NEWEST) continue;
        for (int32_t k = 0; k < MODEL_SIZE; k++)
            r->sample[k] = r->x ? r->x[i * MODEL_SIZE + k] : r->x_unsigned[i * MODEL_SIZE + k];
        answer(found, r->label[i]);
    }
}

/* To the last good state, or the factory's; lesson and update numbers go on rising. */
static void go_back(void) {
    const er_counters was = model_counters;
    const int32_t best = guard.best;
    if (checkpoint_recall() && learned_sound())
        learned_publish();
    else
        learned_reset();
    model_counters.lessons = was.lessons;
    model_counters.updates = was.updates;
    guard.best = best;
}

void guard_judge(void) {
    score found = {0, 0};
    if (known_classes()) {
        ask_probe(&found);
        ask_newest(&found);
    }
    const int32_t share = found.of ? (int32_t)((int64_t)found.right * ONE / found.of) : ONE, best = guard.best;
    const int good = best - share <= MODEL_MOST_DROP;
    if (!good)
        go_back();
    else if (share > best)
        guard.best = share;
    guard.group = 0;
    say("verdict");
    say(good ? "good" : "back");
    say_number(found.right);
    say_number(found.of);
    say_number(best);
    say_number(checkpoint_save(1));
    end_line();
}

void guard_lesson(void) {
    if (guard.group < INT32_MAX - 1) guard.group++;
    if (every && guard.group >= every) guard_judge();
}
