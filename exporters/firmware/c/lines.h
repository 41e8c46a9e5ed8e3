/* Telemetry: words and numbers, a space between them, a line an event. */
#ifndef LINES_H
#define LINES_H

#include <stdint.h>

void say(const char *word);
void say_number(int64_t number);
/* Bytes in hexadecimal. */
void say_bytes(const void *bytes, uint32_t count);
void end_line(void);

#endif
