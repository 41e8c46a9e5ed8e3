/* The loop: read a frame, answer it or learn from it, tell. docs/firmware.md of edgerun says what the lines mean. */
#include "frames.h"
#include "lessons.h"
#include "lines.h"
#include "model.h"
#include "port.h"

void refuse(const char *why) {
    say("refused");
    say(why);
    end_line();
}

int32_t decide(const int16_t *q) {
    const int32_t classes = known_classes();
    int32_t best = classes ? 0 : -1;
    er_net_run(&model, q);
    er_net_decide(&model, classes, model_scores);
    for (int32_t k = 1; k < classes; k++)
        if (model_scores[k] > model_scores[best]) best = k;
    return best;
}

/* answer NUMBER LABEL TICKS SCORE... */
static void answer(const int16_t *q) {
    static uint32_t number;
    const int32_t scores = model.plan.capacity ? known_classes() : MODEL_SCORES;
    const uint64_t began = port_ticks();
    const int32_t label = decide(q);
    const uint64_t ticks = port_ticks() - began;
    watch(q, label);
    say("answer");
    say_number(number++);
    say_number(label);
    say_number((int64_t)ticks);
    for (int32_t k = 0; k < scores; k++) say_number(model_scores[k]);
    end_line();
}

int main(void) {
    port_start();
    say("model");
    say(MODEL_NAME);
    say(MODEL_ID);
    end_line();
    begin();
    say("ready");
    end_line();
    for (frame next;;) {
        const enum frame_end end = read_frame(&next, model_sample, model_target);
        if (end == STREAM_ENDED) return 0;
        if (end == FRAME_DAMAGED)
            refuse("damaged-frame");
        else if (next.kind != 'S')
            command(&next);
        else if (!next.length)
            refuse("no-sample");
        else if (next.value < 0)
            answer(model_sample);
        else
            labelled(&next);
    }
}
