/* stage_host.c: see stage_host.h. */
#include "stage_host.h"

#include <stdlib.h>
#include <string.h>

#include "fleet_core/pipeline.h"
#include "sketch.h"

struct fs {
    struct fc_stream stream;
    struct fc_decide decide;
    struct fc_alarm alarm;
    struct fc_sketch sketch[3];
    void *memory;
};

struct fs *fs_open(void) {
    return calloc(1, sizeof(struct fs));
}

void fs_close(struct fs *s) {
    if (s)
        free(s->memory);
    free(s);
}

int fs_stream_open(struct fs *s, int kind, uint32_t channels, uint32_t window, uint32_t hop,
                   uint32_t capacity) {
    uint32_t bytes = capacity * channels * (kind ? 4u : 2u);
    free(s->memory);
    s->memory = malloc(bytes ? bytes : 1);
    if (!s->memory)
        return FC_ERR_LOW_HEAP;
    return fc_stream_open(&s->stream, kind ? FC_SAMPLES_F32 : FC_SAMPLES_I16, channels, window, hop,
                          s->memory, bytes);
}

void fs_stream_age(struct fs *s, uint32_t frames_before_wrap) {
    uint32_t at = s->stream.wrap - frames_before_wrap;
    s->stream.head = s->stream.begun = s->stream.tail = at;
}

void fs_stream_put(struct fs *s, const void *values, uint32_t frames) {
    fc_stream_put(&s->stream, values, frames);
}

void fs_stream_gap(struct fs *s) {
    fc_stream_gap(&s->stream);
}

int fs_stream_take(struct fs *s, float *out, int *jumped, const void *values, uint32_t late) {
    struct fc_stream *st = &s->stream;
    if (!fc_stream_ready(st))
        return 0;
    *jumped = st->jumped;
    for (uint32_t f = 0; f < st->window; f++)
        for (uint32_t c = 0; c < st->channels; c++)
            *out++ = fc_stream_value(st, f, c);
    if (late)
        fc_stream_put(st, values, late);
    return fc_stream_next(st) ? 1 : -1;
}

uint32_t fs_stream_dropped(const struct fs *s) {
    return s->stream.dropped;
}

uint32_t fs_stream_gaps(const struct fs *s) {
    return s->stream.gaps;
}

static int quant(int dtype, uint32_t scale_bits, int32_t zero, struct fc_quant *q) {
    struct fc_tensor t;
    memset(&t, 0, sizeof t);
    t.dtype = (uint8_t)dtype;
    t.scale_bits = scale_bits;
    t.zero_point = zero;
    return fc_quant_of(&t, q);
}

int fs_quantise(int dtype, uint32_t scale_bits, int32_t zero, const float *values, uint32_t n,
                uint8_t *raw, uint32_t counts[2]) {
    struct fc_quant q;
    int rc = quant(dtype, scale_bits, zero, &q);
    for (uint32_t i = 0; i < n && !rc; i++) {
        unsigned what = 0;
        fc_quant_put(&q, raw, i, values[i], &what);
        counts[0] += (what & FC_Q_CLAMPED) != 0;
        counts[1] += (what & FC_Q_FAULT) != 0;
    }
    return rc;
}

int fs_dequantise(int dtype, uint32_t scale_bits, int32_t zero, const uint8_t *raw, uint32_t n,
                  float *values) {
    struct fc_quant q;
    int rc = quant(dtype, scale_bits, zero, &q);
    for (uint32_t i = 0; i < n && !rc; i++)
        values[i] = fc_quant_get(&q, raw, i);
    return rc;
}

int fs_decide_open(struct fs *s, uint32_t classes, uint32_t n, uint32_t k, uint32_t m,
                   uint32_t threshold, uint32_t refractory_ms) {
    return fc_decide_open(&s->decide, classes, n, k, m, threshold, refractory_ms);
}

void fs_decide_reset(struct fs *s) {
    fc_decide_reset(&s->decide);
}

int fs_decide_put(struct fs *s, const uint16_t *scores, uint64_t now_ms) {
    return fc_decide_put(&s->decide, scores, now_ms);
}

uint32_t fs_margin(uint32_t best, uint32_t second) {
    return fc_anomaly_margin(best, second);
}

uint32_t fs_distance(const float *features, const uint8_t *params, uint32_t n) {
    return fc_anomaly_distance(features, params, n);
}

uint32_t fs_rebuild(uint32_t scale_bits, const uint8_t *in, const uint8_t *out, uint32_t n) {
    struct fc_quant q;
    return quant(9, scale_bits, 0, &q) ? 0 : fc_anomaly_rebuild(&q, in, &q, out, n);
}

void fs_alarm_open(struct fs *s) {
    memset(&s->alarm, 0, sizeof s->alarm);
}

int fs_alarm_put(struct fs *s, uint32_t score, uint32_t limit, uint32_t k, uint32_t n) {
    return (int)fc_alarm_put(&s->alarm, score, limit, k, n);
}

void fs_sketch_open(struct fs *s, int place) {
    fc_sketch_open(&s->sketch[place]);
}

void fs_sketch_put(struct fs *s, int place, uint32_t us, uint32_t heap, const uint16_t *scores,
                   uint32_t n_scores, int32_t label, int has_score, uint32_t score, uint32_t limit,
                   const uint32_t *cuts) {
    struct fc_seen seen = {.us = us, .heap = heap, .label = label, .score = score, .limit = limit};
    fc_seen_scores(&seen, scores, n_scores);
    seen.has_score = (uint8_t)has_score;
    fc_sketch_put(&s->sketch[place], &seen, cuts);
}

void fs_sketch_inputs(struct fs *s, int place, int dtype, uint32_t scale_bits, int32_t zero,
                      uint32_t channels, const float *values, uint32_t frames) {
    struct fc_inputs in;
    struct fc_quant q;
    uint8_t raw[4];
    memset(&in, 0, sizeof in);
    if (quant(dtype, scale_bits, zero, &q))
        return;
    for (uint32_t i = 0; i < frames * channels; i++) {
        unsigned what = 0;
        int32_t step = fc_quant_put(&q, raw, 0, values[i], &what);
        fc_inputs_put(&in, &q, i % channels, step, what);
    }
    fc_inputs_merge(&s->sketch[place].inputs, &in);
}

void fs_sketch_merge(struct fs *s, int into, int from) {
    fc_sketch_merge(&s->sketch[into], &s->sketch[from]);
}

size_t fs_sketch_write(struct fs *s, int place, uint8_t *out, size_t cap) {
    struct fc_out to = fc_out_to(out, cap);
    const struct fc_sketch_extra extra = {.duration_s = 900};
    fc_sketch_write(&s->sketch[place], &extra, &to);
    return to.err ? 0 : to.n;
}

int fs_sketch_equal(const struct fs *s, int a, int b) {
    return memcmp(&s->sketch[a], &s->sketch[b], sizeof s->sketch[0]) == 0;
}

uint32_t fs_time_bin(uint32_t us) {
    return fc_time_bin(us);
}
