/* boot.c: what a reset means for what was under way (table "Boot by reset reason" in DESIGN.md).
 *
 * One record at most is written, before anything of a candidate is touched: attempts and cuts of a
 * trial, panics in a row of a confirmed model.
 */
#include "crc32.h"
#include "internal.h"

static int ident_ok(const struct fc_ident *id) {
    size_t n = id->device_id ? strlen(id->device_id) : 0;
    if (!fc_is_device_id((const uint8_t *)id->device_id, n) || !id->firmware_version || !id->esp_nn)
        return 0;
    if (strlen(id->firmware_version) > 32 || strlen(id->esp_nn) > 32)
        return 0;
    if (id->n_roots < 1 || id->n_roots > 4 || id->root_threshold < 1 ||
        id->root_threshold > id->n_roots || id->boot > INT32_MAX)
        return 0;
    return fc_ops_valid(id->ops, id->ops_len) == FC_OK;
}

/* A software reset that we did not ask for is a panic. Garbage in `keep` is cleared. */
static uint8_t effective_reason(struct fc_core *core) {
    const struct fc_hal *hal = core->hal;
    uint8_t reason = (uint8_t)hal->reset_reason(hal->ctx, &core->reset_raw);
    uint8_t *keep = hal->keep(hal->ctx);
    int expected = 0;
    if (keep) {
        if (memcmp(keep, "KEEP", 4) != 0 || fc_get32(keep + 60) != fc_crc32(keep, 60) ||
            reason < FC_RST_EXPECTED)
            memset(keep, 0, 64);
        expected = keep[4] == 1;
        keep[4] = 0;
        fc_put32(keep + 60, fc_crc32(keep, 60));
    }
    if (reason > FC_RST_SLEEP || (reason == FC_RST_EXPECTED && !expected))
        reason = FC_RST_PANIC;
    return reason;
}

/* Before a trust document came, the firmware's roots alone are trusted, with nothing but trust. */
static void load_trust(struct fc_core *core) {
    struct fc_role_keys *roots = &core->trust.role[FC_ROOT];
    uint32_t n = core->rec.trust_version ? fc_doc_load(core, FC_DOC_TRUST) : 0;
    if (n && fc_cose_open(core, FC_K_TRUST, NULL, n) == FC_OK &&
        fc_trust_parse(core->hal, core->cose.payload, core->cose.n, &core->trust) == FC_OK) {
        core->has_trust = 1;
        return;
    }
    memset(&core->trust, 0, sizeof core->trust);
    roots->n = core->id->n_roots;
    roots->threshold = core->id->root_threshold;
    memcpy(roots->key, core->id->roots, sizeof roots->key);
}

static void load_desired(struct fc_core *core) {
    uint32_t n = core->rec.desired_counter ? fc_doc_load(core, FC_DOC_DESIRED) : 0;
    if (n && fc_cose_open(core, FC_K_DESIRED, NULL, n) == FC_OK &&
        fc_desired_parse(core->cose.payload, core->cose.n, core->id->device_id, &core->config,
                         &core->tmp.desired) == FC_OK)
        fc_desired_apply(core);
}

static int is_crash(uint8_t reason) {
    return reason == FC_RST_PANIC || reason == FC_RST_WATCHDOG;
}

static int is_power(uint8_t reason) {
    return reason == FC_RST_POWER || reason == FC_RST_BROWNOUT;
}

static int in_trial(const struct fc_rec_slot *rs) {
    return rs->phase == FC_PH_TRIAL || rs->phase == FC_PH_PROBATION;
}

/* Counts a reset against a trial. Gives it up when that was the last one allowed. */
static void count_trial(struct fc_core *core, uint32_t slot, struct fc_rec_slot *rs) {
    const struct fc_target *t = &core->slot[slot].target;
    int code = FC_OK;
    if (is_crash(core->reset_reason) && ++rs->attempts >= FC_ATTEMPTS_MAX)
        code = core->reset_reason == FC_RST_WATCHDOG ? FC_ERR_WATCHDOG : FC_ERR_CRASH_LOOP;
    if (is_power(core->reset_reason) && ++rs->cuts >= FC_CUTS_MAX)
        code = FC_ERR_LOW_POWER;
    if (code == FC_OK)
        return;
    rs->fail_detail = code == FC_ERR_LOW_POWER ? rs->cuts : rs->attempts;
    rs->phase = fc_rest_phase(rs);
    memcpy(rs->failed_id, rs->other_id, 8);
    rs->failed_attempt = t->set && memcmp(t->id, rs->other_id, 16) == 0 ? t->attempt : 0;
    rs->fail_code = (uint8_t)-code;
    rs->flags &= (uint8_t) ~(FC_FLAG_USABLE | FC_FLAG_REVERTING);
    rs->attempts = 0;
    rs->cuts = 0;
    fc_event_refusal(core, (int)slot, code, rs->fail_detail);
}

/* Panics in a row of confirmed models; a person's power cycle breaks the row. */
static uint32_t count_panics(const struct fc_core *core) {
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        if (in_trial(&core->rec.slots[s]))
            return core->rec.panics;
    if (is_crash(core->reset_reason))
        return core->rec.panics + 1;
    return core->reset_reason == FC_RST_POWER ? 0 : core->rec.panics;
}

/* Everything this reset changes, in one record. FC_OK also when nothing changed. */
static int account(struct fc_core *core, uint32_t panics) {
    struct fc_record *r = fc_log_edit(core);
    int changed = r->panics != panics;
    for (uint32_t s = 0; s < FC_SLOTS; s++) {
        struct fc_rec_slot *rs = &r->slots[s];
        if (in_trial(rs) && core->reset_reason < FC_RST_EXPECTED) {
            count_trial(core, s, rs);
            changed = 1;
        } else if (panics > r->panics && rs->run_bank != FC_NO_BANK) {
            rs->panics++;
        }
    }
    r->panics = panics;
    return changed ? fc_log_commit(core) : FC_OK;
}

static uint32_t seq_of(struct fc_core *core, uint32_t slot, uint8_t bank, const uint8_t id[16]) {
    struct fc_manifest *m = &core->tmp.manifest;
    uint32_t n =
        fc_is_zero(id, 16) ? 0 : fc_message_read(core, fc_bank_area(slot, bank), 0, id, 16);
    if (!n || fc_manifest_read(core, n, m, NULL))
        return 0;
    return m->seq;
}

static void plan_slot(struct fc_core *core, uint32_t slot) {
    struct fc_slot *s = &core->slot[slot];
    if (!core->app[slot])
        return;
    const struct fc_rec_slot *rs = &core->rec.slots[slot];
    uint8_t idle = fc_bank_idle(core, slot);
    if (rs->run_bank != FC_NO_BANK)
        s->run_seq = seq_of(core, slot, rs->run_bank, rs->run_id);
    s->other_seq = seq_of(core, slot, idle, rs->other_id);
    s->look = 1;
    if (in_trial(rs)) { /* which ends before its entry is looked at */
        if (memcmp(s->target.id, rs->other_id, 16) == 0)
            fc_slot_set(core, slot, FC_ST_TRIAL, 0, 0);
        core->want_trial |= (uint8_t)(1u << slot);
        return;
    }
    fc_update_derive(core, slot);
    if (rs->run_bank != FC_NO_BANK)
        s->want_load = core->reset_reason == FC_RST_SLEEP ? 1 : 2;
}

int fc_core_boot(struct fc_core *core, const struct fc_hal *hal, const struct fc_ident *ident,
                 const struct fc_memory *memory) {
    memset(core, 0, sizeof *core);
    core->hal = hal;
    core->id = ident;
    core->ring.bytes = memory->ring;
    core->ring.size = memory->ring_bytes;
    if (!ident_ok(ident) || (FC_TELEMETRY && (!memory->ring || memory->ring_bytes < FC_RING_MIN)))
        return FC_ERR_SCHEMA;
    if (hal->capacity(hal->ctx, FC_META) < 8 * FC_SECTOR || fc_log_open(core))
        return FC_ERR_FLASH_IO;
    for (uint32_t s = 0; s < FC_SLOTS; s++) {
        core->app[s] = memory->app[s];
        if (core->app[s])
            memset(core->app[s], 0, sizeof *core->app[s]);
    }
    core->boot_ms = fc_clock(core);
    fc_config_default(&core->config);
    core->reset_reason = effective_reason(core);
    uint32_t panics = count_panics(core);
    core->safe_mode = panics >= FC_PANICS_SAFE;
    load_trust(core);
    load_desired(core);
    int is_counted = account(core, panics) == FC_OK;
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        plan_slot(core, s);
    for (uint32_t s = 0; s < FC_SLOTS && !is_counted; s++) {
        /* The count is what protects us: without it nothing is loaded. */
        core->want_trial = core->slot[s].want_load = core->slot[s].look = 0;
        fc_slot_set(core, s, FC_ST_IDLE, FC_ERR_FLASH_IO, 0);
    }
    if (core->safe_mode)
        fc_log(core, 2, FC_LOG_SAFE_MODE, panics, 0);
    fc_event_put(core, FC_EV_RESET, -1, core->reset_reason, 0, core->reset_raw, 0);
    fc_log(core, 1, FC_LOG_BOOT, core->reset_reason, (uint32_t)core->rec.number);
    fc_report_want(core, 2);
    return FC_OK;
}
