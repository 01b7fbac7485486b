/* bench.c: see bench.h. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

void fail(const char *what, long a, long b) {
    fprintf(stderr, "FAILED: %s (%ld, %ld)\n", what, a, b);
    exit(1);
}

static int matches(const char *filter, const char *topic) {
    while (*filter && *topic) {
        if (*filter == '+') {
            while (*topic && *topic != '/')
                topic++;
            filter++;
        } else if (*filter++ != *topic++) {
            return 0;
        }
    }
    return !*filter && !*topic;
}

static void enqueue(struct bench *b, const struct item *it) {
    if (b->inbox_n < MAX_INBOX)
        b->inbox[b->inbox_n++] = it;
}

static int on_send(void *ctx, const char *topic, const uint8_t *p, size_t n, int qos, int retain) {
    struct bench *b = ctx;
    (void)topic;
    (void)retain;
    if (n > 2048 || !p)
        fail("an uplink too large", (long)n, qos);
    if (qos && b->n_tokens < sizeof b->tokens / sizeof b->tokens[0])
        b->tokens[b->n_tokens++] = b->next_token + 1;
    return ++b->next_token;
}

static int on_watch(void *ctx, const char *filter, int qos) {
    struct bench *b = ctx;
    (void)qos;
    for (uint32_t i = 0; i < b->n_items; i++)
        if (b->shown[i] && matches(filter, b->item[i].topic))
            enqueue(b, &b->item[i]);
    return 0;
}

static int on_unwatch(void *ctx, const char *filter) {
    (void)ctx;
    (void)filter;
    return 0;
}

static int on_reconnect(void *ctx) {
    ((struct bench *)ctx)->want_link = 1;
    return 0;
}

static int may_switch(void *ctx) {
    (void)ctx;
    return 0;
}

static void on_reboot(void *ctx) {
    ((struct bench *)ctx)->reboots++;
}

static void on_identify(void *ctx) {
    (void)ctx;
}

static void on_log(void *ctx, int level, uint32_t event, uint32_t a, uint32_t c) {
    (void)ctx;
    if (getenv("BENCH_LOG"))
        fprintf(stderr, "log %d %u %u %u\n", level, event, a, c);
}

static int on_check(void *ctx, const uint8_t *model, uint32_t n) {
    (void)ctx;
    return model && n ? 0 : -10;
}

/* Chunk items follow each other: do those from `i` on hold these bytes? */
static int holds(const struct bench *b, uint32_t i, const uint8_t *model, uint32_t n) {
    for (uint32_t at = 0; at < n; at += FC_SECTOR, i++) {
        uint32_t part = n - at < FC_SECTOR ? n - at : FC_SECTOR;
        if (i >= b->n_items || b->item[i].n != part || memcmp(b->item[i].p, model + at, part) != 0)
            return 0;
    }
    return 1;
}

/* What reaches the engine is a model that was signed and staged, byte for byte. */
static void check_model(const struct bench *b, const uint8_t *model, uint32_t n) {
    for (uint32_t i = 0; i < b->n_items; i++)
        if (strstr(b->item[i].topic, "/0/0") && holds(b, i, model, n))
            return;
    fail("the engine is given other bytes than the signed ones", model[0], n);
}

static int on_load(void *ctx, int slot, const uint8_t *model, uint32_t n,
                   const struct fh_model *spec, uint32_t *arena_used) {
    struct bench *b = ctx;
    if (n != spec->size)
        fail("a model of another size is loaded", n, spec->size);
    if (!b->edited)
        check_model(b, model, n);
    b->loaded = b->loaded_in[slot] = model[0];
    *arena_used = 12000;
    return 0;
}

static int on_invoke(void *ctx, int slot, const uint8_t *const *in, const uint32_t *in_len, int nin,
                     uint8_t *out, uint32_t out_cap, uint32_t *out_len, int nout, uint32_t *us) {
    struct bench *b = ctx;
    uint32_t loaded = b->loaded_in[slot];
    if (loaded > 255 || nin != 1 || nout != 1 || in_len[0] < 3 || out_cap < 3)
        fail("invoked without a model", nin, nout);
    for (int i = 0; i < 3; i++)
        out[i] = (uint8_t)(in[0][i] + (loaded == b->bad_model ? 40 : 0));
    out_len[0] = 3;
    *us = 700;
    return 0;
}

static int on_engine_reset(void *ctx, int slot) {
    (void)ctx;
    (void)slot;
    return 0;
}

static int on_unload(void *ctx, int slot) {
    struct bench *b = ctx;
    b->loaded = b->loaded_in[slot] = 256;
    return 0;
}

static void on_cut(void *ctx) {
    longjmp(((struct bench *)ctx)->cut, 1);
}

static const uint8_t *take(const uint8_t **p, const uint8_t *end, size_t n) {
    const uint8_t *at = *p;
    if ((size_t)(end - at) < n)
        fail("scenario file ends early", (long)n, (long)(end - at));
    *p += n;
    return at;
}

static void read_scenario(struct bench *b, const char *path) {
    FILE *f = fopen(path, "rb");
    long size = f && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    uint8_t *data = size > 0 ? malloc((size_t)size) : NULL;
    if (!data || fseek(f, 0, SEEK_SET) || fread(data, 1, (size_t)size, f) != (size_t)size)
        fail("scenario file cannot be read", size, 0);
    fclose(f);
    const uint8_t *p = data, *end = data + size;
    if (memcmp(take(&p, end, 4), "FCSC", 4) != 0)
        fail("not a scenario file", 0, 0);
    while (p < end) {
        struct item *it = &b->item[b->n_items++];
        if (b->n_items == MAX_ITEMS)
            fail("too many items", b->n_items, 0);
        it->kind = *take(&p, end, 1);
        uint16_t topic_len = fc_get16(take(&p, end, 2));
        if (topic_len >= sizeof it->topic)
            fail("topic too long", topic_len, 0);
        memcpy(it->topic, take(&p, end, topic_len), topic_len);
        it->n = fc_get32(take(&p, end, 4));
        it->p = take(&p, end, it->n);
    }
}

/* Identity: inst 16, class 16, MAC key 32, u8 roots, u8 threshold, 32 each, u32 capacity, then the
 * operators; the topic is the device id. */
static void take_identity(struct bench *b, const struct item *it) {
    struct fh_ident *id = &b->ident;
    const uint8_t *p = it->p, *end = it->p + it->n;
    id->device_id = it->topic;
    id->firmware_version = "1.0.0";
    id->esp_nn = "none";
    memcpy(id->installation_id, take(&p, end, 16), 16);
    memcpy(id->class_id, take(&p, end, 16), 16);
    memcpy(id->mac_key, take(&p, end, 32), 32);
    id->n_roots = *take(&p, end, 1);
    id->root_threshold = *take(&p, end, 1);
    for (int i = 0; i < id->n_roots; i++)
        memcpy(id->roots[i], take(&p, end, 32), 32);
    id->slot_capacity[0] = fc_get32(take(&p, end, 4));
    for (uint32_t i = 1; i < b->slots; i++)
        id->slot_capacity[i] = id->slot_capacity[0];
    id->least_trust_version = 1;
    id->boot = 1;
    id->arena_bytes = 100000;
    id->probation_n = 2;
    id->probation_s = 1;
    id->ops_cbor = p;
    id->ops_len = (size_t)(end - p);
}

void bench_open(struct bench *b, const char *scenario, const char *flash) {
    bench_open_slots(b, scenario, flash, 1);
}

void bench_open_slots(struct bench *b, const char *scenario, const char *flash, uint32_t slots) {
    struct fh_port port = {
        .ctx = b,
        .send = on_send,
        .watch = on_watch,
        .unwatch = on_unwatch,
        .reconnect = on_reconnect,
        .may_switch = may_switch,
        .reboot = on_reboot,
        .identify = on_identify,
        .log = on_log,
        .engine_check = on_check,
        .engine_load = on_load,
        .engine_invoke = on_invoke,
        .engine_reset = on_engine_reset,
        .engine_unload = on_unload,
    };
    int err = 0;
    memset(b, 0, sizeof *b);
    b->bad_model = b->crash_model = b->loaded = 256;
    b->ms = 1000;
    b->slots = slots;
    read_scenario(b, scenario);
    for (uint32_t i = 0; i < b->n_items; i++) {
        if (b->item[i].kind == 0)
            take_identity(b, &b->item[i]);
        b->shown[i] = b->item[i].kind == 1;
    }
    b->h = fh_open(flash, &b->ident, &port, &err);
    if (!b->h)
        fail("cannot open", err, 0);
    fh_on_cut(b->h, on_cut, b);
    b->snapshot = malloc(b->h->nor.size);
}

void bench_close(struct bench *b) {
    fh_close(b->h);
    free(b->snapshot);
    if (b->n_items)
        free((void *)(uintptr_t)(b->item[0].p - 7 - strlen(b->item[0].topic) - 4));
}

void bench_save(struct bench *b) {
    memcpy(b->snapshot, b->h->nor.base, b->h->nor.size);
}

void bench_restore(struct bench *b) {
    memcpy(b->h->nor.base, b->snapshot, b->h->nor.size);
}

static void clock_now(struct bench *b) {
    fh_clock_set(b->h, b->ms, 1790000100u + b->ms / 1000);
}

void bench_boot(struct bench *b, int reason) {
    b->inbox_n = 0;
    b->n_tokens = 0;
    b->want_link = 0;
    b->loaded = 256;
    for (uint32_t i = 0; i < 4; i++)
        b->loaded_in[i] = 256;
    clock_now(b);
    int rc = fh_boot(b->h, reason, 0);
    if (rc)
        fail("boot", rc, reason);
}

void bench_link(struct bench *b, int up) {
    if (!up)
        b->inbox_n = 0;
    fh_link(b->h, up, 1);
}

void bench_show(struct bench *b, uint8_t kind) {
    for (uint32_t i = 0; i < b->n_items; i++) {
        if (b->item[i].kind != kind)
            continue;
        for (uint32_t k = 0; k < b->n_items; k++) /* one retained message a topic */
            if (strcmp(b->item[k].topic, b->item[i].topic) == 0)
                b->shown[k] = 0;
        b->shown[i] = 1;
        enqueue(b, &b->item[i]);
    }
}

void bench_send(struct bench *b, uint8_t kind, uint32_t nth) {
    for (uint32_t i = 0; i < b->n_items; i++) {
        if (b->item[i].kind == kind && nth-- == 0) {
            enqueue(b, &b->item[i]);
            return;
        }
    }
    fail("no such item", kind, nth);
}

static void deliver(struct bench *b) {
    while (b->inbox_n) {
        const struct item *it = b->inbox[0];
        b->inbox_n--;
        memmove(b->inbox, b->inbox + 1, b->inbox_n * sizeof b->inbox[0]);
        fh_message(b->h, it->topic, it->p, it->n);
    }
}

void bench_drive(struct bench *b, uint32_t rounds) {
    static const uint16_t scores[3] = {7000, 2000, 1000};
    for (uint32_t r = 0; r < rounds; r++) {
        uint32_t again = 0;
        deliver(b);
        fh_step(b->h, &again);
        for (uint32_t i = 0; i < b->n_tokens; i++)
            fh_sent(b->h, b->tokens[i]);
        b->n_tokens = 0;
        if (b->want_link) {
            b->want_link = 0;
            bench_link(b, 0);
            bench_link(b, 1);
        }
        if (again && !b->inbox_n) {
            for (uint8_t i = 0; i < b->slots; i++) {
                struct fh_sample s = {i, 0, 800, scores, 3, -1};
                fh_sample(b->h, &s);
            }
            b->ms += again < 500 ? again : 500;
            clock_now(b);
        }
    }
}
