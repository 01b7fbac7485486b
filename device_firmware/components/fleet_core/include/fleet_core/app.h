/* app.h: what one slot's application keeps: the loaded model's description, its pipeline, the
 * telemetry window being filled and the closed ones, a sketch, sampled inferences. The caller owns
 * one per slot and hands it over at boot.
 *
 * One task: fc_core_step(), and fc_app_step() whenever samples came (fc_stream_put() on
 * &app->pipe.stream may run in an interrupt or another task).
 * Two tasks: the inference task calls fc_pipe_run(&app->pipe, ..) and posts the result by value;
 * the core's task calls fc_result_put() with it. See pipe.h for the lock.
 */
#ifndef FLEET_CORE_APP_H
#define FLEET_CORE_APP_H

#include "fleet_core/core.h"
#include "fleet_core/pipe.h"

/* Twelve or fewer closed windows of one model run become a batch; see telemetry.c. */
struct fc_window {
    uint64_t end_ms;
    uint32_t lasted_ms;
    uint32_t n, us_mean, us_max, anom_max, anom_n, heap_min;
    uint16_t score, lab_n, lab_ok, flags;
    int16_t top;
    int8_t rssi;
};

/* A sampled inference. */
struct fc_pick {
    uint32_t at_ms; /* uptime, its low half: younger than 49 days */
    uint32_t k, anom, us;
    uint16_t score, margin;
    int16_t top;
    uint8_t why; /* 0 one in N, 1 low margin, 2 anomaly */
};

struct fc_app {
    struct fc_model model; /* what is loaded; filled before engine->load() */
    struct fc_pipe pipe;   /* model NULL = nobody feeds samples */
#if FC_TELEMETRY
    uint64_t start_ms;
    uint64_t us_sum, score_sum;
    uint32_t n, us_max, anom_max, anom_n, lab_n, lab_ok, heap_min, flags;
    int32_t rssi;
    uint8_t classes[FC_CLASSES_MAX]; /* all halved when one is full: the modal class stays */
    uint8_t open;                    /* a window is being filled */
    uint8_t n_closed, n_picks, extras;
    struct fc_window closed[FC_WINDOWS_MAX];
    struct fc_pick picks[FC_PICKS_MAX];
    struct fc_alarm alarm;
    uint8_t alarm_seen, alarm_told;
    uint32_t suppressed;
    uint64_t alarm_at_ms;
    uint64_t sketch_ms; /* when its first inference came */
    struct fc_sketch sketch;
#endif
};

/* Opens the pipeline of the model that runs in a slot. Again after every change of the model, or of
 * the one that its front-end names.
 *   FC_OK
 *   FC_ERR_BUSY         no model runs here, or not the one that the front-end needs
 *   FC_ERR_IO_CONTRACT  the model takes something else than one window of samples
 *   FC_ERR_LOW_HEAP     memory too small */
int fc_app_open(struct fc_core *core, uint32_t slot, const struct fc_pipe_memory *memory);
/* The pipeline is open and fits what is loaded. */
int fc_app_ready(const struct fc_core *core, uint32_t slot);
/* Runs the next window, if one is there, and counts it. label: a proxy label or -1. *r is the
 * caller's scratch. 1 = ran, 0 = no window yet, FC_ERR_BUSY = open it again. */
int fc_app_step(struct fc_core *core, uint32_t slot, int32_t label, struct fc_result *r);
/* Counts a result of fc_pipe_run(). FC_ERR_DROP: its model does not run any more. */
int fc_result_put(struct fc_core *core, const struct fc_result *r);

_Static_assert(sizeof(void *) > 4 || sizeof(struct fc_app) <= 4096, "DESIGN.md: 4 KiB a slot");

#endif
