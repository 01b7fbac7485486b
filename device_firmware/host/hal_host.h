/* hal_host.h: the host's struct fc_hal over nor.c, libsodium and the caller's struct fh_port. */
#ifndef FLEET_HOST_HAL_HOST_H
#define FLEET_HOST_HAL_HOST_H

#include "fleet_core/app.h"
#include "fleet_core/core.h"
#include "fleet_host.h"
#include "nor.h"

struct fh {
    struct fc_core core;
    struct fc_app app[FC_SLOTS];
    struct fc_result result;  /* of the last window */
    void *samples[FC_SLOTS];  /* sensor rings, NULL = not opened */
    uint8_t *input[FC_SLOTS]; /* input tensors */
    _Alignas(4) uint8_t ring[16384];
    struct fc_hal hal;
    struct fc_engine engine;
    struct fc_ident ident;
    struct fh_port port;
    struct nor nor;
    uint8_t *keep; /* 64 mapped bytes of the ".keep" file */
    char device_id[33], firmware_version[33], esp_nn[33];
    uint8_t ops[FC_OPS_BYTES_MAX];
    uint8_t mac_key[32];
    int reset_reason;
    uint32_t reset_raw;
    int fixed_clock; /* the caller tells the time */
    uint64_t clock_ms, unix_s;
    int64_t lie_s; /* what the wall clock is wrong by; lie_ppm since lie_from */
    double lie_ppm;
    uint64_t lie_from;
    int no_clock;
    uint32_t slow_us; /* a flash operation takes so much longer */
    uint32_t seed;    /* of random numbers, 0 = from the system */
    uint32_t heap_free;
    int rssi;
    uint8_t *out; /* outputs of the last invoke */
    uint32_t out_cap;
    void (*on_cut)(void *ctx); /* NULL = end the process */
    void *cut_ctx;
};

#define FH_EXIT_CUT 83

void fh_hal_init(struct fh *h);
void fh_model_fill(struct fh_model *out, const struct fc_model *m);
int fh_keep_open(struct fh *h, const char *flash_path);
void fh_keep_close(struct fh *h);

#endif
