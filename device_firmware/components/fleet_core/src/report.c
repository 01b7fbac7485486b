/* report.c: the reported document (SPEC.md section 7), level-triggered: what is, not what happened.
 */
#include "internal.h"

struct fc_out fc_uplink_open(struct fc_core *core) {
    return fc_out_to(fc_msg(core), FC_MSG_MAX - 34);
}

int fc_uplink_seal(struct fc_core *core, enum fc_kind kind, const struct fc_out *out, size_t most,
                   const uint8_t **msg) {
    uint8_t aad[16 + FC_TOPIC_MAX];
    size_t aad_len = fc_aad_own(core, aad, fc_kind_name(kind));
    if (out->err)
        return FC_ERR_TOO_LARGE;
    return fc_cose_mac0(core->hal, kind, core->id->mac_kid, aad, aad_len, fc_msg(core), out->n,
                        most, msg);
}

int fc_uplink_send(struct fc_core *core, enum fc_kind kind, const struct fc_out *out, size_t most,
                   int retain) {
    const uint8_t *msg = NULL;
    char topic[FC_TOPIC_MAX];
    int size = fc_uplink_seal(core, kind, out, most, &msg);
    if (size < 0)
        return size;
    fc_topic_own(core, topic, fc_kind_name(kind));
    return core->hal->send(core->hal->ctx, topic, msg, (size_t)size, 1, retain);
}

void fc_report_want(struct fc_core *core, uint8_t how) {
    if (how > core->report_due)
        core->report_due = how;
}

static void put_bank(struct fc_out *out, const uint8_t id[16], uint32_t seq, uint8_t bank,
                     uint8_t flags) {
    if (fc_is_zero(id, 16)) {
        fc_out_array(out, 0);
        return;
    }
    fc_out_array(out, 4);
    fc_out_bytes(out, id, 16);
    fc_out_uint(out, seq);
    fc_out_uint(out, bank);
    fc_out_uint(out, flags);
}

static void put_slot(struct fc_out *out, const struct fc_core *core, uint8_t slot) {
    const struct fc_slot *s = &core->slot[slot];
    const struct fc_rec_slot *rs = &core->rec.slots[slot];
    static const uint8_t none[16];
    int has_run = rs->run_bank != FC_NO_BANK;
    int has_target = s->target.set && s->target.action != FC_ACT_STOP;
    fc_out_array(out, 13);
    fc_out_uint(out, s->state);
    fc_out_uint(out, s->code);
    fc_out_uint(out, s->detail);
    fc_out_uint(out, s->have > s->total ? s->total : s->have);
    fc_out_uint(out, s->total);
    fc_out_uint(out, s->target.set ? s->target.attempt : 0);
    fc_out_bytes(out, s->target.id, has_target ? 16 : 0);
    put_bank(out, has_run ? rs->run_id : none, s->run_seq, rs->run_bank,
             rs->flags & FC_FLAG_STOPPED);
    put_bank(out, rs->other_id, s->other_seq, fc_bank_idle(core, slot), rs->flags & FC_FLAG_USABLE);
    fc_out_bytes(out, rs->failed_id, fc_is_zero(rs->failed_id, 8) ? 0 : 8);
    fc_out_uint(out, rs->failed_attempt > UINT16_MAX ? UINT16_MAX : rs->failed_attempt);
    fc_out_uint(out, s->arena_used);
    fc_out_array(out, 4);
    fc_out_uint(out, s->golden.n);
    fc_out_uint(out, s->golden.ok);
    fc_out_uint(out, s->golden.max_diff);
    fc_out_uint(out, s->golden.median_us);
}

static void put_slots(struct fc_out *out, const struct fc_core *core) {
    const struct fc_hal *hal = core->hal;
    uint32_t n = 0;
    for (uint8_t s = 0; s < FC_SLOTS; s++)
        n += core->app[s] && hal->capacity(hal->ctx, fc_bank_area(s, 0)) > 0;
    fc_out_map(out, n);
    for (uint8_t s = 0; s < FC_SLOTS; s++) {
        if (!core->app[s] || !hal->capacity(hal->ctx, fc_bank_area(s, 0)))
            continue;
        fc_out_uint(out, s);
        put_slot(out, core, s);
    }
}

static void put_invalid(struct fc_out *out, uint32_t invalid) {
    uint32_t n = 0;
    for (uint32_t key = 0; key <= FC_KEY_MAX; key++)
        n += invalid >> key & 1u;
    fc_out_array(out, n);
    for (uint32_t key = 0; key <= FC_KEY_MAX; key++)
        if (invalid >> key & 1u)
            fc_out_uint(out, key);
}

static int is_stale(const struct fc_core *core) {
    return core->desired_expires && fc_now(core) >= core->desired_expires;
}

static struct fc_out encode(struct fc_core *core, uint32_t n) {
    const struct fc_hal *hal = core->hal;
    struct fc_out out = fc_uplink_open(core);
    uint64_t now = fc_now(core);
    uint8_t digest[32];
    fc_sha256(hal, core->id->ops, core->id->ops_len, digest);
    fc_out_map(&out, 19);
    const uint64_t first[] = {1, core->id->boot, n, now > UINT32_MAX ? 0 : now};
    for (uint32_t key = 0; key < 4; key++) {
        fc_out_uint(&out, key);
        fc_out_uint(&out, first[key]);
    }
    fc_out_uint(&out, 4);
    fc_out_bytes(&out, core->id->class_id, 16);
    fc_out_uint(&out, 5);
    fc_out_array(&out, 3);
    for (int i = 0; i < 3; i++)
        fc_out_uint(&out, core->id->firmware[i]);
    fc_out_uint(&out, 6);
    fc_out_uint(&out, core->id->chip);
    fc_out_uint(&out, 7);
    fc_out_bytes(&out, digest, 32);
    const uint64_t middle[] = {core->rec.trust_version, core->rec.desired_counter,
                               core->rec.cmd_counter, (uint64_t)is_stale(core)};
    for (uint32_t i = 0; i < 4; i++) {
        fc_out_uint(&out, 8 + i);
        fc_out_uint(&out, middle[i]);
    }
    fc_out_uint(&out, 12);
    fc_out_array(&out, 2);
    fc_out_uint(&out, core->reset_reason);
    fc_out_uint(&out, core->reset_raw);
    fc_out_uint(&out, 13);
    fc_out_uint(&out, hal->heap_free(hal->ctx));
    fc_out_uint(&out, 14);
    put_slots(&out, core);
    fc_out_uint(&out, 15);
    put_invalid(&out, fc_cfg(core)->invalid);
    fc_out_uint(&out, 16);
    fc_out_raw(&out, core->id->ops, core->id->ops_len);
    fc_out_uint(&out, 17);
    fc_out_array(&out, 2);
    fc_out_text(&out, core->id->firmware_version);
    fc_out_text(&out, core->id->esp_nn);
    fc_out_uint(&out, 18);
    fc_out_array(&out, 2);
    fc_out_uint(&out, core->refusal_code);
    fc_out_uint(&out, core->refusal_detail);
    return out;
}

/* A token > 0, or FC_ERR_FULL and the like: asked again later. */
int fc_report_send(struct fc_core *core) {
    struct fc_job *j = &core->job;
    struct fc_out out = encode(core, core->report_n + 1);
    int token = fc_uplink_send(core, FC_K_REPORTED, &out, FC_REPORTED_MAX, 1);
    if (token < 0)
        return token;
    core->report_n++;
    core->report_due = 0;
    core->report_at_ms = fc_clock(core);
    /* Probation's proof: a report of this very probation, over a connection made since. */
    if (j->stage == FC_JOB_PROBATION && j->linked && !j->acked)
        j->token = token;
    return token;
}
