/* app_host.c: the flat ABI of the shipped pipeline. Host memory stands for a board's static
 * buffers.
 */
#include <stdlib.h>
#include <string.h>

#include "hal_host.h"
#include "internal.h"

static int is_slot(int slot) {
    return slot >= 0 && slot < (int)FC_SLOTS;
}

int fh_app_open(struct fh *h, int slot, uint32_t frames, uint32_t *window, uint32_t *channels) {
    const struct fc_model *m = is_slot(slot) ? fc_running(&h->core, (uint8_t)slot) : NULL;
    if (!m)
        return FC_ERR_BUSY;
    *window = fc_model_window(m);
    *channels = fc_model_channels(m);
    if (!*window || *window > FC_TENSOR_BYTES_MAX || *channels > FC_TENSOR_BYTES_MAX / *window ||
        frames > FC_TENSOR_BYTES_MAX)
        return FC_ERR_IO_CONTRACT;
    struct fc_pipe_memory memory = {.kind = FC_SAMPLES_F32};
    memory.ring_bytes = (3 * *window + frames) * *channels * (uint32_t)sizeof(float);
    memory.input_bytes = FC_TENSOR_BYTES_MAX;
    void *ring = realloc(h->samples[slot], memory.ring_bytes);
    if (ring)
        h->samples[slot] = ring;
    if (!h->input[slot])
        h->input[slot] = malloc(memory.input_bytes);
    if (!ring || !h->input[slot])
        return FC_ERR_LOW_HEAP;
    memory.ring = ring;
    memory.input = h->input[slot];
    return fc_app_open(&h->core, (uint8_t)slot, &memory);
}

int fh_app_ready(struct fh *h, int slot) {
    return is_slot(slot) && fc_app_ready(&h->core, (uint8_t)slot);
}

int fh_app_feed(struct fh *h, int slot, const float *values, uint32_t frames) {
    if (!fh_app_ready(h, slot))
        return FC_ERR_BUSY;
    fc_stream_put(&h->app[slot].pipe.stream, values, frames);
    return FC_OK;
}

int fh_app_gap(struct fh *h, int slot) {
    if (!fh_app_ready(h, slot))
        return FC_ERR_BUSY;
    fc_stream_gap(&h->app[slot].pipe.stream);
    return FC_OK;
}

int fh_app_step(struct fh *h, int slot, int32_t label, struct fh_result *out) {
    struct fc_result *r = &h->result;
    int rc = is_slot(slot) ? fc_app_step(&h->core, (uint8_t)slot, label, r) : FC_ERR_BUSY;
    if (rc != 1)
        return rc;
    memset(out, 0, sizeof *out);
    out->failed = r->failed;
    out->has_score = r->has_score;
    out->us = r->us;
    out->scores = r->scores;
    out->n_scores = r->n_scores;
    out->score = r->score;
    out->decision = r->decision;
    out->gaps = r->gaps;
    out->dropped = r->dropped;
    out->resets = r->resets;
    out->faults = r->inputs.faults;
    for (uint32_t i = 0; i < r->inputs.n_channels; i++)
        out->clamped += r->inputs.channel[i].out;
    return 1;
}
