/* Synapses that move: the weakest go, and as many come where gradients ask for them. Nothing is sorted: what is taken
 * lies under a threshold, whose digits are found one after the other, each by counting.
 */
#include "edgerun.h"

enum { NEVER = 1 << 24, STRONGEST = 1 << 15, DIGITS = 256 };

typedef enum side { WEAK, STILL } side;

/* Under `key` all are taken, of those at it the first `equals` in stored order. */
typedef struct cut {
    int32_t key;
    int64_t equals;
} cut;

/* |shadow| * (8 + code) of a synapse, 2**15 - |growth| where there is none, NEVER for who is on the other side. */
static inline int32_t key_of(const er_plastic *p, side of, int32_t row, int32_t column) {
    const size_t at = (size_t)row * (size_t)p->columns + (size_t)column;
    if (er_alive(p, row, column) != (of == WEAK)) return NEVER;
    const int32_t x = of == WEAK ? p->shadow[at] - 128 * p->small : p->growth[at], size = x < 0 ? -x : x;
    return of == STILL ? STRONGEST - size : size * (8 + (p->importance ? p->importance[at] : 0));
}

/* Where the `count` smallest keys end, 1 <= count <= those under NEVER. */
static cut smallest(const er_plastic *p, side of, int64_t count) {
    cut found = {0, 0};
    for (int32_t shift = 16; shift >= 0; shift -= 8) {
        int32_t times[DIGITS] = {0}, digit = 0;
        for (int32_t row = 0; row < p->rows; row++)
            for (int32_t column = 0; column < p->columns; column++) {
                const int32_t key = key_of(p, of, row, column);
                if (key >> shift >> 8 == found.key >> shift >> 8 && key < NEVER) times[key >> shift & (DIGITS - 1)]++;
            }
        while (count > times[digit]) count -= times[digit++];
        found.key |= digit << shift;
    }
    found.equals = count;
    return found;
}

static int taken(cut *from, int32_t key) { return key < from->key || (key == from->key && from->equals-- > 0); }

static void turn(const er_plastic *p, int32_t row, int32_t column) {
    const size_t byte = (size_t)row * (((size_t)p->columns + 7) / 8) + (size_t)column / 8;
    p->mask[byte] = (uint8_t)(p->mask[byte] ^ 128 >> (column & 7));
}

/* A synapse goes, with all that was noted of it. */
static void let_go(const er_plastic *p, int32_t row, int32_t column) {
    turn(p, row, column);
    er_clear_weight(p, (size_t)row * (size_t)p->columns + (size_t)column);
}

static void move_some(const er_plastic *p, int64_t count) {
    cut weak = smallest(p, WEAK, count);
    for (int32_t row = 0; row < p->rows; row++)
        for (int32_t column = 0; column < p->columns; column++)
            if (taken(&weak, key_of(p, WEAK, row, column))) let_go(p, row, column);
    cut still = smallest(p, STILL, count);
    for (int32_t row = 0; row < p->rows; row++)
        for (int32_t column = 0; column < p->columns; column++)
            if (taken(&still, key_of(p, STILL, row, column))) turn(p, row, column);
}

int64_t er_rewire(const er_plastic *p) {
    const int64_t size = (int64_t)p->rows * p->columns;
    int64_t there = 0;
    for (int32_t row = 0; row < p->rows; row++)
        for (int32_t column = 0; column < p->columns; column++) there += er_alive(p, row, column);
    const int64_t share = there * p->share >> 15, count = share < size - there ? share : size - there;
    if (count) move_some(p, count);
    for (int64_t at = 0; at < size; at++) p->growth[at] = 0;
    return count;
}
