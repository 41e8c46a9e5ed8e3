#ifndef EDGERUN_DENSE_VNNI_H
#define EDGERUN_DENSE_VNNI_H

#include "edgerun.h"

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__) && !defined(ER_PORTABLE)
#define ER_VNNI 1
/* `er_layer_sums` where the processor has the instruction, m <= 2048 and x fits int8; 0, and nothing done, otherwise. */
int er_vnni_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m);
/* Bytes of n rows of m weights and their bias as `er_vnni_pack` lays them; 0 where no processor reads them so. */
int64_t er_vnni_packed(int32_t n, int32_t m);
void er_vnni_pack(int8_t *packed, const int8_t *weight, const int32_t *bias, int32_t n, int32_t m);
/* The step of a layer that has them; 0, and nothing done, where x does not fit int8. */
int er_vnni_dense(const er_dense *r);
#endif

#endif
