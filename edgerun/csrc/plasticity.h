/* What the ways to update a plastic tensor share. */
#ifndef EDGERUN_PLASTICITY_H
#define EDGERUN_PLASTICITY_H

#include "edgerun.h"

enum { ER_SHADOW_MAX = 32512, ER_WEIGHT_MAX = 127, ER_LARGEST_STEP = 1 << 30 };

/* What is the same for all weights of an update. */
typedef struct er_numbers {
    er_key update, decay, pull, omega, normalise, growth;
    int32_t shift, small_shift, middle, drop;
} er_numbers;

/* Where an update is: so many whole rows, or columns of one. |G| there is at most `bound`, 0 where they are still. */
typedef struct er_place {
    int32_t row, rows, column, columns;
    int64_t bound;
} er_place;

/* The portable form, of at most 64 weights or of one tile; returns the squared norm of the change. */
int64_t er_update_place(const er_plastic *p, const er_numbers *w, const er_place *here);

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__) && !defined(ER_PORTABLE)
#define ER_AVX512 1
/* The whole of `er_update` but for normalisers and rewiring, where the processor has AVX-512 VNNI; -1, and nothing done, otherwise
 * and where rows are so short that registers would be empty. */
int64_t er_update_avx512(const er_plastic *p, const er_numbers *w);
#endif

#endif
