/* A firmware that answers and learns nothing. */
#include "lessons.h"
#include "model.h"

void begin(void) { model_reset(); }
int32_t known_classes(void) { return MODEL_CLASSES; }

void watch(const int16_t *q, int32_t label) {
    (void)q;
    (void)label;
}

void labelled(const frame *next) {
    (void)next;
    refuse("cannot-learn");
}

void command(const frame *next) {
    (void)next;
    refuse("cannot-learn");
}
