#ifndef EDGERUN_DENSE_DOT_H
#define EDGERUN_DENSE_DOT_H

#include <stdint.h>

#if defined(__aarch64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && !defined(ER_PORTABLE)
#define ER_DOT 1
/* `er_layer_sums` where the processor has the instruction, 16 <= m <= 2048 and x fits int8; else 0, nothing done. */
int er_dot_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m);
#endif

#endif
