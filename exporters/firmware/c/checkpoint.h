/* What was learned, in flash: two slots, of which the older is written, its first page last.
 *
 *     first page    'E' 'R' 'C' 'K'  model (8 bytes)  generation (uint32)  bytes (uint32)  CRC-32 of them  CRC-32 of this
 *     other pages   the arrays of model_kept, one behind the other, to the end of a page
 *
 * A cut of power at any page leaves a slot with the state before, or this one whole.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include <stdint.h>

/* Write a checkpoint; its generation, from 1 on, or 0 where the flash does not give back what was written. */
uint32_t checkpoint_save(void);
/* Take over the newest whole checkpoint of this model; its generation, or 0 where there is none and nothing changed. */
uint32_t checkpoint_load(void);

#endif
