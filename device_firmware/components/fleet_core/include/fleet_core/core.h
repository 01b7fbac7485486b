/* core.h: the public face of the firmware core. One task drives a core; every call does a bounded
 * piece of work and never blocks. The caller owns the memory: no malloc, no globals.
 *
 * Fields below are the core's own: read them through the accessors of report.h and app.h.
 */
#ifndef FLEET_CORE_CORE_H
#define FLEET_CORE_CORE_H

#include "fleet_core/documents.h"
#include "fleet_core/hal.h"

struct fc_app;

/* What a device is: from provisioning and from the build. It must outlive the core. */
struct fc_ident {
    const char *device_id;
    const char *firmware_version;
    const char *esp_nn;
    uint16_t firmware[3];
    uint8_t chip;
    uint8_t inst[16];
    uint8_t class_id[16];
    uint8_t build_id[4];
    uint8_t mac_kid[4];
    uint32_t boot; /* counted beside the MAC key */
    uint32_t least_trust_version;
    uint8_t roots[4][32];
    uint8_t n_roots, root_threshold;
    uint32_t arena_bytes;
    uint32_t heap_floor; /* no switch and no probation with less free heap; 0 = none */
    uint32_t probation_n, probation_s; /* the class floor */
    const uint8_t *ops;                /* linked operators: the CBOR array of manifest key 12 */
    size_t ops_len;
};

/* Memory that the caller gives and that must outlive the core. */
struct fc_memory {
    struct fc_app *app[FC_SLOTS]; /* NULL = this firmware has no such slot */
    uint8_t *ring;                /* telemetry kept for a re-send; at least FC_RING_MIN bytes */
    uint32_t ring_bytes;
};

struct fc_rec_name {
    uint8_t hash[8];
    uint8_t id[8]; /* manifest of the highest confirmed seq */
    uint32_t seq, floor;
};

struct fc_rec_slot {
    uint8_t phase, run_bank, flags, attempts, cuts, fail_code;
    uint16_t fail_detail;
    uint8_t run_id[16], other_id[16], failed_id[8];
    uint32_t failed_attempt, panics;
};

/* A record of the metadata log: everything that survives, in one transaction. The fields lie as in
 * flash (SPEC.md section 8); metalog.c asserts offsets and byte order. */
struct fc_record {
    uint8_t magic[8];
    uint64_t number, desired_counter;
    uint8_t desired_digest[8];
    uint32_t trust_version;
    uint8_t trust_sector, desired_sector, zero_a[2];
    uint8_t trust_digest[8];
    uint64_t cmd_counter, time_floor;
    uint32_t panics, zero_b[3];
    struct fc_rec_name names[FC_NAMES];
    struct fc_rec_slot slots[FC_SLOTS_MAX];
    uint8_t no_links[FC_SLOTS_MAX]; /* times the candidate in failed_id ended with no_link */
    uint32_t zero_c[2], crc;
};

struct fc_log_pos {
    uint8_t newest; /* sector (0 or 1) of the newest record: never erased */
    uint8_t sector; /* sector being filled */
    uint8_t next;   /* first position that may be blank, 8 = full */
};

struct fc_golden {
    uint32_t n, ok, max_diff, median_us;
};

/* What a slot shows and what it has loaded; nothing here is persisted. */
struct fc_slot {
    struct fc_target target; /* newest accepted desired entry */
    uint8_t state, code;     /* enum fc_state, SPEC code */
    uint8_t given_up;        /* refused: not before a new entry */
    uint8_t loaded;          /* 0 nothing, 1 the confirmed model, 2 the candidate */
    uint8_t want_load;       /* 1 load the confirmed model, 2 hash it first */
    uint8_t ready;           /* the idle bank holds the target, verified since it was named */
    uint8_t run_broken;      /* the run bank does not hold what it should */
    uint8_t look;            /* something changed: compare with the target */
    uint16_t have, total;    /* chunks */
    uint16_t trial_attempt;  /* of the entry that the trial under way serves */
    uint32_t detail;
    uint32_t run_seq, other_seq; /* for `reported` */
    uint32_t arena_used;
    const uint8_t *mapped; /* the loaded model's bytes, while loaded */
    uint64_t look_at_ms;   /* a deferral: look again then, 0 = no */
    struct fc_golden golden;
    uint32_t spare[2]; /* 128 bytes on a 32-bit chip: an index is a shift (180 B of code) */
};

enum fc_stage {
    FC_JOB_IDLE,
    FC_JOB_RUN_HASH,
    FC_JOB_RUN_LOAD,
    FC_JOB_MANIFEST,
    FC_JOB_LEAVES,
    FC_JOB_REHASH,
    FC_JOB_CHUNKS,
    FC_JOB_DIGEST,
    FC_JOB_MEMBER, /* the next slot of a trial: its manifest is judged */
    FC_JOB_LOAD,
    FC_JOB_SELFTEST,
    FC_JOB_PROBATION,
    FC_JOB_FAIL,  /* a failed trial that is yet to be recorded */
    FC_JOB_CHECK, /* a commanded self-test of the running model */
};

/* The one piece of update work under way. */
struct fc_job {
    uint8_t stage, slot, bank;
    uint8_t watching;  /* 0 no, 1 its topic is subscribed, 2 backing off until wait_ms */
    uint8_t bad;       /* a chunk was refused: a short silence is enough to ask again */
    uint8_t tries;     /* bad manifests or leaf lists */
    uint8_t faults;    /* failed flash operations */
    uint8_t misses;    /* silences of the segment */
    uint8_t single;    /* asks chunk by chunk */
    uint8_t refetched; /* the whole digest failed once */
    uint8_t group;     /* slots of the trial, as a bit mask; 0 while fetching */
    uint8_t todo;      /* of those, the ones not tested yet */
    uint8_t again;     /* trial after a reset: the record is there, the banks are hashed again */
    uint8_t fail_code; /* FC_JOB_FAIL */
    uint8_t part;      /* while hashing: 0 model, 1 blob */
    uint8_t linked;    /* a connection was made since probation began */
    uint8_t acked;
    uint16_t index, have;
    uint16_t segment, want; /* want: chunk asked for alone */
    uint32_t fail_detail;
    uint32_t vec_off; /* next vector, from the start of the golden bytes */
    uint32_t inferences[FC_SLOTS], carried_s;
    int32_t token;         /* of the `reported` that must be acknowledged, 0 none */
    uint64_t wait_ms;      /* when the wait is over */
    uint64_t since_ms;     /* probation's clock */
    uint64_t verb_counter; /* FC_JOB_CHECK: the command to answer */
    struct fc_golden golden;
    struct fc_manifest m;
    union {
        uint8_t bitmap[(FC_CHUNKS_MAX + 8u) / 8u]; /* while fetching */
        struct fc_digest digest;                   /* while hashing the whole */
        uint32_t us[FC_TIMES_MAX];                 /* in the self-test */
    } u;
};

/* Sent telemetry, oldest first, in the caller's bytes; telemetry.c has the layout. */
struct fc_ring {
    uint8_t *bytes;
    uint32_t size;
    uint32_t first, n; /* offset of the oldest entry, number of entries */
    uint32_t end;      /* where the next entry may begin */
};

struct fc_event {
    uint32_t n; /* its number, 0 = not numbered yet */
    uint8_t kind, has_model, slot, state;
    uint8_t clock; /* of t_ms */
    uint8_t mid[8];
    int32_t token;
    uint64_t t_ms;             /* uptime, and unix once numbered */
    uint32_t v[FC_EVENT_INTS]; /* its numbers; wide stands in the place of v[2] */
    int64_t wide;
};

/* An envelope: pointers into the message; what lies before the payload is gone after
 * fc_cose_signers() */
struct fc_cose {
    uint8_t *payload;
    uint32_t n;
    uint32_t n_sigs;
    const uint8_t *sig; /* of the first signer; the others follow at equal distances */
    uint8_t own_kid[8]; /* of a COSE_Sign1 */
};

/* Small and often used things come first: their offsets make short instructions. */
struct fc_core {
    const struct fc_hal *hal;
    const struct fc_ident *id;
    struct fc_app *app[FC_SLOTS];
    uint8_t has_trust, has_desired, safe_mode, link, has_wall;
    uint8_t chain_watched; /* f1/trust/<version + 1> is subscribed */
    uint8_t reset_reason, refusal_code, n_events, want_reboot;
    uint8_t report_due; /* 1 progress, 2 now */
    uint8_t want_trial; /* slots whose trial a reset interrupted, as a bit mask */
    uint8_t deferred;   /* of the last manifest check: only an unsigned clock speaks against it */
    struct fc_log_pos log;
    uint32_t detail;       /* of the last failed manifest check or load */
    uint32_t wanted_trust; /* version that a desired document asked for */
    uint32_t reset_raw, refusal_detail;
    uint32_t event_n, report_n, tele_counter;
    uint32_t inference_n; /* inferences of this boot, all slots */
    uint8_t reset_told;   /* a sketch has said why this boot began */
    uint32_t minute_chunks, dropped_messages, dropped_chunks;
    uint64_t last_cmd_counter;
    uint64_t report_at_ms;       /* the last one */
    uint64_t retry_at_ms;        /* the outbox was full */
    uint64_t boot_ms, issued_ms; /* uptime when signed time was last taken */
    uint64_t issued_s;
    int64_t wall_offset_ms;   /* unix ms - uptime ms, from SNTP */
    uint64_t minute_ms;       /* chunk cap: the minute being counted */
    uint64_t desired_expires; /* 0 = never */
    struct fc_ring ring;
    struct fc_cose cose; /* of the document being judged */
    struct fc_job job;
    struct fc_slot slot[FC_SLOTS];
    struct fc_record rec;
    struct fc_config config; /* in force: the default until a document came, and in safe mode */
    struct fc_trust trust;   /* before a document came: the firmware's roots alone */
    struct fc_event events[FC_EVENTS_MAX];
    union {
        struct fc_trust trust;
        struct fc_desired desired;
        struct fc_command command;
        struct fc_manifest manifest;
    } tmp; /* a document while it is judged */
    /* The document being judged and its Sig_structure, an uplink being made, or the next record. */
    _Alignas(8) uint8_t work[FC_WORK];
};

/* Reads the log, counts the reset, plans what to load; the work follows in fc_core_step().
 *   FC_OK            running; also when flash is blank or damaged
 *   FC_ERR_SCHEMA    the identity or the memory is unusable
 *   FC_ERR_FLASH_IO  the area for metadata is missing or unreadable */
int fc_core_boot(struct fc_core *core, const struct fc_hal *hal, const struct fc_ident *ident,
                 const struct fc_memory *memory);

/* The connection came up or went down. fresh: the broker held no session for this device. */
void fc_link_set(struct fc_core *core, int up, int fresh);

/* A whole received message. Returns FC_OK or why it was dropped or refused; the core has dealt with
 * it in either case. */
int fc_message_put(struct fc_core *core, const char *topic, size_t topic_len, const uint8_t *p,
                   size_t n);

/* A QoS 1 publish was acknowledged. */
void fc_sent(struct fc_core *core, int32_t token);

/* One piece of work: at most one sector written or 4096 B hashed or one vector run. *again_ms =
 * when to call again at the latest, 0 = at once. */
void fc_core_step(struct fc_core *core, uint32_t *again_ms);

/* One inference of the model that fc_running() gave. scores in 1e-4. */
struct fc_sample {
    uint8_t slot;
    uint8_t failed;
    uint32_t us;
    const uint16_t *scores;
    uint32_t n_scores;
    int32_t label;
};
int fc_sample_put(struct fc_core *core, const struct fc_sample *s);

/* The model that may run inferences in a slot now, NULL when there is none. */
const struct fc_model *fc_running(const struct fc_core *core, uint32_t slot);

#endif
