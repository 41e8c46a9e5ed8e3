#include "frames.h"

#include "model.h"
#include "port.h"

#define VALUED (MODEL_SIZE + 2 * MODEL_TARGETS)

uint32_t crc32(uint32_t crc, const void *bytes, uint32_t count) {
    static const uint32_t nibble[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    const uint8_t *from = bytes;
    crc = ~crc;
    for (uint32_t k = 0; k < count; k++) {
        crc ^= from[k];
        crc = (crc >> 4) ^ nibble[crc & 15];
        crc = (crc >> 4) ^ nibble[crc & 15];
    }
    return ~crc;
}

static uint32_t little(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* To behind the next 'E' 'R'; 0 where the stream ends before. */
static uint32_t find_start(void) {
    uint8_t byte = 0, before;
    do {
        before = byte;
        if (!port_read(&byte, 1)) return 0;
    } while (before != 'E' || byte != 'R');
    return 1;
}

/* The payload, piece by piece, as the network's integers. */
static uint32_t read_sample(int16_t *q, uint32_t *crc) {
    model_input piece[64];
    for (uint32_t first = 0; first < MODEL_SIZE; first += 64) {
        const uint32_t count = MODEL_SIZE - first < 64 ? MODEL_SIZE - first : 64;
        if (port_read((uint8_t *)piece, count) != count) return 0;
        *crc = crc32(*crc, piece, count);
        for (uint32_t k = 0; k < count; k++) q[first + k] = piece[k];
    }
    return 1;
}

#if MODEL_TARGETS
static uint32_t read_values(int16_t *target, uint32_t *crc) {
    uint8_t two[2];
    for (uint32_t k = 0; k < MODEL_TARGETS; k++) {
        if (port_read(two, sizeof two) != sizeof two) return 0;
        *crc = crc32(*crc, two, sizeof two);
        target[k] = (int16_t)(two[0] | two[1] << 8);
    }
    return 1;
}
#else
#define read_values(target, crc) ((void)(target), 1)
#endif

enum frame_end read_frame(frame *found, int16_t *q, int16_t *target) {
    uint8_t head[10], tail[4];
    if (!find_start() || port_read(head, sizeof head) != sizeof head) return STREAM_ENDED;
    *found = (frame){head[0], head[1], (int32_t)little(head + 2), little(head + 6)};
    if (found->level > ER_HEAD || (found->length && found->length != MODEL_SIZE && found->length != VALUED))
        return FRAME_DAMAGED;
    uint32_t crc = crc32(0, head, sizeof head);
    if (found->length && !read_sample(q, &crc)) return STREAM_ENDED;
    if (found->length > MODEL_SIZE && !read_values(target, &crc)) return STREAM_ENDED;
    if (port_read(tail, sizeof tail) != sizeof tail) return STREAM_ENDED;
    return little(tail) == crc ? FRAME_WHOLE : FRAME_DAMAGED;
}
