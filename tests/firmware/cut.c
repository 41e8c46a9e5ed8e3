/* Stands before a port's port_flash_write, by the linker's --wrap.
 *
 * EDGERUN_CUT=N cuts the power while page N of flash is written, from 1 on: exit code 42. EDGERUN_TORN=1 leaves that
 * page half written.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port.h"

#define POWER_CUT 42

void __real_port_flash_write(uint32_t page, const uint8_t *from);
void __wrap_port_flash_write(uint32_t page, const uint8_t *from);

static long setting(const char *name) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : 0;
}

static void tear(uint32_t page, const uint8_t *from) {
    uint8_t half[BOARD_PAGE];
    port_flash_read(page, half);
    memcpy(half, from, BOARD_PAGE / 2);
    __real_port_flash_write(page, half);
}

void __wrap_port_flash_write(uint32_t page, const uint8_t *from) {
    static long writes;
    if (page + 1 > BOARD_PAGES) abort();
    if (++writes != setting("EDGERUN_CUT")) {
        __real_port_flash_write(page, from);
        return;
    }
    if (setting("EDGERUN_TORN")) tear(page, from);
    fflush(stdout);
    _Exit(POWER_CUT);
}
