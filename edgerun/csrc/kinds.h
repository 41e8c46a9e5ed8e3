/* What the files of layers share: clearing and reading outputs, and arrays under views. */
#ifndef EDGERUN_KINDS_H
#define EDGERUN_KINDS_H

#include <string.h>

#include "edgerun.h"

#define ER_CLEAR(array, count) memset(array, 0, (size_t)(count) * sizeof *(array))

/* out <- values in int32.   (count,) */
static inline void er_widen(int32_t *out, const int16_t *values, int32_t count) {
    for (int32_t j = 0; j < count; j++) out[j] = values[j];
}

static inline void er_copy8(int16_t *to, const int8_t *from, int32_t count) {
    for (int32_t j = 0; j < count; j++) to[j] = from[j];
}

/* y <- sums, which fit; y may be NULL.   (count,) */
static inline void er_narrow(int16_t *y, const int32_t *sums, int32_t count) {
    if (y)
        for (int32_t j = 0; j < count; j++) y[j] = (int16_t)sums[j];
}

/* reset and reading of a kind whose output y is all that it keeps. */
#define ER_READS_OUTPUT(record) \
    void record##_reset(const record *r) { ER_CLEAR(r->y, r->outputs); } \
    void record##_reading(const record *r, int32_t *out) { er_widen(out, r->y, r->outputs); }

/* The same of a kind that gives sums. */
#define ER_READS_SUMS(record) \
    void record##_reset(const record *r) { \
        ER_CLEAR(r->sums, r->outputs); \
        if (r->y) ER_CLEAR(r->y, r->outputs); \
    } \
    void record##_reading(const record *r, int32_t *out) { memcpy(out, r->sums, (size_t)r->outputs * sizeof *out); }

/* The windows of a record that has the fields of ER_WINDOW. */
#define ER_COPY(name) r->name,
#define ER_WINDOW_OF {ER_WINDOW(ER_COPY)}

/* window (kernel_h, kernel_w, channels) <- what place (i, j) sees of an image, `fill` outside of it. Returns where that
 * lies: in x itself where it is one place.
 */
const int16_t *er_see(int16_t *window, const int16_t *x, const er_window *g, int32_t i, int32_t j, int32_t fill);

/* y (n,) <- requantised sums, channel by channel. */
void er_requant_row(int16_t *y, const int32_t *sums, const int32_t *multiplier, const uint8_t *shift,
                    int64_t zero_point, int64_t low, int64_t high, int32_t n);

/* The place of the next row under shape, the last axis left out: index (rank,) counts up, each of two offsets goes on
 * by its strides. False behind the last row.
 */
enum { ER_RANK = 8 };
static inline int er_next(int32_t *index, const int32_t *shape, int32_t rank, const int32_t *step_a, int64_t *a,
                          const int32_t *step_b, int64_t *b) {
    for (int32_t axis = rank - 2; axis >= 0; axis--) {
        *a += step_a[axis];
        *b += step_b[axis];
        if (++index[axis] < shape[axis]) return 1;
        *a -= (int64_t)step_a[axis] * shape[axis];
        *b -= (int64_t)step_b[axis] * shape[axis];
        index[axis] = 0;
    }
    return 0;
}

static inline int64_t er_floor_div(int64_t a, int64_t b) { /* b > 0 */
    int64_t q = a / b;
    return q * b > a ? q - 1 : q;
}

#endif
