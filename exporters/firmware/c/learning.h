/* Learned state around the lessons of edgerun.h: how it begins, what follows from it, whether it can be. */
#ifndef LEARNING_H
#define LEARNING_H

#include "model.h"

#if MODEL_LEARNS
/* Everything as it leaves the factory. */
void learning_reset(void);
/* What the network reads, from the learned state that has just been loaded. */
void learning_publish(void);
/* Whether every number of the learned state can be: what a file that claims to be a checkpoint must pass. */
int learning_sound(void);
#endif

#endif
