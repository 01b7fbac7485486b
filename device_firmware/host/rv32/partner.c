/* partner.c: see partner.h. A partner that does not answer is a hang, which a board's watchdog
 * would end: the emulator stops with a status of its own.
 */
#include "partner.h"

#include <string.h>

#include "board.h"
#include "bytes.h"
#include "device.h"

enum { CHECK = 1, LOAD, INVOKE, RESET, UNLOAD, SENSE };
#define ANSWER_MS 20000u

static void put8(const struct partner *p, uint32_t v) {
    uint8_t b = (uint8_t)v;
    uart_write(p->uart, &b, 1);
}

static void put32(const struct partner *p, uint32_t v) {
    uint8_t b[4];
    fc_put32(b, v);
    uart_write(p->uart, b, 4);
}

static void begin(const struct partner *p, uint32_t verb, uint32_t n) {
    put8(p, verb);
    put32(p, n);
}

static void receive(struct partner *p, uint8_t *to, uint32_t n) {
    uint64_t until = board_uptime_ms() + ANSWER_MS;
    for (uint32_t got = 0; got < n;) {
        got += (uint32_t)uart_read(p->uart, to + got, n - got);
        if (got < n && board_uptime_ms() > until)
            board_stop(DEVICE_WATCHDOG);
    }
}

/* The partner is our own process: its lengths are bounded, its contents the core judges. */
static int reply(struct partner *p) {
    uint8_t head[8];
    receive(p, head, sizeof head);
    p->n = fc_get32(head + 4);
    if (p->n > sizeof p->reply)
        board_fail("the partner answers too much", (long)p->n, 0);
    receive(p, p->reply, p->n);
    return (int)fc_get32(head);
}

static int engine_check(void *ctx, const uint8_t *model, uint32_t n) {
    struct partner *p = ctx;
    begin(p, CHECK, n);
    uart_write(p->uart, model, n);
    return reply(p);
}

static void put_tensor(const struct partner *p, const struct fc_tensor *t) {
    put8(p, t->dtype);
    put8(p, t->ndim);
    for (uint32_t i = 0; i < FC_DIMS_MAX; i++)
        put32(p, t->dim[i]);
    put32(p, t->scale_bits);
    put32(p, (uint32_t)t->zero_point);
    put32(p, t->bytes);
}

static int engine_load(void *ctx, uint8_t slot, const uint8_t *model, uint32_t n,
                       const struct fc_model *m, struct fc_load_info *info) {
    struct partner *p = ctx;
    begin(p, LOAD, 11 + 34u * (m->nin + m->nout) + n);
    put8(p, slot);
    put8(p, m->nin);
    put8(p, m->nout);
    put32(p, m->hints.reset_policy);
    put32(p, m->hints.head);
    for (uint32_t i = 0; i < m->nin; i++)
        put_tensor(p, &m->in[i]);
    for (uint32_t i = 0; i < m->nout; i++)
        put_tensor(p, &m->out[i]);
    uart_write(p->uart, model, n);
    int rc = reply(p);
    info->arena_used = p->n == 4 ? fc_get32(p->reply) : 0;
    return rc;
}

static int engine_invoke(void *ctx, uint8_t slot, const struct fc_buf *in, uint32_t nin,
                         struct fc_buf *out, uint32_t nout, uint32_t *us) {
    struct partner *p = ctx;
    uint32_t sum = 2, at = 4;
    for (uint32_t i = 0; i < nin; i++)
        sum += 4 + in[i].n; /* <= 8 * 2^18 */
    begin(p, INVOKE, sum);
    put8(p, slot);
    put8(p, nin);
    for (uint32_t i = 0; i < nin; i++) {
        put32(p, in[i].n);
        uart_write(p->uart, in[i].p, in[i].n);
    }
    int rc = reply(p);
    if (rc < 0 || p->n < at)
        return rc < 0 ? rc : FC_ERR_PORT;
    *us = fc_get32(p->reply);
    for (uint32_t i = 0; i < nout; i++) {
        if (p->n - at < 4 || fc_get32(p->reply + at) > p->n - at - 4)
            return FC_ERR_IO_CONTRACT;
        out[i].n = fc_get32(p->reply + at);
        out[i].p = p->reply + at + 4;
        at += 4 + out[i].n;
    }
    return FC_OK;
}

static int of_slot(struct partner *p, uint32_t verb, uint8_t slot) {
    begin(p, verb, 1);
    put8(p, slot);
    return reply(p);
}

static int engine_reset(void *ctx, uint8_t slot) {
    return of_slot(ctx, RESET, slot);
}

static int engine_unload(void *ctx, uint8_t slot) {
    return of_slot(ctx, UNLOAD, slot);
}

void partner_engine(struct partner *p, struct fc_engine *engine) {
    *engine = (struct fc_engine){
        .ctx = p,
        .check = engine_check,
        .load = engine_load,
        .invoke = engine_invoke,
        .reset = engine_reset,
        .unload = engine_unload,
    };
}

int partner_sense(struct partner *p, uint8_t slot, struct fc_sample *s, uint16_t *scores) {
    memset(s, 0, sizeof *s);
    s->slot = slot;
    s->label = -1;
    s->scores = scores;
    if (of_slot(p, SENSE, slot) < 0 || p->n < 8 || (p->n - 8) / 2 > FC_CLASSES_MAX) {
        s->failed = 1;
        return 0;
    }
    s->us = fc_get32(p->reply);
    s->label = (int32_t)fc_get32(p->reply + 4);
    s->n_scores = (p->n - 8) / 2;
    for (uint32_t i = 0; i < s->n_scores; i++)
        scores[i] = fc_get16(p->reply + 8 + 2 * i);
    return 1;
}
