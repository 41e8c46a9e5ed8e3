/* STM32F405, F407 and their like, by reference manual RM0090: frames and lines over USART1 (PA9 sends, PA10 receives),
 * 115,200 baud, checkpoints in the last sectors of flash. The processor runs on its internal oscillator of 16 MHz, as
 * after a reset. Run under QEMU, which has the USART and neither clocks, pins nor a flash that can be written: those
 * lines have never met a processor.
 */
#include <string.h>

#include "port.h"

enum { CLOCK_HZ = 16000000, BAUD = 115200 };

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define CLOCKS_AHB1 REGISTER(0x40023830u)
#define CLOCKS_APB2 REGISTER(0x40023844u)
#define PINS_MODE REGISTER(0x40020000u)
#define PINS_FUNCTION REGISTER(0x40020024u) /* of PA8 to PA15 */
enum { GPIOA_ON = 1, USART1_ON = 1 << 4 };

static struct {
    volatile uint32_t status, data, baud, control;
} *const usart = (void *)BOARD_UART;
enum { CAN_SEND = 1 << 7, RECEIVED = 1 << 5, ON = 1 << 13, SEND = 1 << 3, RECEIVE = 1 << 2 };

void port_start(void) {
    CLOCKS_AHB1 |= GPIOA_ON;
    CLOCKS_APB2 |= USART1_ON;
    PINS_MODE = (PINS_MODE & ~(15u << 18)) | 10u << 18;        /* PA9 and PA10: alternate function */
    PINS_FUNCTION = (PINS_FUNCTION & ~(255u << 4)) | 0x77u << 4; /* number 7, USART1 */
    usart->baud = CLOCK_HZ / BAUD;
    usart->control = ON | SEND | RECEIVE;
}

uint32_t port_read(uint8_t *to, uint32_t count) {
    for (uint32_t k = 0; k < count; k++) {
        while (!(usart->status & RECEIVED)) {}
        to[k] = (uint8_t)usart->data;
    }
    return count;
}

void port_write(const char *text, uint32_t count) {
    for (uint32_t k = 0; k < count; k++) {
        while (!(usart->status & CAN_SEND)) {}
        usart->data = (uint8_t)text[k];
    }
}

#if BOARD_PAGES
static struct {
    volatile uint32_t access, key, option_key, status, control;
} *const flash = (void *)0x40023c00u;
enum { PROGRAM = 1, ERASE = 2, WORDS = 2 << 8, START = 1 << 16, BUSY = 1 << 16 };
#define LOCK (1u << 31)
#define SECTOR 0x20000u /* bytes of each from the fifth on: BOARD_PAGES makes a slot whole sectors */
#define SLOT_PAGES (BOARD_PAGES / BOARD_SLOTS)

extern uint8_t _checkpoints[]; /* of board.ld */

static void idle(void) {
    while (flash->status & BUSY) {}
}

static void erase(const uint8_t *first) {
    const uint32_t sector = 4 + ((uint32_t)first - 0x08000000u) / SECTOR;
    flash->control = ERASE | WORDS | sector << 3;
    flash->control |= START;
    idle();
}

void port_flash_read(uint32_t page, uint8_t *to) { memcpy(to, _checkpoints + page * BOARD_PAGE, BOARD_PAGE); }

void port_flash_write(uint32_t page, const uint8_t *from) {
    const uint32_t slot = page / SLOT_PAGES;
    flash->key = 0x45670123u;
    flash->key = 0xcdef89abu;
    for (uint32_t at = 0; page % SLOT_PAGES == 1 && at < SLOT_PAGES * BOARD_PAGE; at += SECTOR)
        erase(_checkpoints + slot * SLOT_PAGES * BOARD_PAGE + at);
    flash->control = PROGRAM | WORDS;
    for (uint32_t k = 0; k < BOARD_PAGE; k += 4) {
        uint32_t word;
        memcpy(&word, from + k, sizeof word);
        REGISTER(_checkpoints + page * BOARD_PAGE + k) = word;
        idle();
    }
    flash->control = LOCK;
}
#endif

/* fault: the processor met one; nobody is there to go back to. */
void port_exit(int32_t code) {
    if (code) port_write("fault\n", 6);
    for (;;) __asm__ volatile("wfi");
}
