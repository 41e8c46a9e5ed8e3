/* The lesson guard: after every group of lessons the probe and the newest samples of the reservoir are answered. A share
 * of right answers too far below the best so far undoes the group: back to the last state that was found good.
 */
#ifndef GUARD_H
#define GUARD_H

#include <stdint.h>

typedef struct {
    int32_t group; /* lessons since the last verdict */
    int32_t best;  /* Q0.15, what the best good state got right */
} guard_state;

extern guard_state guard;

/* As it leaves the factory. */
void guard_reset(void);
/* Whether what a checkpoint says of it can be. */
int guard_sound(void);
/* How many lessons are a group from now on; 0 where a verdict comes only when it is asked for. */
void guard_every(int32_t lessons);
/* One more lesson; its verdict where the group is full. */
void guard_lesson(void);
/* Keep what was learned since the last verdict, or go back; the state behind it is saved.
 *     verdict good|back RIGHT OF BEST GENERATION */
void guard_judge(void);

#endif
