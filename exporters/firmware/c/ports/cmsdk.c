/* Arm's MPS2 and MPS3 boards: frames and lines over the CMSDK UART, 115,200 baud, 8 bits, no parity.
 *
 * These boards have no flash: code lies in memory that the board fills from its card. The region of checkpoints lies
 * behind the code, so it is there after a reset and gone when the power was.
 */
#include <string.h>

#include "port.h"

enum { BAUD = 115200 };
enum { FULL_OUT = 1, FULL_IN = 2, SEND = 1, RECEIVE = 2 };

static struct {
    volatile uint32_t data, state, control, interrupts, divider;
} *const uart = (void *)BOARD_UART;

static void send(char byte) {
    while (uart->state & FULL_OUT) {}
    uart->data = (uint8_t)byte;
}

static uint8_t receive(void) {
    while (!(uart->state & FULL_IN)) {}
    return (uint8_t)uart->data;
}

void port_start(void) {
    uart->divider = BOARD_TICK_HZ / BAUD;
    uart->control = SEND | RECEIVE;
}

uint32_t port_read(uint8_t *to, uint32_t count) {
    for (uint32_t k = 0; k < count; k++) to[k] = receive();
    return count;
}

void port_write(const char *text, uint32_t count) {
    for (uint32_t k = 0; k < count; k++) send(text[k]);
}

extern uint8_t _checkpoints[]; /* of board.ld */

void port_flash_read(uint32_t page, uint8_t *to) { memcpy(to, _checkpoints + page * BOARD_PAGE, BOARD_PAGE); }
void port_flash_write(uint32_t page, const uint8_t *from) { memcpy(_checkpoints + page * BOARD_PAGE, from, BOARD_PAGE); }

/* fault: the processor met one; nobody is there to go back to. */
void port_exit(int32_t code) {
    if (code) port_write("fault\n", 6);
    for (;;) __asm__ volatile("wfi");
}
