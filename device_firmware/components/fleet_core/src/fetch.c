/* fetch.c: pulling a candidate: manifest, leaf list, chunks, a segment at a time.
 *
 * Everything here comes from the broker, which is not trusted: the manifest must have the digest
 * that the signed desired document names, the leaf list the digest of the manifest, each chunk its
 * leaf. The numbers in comments are the rows of "Power cuts" in DESIGN.md.
 */
#include "internal.h"

/* --- topics -------------------------------------------------------------------------- */

static void mid_hex(const uint8_t id[8], char out[17]) {
    for (int i = 0; i < 8; i++) {
        out[2 * i] = "0123456789abcdef"[id[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[id[i] & 15];
    }
    out[16] = 0;
}

/* The filter that the job's stage waits on. */
static void filter(const struct fc_core *core, char out[FC_TOPIC_MAX]) {
    const struct fc_job *j = &core->job;
    char mid[17];
    mid_hex(core->slot[j->slot].target.id, mid);
    char *p = fc_text_put(fc_text_put(out, "f1/model/"), mid);
    if (j->stage == FC_JOB_MANIFEST) {
        fc_text_put(p, "/manifest");
    } else if (j->stage == FC_JOB_LEAVES) {
        fc_text_put(p, "/leaves");
    } else {
        p = fc_text_number(fc_text_put(p, "/"), j->segment);
        p = fc_text_put(p, "/");
        if (j->single)
            fc_text_number(p, j->want);
        else
            fc_text_put(p, "+");
    }
}

static void watch(struct fc_core *core, int qos) {
    char topic[FC_TOPIC_MAX];
    filter(core, topic);
    core->hal->watch(core->hal->ctx, topic, qos);
    core->job.watching = 1;
}

void fc_job_unwatch(struct fc_core *core) {
    char topic[FC_TOPIC_MAX];
    if (core->job.watching == 1 && core->link) {
        filter(core, topic);
        core->hal->unwatch(core->hal->ctx, topic);
    }
    core->job.watching = 0;
}

/* --- messages ------------------------------------------------------------------------ */

/* Too many that do not fit: somebody sends us other bytes; the target stands in what is signed. */
static int mistrust(struct fc_core *core, int code) {
    core->dropped_messages++;
    if (++core->job.tries >= FC_TRIES_MAX)
        fc_job_refuse(core, code, 0);
    return FC_ERR_DROP;
}

/* The broker picks the bytes: nothing but the digest in the signed desired document lets them in.
 */
static FC_NOINLINE int on_manifest(struct fc_core *core, const uint8_t *p, size_t n) {
    struct fc_job *j = &core->job;
    if (!fc_is_digest(core->hal, p, n, core->slot[j->slot].target.id, 32))
        return mistrust(core, FC_ERR_DIGEST);
    int rc = fc_manifest_check(core, j->slot, p, n, FC_CHECK_NEW, &j->m);
    if (rc && core->deferred) {
        fc_job_unwatch(core);
        j->watching = 2; /* asks again when the wait is over */
        fc_slot_set(core, j->slot, FC_ST_DEFERRED, rc, 0);
        fc_job_wait(core, FC_DEFER_MS);
        return rc;
    }
    if (rc) {
        fc_job_refuse(core, rc, core->detail);
        return rc;
    }
    fc_job_unwatch(core);
    core->slot[j->slot].total = (uint16_t)j->m.chunks;
    if (fc_record_fetch(core) ||
        fc_sector_write(core, fc_job_area(core), 0, p, n, 4)) { /* rows 3, 4 */
        fc_job_fault(core);
        return FC_ERR_FLASH_IO;
    }
    core->slot[j->slot].other_seq = j->m.seq;
    fc_slot_set(core, j->slot, FC_ST_MANIFEST_OK, 0, 0);
    j->tries = 0;
    fc_job_stage(core, FC_JOB_LEAVES);
    return FC_OK;
}

static FC_NOINLINE int on_leaves(struct fc_core *core, const uint8_t *p, size_t n) {
    int rc = fc_bank_put_leaves(core, p, n); /* row 5 */
    if (rc == FC_ERR_LEAF_LIST)
        return mistrust(core, rc);
    if (rc) {
        fc_job_fault(core);
        return rc;
    }
    fc_job_unwatch(core);
    fc_job_stage(core, FC_JOB_REHASH);
    return FC_OK;
}

static int has(const struct fc_job *j, uint32_t i) {
    return j->u.bitmap[i / 8] >> (i % 8) & 1;
}

static void mark(struct fc_core *core, uint32_t i) {
    struct fc_job *j = &core->job;
    if (has(j, i))
        return;
    j->u.bitmap[i / 8] |= (uint8_t)(1u << (i % 8));
    core->slot[j->slot].have = ++j->have;
    fc_report_want(core, 1);
}

static int segment_missing(const struct fc_job *j, uint32_t segment) {
    uint32_t from = segment * FC_SEGMENT;
    for (uint32_t i = from; i < from + FC_SEGMENT && i < j->m.chunks; i++)
        if (!has(j, i))
            return 1;
    return 0;
}

static void all_there(struct fc_core *core) {
    fc_slot_set(core, core->job.slot, FC_ST_DOWNLOADED, 0, 0);
    core->hal->digest_begin(&core->job.u.digest);
    core->job.part = 0;
    fc_job_stage(core, FC_JOB_DIGEST);
}

/* The broker picks numbers and bytes. A chunk is taken only while chunks are asked for, at an index
 * below the signed count (<= FC_CHUNKS_MAX, so no product wraps), and when its leaf fits; then it
 * is read back. */
static FC_NOINLINE int on_chunk(struct fc_core *core, uint32_t segment, uint32_t index,
                                const uint8_t *p, size_t n) {
    struct fc_job *j = &core->job;
    if (j->stage != FC_JOB_CHUNKS || index >= j->m.chunks || segment != index / FC_SEGMENT)
        return FC_ERR_DROP;
    if (has(j, index))
        return FC_OK;                              /* no erase for what is there */
    int rc = fc_bank_put_chunk(core, index, p, n); /* row 6 */
    if (rc == FC_ERR_DROP) {
        core->dropped_chunks++;
        j->bad = 1;
        j->wait_ms = fc_clock(core) + FC_RETRY_MS;
        return rc;
    }
    if (rc) {
        fc_job_unwatch(core);
        fc_job_fault(core);
        return rc;
    }
    j->misses = 0;
    j->wait_ms = fc_clock(core) + (j->bad ? FC_RETRY_MS : FC_QUIET_MS);
    core->minute_chunks++;
    mark(core, index);
    if (j->have == j->m.chunks) {
        fc_job_unwatch(core);
        all_there(core);
    } else if (!segment_missing(j, j->segment) || (j->single && index == j->want)) {
        fc_job_unwatch(core);
        j->single = j->single && segment_missing(j, j->segment);
        j->wait_ms = 0;
    }
    return FC_OK;
}

/* A decimal number without leading zeros, up to the next slash; -1 = none. The text is the
 * broker's: at most five digits are taken, so v < 100,000. */
static int32_t take_number(const char **p, const char *end) {
    int32_t v = 0;
    const char *start = *p;
    while (*p < end && **p >= '0' && **p <= '9' && *p - start < 5)
        v = v * 10 + (*(*p)++ - '0');
    if (*p == start || (*start == '0' && *p - start > 1))
        return -1;
    return v;
}

/* `rest` is what the broker wrote behind f1/model/: 16 hex digits of the manifest we want, a slash
 * (so that 17 may be added to rest), and one of three forms. Everything else is dropped. */
int fc_update_message(struct fc_core *core, const char *rest, size_t rest_len, const uint8_t *p,
                      size_t n) {
    char mid[17];
    const char *end = rest + rest_len;
    uint8_t stage = core->job.stage;
    if (stage == FC_JOB_IDLE || rest_len < 18 || rest[16] != '/')
        return FC_ERR_DROP;
    mid_hex(core->slot[core->job.slot].target.id, mid);
    if (memcmp(rest, mid, 16) != 0)
        return FC_ERR_DROP;
    rest += 17;
    size_t left = (size_t)(end - rest);
    if (left == 8 && memcmp(rest, "manifest", 8) == 0)
        return stage == FC_JOB_MANIFEST ? on_manifest(core, p, n) : FC_ERR_DROP;
    if (left == 6 && memcmp(rest, "leaves", 6) == 0)
        return stage == FC_JOB_LEAVES ? on_leaves(core, p, n) : FC_ERR_DROP;
    int32_t segment = take_number(&rest, end);
    if (segment < 0 || rest >= end || *rest++ != '/')
        return FC_ERR_DROP;
    int32_t index = take_number(&rest, end);
    if (index < 0 || rest != end)
        return FC_ERR_DROP;
    return on_chunk(core, (uint32_t)segment, (uint32_t)index, p, n);
}

/* Waits for a retained message: subscribe, and subscribe again when nothing comes. */
int fc_fetch_ask(struct fc_core *core) {
    struct fc_job *j = &core->job;
    uint64_t now = fc_clock(core);
    if (!core->link || now < j->wait_ms)
        return 0;
    if (fc_is_overdue(core, j->slot)) {
        fc_job_refuse(core, FC_ERR_EXPIRED, 0);
        return 1;
    }
    fc_job_unwatch(core);
    watch(core, 1);
    j->wait_ms = now + FC_QUIET_MS + core->hal->random(core->hal->ctx) % 2000;
    return 0;
}

/* Row 6 again: which chunks are there follows from flash alone. */
int fc_fetch_rehash(struct fc_core *core) {
    struct fc_job *j = &core->job;
    if (j->index == 0) {
        memset(j->u.bitmap, 0, sizeof j->u.bitmap);
        j->have = 0;
    }
    if (j->index < j->m.chunks) {
        if (fc_bank_has_chunk(core, j->index) == 1)
            mark(core, j->index);
        j->index++;
        return 1;
    }
    core->slot[j->slot].have = j->have;
    if (j->have == j->m.chunks) {
        all_there(core);
    } else {
        fc_slot_set(core, j->slot, FC_ST_DOWNLOADING, 0, 0);
        fc_job_stage(core, FC_JOB_CHUNKS);
    }
    return 1;
}

/* Chunk writes per minute are bounded for devices that infer while they load. */
static int over_cap(struct fc_core *core, uint64_t now) {
    uint32_t cap = fc_cfg(core)->chunk_cap;
    if (!cap || now - core->minute_ms >= 60000) {
        core->minute_ms = now;
        core->minute_chunks = 0;
    }
    return cap && core->minute_chunks >= cap;
}

static void silence(struct fc_core *core, uint64_t now) {
    struct fc_job *j = &core->job;
    fc_job_unwatch(core);
    if (j->misses < 16)
        j->misses++;
    j->single = j->misses >= FC_MISSES_SINGLE;
    fc_log(core, 1, FC_LOG_SEGMENT, j->segment, j->misses);
    uint32_t span = 500u << (j->misses < 7 ? j->misses : 7);
    span = j->bad ? 200u : span > FC_BACKOFF_MAX_MS ? FC_BACKOFF_MAX_MS : span;
    j->watching = 2;
    j->bad = 0;
    j->wait_ms = now + span / 2 + core->hal->random(core->hal->ctx) % (span / 2 + 1);
}

int fc_fetch_chunks(struct fc_core *core) {
    struct fc_job *j = &core->job;
    uint64_t now = fc_clock(core);
    if (!core->link || now < j->wait_ms)
        return 0;
    if (fc_is_overdue(core, j->slot)) {
        fc_job_refuse(core, FC_ERR_EXPIRED, 0);
        return 1;
    }
    if (j->watching == 1) {
        silence(core, now);
        return 0;
    }
    if (over_cap(core, now)) {
        j->wait_ms = core->minute_ms + 60000;
        return 0;
    }
    uint32_t first = 0;
    while (first < j->m.chunks && has(j, first))
        first++;
    j->watching = 0;
    j->want = (uint16_t)first;
    j->segment = (uint16_t)(first / FC_SEGMENT);
    j->bad = 0;
    watch(core, 0);
    j->wait_ms = now + FC_QUIET_MS;
    return 0;
}
