/* pipe.c: see pipe.h. Order of a window: front-end, quantise, reset if the policy says so, invoke,
 * scores, decision, anomaly. The input is written anew before every invoke: TFLM reuses its memory.
 */
#include <string.h>

#include "bytes.h"
#include "fleet_core/pipe.h"

enum { RESET_NEVER, RESET_PER_WINDOW, RESET_PER_STREAM };
#define HEAD_SCORES 1u

uint32_t fc_tensor_elements(const struct fc_tensor *t) {
    uint32_t n = 1;
    for (uint32_t i = 0; i < t->ndim; i++)
        n *= t->dim[i]; /* the parser bounds the product */
    return n;
}

uint32_t fc_model_channels(const struct fc_model *m) {
    const struct fc_tensor *t = &m->in[0];
    if (m->hints.channels)
        return m->hints.channels;
    return t->ndim >= 3 ? t->dim[t->ndim - 1] : 1;
}

uint32_t fc_model_window(const struct fc_model *m) {
    uint32_t channels = fc_model_channels(m);
    if (m->hints.window || !channels)
        return m->hints.window;
    return fc_tensor_elements(&m->in[0]) / channels;
}

/* Behind those of the distance; the parser made sure that both fit. */
static const uint8_t *front_params(const struct fc_model *m) {
    return m->params.bytes + m->params.distance_bytes;
}

/* The front-end's model takes the window and gives what the model of the slot takes. */
static int open_front(struct fc_pipe *p, const struct fc_model *m, const struct fc_model *pre,
                      uint32_t values, uint32_t *input_bytes) {
    switch (m->hints.front) {
    case FC_FRONT_RAW:
        return values == p->elements ? FC_OK : FC_ERR_IO_CONTRACT;
    case FC_FRONT_SCALE:
        return values == p->elements && m->params.front_bytes == 8 * fc_model_channels(m)
                   ? FC_OK
                   : FC_ERR_IO_CONTRACT;
    case FC_FRONT_SLOT:
        if (!pre || pre->nin != 1 || fc_tensor_elements(&pre->in[0]) != values ||
            fc_tensor_elements(&pre->out[0]) != p->elements ||
            fc_quant_of(&pre->in[0], &p->pre_in) || fc_quant_of(&pre->out[0], &p->pre_out) ||
            m->params.front_bytes != 1)
            return FC_ERR_IO_CONTRACT;
        p->pre_slot = front_params(m)[0];
        memcpy(p->pre_id, pre->id, 8);
        if (pre->in[0].bytes > *input_bytes)
            *input_bytes = pre->in[0].bytes;
        return FC_OK;
    default:
        return FC_ERR_IO_CONTRACT;
    }
}

static int open_outputs(struct fc_pipe *p, const struct fc_model *m) {
    const struct fc_hints *h = &m->hints;
    uint32_t n = fc_tensor_elements(&m->out[0]), features = 0;
    if ((h->head == HEAD_SCORES || h->anomaly_kind == FC_ANOMALY_REBUILD) &&
        fc_quant_of(&m->out[0], &p->out))
        return FC_ERR_IO_CONTRACT;
    if (h->head == HEAD_SCORES && h->decide_n) {
        if (fc_decide_open(&p->decide, n, h->decide_n, h->decide_k, h->decide_m,
                           h->decide_threshold, h->refractory_ms))
            return FC_ERR_IO_CONTRACT;
        p->decides = 1;
    }
    if (h->anomaly_kind == FC_ANOMALY_REBUILD && n != p->elements)
        return FC_ERR_IO_CONTRACT;
    if (h->anomaly_kind != FC_ANOMALY_DISTANCE || !m->params.distance_bytes)
        return FC_OK;
    if (h->source) {
        features = 2 * fc_model_channels(m);
    } else {
        if (h->embedding >= m->nout || fc_quant_of(&m->out[h->embedding], &p->embedding))
            return FC_ERR_IO_CONTRACT;
        features = fc_tensor_elements(&m->out[h->embedding]);
    }
    return features <= FC_FEATURES_MAX && m->params.distance_bytes == 8 * features
               ? FC_OK
               : FC_ERR_IO_CONTRACT;
}

int fc_pipe_open(struct fc_pipe *p, uint8_t slot, const struct fc_model *m,
                 const struct fc_model *pre, const struct fc_pipe_memory *memory) {
    uint32_t window = fc_model_window(m), channels = fc_model_channels(m), bytes = m->in[0].bytes;
    uint32_t hop = m->hints.hop ? m->hints.hop : window;
    memset(p, 0, sizeof *p);
    if (m->nin != 1 || !channels || window > FC_TENSOR_BYTES_MAX / channels ||
        fc_quant_of(&m->in[0], &p->in))
        return FC_ERR_IO_CONTRACT;
    p->elements = fc_tensor_elements(&m->in[0]);
    p->slot = slot;
    if (open_front(p, m, pre, window * channels, &bytes) || open_outputs(p, m))
        return FC_ERR_IO_CONTRACT;
    if (bytes > memory->input_bytes)
        return FC_ERR_LOW_HEAP;
    int rc = fc_stream_open(&p->stream, (enum fc_samples)memory->kind, channels, window, hop,
                            memory->ring, memory->ring_bytes);
    if (rc)
        return rc;
    p->input = memory->input;
    p->stale = 1;
    p->model = m;
    return FC_OK;
}

/* A sample in the units that the model was trained on. */
static float sample(const struct fc_pipe *p, uint32_t frame, uint32_t channel) {
    float v = fc_stream_value(&p->stream, frame, channel);
    if (p->model->hints.front == FC_FRONT_SCALE) {
        const uint8_t *at = front_params(p->model) + 8 * channel;
        v = v * fc_get_f32(at) + fc_get_f32(at + 4);
    }
    return v;
}

/* Mean, and mean distance from it, of each channel. */
static void moments(const struct fc_pipe *p, float *features) {
    uint32_t channels = p->stream.channels, window = p->stream.window;
    for (uint32_t c = 0; c < channels; c++) {
        float sum = 0, spread = 0;
        for (uint32_t f = 0; f < window; f++)
            sum += sample(p, f, c);
        float mean = sum / (float)window;
        for (uint32_t f = 0; f < window; f++) {
            float d = sample(p, f, c) - mean;
            spread += d < 0 ? -d : d;
        }
        features[2 * c] = mean;
        features[2 * c + 1] = spread / (float)window;
    }
}

static void fill(struct fc_pipe *p, const struct fc_quant *q, struct fc_inputs *seen) {
    uint32_t i = 0;
    for (uint32_t f = 0; f < p->stream.window; f++) {
        for (uint32_t c = 0; c < p->stream.channels; c++) {
            unsigned what = 0;
            int32_t step = fc_quant_put(q, p->input, i++, sample(p, f, c), &what);
            fc_inputs_put(seen, q, c, step, what);
        }
    }
}

/* The model in the other slot turns the window into this one's input. */
static int run_front(struct fc_pipe *p, const struct fc_engine *engine, uint32_t *us) {
    struct fc_buf in = {p->input, p->pre_in.size * p->stream.window * p->stream.channels};
    struct fc_buf out[FC_TENSORS_MAX];
    memset(out, 0, sizeof out);
    int rc = engine->invoke(engine->ctx, p->pre_slot, &in, 1, out, 1, us);
    if (rc)
        return rc;
    if (!out[0].p || out[0].n != p->elements * p->pre_out.size)
        return FC_ERR_IO_CONTRACT;
    for (uint32_t i = 0; i < p->elements; i++) {
        unsigned what = 0;
        fc_quant_put(&p->in, p->input, i, fc_quant_get(&p->pre_out, out[0].p, i), &what);
    }
    return FC_OK;
}

static void read_scores(struct fc_pipe *p, const struct fc_buf *out, uint64_t now_ms,
                        struct fc_result *r) {
    uint32_t n = fc_tensor_elements(&p->model->out[0]);
    if (p->model->hints.head != HEAD_SCORES || n > FC_CLASSES_MAX)
        return;
    for (uint32_t i = 0; i < n; i++) {
        float v = fc_quant_get(&p->out, out->p, i) * 10000.0f + 0.5f;
        uint32_t e4 = !(v > 0) ? 0 : v > 10000.0f ? 10000 : (uint32_t)v; /* NaN: 0 */
        r->scores[i] = (uint16_t)e4;
    }
    r->n_scores = n;
    if (p->decides)
        r->decision = (int16_t)fc_decide_put(&p->decide, r->scores, now_ms);
}

static void judge(const struct fc_pipe *p, const struct fc_buf *out, float *features,
                  struct fc_result *r) {
    const struct fc_hints *h = &p->model->hints;
    uint32_t n = p->model->params.distance_bytes / 8u;
    if (h->anomaly_kind == FC_ANOMALY_REBUILD) {
        r->score = fc_anomaly_rebuild(&p->in, p->input, &p->out, out[0].p, p->elements);
        r->has_score = 1;
    } else if (h->anomaly_kind == FC_ANOMALY_DISTANCE && n) {
        for (uint32_t i = 0; i < n && !h->source; i++)
            features[i] = fc_quant_get(&p->embedding, out[h->embedding].p, i);
        r->score = fc_anomaly_distance(features, p->model->params.bytes, n);
        r->has_score = 1;
    }
}

/* Streaming state that does not belong to this window is cleared. */
static int reset(struct fc_pipe *p, const struct fc_engine *engine, struct fc_result *r) {
    uint32_t policy = p->model->hints.reset_policy;
    if (policy == RESET_NEVER || (policy == RESET_PER_STREAM && !p->stale))
        return FC_OK;
    r->resets = policy == RESET_PER_STREAM;
    if (p->model->hints.front == FC_FRONT_SLOT && engine->reset(engine->ctx, p->pre_slot))
        return FC_ERR_LOAD_FAILED;
    return engine->reset(engine->ctx, p->slot) ? FC_ERR_LOAD_FAILED : FC_OK;
}

static int invoke(struct fc_pipe *p, const struct fc_engine *engine, struct fc_buf *out,
                  struct fc_result *r) {
    const struct fc_model *m = p->model;
    uint32_t us = 0, us_front = 0;
    int rc = reset(p, engine, r);
    if (!rc && m->hints.front == FC_FRONT_SLOT)
        rc = run_front(p, engine, &us_front);
    struct fc_buf in = {p->input, m->in[0].bytes};
    if (!rc)
        rc = engine->invoke(engine->ctx, p->slot, &in, 1, out, m->nout, &us);
    for (uint32_t i = 0; i < m->nout && !rc; i++)
        if (!out[i].p || out[i].n != m->out[i].bytes)
            rc = FC_ERR_IO_CONTRACT;
    r->us = us + us_front;
    return rc;
}

int fc_pipe_run(struct fc_pipe *p, const struct fc_engine *engine, uint64_t now_ms,
                struct fc_result *r) {
    struct fc_buf out[FC_TENSORS_MAX];
    float features[FC_FEATURES_MAX];
    if (!p->model || !fc_stream_ready(&p->stream))
        return 0;
    const struct fc_hints *h = &p->model->hints;
    memset(r, 0, sizeof *r);
    memset(out, 0, sizeof out);
    r->slot = p->slot;
    r->label = r->decision = -1;
    if (p->stream.jumped) {
        p->stale = 1;
        if (p->decides)
            fc_decide_reset(&p->decide);
    }
    if (h->anomaly_kind == FC_ANOMALY_DISTANCE && h->source && p->model->params.distance_bytes)
        moments(p, features);
    fill(p, h->front == FC_FRONT_SLOT ? &p->pre_in : &p->in, &r->inputs);
    if (!fc_stream_next(&p->stream))
        return 0; /* overtaken while reading: the numbers are of two moments */
    r->gaps = p->stream.gaps;
    r->dropped = p->stream.dropped;
    p->stream.gaps = p->stream.dropped = 0;
    if (invoke(p, engine, out, r)) {
        r->failed = 1;
        p->stale = 1;
        return 1;
    }
    p->stale = 0;
    read_scores(p, &out[0], now_ms, r);
    judge(p, out, features, r);
    return 1;
}
