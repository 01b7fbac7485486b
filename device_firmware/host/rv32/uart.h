/* uart.h: NS16550 serial ports of QEMU's machine `virt`, polled, receive FIFO on. QEMU takes the
 * next byte from its socket only when the FIFO has room, so nothing is lost while we are busy.
 */
#ifndef FLEET_RV32_UART_H
#define FLEET_RV32_UART_H

#include <stddef.h>
#include <stdint.h>

struct uart {
    volatile uint8_t *base;
};

struct uart uart_onboard(void);
/* The card `-device pci-serial`; the board fails without one. */
struct uart uart_on_pci(void);

/* Takes what has arrived, at most n bytes; how many. */
size_t uart_read(struct uart u, uint8_t *p, size_t n);
void uart_write(struct uart u, const uint8_t *p, size_t n);

#endif
