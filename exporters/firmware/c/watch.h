/* Has the stream changed? Told from answered samples alone: `edgerun/learn/watch.py` has the equations. */
#ifndef WATCH_H
#define WATCH_H

#include <stdint.h>

/* Take one answered sample q (MODEL_SIZE,); 1 for an alarm, after which everything is forgotten. */
int watch_meet(const int16_t *q, int32_t label);
/* Forget everything: what comes next is what is usual. */
void watch_reset(void);
/* Whether what a checkpoint says of it can be. */
int watch_sound(void);

#endif
