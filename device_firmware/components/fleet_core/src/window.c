/* window.c: inferences into telemetry windows, sketches, samples and alarms (SPEC.md section 7). */
#include "internal.h"
#include "window.h"

#if FC_TELEMETRY

#define MAX_US 60000000u
#define LOW_MARGIN 1000u /* 1e-4 */
enum { WHY_ONE_IN_N, WHY_MARGIN, WHY_ANOMALY };

static void open_window(struct fc_core *core, struct fc_app *a) {
    a->open = 1; /* a->flags stay: what happened before belongs to the next record */
    a->start_ms = fc_clock(core);
    a->us_sum = a->score_sum = 0;
    a->n = a->us_max = a->anom_max = a->anom_n = a->lab_n = a->lab_ok = 0;
    a->heap_min = UINT32_MAX;
    a->rssi = 0;
    a->extras = 0;
    memset(a->classes, 0, sizeof a->classes);
}

static uint32_t threshold(const struct fc_core *core, const struct fc_app *a) {
    const struct fc_config *c = fc_cfg(core);
    const struct fc_hints *h = &a->model.hints;
    if (c->has_threshold)
        return c->threshold;
    return h->anomaly_kind >= FC_ANOMALY_REBUILD && h->anomaly_kind <= FC_ANOMALY_MARGIN
               ? h->anomaly_threshold
               : 0;
}

/* Both edges are told; which one it is shows in the score: over the threshold it began. At most one
 * beginning a minute, and the end of what was told. */
static void alarm(struct fc_core *core, uint32_t slot, const struct fc_seen *seen) {
    struct fc_app *a = core->app[slot];
    const struct fc_config *c = fc_cfg(core);
    uint64_t now = fc_clock(core);
    enum fc_edge edge = fc_alarm_put(&a->alarm, seen->score, seen->limit, c->alarm_k, c->alarm_n);
    if (edge == FC_EDGE_BEGAN) {
        a->alarm_told = !a->alarm_seen || now - a->alarm_at_ms >= FC_ALARM_MS;
        a->suppressed += !a->alarm_told;
    }
    if (edge == FC_EDGE_NONE || !a->alarm_told)
        return;
    /* The configuration can move the threshold under an alarm: the end still has to look like one.
     */
    uint32_t score = seen->score;
    if (edge == FC_EDGE_ENDED && score > seen->limit)
        score = seen->limit;
    fc_event_put(core, FC_EV_ANOMALY, (int)slot, score, seen->limit,
                 seen->n_scores ? (int64_t)seen->top : -1, a->suppressed);
    if (edge == FC_EDGE_BEGAN) {
        a->alarm_seen = 1;
        a->alarm_at_ms = now;
        a->suppressed = 0;
    }
}

static void classify(struct fc_app *a, const struct fc_seen *seen) {
    a->score_sum += seen->best;
    if (++a->classes[seen->top] == UINT8_MAX)
        for (uint32_t i = 0; i < FC_CLASSES_MAX; i++)
            a->classes[i] /= 2;
    if (seen->label >= 0 && a->lab_n < INT16_MAX) {
        a->lab_n++;
        a->lab_ok += seen->label == (int32_t)seen->top;
    }
}

/* Config 8: one in N without regard to what it is, so that rates can be told from the sample; the
 * others beside it as far as there is room. */
static void pick(struct fc_core *core, struct fc_app *a, const struct fc_seen *seen) {
    uint32_t n = fc_cfg(core)->sample_n, k = core->inference_n, margin = seen->best - seen->second;
    uint8_t why = WHY_ONE_IN_N;
    if (!n || a->n_picks == FC_PICKS_MAX)
        return;
    if (k % n) {
        if (a->extras == FC_EXTRAS_MAX)
            return;
        if (seen->has_score && seen->limit && seen->score > seen->limit)
            why = WHY_ANOMALY;
        else if (seen->n_scores > 1 && margin < LOW_MARGIN)
            why = WHY_MARGIN;
        else
            return;
        a->extras++;
    }
    a->picks[a->n_picks++] = (struct fc_pick){
        .at_ms = (uint32_t)fc_clock(core),
        .k = k,
        .anom = seen->has_score ? seen->score : 0,
        .us = seen->us,
        .score = (uint16_t)seen->best,
        .margin = (uint16_t)margin,
        .top = seen->n_scores ? (int16_t)seen->top : -1,
        .why = why,
    };
}

static void count(struct fc_core *core, uint32_t slot, struct fc_seen *seen) {
    struct fc_app *a = core->app[slot];
    const struct fc_hal *hal = core->hal;
    uint32_t kind = a->model.hints.anomaly_kind;
    if (!a->open)
        open_window(core, a);
    if (!a->sketch.n)
        a->sketch_ms = fc_clock(core);
    seen->us = seen->us > MAX_US ? MAX_US : seen->us;
    seen->heap = hal->heap_free(hal->ctx);
    seen->limit = threshold(core, a);
    if (seen->n_scores &&
        (kind == FC_ANOMALY_MARGIN || (kind == FC_ANOMALY_NONE && fc_cfg(core)->has_threshold))) {
        seen->score = fc_anomaly_margin(seen->best, seen->second);
        seen->has_score = 1;
    }
    a->n++;
    a->us_sum += seen->us;
    a->us_max = seen->us > a->us_max ? seen->us : a->us_max;
    a->heap_min = seen->heap < a->heap_min ? seen->heap : a->heap_min;
    a->rssi = hal->rssi(hal->ctx);
    if (seen->n_scores)
        classify(a, seen);
    if (seen->has_score) {
        a->anom_max = seen->score > a->anom_max ? seen->score : a->anom_max;
        a->anom_n += seen->limit && seen->score > seen->limit;
        alarm(core, slot, seen);
    }
    fc_sketch_put(&a->sketch, seen, a->model.params.has_cuts ? a->model.params.cuts : NULL);
    pick(core, a, seen);
    core->inference_n++;
}

#else

/* Without telemetry an inference counts for probation and for the commands that need a model. */
static void count(struct fc_core *core, uint32_t slot, struct fc_seen *seen) {
    (void)slot;
    (void)seen;
    core->inference_n++;
}

#endif

/* FC_OK = count it, 1 = it failed and that is dealt with. */
static int admit(struct fc_core *core, uint32_t slot, uint32_t n_scores, int failed) {
    if (slot >= FC_SLOTS || n_scores > FC_CLASSES_MAX || !fc_running(core, slot))
        return FC_ERR_DROP;
    fc_trial_sample(core, slot, failed);
    return failed ? 1 : FC_OK;
}

int fc_sample_put(struct fc_core *core, const struct fc_sample *s) {
    struct fc_seen seen = {.us = s->us, .label = s->label};
    int rc = admit(core, s->slot, s->n_scores, s->failed);
    if (rc)
        return rc > 0 ? FC_OK : rc;
    fc_seen_scores(&seen, s->scores, s->n_scores);
    count(core, s->slot, &seen);
    return FC_OK;
}

int fc_result_put(struct fc_core *core, const struct fc_result *r) {
    struct fc_seen seen = {
        .us = r->us, .label = r->label, .score = r->score, .has_score = r->has_score};
    int rc = admit(core, r->slot, r->n_scores, r->failed);
    if (rc)
        return rc > 0 ? FC_OK : rc;
    fc_seen_scores(&seen, r->scores, r->n_scores);
    count(core, r->slot, &seen);
#if FC_TELEMETRY
    struct fc_sketch *s = &core->app[r->slot]->sketch;
    fc_inputs_merge(&s->inputs, &r->inputs);
    s->gaps += r->gaps;
    s->dropped += r->dropped;
    s->resets += r->resets;
#endif
    return FC_OK;
}

#if FC_TELEMETRY

/* --- windows ------------------------------------------------------------------------- */

static int16_t modal(const struct fc_app *a) {
    int16_t top = -1;
    uint32_t best = 0;
    for (uint32_t i = 0; i < FC_CLASSES_MAX; i++) {
        if (a->classes[i] > best) {
            best = a->classes[i];
            top = (int16_t)i;
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
    uint32_t lab_n = (uint32_t)w->lab_n + v->lab_n, lab_ok = (uint32_t)w->lab_ok + v->lab_ok;
    if (lab_n > INT16_MAX) { /* keep the share, within what a record can say */
        lab_ok = (uint32_t)((uint64_t)lab_ok * INT16_MAX / lab_n);
        lab_n = INT16_MAX;
    }
    w->us_mean = mean(w->us_mean, w->n, v->us_mean, v->n);
    w->score = (uint16_t)mean(w->score, w->n, v->score, v->n);
    w->top = v->n > w->n ? v->top : w->top;
    w->n += v->n;
    w->us_max = larger(w->us_max, v->us_max);
    w->anom_max = larger(w->anom_max, v->anom_max);
    w->anom_n += v->anom_n;
    w->lab_n = (uint16_t)lab_n;
    w->lab_ok = (uint16_t)lab_ok;
    w->heap_min = w->heap_min < v->heap_min ? w->heap_min : v->heap_min;
    w->rssi = v->rssi;
    w->flags |= v->flags | FC_FLAG_SHED;
    w->lasted_ms += (uint32_t)(v->end_ms - w->end_ms);
    w->end_ms = v->end_ms;
    a->n_closed--;
    memmove(v, v + 1, (a->n_closed - 1u) * sizeof *v);
}

void fc_window_close(struct fc_core *core, struct fc_app *a, uint32_t flags) {
    if (!a->open)
        return;
    if (a->n_closed == FC_WINDOWS_MAX)
        merge_oldest(a);
    struct fc_window *w = &a->closed[a->n_closed++];
    w->end_ms = fc_clock(core);
    w->lasted_ms = (uint32_t)(w->end_ms - a->start_ms);
    w->n = a->n > 1000000 ? 1000000 : a->n;
    w->us_mean = a->n ? (uint32_t)(a->us_sum / a->n) : 0;
    w->us_max = a->us_max;
    w->score = (uint16_t)(a->n ? a->score_sum / a->n : 0);
    w->top = modal(a);
    w->anom_max = a->anom_max;
    w->anom_n = a->anom_n > w->n ? w->n : a->anom_n;
    w->lab_n = (uint16_t)(a->lab_n > w->n ? w->n : a->lab_n);
    w->lab_ok = (uint16_t)a->lab_ok;
    w->heap_min = a->heap_min / 64 > 262143 ? 262143 : a->heap_min / 64;
    w->rssi = (int8_t)(a->rssi > 0 ? 0 : a->rssi < -127 ? -127 : a->rssi);
    w->flags = (uint16_t)(a->flags | flags);
    a->flags = 0;
    a->open = 0;
}

#endif
