/* trial.c: from verified candidates to CONFIRMED, or back.
 *
 * A trial has one slot, or several that switch together: one record makes them TRIAL, one
 * PROBATION, and one CONFIRMED or what they were before. The record TRIAL is written before the
 * engine sees a byte of a candidate: a model that crashes the runtime is then counted by the next
 * boot and given up by the second. The numbers in comments are the rows of "Power cuts" in
 * DESIGN.md.
 */
#include "crc32.h"
#include "internal.h"

/* Loops over the members of the trial. */
#define EACH(s, core)                                                                              \
    for (uint32_t s = 0; s < FC_SLOTS; s++)                                                        \
        if ((core)->job.group >> s & 1)

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
        p[5] = j->group;
        fc_put32(p + 8, j->carried_s + (uint32_t)(fc_clock(core) - j->since_ms) / 1000);
        memcpy(p + 12, core->rec.slots[j->slot].other_id, 16);
        memcpy(p + 28, j->inferences, sizeof j->inferences);
    }
    fc_put32(p + 60, fc_crc32(p, 60));
}

static void keep_read(struct fc_core *core) {
    const uint8_t *p = core->hal->keep(core->hal->ctx);
    struct fc_job *j = &core->job;
    if (!p || core->reset_reason < FC_RST_EXPECTED || p[5] != j->group ||
        memcmp(p + 12, core->rec.slots[j->slot].other_id, 16) != 0)
        return;
    j->carried_s = fc_get32(p + 8);
    memcpy(j->inferences, p + 28, sizeof j->inferences);
}

/* --- beginning ----------------------------------------------------------------------- */

/* The next member: its signatures, floor and least seq are checked at every start of a model. */
static FC_NOINLINE int member(struct fc_core *core) {
    struct fc_job *j = &core->job;
    int rc = FC_ERR_DIGEST;
    j->slot = 0;
    while (!(j->todo >> j->slot & 1))
        j->slot++;
    j->bank = fc_bank_idle(core, j->slot);
    j->part = 0;
    core->detail = 0;
    uint32_t n = fc_message_read(core, fc_job_area(core), 0, core->rec.slots[j->slot].other_id, 16);
    if (n)
        rc = fc_manifest_check(core, j->slot, NULL, n, FC_CHECK_OTHER, &j->m);
    if (rc) {
        fc_trial_fail(core, rc, core->detail);
        return 1;
    }
    core->slot[j->slot].total = core->slot[j->slot].have = (uint16_t)j->m.chunks;
    core->slot[j->slot].other_seq = j->m.seq;
    core->hal->digest_begin(&j->u.digest);
    fc_job_stage(core, j->again ? FC_JOB_DIGEST : FC_JOB_LOAD);
    return 1;
}

static void start(struct fc_core *core, uint8_t group, uint8_t again) {
    struct fc_job *j = &core->job;
    memset(j, 0, sizeof *j);
    j->group = j->todo = group;
    j->again = again;
    EACH(s, core) {
        struct fc_slot *slot = &core->slot[s];
        int is_wanted =
            slot->target.set && memcmp(slot->target.id, core->rec.slots[s].other_id, 16) == 0;
        slot->trial_attempt = is_wanted ? slot->target.attempt : 0;
        slot->ready = 0;
        if (is_wanted || !slot->target.set) /* else the state is a newer entry's */
            fc_slot_set(core, s, FC_ST_TRIAL, 0, 0);
    }
    j->stage = FC_JOB_MEMBER;
}

/* Row 8: TRIAL in the log before the engine sees a byte. */
void fc_trial_begin(struct fc_core *core, uint8_t group) {
    struct fc_record *r = fc_log_edit(core);
    for (uint32_t s = 0; s < FC_SLOTS; s++) {
        struct fc_rec_slot *rs = &r->slots[s];
        if (!(group >> s & 1))
            continue;
        rs->phase = FC_PH_TRIAL;
        rs->attempts = 0;
        rs->cuts = 0;
        rs->flags &= (uint8_t)~FC_FLAG_REVERTING;
        if (core->slot[s].target.action == FC_ACT_RUN_OTHER)
            rs->flags |= FC_FLAG_REVERTING;
        memcpy(rs->other_id, core->slot[s].target.id, 16);
    }
    if (fc_log_commit(core) == FC_OK)
        start(core, group, 0);
}

/* After a reset in TRIAL or PROBATION, which boot.c has counted: hash, load, test again. */
void fc_trial_resume(struct fc_core *core) {
    uint8_t group = core->want_trial;
    core->want_trial = 0;
    start(core, group, 1);
}

/* --- failing ------------------------------------------------------------------------- */

/* Row 12: CONFIRMED(old) with the reason, for all of them; then the old models are loaded again. */
static int record_fail(struct fc_core *core) {
    struct fc_job *j = &core->job;
    struct fc_record *r = fc_log_edit(core);
    EACH(s, core) {
        struct fc_rec_slot *rs = &r->slots[s];
        uint16_t attempt = core->slot[s].trial_attempt;
        int again = memcmp(rs->failed_id, rs->other_id, 8) == 0 && rs->failed_attempt == attempt &&
                    rs->fail_code == -FC_ERR_NO_LINK;
        rs->phase = fc_rest_phase(rs);
        memcpy(rs->failed_id, rs->other_id, 8);
        rs->failed_attempt = attempt;
        rs->fail_code = j->fail_code;
        rs->fail_detail = (uint16_t)(j->fail_detail > UINT16_MAX ? UINT16_MAX : j->fail_detail);
        rs->flags &= (uint8_t) ~(FC_FLAG_USABLE | FC_FLAG_REVERTING);
        rs->attempts = 0;
        rs->cuts = 0;
        r->no_links[s] = j->fail_code != -FC_ERR_NO_LINK ? 0
                         : again                         ? (uint8_t)(r->no_links[s] + 1)
                                                         : 1;
    }
    return fc_log_commit(core);
}

static FC_NOINLINE int fail_step(struct fc_core *core) {
    struct fc_job *j = &core->job;
    if (record_fail(core)) {
        fc_job_wait(core, FC_RETRY_MS);
        return 0;
    }
    fc_event_refusal(core, j->slot, -(int)j->fail_code, j->fail_detail);
    EACH(s, core) {
        core->slot[s].want_load = j->again ? 2 : 1; /* this start has not looked at its digest */
        core->slot[s].look = 1;
        if (core->slot[s].target.set)
            fc_update_derive(core, s);
        else
            fc_slot_set(core, s, FC_ST_REVERTED, -(int)j->fail_code, j->fail_detail);
    }
    fc_job_end(core);
    return 1;
}

/* The next step takes the models out of the engine, which no longer runs them, and records it. */
void fc_trial_fail(struct fc_core *core, int code, uint32_t detail) {
    struct fc_job *j = &core->job;
    j->fail_code = (uint8_t)-code;
    j->fail_detail = detail;
    fc_job_stage(core, FC_JOB_FAIL);
}

/* --- testing and probation ----------------------------------------------------------- */

void fc_golden_event(struct fc_core *core) {
    const struct fc_job *j = &core->job;
    fc_log(core, 1, FC_LOG_SELFTEST, j->golden.ok << 16 | (j->golden.n & 0xFFFFu),
           j->golden.max_diff);
    if (j->golden.ok != j->golden.n)
        fc_event_put(core, FC_EV_GOLDEN_MISMATCH, j->slot, j->golden.n, j->golden.ok,
                     j->golden.max_diff, 0);
}

/* Row 10: PROBATION. Its clock starts over, but for resets we asked for. */
static int probation_begin(struct fc_core *core) {
    struct fc_job *j = &core->job;
    if (core->rec.slots[j->slot].phase != FC_PH_PROBATION) {
        struct fc_record *r = fc_log_edit(core);
        EACH(s, core)
        r->slots[s].phase = FC_PH_PROBATION;
        if (fc_log_commit(core)) {
            fc_job_wait(core, FC_RETRY_MS);
            return 0;
        }
    } else {
        keep_read(core);
    }
    fc_job_stage(core, FC_JOB_PROBATION);
    j->since_ms = fc_clock(core);
    fc_report_want(core, 2);
    if (core->link) /* the proof must come over a connection made by this model's device */
        core->hal->reconnect(core->hal->ctx);
    return 1;
}

static int selftest(struct fc_core *core) {
    struct fc_job *j = &core->job;
    const struct fc_golden *g = &j->golden;
    if (g->n < j->m.golden_n) {
        int rc = fc_selftest_step(core);
        if (rc > 0)
            return 1;
        if (rc < 0) {
            fc_trial_fail(core, fc_engine_code(rc), g->n);
            return 1;
        }
        core->slot[j->slot].golden = *g;
        fc_golden_event(core);
    }
    if (g->ok != g->n) {
        fc_trial_fail(core, FC_ERR_SELFTEST_MISMATCH, g->max_diff);
        return 1;
    }
    if (j->m.hints.latency_us && g->median_us > j->m.hints.latency_us) {
        fc_trial_fail(core, FC_ERR_LATENCY_BUDGET, g->median_us);
        return 1;
    }
    if (j->todo & (j->todo - 1u)) { /* not the last one */
        j->todo &= (uint8_t)(j->todo - 1u);
        fc_job_stage(core, FC_JOB_MEMBER);
        return 1;
    }
    return probation_begin(core);
}

/* Floor and seq of a name rise only here, in the confirming record. */
static void raise_name(struct fc_core *core, struct fc_record *r, const struct fc_model *m) {
    struct fc_rec_name *name = NULL;
    uint8_t hash[32];
    fc_sha256(core->hal, m->name, strlen(m->name), hash);
    for (uint32_t i = FC_NAMES; i-- > 0;)
        if (fc_is_zero(r->names[i].hash, 8))
            name = &r->names[i];
    for (uint32_t i = 0; i < FC_NAMES; i++)
        if (memcmp(r->names[i].hash, hash, 8) == 0)
            name = &r->names[i];
    if (!name)
        return; /* refused as `sequence` before */
    memcpy(name->hash, hash, 8);
    if (m->seq >= name->seq) {
        name->seq = m->seq;
        memcpy(name->id, m->id, 8);
    }
    if (m->floor > name->floor)
        name->floor = m->floor;
}

/* Row 11: CONFIRMED. One record changes the run banks, seqs and floors together. */
static FC_NOINLINE int confirm(struct fc_core *core) {
    struct fc_record *r = fc_log_edit(core);
    EACH(s, core) {
        struct fc_rec_slot *rs = &r->slots[s];
        int had = rs->run_bank != FC_NO_BANK && !core->slot[s].run_broken;
        uint8_t id[16];
        rs->phase = FC_PH_CONFIRMED;
        rs->flags = had ? FC_FLAG_USABLE : 0;
        rs->run_bank = fc_bank_idle(core, s);
        memcpy(id, rs->other_id, 16);
        memcpy(rs->other_id, rs->run_id, 16);
        memcpy(rs->run_id, id, 16);
        if (memcmp(rs->failed_id, id, 8) == 0) {
            memset(rs->failed_id, 0, 8);
            rs->failed_attempt = 0;
        }
        rs->attempts = 0;
        rs->cuts = 0;
        rs->panics = 0;
        r->no_links[s] = 0;
        raise_name(core, r, &core->app[s]->model);
    }
    r->panics = 0;
    if (fc_log_commit(core)) {
        fc_job_wait(core, FC_RETRY_MS);
        return 0;
    }
    core->safe_mode = 0;
    EACH(s, core) {
        struct fc_slot *slot = &core->slot[s];
        slot->loaded = 1;
        slot->run_broken = 0;
        slot->look = 1;
        slot->other_seq = slot->run_seq;
        slot->run_seq = core->app[s]->model.seq;
        if (!slot->target.set || memcmp(slot->target.id, core->rec.slots[s].run_id, 16) == 0)
            fc_slot_set(core, s, FC_ST_CONFIRMED, 0, 0);
    }
    fc_job_end(core);
    return 1;
}

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static int probation(struct fc_core *core) {
    struct fc_job *j = &core->job;
    const struct fc_config *c = fc_cfg(core);
    uint32_t n_needed = larger(c->probation_n, core->id->probation_n);
    uint64_t passed_ms = fc_clock(core) - j->since_ms;
    uint32_t heap = core->hal->heap_free(core->hal->ctx);
    if (heap < core->id->heap_floor) {
        fc_event_put(core, FC_EV_LOW_HEAP, j->slot, heap, core->id->heap_floor, 0, 0);
        fc_trial_fail(core, FC_ERR_LOW_HEAP, heap);
        return 1;
    }
    if (!j->acked && passed_ms >= FC_NO_LINK_MS) {
        fc_trial_fail(core, FC_ERR_NO_LINK, 0);
        return 1;
    }
    uint64_t s_needed = larger(c->probation_s, core->id->probation_s);
    int is_enough = j->acked && passed_ms + j->carried_s * (uint64_t)1000 >= s_needed * 1000;
    EACH(s, core)
    is_enough &= j->inferences[s] >= n_needed;
    if (is_enough)
        return confirm(core);
    fc_job_wait(core, FC_PROGRESS_MS);
    return 0;
}

void fc_trial_sample(struct fc_core *core, uint32_t slot, int failed) {
    struct fc_job *j = &core->job;
    if (j->stage != FC_JOB_PROBATION || !(j->group >> slot & 1))
        return;
    if (failed) {
        j->slot = (uint8_t)slot;
        fc_trial_fail(core, FC_ERR_LOAD_FAILED, 0);
        return;
    }
    j->inferences[slot]++;
    fc_keep_write(core, 0);
}

int fc_trial_step(struct fc_core *core) {
    struct fc_job *j = &core->job;
    int rc;
    switch (j->stage) {
    case FC_JOB_MEMBER:
        return member(core);
    case FC_JOB_LOAD: /* row 9 */
        rc = fc_model_load(core, 2);
        if (!rc)
            rc = fc_selftest_begin(core);
        if (rc)
            fc_trial_fail(core, rc, core->detail);
        else
            fc_job_stage(core, FC_JOB_SELFTEST);
        return 1;
    case FC_JOB_SELFTEST:
        return selftest(core);
    case FC_JOB_PROBATION:
        return probation(core);
    default: /* the engine lets go of them first, here where the stack is not so deep */
        EACH(s, core)
        fc_slot_unload(core, s);
        return fail_step(core);
    }
}
