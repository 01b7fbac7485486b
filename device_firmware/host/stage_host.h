/* stage_host.h: the pipeline's stages one by one, for property tests against Python references.
 *
 * The text between the markers is read by cffi, like fleet_host.h. A `struct fs` holds one of each
 * stage; the sketches have two places, so that they can be merged.
 */
#ifndef FLEET_STAGE_HOST_H
#define FLEET_STAGE_HOST_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */
struct fs;

struct fs *fs_open(void);
void fs_close(struct fs *s);

/* Ring. kind 0 int16, 1 float32; capacity in frames. 0 or -code. */
int fs_stream_open(struct fs *s, int kind, uint32_t channels, uint32_t window, uint32_t hop,
                   uint32_t capacity);
/* Starts counting near the wrap of the positions. */
void fs_stream_age(struct fs *s, uint32_t frames_before_wrap);
void fs_stream_put(struct fs *s, const void *values, uint32_t frames);
void fs_stream_gap(struct fs *s);
/* 1 = out has window x channels values, *jumped is set; 0 = none; -1 = overtaken. `late` frames of
 * `values` arrive between reading and leaving the window. */
int fs_stream_take(struct fs *s, float *out, int *jumped, const void *values, uint32_t late);
uint32_t fs_stream_dropped(const struct fs *s);
uint32_t fs_stream_gaps(const struct fs *s);

/* Quantisation of n values; counts[0] clamped, counts[1] faults. 0 or -code. */
int fs_quantise(int dtype, uint32_t scale_bits, int32_t zero, const float *values, uint32_t n,
                uint8_t *raw, uint32_t counts[2]);
int fs_dequantise(int dtype, uint32_t scale_bits, int32_t zero, const uint8_t *raw, uint32_t n,
                  float *values);

int fs_decide_open(struct fs *s, uint32_t classes, uint32_t n, uint32_t k, uint32_t m,
                   uint32_t threshold, uint32_t refractory_ms);
void fs_decide_reset(struct fs *s);
int fs_decide_put(struct fs *s, const uint16_t *scores, uint64_t now_ms);

uint32_t fs_margin(uint32_t best, uint32_t second);
uint32_t fs_distance(const float *features, const uint8_t *params, uint32_t n);
/* Both tensors int8 with the same scale. */
uint32_t fs_rebuild(uint32_t scale_bits, const uint8_t *in, const uint8_t *out, uint32_t n);
void fs_alarm_open(struct fs *s);
int fs_alarm_put(struct fs *s, uint32_t score, uint32_t limit, uint32_t k, uint32_t n);

/* Sketches in places 0..2. */
void fs_sketch_open(struct fs *s, int place);
void fs_sketch_put(struct fs *s, int place, uint32_t us, uint32_t heap, const uint16_t *scores,
                   uint32_t n_scores, int32_t label, int has_score, uint32_t score, uint32_t limit,
                   const uint32_t *cuts);
void fs_sketch_inputs(struct fs *s, int place, int dtype, uint32_t scale_bits, int32_t zero,
                      uint32_t channels, const float *values, uint32_t frames);
void fs_sketch_merge(struct fs *s, int into, int from);
/* The CBOR of telemetry key 9's element, as sent. Its length. */
size_t fs_sketch_write(struct fs *s, int place, uint8_t *out, size_t cap);
int fs_sketch_equal(const struct fs *s, int a, int b);
uint32_t fs_time_bin(uint32_t us);
/* cdef end */

#endif
