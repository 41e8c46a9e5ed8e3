/* The loop: read a frame, answer it or learn from it, tell. docs/firmware.md of edgerun says what the lines mean. */
#include "checkpoint.h"
#include "frames.h"
#include "learning.h"
#include "lines.h"
#include "model.h"
#include "port.h"

static uint32_t answers;

static void refuse(const char *why) {
    say("refused");
    say(why);
    end_line();
}

static int32_t known(void) {
#if MODEL_LEARNS
    return (int32_t)model_counters.known;
#else
    return MODEL_CLASSES;
#endif
}

/* answer NUMBER LABEL TICKS SCORE... */
static void answer(const int16_t *q) {
    const int32_t classes = known(), scores = model.plan.capacity ? classes : MODEL_SCORES;
    const uint64_t began = port_ticks();
    er_net_run(&model, q);
    er_net_decide(&model, classes, model_scores);
    const uint64_t ticks = port_ticks() - began;
    int32_t best = classes ? 0 : -1;
    for (int32_t k = 1; k < classes; k++)
        if (model_scores[k] > model_scores[best]) best = k;
    say("answer");
    say_number(answers++);
    say_number(best);
    say_number((int64_t)ticks);
    for (int32_t k = 0; k < scores; k++) say_number(model_scores[k]);
    end_line();
}

#if MODEL_LEARNS

/* lesson NUMBER SAID P UPDATES CHANGED TICKS */
static void lesson(const int16_t *q, int32_t label, uint8_t level) {
    const uint64_t began = port_ticks();
    const er_report report = er_lesson(&pupil, q, label, (enum er_level)level);
    const uint64_t ticks = port_ticks() - began;
    say("lesson");
    say_number(model_counters.lessons);
    say_number(report.label);
    say_number(report.p);
    say_number(report.updates);
    say_number(report.changed);
    say_number((int64_t)ticks);
    end_line();
}

/* kept NAME BYTES */
static void dump(void) {
    for (uint32_t k = 0; k < MODEL_KEPT; k++) {
        say("kept");
        say(model_kept[k].name);
        say_bytes(model_kept[k].bytes, model_kept[k].count);
        end_line();
    }
}

static void say_generation(const char *event, uint32_t generation) {
    say(event);
    say_number(generation);
    end_line();
}

/* Take over what was learned before the power went. */
static void recall(void) {
    uint32_t generation = checkpoint_load();
    if (generation && !learning_sound()) generation = 0;
    if (generation)
        learning_publish();
    else
        learning_reset();
    say_generation("generation", generation);
}

/* What changes learned state beside lessons. */
static void command(uint8_t kind) {
    switch (kind) {
    case 'N':
        if (model_counters.known < pupil.plan.classes)
            model_counters.known++;
        else
            refuse("no-room-for-a-class");
        break;
    case 'T': er_settle(&pupil); break;
    case 'F': learning_reset(); break;
    case 'C': say_generation("saved", checkpoint_save()); break;
    case 'D': dump(); break;
    default: refuse("unknown-frame");
    }
}

static void labelled(const frame *next) {
    if (next->value >= known())
        refuse("unknown-class");
    else
        lesson(model_sample, next->value, next->level);
}

#else

static void recall(void) { model_reset(); }
static void command(uint8_t kind) {
    (void)kind;
    refuse("unknown-frame");
}
static void labelled(const frame *next) {
    (void)next;
    refuse("cannot-learn");
}

#endif

int main(void) {
    port_start();
    say("model");
    say(MODEL_NAME);
    say(MODEL_ID);
    end_line();
    recall();
    for (frame next;;) {
        const enum frame_end end = read_frame(&next, model_sample);
        if (end == STREAM_ENDED) return 0;
        if (end == FRAME_DAMAGED)
            refuse("damaged-frame");
        else if (next.kind != 'S')
            command(next.kind);
        else if (!next.length)
            refuse("sample-without-values");
        else if (next.value < 0)
            answer(model_sample);
        else
            labelled(&next);
    }
}
