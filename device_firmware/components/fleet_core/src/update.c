/* update.c: from a desired entry to a verified candidate in the idle bank. trial.c goes on.
 *
 * One job at a time. What must survive a cut is in the record or follows from flash: the phase, the
 * candidate's id, and which chunks are there (their hashes are compared with the leaf list again).
 * A verified candidate waits without a job, so that other slots can fetch theirs. The numbers in
 * comments are the rows of "Power cuts" in DESIGN.md.
 */
#include "internal.h"

static struct fc_rec_slot *rec_slot(struct fc_core *core, uint32_t slot) {
    return &core->rec.slots[slot];
}

static void look_again(struct fc_core *core, uint32_t slot, uint32_t ms) {
    core->slot[slot].look_at_ms = fc_clock(core) + ms;
}

/* --- beginning ----------------------------------------------------------------------- */

/* Row 3: the candidate's id, and `usable` cleared before the bank is harmed. */
int fc_record_fetch(struct fc_core *core) {
    uint8_t slot = core->job.slot;
    const uint8_t *id = core->slot[slot].target.id;
    const struct fc_rec_slot *rs = rec_slot(core, slot);
    if (rs->phase == FC_PH_FETCH && memcmp(rs->other_id, id, 16) == 0 &&
        !(rs->flags & FC_FLAG_USABLE))
        return FC_OK;
    struct fc_record *r = fc_log_edit(core);
    struct fc_rec_slot *next = &r->slots[slot];
    next->phase = FC_PH_FETCH;
    next->flags &= (uint8_t) ~(FC_FLAG_USABLE | FC_FLAG_REVERTING);
    memcpy(next->other_id, id, 16);
    return fc_log_commit(core);
}

/* What the bank holds besides its manifest tells what is to be done. */
static void begin_fetch(struct fc_core *core) {
    if (fc_record_fetch(core))
        fc_job_fault(core);
    else
        fc_job_stage(core, fc_bank_leaves_check(core) ? FC_JOB_LEAVES : FC_JOB_REHASH);
}

/* A candidate in the idle bank, judged as an offer. n = its length in fc_msg(). Deferred, refused,
 * or FC_OK. */
static int judge(struct fc_core *core, uint32_t slot, uint32_t n, struct fc_manifest *m) {
    const struct fc_target *t = &core->slot[slot].target;
    enum fc_check how = t->action == FC_ACT_RUN_OTHER ? FC_CHECK_OTHER : FC_CHECK_NEW;
    int rc = fc_manifest_check(core, slot, NULL, n, how, m);
    if (rc && core->deferred) {
        look_again(core, slot, FC_DEFER_MS);
        fc_slot_set(core, slot, FC_ST_DEFERRED, rc, core->detail);
        memset(&core->job, 0, sizeof core->job);
    } else if (rc) {
        fc_slot_refuse(core, slot, rc, core->detail);
    }
    return rc;
}

static uint32_t read_candidate(struct fc_core *core, uint32_t slot) {
    return fc_message_read(core, fc_bank_area(slot, fc_bank_idle(core, slot)), 0,
                           core->slot[slot].target.id, 32);
}

static void begin(struct fc_core *core, uint32_t slot) {
    struct fc_job *j = &core->job;
    struct fc_slot *s = &core->slot[slot];
    const struct fc_rec_slot *rs = rec_slot(core, slot);
    memset(j, 0, sizeof *j);
    j->slot = (uint8_t)slot;
    j->bank = fc_bank_idle(core, slot);
    j->stage = FC_JOB_MANIFEST;
    if (fc_is_overdue(core, slot)) {
        fc_job_refuse(core, FC_ERR_EXPIRED, 0);
        return;
    }
    int held = (rs->flags & FC_FLAG_USABLE) && memcmp(rs->other_id, s->target.id, 16) == 0;
    uint32_t n = read_candidate(core, slot);
    if (s->target.action == FC_ACT_RUN_OTHER && !(held && n)) {
        fc_job_refuse(core, FC_ERR_NOT_IN_BANK, 0);
        return;
    }
    if (!n) {
        fc_slot_set(core, slot, FC_ST_OFFERED, 0, 0);
        return;
    }
    s->total = 0;
    if (judge(core, slot, n, &j->m))
        return;
    s->total = (uint16_t)j->m.chunks;
    if (held) { /* confirmed here once: only its digest is checked again */
        s->have = s->total;
        core->hal->digest_begin(&j->u.digest);
        fc_job_stage(core, FC_JOB_DIGEST);
        return;
    }
    s->other_seq = j->m.seq;
    fc_slot_set(core, slot, FC_ST_MANIFEST_OK, 0, 0);
    begin_fetch(core);
}

/* --- what a slot should do ----------------------------------------------------------- */

static FC_NOINLINE void stop(struct fc_core *core, uint32_t slot) {
    core->slot[slot].look = 0;
    core->slot[slot].look_at_ms = 0;
    struct fc_rec_slot *rs = rec_slot(core, slot);
    if (!(rs->flags & FC_FLAG_STOPPED)) {
        struct fc_record *r = fc_log_edit(core);
        r->slots[slot].flags |= FC_FLAG_STOPPED;
        r->slots[slot].phase = fc_rest_phase(rs);
        if (fc_log_commit(core)) {
            look_again(core, slot, FC_RETRY_MS);
            return;
        }
    }
    core->slot[slot].want_load = 0;
    fc_slot_unload(core, slot);
    fc_slot_set(core, slot, FC_ST_CONFIRMED, 0, 0);
}

static int is_running(const struct fc_core *core, uint32_t slot) {
    const struct fc_rec_slot *rs = &core->rec.slots[slot];
    const struct fc_slot *s = &core->slot[slot];
    return rs->run_bank != FC_NO_BANK && !s->run_broken &&
           memcmp(rs->run_id, s->target.id, 16) == 0;
}

/* The state of an entry that asks for what is there already, or for what has failed. Nothing is
 * begun or written, so a start can tell it before anything is loaded. 1 = that is all there is. */
int fc_update_derive(struct fc_core *core, uint32_t slot) {
    const struct fc_slot *s = &core->slot[slot];
    const struct fc_rec_slot *rs = rec_slot(core, slot);
    const struct fc_target *t = &s->target;
    if (!t->set || t->action == FC_ACT_STOP)
        return 0;
    if (is_running(core, slot)) {
        if (core->safe_mode)
            fc_slot_set(core, slot, FC_ST_REFUSED, FC_ERR_CRASH_LOOP, core->rec.panics);
        else if (!(rs->flags & FC_FLAG_STOPPED))
            fc_slot_set(core, slot, FC_ST_CONFIRMED, 0, 0);
        return rs->phase != FC_PH_FETCH && !(rs->flags & FC_FLAG_STOPPED);
    }
    if (memcmp(rs->failed_id, t->id, 8) != 0 || t->attempt > rs->failed_attempt)
        return 0;
    uint8_t tries = core->rec.no_links[slot];
    if (rs->fail_code != -FC_ERR_NO_LINK || tries > FC_NO_LINK_TRIES) {
        fc_slot_set(core, slot, FC_ST_REVERTED, -(int)rs->fail_code, rs->fail_detail);
        return 1;
    }
    /* It was kept: the model before it has a link again, so it may try once more. */
    if (!s->ready)
        fc_slot_set(core, slot, FC_ST_DEFERRED, FC_ERR_NO_LINK, tries);
    return !core->link;
}

/* The confirmed model is what is desired: a fetch was withdrawn, or a stop is over. */
static void settle(struct fc_core *core, uint32_t slot) {
    struct fc_slot *s = &core->slot[slot];
    struct fc_record *r = fc_log_edit(core);
    struct fc_rec_slot *rs = &r->slots[slot];
    if (rs->flags & FC_FLAG_STOPPED)
        s->want_load = 2;
    rs->flags &= (uint8_t)~FC_FLAG_STOPPED;
    rs->phase = fc_rest_phase(rs);
    if (fc_log_commit(core))
        look_again(core, slot, FC_RETRY_MS);
    else
        fc_update_derive(core, slot);
}

/* The slots that switch together with this one, as a bit mask: entries with the same not_before,
 * if there is one. 0 = one of them is not ready, and so none may switch. */
static uint8_t group_of(const struct fc_core *core, uint32_t slot) {
    uint64_t not_before = core->slot[slot].target.not_before;
    uint32_t group = 1u << slot;
    for (uint32_t i = 0; i < FC_SLOTS; i++) {
        const struct fc_target *t = &core->slot[i].target;
        if (i == slot || !not_before || !t->set || t->action == FC_ACT_STOP || !core->app[i] ||
            t->not_before != not_before || is_running(core, i))
            continue;
        if (!core->slot[i].ready)
            return 0;
        group |= 1u << i;
    }
    return (uint8_t)group;
}

/* A verified candidate: may it be tried now, with all that belong to it? Each is judged again,
 * because trust and time went on while it waited. */
static void switch_over(struct fc_core *core, uint32_t slot) {
    const struct fc_target *t = &core->slot[slot].target;
    uint8_t group = group_of(core, slot);
    look_again(core, slot, FC_RETRY_MS);
    if (fc_is_overdue(core, slot)) {
        fc_slot_refuse(core, slot, FC_ERR_EXPIRED, 0);
        return;
    }
    if (!group || (t->not_before && fc_now(core) < t->not_before)) {
        fc_slot_set(core, slot, FC_ST_VERIFIED, 0, 0);
        return;
    }
    int rc = fc_may_switch(core);
    if (rc) {
        look_again(core, slot, FC_DEFER_MS);
        fc_slot_set(core, slot, FC_ST_DEFERRED, rc, 0);
        return;
    }
    for (uint32_t i = 0; i < FC_SLOTS; i++) {
        if (!(group >> i & 1))
            continue;
        uint32_t n = read_candidate(core, i);
        if (n && judge(core, i, n, &core->tmp.manifest))
            return;
        if (!n) { /* flash lost it: fetched again */
            core->slot[i].ready = 0;
            core->slot[i].look = 1;
            return;
        }
    }
    fc_trial_begin(core, group);
}

/* Compares a slot with its target, and begins what follows from that. */
static FC_NOINLINE void look(struct fc_core *core, uint32_t slot) {
    struct fc_slot *s = &core->slot[slot];
    const struct fc_target *t = &s->target;
    s->look = 0;
    s->look_at_ms = 0;
    if (!t->set) { /* a slot that is not named stays as it is */
        if (fc_job_leave(core, slot) == FC_OK)
            fc_slot_set(core, slot, FC_ST_IDLE, 0, 0);
        return;
    }
    if (fc_update_derive(core, slot))
        return;
    if (is_running(core, slot)) {
        settle(core, slot);
        return;
    }
    if (s->given_up || !core->has_trust) /* flash may have lost the document: it comes again */
        return;
    /* Signed but out of date: nothing new is begun under it; what runs goes on. */
    if (core->desired_expires && fc_now(core) >= core->desired_expires)
        return;
    if (s->ready)
        switch_over(core, slot);
    else
        begin(core, slot);
}

/* --- steps --------------------------------------------------------------------------- */

/* The digest of key 7 or of the blob did not come out: which chunks are wrong the leaves tell, and
 * those are fetched once more. When all leaves fit, the signed numbers contradict each other. */
static int digest_failed(struct fc_core *core) {
    struct fc_job *j = &core->job;
    if (j->group) {
        fc_trial_fail(core, FC_ERR_DIGEST, 0);
    } else if (j->refetched || core->slot[j->slot].target.action == FC_ACT_RUN_OTHER) {
        fc_job_refuse(core, FC_ERR_DIGEST, j->part);
    } else {
        j->refetched = 1;
        begin_fetch(core);
    }
    return 1;
}

/* A golden blob is read before its model may run: a malformed one is refused, no failed trial. */
static int blob_ok(struct fc_core *core) {
    struct fc_job *j = &core->job;
    const struct fc_hal *hal = core->hal;
    const uint8_t *p = NULL;
    if (!j->m.blob_size)
        return FC_OK;
    uint32_t off = fc_chunk_off(&j->m, j->m.model_chunks);
    if (hal->map(hal->ctx, fc_job_area(core), off, j->m.blob_size, &p))
        return FC_ERR_FLASH_IO;
    int rc = fc_blob_check(&j->m, p, j->m.blob_size);
    hal->unmap(hal->ctx, p);
    return rc;
}

/* Row 7: hashed from flash, one sector a step; nothing is persisted. */
static FC_NOINLINE int digest(struct fc_core *core) {
    struct fc_job *j = &core->job;
    const struct fc_hal *hal = core->hal;
    uint8_t got[32];
    uint32_t last = j->part ? j->m.chunks : j->m.model_chunks;
    if (fc_bank_hash(core, fc_chunk_off(&j->m, j->index), fc_chunk_len(&j->m, j->index),
                     &j->u.digest)) {
        fc_job_fault(core);
        return 0;
    }
    if (++j->index < last)
        return 1;
    hal->digest_end(&j->u.digest, got);
    if (memcmp(got, j->part ? j->m.blob_sha256 : j->m.sha256, 32) != 0)
        return digest_failed(core);
    if (!j->part && j->m.blob_size) {
        j->part = 1;
        hal->digest_begin(&j->u.digest);
        return 1;
    }
    int rc = blob_ok(core);
    if (j->group) {
        fc_job_stage(core, FC_JOB_LOAD);
    } else if (rc) {
        fc_job_refuse(core, rc, 0);
    } else {
        core->slot[j->slot].ready = 1;
        fc_slot_set(core, j->slot, FC_ST_VERIFIED, 0, 0);
        fc_job_end(core);
    }
    return 1;
}

static FC_NOINLINE int next_slot(struct fc_core *core) {
    uint64_t now = fc_clock(core);
    /* A trial that a reset interrupted goes first: the arena may hold only one model. */
    if (core->want_trial) {
        fc_trial_resume(core);
        return 1;
    }
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        if (core->slot[s].want_load && fc_run_begin(core, s))
            return 1;
    for (uint32_t s = 0; s < FC_SLOTS; s++) {
        struct fc_slot *slot = &core->slot[s];
        if (slot->look_at_ms && now >= slot->look_at_ms)
            slot->look = 1;
        if (slot->look && core->has_desired && core->app[s]) {
            if (slot->target.set && slot->target.action == FC_ACT_STOP)
                stop(core, s);
            else
                look(core, s);
            return 1;
        }
    }
    return 0;
}

int fc_update_step(struct fc_core *core) {
    switch (core->job.stage) {
    case FC_JOB_IDLE:
        return next_slot(core);
    case FC_JOB_RUN_HASH:
    case FC_JOB_RUN_LOAD:
        return fc_run_step(core);
    case FC_JOB_MANIFEST:
    case FC_JOB_LEAVES:
        return fc_fetch_ask(core);
    case FC_JOB_REHASH:
        return fc_fetch_rehash(core);
    case FC_JOB_CHUNKS:
        return fc_fetch_chunks(core);
    case FC_JOB_CHECK:
        return fc_check_step(core);
    default:
        if (fc_clock(core) < core->job.wait_ms)
            return 0;
        return core->job.stage == FC_JOB_DIGEST ? digest(core) : fc_trial_step(core);
    }
}

uint64_t fc_update_due(const struct fc_core *core) {
    uint64_t due = UINT64_MAX;
    const struct fc_job *j = &core->job;
    int asks =
        j->stage == FC_JOB_MANIFEST || j->stage == FC_JOB_LEAVES || j->stage == FC_JOB_CHUNKS;
    if (j->stage != FC_JOB_IDLE)
        return asks && !core->link ? due : j->wait_ms;
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        if (core->slot[s].look_at_ms && core->slot[s].look_at_ms < due)
            due = core->slot[s].look_at_ms;
    return due;
}

/* A new desired document: a fetch that no longer serves it ends, unless its trial has begun. */
void fc_update_retarget(struct fc_core *core, uint32_t slot) {
    const struct fc_job *j = &core->job;
    if (j->slot == slot && j->stage >= FC_JOB_MANIFEST && j->stage <= FC_JOB_DIGEST && !j->group)
        fc_job_end(core);
}

void fc_update_link(struct fc_core *core) {
    struct fc_job *j = &core->job;
    if (j->stage == FC_JOB_MANIFEST || j->stage == FC_JOB_LEAVES || j->stage == FC_JOB_CHUNKS) {
        j->watching = 0;
        j->misses = 0;
        j->wait_ms = 0;
    }
    for (uint32_t s = 0; s < FC_SLOTS && core->link; s++)
        core->slot[s].look |= core->rec.no_links[s] != 0;
    if (core->link && j->stage == FC_JOB_PROBATION)
        j->linked = 1;
}

const uint8_t *fc_slot_mid(const struct fc_core *core, uint32_t slot) {
    const struct fc_job *j = &core->job;
    if (j->group >> slot & 1)
        return core->rec.slots[slot].other_id;
    if (core->slot[slot].ready ||
        (j->slot == slot && j->stage >= FC_JOB_MANIFEST && j->stage <= FC_JOB_DIGEST))
        return core->slot[slot].target.id;
    return fc_is_zero(core->app[slot]->model.id, 8) ? core->rec.slots[slot].other_id
                                                    : core->app[slot]->model.id;
}
