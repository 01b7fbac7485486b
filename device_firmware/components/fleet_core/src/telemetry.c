/* telemetry.c: samples into windows, windows into batches, batches into a ring (SPEC.md section 7).
 *
 * Counters are dense per boot and bytes are frozen at encoding: a re-send repeats them, so the
 * backend can count each record once. Encoding needs a clock; until there is one, windows wait and
 * the two oldest merge when there is no room. A batch stays in the ring after its acknowledgement,
 * because a broker that loses its state loses what it acknowledged.
 */
#include "internal.h"

/* The ring: entries behind each other, each a head of 16 bytes and a batch, padded to 4. One that
 * would not fit before the end begins at 0, and a length of 0 where it would have begun says so.
 * The head: u16 length, u8 state, u8 records, u32 first counter, i32 token, u32 zero. */
#define HEAD 16u

enum { NEW, SENT, ACKED };
#define FLAG_SWAP 2u
#define FLAG_LOST 4u
#define FLAG_SHED 8u
#define MAX_US 60000000u

/* --- samples
 * -------------------------------------------------------------------------------------- */

static void open_window(struct fc_core *core, struct fc_app *a) {
    uint32_t flags = a->flags; /* what happened before belongs to the next record */
    a->open = 1;
    a->start_ms = fc_clock(core);
    a->us_sum = a->score_sum = 0;
    a->n = a->us_max = a->anom_max = a->anom_n = a->lab_n = a->lab_ok = 0;
    a->heap_min = UINT32_MAX;
    a->rssi = 0;
    a->flags = flags;
    memset(a->classes, 0, sizeof a->classes);
}

static uint32_t threshold(const struct fc_core *core, uint8_t slot) {
    const struct fc_config *c = fc_cfg(core);
    const struct fc_hints *h = &core->app[slot]->model.hints;
    if (c->has_threshold)
        return c->threshold;
    return h->anomaly_kind == 3 ? h->anomaly_threshold : 0;
}

/* k of the last n over the threshold: an event when that begins, at most one a minute. */
static void alarm(struct fc_core *core, uint8_t slot, uint32_t score, uint32_t limit, int32_t top) {
    struct fc_app *a = core->app[slot];
    const struct fc_config *c = fc_cfg(core);
    uint64_t mask = c->alarm_n >= 64 ? UINT64_MAX : ((uint64_t)1 << c->alarm_n) - 1;
    uint64_t now = fc_clock(core);
    uint32_t k = 0;
    a->alarm_bits = (a->alarm_bits << 1 | (limit && score > limit)) & mask;
    for (uint64_t bits = a->alarm_bits; bits; bits &= bits - 1)
        k++;
    if (!limit || k < c->alarm_k) {
        a->alarmed = 0;
        return;
    }
    if (a->alarmed)
        return;
    a->alarmed = 1;
    if (a->alarm_seen && now - a->alarm_at_ms < FC_ALARM_MS) {
        a->suppressed++;
        return;
    }
    int64_t ints[] = {score, limit, top, a->suppressed};
    fc_event_put(core, FC_EV_ANOMALY, slot, ints, 4);
    a->alarm_seen = 1;
    a->alarm_at_ms = now;
    a->suppressed = 0;
}

static void classify(struct fc_core *core, const struct fc_sample *s) {
    struct fc_app *a = core->app[s->slot];
    uint32_t top = 0, best = 0, second = 0;
    for (uint32_t i = 0; i < s->n_scores; i++) {
        uint32_t v = s->scores[i] > 10000 ? 10000 : s->scores[i];
        if (i == 0 || v > best) {
            second = i ? best : 0;
            best = v;
            top = i;
        } else if (v > second) {
            second = v;
        }
    }
    a->score_sum += best;
    if (a->classes[top] < UINT16_MAX)
        a->classes[top]++;
    if (s->label >= 0 && a->lab_n < INT16_MAX) {
        a->lab_n++;
        a->lab_ok += s->label == (int32_t)top;
    }
    uint32_t limit = threshold(core, s->slot);
    uint32_t score = 1000 - (best - second) / 10; /* kind 3, score margin, in 1e-3 */
    if (a->model.hints.anomaly_kind != 3 && !fc_cfg(core)->has_threshold)
        return;
    a->anom_max = score > a->anom_max ? score : a->anom_max;
    a->anom_n += limit && score > limit;
    alarm(core, s->slot, score, limit, (int32_t)top);
}

int fc_sample_put(struct fc_core *core, const struct fc_sample *s) {
    const struct fc_hal *hal = core->hal;
    if (s->slot >= FC_SLOTS || s->n_scores > FC_CLASSES_MAX || !fc_running(core, s->slot))
        return FC_ERR_DROP;
    fc_trial_sample(core, s->slot, s->failed);
    if (s->failed)
        return FC_OK;
    struct fc_app *a = core->app[s->slot];
    if (!a->open)
        open_window(core, a);
    uint32_t us = s->us > MAX_US ? MAX_US : s->us, heap = hal->heap_free(hal->ctx);
    a->n++;
    a->us_sum += us;
    a->us_max = us > a->us_max ? us : a->us_max;
    a->heap_min = heap < a->heap_min ? heap : a->heap_min;
    a->rssi = hal->rssi(hal->ctx);
    if (s->n_scores)
        classify(core, s);
    return FC_OK;
}

/* --- windows
 * -------------------------------------------------------------------------------------- */

static int32_t modal(const struct fc_app *a) {
    int32_t top = -1;
    uint32_t best = 0;
    for (uint32_t i = 0; i < FC_CLASSES_MAX; i++) {
        if (a->classes[i] > best) {
            best = a->classes[i];
            top = (int32_t)i;
        }
    }
    return top;
}

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static uint32_t mean(uint64_t a, uint64_t na, uint64_t b, uint64_t nb) {
    return na + nb ? (uint32_t)((a * na + b * nb) / (na + nb)) : 0;
}

/* No room and no clock: the two oldest become one, which says so. */
static void merge_oldest(struct fc_app *a) {
    struct fc_window *w = &a->closed[0], *v = &a->closed[1];
    w->us_mean = mean(w->us_mean, w->n, v->us_mean, v->n);
    w->score = mean(w->score, w->n, v->score, v->n);
    w->top = v->n > w->n ? v->top : w->top;
    w->n += v->n;
    w->us_max = larger(w->us_max, v->us_max);
    w->anom_max = larger(w->anom_max, v->anom_max);
    w->anom_n += v->anom_n;
    w->lab_n += v->lab_n;
    w->lab_ok += v->lab_ok;
    if (w->lab_n > INT16_MAX) { /* keep the share, within what a record can say */
        w->lab_ok = (uint32_t)((uint64_t)w->lab_ok * INT16_MAX / w->lab_n);
        w->lab_n = INT16_MAX;
    }
    w->heap_min = w->heap_min < v->heap_min ? w->heap_min : v->heap_min;
    w->rssi = v->rssi;
    w->flags |= v->flags | FLAG_SHED;
    w->end_ms = v->end_ms;
    a->n_closed--;
    memmove(v, v + 1, (a->n_closed - 1u) * sizeof *v);
}

static void close_window(struct fc_core *core, struct fc_app *a, uint32_t flags) {
    if (!a->open)
        return;
    if (a->n_closed == FC_WINDOWS_MAX)
        merge_oldest(a);
    struct fc_window *w = &a->closed[a->n_closed++];
    w->start_ms = a->start_ms;
    w->end_ms = fc_clock(core);
    w->n = a->n > 1000000 ? 1000000 : a->n;
    w->us_mean = a->n ? (uint32_t)(a->us_sum / a->n) : 0;
    w->us_max = a->us_max;
    w->score = a->n ? (uint32_t)(a->score_sum / a->n) : 0;
    w->top = modal(a);
    w->anom_max = a->anom_max;
    w->anom_n = a->anom_n > w->n ? w->n : a->anom_n;
    w->lab_n = a->lab_n > w->n ? w->n : a->lab_n;
    w->lab_ok = a->lab_ok;
    w->heap_min = a->heap_min / 64 > 262143 ? 262143 : a->heap_min / 64;
    w->rssi = a->rssi > 0 ? 0 : a->rssi < -127 ? -127 : a->rssi;
    w->flags = a->flags | flags;
    a->flags = 0;
    a->open = 0;
}

/* --- the ring
 * ------------------------------------------------------------------------------------- */

struct entry {
    uint32_t len, state, count, first;
    int32_t token;
};

static struct entry entry_get(const struct fc_ring *r, uint32_t at) {
    const uint8_t *p = r->bytes + at;
    return (struct entry){fc_get16(p), p[2], p[3], fc_get32(p + 4), (int32_t)fc_get32(p + 8)};
}

static void entry_put(struct fc_ring *r, uint32_t at, const struct entry *e) {
    uint8_t *p = r->bytes + at;
    memset(p, 0, HEAD);
    fc_put16(p, (uint16_t)e->len);
    p[2] = (uint8_t)e->state;
    p[3] = (uint8_t)e->count;
    fc_put32(p + 4, e->first);
    fc_put32(p + 8, (uint32_t)e->token);
}

static uint32_t space(uint32_t len) {
    return HEAD + (len + 3u) / 4u * 4u;
}

/* Where the entry behind the one at `at` begins, if there is one. */
static uint32_t behind(const struct fc_ring *r, uint32_t at) {
    at += space(fc_get16(r->bytes + at));
    return at + HEAD > r->size || !fc_get16(r->bytes + at) ? 0 : at;
}

void fc_tele_flag(struct fc_core *core, uint32_t flag) {
    for (uint8_t s = 0; s < FC_SLOTS; s++)
        if (core->app[s])
            core->app[s]->flags |= flag;
}

static void lost(struct fc_core *core, uint32_t from, uint32_t to, int64_t cause) {
    int64_t ints[] = {core->id->boot, from, to, cause};
    fc_tele_flag(core, FLAG_LOST);
    fc_event_put(core, FC_EV_TELEMETRY_LOST, -1, ints, 4);
}

static void evict(struct fc_core *core) {
    struct fc_ring *r = &core->ring;
    struct entry e = entry_get(r, r->first);
    if (e.state != ACKED)
        lost(core, e.first, e.first + e.count - 1, 1);
    r->first = --r->n ? behind(r, r->first) : 0;
}

/* Makes room behind the newest entry. size <= FC_RING_MIN / 2 <= the ring's. */
static uint32_t place(struct fc_core *core, uint32_t size) {
    struct fc_ring *r = &core->ring;
    if (r->end + size > r->size) {
        /* The tail is skipped: what is still there from the last round is older than the start. */
        while (r->n && r->first >= r->end)
            evict(core);
        if (r->end + HEAD <= r->size)
            fc_put16(r->bytes + r->end, 0);
        r->end = 0;
    }
    while (r->n && r->first >= r->end && r->first < r->end + size)
        evict(core);
    if (!r->n)
        r->first = r->end;
    return r->end;
}

static void put_window(struct fc_out *out, const struct fc_window *w, uint64_t before) {
    const int64_t v[] = {(int64_t)(w->end_ms - before),
                         w->n,
                         w->us_mean,
                         w->us_max,
                         w->score,
                         w->top,
                         w->anom_max,
                         w->anom_n,
                         w->lab_n,
                         w->lab_ok,
                         w->heap_min,
                         w->rssi,
                         w->flags};
    fc_out_array(out, sizeof v / sizeof v[0]);
    for (uint32_t i = 0; i < sizeof v / sizeof v[0]; i++)
        fc_out_int(out, v[i]);
}

/* 0 = no clock. */
static int encode(struct fc_core *core, uint8_t slot, uint32_t n, struct fc_out *to) {
    const struct fc_app *a = core->app[slot];
    const struct fc_model *m = &a->model;
    uint64_t t0 = 0, before = a->closed[0].start_ms;
    int clock = fc_wall_ms(core, before, &t0);
    if (!clock)
        return 0;
    struct fc_out out = fc_uplink_open(core);
    const uint64_t head[] = {1, core->id->boot, core->tele_counter, t0, (uint64_t)clock};
    fc_out_map(&out, 8);
    for (uint32_t key = 0; key < 5; key++) {
        fc_out_uint(&out, key);
        fc_out_uint(&out, head[key]);
    }
    fc_out_uint(&out, 5);
    fc_out_array(&out, 4);
    fc_out_uint(&out, slot);
    fc_out_text(&out, m->name);
    fc_out_text(&out, m->version);
    fc_out_bytes(&out, m->id, 8);
    fc_out_uint(&out, 6);
    fc_out_bytes(&out, core->id->build_id, 4);
    fc_out_uint(&out, 7);
    fc_out_array(&out, n);
    for (uint32_t i = 0; i < n; i++) {
        put_window(&out, &a->closed[i], before);
        before = a->closed[i].end_ms;
    }
    *to = out;
    return 1;
}

/* Turns up to twelve closed windows of a slot into a batch in the ring. 1 = done. */
static int freeze(struct fc_core *core, uint8_t slot) {
    struct fc_app *a = core->app[slot];
    struct fc_ring *r = &core->ring;
    uint32_t n = a->n_closed < FC_BATCH_WINDOWS ? a->n_closed : FC_BATCH_WINDOWS;
    struct fc_out out;
    const uint8_t *msg = NULL;
    if (!n || !encode(core, slot, n, &out))
        return 0;
    int len = fc_uplink_seal(core, FC_K_TELEMETRY, &out, FC_TELEMETRY_MAX, &msg);
    if (len <= 0)
        return 0;
    uint32_t at = place(core, space((uint32_t)len));
    struct entry e = {(uint32_t)len, NEW, n, core->tele_counter, 0};
    entry_put(r, at, &e);
    memcpy(r->bytes + at + HEAD, msg, (size_t)len);
    r->end = at + space((uint32_t)len);
    r->n++;
    core->tele_counter += n;
    a->n_closed = (uint8_t)(a->n_closed - n);
    memmove(a->closed, a->closed + n, a->n_closed * sizeof a->closed[0]);
    return 1;
}

/* The model run ends: its window is closed, and its batches must not wait for another model. */
void fc_tele_cut(struct fc_core *core, uint8_t slot) {
    struct fc_app *a = core->app[slot];
    if (!a)
        return;
    close_window(core, a, FLAG_SWAP);
    while (a->n_closed && freeze(core, slot))
        ;
    if (a->n_closed) { /* no clock so far: nobody could place them in time */
        a->n_closed = 0;
        a->flags |= FLAG_LOST;
    }
    a->alarm_bits = 0;
    a->alarmed = 0;
}

int fc_tele_step(struct fc_core *core) {
    uint64_t now = fc_clock(core), width = (uint64_t)fc_cfg(core)->window_s * 1000;
    int worked = 0;
    for (uint8_t s = 0; s < FC_SLOTS; s++) {
        struct fc_app *a = core->app[s];
        if (!a)
            continue;
        if (a->open && now - a->start_ms >= width) {
            close_window(core, a, 0);
            worked = 1;
        }
        if (a->n_closed && (core->link || a->n_closed >= FC_BATCH_WINDOWS))
            worked |= freeze(core, s);
    }
    return worked;
}

uint64_t fc_tele_due(const struct fc_core *core) {
    uint64_t due = UINT64_MAX, width = (uint64_t)fc_cfg(core)->window_s * 1000;
    for (uint8_t s = 0; s < FC_SLOTS; s++) {
        const struct fc_app *a = core->app[s];
        if (a && a->open && a->start_ms + width < due)
            due = a->start_ms + width;
    }
    return due;
}

/* Oldest first, a few at a time. 1 = handed one over, 0 = nothing to do. */
int fc_tele_send(struct fc_core *core) {
    struct fc_ring *r = &core->ring;
    uint32_t inflight = 0, at = r->first;
    char topic[FC_TOPIC_MAX];
    for (uint32_t i = 0; i < r->n; i++, at = behind(r, at))
        inflight += entry_get(r, at).state == SENT;
    at = r->first;
    for (uint32_t i = 0; i < r->n && inflight < FC_RING_INFLIGHT; i++, at = behind(r, at)) {
        struct entry e = entry_get(r, at);
        if (e.state != NEW)
            continue;
        fc_topic_own(core, topic, "telemetry");
        int token = core->hal->send(core->hal->ctx, topic, r->bytes + at + HEAD, e.len, 1, 0);
        if (token < 0)
            return token;
        e.token = token;
        e.state = SENT;
        entry_put(r, at, &e);
        return 1;
    }
    return 0;
}

void fc_tele_sent(struct fc_core *core, int32_t token) {
    struct fc_ring *r = &core->ring;
    uint32_t at = r->first;
    for (uint32_t i = 0; i < r->n; i++, at = behind(r, at)) {
        struct entry e = entry_get(r, at);
        if (e.state == SENT && e.token == token)
            r->bytes[at + 2] = ACKED;
    }
}

void fc_tele_link(struct fc_core *core, int up, int fresh) {
    struct fc_ring *r = &core->ring;
    uint32_t at = r->first;
    for (uint32_t i = 0; i < r->n; i++, at = behind(r, at))
        if (r->bytes[at + 2] == SENT || (up && fresh))
            r->bytes[at + 2] = NEW;
}

uint32_t fc_tele_resend(struct fc_core *core, uint32_t from, uint32_t to) {
    struct fc_ring *r = &core->ring;
    uint32_t n = 0, at = r->first;
    for (uint32_t i = 0; i < r->n; i++, at = behind(r, at)) {
        struct entry e = entry_get(r, at);
        if (e.state == ACKED && e.first <= to && e.first + e.count - 1 >= from) {
            r->bytes[at + 2] = NEW;
            n++;
        }
    }
    return n;
}

uint32_t fc_tele_ring_used(const struct fc_core *core) {
    uint32_t used = 0, at = core->ring.first;
    for (uint32_t i = 0; i < core->ring.n; i++, at = behind(&core->ring, at))
        used += fc_get16(core->ring.bytes + at);
    return used;
}
