/* model_check.h: an index walk over a .tflite file before TFLM touches it. Portable C, no TFLM. */
#ifndef TFLM_ENGINE_MODEL_CHECK_H
#define TFLM_ENGINE_MODEL_CHECK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Is this operator linked? custom: its name when builtin is 32 (CUSTOM), else NULL. */
typedef int (*tflm_linked_fn)(void *ctx, uint32_t builtin, const char *custom);

struct tflm_model_facts {
    uint32_t variables; /* different resource variables that VAR_HANDLE names */
    uint32_t missing;   /* FC_ERR_OP_MISSING: the builtin code that is not linked */
};

/* Walk every table, vector and index of a model that TFLM will follow without looking.
 *
 *   FC_OK              TFLM will find what it follows
 *   FC_ERR_SCHEMA      an offset, index, length or size in it leads nowhere, or is over a limit
 *   FC_ERR_OP_MISSING  an operator in use is not linked; facts->missing names it
 */
int tflm_model_check(const uint8_t *model, uint32_t n, tflm_linked_fn linked, void *ctx,
                     struct tflm_model_facts *facts);

#ifdef __cplusplus
}
#endif

#endif
