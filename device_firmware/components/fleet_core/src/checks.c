/* checks.c: clocks, and manifests against what this device is, holds and has confirmed. */
#include "internal.h"

uint64_t fc_clock(const struct fc_core *core) {
    return core->hal->clock_ms(core->hal->ctx);
}

/* Whole seconds since an uptime. Divided by 8 before it is cut to 32 bits: right for 397 days
 * without a restart, and no 64-bit division is linked. */
static uint32_t since_s(const struct fc_core *core, uint64_t at_ms) {
    return (uint32_t)((fc_clock(core) - at_ms) >> 3) / 125u;
}

uint64_t fc_now_signed(const struct fc_core *core) {
    uint64_t issued = core->issued_s ? core->issued_s + since_s(core, core->issued_ms) : 0;
    return issued > core->rec.time_floor ? issued : core->rec.time_floor;
}

uint64_t fc_now(const struct fc_core *core) {
    uint64_t wall = core->hal->unix_s(core->hal->ctx), sure = fc_now_signed(core);
    return wall > sure ? wall : sure;
}

/* Signed time only moves forward; a replayed document cannot turn the clock back. */
void fc_signed_time(struct fc_core *core, uint64_t issued) {
    if (issued <= fc_now_signed(core) || issued > UINT32_MAX)
        return;
    core->issued_s = issued;
    core->issued_ms = fc_clock(core);
}

int fc_wall_ms(const struct fc_core *core, uint64_t at_ms, uint64_t *out) {
    if (core->has_wall) {
        *out = (uint64_t)((int64_t)at_ms + core->wall_offset_ms);
        return 2;
    }
    uint64_t sure = fc_now_signed(core), ago_ms = fc_clock(core) - at_ms;
    if (!sure || ago_ms > sure * 1000)
        return 0;
    *out = sure * 1000 - ago_ms;
    return 1;
}

const struct fc_config *fc_cfg(const struct fc_core *core) {
    return &core->config;
}

/* Weekday 0 is Monday; a window that crosses midnight belongs to the day it begins on. */
static int in_window(const struct fc_config *c, uint32_t now) {
    uint32_t minute = now / 60 % 1440;
    for (uint32_t back = 0; back < 2; back++) {
        uint32_t day = (now / 86400 + 3 + 7 - back) % 7; /* 1970-01-01 was a Thursday */
        uint32_t since = minute + 1440u * back;
        if ((c->maint_mask >> day & 1u) && since >= c->maint_start_min &&
            since - c->maint_start_min < c->maint_min)
            return 1;
    }
    return 0;
}

int fc_may_switch(struct fc_core *core) {
    const struct fc_config *c = fc_cfg(core);
    uint64_t now = fc_now(core);
    if (c->maint_mask && (!now || !in_window(c, (uint32_t)now)))
        return FC_ERR_MAINTENANCE_WINDOW;
    if (core->hal->heap_free(core->hal->ctx) < core->id->heap_floor)
        return FC_ERR_LOW_HEAP;
    int rc = core->hal->may_switch(core->hal->ctx);
    return rc <= -1 && rc >= -FC_CODE_MAX ? rc : rc ? FC_ERR_BUSY : FC_OK;
}

static uint32_t least_seq(const struct fc_trust *t, const uint8_t hash[8]) {
    for (uint32_t i = 0; i < t->n_names; i++)
        if (memcmp(t->names[i].hash, hash, 8) == 0)
            return t->names[i].least_seq;
    return 0;
}

/* Rollback protection. A ninth name is refused: forgetting one would forget its protection. */
static FC_NOINLINE int check_seq(struct fc_core *core, const struct fc_manifest *m,
                                 enum fc_check how) {
    uint8_t hash[32];
    fc_sha256(core->hal, fc_msg(core) + m->name_off, m->name_n, hash);
    uint32_t least = least_seq(&core->trust, hash);
    const struct fc_rec_name *found = NULL;
    int room = 0;
    for (uint32_t i = 0; i < FC_NAMES; i++) {
        const struct fc_rec_name *name = &core->rec.names[i];
        if (memcmp(name->hash, hash, 8) == 0)
            found = name;
        room |= fc_is_zero(name->hash, 8);
    }
    if (found && m->seq < found->floor) {
        core->detail = found->floor;
        return FC_ERR_FLOOR;
    }
    if (m->seq < least) {
        core->detail = least;
        return FC_ERR_SEQUENCE;
    }
    if (how != FC_CHECK_NEW)
        return FC_OK;
    if (!found && !room) {
        core->detail = 1;
        return FC_ERR_SEQUENCE;
    }
    if (found &&
        (m->seq < found->seq || (m->seq == found->seq && memcmp(found->id, m->id, 8) != 0))) {
        core->detail = found->seq;
        return FC_ERR_SEQUENCE;
    }
    return FC_OK;
}

static int is_over(uint64_t expires, uint64_t now) {
    return expires && now >= expires;
}

/* Only a signed clock refuses; an unsigned one defers. */
static int check_expiry(struct fc_core *core, const struct fc_manifest *m) {
    uint64_t sure = fc_now_signed(core), now = fc_now(core);
    if (!is_over(m->expires, now) && !is_over(core->trust.expires, now))
        return FC_OK;
    core->deferred = !is_over(m->expires, sure) && !is_over(core->trust.expires, sure);
    return FC_ERR_EXPIRED;
}

static int version_order(const uint16_t a[3], const uint16_t b[3]) {
    for (int i = 0; i < 3; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* What this device is: class, memory, operators, firmware. */
static FC_NOINLINE int check_device(struct fc_core *core, uint32_t slot,
                                    const struct fc_manifest *m) {
    const struct fc_hal *hal = core->hal;
    uint32_t sectors = hal->capacity(hal->ctx, fc_bank_area(slot, 0)) / FC_SECTOR;
    int rc = fc_class_check(core->cose.payload, core->cose.n, core->id->class_id);
    if (rc)
        return rc;
    if (sectors < 1 + fc_leaf_sectors(m) || m->chunks > sectors - 1 - fc_leaf_sectors(m)) {
        core->detail = m->chunks;
        return FC_ERR_TOO_LARGE;
    }
    if (m->arena > core->id->arena_bytes) {
        core->detail = m->arena;
        return FC_ERR_ARENA_TOO_SMALL;
    }
    rc = fc_ops_check(core->cose.payload, core->cose.n, core->id->ops, core->id->ops_len,
                      &core->detail);
    if (rc)
        return rc;
    return version_order(core->id->firmware, m->firmware) < 0 ? FC_ERR_FIRMWARE_TOO_OLD : FC_OK;
}

int fc_cose_open(struct fc_core *core, enum fc_kind kind, const uint8_t *p, size_t n) {
    if (n > FC_MSG_MAX)
        return FC_ERR_TOO_LARGE;
    if (p)
        memcpy(fc_msg(core), p, n);
    return fc_cose_parse(kind, fc_msg(core), n, &core->cose);
}

static int parse(struct fc_core *core, struct fc_manifest *m, struct fc_model *model) {
    return fc_manifest_parse(core->cose.payload, core->cose.n,
                             (uint32_t)(core->cose.payload - fc_msg(core)), m, model);
}

int fc_manifest_read(struct fc_core *core, uint32_t n, struct fc_manifest *m,
                     struct fc_model *model) {
    int rc = fc_cose_open(core, FC_K_MANIFEST, NULL, n);
    if (rc)
        return rc;
    fc_sha256(core->hal, fc_msg(core), n, m->id);
    return parse(core, m, model);
}

/* The order is that of firmware.md section 6; the digest was compared before. p[0..n) is the
 * broker's, or a bank's: it is bounded, walked and its signatures counted before a field is used.
 */
int fc_manifest_check(struct fc_core *core, uint32_t slot, const uint8_t *p, size_t n,
                      enum fc_check how, struct fc_manifest *m) {
    const struct fc_role_keys *role = &core->trust.role[FC_RELEASE];
    core->detail = 0;
    core->deferred = 0;
    int rc = fc_cose_open(core, FC_K_MANIFEST, p, n);
    if (rc)
        return rc;
    if (!core->has_trust)
        return FC_ERR_TRUST;
    fc_sha256(core->hal, fc_msg(core), n, m->id);
    core->detail = fc_cose_signers(core->hal, FC_K_MANIFEST, &core->cose, role, &core->trust, NULL);
    if (core->detail < role->threshold)
        return FC_ERR_SIGNATURE;
    core->detail = 0;
    rc = parse(core, m, NULL);
    if (rc)
        return rc;
    if (how != FC_CHECK_DOCUMENT) {
        if (m->kind != 0 || m->slot != slot)
            return FC_ERR_SCHEMA;
        rc = check_device(core, slot, m);
        if (rc)
            return rc;
    }
    rc = check_seq(core, m, how);
    if (rc || how == FC_CHECK_OTHER)
        return rc;
    return check_expiry(core, m);
}
