#include "checkpoint.h"

#include <string.h>

#include "frames.h"
#include "model.h"
#include "port.h"

typedef struct {
    uint8_t magic[4], model[8];
    uint32_t generation, bytes, crc, header_crc;
} header;

#define SLOT_PAGES (BOARD_PAGES / BOARD_SLOTS)

static uint8_t page[BOARD_PAGE];

static header header_of(uint32_t generation, uint32_t crc) {
    header made = {.magic = {'E', 'R', 'C', 'K'}, .generation = generation, .bytes = MODEL_KEPT_BYTES, .crc = crc};
    memcpy(made.model, MODEL_ID, sizeof made.model);
    made.header_crc = crc32(0, &made, offsetof(header, header_crc));
    return made;
}

/* The generation that a slot's first page tells, 0 where it is no header of this model's. */
static uint32_t generation_of(uint32_t slot, uint32_t *crc) {
    header found;
    port_flash_read(slot * SLOT_PAGES, page);
    memcpy(&found, page, sizeof found);
    const header sound = header_of(found.generation, found.crc);
    *crc = found.crc;
    for (uint32_t k = 0; k < sizeof sound; k++)
        if (((const uint8_t *)&sound)[k] != page[k]) return 0;
    return found.generation;
}

/* The arrays' bytes in their order, a page at a time: from them to the slot's pages, from these to them, or neither;
 * their CRC-32. */
enum way { TO_FLASH, FROM_FLASH, LOOK };
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
            if (way == FROM_FLASH) memcpy(bytes + done, page + filled, count);
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

/* Of both slots that of the newest whole checkpoint, or -1. */
static int32_t newest(uint32_t *generation) {
    int32_t found = -1;
    *generation = 0;
    for (uint32_t slot = 0; slot < 2; slot++) {
        uint32_t crc;
        const uint32_t mine = generation_of(slot, &crc);
        if (mine <= *generation || pass(slot, LOOK) != crc) continue;
        *generation = mine;
        found = (int32_t)slot;
    }
    return found;
}

uint32_t checkpoint_save(void) {
    uint32_t generation;
    const uint32_t slot = newest(&generation) == 0 ? 1 : 0;
    const header made = header_of(generation + 1, pass(slot, TO_FLASH));
    memset(page, 0xff, sizeof page);
    memcpy(page, &made, sizeof made);
    port_flash_write(slot * SLOT_PAGES, page);
    uint32_t crc;
    return generation_of(slot, &crc) == generation + 1 && pass(slot, LOOK) == made.crc ? generation + 1 : 0;
}

uint32_t checkpoint_load(void) {
    uint32_t generation;
    const int32_t slot = newest(&generation);
    if (slot >= 0) pass((uint32_t)slot, FROM_FLASH);
    return generation;
}
