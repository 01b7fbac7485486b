/* nor.c: see nor.h. The file is mapped shared, so what was programmed survives the death of the
 * process, as flash survives a panic; nothing is buffered that a simulated power cut could lose.
 *
 * Layout: one 4096-byte head (magic, capacities), the areas, a bit per programmed unit, an erase
 * count and a fault per sector.
 */
#define _GNU_SOURCE
#include "nor.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"

#define HEAD 4096u
#define PATH_LIMIT 4096u
#define UNITS_PER_SECTOR (FC_SECTOR / FC_PROGRAM_UNIT)

static const char MAGIC[8] = "FCNOR01";

static uint32_t noise(struct nor *n) { /* xorshift32 */
    uint32_t x = n->seed ? n->seed : 0x9E3779B9u;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return n->seed = x;
}

static void misuse(const char *what, uint8_t area, uint32_t off, uint32_t len) {
    fprintf(stderr, "nor: %s: area %u, offset %u, length %u\n", what, area, off, len);
    abort();
}

static int lay_out(struct nor *n, const uint32_t capacity[FC_AREAS]) {
    uint64_t at = HEAD, sectors = 0;
    for (uint32_t a = 0; a < FC_AREAS; a++) {
        if (capacity[a] % FC_SECTOR || capacity[a] > 1u << 28)
            return FC_ERR_FLASH_IO;
        n->capacity[a] = capacity[a];
        n->at[a] = at;
        n->first_sector[a] = sectors;
        at += capacity[a];
        sectors += capacity[a] / FC_SECTOR;
    }
    n->sectors = sectors;
    n->size = at + sectors * (UNITS_PER_SECTOR / 8 + 4 + 1);
    return FC_OK;
}

/* Writes a fresh, erased file beside `path` and renames it: a killed set-up leaves no half file. */
static int make(struct nor *n, const char *path) {
    char partial[PATH_LIMIT];
    uint8_t blank[FC_SECTOR];
    int rc = FC_ERR_FLASH_IO, len = snprintf(partial, sizeof partial, "%s.new", path);
    if (len < 0 || (size_t)len >= sizeof partial)
        return rc;
    int fd = open(partial, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return rc;
    memset(blank, 0, sizeof blank);
    memcpy(blank, MAGIC, sizeof MAGIC);
    for (uint32_t a = 0; a < FC_AREAS; a++)
        fc_put32(blank + 8 + 4 * a, n->capacity[a]);
    if (write(fd, blank, HEAD) != HEAD)
        goto out;
    memset(blank, 0xFF, sizeof blank);
    for (uint64_t s = 0; s < n->sectors; s++)
        if (write(fd, blank, FC_SECTOR) != FC_SECTOR)
            goto out;
    if (ftruncate(fd, (off_t)n->size) || rename(partial, path))
        goto out;
    rc = FC_OK;
out:
    close(fd);
    if (rc)
        unlink(partial);
    return rc;
}

static int head_fits(const struct nor *n) {
    if (memcmp(n->base, MAGIC, sizeof MAGIC) != 0)
        return 0;
    for (uint32_t a = 0; a < FC_AREAS; a++)
        if (fc_get32(n->base + 8 + 4 * a) != n->capacity[a])
            return 0;
    return 1;
}

int nor_open(struct nor *n, const char *path, const uint32_t capacity[FC_AREAS]) {
    struct stat st;
    memset(n, 0, sizeof *n);
    n->fd = -1;
    if (lay_out(n, capacity))
        return FC_ERR_FLASH_IO;
    if (access(path, F_OK) != 0 && make(n, path))
        return FC_ERR_FLASH_IO;
    n->fd = open(path, O_RDWR | O_CLOEXEC);
    if (n->fd < 0 || fstat(n->fd, &st) || (uint64_t)st.st_size != n->size)
        goto fail;
    n->base = mmap(NULL, n->size, PROT_READ | PROT_WRITE, MAP_SHARED, n->fd, 0);
    if (n->base == MAP_FAILED) {
        n->base = NULL;
        goto fail;
    }
    if (!head_fits(n))
        goto fail;
    n->programmed = n->base + HEAD + n->sectors * FC_SECTOR;
    n->erases = n->programmed + n->sectors * (UNITS_PER_SECTOR / 8);
    n->bad = n->erases + n->sectors * 4;
    return FC_OK;
fail:
    nor_close(n);
    return FC_ERR_FLASH_IO;
}

void nor_close(struct nor *n) {
    if (n->base)
        munmap(n->base, n->size);
    if (n->fd >= 0)
        close(n->fd);
    n->base = NULL;
    n->fd = -1;
}

static int in_range(const struct nor *n, uint8_t area, uint32_t off, uint32_t len) {
    return area < FC_AREAS && off <= n->capacity[area] && len <= n->capacity[area] - off;
}

static uint64_t sector_of(const struct nor *n, uint8_t area, uint32_t off) {
    return n->first_sector[area] + off / FC_SECTOR;
}

static void mark(struct nor *n, uint64_t unit, int programmed) {
    uint8_t bit = (uint8_t)(1u << (unit % 8));
    if (programmed)
        n->programmed[unit / 8] |= bit;
    else
        n->programmed[unit / 8] &= (uint8_t)~bit;
}

static int is_marked(const struct nor *n, uint64_t unit) {
    return n->programmed[unit / 8] >> (unit % 8) & 1;
}

static void power_off(struct nor *n) {
    n->cut_at = 0;
    n->cut(n->cut_ctx);
    abort(); /* a cut does not return */
}

/* Counts an operation. 0 = go on, 1 = tear it and die. Dies at once for "nothing done". */
static int is_cut(struct nor *n) {
    n->ops++;
    if (!n->cut_at || n->ops != n->cut_at)
        return 0;
    if (n->cut_mode == NOR_NOTHING)
        power_off(n);
    return 1;
}

int nor_read(struct nor *n, uint8_t area, uint32_t off, void *dst, uint32_t len) {
    if (!in_range(n, area, off, len))
        misuse("read out of range", area, off, len);
    memcpy(dst, n->base + n->at[area] + off, len);
    return FC_OK;
}

const uint8_t *nor_map(struct nor *n, uint8_t area, uint32_t off, uint32_t len) {
    if (!in_range(n, area, off, len))
        misuse("map out of range", area, off, len);
    return n->base + n->at[area] + off;
}

/* A random prefix arrives, and of the byte after it some of the bits. None may have, when the cut
 * came with the first byte: then the unit is as erased as it reads, and may be programmed.
 */
static void tear_program(struct nor *n, uint8_t *to, const uint8_t *from, uint64_t unit,
                         uint32_t len) {
    uint32_t whole = noise(n) % len;
    for (uint32_t i = 0; i < whole; i++)
        to[i] &= from[i];
    to[whole] &= (uint8_t)(from[whole] | noise(n));
    uint32_t last = whole / FC_PROGRAM_UNIT, begun = whole % FC_PROGRAM_UNIT != 0;
    for (uint32_t u = 0; u < last + (begun || to[whole] != 0xFF); u++)
        mark(n, unit + u, 1);
    power_off(n);
}

int nor_program(struct nor *n, uint8_t area, uint32_t off, const void *src, uint32_t len) {
    const uint8_t *from = src;
    if (!in_range(n, area, off, len) || !len)
        misuse("program out of range", area, off, len);
    if (off % FC_PROGRAM_UNIT || len % FC_PROGRAM_UNIT ||
        off / FC_SECTOR != (off + len - 1) / FC_SECTOR)
        misuse("program not aligned", area, off, len);
    uint8_t *to = n->base + n->at[area] + off;
    uint64_t sector = sector_of(n, area, off);
    uint64_t unit = sector * UNITS_PER_SECTOR + off % FC_SECTOR / FC_PROGRAM_UNIT;
    for (uint32_t u = 0; u < len / FC_PROGRAM_UNIT; u++)
        if (is_marked(n, unit + u))
            misuse("programmed twice without an erase", area, off, len);
    int cut = is_cut(n);
    if (n->bad[sector] == NOR_PROGRAM_FAILS)
        return FC_ERR_FLASH_IO;
    if (cut && n->cut_mode == NOR_TORN)
        tear_program(n, to, from, unit, len);
    for (uint32_t i = 0; i < len; i++)
        to[i] &= from[i]; /* programming only clears bits */
    for (uint32_t u = 0; u < len / FC_PROGRAM_UNIT; u++)
        mark(n, unit + u, 1);
    for (uint32_t i = 0; i < len && n->bad[sector] == NOR_BITS_STICK; i++) {
        if (to[i]) {
            to[i] &= (uint8_t)(to[i] - 1); /* one bit too many */
            break;
        }
    }
    if (cut)
        power_off(n);
    return FC_OK;
}

int nor_erase(struct nor *n, uint8_t area, uint32_t off) {
    if (!in_range(n, area, off, FC_SECTOR))
        misuse("erase out of range", area, off, FC_SECTOR);
    if (off % FC_SECTOR)
        misuse("erase not aligned", area, off, FC_SECTOR);
    uint8_t *p = n->base + n->at[area] + off;
    uint64_t sector = sector_of(n, area, off);
    int cut = is_cut(n);
    if (n->bad[sector] == NOR_ERASE_FAILS)
        return FC_ERR_FLASH_IO;
    if (cut && n->cut_mode == NOR_TORN) {
        for (uint32_t i = 0; i < FC_SECTOR; i++) /* half-erased: bits between old and 1 */
            p[i] |= (uint8_t)noise(n);
        for (uint32_t u = 0; u < UNITS_PER_SECTOR; u++)
            mark(n, sector * UNITS_PER_SECTOR + u, 1);
        power_off(n);
    }
    memset(p, 0xFF, FC_SECTOR);
    for (uint32_t u = 0; u < UNITS_PER_SECTOR; u++)
        mark(n, sector * UNITS_PER_SECTOR + u, 0);
    fc_put32(n->erases + 4 * sector, fc_get32(n->erases + 4 * sector) + 1);
    if (cut)
        power_off(n);
    return FC_OK;
}

int nor_flip(struct nor *n, uint8_t area, uint32_t off, int bit) {
    if (!in_range(n, area, off, 1) || bit < 0 || bit > 7)
        return FC_ERR_FLASH_IO;
    n->base[n->at[area] + off] ^= (uint8_t)(1u << bit);
    return FC_OK;
}

int nor_bad(struct nor *n, uint8_t area, uint32_t sector, int kind) {
    if (area >= FC_AREAS || sector >= n->capacity[area] / FC_SECTOR || kind < NOR_GOOD ||
        kind > NOR_PROGRAM_FAILS)
        return FC_ERR_FLASH_IO;
    n->bad[n->first_sector[area] + sector] = (uint8_t)kind;
    return FC_OK;
}

uint32_t nor_erase_count(const struct nor *n, uint8_t area, uint32_t sector) {
    if (area >= FC_AREAS || sector >= n->capacity[area] / FC_SECTOR)
        return 0;
    return fc_get32(n->erases + 4 * (n->first_sector[area] + sector));
}
