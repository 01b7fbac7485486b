/* anomaly.c: how unlike the training data a window is, and when that becomes an alarm.
 *
 * Three kinds, because none sees every fault (DESIGN.md). All parameters come from the signed
 * manifest; the threshold may come from the signed desired document.
 */
#include "bytes.h"
#include "fleet_core/pipeline.h"

#define MOST 2147483647.0f

/* Real units to 1e-3, NaN and the infinite to the top. */
static uint32_t milli(float v) {
    v *= 1000.0f;
    if (!(v < MOST))
        return INT32_MAX;
    return v > 0 ? (uint32_t)(v + 0.5f) : 0;
}

uint32_t fc_anomaly_margin(uint32_t best, uint32_t second) {
    return 1000 - (best - second) / 10; /* second <= best <= 10000 */
}

uint32_t fc_anomaly_rebuild(const struct fc_quant *in, const uint8_t *raw_in,
                            const struct fc_quant *out, const uint8_t *raw_out, uint32_t n) {
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        float d = fc_quant_get(in, raw_in, i) - fc_quant_get(out, raw_out, i);
        sum += d * d;
    }
    return milli(n ? sum / (float)n : 0);
}

uint32_t fc_anomaly_distance(const float *features, const uint8_t *signed_params, uint32_t n) {
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        float z = (features[i] - fc_get_f32(signed_params + 8 * i)) *
                  fc_get_f32(signed_params + 8 * i + 4);
        sum += z * z;
    }
    return milli(n ? sum / (float)n : 0);
}

enum fc_edge fc_alarm_put(struct fc_alarm *a, uint32_t score, uint32_t limit, uint32_t k,
                          uint32_t n) {
    uint64_t mask = n >= 64 ? UINT64_MAX : ((uint64_t)1 << n) - 1;
    uint32_t over = 0;
    a->bits = (a->bits << 1 | (limit && score > limit)) & mask;
    for (uint64_t bits = a->bits; bits; bits &= bits - 1)
        over++;
    uint8_t on = limit && over >= k;
    if (on == a->on)
        return FC_EDGE_NONE;
    a->on = on;
    return on ? FC_EDGE_BEGAN : FC_EDGE_ENDED;
}
