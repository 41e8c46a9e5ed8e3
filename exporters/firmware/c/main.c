/* The loop: read a sample, infer, tell. */
#include "frames.h"
#include "lines.h"
#include "model.h"
#include "port.h"

static uint32_t samples;

static int32_t largest(const int32_t *scores, int32_t count) {
    int32_t best = 0;
    for (int32_t k = 1; k < count; k++)
        if (scores[k] > scores[best]) best = k;
    return count ? best : -1;
}

/* answer NUMBER LABEL TICKS SCORE... */
static void answer(const int16_t *q) {
    const uint64_t began = port_ticks();
    er_net_run(&model, q);
    er_net_decide(&model, MODEL_CLASSES, model_scores);
    const uint64_t ticks = port_ticks() - began;
    say("answer");
    say_number(samples++);
    say_number(largest(model_scores, MODEL_CLASSES));
    say_number((int64_t)ticks);
    for (int32_t k = 0; k < MODEL_SCORES; k++) say_number(model_scores[k]);
    end_line();
}

static void refuse(const char *why) {
    say("refused");
    say(why);
    end_line();
}

int main(void) {
    port_start();
    model_reset();
    say("model");
    say(MODEL_NAME);
    say(MODEL_ID);
    end_line();
    frame next;
    for (;;) {
        const enum frame_end end = read_frame(&next, model_sample);
        if (end == STREAM_ENDED) return 0;
        if (end == FRAME_DAMAGED)
            refuse("damaged-frame");
        else if (next.kind == 'S' && next.length)
            answer(model_sample);
        else
            refuse("unknown-frame");
    }
}
