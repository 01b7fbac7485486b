/* run.c: models in the engine: loading, the confirmed model of a slot, a commanded self-test.
 *
 * All slots share one tensor arena: what is loaded together must fit together.
 */
#include "internal.h"

void fc_slot_unload(struct fc_core *core, uint32_t slot) {
    struct fc_slot *s = &core->slot[slot];
    const struct fc_engine *engine = core->hal->engine;
    fc_tele_cut(core, slot);
    if (core->app[slot])
        core->app[slot]->pipe.model = NULL;
    /* One arena for all slots: another model in one of them rebuilds it, and streams start anew. */
    for (uint32_t i = 0; i < FC_SLOTS; i++)
        if (core->app[i])
            core->app[i]->pipe.stale = 1;
    engine->unload(engine->ctx, (uint8_t)slot);
    if (s->mapped)
        core->hal->unmap(core->hal->ctx, s->mapped);
    s->mapped = NULL;
    s->loaded = 0;
}

/* Codes that an engine may give; everything else is load_failed. */
int fc_engine_code(int rc) {
    return rc <= FC_ERR_ARENA_TOO_SMALL && rc >= FC_ERR_IO_CONTRACT ? rc : FC_ERR_LOAD_FAILED;
}

/* The loaded models fit the arena together. Otherwise core->detail = the bytes of the one that is
 * loaded alone, or the slots that share it as a bit mask. */
static int arena_check(struct fc_core *core) {
    uint32_t left = core->id->arena_bytes, slots = 0;
    int rc = FC_OK;
    core->detail = 0;
    for (uint32_t i = 0; i < FC_SLOTS; i++) {
        const struct fc_slot *s = &core->slot[i];
        if (!s->loaded)
            continue;
        slots |= 1u << i;
        core->detail = s->arena_used;
        if (s->arena_used > left)
            rc = FC_ERR_ARENA_TOO_SMALL;
        else
            left -= s->arena_used;
    }
    if (slots & (slots - 1))
        core->detail = slots;
    if (!rc)
        core->detail = 0;
    return rc;
}

/* Unload the old, check, load. The model stays mapped while it is loaded. */
int fc_model_load(struct fc_core *core, uint8_t as) {
    struct fc_job *j = &core->job;
    struct fc_slot *s = &core->slot[j->slot];
    const struct fc_hal *hal = core->hal;
    const struct fc_engine *engine = hal->engine;
    struct fc_model *model = &core->app[j->slot]->model;
    struct fc_load_info info = {0};
    core->detail = 0;
    fc_slot_unload(core, j->slot);
    uint32_t n = fc_message_read(core, fc_job_area(core), 0, j->m.id, 32);
    if (!n || fc_manifest_read(core, n, &core->tmp.manifest, model))
        return FC_ERR_DIGEST;
    if (hal->map(hal->ctx, fc_job_area(core), fc_chunk_off(&j->m, 0), j->m.size, &s->mapped))
        return FC_ERR_FLASH_IO;
    int rc = engine->check(engine->ctx, s->mapped, j->m.size);
    if (!rc)
        rc = engine->load(engine->ctx, j->slot, s->mapped, j->m.size, model, &info);
    if (rc) {
        rc = fc_engine_code(rc);
    } else {
        s->arena_used = info.arena_used;
        s->loaded = as;
        rc = arena_check(core);
    }
    if (rc)
        fc_slot_unload(core, j->slot);
    return rc;
}

const struct fc_model *fc_running(const struct fc_core *core, uint32_t slot) {
    const struct fc_job *j = &core->job;
    if (slot >= FC_SLOTS || !core->app[slot])
        return NULL;
    uint8_t loaded = core->slot[slot].loaded;
    int in_check = j->stage == FC_JOB_CHECK && j->slot == slot; /* streaming state is not ours */
    return (loaded == 1 && !in_check) || (loaded == 2 && j->stage == FC_JOB_PROBATION)
               ? &core->app[slot]->model
               : NULL;
}

/* --- the confirmed model ------------------------------------------------------------- */

/* The run bank is damaged, its model unloaded: the other one, if it may run; else online without a
 * model. */
static FC_NOINLINE void run_broken(struct fc_core *core, uint32_t slot, int code) {
    struct fc_slot *s = &core->slot[slot];
    struct fc_manifest *m = &core->tmp.manifest;
    const struct fc_rec_slot *rs = &core->rec.slots[slot];
    uint8_t other = fc_bank_idle(core, slot);
    uint32_t n = 0;
    s->run_broken = 1;
    fc_event_refusal(core, (int)slot, code, 0);
    fc_job_end(core);
    fc_slot_set(core, slot, FC_ST_IDLE, code, 0);
    if ((rs->flags & FC_FLAG_USABLE) && rs->phase == FC_PH_CONFIRMED)
        n = fc_message_read(core, fc_bank_area(slot, other), 0, rs->other_id, 16);
    if (!n || fc_manifest_check(core, slot, NULL, n, FC_CHECK_OTHER, m))
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
    s->run_seq = m->seq;
    s->run_broken = 0;
    s->want_load = 2;
}

/* Reads the manifest of the bank that runs into a new job. FC_OK, FC_ERR_DIGEST */
static int run_open(struct fc_core *core, uint32_t slot) {
    struct fc_job *j = &core->job;
    const struct fc_rec_slot *rs = &core->rec.slots[slot];
    memset(j, 0, sizeof *j);
    j->slot = (uint8_t)slot;
    j->bank = rs->run_bank;
    uint32_t n = fc_message_read(core, fc_job_area(core), 0, rs->run_id, 16);
    return n && !fc_manifest_read(core, n, &j->m, NULL) ? FC_OK : FC_ERR_DIGEST;
}

int fc_run_begin(struct fc_core *core, uint32_t slot) {
    struct fc_slot *s = &core->slot[slot];
    const struct fc_rec_slot *rs = &core->rec.slots[slot];
    struct fc_job *j = &core->job;
    uint8_t how = s->want_load;
    s->want_load = 0;
    if (core->safe_mode || rs->run_bank == FC_NO_BANK || (rs->flags & FC_FLAG_STOPPED))
        return 0;
    if (run_open(core, slot)) {
        fc_slot_unload(core, slot);
        run_broken(core, slot, FC_ERR_DIGEST);
        return 1;
    }
    s->run_seq = j->m.seq;
    core->hal->digest_begin(&j->u.digest);
    fc_job_stage(core, how == 2 ? FC_JOB_RUN_HASH : FC_JOB_RUN_LOAD);
    return 1;
}

/* Hashes a sector of the model. 1 = more, or it has the signed digest and is loaded next. */
static FC_NOINLINE int run_hash(struct fc_core *core) {
    struct fc_job *j = &core->job;
    uint8_t got[32];
    if (fc_bank_hash(core, fc_chunk_off(&j->m, j->index), fc_chunk_len(&j->m, j->index),
                     &j->u.digest))
        return FC_ERR_FLASH_IO;
    if (++j->index < j->m.model_chunks)
        return 1;
    core->hal->digest_end(&j->u.digest, got);
    if (memcmp(got, j->m.sha256, 32) == 0) {
        fc_job_stage(core, FC_JOB_RUN_LOAD);
        return 1;
    }
    return FC_ERR_DIGEST;
}

int fc_run_step(struct fc_core *core) {
    struct fc_job *j = &core->job;
    int rc = j->stage == FC_JOB_RUN_LOAD ? fc_model_load(core, 1) : run_hash(core);
    if (rc < 0) {
        fc_slot_unload(core, j->slot);
        run_broken(core, j->slot, rc);
    } else if (rc == 0) {
        core->slot[j->slot].run_broken = 0;
        fc_job_end(core);
    }
    return 1;
}

/* --- commanded: self-test, arena probe ----------------------------------------------- */

/* FC_OK, FC_ERR_BUSY while an update is under way. */
int fc_check_begin(struct fc_core *core, uint32_t slot, uint64_t verb_counter) {
    struct fc_job *j = &core->job;
    if (j->stage != FC_JOB_IDLE)
        return FC_ERR_BUSY;
    int rc = run_open(core, slot);
    j->verb_counter = verb_counter;
    fc_job_stage(core, FC_JOB_CHECK);
    if (!rc)
        rc = fc_selftest_begin(core);
    if (rc)
        memset(j, 0, sizeof *j);
    return rc;
}

int fc_check_step(struct fc_core *core) {
    struct fc_job *j = &core->job;
    const struct fc_engine *engine = core->hal->engine;
    int rc = fc_selftest_step(core);
    if (rc > 0)
        return 1;
    core->slot[j->slot].golden = j->golden;
    fc_golden_event(core);
    if (rc < 0)
        rc = fc_engine_code(rc);
    else if (j->golden.ok != j->golden.n)
        rc = FC_ERR_SELFTEST_MISMATCH;
    fc_event_put(core, FC_EV_COMMAND, j->slot, FC_VERB_SELFTEST, (uint32_t)-rc,
                 (int64_t)j->verb_counter, 0);
    engine->reset(engine->ctx, j->slot);
    fc_job_end(core);
    fc_report_want(core, 2);
    return 1;
}

/* The smallest arena that the running model loads into, found by the engine beside what it holds.
 * FC_OK, FC_ERR_BUSY, FC_ERR_UNKNOWN_ACTION (the engine cannot), or the engine's code. The model is
 * loaded anew afterwards. */
int fc_arena_probe(struct fc_core *core, uint32_t slot, uint32_t *bytes) {
    const struct fc_engine *engine = core->hal->engine;
    struct fc_slot *s = &core->slot[slot];
    const struct fc_model *model = &core->app[slot]->model;
    if (!engine->probe)
        return FC_ERR_UNKNOWN_ACTION;
    if (core->job.stage != FC_JOB_IDLE)
        return FC_ERR_BUSY;
    int rc = engine->probe(engine->ctx, (uint8_t)slot, s->mapped, model->size, model, bytes);
    s->loaded = 0; /* unloaded for good by the next step, which loads it anew */
    s->want_load = 1;
    return rc ? fc_engine_code(rc) : FC_OK;
}
