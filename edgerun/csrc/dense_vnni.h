#ifndef EDGERUN_DENSE_VNNI_H
#define EDGERUN_DENSE_VNNI_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__) && !defined(ER_PORTABLE)
#define ER_VNNI 1
/* `er_layer_sums` where the processor has the instruction, m <= 2048 and x fits int8; 0, and nothing done, otherwise. */
int er_vnni_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m);
#endif

#endif
