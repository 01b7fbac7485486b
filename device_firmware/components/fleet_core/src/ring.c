/* ring.c: sensor samples in, windows out, for one producer and one consumer without a lock.
 *
 * The producer never waits and never looks at the consumer. It announces what it is about to
 * overwrite (`begun`), writes, then publishes (`head`). The consumer finds out by itself that it
 * was overtaken: before reading, to drop whole hops from the oldest end, and after reading, to
 * throw a window away that was overwritten meanwhile. A counter wraps at a multiple of the
 * capacity, so a position modulo the capacity stays right for ever.
 */
#include <string.h>

#include "fleet_core/pipeline.h"

/* Bytes of a frame. */
static uint32_t size_of(const struct fc_stream *s) {
    return s->channels * (s->kind == FC_SAMPLES_I16 ? 2u : 4u);
}

static uint32_t ahead(const struct fc_stream *s, uint32_t position, uint32_t frames) {
    position += frames; /* both below 2^31 */
    return position >= s->wrap ? position - s->wrap : position;
}

/* Frames from `from` to `to`, a later position. */
static uint32_t span(const struct fc_stream *s, uint32_t from, uint32_t to) {
    return to >= from ? to - from : to + s->wrap - from;
}

int fc_stream_open(struct fc_stream *s, enum fc_samples kind, uint32_t channels, uint32_t window,
                   uint32_t hop, void *memory, uint32_t bytes) {
    memset(s, 0, sizeof *s);
    if (!channels || channels > 4096 || !window || !hop || hop > window || window > 1u << 20)
        return FC_ERR_IO_CONTRACT;
    s->bytes = memory;
    s->kind = (uint8_t)kind;
    s->channels = (uint16_t)channels;
    s->window = window;
    s->hop = hop;
    s->capacity = bytes / size_of(s);
    if (s->capacity < window + 2 * hop) /* <= 3 * 2^20 */
        return FC_ERR_LOW_HEAP;
    if (s->capacity > 1u << 24)
        s->capacity = 1u << 24;
    s->wrap = (1u << 30) / s->capacity * s->capacity;
    s->torn = 2; /* nothing came before the first window */
    return FC_OK;
}

void fc_stream_put(struct fc_stream *s, const void *values, uint32_t frames) {
    const uint8_t *from = values;
    uint32_t head = atomic_load_explicit(&s->head, memory_order_relaxed), bytes = size_of(s);
    while (frames) {
        uint32_t at = head % s->capacity, room = s->capacity - at;
        uint32_t n = frames < room ? frames : room;
        head = ahead(s, head, n);
        atomic_store_explicit(&s->begun, head, memory_order_relaxed);
        atomic_thread_fence(memory_order_release);
        memcpy(s->bytes + (size_t)at * bytes, from, (size_t)n * bytes);
        atomic_store_explicit(&s->head, head, memory_order_release);
        from += (size_t)n * bytes;
        frames -= n;
    }
}

void fc_stream_gap(struct fc_stream *s) {
    uint32_t no = atomic_load_explicit(&s->gap_no, memory_order_relaxed);
    atomic_store_explicit(&s->gap_at, atomic_load_explicit(&s->head, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&s->gap_no, no + 1, memory_order_release);
}

static void drop_overrun(struct fc_stream *s, uint32_t head) {
    uint32_t have = span(s, s->tail, head);
    if (have <= s->capacity)
        return;
    uint32_t hops = (have - s->capacity + s->hop - 1) / s->hop;
    s->tail = ahead(s, s->tail, hops * s->hop); /* hops * hop < have + hop < 2^31 */
    s->dropped += hops;
    s->torn = 1;
}

/* Two gaps since the last look, or one that the window would span: what lies before goes. */
static void pass_gap(struct fc_stream *s, uint32_t head) {
    uint32_t no = atomic_load_explicit(&s->gap_no, memory_order_acquire);
    uint32_t at = atomic_load_explicit(&s->gap_at, memory_order_relaxed);
    if (no == s->gap_seen)
        return;
    uint32_t left = span(s, s->tail, head), after = span(s, at, head);
    if (after <= left) { /* else an overrun went past it */
        if (no - s->gap_seen == 1 && left - after >= s->window)
            return; /* a whole window lies before it */
        s->tail = at;
    }
    s->gap_seen = no;
    s->torn = 1;
}

int fc_stream_ready(struct fc_stream *s) {
    uint32_t head = atomic_load_explicit(&s->head, memory_order_acquire);
    drop_overrun(s, head);
    pass_gap(s, head);
    if (span(s, s->tail, head) < s->window)
        return 0;
    s->jumped = s->torn != 0;
    return 1;
}

float fc_stream_value(const struct fc_stream *s, uint32_t frame, uint32_t channel) {
    uint32_t at = (s->tail + frame) % s->capacity * s->channels + channel;
    if (s->kind == FC_SAMPLES_I16) {
        int16_t v;
        memcpy(&v, s->bytes + 2 * (size_t)at, sizeof v);
        return v;
    }
    float v;
    memcpy(&v, s->bytes + 4 * (size_t)at, sizeof v);
    return v;
}

int fc_stream_next(struct fc_stream *s) {
    atomic_thread_fence(memory_order_acquire);
    uint32_t begun = atomic_load_explicit(&s->begun, memory_order_relaxed);
    int whole = span(s, s->tail, begun) <= s->capacity;
    s->tail = ahead(s, s->tail, s->hop);
    s->gaps += s->torn == 1;
    s->torn = !whole;
    s->dropped += !whole;
    return whole;
}
