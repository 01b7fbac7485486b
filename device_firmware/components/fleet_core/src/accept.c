/* accept.c: trust documents, desired documents and commands: what is checked, stored and done, in
 * this order. Each change is one record, written before it has an effect.
 */
#include "internal.h"

char *fc_text_put(char *p, const char *text) {
    size_t n = strlen(text);
    memcpy(p, text, n + 1);
    return p + n;
}

char *fc_text_number(char *p, uint32_t v) {
    char digits[10];
    int n = 0;
    do {
        digits[n++] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    while (n)
        *p++ = digits[--n];
    *p = 0;
    return p;
}

/* The device id has at most 32 bytes, checked at boot. */
void fc_topic_own(const struct fc_core *core, char out[FC_TOPIC_MAX], const char *kind) {
    char *p = fc_text_put(fc_text_put(out, "f1/dev/"), core->id->device_id);
    fc_text_put(fc_text_put(p, "/"), kind);
}

/* SUBSCRIBE again brings retained documents again. */
void fc_watch_own(struct fc_core *core) {
    const struct fc_hal *hal = core->hal;
    char topic[FC_TOPIC_MAX];
    if (!core->link)
        return;
    fc_topic_own(core, topic, "desired");
    hal->watch(hal->ctx, topic, 1);
    fc_topic_own(core, topic, "cmd");
    hal->watch(hal->ctx, topic, 1);
}

/* A device that slept through a rotation walks the retained chain up from its own version. */
static void chain_watch(struct fc_core *core, int on) {
    char topic[FC_TOPIC_MAX];
    if (!core->link || core->chain_watched == on)
        return;
    fc_text_number(fc_text_put(topic, "f1/trust/"), core->rec.trust_version + 1);
    if (on)
        core->hal->watch(core->hal->ctx, topic, 1);
    else
        core->hal->unwatch(core->hal->ctx, topic);
    core->chain_watched = (uint8_t)on;
}

static int roots_signed(struct fc_core *core, const struct fc_role_keys *roots) {
    return fc_cose_signers(core->hal, FC_K_TRUST, &core->cose, roots, NULL, NULL) >=
           roots->threshold;
}

/* A root-signed reset lowers what a name has reached, once, in the record that accepts it. */
static void apply_resets(struct fc_record *r, const struct fc_trust *t) {
    for (uint32_t i = 0; i < t->n_names; i++) {
        for (uint32_t k = 0; k < FC_NAMES; k++) {
            struct fc_rec_name *name = &r->names[k];
            if (!t->names[i].resets || memcmp(name->hash, t->names[i].hash, 8) != 0)
                continue;
            uint32_t least = t->names[i].least_seq;
            name->seq = least ? least - 1 : 0;
            name->floor = least;
            memset(name->id, 0, 8);
        }
    }
}

/* FC_OK accepted or held already; FC_ERR_TOO_LARGE, FC_ERR_SCHEMA, FC_ERR_TRUST, FC_ERR_FLASH_IO.
 * Expiry stands in no newer document's way. p[0..n) is the broker's: hashed as it is, then bounded
 * by FC_MSG_MAX, walked, and nothing of it counts before the old roots signed it. */
int fc_accept_trust(struct fc_core *core, const uint8_t *p, size_t n) {
    struct fc_trust *t = &core->tmp.trust;
    uint8_t digest[32], sector = 0;
    fc_sha256(core->hal, p, n, digest);
    int same = memcmp(digest, core->rec.trust_digest, 8) == 0;
    if (core->has_trust && same)
        return FC_OK;
    int rc = fc_cose_open(core, FC_K_TRUST, p, n);
    if (rc)
        return rc;
    if (!roots_signed(core, &core->trust.role[FC_ROOT])) {
        chain_watch(core, 1); /* perhaps the roots were rotated while we slept */
        return FC_ERR_TRUST;
    }
    rc = fc_trust_parse(core->hal, core->cose.payload, core->cose.n, t);
    if (rc)
        return rc;
    if (!roots_signed(core, &t->role[FC_ROOT]))
        return FC_ERR_TRUST;
    if (t->version < core->id->least_trust_version || t->version < core->rec.trust_version)
        return FC_ERR_TRUST;
    /* The same version again only when flash lost the very document. */
    if (t->version == core->rec.trust_version && (core->has_trust || !same))
        return FC_ERR_TRUST;

    rc = fc_doc_store(core, FC_DOC_TRUST, p, n, &sector);
    if (rc)
        return rc;
    chain_watch(core, 0); /* its topic follows from the version held before */
    struct fc_record *r = fc_log_edit(core);
    r->trust_version = t->version;
    r->trust_sector = sector;
    memcpy(r->trust_digest, digest, 8);
    if (t->issued > r->time_floor && t->issued <= UINT32_MAX)
        r->time_floor = t->issued;
    apply_resets(r, t);
    rc = fc_log_commit(core);
    if (rc)
        return rc;
    core->trust = *t;
    core->has_trust = 1;
    fc_log(core, 1, FC_LOG_TRUST, core->trust.version, 0);
    if (core->refusal_code == -FC_ERR_TRUST)
        core->refusal_code = 0;
    for (uint32_t s = 0; s < FC_SLOTS; s++) {
        struct fc_slot *slot = &core->slot[s];
        slot->look = 1;
        /* What was refused by the keys or dates of the old document is judged again. */
        if (slot->code == -FC_ERR_SIGNATURE || slot->code == -FC_ERR_TRUST ||
            slot->code == -FC_ERR_EXPIRED || slot->code == -FC_ERR_SEQUENCE)
            slot->given_up = 0;
    }
    /* The newest comes again: it is this one, or tells that the chain goes on. So does what was
     * refused for want of this document. */
    if (core->link)
        core->hal->watch(core->hal->ctx, "f1/trust", 1);
    if (core->wanted_trust > core->trust.version)
        chain_watch(core, 1);
    fc_watch_own(core);
    fc_report_want(core, 2);
    return FC_OK;
}

/* The signature of desired and cmd: one online key, over installation, topic and payload. */
static int check_online(struct fc_core *core, enum fc_kind kind, const uint8_t *p, size_t n) {
    const struct fc_trust *t = &core->trust;
    int rc = fc_cose_open(core, kind, p, n);
    if (rc)
        return rc;
    if (!core->has_trust)
        return FC_ERR_TRUST;
    return fc_cose_signers(core->hal, kind, &core->cose, &t->role[FC_ONLINE], t, core->id)
               ? FC_OK
               : FC_ERR_SIGNATURE;
}

static int check_version(struct fc_core *core, uint32_t version) {
    if (version == core->trust.version)
        return FC_OK;
    if (version > core->trust.version) {
        core->wanted_trust = version;
        if (core->link)
            core->hal->watch(core->hal->ctx, "f1/trust", 1);
        chain_watch(core, 1);
    }
    return FC_ERR_TRUST;
}

/* An entry that asks for the same again changes nothing; a higher attempt is a new chance. The
 * state belongs to the entry: what was confirmed for the old one must not be read as said of the
 * new. */
static void retarget(struct fc_core *core, uint32_t slot, const struct fc_target *t) {
    struct fc_slot *s = &core->slot[slot];
    int same = s->target.set == t->set && s->target.action == t->action &&
               s->target.attempt == t->attempt && memcmp(s->target.id, t->id, 32) == 0;
    s->look = 1;
    if (!same)
        fc_update_retarget(core, slot);
    s->target = *t;
    if (same)
        return;
    s->given_up = 0;
    if ((core->job.group >> slot & 1) &&
        (!t->set || memcmp(core->rec.slots[slot].other_id, t->id, 16) == 0)) {
        s->trial_attempt = t->attempt; /* no other model is asked for: as after a reset */
        fc_slot_set(core, slot, FC_ST_TRIAL, 0, 0);
        return;
    }
    s->ready = 0;
    s->have = s->total = 0;
    fc_slot_set(core, slot, t->set ? FC_ST_OFFERED : FC_ST_IDLE, 0, 0);
}

void fc_desired_apply(struct fc_core *core) {
    const struct fc_desired *d = &core->tmp.desired;
    core->desired_expires = d->expires;
    core->has_desired = 1;
    core->config = d->config;
    if (core->safe_mode) /* a stored configuration may be what crashes us */
        fc_config_default(&core->config);
    fc_signed_time(core, d->issued);
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        retarget(core, s, &d->target[s]);
}

/* FC_OK accepted or held already; FC_ERR_TOO_LARGE, SCHEMA, SIGNATURE, TRUST, SEQUENCE,
 * UNKNOWN_ACTION, FLASH_IO. An expired document is accepted and reported as stale. p[0..n) is the
 * broker's until an online key signed it; then a backend's, which may choose among released models
 * and nothing else: numbers are bounded by desired.c, and what they name is judged on its own. */
int fc_accept_desired(struct fc_core *core, const uint8_t *p, size_t n) {
    struct fc_desired *d = &core->tmp.desired;
    uint8_t digest[32], sector = 0;
    fc_sha256(core->hal, p, n, digest);
    int same = memcmp(digest, core->rec.desired_digest, 8) == 0;
    if (core->has_desired && same)
        return FC_OK;
    int rc = check_online(core, FC_K_DESIRED, p, n);
    if (rc)
        return rc;
    rc = fc_desired_parse(core->cose.payload, core->cose.n, core->id->device_id, &core->config, d);
    if (rc)
        return rc;
    rc = check_version(core, d->trust_version);
    if (rc)
        return rc;
    /* The same counter again only when flash lost the very document. */
    if (d->counter < core->rec.desired_counter ||
        (d->counter == core->rec.desired_counter && (core->has_desired || !same)))
        return FC_ERR_SEQUENCE;

    rc = fc_doc_store(core, FC_DOC_DESIRED, p, n, &sector); /* row 1 */
    if (rc)
        return rc;
    struct fc_record *r = fc_log_edit(core);
    r->desired_counter = d->counter;
    r->desired_sector = sector;
    memcpy(r->desired_digest, digest, 8);
    rc = fc_log_commit(core); /* row 2 */
    if (rc)
        return rc;
    fc_log(core, 1, FC_LOG_DESIRED, (uint32_t)(d->counter >> 8), 0);
    core->refusal_code = 0;
    core->refusal_detail = 0;
    fc_desired_apply(core);
    fc_report_want(core, 2);
    return FC_OK;
}

/* Does what a verb says. FC_OK, or the code of the answer; *value = what it found. */
static int run_verb(struct fc_core *core, const struct fc_command *c, uint32_t *value) {
    const struct fc_hal *hal = core->hal;
    uint64_t first = c->nargs ? c->args[0] : 0;
    uint8_t slot = first < FC_SLOTS ? (uint8_t)first : 255; /* fc_running() knows no such slot */
    uint32_t verb = c->verb > FC_VERB_LAST ? 0 : (uint32_t)c->verb;
    if ((verb == FC_VERB_PROBE && !hal->engine->probe) ||
        (verb == FC_VERB_CAPTURE && !hal->capture))
        verb = 0;
    if ((verb == FC_VERB_SELFTEST || verb >= FC_VERB_PROBE) && !fc_running(core, slot))
        return FC_ERR_NOT_IN_BANK;
    switch (verb) {
    case FC_VERB_IDENTIFY:
        hal->identify(hal->ctx);
        return FC_OK;
    case FC_VERB_REBOOT:
        core->want_reboot = 1;
        return FC_OK;
    case FC_VERB_SELFTEST:
        return fc_check_begin(core, slot, c->counter);
    case FC_VERB_RESEND:
        if (c->nargs != 3 || first != core->id->boot || c->args[1] > c->args[2])
            return FC_ERR_NOT_IN_BANK; /* another boot's ring is gone */
#if FC_TELEMETRY
        fc_tele_resend(core, (uint32_t)c->args[1], (uint32_t)c->args[2]);
        return FC_OK;
#else
        return FC_ERR_NOT_IN_BANK;
#endif
    case FC_VERB_REPORT:
        return FC_OK; /* a report follows every command */
    case FC_VERB_PROBE:
        return fc_arena_probe(core, slot, value);
    case FC_VERB_CAPTURE:
        return hal->capture(hal->ctx, slot);
    default:
        return FC_ERR_UNKNOWN_ACTION;
    }
}

/* FC_OK done or done before; FC_ERR_TOO_LARGE, SCHEMA, SIGNATURE, TRUST, SEQUENCE, EXPIRED,
 * UNKNOWN_ACTION, FLASH_IO. At most once: the counter is persisted before the verb runs. Who writes
 * p[0..n) is as for desired; no argument of a verb is used as a length, and a slot is compared with
 * FC_SLOTS before it is an index. */
int fc_accept_command(struct fc_core *core, const uint8_t *p, size_t n) {
    struct fc_command *c = &core->tmp.command;
    int rc = check_online(core, FC_K_CMD, p, n);
    if (rc)
        return rc;
    rc = fc_command_parse(core->cose.payload, core->cose.n, core->id->device_id, c);
    if (rc)
        return rc;
    rc = check_version(core, c->trust_version);
    if (rc)
        return rc;
    if (c->counter <= core->rec.cmd_counter)
        return c->counter == core->last_cmd_counter ? FC_OK /* QoS 1 delivered it twice */
                                                    : FC_ERR_SEQUENCE;
    if (c->expires && fc_now(core) >= c->expires)
        return FC_ERR_EXPIRED;
    struct fc_record *r = fc_log_edit(core);
    r->cmd_counter = c->counter;
    rc = fc_log_commit(core);
    if (rc)
        return rc;
    core->last_cmd_counter = c->counter;
    fc_signed_time(core, c->issued);
    uint32_t value = 0;
    rc = run_verb(core, c, &value);
    if (rc || c->verb != FC_VERB_SELFTEST) /* whose answer comes when it is done */
        fc_event_put(core, FC_EV_COMMAND, -1, c->verb > INT32_MAX ? INT32_MAX : (uint32_t)c->verb,
                     (uint32_t)-rc, (int64_t)c->counter, value);
    fc_log(core, 1, FC_LOG_COMMAND, (uint32_t)c->verb, (uint32_t)-rc);
    fc_report_want(core, 2);
    return c->verb < FC_VERB_IDENTIFY || c->verb > FC_VERB_LAST ? FC_ERR_UNKNOWN_ACTION : FC_OK;
}
