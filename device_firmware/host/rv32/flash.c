/* flash.c: see flash.h. */
#include "flash.h"

#include <stdlib.h>
#include <string.h>

#include "board.h"

#define PAGE 256u /* what a flash chip programs at once: a cut tears between pages */

uint32_t flash_bank_bytes(uint32_t capacity) {
    uint32_t chunks = capacity / FC_SECTOR;
    if (capacity % FC_SECTOR || chunks > FC_CHUNKS_MAX)
        board_fail("a slot's capacity is no whole number of chunks", (long)capacity, 0);
    return chunks ? (chunks + 1 + (chunks > FC_SECTOR / 8 ? 2u : 1u)) * FC_SECTOR : 0;
}

uint32_t flash_bytes(const uint32_t capacity[FC_AREAS]) {
    uint32_t sum = 0;
    for (uint32_t a = 0; a < FC_AREAS; a++)
        sum += capacity[a]; /* 11 areas of at most 4 MiB */
    return sum;
}

void flash_open(struct flash *f, const uint32_t capacity[FC_AREAS], const char *name) {
    memset(f, 0, sizeof *f);
    f->size = flash_bytes(capacity);
    f->fd = -1;
    for (uint32_t a = 0, at = 0; a < FC_AREAS; at += capacity[a++]) {
        f->capacity[a] = capacity[a];
        f->at[a] = at;
    }
    f->data = malloc(f->size);
    if (!f->data)
        board_fail("no memory for the flash", (long)f->size, 0);
    memset(f->data, 0xFF, f->size);
    if (!name)
        return;
    f->fd = board_open(name);
    if (f->fd < 0)
        board_fail("the flash file is missing", 0, 0);
    board_read_at(f->fd, 0, f->data, f->size);
}

static uint8_t *place(struct flash *f, uint8_t area, uint32_t off, uint32_t n, const char *what) {
    if (area >= FC_AREAS || off > f->capacity[area] || n > f->capacity[area] - off)
        board_fail(what, (long)area, (long)off);
    return f->data + f->at[area] + off;
}

static void keep(const struct flash *f, const uint8_t *from, uint32_t n) {
    for (uint32_t done = 0; f->fd >= 0 && done < n; done += PAGE)
        board_write_at(f->fd, (uint32_t)(from - f->data) + done, from + done,
                       n - done < PAGE ? n - done : PAGE);
}

int flash_read(struct flash *f, uint8_t area, uint32_t off, void *dst, uint32_t n) {
    memcpy(dst, place(f, area, off, n, "read out of range"), n);
    return FC_OK;
}

const uint8_t *flash_map(struct flash *f, uint8_t area, uint32_t off, uint32_t n) {
    return place(f, area, off, n, "map out of range");
}

int flash_program(struct flash *f, uint8_t area, uint32_t off, const void *src, uint32_t n) {
    uint8_t *to = place(f, area, off, n, "program out of range");
    const uint8_t *from = src;
    if (!n || off % FC_PROGRAM_UNIT || n % FC_PROGRAM_UNIT ||
        off / FC_SECTOR != (off + n - 1) / FC_SECTOR)
        board_fail("program not aligned", (long)off, (long)n);
    for (uint32_t i = 0; i < n; i++)
        if (to[i] != 0xFF)
            board_fail("programmed twice without an erase", (long)area, (long)(off + i));
    memcpy(to, from, n); /* all bits were set, so this clears bits only */
    keep(f, to, n);
    f->programs++;
    return FC_OK;
}

int flash_erase(struct flash *f, uint8_t area, uint32_t off) {
    uint8_t *to = place(f, area, off, FC_SECTOR, "erase out of range");
    if (off % FC_SECTOR)
        board_fail("erase not aligned", (long)area, (long)off);
    memset(to, 0xFF, FC_SECTOR);
    keep(f, to, FC_SECTOR);
    f->erases++;
    return FC_OK;
}
