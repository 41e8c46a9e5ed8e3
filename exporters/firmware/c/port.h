/* What the firmware asks of a board. port.c is the only file to replace for another one; of a Cortex-M port_ticks is in
 * startup.c already. */
#ifndef PORT_H
#define PORT_H

#include <stdint.h>

#include "board.h"

/* Once, before anything else here. */
void port_start(void);
/* Wait for `count` bytes of the stream of samples; how many there were: fewer where it has ended. */
uint32_t port_read(uint8_t *to, uint32_t count);
/* A piece of a telemetry line. */
void port_write(const char *text, uint32_t count);
/* Ticks of BOARD_TICK_HZ since the start. */
uint64_t port_ticks(void);

/* The flash region of checkpoints: pages of BOARD_PAGE bytes, from 0 on; writing one erases it first. BOARD_SLOTS slots
 * of equal size lie in it, each of whole sectors where a board cannot erase less. A slot is written from its second
 * page to its last, then its first: so a port may erase all of it when it writes the second. */
void port_flash_read(uint32_t page, uint8_t *to);
void port_flash_write(uint32_t page, const uint8_t *from);

/* The stream has ended (0), or the processor met a fault. Does not come back. */
void port_exit(int32_t code);

#endif
