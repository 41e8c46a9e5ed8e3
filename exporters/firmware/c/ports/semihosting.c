/* Any Cortex-M with a debugger or an emulator at it: files of the host through semihosting.
 *
 * samples.bin   read, the stream of samples        answers.txt   written, lines of telemetry
 * flash.bin     read and written, the region of checkpoints; made where there is none
 */
#include "port.h"

enum { OPEN = 0x01, CLOSE = 0x02, WRITE0 = 0x04, WRITE = 0x05, READ = 0x06, SEEK = 0x0a, EXIT = 0x20 };
enum { READ_BINARY = 1, UPDATE_BINARY = 3, WRITE_BINARY = 5, NEW_BINARY = 7 };
#define STOPPED 0x20026u /* ADP_Stopped_ApplicationExit */

static int32_t host(uint32_t what, const void *with) {
    register uint32_t r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = with;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

/* -1 where there is none. */
static int32_t open_file(const char *name, uint32_t mode) {
    uint32_t length = 0;
    while (name[length]) length++;
    const uint32_t with[] = {(uint32_t)name, mode, length};
    return host(OPEN, with);
}

/* READ and WRITE tell how many bytes they did not do. */
static uint32_t transfer(uint32_t what, int32_t file, const void *bytes, uint32_t count) {
    const uint32_t with[] = {(uint32_t)file, (uint32_t)bytes, count};
    return count - (uint32_t)host(what, with);
}

static int32_t samples, answers, flash;

static int32_t open_flash(void) {
    static const uint8_t erased[BOARD_PAGE] = {[0 ... BOARD_PAGE - 1] = 0xff};
    const int32_t there = open_file("flash.bin", UPDATE_BINARY);
    if (there >= 0) return there;
    const int32_t made = open_file("flash.bin", NEW_BINARY);
    for (uint32_t left = BOARD_PAGES; left; left--) transfer(WRITE, made, erased, BOARD_PAGE);
    return made;
}

void port_start(void) {
    samples = open_file("samples.bin", READ_BINARY);
    answers = open_file("answers.txt", WRITE_BINARY);
    flash = open_flash();
    if (samples < 0 || answers < 0 || flash < 0) port_exit(3);
}

uint32_t port_read(uint8_t *to, uint32_t count) { return transfer(READ, samples, to, count); }

/* Lines leave whole: a call of the host is dear. */
void port_write(const char *text, uint32_t count) {
    static char waiting[256];
    static uint32_t length;
    for (uint32_t k = 0; k < count; k++) {
        waiting[length++] = text[k];
        if (length == sizeof waiting || text[k] == '\n') {
            transfer(WRITE, answers, waiting, length);
            length = 0;
        }
    }
}

static void seek(uint32_t page) {
    const uint32_t with[] = {(uint32_t)flash, page * BOARD_PAGE};
    host(SEEK, with);
}

void port_flash_read(uint32_t page, uint8_t *to) {
    seek(page);
    transfer(READ, flash, to, BOARD_PAGE);
}

void port_flash_write(uint32_t page, const uint8_t *from) {
    seek(page);
    transfer(WRITE, flash, from, BOARD_PAGE);
}

void port_exit(int32_t code) {
    const int32_t files[] = {samples, answers, flash};
    for (uint32_t k = 0; k < 3; k++) {
        const uint32_t with[] = {(uint32_t)files[k]};
        if (files[k] > 0) host(CLOSE, with);
    }
    const uint32_t with[] = {STOPPED, (uint32_t)code};
    for (;;) host(EXIT, with);
}
