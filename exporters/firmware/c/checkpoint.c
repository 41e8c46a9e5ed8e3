#include "checkpoint.h"

#include <string.h>

#include "frames.h"
#include "guard.h"
#include "model.h"
#include "port.h"

typedef struct {
    uint8_t magic[4], model[8];
    uint32_t generation, bytes, good;
    guard_state guard;
    uint32_t crc, header_crc;
} header;

#define SLOT_PAGES (BOARD_PAGES / BOARD_SLOTS)

static uint8_t page[BOARD_PAGE];

static header header_of(uint32_t generation, uint32_t good, guard_state state, uint32_t crc) {
    header made = {.magic = {'E', 'R', 'C', 'K'}, .generation = generation, .bytes = MODEL_KEPT_BYTES, .good = good,
                   .guard = state, .crc = crc};
    memcpy(made.model, MODEL_ID, sizeof made.model);
    made.header_crc = crc32(0, &made, offsetof(header, header_crc));
    return made;
}

/* What a slot's first page tells; generation 0 where it is no header of this model's, or none could follow it. */
static header header_in(uint32_t slot) {
    header found;
    port_flash_read(slot * SLOT_PAGES, page);
    memcpy(&found, page, sizeof found);
    const header sound = header_of(found.generation, found.good, found.guard, found.crc);
    for (uint32_t k = 0; k < sizeof sound; k++)
        if (((const uint8_t *)&sound)[k] != page[k]) found.generation = 0;
    if (found.generation == UINT32_MAX) found.generation = 0;
    return found;
}

/* The arrays' bytes in their order, a page at a time: from them to the slot's pages, from these to them, to those
 * alone that are learned state, or neither; their CRC-32. */
enum way { TO_FLASH, FROM_FLASH, LEARNED_FROM_FLASH, LOOK };
static uint32_t pass(uint32_t slot, enum way way) {
    uint32_t crc = 0, filled = 0, at = slot * SLOT_PAGES + 1, left = MODEL_KEPT_BYTES;
    if (way == TO_FLASH) memset(page, 0xff, sizeof page);
    for (uint32_t k = 0; k < MODEL_KEPT; k++) {
        uint8_t *bytes = model_kept[k].bytes;
        for (uint32_t done = 0; done < model_kept[k].count;) {
            if (way != TO_FLASH && filled == 0) port_flash_read(at, page);
            uint32_t count = model_kept[k].count - done;
            if (count > BOARD_PAGE - filled) count = BOARD_PAGE - filled;
            if (way == TO_FLASH) memcpy(page + filled, bytes + done, count);
            if (way == FROM_FLASH || (way == LEARNED_FROM_FLASH && model_kept[k].learned))
                memcpy(bytes + done, page + filled, count);
            crc = crc32(crc, page + filled, count);
            filled += count;
            done += count;
            left -= count;
            if (filled < BOARD_PAGE && left) continue;
            if (way == TO_FLASH) port_flash_write(at, page);
            filled = 0;
            at++;
        }
    }
    return crc;
}

#define NONE BOARD_SLOTS

/* The slot of the newest whole checkpoint, of the newest good one where only such count, or NONE. */
static uint32_t newest(uint32_t only_good, header *found) {
    uint32_t where = NONE;
    *found = (header){.generation = 0};
    for (uint32_t slot = 0; slot < BOARD_SLOTS; slot++) {
        const header mine = header_in(slot);
        if (mine.generation <= found->generation || mine.good < only_good || pass(slot, LOOK) != mine.crc) continue;
        *found = mine;
        where = slot;
    }
    return where;
}

uint32_t checkpoint_save(uint32_t good) {
    header last, kept;
    const uint32_t last_in = newest(0, &last), kept_in = newest(1, &kept);
    uint32_t slot = 0;
    while (slot == last_in || slot == kept_in) slot++;
    const header made = header_of(last.generation + 1, good, guard, pass(slot, TO_FLASH));
    memset(page, 0xff, sizeof page);
    memcpy(page, &made, sizeof made);
    port_flash_write(slot * SLOT_PAGES, page);
    return header_in(slot).generation == made.generation && pass(slot, LOOK) == made.crc ? made.generation : 0;
}

static uint32_t take_over(uint32_t only_good, enum way way) {
    header found;
    const uint32_t slot = newest(only_good, &found);
    if (slot == NONE) return 0;
    pass(slot, way);
    guard = found.guard;
    return found.generation;
}

uint32_t checkpoint_load(void) { return take_over(0, FROM_FLASH); }
uint32_t checkpoint_recall(void) { return take_over(1, LEARNED_FROM_FLASH); }
