/* feature.c: real numbers into tensor elements and back.
 *
 * Double precision, because the backend's reference quantises in double: a window must become the
 * same bytes on a board, in a virtual device and in the training script. On a chip without a double
 * unit that is some 300 instructions an element (estimate), far below what the model costs.
 */
#include <string.h>

#include "bytes.h"
#include "fleet_core/pipeline.h"

enum { FLOAT32 = 0, UINT8 = 3, INT16 = 7, INT8 = 9 };

/* Neither NaN nor infinite. */
static int is_number(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (bits >> 23 & 255u) != 255u;
}

int fc_quant_of(const struct fc_tensor *t, struct fc_quant *q) {
    int is_float = t->dtype == FLOAT32;
    float scale;
    memcpy(&scale, &t->scale_bits, sizeof scale);
    memset(q, 0, sizeof *q);
    q->dtype = t->dtype;
    q->size = is_float ? 4 : t->dtype == INT16 ? 2 : 1;
    /* A scale of 0 stands for "not quantised"; one below 0, infinite or NaN stands for nothing. */
    if (!is_number(scale) || scale < 0)
        return FC_ERR_IO_CONTRACT;
    if (!is_float)
        q->zero = t->zero_point;
    q->scale = is_float ? 1.0 / 256 : scale > 0 ? (double)scale : 1.0;
    switch (t->dtype) {
    case UINT8:
        q->most = UINT8_MAX;
        break;
    case INT8:
        q->least = INT8_MIN;
        q->most = INT8_MAX;
        break;
    case INT16:
    case FLOAT32:
        q->least = is_float ? -INT16_MAX : INT16_MIN;
        q->most = INT16_MAX;
        break;
    default:
        return FC_ERR_IO_CONTRACT;
    }
    return q->zero < q->least || q->zero > q->most ? FC_ERR_IO_CONTRACT : FC_OK;
}

int32_t fc_quantise(const struct fc_quant *q, float value, unsigned *what) {
    if (!is_number(value)) {
        *what |= FC_Q_FAULT;
        return q->zero;
    }
    double v = (double)value / q->scale;
    v += v < 0 ? -0.5 : 0.5;
    /* Beyond what any type holds; then the conversion, which cuts towards zero, is defined. */
    int32_t step = v > 200000 ? 200000 : v < -200000 ? -200000 : (int32_t)v;
    step += q->zero;
    int32_t held = step < q->least ? q->least : step > q->most ? q->most : step;
    if (held != step)
        *what |= FC_Q_CLAMPED;
    return held;
}

int32_t fc_quant_put(const struct fc_quant *q, uint8_t *raw, uint32_t i, float value,
                     unsigned *what) {
    int32_t step = fc_quantise(q, value, what);
    uint8_t *p = raw + (size_t)q->size * i;
    uint32_t bits = (uint32_t)step;
    if (q->dtype == FLOAT32) {
        if (*what & FC_Q_FAULT)
            value = 0;
        memcpy(&bits, &value, sizeof bits);
    }
    for (uint32_t k = 0; k < q->size; k++)
        p[k] = (uint8_t)(bits >> (8 * k));
    return step;
}

float fc_quant_get(const struct fc_quant *q, const uint8_t *raw, uint32_t i) {
    const uint8_t *p = raw + (size_t)q->size * i;
    int32_t v;
    switch (q->dtype) {
    case FLOAT32:
        return fc_get_f32(p);
    case INT16:
        v = (int16_t)fc_get16(p);
        break;
    case INT8:
        v = (int8_t)p[0];
        break;
    default:
        v = p[0];
    }
    return (float)((v - q->zero) * q->scale);
}
