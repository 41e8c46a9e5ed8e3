#ifndef EDGERUN_BAND_VNNI_H
#define EDGERUN_BAND_VNNI_H

#include "edgerun.h"
#include "rounding_vnni.h"

#ifdef ER_VNNI
enum {
    ER_BAND = 32768, /* bytes of an image that lie side by side at once */
    ER_BEYOND = 64,  /* that may be read behind them */
    ER_PHASES = 8
};

/* The outputs [row, row + rows) x [column, column + columns), at most `tall` times `broad`, and what they see of the
 * image: `deep` rows of `wide` columns, padding included, in bytes x + 128. Column w of it lies at slot w / phases of
 * phase w % phases, of which [first, end) lie in the image; `line` is how far one row is from the next.
 */
typedef struct er_band {
    int32_t row, column, rows, columns, tall, broad, deep, wide, phases, slots, line;
    int32_t first[ER_PHASES], end[ER_PHASES];
} er_band;

/* The first band, of as many outputs as there is room for. 0 where there is none for a single window or such phases. */
int er_band_first(er_band *b, const er_window *g, int32_t phases);
/* The next band, to the right or below. 0 behind the last. */
int er_band_next(er_band *b, const er_window *g);
/* bytes (ER_BAND + ER_BEYOND) <- what a band sees. 0 where a value does not fit int8. */
int er_band_lay(uint8_t *bytes, const er_band *b, const int16_t *x, const er_window *g, int32_t fill);
/* Where tap (u, v) of a band's first output lies; an output below is stride_h lines further. */
static inline int32_t er_band_tap(const er_band *b, const er_window *g, int32_t u, int32_t v) {
    const int32_t w = v * g->dilation_w;
    return u * g->dilation_h * b->line + (w % b->phases * b->slots + w / b->phases) * g->channels;
}
#endif

#endif
