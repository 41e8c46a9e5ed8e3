/* Hostile streams and hostile flash, case after case in one process, built with the sanitisers.
 *
 *     fuzz STREAM FLASH SEED CASES       two files to start from; a case is a function of its number alone
 *
 * Whatever comes, the firmware comes to the stream's end and its learned state is one that can be.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"
#include "guard.h"
#include "learned.h"
#include "model.h"
#include "port.h"
#include "watch.h"

#undef main
int firmware_main(void);

#define MOST 65536

typedef struct {
    uint8_t bytes[MOST];
    uint32_t count;
} buffer;

static buffer stream, flash, stream_seed, flash_seed;
static uint32_t at;
static uint64_t state, loaded;

/* ---------------------------------------------------------------- the board */

void port_start(void) { at = 0; }
uint64_t port_ticks(void) { return 0; }
void port_exit(int32_t code) { exit(code); }

void port_write(const char *text, uint32_t count) {
    static const char wanted[] = "generation";
    static int matched;
    if (count == sizeof wanted - 1 && !memcmp(text, wanted, count)) matched = 1;
    else if (matched && count && text[0] > '0' && text[0] <= '9') loaded += 1, matched = 0;
    else if (count && text[0] != ' ') matched = 0;
}

uint32_t port_read(uint8_t *to, uint32_t count) {
    if (count > stream.count - at) count = stream.count - at;
    memcpy(to, stream.bytes + at, count);
    at += count;
    return count;
}

void port_flash_read(uint32_t page, uint8_t *to) {
    memset(to, 0xff, BOARD_PAGE);
    for (uint32_t k = 0; k < BOARD_PAGE && page * BOARD_PAGE + k < flash.count; k++)
        to[k] = flash.bytes[page * BOARD_PAGE + k];
}

void port_flash_write(uint32_t page, const uint8_t *from) {
    if (page >= BOARD_PAGES) abort();
    memcpy(flash.bytes + page * BOARD_PAGE, from, BOARD_PAGE);
    if (flash.count < (page + 1) * BOARD_PAGE) flash.count = (page + 1) * BOARD_PAGE;
}

/* ---------------------------------------------------------------- changes */

static uint32_t below(uint32_t n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % n;
}

static void put(uint8_t *to, uint64_t value, uint32_t bytes) {
    for (uint32_t k = 0; k < bytes; k++) to[k] = (uint8_t)(value >> 8 * k);
}

static uint32_t get(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void change(buffer *b) {
    static const int64_t edges[] = {0, 1, -1, 2, 6, 7, 12, 127, 128, 255, 256, 32767, 32768, 65535, INT32_MAX, INT32_MIN,
                                    INT64_MAX, INT64_MIN};
    if (b->count < 16) return;
    const uint32_t where = below(b->count), left = b->count - where, length = 1 + below(left < 64 ? left : 64);
    switch (below(6)) {
    case 0: b->bytes[where] ^= (uint8_t)(1u << below(8)); break;
    case 1: b->bytes[where] = (uint8_t)below(256); break;
    case 2: put(b->bytes + where, (uint64_t)edges[below(sizeof edges / sizeof *edges)], left < 8 ? left : 1u << below(4)); break;
    case 3: /* cut out */
        memmove(b->bytes + where, b->bytes + where + length, left - length);
        b->count -= length;
        break;
    case 4: /* repeat */
        if (b->count + length > MOST) break;
        memmove(b->bytes + where + length, b->bytes + where, left);
        b->count += length;
        break;
    case 5:
        if (!below(4)) b->count = where;
        break;
    }
}

/* Right sums where this still looks like frames. */
static void seal_stream(buffer *b) {
    for (uint32_t k = 0; k + 16 <= b->count;) {
        const uint32_t length = get(b->bytes + k + 8);
        if (b->bytes[k] != 'E' || b->bytes[k + 1] != 'R' || length > b->count || k + 16 + length > b->count) {
            k++;
            continue;
        }
        put(b->bytes + k + 12 + length, crc32(0, b->bytes + k + 2, 10 + length), 4);
        k += 16 + length;
    }
}

/* Right sums of every slot, so that the loader looks at what they hold. */
static void seal_flash(buffer *b) {
    for (uint32_t slot = 0; slot < BOARD_SLOTS; slot++) {
        uint8_t *first = b->bytes + slot * (BOARD_PAGES / BOARD_SLOTS) * BOARD_PAGE;
        if (first + BOARD_PAGE + MODEL_KEPT_BYTES > b->bytes + b->count) return;
        put(first + 32, crc32(0, first + BOARD_PAGE, MODEL_KEPT_BYTES), 4);
        put(first + 36, crc32(0, first, 36), 4);
    }
}

static void make_case(uint64_t number) {
    state = (number + 1) * 0x9e3779b97f4a7c15u;
    for (uint32_t k = 0; k < 8; k++) below(2);
    stream = stream_seed;
    flash = flash_seed;
    const uint32_t what = below(3);
    for (uint32_t k = 1 + below(8); what != 1 && k; k--) change(&stream);
    for (uint32_t k = 1 + below(8); what != 0 && k; k--) change(&flash);
    if (below(4)) seal_stream(&stream);
    if (below(4)) seal_flash(&flash);
}

static void read_file(const char *name, buffer *to) {
    FILE *file = fopen(name, "rb");
    if (!file) exit(3);
    to->count = (uint32_t)fread(to->bytes, 1, MOST, file);
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    read_file(argv[1], &stream_seed);
    read_file(argv[2], &flash_seed);
    const uint64_t first = strtoull(argv[3], NULL, 10), count = strtoull(argv[4], NULL, 10);
    for (uint64_t k = first; k < first + count; k++) {
        make_case(k);
        firmware_main();
        if (!learned_sound() || !guard_sound() || !watch_sound()) {
            fprintf(stderr, "case %llu: the learned state cannot be\n", (unsigned long long)k);
            return 1;
        }
    }
    printf("%llu cases, %llu checkpoints taken over\n", (unsigned long long)count, (unsigned long long)loaded);
    return 0;
}
