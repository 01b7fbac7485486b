/* internal.h: what the core's files call of each other. */
#ifndef FLEET_CORE_SRC_INTERNAL_H
#define FLEET_CORE_SRC_INTERNAL_H

#include <stddef.h>
#include <string.h>

#include "bytes.h"
#include "cbor.h"
#include "cose.h"
#include "documents.h"
#include "fleet_core/app.h"
#include "fleet_core/core.h"

#define FC_NO_BANK 255u

/* A document being judged: FC_MSG_MAX bytes with FC_HEAD before them. */
static inline uint8_t *fc_msg(struct fc_core *core) {
    return core->work + FC_HEAD;
}

/* --- metalog.c: records and stored documents ----------------------------------------- */
/* Finds the newest valid record; a blank log gives the empty record. FC_OK, FC_ERR_FLASH_IO. */
int fc_log_open(struct fc_core *core);
/* A copy of the record to change, in `work`: no document and no uplink may be made before
 * fc_log_commit(), and nothing happens before it. */
struct fc_record *fc_log_edit(struct fc_core *core);
/* Appends the edited record. FC_OK, or FC_ERR_FLASH_IO and the old record stays in force. */
int fc_log_commit(struct fc_core *core);
enum fc_doc { FC_DOC_TRUST, FC_DOC_DESIRED };
/* Writes a message to the sector that the record does not name; *sector = which (0, 1). */
int fc_doc_store(struct fc_core *core, enum fc_doc doc, const uint8_t *p, size_t n,
                 uint8_t *sector);
/* Reads the document that the record names into fc_msg(). Its length, 0 = none or damaged. */
uint32_t fc_doc_load(struct fc_core *core, enum fc_doc doc);

/* --- bank.c: sectors, manifests, leaves, chunks -------------------------------------- */
uint8_t fc_bank_area(uint32_t slot, uint8_t bank);
/* The bank that does not run. */
uint8_t fc_bank_idle(const struct fc_core *core, uint32_t slot);
/* Erase, program, read back one sector. lead 4: the length goes before the bytes, 0: it does not.
 * FC_OK, FC_ERR_FLASH_IO. */
int fc_sector_write(struct fc_core *core, uint8_t area, uint32_t off, const uint8_t *p, size_t n,
                    uint32_t lead);
/* Reads a message behind its length into fc_msg(). Its length, 0 = none whose SHA-256 begins with
 * the id. */
uint32_t fc_message_read(struct fc_core *core, uint8_t area, uint32_t off, const uint8_t *id,
                         size_t id_len);
uint32_t fc_leaf_sectors(const struct fc_manifest *m);
uint32_t fc_chunk_off(const struct fc_manifest *m, uint32_t index);
uint32_t fc_chunk_len(const struct fc_manifest *m, uint32_t index);

/* The bank that the job fills or tests. */
static inline uint8_t fc_job_area(const struct fc_core *core) {
    return fc_bank_area(core->job.slot, core->job.bank);
}
/* Adds a stretch of it to a digest. FC_ERR_FLASH_IO */
int fc_bank_hash(struct fc_core *core, uint32_t off, uint32_t n, struct fc_digest *d);
/* FC_OK, FC_ERR_LEAF_LIST (wrong length or digest), FC_ERR_FLASH_IO. */
int fc_bank_put_leaves(struct fc_core *core, const uint8_t *p, size_t n);
/* The stored leaf list has the signed digest. FC_OK, FC_ERR_LEAF_LIST, FC_ERR_FLASH_IO. */
int fc_bank_leaves_check(struct fc_core *core);
/* Stores a received chunk. FC_OK, FC_ERR_DROP (no such index, wrong length, wrong leaf),
 * FC_ERR_FLASH_IO. */
int fc_bank_put_chunk(struct fc_core *core, uint32_t index, const uint8_t *p, size_t n);
/* The chunk in flash fits its leaf: 1 yes, 0 no, negative: flash cannot be read. */
int fc_bank_has_chunk(struct fc_core *core, uint32_t index);

/* --- checks.c: documents against the device's state ---------------------------------- */
uint64_t fc_clock(const struct fc_core *core);      /* uptime, ms */
uint64_t fc_now_signed(const struct fc_core *core); /* unix s, from signed documents and uptime */
uint64_t fc_now(const struct fc_core *core);        /* the best clock, 0 = unknown */
void fc_signed_time(struct fc_core *core, uint64_t issued);
/* Time stamps of telemetry: unix ms of an uptime; 1 or 2 = the clock it came from, 0 = unknown. */
int fc_wall_ms(const struct fc_core *core, uint64_t at_ms, uint64_t *out);
const struct fc_config *fc_cfg(const struct fc_core *core);
enum fc_check {
    FC_CHECK_NEW,      /* everything */
    FC_CHECK_OTHER,    /* it ran here before: no seq rule, no expiry */
    FC_CHECK_DOCUMENT, /* form, signatures, least seq and expiry only: the shared vectors */
};
/* Copies a received document into fc_msg() (p NULL: it lies there) and parses its envelope into
 * core->cose. */
int fc_cose_open(struct fc_core *core, enum fc_kind kind, const uint8_t *p, size_t n);
/* A manifest as an offer for a slot, received or (p NULL) in fc_msg(). Any code of section 6's
 * table; core->detail and core->deferred tell more. */
int fc_manifest_check(struct fc_core *core, uint32_t slot, const uint8_t *p, size_t n,
                      enum fc_check how, struct fc_manifest *m);
/* Parsed without signatures from fc_msg(), for banks whose id the record vouches for. model may be
 * NULL. */
int fc_manifest_read(struct fc_core *core, uint32_t n, struct fc_manifest *m,
                     struct fc_model *model);
/* FC_OK, or low_power, low_heap, busy, maintenance_window. */
int fc_may_switch(struct fc_core *core);

/* --- accept.c ------------------------------------------------------------------------ */
int fc_accept_trust(struct fc_core *core, const uint8_t *p, size_t n);
int fc_accept_desired(struct fc_core *core, const uint8_t *p, size_t n);
int fc_accept_command(struct fc_core *core, const uint8_t *p, size_t n);
/* Takes over the desired document in core->tmp (also the stored one at boot). */
void fc_desired_apply(struct fc_core *core);
void fc_topic_own(const struct fc_core *core, char out[FC_TOPIC_MAX], const char *kind);
/* Text and numbers behind each other; both return where the text ends. */
char *fc_text_put(char *p, const char *text);
char *fc_text_number(char *p, uint32_t v);
void fc_watch_own(struct fc_core *core);

/* --- fetch.c ------------------------------------------------------------------------- */
void fc_job_unwatch(struct fc_core *core);
int fc_fetch_ask(struct fc_core *core);    /* FC_JOB_MANIFEST, FC_JOB_LEAVES */
int fc_fetch_rehash(struct fc_core *core); /* FC_JOB_REHASH */
int fc_fetch_chunks(struct fc_core *core); /* FC_JOB_CHUNKS */

/* --- job.c --------------------------------------------------------------------------- */
void fc_job_end(struct fc_core *core);
void fc_job_fault(struct fc_core *core); /* a flash operation failed */
void fc_job_refuse(struct fc_core *core, int code, uint32_t detail);
void fc_job_stage(struct fc_core *core, enum fc_stage stage);
void fc_job_wait(struct fc_core *core, uint32_t ms);
int fc_job_leave(struct fc_core *core, uint32_t slot); /* a fetch ends, its chunks stay */
void fc_slot_refuse(struct fc_core *core, uint32_t slot, int code, uint32_t detail);
void fc_slot_set(struct fc_core *core, uint32_t slot, enum fc_state state, int code,
                 uint32_t detail);
int fc_is_overdue(const struct fc_core *core, uint32_t slot); /* past its deadline */
uint8_t fc_rest_phase(const struct fc_rec_slot *rs);

/* --- update.c ------------------------------------------------------------------------ */
/* One unit of update work. 1 = call again at once. */
int fc_update_step(struct fc_core *core);
uint64_t fc_update_due(const struct fc_core *core); /* uptime when the next step is due */
int fc_update_derive(struct fc_core *core, uint32_t slot);
void fc_update_retarget(struct fc_core *core, uint32_t slot); /* its entry is about to change */
void fc_update_link(struct fc_core *core); /* the connection came up or went down */
/* A message below f1/model/<mid>/. */
int fc_update_message(struct fc_core *core, const char *rest, size_t rest_len, const uint8_t *p,
                      size_t n);
int fc_record_fetch(struct fc_core *core);                             /* row 3 */
const uint8_t *fc_slot_mid(const struct fc_core *core, uint32_t slot); /* what events are about */

/* --- trial.c ------------------------------------------------------------------------- */
void fc_trial_begin(struct fc_core *core, uint8_t group); /* record TRIAL, then load */
void fc_trial_resume(struct fc_core *core);
int fc_trial_step(struct fc_core *core); /* stages FC_JOB_LOAD .. FC_JOB_FAIL */
void fc_trial_fail(struct fc_core *core, int code, uint32_t detail);
void fc_trial_sample(struct fc_core *core, uint32_t slot, int failed); /* an inference ended */
void fc_golden_event(struct fc_core *core);
void fc_keep_write(struct fc_core *core, int expected);

/* --- run.c --------------------------------------------------------------------------- */
/* Loads the model of the job's bank; as: 1 the confirmed one, 2 the candidate. */
int fc_model_load(struct fc_core *core, uint8_t as);
int fc_engine_code(int rc);
int fc_run_begin(struct fc_core *core, uint32_t slot);
int fc_run_step(struct fc_core *core); /* stages FC_JOB_RUN_* */
int fc_check_begin(struct fc_core *core, uint32_t slot, uint64_t verb_counter);
int fc_check_step(struct fc_core *core); /* stage FC_JOB_CHECK */
int fc_arena_probe(struct fc_core *core, uint32_t slot, uint32_t *bytes);
void fc_slot_unload(struct fc_core *core, uint32_t slot);

/* --- selftest.c ---------------------------------------------------------------------- */
/* Compares one output with its golden bytes. Largest difference in LSB, UINT32_MAX for NaN. */
uint32_t fc_output_diff(uint8_t dtype, uint32_t bytes, const uint8_t *got, const uint8_t *golden);
/* Starts with the loaded model; then one vector per call. 1 = more, 0 = finished, negative = error.
 */
int fc_selftest_begin(struct fc_core *core);
int fc_selftest_step(struct fc_core *core);

/* --- report.c, event.c, telemetry.c -------------------------------------------------- */
int fc_report_send(struct fc_core *core);
void fc_report_want(struct fc_core *core, uint8_t how); /* 1 progress, 2 at once */
/* Queues an event about a slot's model, or slot -1. Its numbers in SPEC.md's order, the third of
 * which may have 64 bits and a sign; a clock step's only one is `wide`. */
void fc_event_put(struct fc_core *core, enum fc_event_kind kind, int slot, uint32_t a, uint32_t b,
                  int64_t wide, uint32_t d);
void fc_event_refusal(struct fc_core *core, int slot, int code, uint32_t detail);
void fc_refusal(struct fc_core *core, int code, uint32_t detail);
int fc_event_send(struct fc_core *core); /* 1 = sent one, 0 = nothing to do, negative = error */
void fc_event_sent(struct fc_core *core, int32_t token);
void fc_event_link(struct fc_core *core);
#if FC_TELEMETRY
int fc_tele_send(struct fc_core *core);
void fc_tele_sent(struct fc_core *core, int32_t token);
void fc_tele_link(struct fc_core *core, int up, int fresh);
void fc_tele_flag(struct fc_core *core, uint32_t flag); /* in the next record of every slot */
void fc_tele_cut(struct fc_core *core, uint32_t slot);  /* the model run ends: close its window */
int fc_tele_step(struct fc_core *core); /* close and freeze what is due; 1 = worked */
uint64_t fc_tele_due(const struct fc_core *core);
uint32_t fc_tele_ring_used(const struct fc_core *core); /* bytes of the batches kept */
uint32_t fc_tele_resend(struct fc_core *core, uint32_t from, uint32_t to);
#else /* nothing is kept, so there is never anything to do */
static inline int fc_tele_send(struct fc_core *core) {
    (void)core;
    return 0;
}
static inline void fc_tele_sent(struct fc_core *core, int32_t token) {
    (void)core;
    (void)token;
}
static inline void fc_tele_link(struct fc_core *core, int up, int fresh) {
    (void)core;
    (void)up;
    (void)fresh;
}
static inline void fc_tele_flag(struct fc_core *core, uint32_t flag) {
    (void)core;
    (void)flag;
}
static inline void fc_tele_cut(struct fc_core *core, uint32_t slot) {
    (void)core;
    (void)slot;
}
static inline int fc_tele_step(struct fc_core *core) {
    (void)core;
    return 0;
}
static inline uint64_t fc_tele_due(const struct fc_core *core) {
    (void)core;
    return UINT64_MAX;
}
static inline uint32_t fc_tele_ring_used(const struct fc_core *core) {
    (void)core;
    return 0;
}
#endif
/* A writer for the payload of an uplink, in fc_msg(). */
struct fc_out fc_uplink_open(struct fc_core *core);
/* Hands a framed message to the port, below our own topic. Token, or an error. */
int fc_uplink_hand(struct fc_core *core, const char *kind, const uint8_t *msg, size_t size,
                   int retain);
/* Frames what was written to `out` and hands it to the port. Token, or an error. */
int fc_uplink_send(struct fc_core *core, enum fc_kind kind, const struct fc_out *out, size_t most,
                   int retain);

void fc_log(struct fc_core *core, int level, enum fc_log event, uint32_t a, uint32_t b);

#endif
