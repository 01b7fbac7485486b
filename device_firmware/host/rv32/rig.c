/* rig.c: see rig.h. */
#include "rig.h"

#include <stdlib.h>
#include <string.h>

#include "board.h"
#include "bytes.h"
#include "crypto.h"

struct rig rig;
static struct {
    struct rig *rig;
    uint8_t *flash;
} snapshot[RIG_SNAPSHOTS];

/* --- flash and crypto -------------------------------------------------------------------- */

static int hal_read(void *ctx, uint8_t area, uint32_t off, void *dst, uint32_t n) {
    return flash_read(&((struct rig *)ctx)->flash, area, off, dst, n);
}

static int hal_program(void *ctx, uint8_t area, uint32_t off, const void *src, uint32_t n) {
    return flash_program(&((struct rig *)ctx)->flash, area, off, src, n);
}

static int hal_erase(void *ctx, uint8_t area, uint32_t off) {
    return flash_erase(&((struct rig *)ctx)->flash, area, off);
}

static uint32_t hal_capacity(void *ctx, uint8_t area) {
    return area < FC_AREAS ? ((struct rig *)ctx)->flash.capacity[area] : 0;
}

static int hal_map(void *ctx, uint8_t area, uint32_t off, uint32_t n, const uint8_t **p) {
    *p = flash_map(&((struct rig *)ctx)->flash, area, off, n);
    return FC_OK;
}

static void hal_unmap(void *ctx, const uint8_t *p) {
    (void)ctx; /* the flash is in RAM */
    (void)p;
}

static int hal_mac(void *ctx, const void *msg, size_t n, uint8_t out[32]) {
    return crypto_mac(((struct rig *)ctx)->mac_key, msg, n, out);
}

/* --- broker ------------------------------------------------------------------------------ */

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

static int hal_send(void *ctx, const char *topic, const uint8_t *p, size_t n, int qos, int retain) {
    struct rig *r = ctx;
    (void)retain;
    if (!topic[0] || !p || n > FC_REPORTED_MAX)
        board_fail("an uplink of a size that no backend takes", (long)n, qos);
    if (qos && r->n_tokens == RIG_TOKENS)
        return FC_ERR_FULL;
    r->sent++;
    r->next_token++;
    if (qos)
        r->tokens[r->n_tokens++] = r->next_token;
    return r->next_token;
}

static int hal_watch(void *ctx, const char *filter, int qos) {
    struct rig *r = ctx;
    (void)qos;
    for (uint32_t i = 0; i < r->n_retained; i++) {
        if (!matches(filter, r->retained[i].topic))
            continue;
        if (r->n_inbox == RIG_INBOX)
            board_fail("the inbox is full", (long)i, 0);
        r->inbox[r->n_inbox++] = &r->retained[i];
    }
    return FC_OK;
}

static int hal_unwatch(void *ctx, const char *filter) {
    (void)ctx;
    (void)filter;
    return FC_OK;
}

static int hal_reconnect(void *ctx) {
    ((struct rig *)ctx)->wants_link = 1;
    return FC_OK;
}

/* --- board ------------------------------------------------------------------------------- */

static uint64_t hal_clock_ms(void *ctx) {
    return ((struct rig *)ctx)->ms;
}

static uint64_t hal_unix_s(void *ctx) {
    return ((struct rig *)ctx)->unix_s;
}

static uint32_t hal_random(void *ctx) {
    (void)ctx;
    return 4; /* chosen by the script: a fixed number keeps counts equal between runs */
}

static enum fc_reset hal_reset_reason(void *ctx, uint32_t *raw) {
    *raw = 0;
    return ((struct rig *)ctx)->reason;
}

static uint8_t *hal_keep(void *ctx) {
    return ((struct rig *)ctx)->keep;
}

static int hal_may_switch(void *ctx) {
    (void)ctx;
    return FC_OK;
}

static uint32_t hal_heap_free(void *ctx) {
    (void)ctx;
    return 200 * 1024;
}

static int hal_rssi(void *ctx) {
    (void)ctx;
    return -60;
}

static void hal_identify(void *ctx) {
    (void)ctx;
}

static void hal_reboot(void *ctx) {
    ((struct rig *)ctx)->reboots++;
}

static void hal_log(void *ctx, int level, uint32_t event, uint32_t a, uint32_t b) {
    (void)ctx;
    (void)level;
    (void)event;
    (void)a;
    (void)b;
}

/* --- engine ------------------------------------------------------------------------------ */

static int engine_check(void *ctx, const uint8_t *model, uint32_t n) {
    (void)ctx;
    return model && n ? FC_OK : FC_ERR_SCHEMA;
}

static int engine_load(void *ctx, uint8_t slot, const uint8_t *model, uint32_t n,
                       const struct fc_model *m, struct fc_load_info *info) {
    (void)slot;
    if (!model || n != m->size)
        board_fail("a model of another size is loaded", (long)n, (long)m->size);
    ((struct rig *)ctx)->loaded_bytes = n;
    info->arena_used = 12000;
    return FC_OK;
}

static int engine_invoke(void *ctx, uint8_t slot, const struct fc_buf *in, uint32_t nin,
                         struct fc_buf *out, uint32_t nout, uint32_t *us) {
    struct rig *r = ctx;
    (void)slot;
    if (!r->loaded_bytes || nin != 1 || nout != 1 || in[0].n < 3)
        board_fail("invoked without a model", (long)nin, (long)nout);
    memcpy(r->out[0], in[0].p, 3);
    out[0].p = r->out[0];
    out[0].n = 3;
    r->invokes++;
    *us = 700;
    return FC_OK;
}

static int engine_reset(void *ctx, uint8_t slot) {
    (void)ctx;
    (void)slot;
    return FC_OK;
}

static int engine_unload(void *ctx, uint8_t slot) {
    (void)slot;
    ((struct rig *)ctx)->loaded_bytes = 0;
    return FC_OK;
}

static void plug_in(struct rig *r) {
    r->engine = (struct fc_engine){
        .ctx = r,
        .check = engine_check,
        .load = engine_load,
        .invoke = engine_invoke,
        .reset = engine_reset,
        .unload = engine_unload,
    };
    r->hal = (struct fc_hal){
        .ctx = r,
        .read = hal_read,
        .program = hal_program,
        .erase = hal_erase,
        .capacity = hal_capacity,
        .map = hal_map,
        .unmap = hal_unmap,
        .digest_begin = crypto_digest_begin,
        .digest_add = crypto_digest_add,
        .digest_end = crypto_digest_end,
        .verify = crypto_verify,
        .mac = hal_mac,
        .send = hal_send,
        .watch = hal_watch,
        .unwatch = hal_unwatch,
        .reconnect = hal_reconnect,
        .clock_ms = hal_clock_ms,
        .unix_s = hal_unix_s,
        .random = hal_random,
        .reset_reason = hal_reset_reason,
        .keep = hal_keep,
        .may_switch = hal_may_switch,
        .heap_free = hal_heap_free,
        .rssi = hal_rssi,
        .identify = hal_identify,
        .reboot = hal_reboot,
        .log = hal_log,
        .engine = &r->engine,
    };
}

/* --- the script's verbs ------------------------------------------------------------------ */

/* inst 16, class 16, MAC key 32, u8 roots, u8 threshold, u32 least trust version, 32 each root, u32
 * capacity of slot 0, the operators. Our own test wrote it; lengths are checked all the same. */
void rig_identity(const char *device_id, const uint8_t *p, uint32_t n) {
    uint32_t capacity[FC_AREAS] = {[FC_META] = 8 * FC_SECTOR};
    uint32_t n_roots = n > 64 ? p[64] : 5, head = 70 + 32 * n_roots + 4;
    struct rig *r = &rig;
    if (n_roots > 4 || n < head)
        board_fail("an identity of the wrong length", (long)n, (long)n_roots);
    free(r->flash.data);
    memset(r, 0, sizeof *r);
    r->ms = 1000;
    r->ident = (struct fc_ident){
        .device_id = device_id,
        .firmware_version = "1.0.0",
        .esp_nn = "none",
        .firmware = {1, 0, 0},
        .boot = 1,
        .least_trust_version = fc_get32(p + 66),
        .n_roots = (uint8_t)n_roots,
        .root_threshold = p[65],
        .arena_bytes = 100000,
        .probation_n = 2,
        .probation_s = 1,
        .ops = p + head,
        .ops_len = n - head,
    };
    memcpy(r->ident.inst, p, 16);
    memcpy(r->ident.class_id, p + 16, 16);
    memcpy(r->mac_key, p + 32, 32);
    for (uint32_t i = 0; i < n_roots; i++)
        memcpy(r->ident.roots[i], p + 70 + 32 * i, 32);
    capacity[FC_BANK0] = capacity[FC_BANK0 + 1] = flash_bank_bytes(fc_get32(p + head - 4));
    flash_open(&r->flash, capacity, NULL);
    plug_in(r);
}

int rig_boot(enum fc_reset reason) {
    struct rig *r = &rig;
    r->n_inbox = r->n_tokens = 0;
    r->wants_link = 0;
    r->loaded_bytes = 0;
    r->reason = reason;
    struct fc_memory memory = {.ring = r->ring, .ring_bytes = sizeof r->ring};
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        memory.app[s] = &r->app[s];
    return fc_core_boot(&r->core, &r->hal, &r->ident, &memory);
}

void rig_link(int up) {
    if (!up)
        rig.n_inbox = 0;
    fc_link_set(&rig.core, up, 1);
}

void rig_retain(const char *topic, const uint8_t *p, uint32_t n) {
    struct rig *r = &rig;
    if (r->n_retained == RIG_RETAINED)
        board_fail("too many retained messages", (long)r->n_retained, 0);
    r->retained[r->n_retained++] = (struct rig_item){topic, p, n};
}

int rig_message(const char *topic, const uint8_t *p, uint32_t n) {
    struct rig_cost *c = &rig.cost;
    uint64_t since = board_instructions(), crypto = crypto_count.instructions;
    int rc = fc_message_put(&rig.core, topic, strlen(topic), p, n);
    uint64_t took = board_instructions() - since;
    c->message_sum += took;
    c->message_most = took > c->message_most ? took : c->message_most;
    c->crypto += crypto_count.instructions - crypto;
    if (n == FC_SECTOR) {
        c->chunks++;
        c->chunk_sum += took;
        c->chunk_most = took > c->chunk_most ? took : c->chunk_most;
    }
    return rc;
}

static void deliver(struct rig *r) {
    while (r->n_inbox) {
        const struct rig_item *it = r->inbox[0];
        r->n_inbox--;
        memmove(r->inbox, r->inbox + 1, r->n_inbox * sizeof r->inbox[0]);
        rig_message(it->topic, it->p, it->n);
    }
}

static uint32_t step(struct rig *r) {
    struct rig_cost *c = &r->cost;
    uint32_t again = 0;
    uint64_t since = board_instructions(), crypto = crypto_count.instructions;
    fc_core_step(&r->core, &again);
    uint64_t took = board_instructions() - since;
    c->steps++;
    c->step_sum += took;
    c->step_most = took > c->step_most ? took : c->step_most;
    c->crypto += crypto_count.instructions - crypto;
    return again;
}

void rig_drive(uint32_t rounds) {
    static const uint16_t scores[3] = {7000, 2000, 1000};
    struct rig *r = &rig;
    while (rounds--) {
        deliver(r);
        uint32_t again = step(r);
        for (uint32_t i = 0; i < r->n_tokens; i++)
            fc_sent(&r->core, r->tokens[i]);
        r->n_tokens = 0;
        if (r->wants_link) {
            r->wants_link = 0;
            rig_link(0);
            rig_link(1);
        }
        if (again && !r->n_inbox) {
            struct fc_sample s = {.us = 800, .scores = scores, .n_scores = 3, .label = -1};
            fc_sample_put(&r->core, &s);
            again = again < 500 ? again : 500;
            r->unix_s += (r->ms % 1000 + again) / 1000;
            r->ms += again;
        }
    }
}

void rig_save(uint32_t number) {
    if (number >= RIG_SNAPSHOTS)
        board_fail("no such snapshot", (long)number, 0);
    if (!snapshot[number].rig) {
        snapshot[number].rig = malloc(sizeof rig);
        snapshot[number].flash = malloc(rig.flash.size);
    }
    if (!snapshot[number].rig || !snapshot[number].flash)
        board_fail("no memory for a snapshot", (long)number, 0);
    memcpy(snapshot[number].rig, &rig, sizeof rig);
    memcpy(snapshot[number].flash, rig.flash.data, rig.flash.size);
}

/* The flash of the snapshot goes into the memory that the flash has now: the core may point into
 * it, so a snapshot is only good for the identity it was made under. */
void rig_restore(uint32_t number) {
    if (number >= RIG_SNAPSHOTS || !snapshot[number].rig)
        board_fail("no such snapshot", (long)number, 0);
    uint8_t *data = rig.flash.data;
    if (data != snapshot[number].rig->flash.data)
        board_fail("a snapshot of another device", (long)number, 0);
    memcpy(&rig, snapshot[number].rig, sizeof rig);
    memcpy(rig.flash.data, snapshot[number].flash, rig.flash.size);
}
