/* What the loop does beside answering: lessons.c of a firmware that learns, frozen.c of one that does not. */
#ifndef LESSONS_H
#define LESSONS_H

#include "frames.h"

/* Learned state as the checkpoint has it, or as it leaves the factory. */
void begin(void);
/* How many classes there are. */
int32_t known_classes(void);
/* A sample with a label, in model_sample. */
void labelled(const frame *next);
/* A frame of any other kind than a sample's. */
void command(const frame *next);
/* Tell that a frame asks for what cannot be. */
void refuse(const char *why);

#endif
