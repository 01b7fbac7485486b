/* job.c: how a slot and the one job stand, and the ways a job ends before a trial. What it does is
 * for update.c, fetch.c and trial.c to say.
 */
#include "internal.h"

uint8_t fc_rest_phase(const struct fc_rec_slot *rs) {
    return rs->run_bank == FC_NO_BANK ? FC_PH_EMPTY : FC_PH_CONFIRMED;
}

void fc_slot_set(struct fc_core *core, uint32_t slot, enum fc_state state, int code,
                 uint32_t detail) {
    struct fc_slot *s = &core->slot[slot];
    uint8_t number = code < 0 && code >= -FC_CODE_MAX ? (uint8_t)-code : 0;
    if (s->state == state && s->code == number && s->detail == detail)
        return;
    s->state = (uint8_t)state;
    s->code = number;
    s->detail = detail;
    fc_log(core, 1, FC_LOG_STATE, (uint32_t)slot << 8 | (uint32_t)state, number);
    fc_report_want(core, 2);
}

void fc_job_stage(struct fc_core *core, enum fc_stage stage) {
    core->job.stage = (uint8_t)stage;
    core->job.index = 0;
    core->job.wait_ms = 0;
}

void fc_job_wait(struct fc_core *core, uint32_t ms) {
    core->job.wait_ms = fc_clock(core) + ms;
}

/* --- the end of a job ---------------------------------------------------------------- */

void fc_job_end(struct fc_core *core) {
    uint8_t slot = core->job.slot;
    fc_job_unwatch(core);
    memset(&core->job, 0, sizeof core->job);
    core->slot[slot].look = 1;
}

/* Back to CONFIRMED or EMPTY; the candidate's chunks stay for later. */
int fc_job_leave(struct fc_core *core, uint32_t slot) {
    if (core->rec.slots[slot].phase != FC_PH_FETCH)
        return FC_OK;
    struct fc_record *r = fc_log_edit(core);
    r->slots[slot].phase = fc_rest_phase(&r->slots[slot]);
    return fc_log_commit(core);
}

/* Refused before a trial: nothing ran, nothing is recorded as failed; a new entry tries again. */
void fc_slot_refuse(struct fc_core *core, uint32_t slot, int code, uint32_t detail) {
    fc_event_refusal(core, (int)slot, code, detail);
    fc_job_leave(core, slot);
    core->slot[slot].given_up = 1;
    core->slot[slot].ready = 0;
    fc_slot_set(core, slot, FC_ST_REFUSED, code, detail);
    if (core->job.stage != FC_JOB_IDLE)
        fc_job_end(core);
}

void fc_job_refuse(struct fc_core *core, int code, uint32_t detail) {
    fc_slot_refuse(core, core->job.slot, code, detail);
}

int fc_is_overdue(const struct fc_core *core, uint32_t slot) {
    uint64_t deadline = core->slot[slot].target.deadline;
    return deadline && fc_now(core) > deadline;
}

/* A flash operation failed: the job waits a moment, and gives up after the third. */
void fc_job_fault(struct fc_core *core) {
    if (++core->job.faults < FC_TRIES_MAX)
        fc_job_wait(core, FC_RETRY_MS);
    else if (core->job.group)
        fc_trial_fail(core, FC_ERR_FLASH_IO, 0);
    else
        fc_job_refuse(core, FC_ERR_FLASH_IO, 0);
}
