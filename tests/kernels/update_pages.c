/* Updates and boundaries of random tensors whose arrays end where a page does that nobody may touch. Masked loads are
 * no loads to a sanitiser, but the processor faults where one reads further than its mask lets it. Prints a hash of all
 * that the arrays hold afterwards.
 */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "edgerun.h"

enum { PAGE = 1 << 16, ARRAYS = 16 };

static struct {
    char *at;
    size_t size;
} maps[ARRAYS];
static int held;
static uint64_t hash = 0xcbf29ce484222325u;

static void *random_array(size_t size) {
    const size_t whole = (size + PAGE - 1) / PAGE * PAGE;
    char *at = mmap(NULL, whole + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(at + whole, PAGE, PROT_NONE)) exit(1);
    maps[held].at = at;
    maps[held++].size = whole + PAGE;
    for (size_t i = 0; i < size; i++) at[whole - size + i] = (char)(rand() >> 7);
    return at + whole - size;
}

static int32_t below(int32_t n) { return (int32_t)(rand() % n); }

/* Some rows of a history (steps, rows) are still. */
static void quiet(char *history, size_t width, int32_t steps, int32_t rows) {
    for (int32_t i = 0; i < rows; i++)
        for (int32_t t = 0; !(i % 4) && t < steps; t++)
            for (size_t k = 0; k < width; k++) history[((size_t)t * (size_t)rows + (size_t)i) * width + k] = 0;
}

static void one(int seed) {
    static const int32_t windows[] = {0, 1, 2, 3, 7, 100, 127, 128};
    srand((unsigned)seed);
    const int32_t rows = 1 + below(40), columns = 1 + below(seed % 50 ? 200 : 5000), steps = windows[below(8)];
    const int small = below(2), notes = below(2);
    const size_t size = (size_t)rows * (size_t)columns, width = small ? 1 : 2;
    void *history = random_array((size_t)steps * (size_t)rows * width);
    int16_t *post = random_array((size_t)steps * (size_t)columns * 2);
    const int smaller = below(12);
    quiet(history, width, steps, rows);
    for (size_t k = 0; k < (size_t)steps * (size_t)columns; k++) post[k] = (int16_t)(post[k] >> smaller);
    er_plastic p = {.rows = rows, .columns = columns, .steps = steps, .small = small, .eta = below(32768), .shift = 20,
                    .max_step = 512, .decay_shift = below(2) * 12, .gradient_shift = 12, .strength = 20,
                    .damping = 600, .history = small ? NULL : history, .history_high = small ? history : NULL,
                    .post = post, .shadow = random_array(size * 2)};
    for (size_t k = 0; k < size; k++) p.shadow[k] = (int16_t)(p.shadow[k] / 2);
    if (!small) p.weight = random_array(size);
    if (notes) p.importance = random_array(size);
    if (notes && small) p.ref_high = random_array(size), p.omega_narrow = random_array(size * 2);
    if (notes && !small) p.ref = random_array(size * 2), p.omega = random_array(size * 4);
    er_update(&p, 5, (uint64_t)seed);
    if (notes) er_consolidate(&p, 5, (uint64_t)seed);
    for (; held; held--) {
        const char *at = maps[held - 1].at;
        for (size_t i = 0; i < maps[held - 1].size - PAGE; i++) hash = (hash ^ (uint8_t)at[i]) * 0x100000001b3u;
        munmap(maps[held - 1].at, maps[held - 1].size);
    }
}

int main(void) {
    for (int seed = 0; seed < 120; seed++) one(seed);
    printf("%08x%08x\n", (unsigned)(hash >> 32), (unsigned)hash);
    return 0;
}
