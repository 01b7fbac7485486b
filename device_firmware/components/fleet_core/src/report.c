/* report.c: the reported document (SPEC.md section 7), level-triggered: what is, not what happened.
 */
#include "internal.h"

struct fc_out fc_uplink_open(struct fc_core *core) {
    return fc_out_to(fc_msg(core), FC_MSG_MAX - FC_MAC_TAIL);
}

FC_NOINLINE int fc_uplink_hand(struct fc_core *core, const char *kind, const uint8_t *msg,
                               size_t size, int retain) {
    char topic[FC_TOPIC_MAX];
    fc_topic_own(core, topic, kind);
    return core->hal->send(core->hal->ctx, topic, msg, size, 1, retain);
}

int fc_uplink_send(struct fc_core *core, enum fc_kind kind, const struct fc_out *out, size_t most,
                   int retain) {
    int size = fc_cose_mac0(core->hal, kind, core->id, out, most);
    if (size < 0)
        return size;
    return fc_uplink_hand(core, fc_kind_name(kind), fc_cose_start(out, (size_t)size), (size_t)size,
                          retain);
}

void fc_report_want(struct fc_core *core, uint8_t how) {
    if (how > core->report_due)
        core->report_due = how;
}

static void put_numbers(struct fc_out *out, const uint32_t *v, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        fc_out_u32(out, v[i]);
}

static void put_array(struct fc_out *out, uint32_t key, const uint32_t *v, uint32_t n) {
    fc_out_u32(out, key);
    fc_out_list(out, v, n);
}

static void put_bank(struct fc_out *out, const uint8_t id[16], uint32_t seq, uint8_t bank,
                     uint8_t flags) {
    const uint32_t v[] = {seq, bank, flags};
    int is_there = !fc_is_zero(id, 16);
    fc_out_array(out, is_there ? 4 : 0);
    if (!is_there)
        return;
    fc_out_bytes(out, id, 16);
    put_numbers(out, v, 3);
}

static void put_slot(struct fc_out *out, const struct fc_core *core, uint32_t slot) {
    const struct fc_slot *s = &core->slot[slot];
    const struct fc_rec_slot *rs = &core->rec.slots[slot];
    static const uint8_t none[16];
    int has_run = rs->run_bank != FC_NO_BANK;
    int has_target = s->target.set && s->target.action != FC_ACT_STOP;
    const uint32_t head[] = {s->state,  s->code,
                             s->detail, s->have > s->total ? s->total : s->have,
                             s->total,  s->target.set ? s->target.attempt : 0u};
    const uint32_t golden[] = {s->golden.n, s->golden.ok, s->golden.max_diff, s->golden.median_us};
    fc_out_array(out, 13);
    put_numbers(out, head, 6);
    fc_out_bytes(out, s->target.id, has_target ? 16 : 0);
    put_bank(out, has_run ? rs->run_id : none, s->run_seq, rs->run_bank,
             rs->flags & FC_FLAG_STOPPED);
    put_bank(out, rs->other_id, s->other_seq, fc_bank_idle(core, slot), rs->flags & FC_FLAG_USABLE);
    fc_out_bytes(out, rs->failed_id, fc_is_zero(rs->failed_id, 8) ? 0 : 8);
    fc_out_pair(out, rs->failed_attempt > UINT16_MAX ? UINT16_MAX : rs->failed_attempt,
                s->arena_used);
    fc_out_list(out, golden, 4);
}

static void put_slots(struct fc_out *out, const struct fc_core *core) {
    const struct fc_hal *hal = core->hal;
    uint32_t n = 0;
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        n += core->app[s] && hal->capacity(hal->ctx, fc_bank_area(s, 0)) > 0;
    fc_out_map(out, n);
    for (uint32_t s = 0; s < FC_SLOTS; s++) {
        if (!core->app[s] || !hal->capacity(hal->ctx, fc_bank_area(s, 0)))
            continue;
        fc_out_u32(out, s);
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
            fc_out_u32(out, key);
}

static int is_stale(const struct fc_core *core) {
    return core->desired_expires && fc_now(core) >= core->desired_expires;
}

static FC_NOINLINE void encode(struct fc_core *core, struct fc_out *out) {
    const struct fc_hal *hal = core->hal;
    const struct fc_ident *id = core->id;
    const uint32_t firmware[] = {id->firmware[0], id->firmware[1], id->firmware[2]};
    const uint32_t reset[] = {core->reset_reason, core->reset_raw};
    const uint32_t refusal[] = {core->refusal_code, core->refusal_detail};
    uint64_t now = fc_now(core);
    uint8_t digest[32];
    fc_sha256(hal, id->ops, id->ops_len, digest);
    fc_out_map(out, 19);
    fc_out_pair(out, 0, 1);
    fc_out_pair(out, 1, id->boot);
    fc_out_pair(out, 2, core->report_n + 1);
    fc_out_pair(out, 3, now > UINT32_MAX ? 0 : (uint32_t)now);
    fc_out_u32(out, 4);
    fc_out_bytes(out, id->class_id, 16);
    put_array(out, 5, firmware, 3);
    fc_out_pair(out, 6, id->chip);
    fc_out_u32(out, 7);
    fc_out_bytes(out, digest, 32);
    fc_out_pair(out, 8, core->rec.trust_version);
    fc_out_pair(out, 9, core->rec.desired_counter);
    fc_out_pair(out, 10, core->rec.cmd_counter);
    fc_out_pair(out, 11, (uint32_t)is_stale(core));
    put_array(out, 12, reset, 2);
    fc_out_pair(out, 13, hal->heap_free(hal->ctx));
    fc_out_u32(out, 14);
    put_slots(out, core);
    fc_out_u32(out, 15);
    put_invalid(out, fc_cfg(core)->invalid);
    fc_out_u32(out, 16);
    fc_out_raw(out, id->ops, id->ops_len);
    fc_out_u32(out, 17);
    fc_out_array(out, 2);
    fc_out_text(out, id->firmware_version);
    fc_out_text(out, id->esp_nn);
    put_array(out, 18, refusal, 2);
}

/* A token > 0, or FC_ERR_FULL and the like: asked again later. */
int fc_report_send(struct fc_core *core) {
    struct fc_job *j = &core->job;
    struct fc_out out = fc_uplink_open(core);
    encode(core, &out);
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
