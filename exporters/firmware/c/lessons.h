/* What the loop does beside answering: lessons.c of a firmware that learns, frozen.c of one that does not. */
#ifndef LESSONS_H
#define LESSONS_H

#include "frames.h"

/* Learned state as the checkpoint has it, or as it leaves the factory. */
void begin(void);
/* The class that the network names for a sample, -1 where there is none; its scores are in model_scores. */
int32_t decide(const int16_t *q);
/* An answered sample: whether it shows that the stream has changed is told. */
void watch(const int16_t *q, int32_t label);
/* How many classes there are. */
int32_t known_classes(void);
/* A sample with a label, in model_sample. */
void labelled(const frame *next);
/* A frame of any other kind than a sample's. */
void command(const frame *next);
/* Tell that a frame asks for what cannot be. */
void refuse(const char *why);

#endif
