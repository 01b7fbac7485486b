/* sketch.c: distributions of a model run in integers, so that two sketches add up exactly: whatever
 * a backend merges equals what one device would have seen.
 *
 * The latency histogram keeps at most FC_SKETCH_TIMES occupied bins. When there would be more, all
 * bins pair up (time_shift + 1). The shift is the least one that fits the set of occupied bins, and
 * a larger set never needs a smaller one; so merging two sketches gives the shift that one sketch
 * of everything would have.
 */
#include <string.h>

#include "fleet_core/pipeline.h"

#define FRACTION 16 /* of logarithms and of latency edges */

void fc_sketch_open(struct fc_sketch *s) {
    memset(s, 0, sizeof *s);
}

int fc_sketch_full(const struct fc_sketch *s) {
    return s->n >= FC_SKETCH_N || s->inputs.elements >= FC_SKETCH_ELEMENTS;
}

/* log2 of 1..2^16 in 2^-16 steps, 12 of them exact: squaring a number in [1, 2) doubles its log. */
static uint32_t log2_fixed(uint32_t v) {
    uint32_t whole = 0, part = 0;
    while (v >> (whole + 1))
        whole++;
    uint64_t m = (uint64_t)v << (31 - whole);
    for (uint32_t bit = 1u << (FRACTION - 1); bit >= 16; bit >>= 1) {
        m = m * m >> 31; /* m < 2^32 */
        if (m >> 32) {
            m >>= 1;
            part |= bit;
        }
    }
    return whole << FRACTION | part;
}

/* -sum p ln p in 1e-3 nat of scores in 1e-4. At most 256 x 10000 x 14 x 2^16 < 2^42. */
static uint32_t entropy(const uint16_t *scores, uint32_t n) {
    uint32_t one = log2_fixed(10000);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        if (scores[i] && scores[i] < 10000)
            sum += (uint64_t)scores[i] * (one - log2_fixed(scores[i]));
    return (uint32_t)((sum / 10000 * 693147 / 1000 + (1u << (FRACTION - 1))) >> FRACTION);
}

/* Edges grow by 66,860 / 65,536 = 1.0202 from 32 µs, in 2^-16 µs: the same integers everywhere. At
 * the end 2^24 x 2^16 x 2^17 < 2^57. */
uint32_t fc_time_bin(uint32_t us) {
    uint64_t edge = (uint64_t)32 << FRACTION, at = (uint64_t)us << FRACTION;
    uint32_t bin = 0;
    while (bin + 1 < FC_TIME_BINS) {
        edge = edge * 66860 >> FRACTION;
        if (edge > at)
            break;
        bin++;
    }
    return bin;
}

static void pair_up(struct fc_sketch *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_times; i++) {
        uint16_t bin = s->time_bin[i] >> 1;
        if (n && s->time_bin[n - 1] == bin) {
            s->time_n[n - 1] += s->time_n[i];
        } else {
            s->time_bin[n] = bin;
            s->time_n[n++] = s->time_n[i];
        }
    }
    s->n_times = (uint8_t)n;
    s->time_shift++;
}

/* `bin` in units of one bin. At shift 10 a single pair is left, so this ends. */
static void put_time(struct fc_sketch *s, uint32_t bin, uint32_t count) {
    for (;;) {
        uint16_t want = (uint16_t)(bin >> s->time_shift);
        uint32_t i = 0;
        while (i < s->n_times && s->time_bin[i] < want)
            i++;
        if (i < s->n_times && s->time_bin[i] == want) {
            s->time_n[i] += count;
            return;
        }
        if (s->n_times < FC_SKETCH_TIMES) {
            memmove(s->time_bin + i + 1, s->time_bin + i, (s->n_times - i) * sizeof s->time_bin[0]);
            memmove(s->time_n + i + 1, s->time_n + i, (s->n_times - i) * sizeof s->time_n[0]);
            s->time_bin[i] = want;
            s->time_n[i] = count;
            s->n_times++;
            return;
        }
        pair_up(s);
    }
}

void fc_seen_scores(struct fc_seen *seen, const uint16_t *scores, uint32_t n) {
    seen->scores = scores;
    seen->n_scores = n;
    seen->top = seen->best = seen->second = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = scores[i] > 10000 ? 10000 : scores[i];
        if (i == 0 || v > seen->best) {
            seen->second = seen->best;
            seen->best = v;
            seen->top = i;
        } else if (v > seen->second) {
            seen->second = v;
        }
    }
}

static void put_scores(struct fc_sketch *s, const struct fc_seen *seen) {
    uint32_t decile = seen->best / 1000, margin = (seen->best - seen->second) / 500;
    uint32_t top = seen->top, last = FC_SKETCH_CLASSES - 1;
    uint32_t n = seen->n_scores < FC_SKETCH_CLASSES ? seen->n_scores : FC_SKETCH_CLASSES;
    s->scored++;
    s->n_classes = (uint8_t)(n > s->n_classes ? n : s->n_classes);
    s->classes[top < last ? top : last]++;
    s->confidence[decile < 9 ? decile : 9]++;
    s->margins[margin < FC_MARGIN_BINS - 1 ? margin : FC_MARGIN_BINS - 1]++;
    s->entropy += entropy(seen->scores, seen->n_scores);
    if (seen->label >= 0) {
        s->lab_n++;
        s->lab_ok += seen->label == (int32_t)top;
    }
}

void fc_sketch_put(struct fc_sketch *s, const struct fc_seen *seen, const uint32_t *cuts) {
    if (!s->n || seen->heap < s->heap_min)
        s->heap_min = seen->heap;
    s->n++;
    s->us_max = seen->us > s->us_max ? seen->us : s->us_max;
    put_time(s, fc_time_bin(seen->us), 1);
    if (seen->n_scores)
        put_scores(s, seen);
    if (!seen->has_score)
        return;
    s->judged++;
    s->over += seen->limit && seen->score > seen->limit;
    if (cuts) {
        uint32_t bin = 0;
        while (bin < 9 && seen->score >= cuts[bin])
            bin++;
        s->has_cuts = 1;
        s->distances[bin]++;
    }
}

/* Once past FC_SKETCH_ELEMENTS a sketch is closed, so |sum| < 2^41 and squares < 2^57. */
void fc_inputs_put(struct fc_inputs *in, const struct fc_quant *q, uint32_t channel, int32_t step,
                   unsigned what) {
    if (channel >= FC_SKETCH_CHANNELS)
        return;
    struct fc_channel *c = &in->channel[channel];
    c->sum += step; /* |step| < 2^16 */
    c->squares += (uint64_t)((int64_t)step * step);
    c->saturated += step == q->least || step == q->most;
    c->out += what != 0;
    in->faults += (what & FC_Q_FAULT) != 0;
    in->elements += channel == 0;
    if (channel >= in->n_channels)
        in->n_channels = (uint8_t)(channel + 1);
}

void fc_inputs_merge(struct fc_inputs *into, const struct fc_inputs *from) {
    for (uint32_t i = 0; i < FC_SKETCH_CHANNELS; i++) {
        into->channel[i].sum += from->channel[i].sum;
        into->channel[i].squares += from->channel[i].squares;
        into->channel[i].saturated += from->channel[i].saturated;
        into->channel[i].out += from->channel[i].out;
    }
    into->elements += from->elements;
    into->faults += from->faults;
    if (from->n_channels > into->n_channels)
        into->n_channels = from->n_channels;
}

static void add(uint32_t *into, const uint32_t *from, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        into[i] += from[i];
}

void fc_sketch_merge(struct fc_sketch *into, const struct fc_sketch *from) {
    if (from->n && (!into->n || from->heap_min < into->heap_min))
        into->heap_min = from->heap_min;
    into->n += from->n;
    into->scored += from->scored;
    into->entropy += from->entropy;
    into->judged += from->judged;
    into->over += from->over;
    into->lab_n += from->lab_n;
    into->lab_ok += from->lab_ok;
    into->gaps += from->gaps;
    into->dropped += from->dropped;
    into->resets += from->resets;
    into->us_max = from->us_max > into->us_max ? from->us_max : into->us_max;
    into->has_cuts |= from->has_cuts;
    if (from->n_classes > into->n_classes)
        into->n_classes = from->n_classes;
    add(into->classes, from->classes, FC_SKETCH_CLASSES);
    add(into->confidence, from->confidence, 10);
    add(into->margins, from->margins, FC_MARGIN_BINS);
    add(into->distances, from->distances, 10);
    fc_inputs_merge(&into->inputs, &from->inputs);
    while (into->time_shift < from->time_shift)
        pair_up(into);
    for (uint32_t i = 0; i < from->n_times; i++)
        put_time(into, (uint32_t)from->time_bin[i] << from->time_shift, from->time_n[i]);
}
