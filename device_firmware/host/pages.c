/* pages.c: see pages.h. */
#include "pages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNITS (FC_SECTOR / FC_PROGRAM_UNIT)

static const struct page *blank(void) {
    static struct page page;
    if (page.bytes[0] != 0xFF)
        memset(page.bytes, 0xFF, sizeof page.bytes);
    return &page;
}

static void misuse(const char *what, uint8_t area, uint32_t off, uint32_t n) {
    fprintf(stderr, "pages: %s: area %u, offset %u, length %u\n", what, area, off, n);
    abort();
}

/* --- the pool ------------------------------------------------------------------------- */

/* Not a secret and not an attacker's to choose: equal pages are compared byte by byte anyway. */
static uint64_t mix(const void *p, size_t n) {
    const uint8_t *b = p;
    uint64_t h = 0x9E3779B97F4A7C15u ^ n, v;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        memcpy(&v, b + i, 8);
        h = (h ^ v) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    return h;
}

int pool_open(struct pool *pool, uint32_t n_buckets) {
    memset(pool, 0, sizeof *pool);
    pool->n_buckets = n_buckets;
    pool->bucket = calloc(n_buckets, sizeof(struct page *));
    return pool->bucket ? FC_OK : FC_ERR_PORT;
}

uint64_t pool_close(struct pool *pool) {
    free(pool->bucket);
    return pool->n_refs + pool->n_shared + pool->n_private + (pool->views ? 1u : 0u);
}

static struct page **bucket_of(struct pool *pool, uint64_t hash) {
    return &pool->bucket[hash & (pool->n_buckets - 1)];
}

static void let_go(struct pool *pool, struct page *page) {
    if (!page)
        return;
    pool->n_refs--;
    if (--page->refs)
        return;
    if (page->is_shared) {
        struct page **at = bucket_of(pool, page->hash);
        while (*at != page)
            at = &(*at)->next;
        *at = page->next;
        pool->n_shared--;
    } else {
        pool->n_private--;
    }
    free(page);
}

static struct page *hold(struct pool *pool, struct page *page) {
    if (page) {
        page->refs++;
        pool->n_refs++;
    }
    return page;
}

/* Puts a private page into the table, or gives the one that is there already. */
static struct page *share(struct pool *pool, struct page *page) {
    page->hash = mix(page->bytes, FC_SECTOR);
    struct page **at = bucket_of(pool, page->hash);
    for (struct page *p = *at; p; p = p->next) {
        if (p->hash == page->hash && memcmp(p->bytes, page->bytes, FC_SECTOR) == 0) {
            let_go(pool, page);
            return hold(pool, p);
        }
    }
    page->is_shared = 1;
    page->next = *at;
    *at = page;
    pool->n_shared++;
    pool->n_private--;
    return page;
}

/* The sector's page to be changed: its own, with the bytes it has now. */
static struct page *own(struct pages *f, struct sector *s) {
    struct pool *pool = f->pool;
    if (s->page && !s->page->is_shared)
        return s->page;
    struct page *page = malloc(sizeof *page);
    if (!page) {
        fprintf(stderr, "pages: no memory\n");
        abort();
    }
    memcpy(page->bytes, s->page ? s->page->bytes : blank()->bytes, FC_SECTOR);
    page->is_shared = 0;
    page->refs = 0;
    pool->n_private++;
    let_go(pool, s->page);
    s->page = hold(pool, page);
    return page;
}

/* Records change with each write: only banks are shared. */
static void settle(struct pages *f, uint8_t area, struct sector *s) {
    if (area >= FC_BANK0)
        s->page = share(f->pool, s->page);
}

/* --- flash ---------------------------------------------------------------------------- */

int pages_open(struct pages *f, struct pool *pool, const uint32_t capacity[FC_AREAS]) {
    memset(f, 0, sizeof *f);
    f->pool = pool;
    for (uint32_t a = 0; a < FC_AREAS; a++) {
        f->first[a] = f->sectors;
        f->count[a] = capacity[a] / FC_SECTOR;
        f->sectors += f->count[a];
    }
    f->sector = calloc(f->sectors, sizeof *f->sector);
    return f->sector ? FC_OK : FC_ERR_PORT;
}

static uint32_t noise(struct pages *f) { /* xorshift32 */
    uint32_t x = f->seed ? f->seed : 0x9E3779B9u;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return f->seed = x;
}

static int in_range(const struct pages *f, uint8_t area, uint32_t off, uint32_t n) {
    if (area >= FC_AREAS)
        return 0;
    uint32_t size = f->count[area] * FC_SECTOR;
    return off <= size && n <= size - off;
}

static void not_mapped(const struct pages *f, uint8_t area, uint32_t off, uint32_t at) {
    for (uint32_t i = 0; i < PAGE_VIEWS; i++)
        if (f->mapped[i].p && at >= f->mapped[i].first && at - f->mapped[i].first < f->mapped[i].n)
            misuse("changed while it is mapped", area, off, 0);
}

static void power_off(struct pages *f) {
    f->cut_at = 0;
    f->cut(f->cut_ctx);
    abort();
}

/* Counts an operation. 1 = it is the one the power fails in. */
static int is_cut(struct pages *f) {
    f->ops++;
    if (!f->cut_at || f->ops != f->cut_at)
        return 0;
    if (f->cut_mode == PAGES_NOTHING)
        power_off(f);
    return 1;
}

int pages_read(struct pages *f, uint8_t area, uint32_t off, void *dst, uint32_t n) {
    uint8_t *to = dst;
    if (!in_range(f, area, off, n))
        misuse("read out of range", area, off, n);
    while (n) {
        const struct page *page = f->sector[f->first[area] + off / FC_SECTOR].page;
        uint32_t at = off % FC_SECTOR, part = FC_SECTOR - at < n ? FC_SECTOR - at : n;
        memcpy(to, (page ? page : blank())->bytes + at, part);
        to += part;
        off += part;
        n -= part;
    }
    return FC_OK;
}

static void mark(struct sector *s, uint32_t unit) {
    s->programmed[unit / 8] |= (uint8_t)(1u << (unit % 8));
}

int pages_program(struct pages *f, uint8_t area, uint32_t off, const void *src, uint32_t n) {
    const uint8_t *from = src;
    if (!in_range(f, area, off, n) || !n)
        misuse("program out of range", area, off, n);
    if (off % FC_PROGRAM_UNIT || n % FC_PROGRAM_UNIT ||
        off / FC_SECTOR != (off + n - 1) / FC_SECTOR)
        misuse("program not aligned", area, off, n);
    uint32_t index = f->first[area] + off / FC_SECTOR, at = off % FC_SECTOR;
    struct sector *s = &f->sector[index];
    not_mapped(f, area, off, index);
    for (uint32_t u = at / FC_PROGRAM_UNIT; u < (at + n) / FC_PROGRAM_UNIT; u++)
        if (s->programmed[u / 8] >> (u % 8) & 1)
            misuse("programmed twice without an erase", area, off, n);
    int cut = is_cut(f), is_torn = cut && f->cut_mode == PAGES_TORN;
    uint32_t whole = is_torn ? noise(f) % n : n;
    uint8_t *to = own(f, s)->bytes + at;
    for (uint32_t i = 0; i < whole; i++)
        to[i] &= from[i]; /* programming only clears bits */
    uint32_t units = whole / FC_PROGRAM_UNIT;
    if (is_torn) { /* a unit that no bit of has arrived is still erased, as in nor.c */
        to[whole] &= (uint8_t)(from[whole] | noise(f));
        units += whole % FC_PROGRAM_UNIT != 0 || to[whole] != 0xFF;
    }
    for (uint32_t u = 0; u < units; u++)
        mark(s, at / FC_PROGRAM_UNIT + u);
    settle(f, area, s);
    if (cut)
        power_off(f);
    return FC_OK;
}

int pages_erase(struct pages *f, uint8_t area, uint32_t off) {
    if (!in_range(f, area, off, FC_SECTOR))
        misuse("erase out of range", area, off, FC_SECTOR);
    if (off % FC_SECTOR)
        misuse("erase not aligned", area, off, FC_SECTOR);
    uint32_t index = f->first[area] + off / FC_SECTOR;
    struct sector *s = &f->sector[index];
    not_mapped(f, area, off, index);
    int cut = is_cut(f);
    if (cut && f->cut_mode == PAGES_TORN) {
        uint8_t *p = own(f, s)->bytes;
        for (uint32_t i = 0; i < FC_SECTOR; i++) /* half-erased: bits between old and 1 */
            p[i] |= (uint8_t)noise(f);
        for (uint32_t u = 0; u < UNITS; u++)
            mark(s, u);
        settle(f, area, s);
        power_off(f);
    }
    let_go(f->pool, s->page);
    memset(s, 0, sizeof *s);
    if (cut)
        power_off(f);
    return FC_OK;
}

/* --- mapping -------------------------------------------------------------------------- */

static struct view *view_of(struct pages *f, uint32_t first, uint32_t n) {
    struct pool *pool = f->pool;
    uint64_t hash = n;
    for (uint32_t i = 0; i < n; i++) {
        const struct page *page = f->sector[first + i].page;
        hash = (hash ^ (page ? page->hash : 0)) * 0xD6E8FEB86659FD93u;
    }
    for (struct view *v = pool->views; v; v = v->next) {
        uint32_t same = 0;
        while (v->hash == hash && v->n == n && same < n &&
               v->page[same] == f->sector[first + same].page)
            same++;
        if (same == n) {
            v->refs++;
            return v;
        }
    }
    struct view *v = calloc(1, sizeof *v + n * sizeof(struct page *));
    uint8_t *bytes = v ? malloc((size_t)n * FC_SECTOR) : NULL;
    if (!bytes) {
        free(v);
        return NULL;
    }
    v->bytes = bytes;
    v->hash = hash;
    v->n = n;
    v->refs = 1;
    for (uint32_t i = 0; i < n; i++) {
        v->page[i] = hold(pool, f->sector[first + i].page);
        memcpy(bytes + (size_t)i * FC_SECTOR, (v->page[i] ? v->page[i] : blank())->bytes,
               FC_SECTOR);
    }
    v->next = pool->views;
    pool->views = v;
    pool->view_bytes += (uint64_t)n * FC_SECTOR;
    return v;
}

static void view_let_go(struct pool *pool, struct view *v) {
    if (--v->refs)
        return;
    struct view **at = &pool->views;
    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    for (uint32_t i = 0; i < v->n; i++)
        let_go(pool, v->page[i]);
    pool->view_bytes -= (uint64_t)v->n * FC_SECTOR;
    free(v->bytes);
    free(v);
}

int pages_map(struct pages *f, uint8_t area, uint32_t off, uint32_t n, const uint8_t **p) {
    if (!in_range(f, area, off, n) || !n || area < FC_BANK0)
        misuse("map out of range", area, off, n);
    struct mapped *m = f->mapped;
    while (m < f->mapped + PAGE_VIEWS && m->p)
        m++;
    if (m == f->mapped + PAGE_VIEWS)
        return FC_ERR_PORT;
    m->first = f->first[area] + off / FC_SECTOR;
    m->n = (off % FC_SECTOR + n - 1) / FC_SECTOR + 1;
    if (m->n == 1) {
        m->page = hold(f->pool, f->sector[m->first].page);
        m->p = (m->page ? m->page : blank())->bytes + off % FC_SECTOR;
    } else {
        m->view = view_of(f, m->first, m->n);
        if (!m->view)
            return FC_ERR_PORT;
        m->p = m->view->bytes + off % FC_SECTOR;
    }
    *p = m->p;
    return FC_OK;
}

static void unmap(struct pages *f, struct mapped *m) {
    let_go(f->pool, m->page);
    if (m->view)
        view_let_go(f->pool, m->view);
    memset(m, 0, sizeof *m);
}

void pages_unmap(struct pages *f, const uint8_t *p) {
    for (uint32_t i = 0; i < PAGE_VIEWS; i++) {
        if (f->mapped[i].p == p) {
            unmap(f, &f->mapped[i]);
            return;
        }
    }
    misuse("unmapped what is not mapped", 0, 0, 0);
}

void pages_forget(struct pages *f) {
    for (uint32_t i = 0; i < PAGE_VIEWS; i++)
        if (f->mapped[i].p)
            unmap(f, &f->mapped[i]);
}

void pages_close(struct pages *f) {
    pages_forget(f);
    for (uint32_t i = 0; f->sector && i < f->sectors; i++)
        let_go(f->pool, f->sector[i].page);
    free(f->sector);
    f->sector = NULL;
}
