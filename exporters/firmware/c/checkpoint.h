/* What was learned, in flash: three slots, of which neither the newest nor the last good one is written, and of that its
 * first page last.
 *
 *     first page    'E' 'R' 'C' 'K'  model (8 bytes)  generation, bytes, good (uint32)  group, best (int32) of the guard
 *                   CRC-32 of the bytes  CRC-32 of this
 *     other pages   the arrays of model_kept, one behind the other, to the end of a page
 *
 * A cut of power at any page leaves the state before, or this one whole.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include <stdint.h>

/* Write a checkpoint, which the guard found good or not; its generation, from 1 on, or 0 where the flash does not give back what was written. */
uint32_t checkpoint_save(uint32_t good);
/* Take over the newest whole checkpoint of this model; its generation, or 0 where there is none and nothing changed. */
uint32_t checkpoint_load(void);
/* The learned state of the newest that is good; what samples are like is no part of that. */
uint32_t checkpoint_recall(void);

#endif
