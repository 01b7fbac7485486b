/* trial.c: from a verified candidate to CONFIRMED, or back; and loading the confirmed model.
 *
 * The record TRIAL is written before the engine sees a byte of the candidate: a model that crashes
 * the runtime is then counted by the next boot and given up by the second. The numbers in comments
 * are the rows of "Power cuts" in DESIGN.md.
 */
#include "crc32.h"
#include "internal.h"

static struct fc_rec_slot *rec_slot(struct fc_core *core, uint8_t slot) {
    return &core->rec.slots[slot];
}

/* Progress of a probation, for resets we asked for: 64 B that a power loss clears. */
void fc_keep_write(struct fc_core *core, int expected) {
    uint8_t *p = core->hal->keep(core->hal->ctx);
    const struct fc_job *j = &core->job;
    if (!p)
        return;
    memset(p, 0, 64);
    memcpy(p, "KEEP", 4);
    p[4] = (uint8_t)expected;
    if (j->stage == FC_JOB_PROBATION) {
        p[5] = 1;
        p[6] = j->slot;
        fc_put32(p + 8, j->inferences);
        fc_put32(p + 12, j->carried_s + (uint32_t)((fc_clock(core) - j->since_ms) / 1000));
        memcpy(p + 16, j->m.id, 16);
    }
    fc_put32(p + 60, fc_crc32(p, 60));
}

void fc_slot_unload(struct fc_core *core, uint8_t slot) {
    struct fc_slot *s = &core->slot[slot];
    const struct fc_engine *engine = core->hal->engine;
    fc_tele_cut(core, slot);
    engine->unload(engine->ctx, slot);
    if (s->mapped)
        core->hal->unmap(core->hal->ctx, s->mapped);
    s->mapped = NULL;
    s->loaded = 0;
}

/* Codes that an engine may give; everything else is load_failed. */
static int engine_code(int rc) {
    switch (rc) {
    case FC_ERR_ARENA_TOO_SMALL:
    case FC_ERR_OP_MISSING:
    case FC_ERR_SCHEMA:
    case FC_ERR_IO_CONTRACT:
        return rc;
    default:
        return FC_ERR_LOAD_FAILED;
    }
}

/* Unload the old, check, load: one arena per device. The model stays mapped while it is loaded. */
static int load(struct fc_core *core, uint8_t as) {
    struct fc_job *j = &core->job;
    struct fc_slot *s = &core->slot[j->slot];
    const struct fc_hal *hal = core->hal;
    const struct fc_engine *engine = hal->engine;
    struct fc_model *model = &core->app[j->slot]->model;
    struct fc_load_info info = {0};
    uint8_t digest[32];
    fc_slot_unload(core, j->slot);
    uint32_t n = fc_message_read(core, fc_job_area(core), 0, digest);
    if (!n || memcmp(digest, j->m.id, 32) != 0 ||
        fc_manifest_read(core, n, &core->tmp.manifest, model))
        return FC_ERR_DIGEST;
    if (hal->map(hal->ctx, fc_job_area(core), fc_chunk_off(&j->m, 0), j->m.size, &s->mapped))
        return FC_ERR_FLASH_IO;
    int rc = engine->check(engine->ctx, s->mapped, j->m.size);
    if (!rc)
        rc = engine->load(engine->ctx, j->slot, s->mapped, j->m.size, model, &info);
    if (rc)
        rc = engine_code(rc);
    else
        s->arena_used = info.arena_used;
    if (!rc && info.arena_used > core->id->arena_bytes)
        rc = FC_ERR_ARENA_TOO_SMALL;
    if (rc)
        fc_slot_unload(core, j->slot);
    else
        s->loaded = as;
    return rc;
}

const struct fc_model *fc_running(const struct fc_core *core, uint8_t slot) {
    const struct fc_job *j = &core->job;
    if (slot >= FC_SLOTS)
        return NULL;
    const struct fc_slot *s = &core->slot[slot];
    int in_probation = j->stage == FC_JOB_PROBATION && j->slot == slot;
    int in_check = j->stage == FC_JOB_CHECK && j->slot == slot; /* streaming state is not ours */
    return (s->loaded == 1 && !in_check) || (s->loaded == 2 && in_probation)
               ? &core->app[slot]->model
               : NULL;
}

/* --- the confirmed model ------------------------------------------------------------- */

/* The run bank is damaged: the other one, if it may run; else online without a model. */
static void run_broken(struct fc_core *core, uint8_t slot, int code) {
    struct fc_slot *s = &core->slot[slot];
    const struct fc_rec_slot *rs = rec_slot(core, slot);
    uint8_t other = fc_bank_idle(core, slot), digest[32];
    uint32_t n = 0;
    int64_t ints[] = {-code, 0};
    fc_slot_unload(core, slot);
    s->run_broken = 1;
    fc_event_put(core, FC_EV_REFUSAL, slot, ints, 2);
    fc_job_end(core);
    fc_slot_set(core, slot, FC_ST_IDLE, code, 0);
    if ((rs->flags & FC_FLAG_USABLE) && rs->phase == FC_PH_CONFIRMED)
        n = fc_message_read(core, fc_bank_area(slot, other), 0, digest);
    if (!n || memcmp(digest, rs->other_id, 16) != 0 ||
        fc_manifest_check(core, slot, NULL, n, FC_CHECK_OTHER, &core->tmp.manifest))
        return;
    struct fc_record *r = fc_log_edit(core);
    struct fc_rec_slot *next = &r->slots[slot];
    next->run_bank = other;
    memcpy(next->run_id, rs->other_id, 16);
    memcpy(next->other_id, rs->run_id, 16);
    next->flags &= (uint8_t)~FC_FLAG_USABLE;
    if (fc_log_commit(core))
        return;
    s->other_seq = s->run_seq;
    s->run_seq = core->tmp.manifest.seq;
    s->run_broken = 0;
    s->want_load = 2;
}

int fc_run_begin(struct fc_core *core, uint8_t slot) {
    struct fc_slot *s = &core->slot[slot];
    const struct fc_rec_slot *rs = rec_slot(core, slot);
    struct fc_job *j = &core->job;
    uint8_t how = s->want_load, digest[32];
    s->want_load = 0;
    if (core->safe_mode || rs->run_bank == FC_NO_BANK || (rs->flags & FC_FLAG_STOPPED))
        return 0;
    memset(j, 0, sizeof *j);
    j->slot = slot;
    j->bank = rs->run_bank;
    uint32_t n = fc_message_read(core, fc_job_area(core), 0, digest);
    if (!n || memcmp(digest, rs->run_id, 16) != 0 || fc_manifest_read(core, n, &j->m, NULL)) {
        run_broken(core, slot, FC_ERR_DIGEST);
        return 1;
    }
    s->run_seq = j->m.seq;
    core->hal->digest_begin(&j->u.digest);
    fc_job_stage(core, how == 2 ? FC_JOB_RUN_HASH : FC_JOB_RUN_LOAD);
    return 1;
}

int fc_run_step(struct fc_core *core) {
    struct fc_job *j = &core->job;
    uint8_t got[32];
    if (j->stage == FC_JOB_RUN_LOAD) {
        int rc = load(core, 1);
        if (rc) {
            run_broken(core, j->slot, rc);
        } else {
            core->slot[j->slot].run_broken = 0;
            fc_job_end(core);
        }
        return 1;
    }
    if (fc_bank_hash(core, fc_chunk_off(&j->m, j->index), fc_chunk_len(&j->m, j->index),
                     &j->u.digest)) {
        run_broken(core, j->slot, FC_ERR_FLASH_IO);
        return 1;
    }
    if (++j->index < j->m.model_chunks)
        return 1;
    core->hal->digest_end(&j->u.digest, got);
    if (memcmp(got, j->m.sha256, 32) != 0)
        run_broken(core, j->slot, FC_ERR_DIGEST);
    else
        fc_job_stage(core, FC_JOB_RUN_LOAD);
    return 1;
}

/* The state of the trial, unless a newer entry asks for something else: the state is that entry's.
 */
static void show(struct fc_core *core, enum fc_state state, int code, uint32_t detail) {
    const struct fc_target *t = &core->slot[core->job.slot].target;
    if (!t->set || memcmp(t->id, core->job.m.id, 32) == 0)
        fc_slot_set(core, core->job.slot, state, code, detail);
}

/* --- the candidate ------------------------------------------------------------------- */

/* Row 8: TRIAL in the log before the engine sees a byte. */
int fc_trial_begin(struct fc_core *core) {
    struct fc_job *j = &core->job;
    struct fc_record *r = fc_log_edit(core);
    struct fc_rec_slot *rs = &r->slots[j->slot];
    rs->phase = FC_PH_TRIAL;
    rs->attempts = 0;
    rs->cuts = 0;
    rs->flags &= (uint8_t)~FC_FLAG_REVERTING;
    if (j->target.action == FC_ACT_RUN_OTHER)
        rs->flags |= FC_FLAG_REVERTING;
    memcpy(rs->other_id, j->m.id, 16);
    int rc = fc_log_commit(core);
    if (rc)
        return rc;
    core->slot[j->slot].other_seq = j->m.seq;
    show(core, FC_ST_TRIAL, 0, 0);
    fc_job_stage(core, FC_JOB_LOAD);
    return FC_OK;
}

/* After a reset in TRIAL or PROBATION, which boot.c has counted: hash, load, test again. */
int fc_trial_resume(struct fc_core *core, uint8_t slot) {
    struct fc_job *j = &core->job;
    struct fc_slot *s = &core->slot[slot];
    const struct fc_rec_slot *rs = rec_slot(core, slot);
    int rc = FC_ERR_DIGEST;
    uint8_t digest[32];
    s->want_trial = 0;
    memset(j, 0, sizeof *j);
    j->slot = slot;
    j->bank = fc_bank_idle(core, slot);
    j->again = 1;
    if (s->target.set && memcmp(s->target.id, rs->other_id, 16) == 0)
        j->target.attempt = s->target.attempt;
    uint32_t n = fc_message_read(core, fc_job_area(core), 0, digest);
    core->detail = 0;
    if (n && memcmp(digest, rs->other_id, 16) == 0)
        rc = fc_manifest_check(core, slot, NULL, n, FC_CHECK_OTHER, &j->m);
    if (rc) {
        fc_trial_fail(core, rc, core->detail);
        return 1;
    }
    memcpy(j->target.id, j->m.id, 32);
    j->target.action = rs->flags & FC_FLAG_REVERTING ? FC_ACT_RUN_OTHER : FC_ACT_RUN;
    s->total = s->have = (uint16_t)j->m.chunks;
    core->hal->digest_begin(&j->u.digest);
    show(core, FC_ST_TRIAL, 0, 0);
    fc_job_stage(core, FC_JOB_DIGEST);
    return 1;
}

/* Row 12: CONFIRMED(old) with the reason; then the old model is loaded again. */
static int record_fail(struct fc_core *core) {
    struct fc_job *j = &core->job;
    struct fc_record *r = fc_log_edit(core);
    struct fc_rec_slot *rs = &r->slots[j->slot];
    rs->phase = fc_rest_phase(rs);
    memcpy(rs->failed_id, rs->other_id, 8);
    rs->failed_attempt = j->target.attempt;
    rs->fail_code = j->fail_code;
    rs->fail_detail = (uint16_t)(j->fail_detail > UINT16_MAX ? UINT16_MAX : j->fail_detail);
    rs->flags &= (uint8_t) ~(FC_FLAG_USABLE | FC_FLAG_REVERTING);
    rs->attempts = 0;
    rs->cuts = 0;
    return fc_log_commit(core);
}

static int fail_step(struct fc_core *core) {
    struct fc_job *j = &core->job;
    struct fc_slot *s = &core->slot[j->slot];
    int64_t ints[] = {j->fail_code, j->fail_detail};
    if (fc_clock(core) < j->wait_ms)
        return 0;
    if (record_fail(core)) {
        j->wait_ms = fc_clock(core) + FC_RETRY_MS;
        return 0;
    }
    s->want_load = 1;
    fc_event_put(core, FC_EV_REFUSAL, j->slot, ints, 2);
    show(core, FC_ST_REVERTED, -(int)j->fail_code, j->fail_detail);
    fc_job_end(core);
    return 1;
}

void fc_trial_fail(struct fc_core *core, int code, uint32_t detail) {
    struct fc_job *j = &core->job;
    fc_slot_unload(core, j->slot);
    j->fail_code = (uint8_t)-code;
    j->fail_detail = detail;
    fc_job_stage(core, FC_JOB_FAIL);
    fail_step(core);
}

static void golden_event(struct fc_core *core) {
    const struct fc_job *j = &core->job;
    int64_t ints[] = {j->golden.n, j->golden.ok, j->golden.max_diff};
    fc_log(core, 1, FC_LOG_SELFTEST, j->golden.ok << 16 | (j->golden.n & 0xFFFFu),
           j->golden.max_diff);
    if (j->golden.ok != j->golden.n)
        fc_event_put(core, FC_EV_GOLDEN_MISMATCH, j->slot, ints, 3);
}

/* Row 10: PROBATION. Its clock starts over, but for resets we asked for. */
static int probation_begin(struct fc_core *core) {
    struct fc_job *j = &core->job;
    const uint8_t *keep = core->hal->keep(core->hal->ctx);
    if (rec_slot(core, j->slot)->phase != FC_PH_PROBATION) {
        struct fc_record *r = fc_log_edit(core);
        r->slots[j->slot].phase = FC_PH_PROBATION;
        if (fc_log_commit(core)) {
            j->wait_ms = fc_clock(core) + FC_RETRY_MS;
            return 0;
        }
    } else if (keep && core->reset_reason >= FC_RST_EXPECTED && keep[5] == 1 &&
               memcmp(keep + 16, j->m.id, 16) == 0) {
        j->inferences = fc_get32(keep + 8);
        j->carried_s = fc_get32(keep + 12);
    }
    fc_job_stage(core, FC_JOB_PROBATION);
    j->since_ms = fc_clock(core);
    j->linked = 0;
    j->acked = 0;
    j->token = 0;
    fc_report_want(core, 2);
    if (core->link) /* the proof must come over a connection made by this model's device */
        core->hal->reconnect(core->hal->ctx);
    return 1;
}

static int selftest(struct fc_core *core) {
    struct fc_job *j = &core->job;
    if (fc_clock(core) < j->wait_ms)
        return 0;
    if (j->golden.n < j->m.golden_n) {
        int rc = fc_selftest_step(core);
        if (rc > 0)
            return 1;
        if (rc < 0) {
            fc_trial_fail(core, engine_code(rc), j->golden.n);
            return 1;
        }
        core->slot[j->slot].golden = j->golden;
        golden_event(core);
    }
    if (j->golden.ok != j->golden.n) {
        fc_trial_fail(core, FC_ERR_SELFTEST_MISMATCH, j->golden.max_diff);
        return 1;
    }
    if (j->m.latency_us && j->golden.median_us > j->m.latency_us) {
        fc_trial_fail(core, FC_ERR_LATENCY_BUDGET, j->golden.median_us);
        return 1;
    }
    return probation_begin(core);
}

/* Floor and seq of a name rise only here, in the confirming record. */
static void raise_name(struct fc_record *r, const struct fc_manifest *m) {
    struct fc_rec_name *name = NULL;
    for (uint32_t i = 0; i < FC_NAMES; i++)
        if (memcmp(r->names[i].hash, m->name_hash, 8) == 0)
            name = &r->names[i];
    for (uint32_t i = 0; i < FC_NAMES && !name; i++)
        if (fc_is_zero(r->names[i].hash, 8))
            name = &r->names[i];
    if (!name)
        return; /* refused as `sequence` before */
    memcpy(name->hash, m->name_hash, 8);
    if (m->seq >= name->seq) {
        name->seq = m->seq;
        memcpy(name->id, m->id, 8);
    }
    if (m->floor > name->floor)
        name->floor = m->floor;
}

/* Row 11: CONFIRMED. One record changes the run bank, seq and floor together. */
static int confirm(struct fc_core *core) {
    struct fc_job *j = &core->job;
    struct fc_slot *s = &core->slot[j->slot];
    struct fc_record *r = fc_log_edit(core);
    struct fc_rec_slot *rs = &r->slots[j->slot];
    int had = rs->run_bank != FC_NO_BANK;
    rs->phase = FC_PH_CONFIRMED;
    rs->flags = had && !s->run_broken ? FC_FLAG_USABLE : 0;
    rs->run_bank = j->bank;
    memcpy(rs->other_id, rs->run_id, 16);
    memcpy(rs->run_id, j->m.id, 16);
    if (memcmp(rs->failed_id, j->m.id, 8) == 0) {
        memset(rs->failed_id, 0, 8);
        rs->failed_attempt = 0;
    }
    rs->attempts = 0;
    rs->cuts = 0;
    rs->panics = 0;
    r->panics = 0;
    raise_name(r, &j->m);
    if (fc_log_commit(core)) {
        j->wait_ms = fc_clock(core) + FC_RETRY_MS;
        return 0;
    }
    s->loaded = 1;
    s->run_broken = 0;
    s->other_seq = s->run_seq;
    s->run_seq = j->m.seq;
    core->safe_mode = 0;
    show(core, FC_ST_CONFIRMED, 0, 0);
    fc_job_end(core);
    return 1;
}

static int probation(struct fc_core *core) {
    struct fc_job *j = &core->job;
    const struct fc_config *c = fc_cfg(core);
    uint64_t now = fc_clock(core), s = (now - j->since_ms) / 1000 + j->carried_s;
    uint32_t n_needed =
        c->probation_n > core->id->probation_n ? c->probation_n : core->id->probation_n;
    uint32_t s_needed =
        c->probation_s > core->id->probation_s ? c->probation_s : core->id->probation_s;
    if (now < j->wait_ms)
        return 0;
    if (j->acked && s >= s_needed && j->inferences >= n_needed)
        return confirm(core);
    if (!j->acked && now - j->since_ms >= FC_NO_LINK_MS) {
        fc_trial_fail(core, FC_ERR_NO_LINK, 0);
        return 1;
    }
    j->wait_ms = now + FC_PROGRESS_MS;
    return 0;
}

/* --- a commanded self-test ----------------------------------------------------------- */

/* FC_OK, FC_ERR_BUSY while an update is under way. */
int fc_check_begin(struct fc_core *core, uint8_t slot, uint64_t verb_counter) {
    struct fc_job *j = &core->job;
    uint8_t digest[32];
    if (j->stage != FC_JOB_IDLE)
        return FC_ERR_BUSY;
    memset(j, 0, sizeof *j);
    j->slot = slot;
    j->bank = rec_slot(core, slot)->run_bank;
    j->verb_counter = verb_counter;
    uint32_t n = fc_message_read(core, fc_job_area(core), 0, digest);
    int rc = n ? fc_manifest_read(core, n, &j->m, NULL) : FC_ERR_FLASH_IO;
    fc_job_stage(core, FC_JOB_CHECK);
    if (!rc)
        rc = fc_selftest_begin(core);
    if (rc)
        memset(j, 0, sizeof *j);
    return rc;
}

static int check_step(struct fc_core *core) {
    struct fc_job *j = &core->job;
    int rc = fc_selftest_step(core);
    if (rc > 0)
        return 1;
    core->slot[j->slot].golden = j->golden;
    golden_event(core);
    int code = rc < 0                        ? engine_code(rc)
               : j->golden.ok == j->golden.n ? 0
                                             : FC_ERR_SELFTEST_MISMATCH;
    int64_t ints[] = {FC_VERB_SELFTEST, -code, (int64_t)j->verb_counter};
    fc_event_put(core, FC_EV_COMMAND, j->slot, ints, 3);
    const struct fc_engine *engine = core->hal->engine;
    engine->reset(engine->ctx, j->slot);
    fc_job_end(core);
    fc_report_want(core, 2);
    return 1;
}

int fc_trial_step(struct fc_core *core) {
    int rc;
    switch (core->job.stage) {
    case FC_JOB_LOAD: /* row 9 */
        rc = load(core, 2);
        if (!rc)
            rc = fc_selftest_begin(core);
        if (rc)
            fc_trial_fail(core, rc,
                          rc == FC_ERR_ARENA_TOO_SMALL ? core->slot[core->job.slot].arena_used : 0);
        else
            fc_job_stage(core, FC_JOB_SELFTEST);
        return 1;
    case FC_JOB_SELFTEST:
        return selftest(core);
    case FC_JOB_PROBATION:
        return probation(core);
    case FC_JOB_FAIL:
        return fail_step(core);
    default:
        return check_step(core);
    }
}
