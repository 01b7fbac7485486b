/* telemetry.c: records into batches, batches into a ring (SPEC.md section 7).
 *
 * Counters are dense per boot and bytes are frozen at encoding: a re-send repeats them, so the
 * backend can count each record once. Encoding needs a clock; until there is one, windows wait and
 * the two oldest merge when there is no room. A batch stays in the ring after its acknowledgement,
 * because a broker that loses its state loses what it acknowledged.
 */
#include "internal.h"
#include "sketch.h"
#include "window.h"

#if FC_TELEMETRY

/* The ring: entries behind each other, each a head of 16 bytes and a batch, padded to 4. One that
 * would not fit before the end begins at 0, and a length of 0 where it would have begun says so.
 * The head: u16 length, u8 state, u8 records, u32 first counter, i32 token, u32 zero. */
#define HEAD 16u

enum { NEW, SENT, ACKED };

/* --- the ring
 * ------------------------------------------------------------------------------------- */

static uint32_t space(uint32_t len) {
    return HEAD + (len + 3u) / 4u * 4u;
}

/* Where the entry behind the one at `at` begins, if there is one. */
static uint32_t behind(const struct fc_ring *r, uint32_t at) {
    at += space(fc_get16(r->bytes + at));
    return at + HEAD > r->size || !fc_get16(r->bytes + at) ? 0 : at;
}

void fc_tele_flag(struct fc_core *core, uint32_t flag) {
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        if (core->app[s])
            core->app[s]->flags |= flag;
}

/* Causes of the event: overwritten before its acknowledgement; asked for and not held any more. */
enum { RING_FULL = 1, NOT_HELD = 2 };

static void lost(struct fc_core *core, uint32_t from, uint32_t to) {
    fc_tele_flag(core, FC_FLAG_LOST);
    fc_event_put(core, FC_EV_TELEMETRY_LOST, -1, core->id->boot, from, to, RING_FULL);
}

static void evict(struct fc_core *core) {
    struct fc_ring *r = &core->ring;
    const uint8_t *e = r->bytes + r->first;
    uint32_t first = fc_get32(e + 4);
    if (e[2] != ACKED)
        lost(core, first, first + e[3] - 1u);
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

static FC_NOINLINE void put_window(struct fc_out *out, const struct fc_window *w, uint64_t before) {
    fc_out_array(out, 13);
    fc_out_uint(out, w->end_ms - before);
    fc_out_u32(out, w->n);
    fc_out_u32(out, w->us_mean);
    fc_out_u32(out, w->us_max);
    fc_out_u32(out, w->score);
    fc_out_int(out, w->top);
    fc_out_u32(out, w->anom_max);
    fc_out_u32(out, w->anom_n);
    fc_out_u32(out, w->lab_n);
    fc_out_u32(out, w->lab_ok);
    fc_out_u32(out, w->heap_min);
    fc_out_int(out, w->rssi);
    fc_out_u32(out, w->flags);
}

static FC_NOINLINE void put_pick(struct fc_out *out, const struct fc_pick *p, uint32_t before) {
    fc_out_array(out, 8);
    fc_out_u32(out, p->at_ms - before);
    fc_out_u32(out, p->k);
    fc_out_int(out, p->top);
    fc_out_u32(out, p->score);
    fc_out_u32(out, p->margin);
    fc_out_u32(out, p->anom);
    fc_out_u32(out, p->us);
    fc_out_u32(out, p->why);
}

enum kind { WINDOWS = 7, INFERENCES = 8, SKETCH = 9 };

/* What every batch begins with, up to the array of its records. 0 = no clock. */
static int begin(struct fc_core *core, uint32_t slot, enum kind kind, uint64_t from_ms, uint32_t n,
                 struct fc_out *out) {
    const struct fc_model *m = &core->app[slot]->model;
    uint64_t t0 = 0;
    int clock = fc_wall_ms(core, from_ms, &t0);
    if (!clock)
        return 0;
    *out = fc_uplink_open(core);
    fc_out_map(out, 8);
    fc_out_pair(out, 0, 1);
    fc_out_pair(out, 1, core->id->boot);
    fc_out_pair(out, 2, core->tele_counter);
    fc_out_pair(out, 3, t0);
    fc_out_pair(out, 4, (uint32_t)clock);
    fc_out_u32(out, 5);
    fc_out_array(out, 4);
    fc_out_u32(out, slot);
    fc_out_text(out, m->name);
    fc_out_text(out, m->version);
    fc_out_bytes(out, m->id, 8);
    fc_out_u32(out, 6);
    fc_out_bytes(out, core->id->build_id, 4);
    fc_out_u32(out, kind);
    fc_out_array(out, n);
    return 1;
}

/* Seals a batch and keeps it in the ring. 1 = done, 0 = it does not fit a message. */
static int keep(struct fc_core *core, const struct fc_out *out, uint32_t n) {
    struct fc_ring *r = &core->ring;
    int len = fc_cose_mac0(core->hal, FC_K_TELEMETRY, core->id, out, FC_TELEMETRY_MAX);
    if (len <= 0)
        return 0;
    uint32_t size = space((uint32_t)len), at = place(core, size);
    uint8_t *e = r->bytes + at;
    memset(e, 0, HEAD);
    fc_put16(e, (uint16_t)len);
    e[3] = (uint8_t)n; /* e[2] is NEW */
    fc_put32(e + 4, core->tele_counter);
    memcpy(e + HEAD, fc_cose_start(out, (size_t)len), (size_t)len);
    r->end = at + size;
    r->n++;
    core->tele_counter += n;
    return 1;
}

/* Up to twelve closed windows of a slot into a batch. 1 = done. */
static int freeze_windows(struct fc_core *core, uint32_t slot) {
    struct fc_app *a = core->app[slot];
    uint32_t n = a->n_closed < FC_BATCH_WINDOWS ? a->n_closed : FC_BATCH_WINDOWS;
    uint64_t before = a->closed[0].end_ms - a->closed[0].lasted_ms;
    struct fc_out out;
    if (!n || !begin(core, slot, WINDOWS, before, n, &out))
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        put_window(&out, &a->closed[i], before);
        before = a->closed[i].end_ms;
    }
    if (!keep(core, &out, n))
        return 0;
    a->n_closed = (uint8_t)(a->n_closed - n);
    memmove(a->closed, a->closed + n, a->n_closed * sizeof a->closed[0]);
    return 1;
}

/* All sampled inferences of a slot. */
static int freeze_picks(struct fc_core *core, uint32_t slot) {
    struct fc_app *a = core->app[slot];
    uint64_t now = fc_clock(core);
    uint32_t before = a->picks[0].at_ms;
    struct fc_out out;
    if (!a->n_picks ||
        !begin(core, slot, INFERENCES, now - ((uint32_t)now - before), a->n_picks, &out))
        return 0;
    for (uint32_t i = 0; i < a->n_picks; i++) {
        const struct fc_pick *p = &a->picks[i];
        put_pick(&out, p, before);
        before = p->at_ms;
    }
    if (!keep(core, &out, a->n_picks))
        return 0;
    a->n_picks = 0;
    return 1;
}

/* Everything first; what makes it too large for a message is left out. */
static int freeze_sketch(struct fc_core *core, uint32_t slot) {
    struct fc_app *a = core->app[slot];
    const struct fc_slot *s = &core->slot[slot];
    uint64_t now = fc_clock(core), lasted = now - a->sketch_ms;
    uint64_t from = lasted > FC_DT_MAX ? now - FC_DT_MAX : a->sketch_ms;
    struct fc_sketch_extra extra = {
        .dt_ms = (uint32_t)(now - from),
        .duration_s = (uint32_t)(lasted / 1000),
        .golden = &s->golden,
        .arena_used = s->arena_used,
        .has_reset = !core->reset_told,
        .reset = core->reset_reason,
    };
    for (; a->sketch.n && extra.lean < 3; extra.lean++) {
        struct fc_out out;
        if (!begin(core, slot, SKETCH, from, 1, &out))
            return 0;
        fc_sketch_write(&a->sketch, &extra, &out);
        if (keep(core, &out, 1)) {
            fc_sketch_open(&a->sketch);
            core->reset_told = 1;
            return 1;
        }
    }
    return 0;
}

/* The model run ends: its records must not wait for another model. */
void fc_tele_cut(struct fc_core *core, uint32_t slot) {
    struct fc_app *a = core->app[slot];
    if (!a)
        return;
    fc_window_close(core, a, FC_FLAG_SWAP);
    while (a->n_closed && freeze_windows(core, slot))
        ;
    freeze_picks(core, slot);
    freeze_sketch(core, slot);
    if (a->n_closed || a->n_picks || a->sketch.n) /* no clock so far: nobody could place them */
        a->flags |= FC_FLAG_LOST;
    a->n_closed = a->n_picks = 0;
    fc_sketch_open(&a->sketch);
    memset(&a->alarm, 0, sizeof a->alarm);
    a->alarm_told = 0;
}

static int step_slot(struct fc_core *core, uint32_t slot) {
    struct fc_app *a = core->app[slot];
    uint64_t now = fc_clock(core);
    int worked = 0, full = fc_sketch_full(&a->sketch);
    if (a->open && now - a->start_ms >= (uint64_t)fc_cfg(core)->window_s * 1000) {
        fc_window_close(core, a, 0);
        worked = 1;
    }
    if (a->n_closed && (core->link || a->n_closed >= FC_BATCH_WINDOWS))
        worked |= freeze_windows(core, slot);
    if (a->n_picks == FC_PICKS_MAX)
        worked |= freeze_picks(core, slot);
    if (!a->sketch.n || (!full && now - a->sketch_ms < (uint64_t)fc_cfg(core)->sketch_s * 1000))
        return worked;
    worked |= freeze_picks(core, slot);
    if (freeze_sketch(core, slot))
        return 1;
    if (full) { /* and no clock to place it by: begin anew rather than count wrongly */
        fc_sketch_open(&a->sketch);
        a->flags |= FC_FLAG_LOST;
    }
    return worked;
}

int fc_tele_step(struct fc_core *core) {
    int worked = 0;
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        if (core->app[s])
            worked |= step_slot(core, s);
    return worked;
}

uint64_t fc_tele_due(const struct fc_core *core) {
    uint64_t due = UINT64_MAX, now = fc_clock(core);
    for (uint32_t s = 0; s < FC_SLOTS; s++) {
        const struct fc_app *a = core->app[s];
        if (!a)
            continue;
        uint64_t window = a->start_ms + (uint64_t)fc_cfg(core)->window_s * 1000;
        uint64_t sketch = a->sketch_ms + (uint64_t)fc_cfg(core)->sketch_s * 1000;
        if (a->open && window < due)
            due = window;
        if (a->sketch.n && sketch > now && sketch < due) /* late: without a clock it cannot go */
            due = sketch;
    }
    return due;
}

/* Entries in one of the states of a mask, with this token (0 = any) and a counter in from..to, go
 * into a state. Returns how many. */
static uint32_t sweep(struct fc_ring *r, uint32_t states, uint8_t state, uint32_t token,
                      uint32_t from, uint32_t to) {
    uint32_t n = 0, at = r->first;
    for (uint32_t i = 0; i < r->n; i++, at = behind(r, at)) {
        uint8_t *e = r->bytes + at;
        uint32_t first = fc_get32(e + 4);
        if (!(states >> e[2] & 1) || (token && fc_get32(e + 8) != token) || first > to ||
            first + e[3] - 1u < from)
            continue;
        e[2] = state;
        n++;
    }
    return n;
}

/* Oldest first, a few at a time. 1 = handed one over, 0 = nothing to do. */
int fc_tele_send(struct fc_core *core) {
    struct fc_ring *r = &core->ring;
    uint32_t at = r->first;
    if (sweep(r, 1u << SENT, SENT, 0, 0, UINT32_MAX) >= FC_RING_INFLIGHT)
        return 0;
    for (uint32_t i = 0; i < r->n; i++, at = behind(r, at)) {
        uint8_t *e = r->bytes + at;
        if (e[2] != NEW)
            continue;
        int token = fc_uplink_hand(core, fc_kind_name(FC_K_TELEMETRY), e + HEAD, fc_get16(e), 0);
        if (token < 0)
            return token;
        fc_put32(e + 8, (uint32_t)token);
        e[2] = SENT;
        return 1;
    }
    return 0;
}

void fc_tele_sent(struct fc_core *core, int32_t token) {
    sweep(&core->ring, 1u << SENT, ACKED, (uint32_t)token, 0, UINT32_MAX);
}

void fc_tele_link(struct fc_core *core, int up, int fresh) {
    sweep(&core->ring, up && fresh ? ~0u : 1u << SENT, NEW, 0, 0, UINT32_MAX);
}

/* The ring holds the newest counters without a gap, so what it lacks of from..to are the oldest. */
uint32_t fc_tele_resend(struct fc_core *core, uint32_t from, uint32_t to) {
    struct fc_ring *r = &core->ring;
    uint32_t oldest = r->n ? fc_get32(r->bytes + r->first + 4) : core->tele_counter;
    if (from < oldest)
        fc_event_put(core, FC_EV_TELEMETRY_LOST, -1, core->id->boot, from,
                     to < oldest ? to : oldest - 1u, NOT_HELD);
    return sweep(r, 1u << ACKED, NEW, 0, from, to);
}

uint32_t fc_tele_ring_used(const struct fc_core *core) {
    uint32_t used = 0, at = core->ring.first;
    for (uint32_t i = 0; i < core->ring.n; i++, at = behind(&core->ring, at))
        used += fc_get16(core->ring.bytes + at);
    return used;
}

#endif
