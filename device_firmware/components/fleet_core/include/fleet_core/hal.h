/* hal.h: what a port provides. Results: 0 = done, negative = enum fc_err. All calls come from the
 * task that drives the core.
 */
#ifndef FLEET_CORE_HAL_H
#define FLEET_CORE_HAL_H

#include <stddef.h>
#include <stdint.h>

#include "fleet_core/codes.h"
#include "fleet_core/limits.h"

struct fc_model;

enum fc_area { FC_META, FC_FW_HDR, FC_FW_IMG, FC_BANK0 /* + 2 * slot + bank */ };
#define FC_AREAS (FC_BANK0 + 2u * FC_SLOTS)

/* The port's SHA-256 state; the port asserts that its own type fits. */
struct fc_digest {
    _Alignas(8) uint8_t opaque[FC_DIGEST_BYTES];
};

struct fc_buf {
    const uint8_t *p;
    uint32_t n;
};

struct fc_load_info {
    uint32_t arena_used; /* bytes, measured after allocation */
};

/* Runs models. Negative results are enum fc_err; what is no code of SPEC.md counts as load_failed.
 */
struct fc_engine {
    void *ctx;
    int (*check)(void *ctx, const uint8_t *model, uint32_t n); /* an index walk, nothing executed */
    int (*load)(void *ctx, uint8_t slot, const uint8_t *model, uint32_t n, const struct fc_model *m,
                struct fc_load_info *info);
    /* Outputs point into the engine and live until its next call. */
    int (*invoke)(void *ctx, uint8_t slot, const struct fc_buf *in, uint32_t nin,
                  struct fc_buf *out, uint32_t nout, uint32_t *us);
    int (*reset)(void *ctx, uint8_t slot);
    int (*unload)(void *ctx, uint8_t slot); /* fine when nothing is loaded */
    /* May be NULL. Finds the smallest arena that the loaded model needs; it is unloaded next. */
    int (*probe)(void *ctx, uint8_t slot, const uint8_t *model, uint32_t n,
                 const struct fc_model *m, uint32_t *bytes);
};

struct fc_hal {
    void *ctx;
    int (*read)(void *ctx, uint8_t area, uint32_t off, void *dst, uint32_t n);
    /* off and n are multiples of 32; the bytes were erased before and not programmed since. */
    int (*program)(void *ctx, uint8_t area, uint32_t off, const void *src, uint32_t n);
    int (*erase)(void *ctx, uint8_t area, uint32_t off); /* exactly one sector */
    uint32_t (*capacity)(void *ctx, uint8_t area);       /* bytes, 0 = no such area */
    int (*map)(void *ctx, uint8_t area, uint32_t off, uint32_t n, const uint8_t **p);
    void (*unmap)(void *ctx, const uint8_t *p);
    void (*digest_begin)(struct fc_digest *d);
    void (*digest_add)(struct fc_digest *d, const void *p, size_t n);
    void (*digest_end)(struct fc_digest *d, uint8_t out[32]);
    int (*verify)(const uint8_t sig[64], const void *msg, size_t n, const uint8_t key[32]);
    int (*mac)(void *ctx, const void *msg, size_t n,
               uint8_t out[32]); /* the key stays in the port */
    /* Enqueue only, never block. A token > 0, FC_ERR_FULL or another error. */
    int (*send)(void *ctx, const char *topic, const uint8_t *p, size_t n, int qos, int retain);
    int (*watch)(void *ctx, const char *filter, int qos); /* again = retained messages again */
    int (*unwatch)(void *ctx, const char *filter);
    int (*reconnect)(void *ctx); /* a new connection, soon: probation's proof */
    uint64_t (*clock_ms)(void *ctx);
    uint64_t (*unix_s)(void *ctx); /* 0 = not synchronised */
    uint32_t (*random)(void *ctx);
    enum fc_reset (*reset_reason)(void *ctx, uint32_t *raw);
    uint8_t *(*keep)(void *ctx);  /* 64 B that survive a reset and sleep, not a power loss */
    int (*may_switch)(void *ctx); /* 0, or low_power, low_heap, busy */
    uint32_t (*heap_free)(void *ctx);
    int (*rssi)(void *ctx); /* dBm, 0 = unknown */
    void (*identify)(void *ctx);
    int (*capture)(void *ctx, uint8_t slot); /* keep the next window of raw input; may be NULL */
    void (*reboot)(void *ctx);
    void (*log)(void *ctx, int level, uint32_t event, uint32_t a, uint32_t b);
    const struct fc_engine *engine;
};

#endif
