/* event.c: a short queue of events (SPEC.md section 7). An event keeps its number and its bytes
 * until the broker acknowledged it; when the queue is full the oldest makes room.
 */
#include "internal.h"

enum { NEW, SENT };

static void drop(struct fc_core *core, uint32_t i) {
    uint32_t left = --core->n_events - i;
    memmove(&core->events[i], &core->events[i + 1], left * sizeof core->events[0]);
}

void fc_event_put(struct fc_core *core, enum fc_event_kind kind, int slot, uint32_t a, uint32_t b,
                  int64_t wide, uint32_t d) {
    if (core->n_events == FC_EVENTS_MAX)
        drop(core, 0);
    struct fc_event *e = &core->events[core->n_events++];
    memset(e, 0, sizeof *e);
    e->kind = (uint8_t)kind;
    e->v[0] = a;
    e->v[1] = b;
    e->wide = wide;
    e->v[3] = d;
    e->t_ms = fc_clock(core);
    if (slot >= 0 && core->app[slot]) {
        const uint8_t *id = fc_slot_mid(core, (uint8_t)slot);
        e->has_model = !fc_is_zero(id, 8);
        e->slot = (uint8_t)slot;
        memcpy(e->mid, id, 8);
    }
}

void fc_event_refusal(struct fc_core *core, int slot, int code, uint32_t detail) {
    fc_event_put(core, FC_EV_REFUSAL, slot, (uint32_t)-code, detail, 0, 0);
}

void fc_refusal(struct fc_core *core, int code, uint32_t detail) {
    fc_log(core, 1, FC_LOG_REFUSAL, (uint32_t)-code, detail);
    /* The same refusal again, as a retained message gives at each connect, is no news. */
    if (core->refusal_code == -code && core->refusal_detail == detail)
        return;
    core->refusal_code = (uint8_t)-code;
    core->refusal_detail = detail;
    fc_event_refusal(core, -1, code, detail);
    fc_report_want(core, 2);
}

/* How many numbers a kind has. */
static const uint8_t NUMBERS[] = {
    [FC_EV_ANOMALY] = 4,    [FC_EV_RESET] = 3,          [FC_EV_REFUSAL] = 2,
    [FC_EV_COMMAND] = 3,    [FC_EV_TELEMETRY_LOST] = 4, [FC_EV_GOLDEN_MISMATCH] = 3,
    [FC_EV_CLOCK_STEP] = 1, [FC_EV_LOW_HEAP] = 2,
};

/* Number and time are frozen at the first encoding, so that a re-send repeats the bytes. */
static int encode(struct fc_core *core, struct fc_event *e, struct fc_out *to) {
    if (!e->n) {
        int clock = fc_wall_ms(core, e->t_ms, &e->t_ms);
        if (!clock)
            return 0;
        e->clock = (uint8_t)clock;
        e->n = ++core->event_n;
    }
    struct fc_out out = fc_uplink_open(core);
    fc_out_map(&out, 7u + e->has_model);
    fc_out_pair(&out, 0, 1);
    fc_out_pair(&out, 1, core->id->boot);
    fc_out_pair(&out, 2, e->n);
    fc_out_pair(&out, 3, e->t_ms);
    fc_out_pair(&out, 4, e->clock);
    fc_out_pair(&out, 5, e->kind);
    if (e->has_model) {
        fc_out_u32(&out, 6);
        fc_out_array(&out, 2);
        fc_out_u32(&out, e->slot);
        fc_out_bytes(&out, e->mid, 8);
    }
    /* A command's answer has a value only when it found one; a clock step is the wide number. */
    uint32_t n = NUMBERS[e->kind] + (e->kind == FC_EV_COMMAND && e->v[3] ? 1u : 0u);
    uint32_t first = e->kind == FC_EV_CLOCK_STEP ? 2 : 0;
    fc_out_u32(&out, 7);
    fc_out_array(&out, n);
    for (uint32_t i = first; i < first + n; i++)
        fc_out_int(&out, i == 2 ? e->wide : (int64_t)e->v[i]);
    *to = out;
    return 1;
}

int fc_event_send(struct fc_core *core) {
    for (uint32_t i = 0; i < core->n_events; i++) {
        struct fc_event *e = &core->events[i];
        if (e->state != NEW)
            continue;
        struct fc_out out;
        if (!encode(core, e, &out))
            return 0; /* no clock yet */
        int token = fc_uplink_send(core, FC_K_EVENT, &out, FC_EVENT_MAX, 0);
        if (token < 0)
            return token;
        e->token = token;
        e->state = SENT;
        return 1;
    }
    return 0;
}

void fc_event_sent(struct fc_core *core, int32_t token) {
    for (uint32_t i = 0; i < core->n_events; i++) {
        if (core->events[i].state == SENT && core->events[i].token == token) {
            drop(core, i);
            return;
        }
    }
}

/* A connection ended: what was not acknowledged is sent again, with the same number. */
void fc_event_link(struct fc_core *core) {
    for (uint32_t i = 0; i < core->n_events; i++)
        core->events[i].state = NEW;
}
