/* What is the same on every Cortex-M: reset, vectors, faults, ticks. */
#include <stdint.h>
#include <string.h>

#include "port.h"

extern uint32_t _stack_top[], _data_flash[], _data[], _data_end[], _bss[], _bss_end[];
int main(void);

static struct {
    volatile uint32_t control, load, value;
} *const systick = (void *)0xe000e010u;

#define PERIOD 0x1000000u
static volatile uint32_t periods;
void SysTick_Handler(void);
void SysTick_Handler(void) { periods++; }

uint64_t port_ticks(void) {
    uint32_t before, value;
    do {
        before = periods;
        value = systick->value;
    } while (before != periods);
    return (uint64_t)before * PERIOD + (PERIOD - 1 - value);
}

static void start_ticks(void) {
    systick->load = PERIOD - 1;
    systick->value = 0;
    systick->control = 7;
}

void Start(void);
void Start(void) {
    memcpy(_data, _data_flash, (size_t)((char *)_data_end - (char *)_data));
    memset(_bss, 0, (size_t)((char *)_bss_end - (char *)_bss));
    start_ticks();
    main();
    port_exit(0);
}

/* The coprocessors come first: a compiler for a Cortex-M55 may use its vectors in any loop. */
__attribute__((naked)) void Reset_Handler(void);
void Reset_Handler(void) {
    __asm__ volatile("ldr r0, =0xe000ed88\n"
                     "ldr r1, [r0]\n"
                     "orr r1, r1, #0xf00000\n"
                     "str r1, [r0]\n"
                     "dsb\n"
                     "isb\n"
                     "b Start");
}

static void Fault(void) { port_exit(99); }

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))_stack_top, Reset_Handler, Fault, Fault, Fault, Fault, Fault, 0, 0, 0, 0, Fault, Fault, 0, Fault,
    SysTick_Handler,
};
