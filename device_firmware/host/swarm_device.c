/* swarm_device.c: one core of the swarm: its port, its played engine, its lives and its turns.
 *
 * A power cut, a panic and a reboot leave the core by longjmp(), wherever it is: its memory is
 * wiped, its flash stays, and the next life begins with the reset reason a board would see.
 */
#define _GNU_SOURCE
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"
#include "swarm.h"

#define STEPS 32u          /* of a core before others get their turn */
#define DEAD_MS 300u       /* from a panic to the next boot */
#define CUT_FLASH_MS 3000u /* an armed cut that meets no flash operation by then comes anyway */
#define US 700u            /* what the played engine says an inference takes */

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(struct fc_digest), "digest state fits");

uint64_t swarm_now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint32_t swarm_random(uint32_t *state) {
    uint32_t x = *state ? *state : 0x9E3779B9u;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

double swarm_chance(uint32_t *state) {
    return swarm_random(state) / 4294967296.0;
}

/* --- the port ------------------------------------------------------------------------- */

static int port_read(void *ctx, uint8_t area, uint32_t off, void *dst, uint32_t n) {
    return pages_read(&((struct device *)ctx)->flash, area, off, dst, n);
}

static int port_program(void *ctx, uint8_t area, uint32_t off, const void *src, uint32_t n) {
    return pages_program(&((struct device *)ctx)->flash, area, off, src, n);
}

static int port_erase(void *ctx, uint8_t area, uint32_t off) {
    return pages_erase(&((struct device *)ctx)->flash, area, off);
}

static uint32_t port_capacity(void *ctx, uint8_t area) {
    return area < FC_AREAS ? ((struct device *)ctx)->flash.count[area] * FC_SECTOR : 0;
}

static int port_map(void *ctx, uint8_t area, uint32_t off, uint32_t n, const uint8_t **p) {
    return pages_map(&((struct device *)ctx)->flash, area, off, n, p);
}

static void port_unmap(void *ctx, const uint8_t *p) {
    pages_unmap(&((struct device *)ctx)->flash, p);
}

static void port_digest_begin(struct fc_digest *d) {
    crypto_hash_sha256_init((crypto_hash_sha256_state *)(void *)d->opaque);
}

static void port_digest_add(struct fc_digest *d, const void *p, size_t n) {
    crypto_hash_sha256_update((crypto_hash_sha256_state *)(void *)d->opaque, p, n);
}

static void port_digest_end(struct fc_digest *d, uint8_t out[32]) {
    crypto_hash_sha256_final((crypto_hash_sha256_state *)(void *)d->opaque, out);
}

static int port_verify(const uint8_t sig[64], const void *msg, size_t n, const uint8_t key[32]) {
    return crypto_sign_verify_detached(sig, msg, n, key) == 0 ? FC_OK : FC_ERR_SIGNATURE;
}

static int port_mac(void *ctx, const void *msg, size_t n, uint8_t out[32]) {
    return crypto_auth_hmacsha256(out, msg, n, ((struct device *)ctx)->mac_key) ? FC_ERR_PORT
                                                                                : FC_OK;
}

static int port_send(void *ctx, const char *topic, const uint8_t *p, size_t n, int qos,
                     int retain) {
    return link_send(ctx, topic, p, n, qos, retain);
}

static int port_watch(void *ctx, const char *filter, int qos) {
    return link_watch(ctx, filter, qos);
}

static int port_unwatch(void *ctx, const char *filter) {
    return link_unwatch(ctx, filter);
}

static int port_reconnect(void *ctx) {
    ((struct device *)ctx)->want_reconnect = 1;
    return FC_OK;
}

static uint64_t port_clock_ms(void *ctx) {
    (void)ctx;
    return swarm_now_ms();
}

static uint64_t port_unix_s(void *ctx) {
    (void)ctx;
    return (uint64_t)time(NULL);
}

static uint32_t port_random(void *ctx) {
    return swarm_random(&((struct device *)ctx)->rng);
}

static enum fc_reset port_reset_reason(void *ctx, uint32_t *raw) {
    *raw = 0;
    return (enum fc_reset)((struct device *)ctx)->reason;
}

static uint8_t *port_keep(void *ctx) {
    return ((struct device *)ctx)->keep;
}

static int port_may_switch(void *ctx) {
    (void)ctx;
    return FC_OK;
}

static uint32_t port_heap_free(void *ctx) {
    (void)ctx;
    return 200 * 1024;
}

static int port_rssi(void *ctx) {
    (void)ctx;
    return 0;
}

static void port_identify(void *ctx) {
    (void)ctx;
}

static void port_reboot(void *ctx) {
    ((struct device *)ctx)->want_reboot = 1;
}

static void port_log(void *ctx, int level, uint32_t event, uint32_t a, uint32_t b) {
    (void)ctx;
    (void)level;
    (void)event;
    (void)a;
    (void)b;
}

/* --- the played engine ---------------------------------------------------------------- */

enum outcome device_outcome(const struct swarm *s, uint32_t index, const uint8_t model[8]) {
    const struct swarm_options *opt = &s->opt;
    uint32_t luck = opt->seed * 2654435761u ^ (index + 1) * 40503u;
    if (!opt->n_goals || memcmp(model, opt->goal[opt->n_goals - 1], 8) != 0)
        return OUTCOME_PASS;
    for (int i = 0; i < 4; i++)
        swarm_random(&luck);
    double u = swarm_chance(&luck);
    if (u < opt->bad_golden)
        return OUTCOME_BAD_GOLDEN;
    return u < opt->bad_golden + opt->crash ? OUTCOME_CRASH : OUTCOME_PASS;
}

static int engine_check(void *ctx, const uint8_t *model, uint32_t n) {
    (void)ctx;
    (void)model;
    (void)n;
    return FC_OK;
}

static int engine_load(void *ctx, uint8_t slot, const uint8_t *model, uint32_t n,
                       const struct fc_model *m, struct fc_load_info *info) {
    struct device *d = ctx;
    (void)slot;
    (void)model;
    (void)n;
    enum outcome outcome = device_outcome(d->swarm, d->index, m->id);
    if (outcome == OUTCOME_CRASH)
        longjmp(d->end, LIFE_PANIC);
    d->offset = outcome == OUTCOME_BAD_GOLDEN ? 50 : 0;
    for (uint32_t i = 0; i < m->nout; i++)
        d->answer_n[i] = m->out[i].bytes;
    info->arena_used = m->arena;
    return FC_OK;
}

/* Each output byte is the input byte at its place, from the start again behind the end. */
static int engine_invoke(void *ctx, uint8_t slot, const struct fc_buf *in, uint32_t nin,
                         struct fc_buf *out, uint32_t nout, uint32_t *us) {
    struct device *d = ctx;
    struct swarm *s = d->swarm;
    uint32_t at = 0;
    (void)slot;
    for (uint32_t i = 0; i < nout; i++) {
        if (!nin || !in[0].n || d->answer_n[i] > sizeof s->answer - at)
            return FC_ERR_IO_CONTRACT;
        out[i].p = s->answer + at;
        out[i].n = d->answer_n[i];
        for (uint32_t k = 0; k < d->answer_n[i]; k++)
            s->answer[at + k] = (uint8_t)(in[0].p[k % in[0].n] + d->offset);
        at += d->answer_n[i];
    }
    *us = US;
    return FC_OK;
}

static int engine_nothing(void *ctx, uint8_t slot) {
    (void)ctx;
    (void)slot;
    return FC_OK;
}

/* --- lives ---------------------------------------------------------------------------- */

static void on_cut(void *ctx) {
    struct device *d = ctx;
    d->swarm->count.cuts_in_flash++;
    longjmp(d->end, LIFE_CUT);
}

static void plan_cut(struct device *d, uint64_t now) {
    double rate = d->swarm->opt.cut_per_hour, u = swarm_chance(&d->rng);
    d->cut_by_ms = UINT64_MAX;
    d->cut_ms = rate > 0 ? now + (uint64_t)(-log(1.0 - u) * 3600e3 / rate) : UINT64_MAX;
}

int device_open(struct swarm *s, uint32_t index) {
    struct device *d = s->device[index];
    uint32_t capacity[FC_AREAS] = {[FC_META] = 8 * FC_SECTOR};
    uint32_t chunks = s->class.slot_bytes / FC_SECTOR;
    uint8_t digest[32];
    capacity[FC_BANK0] = (chunks + 1 + (chunks > FC_SECTOR / 8 ? 2u : 1u)) * FC_SECTOR;
    capacity[FC_BANK0 + 1] = capacity[FC_BANK0];
    d->swarm = s;
    d->index = index;
    d->rng = s->opt.seed * 2246822519u ^ (index + 1) * 2654435761u;
    d->ident = s->class.ident;
    d->ident.device_id = d->id;
    crypto_hash_sha256(digest, d->mac_key, 32);
    memcpy(d->ident.mac_kid, digest, 4);
    if (pages_open(&d->flash, &s->pool, capacity))
        return FC_ERR_PORT;
    d->flash.seed = swarm_random(&d->rng);
    d->flash.cut = on_cut;
    d->flash.cut_ctx = d;
    d->engine = (struct fc_engine){.ctx = d,
                                   .check = engine_check,
                                   .load = engine_load,
                                   .invoke = engine_invoke,
                                   .reset = engine_nothing,
                                   .unload = engine_nothing};
    d->hal = (struct fc_hal){.ctx = d,
                             .read = port_read,
                             .program = port_program,
                             .erase = port_erase,
                             .capacity = port_capacity,
                             .map = port_map,
                             .unmap = port_unmap,
                             .digest_begin = port_digest_begin,
                             .digest_add = port_digest_add,
                             .digest_end = port_digest_end,
                             .verify = port_verify,
                             .mac = port_mac,
                             .send = port_send,
                             .watch = port_watch,
                             .unwatch = port_unwatch,
                             .reconnect = port_reconnect,
                             .clock_ms = port_clock_ms,
                             .unix_s = port_unix_s,
                             .random = port_random,
                             .reset_reason = port_reset_reason,
                             .keep = port_keep,
                             .may_switch = port_may_switch,
                             .heap_free = port_heap_free,
                             .rssi = port_rssi,
                             .identify = port_identify,
                             .reboot = port_reboot,
                             .log = port_log,
                             .engine = &d->engine};
    d->reason = FC_RST_POWER;
    plan_cut(d, s->start_ms);
    return FC_OK;
}

void device_close(struct device *d) {
    d->is_on = 0;
    link_close(d, 0);
    pages_close(&d->flash);
    free(d);
}

static void begin(struct device *d, uint64_t now) {
    d->is_on = 1;
    d->want_reboot = d->want_reconnect = 0;
    d->offset = 0;
    d->ident.boot = ++d->boots;
    d->sample_ms = now + swarm_random(&d->rng) % 1000;
    if (d->reason == FC_RST_POWER)
        memset(d->keep, 0, sizeof d->keep);
    struct fc_memory memory = {.app = {&d->app}, .ring = d->ring, .ring_bytes = sizeof d->ring};
    memset(&d->core, 0, sizeof d->core);
    memset(&d->app, 0, sizeof d->app);
    link_plan(d, now, 0);
    if (fc_core_boot(&d->core, &d->hal, &d->ident, &memory))
        abort(); /* the identity was checked, and these pages cannot fail */
}

static void over(struct device *d, uint64_t now, enum life how) {
    struct swarm_counts *count = &d->swarm->count;
    d->is_on = 0;
    d->flash.cut_at = 0;
    pages_forget(&d->flash);
    link_close(d, 0);
    d->due_ms = now + DEAD_MS;
    if (how == LIFE_CUT) {
        count->cuts++;
        d->reason = FC_RST_POWER;
        d->due_ms = now + 200 + swarm_random(&d->rng) % 2000;
        plan_cut(d, now);
    } else if (how == LIFE_PANIC) {
        count->panics++;
        d->reason = FC_RST_PANIC;
    } else {
        count->reboots++;
        d->reason = FC_RST_EXPECTED;
    }
}

/* Half of the cuts come between two steps, half in one of the next flash operations. */
static void cut_if_due(struct device *d, uint64_t now) {
    if (now >= d->cut_by_ms || (now >= d->cut_ms && swarm_random(&d->rng) % 2))
        longjmp(d->end, LIFE_CUT);
    if (now < d->cut_ms)
        return;
    d->cut_ms = UINT64_MAX;
    d->cut_by_ms = now + CUT_FLASH_MS;
    d->flash.cut_at = d->flash.ops + 1 + swarm_random(&d->rng) % 8;
    d->flash.cut_mode = (int)(swarm_random(&d->rng) % 3);
}

/* --- turns ---------------------------------------------------------------------------- */

static void infer(struct device *d, uint64_t now) {
    static const uint16_t scores[3] = {7000, 2000, 1000};
    struct fc_sample sample = {.us = US, .scores = scores, .n_scores = 3, .label = -1};
    if (now < d->sample_ms)
        return;
    d->sample_ms = now + fc_cfg(&d->core)->period_ms;
    if (!fc_running(&d->core, 0))
        return;
    fc_sample_put(&d->core, &sample);
    d->swarm->count.samples++;
}

/* Reached: the last word about the goal is spoken, and the broker has acknowledged it. */
static void note_goal(struct device *d, uint64_t now) {
    struct swarm *s = d->swarm;
    const struct fc_slot *slot = &d->core.slot[0];
    int is_last = slot->state == FC_ST_CONFIRMED || slot->state == FC_ST_REVERTED ||
                  slot->state == FC_ST_REFUSED;
    if (d->settled_ms || s->goal >= s->opt.n_goals || !is_last || !slot->target.set ||
        memcmp(slot->target.id, s->opt.goal[s->goal], 8) != 0 || d->core.report_due ||
        d->conn.n_inflight || d->conn.state != CONN_UP)
        return;
    d->settled_ms = now;
    d->end_state = slot->state;
    d->end_code = slot->code;
    s->settled++;
}

void device_goal(struct device *d) {
    d->settled_ms = 0;
    d->end_state = d->end_code = 0;
}

static void live(struct device *d, uint64_t now, uint32_t events) {
    uint32_t again = 0;
    if (!d->is_on) {
        begin(d, now);
        events = 0;
    }
    cut_if_due(d, now);
    link_turn(d, now, events);
    infer(d, now);
    for (uint32_t i = 0; i < STEPS && !again && !d->want_reboot && !d->want_reconnect; i++) {
        fc_core_step(&d->core, &again);
        d->swarm->count.steps++;
    }
    if (d->want_reboot)
        longjmp(d->end, LIFE_REBOOT);
    if (d->want_reconnect) {
        d->want_reconnect = 0;
        if (d->conn.state == CONN_UP) {
            link_close(d, 1);
            fc_link_set(&d->core, 0, 0);
            link_plan(d, now, 0);
        }
        again = 0;
    }
    note_goal(d, now);
    d->due_ms = now + again;
    const uint64_t others[] = {link_due(d), d->sample_ms, d->cut_ms, d->cut_by_ms};
    for (uint32_t i = 0; i < 4; i++)
        d->due_ms = others[i] < d->due_ms ? others[i] : d->due_ms;
}

void device_turn(struct device *d, uint64_t now, uint32_t events) {
    if (!d->is_on && now < d->due_ms)
        return;
    int how = setjmp(d->end);
    if (how == LIFE_ON)
        live(d, now, events);
    else
        over(d, swarm_now_ms(), (enum life)how);
}
