/* fleet_host.c: the flat ABI of fleet_host.h over the core and the host's HAL. */
#include "fleet_host.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hal_host.h"
#include "internal.h"

static const char *const CHIPS[] = {"host",    "esp32",   "esp32s2", "esp32s3",
                                    "esp32c3", "esp32c6", "esp32p4"};

static void on_cut(void *ctx) {
    struct fh *h = ctx;
    if (h->on_cut)
        h->on_cut(h->cut_ctx);
    _exit(FH_EXIT_CUT);
}

/* "1.2.3", each below 65,536. */
static int parse_version(const char *text, uint16_t out[3]) {
    unsigned v[3];
    char rest;
    if (sscanf(text, "%5u.%5u.%5u%c", &v[0], &v[1], &v[2], &rest) != 3)
        return FC_ERR_SCHEMA;
    for (int i = 0; i < 3; i++) {
        if (v[i] > UINT16_MAX)
            return FC_ERR_SCHEMA;
        out[i] = (uint16_t)v[i];
    }
    return FC_OK;
}

static int copy_text(char out[33], const char *text) {
    if (!text || strlen(text) > 32)
        return FC_ERR_SCHEMA;
    memcpy(out, text, strlen(text) + 1);
    return FC_OK;
}

static void make_build_id(const struct fh *h, uint8_t chip, uint8_t out[4]) {
    crypto_hash_sha256_state st;
    uint8_t digest[32];
    crypto_hash_sha256_init(&st);
    crypto_hash_sha256_update(&st, (const uint8_t *)h->firmware_version,
                              strlen(h->firmware_version) + 1);
    crypto_hash_sha256_update(&st, (const uint8_t *)h->esp_nn, strlen(h->esp_nn) + 1);
    crypto_hash_sha256_update(&st, (const uint8_t *)CHIPS[chip], strlen(CHIPS[chip]));
    crypto_hash_sha256_final(&st, digest);
    memcpy(out, digest, 4);
}

static int take_ident(struct fh *h, const struct fh_ident *in) {
    struct fc_ident *id = &h->ident;
    uint8_t digest[32];
    if (copy_text(h->device_id, in->device_id) ||
        copy_text(h->firmware_version, in->firmware_version) || copy_text(h->esp_nn, in->esp_nn) ||
        parse_version(in->firmware_version, id->firmware) || in->ops_len > sizeof h->ops ||
        in->chip >= sizeof CHIPS / sizeof CHIPS[0] || in->n_roots > 4)
        return FC_ERR_SCHEMA;
    id->device_id = h->device_id;
    id->firmware_version = h->firmware_version;
    id->esp_nn = h->esp_nn;
    id->chip = in->chip;
    memcpy(id->inst, in->installation_id, 16);
    memcpy(id->class_id, in->class_id, 16);
    make_build_id(h, in->chip, id->build_id);
    memcpy(h->mac_key, in->mac_key, 32);
    crypto_hash_sha256(digest, in->mac_key, 32);
    memcpy(id->mac_kid, digest, 4);
    id->boot = in->boot;
    id->least_trust_version = in->least_trust_version;
    for (int i = 0; i < in->n_roots; i++)
        memcpy(id->roots[i], in->roots[i], 32);
    id->n_roots = in->n_roots;
    id->root_threshold = in->root_threshold;
    id->arena_bytes = in->arena_bytes;
    id->heap_floor = in->heap_floor;
    id->probation_n = in->probation_n;
    id->probation_s = in->probation_s;
    if (in->ops_len)
        memcpy(h->ops, in->ops_cbor, in->ops_len);
    id->ops = h->ops;
    id->ops_len = in->ops_len;
    return FC_OK;
}

/* A bank holds a manifest sector, the leaf sectors and the chunks of its slot. */
static int bank_bytes(uint32_t capacity, uint32_t *out) {
    uint32_t chunks = capacity / FC_SECTOR;
    if (capacity % FC_SECTOR || chunks > FC_CHUNKS_MAX)
        return FC_ERR_SCHEMA;
    *out = chunks ? (chunks + 1 + (chunks > FC_SECTOR / 8 ? 2u : 1u)) * FC_SECTOR : 0;
    return FC_OK;
}

struct fh *fh_open(const char *flash_path, const struct fh_ident *ident, const struct fh_port *port,
                   int *err) {
    uint32_t capacity[FC_AREAS] = {[FC_META] = 8 * FC_SECTOR};
    struct fh *h = calloc(1, sizeof *h);
    *err = FC_ERR_PORT;
    if (!h || sodium_init() < 0)
        goto fail;
    h->nor.fd = -1;
    h->port = *port;
    h->heap_free = 200 * 1024;
    *err = take_ident(h, ident);
    for (uint32_t s = 0; s < FC_SLOTS && !*err; s++) {
        *err = bank_bytes(ident->slot_capacity[s], &capacity[FC_BANK0 + 2 * s]);
        capacity[FC_BANK0 + 2 * s + 1] = capacity[FC_BANK0 + 2 * s];
    }
    if (!*err)
        *err = nor_open(&h->nor, flash_path, capacity);
    if (!*err)
        *err = fh_keep_open(h, flash_path);
    if (*err)
        goto fail;
    h->nor.seed = randombytes_random();
    h->nor.cut = on_cut;
    h->nor.cut_ctx = h;
    fh_hal_init(h);
    return h;
fail:
    fh_close(h);
    return NULL;
}

void fh_close(struct fh *h) {
    if (!h)
        return;
    nor_close(&h->nor);
    fh_keep_close(h);
    sodium_memzero(h->mac_key, sizeof h->mac_key);
    for (uint32_t s = 0; s < FC_SLOTS; s++) {
        free(h->samples[s]);
        free(h->input[s]);
    }
    free(h->out);
    free(h);
}

int fh_boot(struct fh *h, int reset_reason, uint32_t raw) {
    h->reset_reason = reset_reason;
    h->reset_raw = raw;
    if (reset_reason == FC_RST_POWER || reset_reason == FC_RST_BROWNOUT)
        memset(h->keep, 0, 64);
    struct fc_memory memory = {.ring = h->ring, .ring_bytes = sizeof h->ring};
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        if (h->nor.capacity[FC_BANK0 + 2 * s])
            memory.app[s] = &h->app[s];
    return fc_core_boot(&h->core, &h->hal, &h->ident, &memory);
}

int fh_link(struct fh *h, int up, int fresh) {
    fc_link_set(&h->core, up, fresh);
    return FC_OK;
}

int fh_message(struct fh *h, const char *topic, const uint8_t *payload, size_t n) {
    return fc_message_put(&h->core, topic, strlen(topic), payload, n);
}

int fh_sent(struct fh *h, int token) {
    fc_sent(&h->core, token);
    return FC_OK;
}

int fh_step(struct fh *h, uint32_t *again_ms) {
    fc_core_step(&h->core, again_ms);
    return FC_OK;
}

int fh_sample(struct fh *h, const struct fh_sample *s) {
    struct fc_sample sample = {s->slot, (uint8_t)(s->failed != 0), s->us, s->scores, s->n_scores,
                               s->label};
    return fc_sample_put(&h->core, &sample) == FC_OK ? 1 : 0;
}

void fh_health(struct fh *h, uint32_t heap_free, int rssi) {
    h->heap_free = heap_free;
    h->rssi = rssi;
}

int fh_running(struct fh *h, int slot, struct fh_model *out) {
    const struct fc_model *m = slot < 0 ? NULL : fc_running(&h->core, (uint8_t)slot);
    if (!m)
        return 0;
    fh_model_fill(out, m);
    return 1;
}

int fh_state(struct fh *h, struct fh_state *out) {
    const struct fc_core *c = &h->core;
    const struct fc_config *cfg = fc_cfg(c);
    memset(out, 0, sizeof *out);
    out->trust_version = c->rec.trust_version;
    out->desired_counter = c->rec.desired_counter;
    out->cmd_counter = c->rec.cmd_counter;
    out->time_floor = c->rec.time_floor;
    out->record_number = c->rec.number;
    out->panics = c->rec.panics;
    out->safe_mode = c->safe_mode;
    out->stale = c->desired_expires && fc_now(c) >= c->desired_expires;
    out->link = c->link;
    out->refusal_code = c->refusal_code;
    out->refusal_detail = c->refusal_detail;
    out->dropped_messages = c->dropped_messages;
    out->dropped_chunks = c->dropped_chunks;
    out->telemetry_counter = c->tele_counter;
    out->ring_batches = c->ring.n;
    out->ring_bytes = fc_tele_ring_used(c);
    out->flash_ops = h->nor.ops;
    out->config_heartbeat_s = cfg->heartbeat_s;
    out->config_window_s = cfg->window_s;
    out->config_period_ms = cfg->period_ms;
    out->config_threshold = cfg->threshold;
    out->config_alarm_k = cfg->alarm_k;
    out->config_alarm_n = cfg->alarm_n;
    out->config_sample_n = cfg->sample_n;
    out->config_chunk_cap = cfg->chunk_cap;
    out->config_probation_n = cfg->probation_n;
    out->config_probation_s = cfg->probation_s;
    out->config_invalid = cfg->invalid;
    return FC_OK;
}

int fh_slot(struct fh *h, int slot, struct fh_slot_state *out) {
    if (slot < 0 || slot >= (int)FC_SLOTS)
        return FC_ERR_NOT_IN_BANK;
    const struct fc_slot *s = &h->core.slot[slot];
    const struct fc_rec_slot *rs = &h->core.rec.slots[slot];
    memset(out, 0, sizeof *out);
    out->phase = rs->phase;
    out->run_bank = rs->run_bank;
    out->flags = rs->flags;
    out->attempts = rs->attempts;
    out->cuts = rs->cuts;
    out->fail_code = rs->fail_code;
    out->fail_detail = rs->fail_detail;
    out->panics = rs->panics;
    memcpy(out->run_id, rs->run_id, 16);
    memcpy(out->other_id, rs->other_id, 16);
    memcpy(out->failed_id, rs->failed_id, 8);
    out->failed_attempt = rs->failed_attempt;
    out->state = s->state;
    out->code = s->code;
    out->detail = s->detail;
    out->have = s->have;
    out->total = s->total;
    out->attempt = s->target.attempt;
    out->loaded = s->loaded;
    out->arena_used = s->arena_used;
    out->golden_n = s->golden.n;
    out->golden_ok = s->golden.ok;
    out->golden_max_diff = s->golden.max_diff;
    out->golden_median_us = s->golden.median_us;
    return FC_OK;
}

void fh_clock_set(struct fh *h, uint64_t ms, uint64_t unix_s) {
    h->fixed_clock = 1;
    h->clock_ms = ms;
    h->unix_s = unix_s;
}

void fh_random_seed(struct fh *h, uint32_t seed) {
    h->seed = seed;
    h->nor.seed = seed;
}

void fh_cut_after(struct fh *h, uint64_t n_ops, int mode) {
    h->nor.cut_at = n_ops ? h->nor.ops + n_ops : 0;
    h->nor.cut_mode = mode;
}

int fh_exit_cut(void) {
    return FH_EXIT_CUT;
}

void fh_on_cut(struct fh *h, void (*cut)(void *ctx), void *ctx) {
    h->on_cut = cut;
    h->cut_ctx = ctx;
}

uint32_t fh_capacity(struct fh *h, int area) {
    return area >= 0 && area < (int)FC_AREAS ? h->nor.capacity[area] : 0;
}

int fh_flip(struct fh *h, int area, uint32_t off, int bit) {
    return nor_flip(&h->nor, (uint8_t)area, off, bit);
}

int fh_bad_sector(struct fh *h, int area, uint32_t sector, int kind) {
    return nor_bad(&h->nor, (uint8_t)area, sector, kind);
}

int fh_flash_read(struct fh *h, int area, uint32_t off, uint8_t *dst, uint32_t n) {
    uint32_t capacity = fh_capacity(h, area);
    if (off > capacity || n > capacity - off)
        return FC_ERR_FLASH_IO;
    return nor_read(&h->nor, (uint8_t)area, off, dst, n);
}

uint32_t fh_erase_count(struct fh *h, int area, uint32_t sector) {
    return nor_erase_count(&h->nor, (uint8_t)area, sector);
}

int fh_check_cbor(const uint8_t *p, size_t n) {
    return fc_cbor_check(p, n, 0, FC_ITEMS_MAX);
}

int fh_check_manifest(struct fh *h, int slot, const uint8_t *msg, size_t n, struct fh_model *out,
                      uint32_t *detail) {
    struct fc_manifest m;
    struct fc_model model;
    enum fc_check how = slot < 0 ? FC_CHECK_DOCUMENT : FC_CHECK_NEW;
    int rc = fc_manifest_check(&h->core, (uint8_t)slot, msg, n, how, &m);
    *detail = h->core.detail;
    if (rc != FC_OK)
        return rc;
    memcpy(fc_msg(&h->core), msg, n); /* n was checked */
    rc = fc_manifest_read(&h->core, (uint32_t)n, &m, &model);
    if (rc == FC_OK)
        fh_model_fill(out, &model);
    return rc;
}
