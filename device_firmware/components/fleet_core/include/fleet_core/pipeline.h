/* pipeline.h: the stages between a sensor and a telemetry record (DESIGN.md, "From sensor to
 * record"). Each stage is plain state that its caller owns and knows nothing of the core. Floating
 * point is used here and nowhere in update code.
 */
#ifndef FLEET_CORE_PIPELINE_H
#define FLEET_CORE_PIPELINE_H

#include <stdatomic.h>

#include "fleet_core/codes.h"
#include "fleet_core/documents.h"

/* --- ring.c: samples in, windows out ------------------------------------------------- */

enum fc_samples { FC_SAMPLES_I16, FC_SAMPLES_F32 };

/* Frames (one value per channel) between one producer and one consumer. Positions count frames
 * modulo `wrap`, a multiple of the capacity. */
struct fc_stream {
    uint8_t *bytes; /* capacity * frame bytes, the caller's */
    uint32_t capacity, window, hop, wrap;
    uint16_t channels;
    uint8_t kind;
    uint8_t jumped; /* consumer: the next window does not follow the one before */
    uint8_t torn;   /* consumer: 1 a jump that has not been told yet, 2 the very beginning */
    _Atomic uint32_t begun, head;    /* producer: positions being written, written */
    _Atomic uint32_t gap_at, gap_no; /* producer: samples are missing before this position */
    uint32_t tail, gap_seen;         /* consumer: start of the next window */
    uint32_t gaps, dropped;          /* consumer: jumps told; hops lost to overruns; its to clear */
};

/* Takes the caller's memory. FC_ERR_IO_CONTRACT: a window, hop or channel count that cannot be;
 * FC_ERR_LOW_HEAP: less room than window + 2 hops. */
int fc_stream_open(struct fc_stream *s, enum fc_samples kind, uint32_t channels, uint32_t window,
                   uint32_t hop, void *memory, uint32_t bytes);
/* Producer. `frames` interleaved frames of the stream's kind; never fails: an overrun costs the
 * oldest hops. */
void fc_stream_put(struct fc_stream *s, const void *values, uint32_t frames);
/* Producer: samples are missing here. No window spans the place. */
void fc_stream_gap(struct fc_stream *s);
/* Consumer. 1 = a whole window is there; `jumped` says whether it follows the last one. 0 = wait.
 */
int fc_stream_ready(struct fc_stream *s);
/* Consumer: one value of the window at hand, as it was put. frame < window, channel < channels. */
float fc_stream_value(const struct fc_stream *s, uint32_t frame, uint32_t channel);
/* Consumer: on to the next window. 1 = what was read is whole, 0 = it was overwritten meanwhile. */
int fc_stream_next(struct fc_stream *s);

/* --- feature.c: front-ends and quantisation ------------------------------------------ */

enum fc_front { FC_FRONT_RAW, FC_FRONT_SCALE, FC_FRONT_SLOT, FC_FRONTS };

/* How a tensor's integers stand for real numbers. A float tensor is counted in steps of 1/256. */
struct fc_quant {
    double scale;
    int32_t zero, least, most;
    uint8_t dtype, size;
};

/* FC_ERR_IO_CONTRACT: a type the pipeline does not feed (it feeds float32, int8, uint8, int16). */
int fc_quant_of(const struct fc_tensor *t, struct fc_quant *q);
#define FC_Q_CLAMPED 1u /* outside what the tensor can hold */
#define FC_Q_FAULT 2u   /* NaN or infinite: the zero point is taken */
/* Round half away from zero, clamp. *what |= FC_Q_*. */
int32_t fc_quantise(const struct fc_quant *q, float value, unsigned *what);
/* Writes element i; for float tensors the value itself, a fault as 0. Returns the element in steps
 * of its scale (float: 1/256) as telemetry counts it. */
int32_t fc_quant_put(const struct fc_quant *q, uint8_t *raw, uint32_t i, float value,
                     unsigned *what);
float fc_quant_get(const struct fc_quant *q, const uint8_t *raw, uint32_t i);

/* --- decide.c: debounced decisions --------------------------------------------------- */

#define FC_DECIDE_LAST 64u

struct fc_decide {
    uint16_t scores[FC_DECIDE_SCORES];
    uint8_t tops[FC_DECIDE_LAST]; /* class of the mean, 255 below the threshold */
    uint16_t classes;
    uint8_t n, k, m;
    uint8_t have, at, seen, last;
    uint8_t fired;
    uint16_t threshold; /* 1e-4 */
    uint32_t refractory_ms;
    uint64_t fired_ms;
};

/* Sliding mean over n, k of the last m at or over the threshold. FC_ERR_IO_CONTRACT: no room for n
 * x classes, or numbers that contradict each other. */
int fc_decide_open(struct fc_decide *d, uint32_t classes, uint32_t n, uint32_t k, uint32_t m,
                   uint32_t threshold, uint32_t refractory_ms);
/* Forgets the past (a gap), keeps the refractory time. */
void fc_decide_reset(struct fc_decide *d);
/* Scores in 1e-4 of one inference. The class decided on now, -1 = none. */
int fc_decide_put(struct fc_decide *d, const uint16_t *scores, uint64_t now_ms);

/* --- anomaly.c ----------------------------------------------------------------------- */

enum fc_anomaly { FC_ANOMALY_NONE, FC_ANOMALY_REBUILD, FC_ANOMALY_DISTANCE, FC_ANOMALY_MARGIN };

/* Scores are in 1e-3, at most 2^31 - 1; what is no number is the highest. */
uint32_t fc_anomaly_margin(uint32_t best, uint32_t second); /* of scores in 1e-4 */
/* Mean squared difference of an output and the input it should repeat, in real units. */
uint32_t fc_anomaly_rebuild(const struct fc_quant *in, const uint8_t *raw_in,
                            const struct fc_quant *out, const uint8_t *raw_out, uint32_t n);
/* Mean of ((feature - mean) x weight)^2: `signed_params` holds {mean, weight} x n as little-endian
 * float32, from the signed manifest. */
uint32_t fc_anomaly_distance(const float *features, const uint8_t *signed_params, uint32_t n);

/* K of the last N over a threshold. */
struct fc_alarm {
    uint64_t bits; /* newest in bit 0 */
    uint8_t on;
};
enum fc_edge { FC_EDGE_NONE, FC_EDGE_BEGAN, FC_EDGE_ENDED };
/* limit 0 = never. 1 <= k <= n <= 64. */
enum fc_edge fc_alarm_put(struct fc_alarm *a, uint32_t score, uint32_t limit, uint32_t k,
                          uint32_t n);

/* --- sketch.c: what a quarter of an hour looked like --------------------------------- */

#define FC_SKETCH_CLASSES 64u /* the last one counts all classes from 63 on when there are more */
#define FC_SKETCH_CHANNELS FC_CHANNELS_MAX
#define FC_SKETCH_TIMES 32u /* pairs of the latency histogram */
#define FC_TIME_BINS 657u
#define FC_MARGIN_BINS 20u
#define FC_SKETCH_N 1000000u          /* inferences */
#define FC_SKETCH_ELEMENTS (1u << 24) /* input elements of one channel */

struct fc_channel {
    int64_t sum; /* in steps of the tensor's scale */
    uint64_t squares;
    uint32_t saturated, out; /* at an end of the type; outside it, or no number */
};

/* Moments of what went into a model, channel by channel. */
struct fc_inputs {
    struct fc_channel channel[FC_SKETCH_CHANNELS];
    uint32_t elements; /* of each channel */
    uint32_t faults;   /* NaN and infinite */
    uint8_t n_channels;
};

/* Integers only. Two sketches of one model add up exactly: merge(a, b) is the sketch of a and b. */
struct fc_sketch {
    uint64_t entropy; /* sum, 1e-3 nat */
    struct fc_inputs inputs;
    uint32_t n, scored, us_max, judged, over, heap_min, lab_n, lab_ok;
    uint32_t gaps, dropped, resets;
    uint32_t classes[FC_SKETCH_CLASSES], confidence[10], margins[FC_MARGIN_BINS], distances[10];
    uint32_t time_n[FC_SKETCH_TIMES];
    uint16_t time_bin[FC_SKETCH_TIMES]; /* rising, in units of 2^time_shift bins */
    uint8_t n_times, time_shift;
    uint8_t n_classes, has_cuts;
};

/* One inference. */
struct fc_seen {
    uint32_t us, heap;
    const uint16_t *scores; /* 1e-4 */
    uint32_t n_scores, top, best, second;
    int32_t label; /* -1 none */
    uint32_t score, limit;
    uint8_t has_score; /* an anomaly score */
};

/* Fills n_scores, top, best and second. */
void fc_seen_scores(struct fc_seen *seen, const uint16_t *scores, uint32_t n);
/* One input element; `what` as fc_quant_put() told it. */
void fc_inputs_put(struct fc_inputs *in, const struct fc_quant *q, uint32_t channel, int32_t step,
                   unsigned what);
void fc_inputs_merge(struct fc_inputs *into, const struct fc_inputs *from);

void fc_sketch_open(struct fc_sketch *s);
/* cuts: nine rising scores that part clean data into deciles, NULL = none. */
void fc_sketch_put(struct fc_sketch *s, const struct fc_seen *seen, const uint32_t *cuts);
int fc_sketch_full(const struct fc_sketch *s);
void fc_sketch_merge(struct fc_sketch *into, const struct fc_sketch *from);
/* Bin of a time: bin i begins at edge i. Edge 0 is 32 µs; SPEC.md section 7 gives the others. */
uint32_t fc_time_bin(uint32_t us);

_Static_assert(sizeof(struct fc_sketch) <= 1024, "one for each slot: DESIGN.md");

#endif
