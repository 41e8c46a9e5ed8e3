/* A firmware that learns: lessons, checkpoints, and what of them is told. */
#include "lessons.h"

#include "checkpoint.h"
#include "guard.h"
#include "learned.h"
#include "lines.h"
#include "model.h"
#include "port.h"
#include "watch.h"

static void tell(const char *event, int64_t number) {
    say(event);
    say_number(number);
    end_line();
}

static void factory(void) {
    learned_reset();
    guard_reset();
    watch_reset();
}

/* generation NUMBER: that of the checkpoint, or 0 for the factory's state */
void begin(void) {
    guard_every(MODEL_GUARD_EVERY);
    uint32_t generation = checkpoint_load();
    if (!learned_sound() || !guard_sound() || !watch_sound()) generation = 0;
    if (generation)
        learned_publish();
    else
        factory();
    tell("generation", generation);
}

/* drift LESSONS */
void watch(const int16_t *q, int32_t label) {
    if (watch_meet(q, label)) tell("drift", model_counters.lessons);
}

int32_t known_classes(void) { return (int32_t)model_counters.known; }

/* lesson NUMBER SAID P UPDATES CHANGED TICKS, and "aside" where its label was doubted */
static void lesson(const frame *next, int32_t label) {
    const uint64_t began = port_ticks();
    const enum er_level level = (enum er_level)next->level;
    const er_report report = next->kind == 'L' ? er_feedback(&pupil, model_sample, label, level)
                                               : er_lesson(&pupil, model_sample, label, level);
    const uint64_t ticks = port_ticks() - began;
    const int64_t number = model_counters.lessons;
    guard_lesson();
    say("lesson");
    say_number(number);
    say_number(report.label);
    say_number(report.p);
    say_number(report.updates);
    say_number(report.changed);
    say_number((int64_t)ticks);
    if (report.aside) say("aside");
    end_line();
}

void labelled(const frame *next) {
    if (next->value < known_classes())
        lesson(next, next->value);
    else
        refuse("unknown-class");
}

/* kept NAME BYTES */
static void dump(void) {
    for (uint32_t k = 0; k < MODEL_KEPT; k++) {
        if (!model_kept[k].learned) continue;
        say("kept");
        say(model_kept[k].name);
        say_bytes(model_kept[k].bytes, model_kept[k].count);
        end_line();
    }
}

#define UNKEPT "flash-does-not-keep"

static void save(void) {
    const uint32_t generation = checkpoint_save(0);
    if (generation)
        tell("saved", generation);
    else
        refuse(UNKEPT);
}

/* done KIND */
static void done(const frame *next) {
    const char kind[2] = {(char)next->kind, 0};
    say("done");
    say(kind);
    end_line();
}

void command(const frame *next) {
    switch (next->kind) {
    case 'L':
        if (next->length && next->value >= 0)
            labelled(next);
        else
            refuse("sample-without-label");
        break;
    case 'V':
        if (MODEL_TARGETS && next->length > MODEL_SIZE)
            lesson(next, 0);
        else
            refuse("sample-without-values");
        break;
    case 'N':
        if (model_counters.known >= learned_room()) {
            refuse("no-room-for-a-class");
            break;
        }
        model_counters.known++;
        done(next);
        break;
    case 'T':
        er_settle(&pupil);
        done(next);
        break;
    case 'B':
        if (pupil.learner) er_boundary(pupil.learner, (uint64_t)model_counters.updates);
        done(next);
        break;
    case 'F':
        factory();
        if (checkpoint_save(1))
            done(next);
        else
            refuse(UNKEPT);
        break;
    case 'G':
        guard_every(next->value > 0 ? next->value : 0);
        done(next);
        break;
    case 'J':
        guard_judge();
        done(next);
        break;
    case 'C': save(); break;
    case 'D': dump(); break;
    default: refuse("unknown-frame");
    }
}
