/* app.h: what one slot's application keeps: the loaded model's description, the telemetry window
 * being filled and the closed ones. The caller owns one per slot and hands it over at boot; the
 * core alone writes to it.
 */
#ifndef FLEET_CORE_APP_H
#define FLEET_CORE_APP_H

#include "fleet_core/documents.h"

/* Twelve or fewer closed windows of one model run become a batch; see telemetry.c. */
struct fc_window {
    uint64_t start_ms, end_ms;
    uint32_t n, us_mean, us_max, score, anom_max, anom_n, lab_n, lab_ok, heap_min, flags;
    int32_t top, rssi;
};

struct fc_app {
    struct fc_model model; /* what is loaded; filled before engine->load() */
    uint64_t start_ms;
    uint64_t us_sum, score_sum;
    uint32_t n, us_max, anom_max, anom_n, lab_n, lab_ok, heap_min, flags;
    int32_t rssi;
    uint16_t classes[FC_CLASSES_MAX];
    uint8_t open; /* a window is being filled */
    uint8_t n_closed;
    struct fc_window closed[FC_WINDOWS_MAX];
    uint64_t alarm_bits; /* newest inference in bit 0 */
    uint32_t alarm_seen, suppressed;
    uint8_t alarmed;
    uint64_t alarm_at_ms;
};

#endif
