/* A process under Linux or another POSIX system: frames from standard input, lines to standard output, the region of
 * checkpoints in flash.bin of the folder where it runs, made when the first is written.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "port.h"

#define SLOT_PAGES (BOARD_PAGES ? BOARD_PAGES / BOARD_SLOTS : 1)
enum { NO_FLASH = 3 };

static int flash = -1;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * BOARD_TICK_HZ + (uint64_t)time.tv_nsec;
}

static uint64_t start;

/* Lines leave whole: somebody may wait for each. */
void port_start(void) {
    start = now();
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    flash = open("flash.bin", O_RDWR);
}

uint32_t port_read(uint8_t *to, uint32_t count) { return (uint32_t)fread(to, 1, count, stdin); }

void port_write(const char *text, uint32_t count) { fwrite(text, 1, count, stdout); }

uint64_t port_ticks(void) { return now() - start; }

/* Where a file ends it is erased. */
void port_flash_read(uint32_t page, uint8_t *to) {
    memset(to, 0xff, BOARD_PAGE);
    if (flash >= 0 && pread(flash, to, BOARD_PAGE, (off_t)page * BOARD_PAGE) < 0) port_exit(NO_FLASH);
}

/* A slot's first page vouches for the others: they have to be there before it. */
void port_flash_write(uint32_t page, const uint8_t *from) {
    const int vouches = page % SLOT_PAGES == 0;
    if (flash < 0) flash = open("flash.bin", O_RDWR | O_CREAT, 0666);
    if (vouches) fdatasync(flash);
    if (pwrite(flash, from, BOARD_PAGE, (off_t)page * BOARD_PAGE) != BOARD_PAGE) port_exit(NO_FLASH);
    if (vouches) fdatasync(flash);
}

void port_exit(int32_t code) { exit(code); }
