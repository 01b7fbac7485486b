/* sketch_write.c: a sketch as CBOR. Nothing here is rounded that a merge would need exactly: means
 * and variances leave the device once, and a backend pools them by the counts beside them.
 */
#include "sketch.h"

#define ROWS 32u /* beside a key: a list of lists */

static uint32_t times(uint64_t sum, uint32_t n) {
    return n ? (uint32_t)((sum + n / 2) / n) : 0;
}

/* The margin that a tenth of the inferences stay below, 1e-4: linear inside its bin of 500. */
static uint32_t tenth(const struct fc_sketch *s) {
    uint32_t want = s->scored / 10, below = 0;
    for (uint32_t i = 0; i < FC_MARGIN_BINS; i++) {
        uint32_t n = s->margins[i];
        if (below + n > want) /* counts <= 10^6 */
            return 500 * i + (uint32_t)((uint64_t)500 * (want - below) / n);
        below += n;
    }
    return 10000;
}

/* Mean and variance in steps x 256. Shifted by the whole mean first, so that squares stay small:
 * sum (x - q)^2 < 2^25 x 2^32 needs 2^8 more, and r < n. */
static void put_channel(const struct fc_channel *c, uint32_t elements, struct fc_out *out) {
    int64_t n = elements, q = c->sum / n, r = c->sum - q * n;
    uint64_t around = c->squares - (uint64_t)(2 * q * c->sum - q * q * n);
    int64_t part = r * 4096 / n;
    uint64_t variance = around / (uint64_t)n * 256 + around % (uint64_t)n * 256 / (uint64_t)n;
    uint64_t square = (uint64_t)(part * part) >> 16;
    fc_out_array(out, 4);
    fc_out_int(out, q * 256 + r * 256 / n);
    fc_out_uint(out, variance > square ? variance - square : 0);
    fc_out_u32(out, c->saturated);
    fc_out_u32(out, c->out);
}

static void counts(struct fc_out *out, uint32_t key, const uint32_t *v, uint32_t n) {
    fc_out_u32(out, key);
    fc_out_list(out, v, n);
}

/* The first n of four numbers; `rows` of them around: a list with one row. */
static void some(struct fc_out *out, uint32_t key_rows, uint32_t n, uint32_t a, uint32_t b,
                 uint32_t c, uint32_t d) {
    const uint32_t v[] = {a, b, c, d};
    fc_out_u32(out, key_rows & 31u);
    if (key_rows & ROWS)
        fc_out_array(out, 1);
    fc_out_list(out, v, n);
}

void fc_sketch_write(const struct fc_sketch *s, const struct fc_sketch_extra *x,
                     struct fc_out *out) {
    const struct fc_inputs *in = &s->inputs;
    uint32_t has_scores = s->scored == s->n && s->n, has_classes = has_scores && !x->lean;
    uint32_t has_inputs = in->elements && x->lean < 2, has_labels = s->lab_n != 0;
    uint32_t has_golden = x->golden && x->golden->n, has_anomalies = s->judged != 0;
    uint32_t has_faults = (s->gaps | s->dropped | in->faults | s->resets) != 0;
    fc_out_map(out, 5u + has_classes + 2 * has_scores + has_inputs + s->has_cuts + has_anomalies +
                        has_golden + has_labels + x->has_reset + has_faults);
    fc_out_pair(out, 0, x->dt_ms);
    fc_out_pair(out, 1, x->duration_s);
    fc_out_pair(out, 2, s->n);
    if (has_classes)
        counts(out, 3, s->classes, s->n_classes);
    if (has_scores) {
        counts(out, 4, s->confidence, 10);
        some(out, 5, 2, times(s->entropy, s->n), tenth(s), 0, 0);
    }
    fc_out_u32(out, 6);
    fc_out_array(out, 2u + 2u * s->n_times);
    fc_out_u32(out, s->us_max);
    fc_out_u32(out, s->time_shift);
    for (uint32_t i = 0; i < s->n_times; i++) {
        fc_out_u32(out, s->time_bin[i]);
        fc_out_u32(out, s->time_n[i]);
    }
    if (has_inputs) {
        fc_out_u32(out, 7);
        fc_out_array(out, in->n_channels + 1u);
        fc_out_u32(out, in->elements);
        for (uint32_t i = 0; i < in->n_channels; i++)
            put_channel(&in->channel[i], in->elements, out);
    }
    if (s->has_cuts)
        counts(out, 8, s->distances, 10);
    if (has_anomalies)
        some(out, 9, 2, s->over, s->judged, 0, 0);
    if (has_golden)
        some(out, 10, 3, x->golden->n, x->golden->ok, x->golden->max_diff, 0);
    if (has_labels)
        some(out, 11 | ROWS, 3, 1, s->lab_n, s->lab_ok, 0);
    some(out, 12, 3, x->arena_used, s->heap_min, 0, 0);
    if (x->has_reset)
        some(out, 13 | ROWS, 2, x->reset, 1, 0, 0);
    if (has_faults)
        some(out, 14, 4, s->gaps, s->dropped, in->faults, s->resets);
}
