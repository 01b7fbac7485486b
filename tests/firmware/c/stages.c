/* stages.c: the pipeline under sanitizers, with models, parameters, samples and engine outputs from
 * a seed: NaN, infinities, overruns, gaps, every tensor type, every anomaly kind. It looks for what
 * a sanitizer finds and for numbers that leave the ranges of SPEC.md; what the numbers are is the
 * business of the property tests.
 *
 *   stages SEED ROUNDS    prints pipes opened and windows run; 1 = a number out of range
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cbor.h"
#include "fleet_core/pipe.h"
#include "sketch.h"

#define ELEMENTS 96u

static uint32_t s_seed;
static uint8_t s_out[2][8 * ELEMENTS];

static uint32_t any(uint32_t most) {
    s_seed ^= s_seed << 13;
    s_seed ^= s_seed >> 17;
    s_seed ^= s_seed << 5;
    return (uint32_t)((uint64_t)s_seed * ((uint64_t)most + 1) >> 32);
}

static float any_float(void) {
    uint32_t bits = any(1) ? any(UINT32_MAX) : 0x3F800000u + any(0x00FFFFFFu);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static int invoke(void *ctx, uint8_t slot, const struct fc_buf *in, uint32_t nin,
                  struct fc_buf *out, uint32_t nout, uint32_t *us) {
    const struct fc_model *models = ctx;
    volatile uint8_t sum = 0;
    for (uint32_t i = 0; i < nin; i++)
        for (uint32_t k = 0; k < in[i].n; k++)
            sum = (uint8_t)(sum + in[i].p[k]);
    for (uint32_t i = 0; i < nout; i++) {
        out[i].n = models[slot].out[i].bytes;
        out[i].p = s_out[i];
        for (uint32_t k = 0; k < out[i].n; k++)
            s_out[i][k] = (uint8_t)any(255);
    }
    *us = any(UINT32_MAX) >> any(31);
    return any(50) ? FC_OK : FC_ERR_LOAD_FAILED;
}

static int reset(void *ctx, uint8_t slot) {
    (void)ctx;
    (void)slot;
    return any(50) ? FC_OK : FC_ERR_LOAD_FAILED;
}

static struct fc_tensor tensor(uint32_t elements) {
    static const uint8_t types[] = {0, 3, 7, 9, 9, 9, 2}, size[] = {4, 1, 2, 1, 1, 1, 4};
    uint32_t type = any(6);
    struct fc_tensor t = {types[type], 2, {1, elements}, 0x3D800000u, 0, elements * size[type]};
    if (!any(20))
        t.scale_bits = any(UINT32_MAX);
    t.zero_point = any(3) ? 0 : (int32_t)any(300) - 150;
    return t;
}

static struct fc_model model(uint32_t window, uint32_t channels) {
    struct fc_model m;
    memset(&m, 0, sizeof m);
    m.nin = 1;
    m.nout = 2;
    m.in[0] = tensor(window * channels);
    m.out[0] = tensor(any(1) ? window * channels : 1 + any(ELEMENTS - 1));
    m.out[1] = tensor(1 + any(40));
    m.hints = (struct fc_hints){
        .window = window,
        .hop = 1 + any(window - 1),
        .channels = channels,
        .reset_policy = any(2),
        .head = any(1),
        .anomaly_kind = any(4),
        .source = any(2),
        .front = any(3),
        .embedding = any(2),
        .decide_n = (uint8_t)any(4),
        .decide_k = 1,
        .decide_m = (uint8_t)(1 + any(3)),
        .decide_threshold = 5000,
    };
    struct fc_params *p = &m.params;
    p->has_cuts = (uint8_t)any(1);
    for (uint32_t i = 0; i < 9; i++)
        p->cuts[i] = i * 1000;
    uint32_t features = m.hints.source ? 2 * channels : m.out[1].dim[1];
    p->distance_bytes = features <= FC_FEATURES_MAX && any(3) ? (uint16_t)(8 * features) : 0;
    p->front_bytes = m.hints.front == FC_FRONT_SCALE ? (uint16_t)(8 * channels) : 1;
    for (uint32_t i = 0; i < sizeof p->bytes; i += 4) {
        float v = any_float();
        memcpy(p->bytes + i, &v, sizeof v);
    }
    if (m.hints.front == FC_FRONT_SLOT)
        p->bytes[p->distance_bytes] = 1;
    return m;
}

static int is_wrong(const struct fc_result *r, const struct fc_sketch *s) {
    uint8_t bytes[4096];
    struct fc_out out = fc_out_to(bytes, sizeof bytes);
    const struct fc_sketch_extra extra = {.duration_s = 1};
    uint32_t sum = 0;
    for (uint32_t i = 0; i < r->n_scores; i++)
        if (r->scores[i] > 10000)
            return 1;
    fc_sketch_write(s, &extra, &out);
    for (uint32_t i = 0; i < s->n_times; i++)
        sum += s->time_n[i];
    return r->score > INT32_MAX || r->decision < -1 || out.err || sum != s->n ||
           fc_cbor_check(bytes, out.n, 0, FC_ITEMS_MAX) != FC_OK;
}

static uint32_t run(struct fc_pipe *p, const struct fc_engine *engine, struct fc_sketch *s) {
    static struct fc_result r;
    uint32_t windows = 0;
    if (!fc_pipe_run(p, engine, any(UINT32_MAX), &r) || r.failed)
        return 0;
    struct fc_seen seen = {.us = r.us > 60000000u ? 60000000u : r.us,
                           .label = -1,
                           .score = r.score,
                           .limit = 1000,
                           .has_score = r.has_score};
    fc_seen_scores(&seen, r.scores, r.n_scores);
    fc_sketch_put(s, &seen, p->model->params.has_cuts ? p->model->params.cuts : NULL);
    fc_inputs_merge(&s->inputs, &r.inputs);
    windows++;
    if (is_wrong(&r, s)) {
        printf("a number is out of range, seed %u\n", s_seed);
        exit(1);
    }
    return windows;
}

int main(int argc, char **argv) {
    uint32_t rounds = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0, opened = 0, windows = 0;
    s_seed = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) | 1u : 1;
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t channels = 1 + any(5), window = 1 + any(ELEMENTS / channels - 1);
        struct fc_model models[2] = {model(window, channels), model(window, channels)};
        struct fc_engine engine = {.ctx = models, .invoke = invoke, .reset = reset};
        struct fc_pipe_memory memory = {.kind = (uint8_t)any(1)};
        struct fc_pipe *p = malloc(sizeof *p); /* its own allocation: ASan sees its ends */
        struct fc_sketch *s = calloc(1, sizeof *s);
        memory.ring_bytes = (window + 2 * window + any(9)) * channels * 4;
        memory.ring = malloc(memory.ring_bytes);
        memory.input_bytes = 4 * ELEMENTS;
        memory.input = malloc(memory.input_bytes);
        if (!p || !s || !memory.ring || !memory.input)
            return 2;
        int rc = fc_pipe_open(p, 0, &models[0], any(9) ? &models[1] : NULL, &memory);
        opened += rc == FC_OK;
        for (uint32_t step = 0; rc == FC_OK && step < 40; step++) {
            float frames[2 * ELEMENTS];
            uint32_t n = 1 + any(2 * ELEMENTS / channels - 1);
            for (uint32_t i = 0; i < n * channels; i++)
                frames[i] = any_float();
            fc_stream_put(&p->stream, frames, n);
            if (!any(5))
                fc_stream_gap(&p->stream);
            while (any(3))
                windows += run(p, &engine, s);
        }
        free(memory.input);
        free(memory.ring);
        free(s);
        free(p);
    }
    printf("pipes %u windows %u\n", opened, windows);
    return 0;
}
