/* uart.c: see uart.h. */
#include "uart.h"

#include "board.h"

#define ONBOARD ((volatile uint8_t *)0x10000000u)
#define PCI_CONFIG ((volatile uint32_t *)0x30000000u) /* 32 KiB a device on bus 0 */
#define PCI_PORTS 0x03000000u                         /* I/O ports, mapped into memory */
#define PCI_DEVICES 32u
#define PCI_SERIAL 0x00021B36u /* device and vendor of QEMU's card */
#define CARD_PORT 0x1000u

enum { DATA = 0, INTERRUPTS = 1, FIFO = 2, LINE = 3, MODEM = 4, STATUS = 5 };
#define STATUS_READY 0x01u
#define STATUS_EMPTY 0x20u /* the next byte may be written */

static struct uart start(volatile uint8_t *base) {
    struct uart u = {base};
    u.base[INTERRUPTS] = 0;
    /* On, both emptied, so a byte of an earlier life is gone. QEMU hands over as many bytes at once
     * as the interrupt level says, 14 here: with level 1 a byte took a millisecond. */
    u.base[FIFO] = 0xC7;
    u.base[LINE] = 0x03; /* 8 bits, no parity */
    u.base[MODEM] = 0x03;
    return u;
}

struct uart uart_onboard(void) {
    return start(ONBOARD);
}

struct uart uart_on_pci(void) {
    for (uint32_t device = 0; device < PCI_DEVICES; device++) {
        volatile uint32_t *config = PCI_CONFIG + device * 8192u;
        if (config[0] != PCI_SERIAL)
            continue;
        config[4] = CARD_PORT; /* base address 0 */
        config[1] |= 1u;       /* answer on I/O ports */
        return start((volatile uint8_t *)(uintptr_t)(PCI_PORTS + CARD_PORT));
    }
    board_fail("no serial card on the PCI bus", 0, 0);
}

size_t uart_read(struct uart u, uint8_t *p, size_t n) {
    size_t got = 0;
    while (got < n && (u.base[STATUS] & STATUS_READY))
        p[got++] = u.base[DATA];
    return got;
}

void uart_write(struct uart u, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        while (!(u.base[STATUS] & STATUS_EMPTY)) {
        }
        u.base[DATA] = p[i];
    }
}
