#include <string.h>

#include <stdint.h>

#undef memcpy

/* Or the compiler would make a call of memcpy out of the loop in memcpy. */
#define PLAIN __attribute__((optimize("no-tree-loop-distribute-patterns")))

PLAIN void *memcpy(void *restrict to, const void *restrict from, size_t count) {
    uint8_t *t = to;
    const uint8_t *f = from;
    if (!(((uintptr_t)t | (uintptr_t)f) & 3))
        for (; count >= 4; count -= 4, t += 4, f += 4) *(uint32_t *)(void *)t = *(const uint32_t *)(const void *)f;
    while (count--) *t++ = *f++;
    return to;
}

PLAIN void *memset(void *to, int value, size_t count) {
    uint8_t *t = to;
    if (!((uintptr_t)t & 3))
        for (; count >= 4; count -= 4, t += 4) *(uint32_t *)(void *)t = (uint8_t)value * 0x01010101u;
    while (count--) *t++ = (uint8_t)value;
    return to;
}
