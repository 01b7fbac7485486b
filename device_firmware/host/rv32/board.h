/* board.h: what the emulated board offers besides flash and UARTs: files on the host through
 * semihosting, an instruction counter, clocks. QEMU's machine `virt`.
 */
#ifndef FLEET_RV32_BOARD_H
#define FLEET_RV32_BOARD_H

#include <stddef.h>
#include <stdint.h>

/* Says why and ends the emulator with status 1. Never returns. */
_Noreturn void board_fail(const char *what, long a, long b);
_Noreturn void board_stop(int status);

/* A whole file of the folder that QEMU runs in, in memory that is never given back; *n = its bytes.
 * Fails the board when it cannot be read. */
uint8_t *board_read_file(const char *name, uint32_t *n);

/* A file that is written in place. A result below 0 of open = it does not exist. */
int board_open(const char *name);
void board_write_at(int fd, uint32_t off, const void *p, uint32_t n);
void board_read_at(int fd, uint32_t off, void *p, uint32_t n);

/* Instructions retired since start; exact only under -icount. */
uint64_t board_instructions(void);

uint64_t board_uptime_ms(void);   /* the machine's timer, 10 MHz */
uint64_t board_unix_s(void);      /* the machine's clock chip, which shows the host's time */
void board_sleep_ms(uint32_t ms); /* until then the host's processor is free */

#endif
