/* documents.h: signed documents after they were checked (SPEC.md section 6). Plain values, no
 * pointers into messages.
 */
#ifndef FLEET_CORE_DOCUMENTS_H
#define FLEET_CORE_DOCUMENTS_H

#include <stdint.h>

#include "fleet_core/limits.h"

struct fc_name_rule {
    uint8_t hash[8]; /* SHA-256(model name)[0:8] */
    uint32_t least_seq;
    uint8_t resets;
};

/* The roles of keys, in the order of the trust document's keys 3, 5, 7 and 10. */
enum fc_role { FC_ROOT, FC_RELEASE, FC_ONLINE, FC_FIRMWARE, FC_ROLES };
#define FC_ROLE_KEYS 4u

struct fc_role_keys {
    uint8_t n, threshold; /* the online role's threshold is 1 */
    uint8_t key[FC_ROLE_KEYS][32];
};

struct fc_trust {
    uint32_t version;
    uint8_t n_revoked, n_names;
    uint64_t issued;
    uint64_t expires; /* 0 = never */
    struct fc_role_keys role[FC_ROLES];
    uint8_t revoked[8][8];
    struct fc_name_rule names[FC_NAMES];
};

struct fc_tensor {
    uint8_t dtype; /* TFLite TensorType */
    uint8_t ndim;
    uint32_t dim[FC_DIMS_MAX];
    uint32_t scale_bits;
    int32_t zero_point;
    uint32_t bytes; /* <= FC_TENSOR_BYTES_MAX */
};

/* Hints of manifest key 21; 0 = not said, unless has_* tells. */
struct fc_hints {
    uint32_t window, hop, channels, reset_policy, variables, latency_us, head, classes;
    uint32_t anomaly_kind, anomaly_threshold, source; /* source: 0 embedding, 1 input moments */
    uint32_t front, embedding;                        /* embedding FC_NO_OUTPUT = none */
    uint32_t refractory_ms;
    uint16_t decide_threshold;            /* 1e-4 */
    uint8_t decide_n, decide_k, decide_m; /* decide_n 0 = no decisions */
    uint8_t front_digest[8], labels[8];
};
#define FC_NO_OUTPUT 255u

/* Numbers for the pipeline, from the signed manifest: little-endian float32 pairs of the distance
 * {mean, weight}, then the front-end's {scale, offset} or slot; nine rising scores. */
struct fc_params {
    uint32_t cuts[9];
    uint16_t distance_bytes, front_bytes;
    uint8_t has_cuts;
    uint8_t bytes[FC_PARAMS_MAX];
};

/* What an engine and an application need to know of a loaded model. */
struct fc_model {
    uint8_t id[32]; /* SHA-256 of the signed manifest message */
    char name[33];
    char version[25];
    uint8_t nin, nout;
    uint32_t seq, floor, size, arena;
    struct fc_tensor in[FC_TENSORS_MAX];
    struct fc_tensor out[FC_TENSORS_MAX];
    struct fc_hints hints;
    struct fc_params params;
};

/* What an update needs to know of a manifest. */
struct fc_manifest {
    uint8_t id[32]; /* SHA-256 of the signed message */
    uint32_t seq, floor, size, arena;
    uint16_t name_off; /* the name: msg[name_off .. + name_n) */
    uint8_t name_n;
    uint8_t sha256[32];
    uint8_t leaves_sha256[32];
    uint16_t firmware[3];
    uint8_t kind, slot;
    uint64_t expires; /* 0 = never */
    uint8_t nin, nout;
    uint8_t dtype[2 * FC_TENSORS_MAX];  /* inputs, then outputs */
    uint32_t bytes[2 * FC_TENSORS_MAX]; /* <= FC_TENSOR_BYTES_MAX each */
    struct fc_hints hints;
    /* Golden vectors: inline at msg[golden_off .. + golden_len), or a blob behind the model. */
    uint32_t golden_off, golden_len;
    uint32_t blob_size;
    uint8_t blob_sha256[32];
    uint32_t golden_n, tol;
    /* Derived: both sums were checked against FC_CHUNKS_MAX. */
    uint32_t model_chunks, chunks;
};

struct fc_target {
    uint8_t set;    /* an entry names this slot */
    uint8_t action; /* enum fc_action */
    uint16_t attempt;
    uint8_t id[32];
    uint64_t not_before, deadline; /* unix s, 0 = none */
};

/* The numbers come first and in the order of their keys: desired.c walks them by a table. */
struct fc_config {
    uint32_t heartbeat_s, window_s, period_ms, threshold;
    uint32_t alarm_k, alarm_n;
    uint32_t maint_mask, maint_start_min, maint_min; /* mask 0 = always */
    uint32_t probation_n, probation_s;
    uint32_t sample_n, chunk_cap, sketch_s;
    uint32_t has_threshold;
    uint32_t invalid; /* bit per key whose value was refused */
};

/* A desired document while it is judged; what is in force lies in slots and configuration. */
struct fc_desired {
    uint64_t counter, issued, expires;
    uint32_t trust_version;
    struct fc_target target[FC_SLOTS];
    struct fc_config config;
};

struct fc_command {
    uint64_t counter, issued, expires;
    uint32_t trust_version;
    uint64_t verb;
    uint8_t nargs;
    uint64_t args[8];
};

#endif
