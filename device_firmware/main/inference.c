/* inference.c: samples from the `sense` task into the pipelines of the core, in the fleet task,
 * which alone may call the engine.
 *
 * Between the two tasks stands a buffer with one writer and one reader that never blocks the
 * writer. Frames that do not fit are counted and become a gap of the stream, which no window spans.
 * (Writing into fc_stream from `sense` would be allowed too, but for the moment in which a pipeline
 * opens.)
 */
#include "esp_log.h"
#include "fleet_core/app.h"
#include "freertos/FreeRTOS.h"
#include "freertos/stream_buffer.h"
#include "freertos/task.h"
#include "sdkconfig.h"

#include "port.h"
#include "sensor.h"

#define FED                                                                                        \
    ((unsigned)CONFIG_TINYFLEET_FED_SLOTS < FC_SLOTS ? CONFIG_TINYFLEET_FED_SLOTS : FC_SLOTS)
#define VALUES CONFIG_TINYFLEET_WINDOW_VALUES
#define BATCH 32u /* frames moved at a time */

static StreamBufferHandle_t s_stream;
static volatile uint32_t s_lost; /* written by `sense` */
static volatile uint32_t s_channels;
static uint32_t s_lost_seen;
/* A stream holds a window and two hops; a hop is at most a window. */
static float s_ring[FED][3u * VALUES];
static uint8_t s_input[FED][4u * VALUES];
static struct fc_result s_result;

static void sense_task(void *arg) {
    struct sensor_info info = {0};
    float frame[SENSOR_CHANNELS_MAX];
    (void)arg;
    if (sensor_open(&info) || !info.channels || info.channels > SENSOR_CHANNELS_MAX) {
        ESP_LOGE(PORT_TAG, "no sensor: models are updated and tested, and never run");
        vTaskDelete(NULL);
    }
    s_channels = info.channels;
    for (;;) {
        size_t n = info.channels * sizeof frame[0];
        /* Whole frames only: room is looked at first, and only this task takes it. */
        if (sensor_read(frame) || xStreamBufferSpacesAvailable(s_stream) < n)
            s_lost = s_lost + 1u;
        else
            xStreamBufferSend(s_stream, frame, n, 0);
    }
}

int inference_open(void) {
    s_stream = xStreamBufferCreate(2u * BATCH * SENSOR_CHANNELS_MAX * sizeof(float), 1);
    if (!s_stream)
        return FC_ERR_LOW_HEAP;
    return xTaskCreate(sense_task, "sense", 3072, NULL, 6, NULL) == pdPASS ? FC_OK
                                                                           : FC_ERR_LOW_HEAP;
}

/* Open the pipeline of a slot when its model changed. False: nothing runs there, or it takes other
 * samples than this sensor gives. */
static bool is_open(struct fc_core *core, uint8_t slot) {
    struct fc_pipe_memory memory = {.ring = s_ring[slot],
                                    .ring_bytes = sizeof s_ring[slot],
                                    .input = s_input[slot],
                                    .input_bytes = sizeof s_input[slot],
                                    .kind = FC_SAMPLES_F32};
    const struct fc_model *m = fc_running(core, slot);
    if (!m || fc_model_channels(m) != s_channels)
        return false;
    return fc_app_ready(core, slot) || fc_app_open(core, slot, &memory) == FC_OK;
}

void inference_step(struct fc_core *core, struct fc_app *const *apps) {
    static float batch[BATCH * SENSOR_CHANNELS_MAX];
    uint32_t channels = s_channels, lost = s_lost;
    if (!channels)
        return;
    size_t got = xStreamBufferReceive(s_stream, batch, BATCH * channels * sizeof batch[0], 0);
    for (uint8_t slot = 0; slot < FED; slot++) {
        if (!apps[slot] || !is_open(core, slot))
            continue;
        if (lost != s_lost_seen)
            fc_stream_gap(&apps[slot]->pipe.stream);
        fc_stream_put(&apps[slot]->pipe.stream, batch,
                      (uint32_t)(got / (channels * sizeof batch[0])));
        fc_app_step(core, slot, -1, &s_result); /* at most one window a turn */
    }
    s_lost_seen = lost;
}
