#include "lines.h"

#include "port.h"

static uint32_t begun; /* whether the line has a word already */

static void put(const char *text, uint32_t count) {
    if (begun) port_write(" ", 1);
    begun = 1;
    port_write(text, count);
}

void say(const char *word) {
    uint32_t count = 0;
    while (word[count]) count++;
    put(word, count);
}

void say_number(int64_t number) {
    char digits[20];
    uint32_t at = sizeof digits;
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (number < 0) digits[--at] = '-';
    put(digits + at, (uint32_t)sizeof digits - at);
}

void say_bytes(const void *bytes, uint32_t count) {
    static const char digit[] = "0123456789abcdef";
    const uint8_t *from = bytes;
    put("", 0);
    for (uint32_t k = 0; k < count; k++) {
        const char pair[2] = {digit[from[k] >> 4], digit[from[k] & 15]};
        port_write(pair, 2);
    }
}

void end_line(void) {
    begun = 0;
    port_write("\n", 1);
}
