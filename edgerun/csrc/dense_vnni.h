#ifndef EDGERUN_DENSE_VNNI_H
#define EDGERUN_DENSE_VNNI_H

#include "edgerun.h"

/* Of W x + b (rows,) the sums `first` to `last`, rescaled by m >> s, half up, where multiplier is not NULL. packed has
 * weights and bias. All but packed begin with row 0.
 */
typedef struct er_rows {
    int32_t *sums;
    const int8_t *packed;
    const int32_t *bias, *multiplier;
    const uint8_t *shift;
    int32_t first, last, rows;
} er_rows;

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__) && !defined(ER_PORTABLE)
#define ER_VNNI 1
/* `er_layer_sums` where the processor has the instruction, m <= 8192 and x fits int8; 0, and nothing done, otherwise. */
int er_vnni_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m);
/* `er_requant_row` where the processor has the instructions; 0, and nothing done, otherwise. */
int er_vnni_requant(int16_t *y, const int32_t *sums, const int32_t *multiplier, const uint8_t *shift,
                    int32_t zero_point, int32_t low, int32_t high, int32_t n);
/* Bytes of n rows of m weights and their bias as `er_vnni_pack` lays them; 0 where no processor reads them so. */
int64_t er_vnni_packed(int32_t n, int32_t m);
/* Nothing where that is 0. */
void er_vnni_pack(int8_t *packed, const int8_t *weight, const int32_t *bias, int32_t n, int32_t m);
/* The step of a layer that has them; 0, and nothing done, where x does not fit int8. */
int er_vnni_dense(const er_dense *r);
/* What `er_rows` says of x (m,), and some rows before the first, which lie beside it; 0, and nothing done, as above. */
int er_vnni_rows(const er_rows *r, const int16_t *x, int32_t m);
#endif

#endif
