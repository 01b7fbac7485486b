/* fleet_host.h: the flat ABI of the host build. Opaque handle, integers and pointers only.
 *
 * Everything between the two "cdef" markers is read by cffi as it stands, so it holds no macros
 * and no includes. One `struct fh` is one virtual device: the portable core, a file-backed NOR
 * flash, libsodium. It is used from one thread; callbacks run inside the call that causes them.
 */
#ifndef FLEET_HOST_H
#define FLEET_HOST_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */
struct fh;

/* What a device is. Pointers are copied by fh_open(). */
struct fh_ident {
    const char *device_id;        /* [a-z0-9][a-z0-9-]{0,31} */
    const char *firmware_version; /* "major.minor.patch" */
    const char *esp_nn;           /* esp-nn version, "none" on the host */
    uint8_t installation_id[16];
    uint8_t class_id[16];
    uint8_t chip; /* SPEC.md section 5; 0 = host */
    uint8_t root_threshold;
    uint8_t n_roots; /* 1..4 */
    uint8_t roots[4][32];
    uint8_t mac_key[32];
    uint32_t least_trust_version;
    uint32_t boot;             /* this boot's number, counted by the caller */
    uint32_t arena_bytes;      /* largest tensor arena of the class, shared by all slots */
    uint32_t heap_floor;       /* no switch and no probation with less free heap, 0 = none */
    uint32_t slot_capacity[4]; /* model + golden blob, bytes, whole chunks; 0 = no such slot */
    uint32_t probation_n;      /* least inferences in probation */
    uint32_t probation_s;      /* least seconds in probation */
    const uint8_t *ops_cbor;   /* linked operators, the CBOR array of manifest key 12 */
    size_t ops_len;
};

struct fh_tensor {
    uint8_t dtype; /* TFLite TensorType */
    uint8_t ndim;
    uint32_t dim[5];
    uint32_t scale_bits; /* IEEE 754 single */
    int32_t zero_point;
    uint32_t bytes;
};

/* A parsed, signature-checked manifest. Hints are 0 when absent. */
struct fh_model {
    uint8_t id[32]; /* SHA-256 of the signed manifest message */
    char name[33];
    char version[25];
    uint32_t seq;
    uint32_t floor;
    uint32_t size;
    uint32_t arena;
    uint8_t nin;
    uint8_t nout;
    struct fh_tensor in[8];
    struct fh_tensor out[8];
    uint32_t window;
    uint32_t hop;
    uint32_t channels;
    uint32_t reset_policy;
    uint32_t variables;
    uint32_t latency_us;
    uint32_t head;
    uint32_t classes;
    uint32_t anomaly_kind;
    uint32_t anomaly_threshold;
    uint8_t labels[8];
};

/* What the caller provides. Every int result: 0 or more = done, negative = -code of SPEC.md
 * section 5, or -100 (FC_ERR_PORT), which cffi returns when a Python callback raised. */
struct fh_port {
    void *ctx;
    /* Enqueue only. Returns a token > 0 (reported back by fh_sent() for QoS 1), -101 (FULL). */
    int (*send)(void *ctx, const char *topic, const uint8_t *payload, size_t n, int qos,
                int retain);
    int (*watch)(void *ctx, const char *filter, int qos);
    int (*unwatch)(void *ctx, const char *filter);
    int (*reconnect)(void *ctx);  /* drop the connection and make a new one, soon */
    int (*may_switch)(void *ctx); /* 0, or -22 low_power, -23 low_heap, -25 busy */
    void (*reboot)(void *ctx);    /* soon; the process may end after this call returned */
    void (*identify)(void *ctx);
    void (*log)(void *ctx, int level, uint32_t event, uint32_t a, uint32_t b);
    int (*engine_check)(void *ctx, const uint8_t *model, uint32_t n);
    int (*engine_load)(void *ctx, int slot, const uint8_t *model, uint32_t n,
                       const struct fh_model *spec, uint32_t *arena_used);
    /* Inputs: in[i] has in_len[i] bytes. Outputs: written one after another into out (out_cap
     * bytes), out_len[i] each, nout of them. us = time of the invoke alone. */
    int (*engine_invoke)(void *ctx, int slot, const uint8_t *const *in, const uint32_t *in_len,
                         int nin, uint8_t *out, uint32_t out_cap, uint32_t *out_len, int nout,
                         uint32_t *us);
    int (*engine_reset)(void *ctx, int slot);
    int (*engine_unload)(void *ctx, int slot);
    /* May be NULL: the smallest arena that the loaded model needs. */
    int (*engine_probe)(void *ctx, int slot, const uint8_t *model, uint32_t n,
                        const struct fh_model *spec, uint32_t *bytes);
    int (*capture)(void *ctx, int slot); /* may be NULL: keep the next window of raw input */
};

/* One inference, for telemetry and probation. */
struct fh_sample {
    uint8_t slot;
    int8_t failed;          /* 1 = invoke failed; the rest is ignored */
    uint32_t us;            /* time of the invoke */
    const uint16_t *scores; /* class scores in 1e-4, 0..10000 */
    uint32_t n_scores;      /* 0..256; 0 = no class scores */
    int32_t label;          /* proxy label, -1 none */
};

/* One window's outcome; scores stay until the next call. */
struct fh_result {
    uint8_t failed;
    uint8_t has_score; /* anomaly kinds 1 and 2; kind 3 follows from the scores */
    uint32_t us;
    const uint16_t *scores; /* 1e-4 */
    uint32_t n_scores;
    uint32_t score;   /* 1e-3 */
    int32_t decision; /* class decided on at this window, -1 none */
    uint32_t gaps;    /* told with this window */
    uint32_t dropped; /* hops lost before it */
    uint32_t resets;  /* of streaming state */
    uint32_t clamped; /* input elements outside the tensor's range, or no number */
    uint32_t faults;  /* of them no number */
};

struct fh_slot_state {
    uint8_t phase;    /* SPEC.md section 5, persisted */
    uint8_t run_bank; /* 0, 1, 255 none */
    uint8_t flags;    /* 1 other bank usable, 2 stopped, 4 reverting */
    uint8_t attempts;
    uint8_t cuts;
    uint8_t fail_code;
    uint16_t fail_detail;
    uint32_t panics;
    uint8_t run_id[16];
    uint8_t other_id[16];
    uint8_t failed_id[8];
    uint32_t failed_attempt;
    uint8_t state; /* update state, as reported */
    uint8_t code;
    uint32_t detail;
    uint32_t have;
    uint32_t total;
    uint32_t attempt;
    uint8_t loaded; /* 0 nothing, 1 the confirmed model, 2 the candidate */
    uint32_t arena_used;
    uint32_t golden_n;
    uint32_t golden_ok;
    uint32_t golden_max_diff;
    uint32_t golden_median_us;
};

struct fh_state {
    uint32_t trust_version;
    uint64_t desired_counter;
    uint64_t cmd_counter;
    uint64_t time_floor;
    uint64_t record_number;
    uint32_t panics;
    uint8_t safe_mode;
    uint8_t stale;
    uint8_t link;
    uint8_t refusal_code;
    uint32_t refusal_detail;
    uint32_t dropped_messages; /* wrong topic, length or content: counted, not reported */
    uint32_t dropped_chunks;   /* chunks that failed length or leaf */
    uint32_t telemetry_counter;
    uint32_t ring_batches;
    uint32_t ring_bytes;
    uint64_t flash_ops;
    uint32_t config_heartbeat_s;
    uint32_t config_window_s;
    uint32_t config_period_ms;
    uint32_t config_threshold;
    uint32_t config_alarm_k;
    uint32_t config_alarm_n;
    uint32_t config_sample_n;
    uint32_t config_chunk_cap;
    uint32_t config_probation_n;
    uint32_t config_probation_s;
    uint32_t config_invalid; /* bit per refused key */
};

/* Opens (or makes, erased) the flash file and its ".keep" neighbour. NULL and *err = -code. */
struct fh *fh_open(const char *flash_path, const struct fh_ident *ident, const struct fh_port *port,
                   int *err);
void fh_close(struct fh *h);

/* Starts the core. reset_reason as SPEC.md section 5; `keep` is cleared for power and brownout. */
int fh_boot(struct fh *h, int reset_reason, uint32_t raw);
/* fresh = the broker held no session: what it had acknowledged may be lost, the ring is re-sent. */
int fh_link(struct fh *h, int up, int fresh);
int fh_message(struct fh *h, const char *topic, const uint8_t *payload, size_t n);
int fh_sent(struct fh *h, int token); /* a QoS 1 publish was acknowledged */
/* A bounded piece of work; *again_ms = when to call again at the latest, 0 = at once. */
int fh_step(struct fh *h, uint32_t *again_ms);
int fh_sample(struct fh *h, const struct fh_sample *s);
void fh_health(struct fh *h, uint32_t heap_free, int rssi); /* measured by the caller */

/* The shipped pipeline, fed with float32 samples. fh_app_open() gives it a ring for `frames` more
 * than it needs; 0 or -code, and what one window is. Again when fh_app_ready() says 0. */
int fh_app_open(struct fh *h, int slot, uint32_t frames, uint32_t *window, uint32_t *channels);
int fh_app_ready(struct fh *h, int slot);
int fh_app_feed(struct fh *h, int slot, const float *values, uint32_t frames);
int fh_app_gap(struct fh *h, int slot); /* samples are missing here */
/* 1 = ran and counted, 0 = no window yet, negative = -code. */
int fh_app_step(struct fh *h, int slot, int32_t label, struct fh_result *out);

/* The model that may run inferences now. 1 = filled, 0 = none. */
int fh_running(struct fh *h, int slot, struct fh_model *out);
int fh_state(struct fh *h, struct fh_state *out);
int fh_slot(struct fh *h, int slot, struct fh_slot_state *out);

/* Clock: by default CLOCK_MONOTONIC and time(). After this call only what was set. */
void fh_clock_set(struct fh *h, uint64_t ms, uint64_t unix_s);
void fh_random_seed(struct fh *h, uint32_t seed); /* repeatable jitter and tears */

/* Faults. A cut happens at the n-th flash operation from now (1 = the next). mode 0 nothing done,
 * 1 torn (random prefix, half-erased sector), 2 done. The process then ends with fh_exit_cut(). */
void fh_cut_after(struct fh *h, uint64_t n_ops, int mode);
int fh_exit_cut(void);
uint32_t fh_capacity(struct fh *h, int area);
int fh_flip(struct fh *h, int area, uint32_t off, int bit);
/* kind 0 good, 1 erase fails, 2 programmed bits stick, 3 program fails. */
int fh_bad_sector(struct fh *h, int area, uint32_t sector, int kind);
int fh_flash_read(struct fh *h, int area, uint32_t off, uint8_t *dst, uint32_t n);
uint32_t fh_erase_count(struct fh *h, int area, uint32_t sector);

/* Codecs alone, for the shared vectors: 0 or -code, *detail filled where there is one. */
int fh_check_cbor(const uint8_t *p, size_t n);
/* slot -1: form, signatures, least seq and expiry only, whatever this device is. */
int fh_check_manifest(struct fh *h, int slot, const uint8_t *msg, size_t n, struct fh_model *out,
                      uint32_t *detail);
/* cdef end */

/* For C tests: called instead of ending the process. It must not return. */
void fh_on_cut(struct fh *h, void (*cut)(void *ctx), void *ctx);

#endif
