/* nor.h: NOR flash in a file, with the rules of the real thing and faults on demand. */
#ifndef FLEET_HOST_NOR_H
#define FLEET_HOST_NOR_H

#include <stdint.h>

#include "fleet_core/hal.h"

enum nor_tear { NOR_NOTHING, NOR_TORN, NOR_DONE };
enum nor_bad { NOR_GOOD, NOR_ERASE_FAILS, NOR_BITS_STICK, NOR_PROGRAM_FAILS };

struct nor {
    int fd;
    uint8_t *base; /* the mapped file */
    uint64_t size;
    uint32_t capacity[FC_AREAS];
    uint64_t at[FC_AREAS];           /* of an area's data in the file */
    uint64_t first_sector[FC_AREAS]; /* of an area, counted over all */
    uint64_t sectors;
    uint8_t *programmed; /* a bit per 32-byte unit */
    uint8_t *erases;     /* u32le per sector */
    uint8_t *bad;        /* enum nor_bad per sector */
    uint64_t ops;        /* erase and program calls so far */
    uint64_t cut_at;     /* the power fails at this one, 0 = never */
    int cut_mode;
    uint32_t seed; /* of tears */
    void (*cut)(void *ctx);
    void *cut_ctx;
};

/* Opens or makes the file. FC_OK, FC_ERR_FLASH_IO (also when its areas are other ones). */
int nor_open(struct nor *n, const char *path, const uint32_t capacity[FC_AREAS]);
void nor_close(struct nor *n);

/* Misuse (range, alignment, a unit programmed twice) aborts: it is a fault of the core. */
int nor_read(struct nor *n, uint8_t area, uint32_t off, void *dst, uint32_t len);
int nor_program(struct nor *n, uint8_t area, uint32_t off, const void *src, uint32_t len);
int nor_erase(struct nor *n, uint8_t area, uint32_t off);
const uint8_t *nor_map(struct nor *n, uint8_t area, uint32_t off, uint32_t len);

/* Flips a bit behind the core's back. */
int nor_flip(struct nor *n, uint8_t area, uint32_t off, int bit);
int nor_bad(struct nor *n, uint8_t area, uint32_t sector, int kind);
uint32_t nor_erase_count(const struct nor *n, uint8_t area, uint32_t sector);

#endif
