#include "watch.h"

#include <string.h>

#include "model.h"

#if MODEL_WATCH_SAMPLES
enum { N = MODEL_WATCH_SAMPLES, HALF = 1 << 14 };

/* sum |N q - total|, at most 2**31 - 1 */
static int32_t distance(const int16_t *q, const int16_t *total) {
    int64_t sum = 0;
    for (int32_t k = 0; k < MODEL_SIZE; k++) {
        const int32_t off = q[k] * N - total[k];
        sum += off < 0 ? -off : off;
    }
    return er_sat32(sum);
}

/* Among the first `held`, which rise and go on rising. */
static void insert(int32_t *sorted, int32_t held, int32_t value) {
    int32_t place = held;
    for (; place > 0 && sorted[place - 1] > value; place--) sorted[place] = sorted[place - 1];
    sorted[place] = value;
}

/* rank - 1/2 in Q0.15; equal ones count half. */
static int32_t evidence(const int32_t *sorted, int32_t value) {
    int32_t below = 0;
    for (int32_t k = 0; k < N; k++) below += (sorted[k] < value) + (sorted[k] <= value);
    return below * HALF / N - HALF;
}

int watch_meet(const int16_t *q, int32_t label) {
    if (label < 0) return 0;
    int16_t *total = model_watch_sum + label * MODEL_SIZE, *met = model_watch_met + label;
    int32_t *sorted = model_watch_distance + label * N;
    if (*met < N) {
        for (int32_t k = 0; k < MODEL_SIZE; k++) total[k] = (int16_t)(total[k] + q[k]);
        (*met)++;
        return 0;
    }
    const int32_t far = distance(q, total);
    if (*met < 2 * N) {
        insert(sorted, *met - N, far);
        (*met)++;
        return 0;
    }
    const int32_t score = *model_watch_score + evidence(sorted, far) - MODEL_WATCH_SLACK;
    *model_watch_score = score < 0 ? 0 : score;
    if (score < MODEL_WATCH_ALARM) return 0;
    watch_reset();
    return 1;
}

void watch_reset(void) {
    memset(model_watch_sum, 0, MODEL_WATCH_CLASSES * MODEL_SIZE * sizeof *model_watch_sum);
    memset(model_watch_distance, 0, MODEL_WATCH_CLASSES * N * sizeof *model_watch_distance);
    memset(model_watch_met, 0, MODEL_WATCH_CLASSES * sizeof *model_watch_met);
    *model_watch_score = 0;
}

/* Sums of as many samples of at most 255 as there were. */
static int sums_sound(const int16_t *total, int32_t met) {
    const int32_t most = 255 * (met < N ? met : N);
    for (int32_t k = 0; k < MODEL_SIZE; k++)
        if (total[k] < -most || total[k] > most) return 0;
    return met >= 0 && met <= 2 * N;
}

int watch_sound(void) {
    for (int32_t k = 0; k < MODEL_WATCH_CLASSES; k++)
        if (!sums_sound(model_watch_sum + k * MODEL_SIZE, model_watch_met[k])) return 0;
    return *model_watch_score >= 0 && *model_watch_score < MODEL_WATCH_ALARM;
}
#else
int watch_meet(const int16_t *q, int32_t label) {
    (void)q;
    (void)label;
    return 0;
}
void watch_reset(void) {}
int watch_sound(void) { return 1; }
#endif
