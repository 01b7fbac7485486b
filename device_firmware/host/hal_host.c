/* hal_host.c: see hal_host.h. */
#define _GNU_SOURCE
#include "hal_host.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(struct fc_digest), "digest state fits");
_Static_assert(_Alignof(crypto_hash_sha256_state) <= _Alignof(struct fc_digest),
               "and its alignment");
_Static_assert(crypto_sign_BYTES == 64 && crypto_sign_PUBLICKEYBYTES == 32, "Ed25519");
_Static_assert(crypto_auth_hmacsha256_KEYBYTES == 32 && crypto_auth_hmacsha256_BYTES == 32, "HMAC");

#define KEEP_BYTES 64u

static int hal_read(void *ctx, uint8_t area, uint32_t off, void *dst, uint32_t n) {
    return nor_read(&((struct fh *)ctx)->nor, area, off, dst, n);
}

static int hal_program(void *ctx, uint8_t area, uint32_t off, const void *src, uint32_t n) {
    return nor_program(&((struct fh *)ctx)->nor, area, off, src, n);
}

static int hal_erase(void *ctx, uint8_t area, uint32_t off) {
    return nor_erase(&((struct fh *)ctx)->nor, area, off);
}

static uint32_t hal_capacity(void *ctx, uint8_t area) {
    return area < FC_AREAS ? ((struct fh *)ctx)->nor.capacity[area] : 0;
}

static int hal_map(void *ctx, uint8_t area, uint32_t off, uint32_t n, const uint8_t **p) {
    *p = nor_map(&((struct fh *)ctx)->nor, area, off, n);
    return FC_OK;
}

static void hal_unmap(void *ctx, const uint8_t *p) {
    (void)ctx; /* the whole file stays mapped */
    (void)p;
}

static void hal_digest_begin(struct fc_digest *d) {
    crypto_hash_sha256_init((crypto_hash_sha256_state *)(void *)d->opaque);
}

static void hal_digest_add(struct fc_digest *d, const void *p, size_t n) {
    crypto_hash_sha256_update((crypto_hash_sha256_state *)(void *)d->opaque, p, n);
}

static void hal_digest_end(struct fc_digest *d, uint8_t out[32]) {
    crypto_hash_sha256_final((crypto_hash_sha256_state *)(void *)d->opaque, out);
}

static int hal_verify(const uint8_t sig[64], const void *msg, size_t n, const uint8_t key[32]) {
    return crypto_sign_verify_detached(sig, msg, n, key) == 0 ? FC_OK : FC_ERR_SIGNATURE;
}

static int hal_mac(void *ctx, const void *msg, size_t n, uint8_t out[32]) {
    return crypto_auth_hmacsha256(out, msg, n, ((struct fh *)ctx)->mac_key) == 0 ? FC_OK
                                                                                 : FC_ERR_PORT;
}

static int hal_send(void *ctx, const char *topic, const uint8_t *p, size_t n, int qos, int retain) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    int token = port->send(port->ctx, topic, p, n, qos, retain);
    return token == 0 ? FC_ERR_PORT : token;
}

static int hal_watch(void *ctx, const char *filter, int qos) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    return port->watch(port->ctx, filter, qos);
}

static int hal_unwatch(void *ctx, const char *filter) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    return port->unwatch(port->ctx, filter);
}

static int hal_reconnect(void *ctx) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    return port->reconnect(port->ctx);
}

static uint64_t hal_clock_ms(void *ctx) {
    const struct fh *h = ctx;
    struct timespec t;
    if (h->fixed_clock)
        return h->clock_ms;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint64_t hal_unix_s(void *ctx) {
    const struct fh *h = ctx;
    return h->fixed_clock ? h->unix_s : (uint64_t)time(NULL);
}

static uint32_t hal_random(void *ctx) {
    struct fh *h = ctx;
    if (!h->seed)
        return randombytes_random();
    h->seed ^= h->seed << 13; /* xorshift32 */
    h->seed ^= h->seed >> 17;
    h->seed ^= h->seed << 5;
    return h->seed;
}

static enum fc_reset hal_reset_reason(void *ctx, uint32_t *raw) {
    const struct fh *h = ctx;
    *raw = h->reset_raw;
    return (enum fc_reset)h->reset_reason;
}

static uint8_t *hal_keep(void *ctx) {
    return ((struct fh *)ctx)->keep;
}

static int hal_may_switch(void *ctx) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    return port->may_switch(port->ctx);
}

static uint32_t hal_heap_free(void *ctx) {
    return ((struct fh *)ctx)->heap_free;
}

static int hal_rssi(void *ctx) {
    return ((struct fh *)ctx)->rssi;
}

static void hal_identify(void *ctx) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    port->identify(port->ctx);
}

static void hal_reboot(void *ctx) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    port->reboot(port->ctx);
}

static void hal_log(void *ctx, int level, uint32_t event, uint32_t a, uint32_t b) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    port->log(port->ctx, level, event, a, b);
}

/* --- the engine
 * ----------------------------------------------------------------------------------- */

void fh_model_fill(struct fh_model *out, const struct fc_model *m) {
    memset(out, 0, sizeof *out);
    memcpy(out->id, m->id, 32);
    memcpy(out->name, m->name, sizeof out->name);
    memcpy(out->version, m->version, sizeof out->version);
    out->seq = m->seq;
    out->floor = m->floor;
    out->size = m->size;
    out->arena = m->arena;
    out->nin = m->nin;
    out->nout = m->nout;
    for (uint32_t i = 0; i < FC_TENSORS_MAX; i++) {
        const struct fc_tensor *from[2] = {&m->in[i], &m->out[i]};
        struct fh_tensor *to[2] = {&out->in[i], &out->out[i]};
        for (int side = 0; side < 2; side++) {
            to[side]->dtype = from[side]->dtype;
            to[side]->ndim = from[side]->ndim;
            memcpy(to[side]->dim, from[side]->dim, sizeof to[side]->dim);
            to[side]->scale_bits = from[side]->scale_bits;
            to[side]->zero_point = from[side]->zero_point;
            to[side]->bytes = from[side]->bytes;
        }
    }
    out->window = m->hints.window;
    out->hop = m->hints.hop;
    out->channels = m->hints.channels;
    out->reset_policy = m->hints.reset_policy;
    out->variables = m->hints.variables;
    out->latency_us = m->hints.latency_us;
    out->head = m->hints.head;
    out->classes = m->hints.classes;
    out->anomaly_kind = m->hints.anomaly_kind;
    out->anomaly_threshold = m->hints.anomaly_threshold;
    memcpy(out->labels, m->hints.labels, 8);
}

static int engine_check(void *ctx, const uint8_t *model, uint32_t n) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    int rc = port->engine_check(port->ctx, model, n);
    return rc < 0 ? rc : FC_OK;
}

static int engine_load(void *ctx, uint8_t slot, const uint8_t *model, uint32_t n,
                       const struct fc_model *m, struct fc_load_info *info) {
    struct fh *h = ctx;
    struct fh_model spec;
    uint32_t cap = 0;
    for (uint32_t i = 0; i < m->nout; i++)
        cap += m->out[i].bytes; /* <= 8 * 2^18 */
    if (cap > h->out_cap) {
        uint8_t *grown = realloc(h->out, cap);
        if (!grown)
            return FC_ERR_LOW_HEAP;
        h->out = grown;
        h->out_cap = cap;
    }
    fh_model_fill(&spec, m);
    int rc = h->port.engine_load(h->port.ctx, slot, model, n, &spec, &info->arena_used);
    return rc < 0 ? rc : FC_OK;
}

static int engine_invoke(void *ctx, uint8_t slot, const struct fc_buf *in, uint32_t nin,
                         struct fc_buf *out, uint32_t nout, uint32_t *us) {
    struct fh *h = ctx;
    const uint8_t *ins[FC_TENSORS_MAX];
    uint32_t in_len[FC_TENSORS_MAX], out_len[FC_TENSORS_MAX] = {0}, at = 0;
    for (uint32_t i = 0; i < nin; i++) {
        ins[i] = in[i].p;
        in_len[i] = in[i].n;
    }
    int rc = h->port.engine_invoke(h->port.ctx, slot, ins, in_len, (int)nin, h->out, h->out_cap,
                                   out_len, (int)nout, us);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < nout; i++) {
        if (out_len[i] > h->out_cap - at)
            return FC_ERR_IO_CONTRACT;
        out[i].p = h->out + at;
        out[i].n = out_len[i];
        at += out_len[i];
    }
    return FC_OK;
}

static int engine_reset(void *ctx, uint8_t slot) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    int rc = port->engine_reset(port->ctx, slot);
    return rc < 0 ? rc : FC_OK;
}

static int engine_unload(void *ctx, uint8_t slot) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    return port->engine_unload(port->ctx, slot);
}

static int engine_probe(void *ctx, uint8_t slot, const uint8_t *model, uint32_t n,
                        const struct fc_model *m, uint32_t *bytes) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    struct fh_model spec;
    fh_model_fill(&spec, m);
    int rc = port->engine_probe(port->ctx, slot, model, n, &spec, bytes);
    return rc < 0 ? rc : FC_OK;
}

static int hal_capture(void *ctx, uint8_t slot) {
    const struct fh_port *port = &((struct fh *)ctx)->port;
    int rc = port->capture(port->ctx, slot);
    return rc < 0 ? rc : FC_OK;
}

/* --- keep
 * ----------------------------------------------------------------------------------------- */

int fh_keep_open(struct fh *h, const char *flash_path) {
    char path[4096];
    int len = snprintf(path, sizeof path, "%s.keep", flash_path), rc = FC_ERR_FLASH_IO;
    if (len < 0 || (size_t)len >= sizeof path)
        return rc;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return rc;
    if (ftruncate(fd, KEEP_BYTES) == 0) {
        void *p = mmap(NULL, KEEP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p != MAP_FAILED) {
            h->keep = p;
            rc = FC_OK;
        }
    }
    close(fd);
    return rc;
}

void fh_keep_close(struct fh *h) {
    if (h->keep)
        munmap(h->keep, KEEP_BYTES);
    h->keep = NULL;
}

void fh_hal_init(struct fh *h) {
    h->engine = (struct fc_engine){
        .ctx = h,
        .check = engine_check,
        .load = engine_load,
        .invoke = engine_invoke,
        .reset = engine_reset,
        .unload = engine_unload,
        .probe = h->port.engine_probe ? engine_probe : NULL,
    };
    h->hal = (struct fc_hal){
        .ctx = h,
        .read = hal_read,
        .program = hal_program,
        .erase = hal_erase,
        .capacity = hal_capacity,
        .map = hal_map,
        .unmap = hal_unmap,
        .digest_begin = hal_digest_begin,
        .digest_add = hal_digest_add,
        .digest_end = hal_digest_end,
        .verify = hal_verify,
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
        .capture = h->port.capture ? hal_capture : NULL,
        .reboot = hal_reboot,
        .log = hal_log,
        .engine = &h->engine,
    };
}
