/* tears.c: see tears.h. */
#include "tears.h"

#include <stdlib.h>
#include <string.h>

static struct {
    struct bench *b;
    struct tear_log *log;
    int (*program)(void *, uint8_t, uint32_t, const void *, uint32_t);
    int (*erase)(void *, uint8_t, uint32_t);
} watched;

static struct tear_op *note(uint8_t area, uint32_t off, uint32_t n) {
    struct tear_log *log = watched.log;
    struct bench *b = watched.b;
    if (log->n == TEAR_OPS || n > FC_SECTOR)
        fail("a story of too many flash operations", log->n, n);
    struct tear_op *op = &log->op[log->n++];
    if (!op->flash)
        op->flash = malloc(b->h->nor.size);
    if (!op->flash)
        fail("no memory for a copy of flash", (long)b->h->nor.size, 0);
    memcpy(op->flash, b->h->nor.base, b->h->nor.size);
    op->committed = b->h->core.rec;
    op->area = area;
    op->off = off;
    op->n = n;
    return op;
}

static int noting_program(void *ctx, uint8_t area, uint32_t off, const void *src, uint32_t n) {
    struct tear_op *op = note(area, off, n);
    op->is_erase = 0;
    memcpy(op->data, src, n);
    return watched.program(ctx, area, off, src, n);
}

static int noting_erase(void *ctx, uint8_t area, uint32_t off) {
    note(area, off, 0)->is_erase = 1;
    return watched.erase(ctx, area, off);
}

void tear_watch(struct bench *b, struct tear_log *log) {
    tear_unwatch(b);
    watched.b = b;
    watched.log = log;
    watched.program = b->h->hal.program;
    watched.erase = b->h->hal.erase;
    log->n = 0;
    b->h->hal.program = noting_program;
    b->h->hal.erase = noting_erase;
}

void tear_unwatch(struct bench *b) {
    if (!watched.log)
        return;
    b->h->hal.program = watched.program;
    b->h->hal.erase = watched.erase;
    watched.log = NULL;
}

void tear_apply(struct bench *b, const struct tear_op *op, int how, uint32_t seed) {
    struct nor *nor = &b->h->nor;
    memcpy(nor->base, op->flash, nor->size);
    fh_random_seed(b->h, seed);
    fh_cut_after(b->h, 1, how);
    if (setjmp(b->cut) == 0) {
        if (op->is_erase)
            nor_erase(nor, op->area, op->off);
        else
            nor_program(nor, op->area, op->off, op->data, op->n);
        fail("the power was not cut", op->area, (long)op->off);
    }
}

void tear_free(struct tear_log *log) {
    for (uint32_t i = 0; i < TEAR_OPS; i++)
        free(log->op[i].flash);
}
