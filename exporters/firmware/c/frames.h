/* The stream of samples: frames, of which a damaged one is told and left out.
 *
 *     'E' 'R'  kind  level  value (int32)  length (uint32)  payload (length bytes)  CRC-32 of kind to payload
 *
 * All numbers are little-endian. Kinds:
 *
 *     'S'  a sample: value -1 to answer it, a class to learn it, at a level of `enum er_level`
 *     'L'  the same of feedback on the stream, whose class may be doubted
 *     'V'  a sample and, behind it, the values to learn (int16)
 *     'N'  one more class     'T'  settle prototypes     'B'  a boundary: credit becomes importance
 *     'C'  save a checkpoint  'D'  print learned state   'F'  back to the factory
 *     'J'  judge the lessons  'G'  from now on after so many as its value says, 0 for never
 */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdint.h>

typedef struct frame {
    uint8_t kind, level;
    int32_t value;
    uint32_t length; /* 0, or exactly that of a sample, without values or with them */
} frame;

enum frame_end { FRAME_WHOLE, FRAME_DAMAGED, STREAM_ENDED };

/* Read one frame; its payload, where it has one, becomes the sample q (MODEL_SIZE,) and the values target
 * (MODEL_TARGETS,). Of a damaged frame nothing may be used, and neither is one. */
enum frame_end read_frame(frame *found, int16_t *q, int16_t *target);

/* CRC-32 (IEEE 802.3), begun with 0 and continued with what it gave. */
uint32_t crc32(uint32_t crc, const void *bytes, uint32_t count);

#endif
