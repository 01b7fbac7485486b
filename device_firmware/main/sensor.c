/* sensor.c: the demo source: six slow waves and noise, paced by the clock. It senses nothing; a
 * model answers something all the same, so the whole walk can be seen on a bare board. Replace this
 * file.
 */
#include "sensor.h"

#include "esp_random.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "sdkconfig.h"

static uint32_t s_step;
static TickType_t s_due;

int sensor_open(struct sensor_info *info) {
    info->channels = CONFIG_TINYFLEET_SENSOR_CHANNELS;
    info->rate_hz = CONFIG_TINYFLEET_SENSOR_HZ;
    s_due = xTaskGetTickCount();
    return 0;
}

/* A triangle of the given period around zero, amplitude 1. */
static float triangle(uint32_t step, uint32_t period) {
    uint32_t at = step % period, half = period / 2u;
    float rising = (float)(at < half ? at : period - at) / (float)half; /* 0 .. 1 .. 0 */
    return 2.0f * rising - 1.0f;
}

int sensor_read(float *frame) {
    /* The period is rounded up to whole ticks: at 100 Hz ticks, 50 Hz is exact and 60 Hz is 50. */
    TickType_t period =
        (configTICK_RATE_HZ + CONFIG_TINYFLEET_SENSOR_HZ - 1) / CONFIG_TINYFLEET_SENSOR_HZ;
    vTaskDelayUntil(&s_due, period);
    s_step++;
    for (uint32_t c = 0; c < CONFIG_TINYFLEET_SENSOR_CHANNELS; c++) {
        float noise = (float)(esp_random() & 0xffu) / 255.0f - 0.5f;
        frame[c] = triangle(s_step + 7u * c, 40u + 11u * c) + 0.1f * noise;
    }
    return 0;
}
