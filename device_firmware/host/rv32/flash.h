/* flash.h: NOR flash in RAM with the rules of a real one; breaking a rule ends the emulator. With a
 * file behind it every page is written there as it is programmed, so what was programmed survives
 * the death of the emulator, which is a power cut.
 */
#ifndef FLEET_RV32_FLASH_H
#define FLEET_RV32_FLASH_H

#include "fleet_core/hal.h"

struct flash {
    uint8_t *data;
    uint32_t size;
    uint32_t capacity[FC_AREAS], at[FC_AREAS];
    int fd; /* -1 = RAM only */
    uint64_t programs, erases;
};

/* Lays the areas out and fills them from the file, or with 0xFF. name NULL = RAM only; a file must
 * exist and have flash_bytes() bytes, or the board fails. capacity: whole sectors. */
void flash_open(struct flash *f, const uint32_t capacity[FC_AREAS], const char *name);
uint32_t flash_bytes(const uint32_t capacity[FC_AREAS]);

int flash_read(struct flash *f, uint8_t area, uint32_t off, void *dst, uint32_t n);
int flash_program(struct flash *f, uint8_t area, uint32_t off, const void *src, uint32_t n);
int flash_erase(struct flash *f, uint8_t area, uint32_t off);
const uint8_t *flash_map(struct flash *f, uint8_t area, uint32_t off, uint32_t n);

/* Bytes of a bank for a slot of `capacity` bytes: manifest sector, leaf sectors, chunks. */
uint32_t flash_bank_bytes(uint32_t capacity);

#endif
