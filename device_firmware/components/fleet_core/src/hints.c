/* hints.c: manifest key 21, how a model wants to be fed and read (SPEC.md section 6).
 *
 * Signed by release keys, so an attacker does not choose these numbers; a mistake in a release must
 * still not make the pipeline read or divide wrongly, so all are bounded here, once. Unknown hints
 * are skipped.
 */
#include <stddef.h>
#include <string.h>

#include "bytes.h"
#include "documents.h"

/* Hints that are one number: where it goes (byte of struct fc_hints) and its range. */
static const struct {
    uint8_t to, least;
    uint32_t most;
} HINTS[14] = {
    [1] = {offsetof(struct fc_hints, window), 0, UINT32_MAX},
    [2] = {offsetof(struct fc_hints, hop), 0, UINT32_MAX},
    [3] = {offsetof(struct fc_hints, channels), 1, UINT16_MAX},
    [4] = {offsetof(struct fc_hints, reset_policy), 0, UINT32_MAX},
    [5] = {offsetof(struct fc_hints, variables), 0, UINT16_MAX},
    [6] = {offsetof(struct fc_hints, latency_us), 0, UINT32_MAX},
    [8] = {offsetof(struct fc_hints, head), 0, 1},
    [9] = {offsetof(struct fc_hints, embedding), 0, 7},
    [13] = {offsetof(struct fc_hints, classes), 1, UINT16_MAX},
};

#define FRONT_SCALE 1u
#define FRONT_SLOT 2u
#define FRONTS 3u
#define KIND_REBUILD 1u
#define KIND_DISTANCE 2u
#define HINT(key) (1u << (key))

/* [kind, threshold, ? source, ...] */
static void anomaly(struct fc_in *in, struct fc_hints *h) {
    uint32_t parts = fc_in_array(in, 2, 8);
    for (uint32_t k = 0; k < parts && !in->err; k++) {
        int64_t v = fc_in_int(in);
        if (k == 0)
            h->anomaly_kind = v < 0 ? 0 : (uint32_t)v;
        else if (k == 1)
            h->anomaly_threshold = v < 0 || v > INT32_MAX ? 0 : (uint32_t)v;
        else if (k == 2)
            h->source = (uint32_t)v;
    }
}

/* [n, k, refractory ms, ? m, ? threshold]: k of the last m; without m, of the last n. */
static void decision(struct fc_in *in, struct fc_hints *h) {
    uint32_t parts = fc_in_array(in, 3, 5);
    h->decide_n = (uint8_t)fc_in_u32(in, 1, 64);
    h->decide_k = (uint8_t)fc_in_u32(in, 1, parts > 3 ? 64 : h->decide_n);
    h->refractory_ms = fc_in_u32(in, 0, UINT32_MAX);
    h->decide_m = parts > 3 ? (uint8_t)fc_in_u32(in, 1, 64) : h->decide_n;
    h->decide_threshold = parts > 4 ? (uint16_t)fc_in_u32(in, 0, 10000) : 5000;
}

static int is_finite(const uint8_t *p, uint32_t n) {
    for (uint32_t i = 0; i + 4 <= n; i += 4)
        if ((fc_get32(p + i) >> 23 & 255u) == 255u)
            return 0;
    return 1;
}

static uint32_t elements(const struct fc_manifest *m, uint32_t tensor) {
    static const uint8_t size[] = {4, 2, 4, 1, 8, 1, 1, 2, 1, 1};
    return m->bytes[tensor] / size[m->dtype[tensor]];
}

/* Parameters fit the features they are for. */
static int distance_fits(const struct fc_manifest *m, const struct fc_hints *h, uint32_t n) {
    uint32_t features = 2 * h->channels; /* < 2^17 */
    if (!h->source)
        features = h->embedding < m->nout ? elements(m, FC_TENSORS_MAX + h->embedding) : 0;
    return h->source < 2 && features && features <= FC_FEATURES_MAX && n == 8 * features;
}

static int front_fits(const struct fc_manifest *m, const struct fc_hints *h, const uint8_t *p,
                      uint32_t n) {
    if (h->front == FRONT_SCALE)
        return h->channels && h->channels <= FC_CHANNELS_MAX && n == 8 * h->channels &&
               is_finite(p, n);
    if (h->front == FRONT_SLOT)
        return n == 1 && p[0] < FC_SLOTS_MAX && p[0] != m->slot;
    return h->front < FRONTS;
}

static int fits(const struct fc_manifest *m, const struct fc_hints *h, uint32_t seen) {
    uint32_t n = elements(m, FC_TENSORS_MAX);
    if (((seen & HINT(1)) && !h->window) || ((seen & HINT(2)) && (!h->hop || h->hop > h->window)) ||
        h->reset_policy > 2)
        return 0;
    if (h->decide_n && (h->decide_k > h->decide_m || !h->head || n > FC_DECIDE_SCORES ||
                        h->decide_n * n > FC_DECIDE_SCORES))
        return 0;
    return h->anomaly_kind != KIND_REBUILD || (m->nin == 1 && n == elements(m, 0));
}

/* Nine rising scores; out may be NULL. */
static int cuts(struct fc_in *in, uint32_t out[9]) {
    uint32_t before = 0, rising = 1;
    fc_in_array(in, 9, 9);
    for (uint32_t i = 0; i < 9; i++) {
        uint32_t v = fc_in_u32(in, 0, INT32_MAX);
        rising &= v >= before;
        before = v;
        if (out)
            out[i] = v;
    }
    return (int)rising;
}

int fc_hints_parse(struct fc_in *in, struct fc_manifest *m, struct fc_params *params) {
    struct fc_hints *h = &m->hints;
    uint32_t n = fc_in_map(in, FC_KEY_MAX + 1), seen = 0, distance_n = 0, front_n = 0;
    const uint8_t *distance = NULL, *front = NULL;
    int fit = 1;
    h->embedding = FC_NO_OUTPUT;
    for (uint32_t i = 0; i < n && !in->err; i++) {
        uint32_t key = fc_in_u32(in, 0, FC_KEY_MAX);
        seen |= HINT(key);
        if (key < 14 && HINTS[key].most) {
            uint32_t v = fc_in_u32(in, HINTS[key].least, HINTS[key].most);
            memcpy((uint8_t *)h + HINTS[key].to, &v, sizeof v);
        } else if (key == 7) {
            fc_in_array(in, 2, 2);
            h->front = fc_in_u32(in, 0, UINT32_MAX);
            fc_in_raw(in, h->front_digest, 8);
        } else if (key == 10) {
            decision(in, h);
        } else if (key == 11) {
            anomaly(in, h);
        } else if (key == 12) {
            fc_in_raw(in, h->labels, 8);
        } else if (key == 14) {
            distance = fc_in_bytes(in, 8, 8 * FC_FEATURES_MAX, &distance_n);
        } else if (key == 15) {
            front = fc_in_bytes(in, 1, 8 * FC_CHANNELS_MAX, &front_n);
        } else if (key == 16) {
            fit &= cuts(in, params ? params->cuts : NULL);
        } else {
            fc_in_skip(in);
        }
    }
    if (in->err)
        return 0; /* schema, which the caller sees */
    fit = fit && fits(m, h, seen) && front_fits(m, h, front, front_n);
    if (distance && h->anomaly_kind == KIND_DISTANCE)
        fit = fit && distance_fits(m, h, distance_n) && is_finite(distance, distance_n);
    if (!fit || !params)
        return !fit;
    /* Both lengths were bounded above: the sum is at most FC_PARAMS_MAX. */
    params->distance_bytes = (uint16_t)distance_n;
    params->front_bytes = (uint16_t)front_n;
    if (distance)
        memcpy(params->bytes, distance, distance_n);
    if (front)
        memcpy(params->bytes + distance_n, front, front_n);
    params->has_cuts = (seen & HINT(16)) != 0;
    return 0;
}
