/* Learned state around the lessons of edgerun.h: how it begins, what follows from it, whether it can be. */
#ifndef LEARNED_H
#define LEARNED_H

#include <stdint.h>

/* Everything as it leaves the factory. */
void learned_reset(void);
/* What the network reads, from the learned state that has just been loaded. */
void learned_publish(void);
/* How many classes may be known. */
int32_t learned_room(void);
/* Whether every number of the learned state can be: what bytes that claim to be a checkpoint must pass. */
int learned_sound(void);

#endif
