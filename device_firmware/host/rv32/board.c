/* board.c: see board.h. */
#include "board.h"

#include <semihost.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMER_LOW ((volatile uint32_t *)0x0200BFF8u)
#define TIMER_HIGH ((volatile uint32_t *)0x0200BFFCu)
#define TIMER_PER_MS 10000u
#define ALARM_LOW ((volatile uint32_t *)0x02004000u)
#define ALARM_HIGH ((volatile uint32_t *)0x02004004u)
#define ALARM_ENABLED 0x80u                          /* of the register mie */
#define CLOCK_LOW ((volatile uint32_t *)0x00101000u) /* reading it latches the high half */
#define CLOCK_HIGH ((volatile uint32_t *)0x00101004u)

void board_stop(int status) {
    fflush(stdout);
    sys_semihost_exit_extended((uintptr_t)status);
}

void board_fail(const char *what, long a, long b) {
    printf("FAILED: %s (%ld, %ld)\n", what, a, b);
    board_stop(1);
}

int board_open(const char *name) {
    return sys_semihost_open(name, SH_OPEN_R_PLUS_B);
}

/* Both calls answer the bytes that were not moved. */
void board_write_at(int fd, uint32_t off, const void *p, uint32_t n) {
    if (sys_semihost_seek(fd, off) || sys_semihost_write(fd, p, n))
        board_fail("a host file cannot be written", (long)off, (long)n);
}

void board_read_at(int fd, uint32_t off, void *p, uint32_t n) {
    if (sys_semihost_seek(fd, off) || sys_semihost_read(fd, p, n))
        board_fail("a host file cannot be read", (long)off, (long)n);
}

uint8_t *board_read_file(const char *name, uint32_t *n) {
    int fd = sys_semihost_open(name, SH_OPEN_R_B);
    if (fd < 0)
        board_fail("a host file is missing", 0, 0);
    *n = (uint32_t)sys_semihost_flen(fd);
    uint8_t *p = malloc(*n ? *n : 1);
    if (!p)
        board_fail("no memory for a host file", (long)*n, 0);
    board_read_at(fd, 0, p, *n);
    sys_semihost_close(fd);
    return p;
}

uint64_t board_instructions(void) {
    uint32_t high, low, again;
    do {
        __asm__ volatile("csrr %0, minstreth" : "=r"(high));
        __asm__ volatile("csrr %0, minstret" : "=r"(low));
        __asm__ volatile("csrr %0, minstreth" : "=r"(again));
    } while (high != again);
    return (uint64_t)high << 32 | low;
}

static uint64_t ticks(void) {
    uint32_t high, low;
    do {
        high = *TIMER_HIGH;
        low = *TIMER_LOW;
    } while (high != *TIMER_HIGH);
    return (uint64_t)high << 32 | low;
}

uint64_t board_uptime_ms(void) {
    return ticks() / TIMER_PER_MS;
}

/* Interrupts stay off as a whole, so the alarm only ends the wait. */
void board_sleep_ms(uint32_t ms) {
    uint64_t until = ticks() + (uint64_t)ms * TIMER_PER_MS;
    *ALARM_HIGH = UINT32_MAX;
    *ALARM_LOW = (uint32_t)until;
    *ALARM_HIGH = (uint32_t)(until >> 32);
    __asm__ volatile("csrs mie, %0" : : "r"(ALARM_ENABLED));
    __asm__ volatile("wfi");
}

uint64_t board_unix_s(void) {
    uint64_t low = *CLOCK_LOW, high = *CLOCK_HIGH;
    return (high << 32 | low) / 1000000000u;
}
