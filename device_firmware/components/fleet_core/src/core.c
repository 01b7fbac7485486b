/* core.c: the loop a port drives: link, messages, acknowledgements, steps. */
#include "internal.h"

void fc_log(struct fc_core *core, int level, enum fc_log event, uint32_t a, uint32_t b) {
    core->hal->log(core->hal->ctx, level, event, a, b);
}

static const uint8_t ONLINE[] = {0xA1, 0x00, 0x01};

/* SNTP's offset to uptime. A jump of more than 2 s is told, so that nobody trusts the seam. */
static void track_wall(struct fc_core *core) {
    uint64_t unix_s = core->hal->unix_s(core->hal->ctx), now = fc_clock(core);
    if (!unix_s)
        return;
    int64_t offset = (int64_t)(unix_s * 1000) - (int64_t)now;
    int64_t off_by = offset - core->wall_offset_ms;
    if (core->has_wall && off_by < 2000 && off_by > -2000)
        return;
    if (core->has_wall) {
        fc_tele_flag(core, 1);
        fc_event_put(core, FC_EV_CLOCK_STEP, -1, 0, 0, off_by, 0);
    }
    core->wall_offset_ms = offset;
    core->has_wall = 1;
}

void fc_link_set(struct fc_core *core, int up, int fresh) {
    const struct fc_hal *hal = core->hal;
    core->link = up != 0;
    core->chain_watched = 0;
    core->retry_at_ms = 0;
    fc_tele_link(core, up, fresh);
    fc_event_link(core);
    core->job.token = 0;
    if (up) {
        fc_uplink_hand(core, "online", ONLINE, sizeof ONLINE, 1);
        hal->watch(hal->ctx, "f1/trust", 1);
        fc_watch_own(core);
        fc_report_want(core, 2);
    }
    fc_update_link(core);
}

/* The rest of the topic behind a prefix, NULL when it does not begin so. */
static const char *after(const char *topic, size_t n, const char *prefix, size_t *left) {
    size_t k = strlen(prefix);
    if (n < k || memcmp(topic, prefix, k) != 0)
        return NULL;
    *left = n - k;
    return topic + k;
}

static int is(const char *p, size_t n, const char *word) {
    return n == strlen(word) && memcmp(p, word, n) == 0;
}

/* A document for this device, told apart by the rest of its topic. What a command answers to its
 * verb is an event, not a refusal. */
static int own_message(struct fc_core *core, const char *kind, size_t left, const uint8_t *p,
                       size_t n, int *is_refused) {
    int rc = FC_ERR_DROP;
    if (is(kind, left, "desired")) {
        rc = fc_accept_desired(core, p, n);
        *is_refused = rc != FC_OK;
    } else if (is(kind, left, "cmd")) {
        rc = fc_accept_command(core, p, n);
        *is_refused = rc != FC_OK && rc != FC_ERR_UNKNOWN_ACTION;
    }
    return rc;
}

/* Topic and bytes are the broker's: any text of any length, and n bytes that the port received as
 * one whole message. The topic is only compared, never copied; each accept function bounds n before
 * it reads a byte of the content, so no sum of lengths is made here. */
int fc_message_put(struct fc_core *core, const char *topic, size_t topic_len, const uint8_t *p,
                   size_t n) {
    size_t left = 0;
    int rc = FC_ERR_DROP, is_refused = 0;
    const char *rest = after(topic, topic_len, "f1/dev/", &left);
    if (rest)
        rest = after(rest, left, core->id->device_id, &left);
    if (rest)
        rest = after(rest, left, "/", &left);
    if (rest) {
        rc = own_message(core, rest, left, p, n, &is_refused);
    } else if (is(topic, topic_len, "f1/trust") || after(topic, topic_len, "f1/trust/", &left)) {
        rc = fc_accept_trust(core, p, n);
        is_refused = rc != FC_OK;
    } else if ((rest = after(topic, topic_len, "f1/model/", &left)) != NULL) {
        rc = fc_update_message(core, rest, left, p, n);
    }
    if (is_refused && rc >= -FC_CODE_MAX)
        fc_refusal(core, rc, 0);
    if (rc == FC_ERR_DROP) {
        core->dropped_messages++;
        fc_log(core, 0, FC_LOG_DROPPED, 0, (uint32_t)n);
    }
    return rc;
}

void fc_sent(struct fc_core *core, int32_t token) {
    struct fc_job *j = &core->job;
    if (token <= 0)
        return;
    if (j->stage == FC_JOB_PROBATION && j->token == token) {
        j->acked = 1;
        j->wait_ms = 0;
    }
    fc_event_sent(core, token);
    fc_tele_sent(core, token);
}

static uint64_t report_due(const struct fc_core *core) {
    if (core->report_due == 2)
        return 0;
    uint64_t beat = core->report_at_ms + (uint64_t)fc_cfg(core)->heartbeat_s * 1000;
    uint64_t progress = core->report_at_ms + FC_PROGRESS_MS;
    return core->report_due == 1 && progress < beat ? progress : beat;
}

/* At most one message a step. 1 = sent one. */
static int send_step(struct fc_core *core, uint64_t now) {
    int rc = 0;
    if (!core->link || now < core->retry_at_ms)
        return 0;
    if (now >= report_due(core))
        rc = fc_report_send(core);
    if (!rc)
        rc = fc_event_send(core);
    if (!rc)
        rc = fc_tele_send(core);
    if (rc < 0) /* the outbox is full: the port's affair, not ours to spin on */
        core->retry_at_ms = now + FC_RETRY_MS;
    return rc > 0;
}

/* After five quiet minutes the panics before them are no row any more. */
static void forget_panics(struct fc_core *core, uint64_t now) {
    if (!core->rec.panics || core->safe_mode || now - core->boot_ms < FC_STABLE_MS ||
        core->job.stage != FC_JOB_IDLE)
        return;
    struct fc_record *r = fc_log_edit(core);
    r->panics = 0;
    if (fc_log_commit(core))
        core->boot_ms = now; /* look again in five minutes */
}

static uint32_t again(const struct fc_core *core, uint64_t now) {
    uint64_t due = fc_update_due(core), other = fc_tele_due(core);
    due = other < due ? other : due;
    if (core->link) {
        other = report_due(core);
        if (core->retry_at_ms > now)
            other = core->retry_at_ms;
        due = other < due ? other : due;
    }
    if (due <= now)
        return 0;
    return due - now < 60000 ? (uint32_t)(due - now) : 60000;
}

void fc_core_step(struct fc_core *core, uint32_t *again_ms) {
    uint64_t now = fc_clock(core);
    *again_ms = 0;
    track_wall(core);
    int worked = send_step(core, now);
    if (core->want_reboot && !worked) {
        /* What was asked for is answered first; then the flag in `keep` says it was us. */
        core->want_reboot = 0;
        fc_keep_write(core, 1);
        core->hal->reboot(core->hal->ctx);
    }
    worked |= fc_tele_step(core);
    worked |= fc_update_step(core);
    forget_panics(core, now);
    if (!worked)
        *again_ms = again(core, fc_clock(core));
}
