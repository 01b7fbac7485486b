/* pages.h: NOR flash of thousands of devices in one process. Sectors with the same bytes are one
 * page in memory, so 5,000 devices that hold one model hold it once. The rules are those of nor.c:
 * programming clears bits, a unit is programmed once per erase, misuse aborts; a power cut leaves
 * nothing, a torn operation, or all of it.
 */
#ifndef FLEET_HOST_PAGES_H
#define FLEET_HOST_PAGES_H

#include <stddef.h>
#include <stdint.h>

#include "fleet_core/hal.h"

#define PAGE_VIEWS 4u /* stretches that a device may have mapped at once */

struct page {
    struct page *next; /* in its bucket */
    uint64_t hash;
    uint32_t refs;
    uint8_t is_shared; /* in the table: its bytes never change again */
    uint8_t bytes[FC_SECTOR];
};

/* Several neighbouring sectors as one stretch of memory. Pages in a view are shared ones, so two
 * devices with the same pages have the same bytes and share the view. */
struct view {
    struct view *next;
    uint64_t hash;
    uint32_t refs, n;
    uint8_t *bytes;
    struct page *page[];
};

struct pool {
    struct page **bucket;
    struct view *views;
    uint32_t n_buckets; /* a power of two */
    uint64_t n_shared, n_private, n_refs, view_bytes;
};

struct sector {
    struct page *page; /* NULL = erased */
    uint8_t programmed[FC_SECTOR / FC_PROGRAM_UNIT / 8];
};

struct mapped {
    const uint8_t *p;  /* NULL = free */
    uint32_t first, n; /* sectors of the device */
    struct page *page; /* one sector, */
    struct view *view; /* or several */
};

enum pages_tear { PAGES_NOTHING, PAGES_TORN, PAGES_DONE };

struct pages {
    struct pool *pool;
    struct sector *sector;
    uint32_t first[FC_AREAS], count[FC_AREAS], sectors;
    struct mapped mapped[PAGE_VIEWS];
    uint64_t ops;    /* erase and program calls so far */
    uint64_t cut_at; /* the power fails at this one, 0 = never */
    int cut_mode;
    uint32_t seed;          /* of tears */
    void (*cut)(void *ctx); /* does not return */
    void *cut_ctx;
};

/* FC_OK, FC_ERR_PORT when there is no memory. */
int pool_open(struct pool *pool, uint32_t n_buckets);
int pages_open(struct pages *f, struct pool *pool, const uint32_t capacity[FC_AREAS]);
/* Gives everything back. 0, or how many pages somebody still holds: a fault of the counting. */
uint64_t pool_close(struct pool *pool);
void pages_close(struct pages *f);
/* The device lost its memory: nothing is mapped any more. */
void pages_forget(struct pages *f);

int pages_read(struct pages *f, uint8_t area, uint32_t off, void *dst, uint32_t n);
int pages_program(struct pages *f, uint8_t area, uint32_t off, const void *src, uint32_t n);
int pages_erase(struct pages *f, uint8_t area, uint32_t off);
/* FC_ERR_PORT when there is no memory or PAGE_VIEWS are mapped. */
int pages_map(struct pages *f, uint8_t area, uint32_t off, uint32_t n, const uint8_t **p);
void pages_unmap(struct pages *f, const uint8_t *p);

#endif
