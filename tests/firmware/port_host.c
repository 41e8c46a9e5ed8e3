/* A board that is a process: samples.bin and flash.bin in this folder, telemetry on standard output.
 *
 * EDGERUN_CUT=N cuts the power while page N of flash is written, from 1 on: exit code 42. EDGERUN_TORN=1 leaves that
 * page half written.
 */
#include <stdio.h>
#include <stdlib.h>

#include "port.h"

#define POWER_CUT 42

static FILE *samples, *flash;
static long cut, writes;
static int torn;

static long setting(const char *name) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : 0;
}

static FILE *open_flash(void) {
    FILE *there = fopen("flash.bin", "r+b");
    if (there) return there;
    there = fopen("flash.bin", "w+b");
    for (long k = 0; there && k < (long)BOARD_PAGES * BOARD_PAGE; k++) fputc(0xff, there);
    return there;
}

void port_start(void) {
    cut = setting("EDGERUN_CUT");
    torn = setting("EDGERUN_TORN") != 0;
    samples = fopen("samples.bin", "rb");
    flash = open_flash();
    if (!samples || !flash) exit(3);
}

uint32_t port_read(uint8_t *to, uint32_t count) { return (uint32_t)fread(to, 1, count, samples); }
void port_write(const char *text, uint32_t count) { fwrite(text, 1, count, stdout); }
uint64_t port_ticks(void) { return 0; }

/* What a file is too short for reads as erased. */
void port_flash_read(uint32_t page, uint8_t *to) {
    for (uint32_t k = 0; k < BOARD_PAGE; k++) to[k] = 0xff;
    fseek(flash, (long)page * BOARD_PAGE, SEEK_SET);
    if (fread(to, 1, BOARD_PAGE, flash) < BOARD_PAGE) clearerr(flash);
}

void port_flash_write(uint32_t page, const uint8_t *from) {
    const int last = ++writes == cut;
    if (page + 1 > BOARD_PAGES) abort();
    if (!last || torn) {
        fseek(flash, (long)page * BOARD_PAGE, SEEK_SET);
        fwrite(from, 1, last ? BOARD_PAGE / 2 : BOARD_PAGE, flash);
        fflush(flash);
    }
    if (last) _Exit(POWER_CUT);
}

void port_exit(int32_t code) { exit(code); }
