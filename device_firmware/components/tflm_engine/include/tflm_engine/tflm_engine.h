/* tflm_engine.h: struct fc_engine (hal.h) over TensorFlow Lite Micro. C outside, C++ inside. */
#ifndef TFLM_ENGINE_TFLM_ENGINE_H
#define TFLM_ENGINE_TFLM_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fc_engine;

struct tflm_config {
    uint8_t *arena;       /* aligned to 16 bytes, lives as long as the engine */
    uint32_t arena_bytes; /* 4096 .. 2^31 - 1 */
    uint64_t (*now_us)(void);
};

/* Time of one operator in the last profiled invoke. */
struct tflm_op_time {
    const char *name; /* of TFLM, lives for ever; NULL closes the list: the sum of the rest */
    uint32_t us;
};
#define TFLM_OP_TIMES 64u

/* The one engine of this process or chip. NULL when the arena is unusable or an operator of ops.h
 * could not be registered. Called again, it forgets everything that was loaded. */
const struct fc_engine *tflm_engine_open(const struct tflm_config *config);

/* Linked operators as the CBOR array of manifest key 12, for fc_ident.ops. Valid once opened. */
const uint8_t *tflm_engine_ops(size_t *n);

/* The smallest arena that the model of a slot works in again, by trying: doubling steps from what
 * it uses, then bisection to 16 bytes. Every slot is rebuilt and loses its streaming state. FC_OK
 * *bytes is that size; <= arena_bytes FC_ERR_NOT_IN_BANK  nothing is loaded in this slot
 *   FC_ERR_LOAD_FAILED  the models do not load any more; nothing is loaded now */
int tflm_engine_probe(uint8_t slot, uint32_t *bytes);

/* Record the operators' times of the next invokes; off by default. */
void tflm_engine_profile(int on);

/* What the last invoke took, operator by operator. At most `most` entries, returns how many; the
 * last one has name NULL and sums the events past TFLM_OP_TIMES when there were more. */
uint32_t tflm_engine_times(struct tflm_op_time *times, uint32_t most);

/* How often this slot lost its streaming state because another slot was changed. */
uint32_t tflm_engine_state_resets(uint8_t slot);

#ifdef __cplusplus
}
#endif

#endif
