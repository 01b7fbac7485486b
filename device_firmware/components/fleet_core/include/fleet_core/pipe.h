/* pipe.h: the stages joined, for one slot: samples in, a result per window out.
 *
 * A pipe touches its own memory and the engine, never the core, so that an inference task may run
 * it while the fleet task drives the core; a result goes to the core by value (fc_result_put). One
 * thing must not overlap: the model of its slot changing. A port with two tasks holds the engine's
 * lock around fc_pipe_run() and around fc_core_step().
 */
#ifndef FLEET_CORE_PIPE_H
#define FLEET_CORE_PIPE_H

#include "fleet_core/hal.h"
#include "fleet_core/pipeline.h"

/* Memory of the caller: the sensor ring, and room for the larger of the two input tensors. */
struct fc_pipe_memory {
    void *ring;
    uint8_t *input;
    uint32_t ring_bytes, input_bytes;
    uint8_t kind; /* enum fc_samples: what fc_stream_put() will bring */
};

struct fc_pipe {
    const struct fc_model *model; /* NULL = closed */
    uint8_t *input;
    uint32_t elements; /* of the input tensor */
    struct fc_stream stream;
    struct fc_quant in, out, embedding, pre_in, pre_out; /* pre: the front-end's model */
    struct fc_decide decide;
    uint8_t pre_id[8]; /* begin of the manifest id it was opened for */
    uint8_t slot, pre_slot, decides;
    uint8_t stale; /* streaming state belongs to something else */
};

/* One window's outcome. */
struct fc_result {
    struct fc_inputs inputs;
    uint32_t us; /* both invokes */
    uint32_t n_scores;
    uint32_t score; /* anomaly kinds 1 and 2, 1e-3 */
    uint32_t gaps, dropped, resets;
    int32_t label;    /* the caller's: a proxy label, -1 none */
    int16_t decision; /* class decided on at this window, -1 none */
    uint8_t slot, has_score, failed;
    uint16_t scores[FC_CLASSES_MAX]; /* 1e-4 */
};

/* pre: the model in the slot that front-end 2 names, else NULL.
 *   FC_OK
 *   FC_ERR_IO_CONTRACT  the model is not one window of samples in, or the front-end is not known
 *   FC_ERR_LOW_HEAP     too little memory for its window or input */
int fc_pipe_open(struct fc_pipe *p, uint8_t slot, const struct fc_model *m,
                 const struct fc_model *pre, const struct fc_pipe_memory *memory);
/* Runs the model on the next window. 1 = *r is filled, also when the invoke failed (r->failed); 0 =
 * no whole window yet. */
int fc_pipe_run(struct fc_pipe *p, const struct fc_engine *engine, uint64_t now_ms,
                struct fc_result *r);

/* Samples and channels of a window as the manifest or else the input tensor says. */
uint32_t fc_model_channels(const struct fc_model *m);
uint32_t fc_model_window(const struct fc_model *m);
uint32_t fc_tensor_elements(const struct fc_tensor *t);

#endif
