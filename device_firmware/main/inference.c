/* inference.c: samples from the `sense` task become windows, a window one inference, in the fleet
 * task, which alone may call the engine.
 *
 * The buffer between the two tasks has one writer and one reader and never blocks the writer: what
 * does not fit is lost and the window starts over, so no window spans a gap.
 */
#include <string.h>

#include "esp_log.h"
#include "freertos/FreeRTOS.h"
#include "freertos/stream_buffer.h"
#include "freertos/task.h"
#include "sdkconfig.h"

#include "port.h"
#include "sensor.h"

#define SLOT 0u
#define VALUES_MAX CONFIG_TINYFLEET_WINDOW_VALUES

static StreamBufferHandle_t s_stream;
static volatile uint32_t s_gaps; /* written by `sense` */
static volatile uint32_t s_channels;
static uint32_t s_gaps_seen, s_have; /* values in s_window */
static float s_window[VALUES_MAX];
static uint8_t s_input[4u * VALUES_MAX];

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
            s_gaps = s_gaps + 1u;
        else
            xStreamBufferSend(s_stream, frame, n, 0);
    }
}

int inference_open(void) {
    s_stream = xStreamBufferCreate(sizeof s_window, 1);
    if (!s_stream)
        return FC_ERR_LOW_HEAP;
    return xTaskCreate(sense_task, "sense", 3072, NULL, 6, NULL) == pdPASS ? FC_OK
                                                                           : FC_ERR_LOW_HEAP;
}

static float scale_of(const struct fc_tensor *t) {
    float scale;
    memcpy(&scale, &t->scale_bits, sizeof scale);
    return scale > 0.0f ? scale : 1.0f;
}

/* Round half away from zero, clamp; what is no number becomes the zero point. */
static int32_t quantise(float value, const struct fc_tensor *t, int32_t least, int32_t most) {
    float scaled = value / scale_of(t);
    if (!(scaled > -1e9f && scaled < 1e9f))
        return t->zero_point;
    int64_t q = (int64_t)(scaled < 0.0f ? scaled - 0.5f : scaled + 0.5f) + t->zero_point;
    return (int32_t)(q < least ? least : q > most ? most : q);
}

/* The window as raw tensor bytes. False: a type that this pipeline does not feed. */
static bool fill(const struct fc_tensor *t, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        switch (t->dtype) {
        case 0: /* float32 */
            memcpy(s_input + 4u * i, &s_window[i], 4);
            break;
        case 9: /* int8 */
            s_input[i] = (uint8_t)quantise(s_window[i], t, -128, 127);
            break;
        case 3: /* uint8 */
            s_input[i] = (uint8_t)quantise(s_window[i], t, 0, 255);
            break;
        default:
            return false;
        }
    }
    return true;
}

/* One class score in 1e-4. */
static uint16_t score_of(const struct fc_tensor *t, const uint8_t *raw, uint32_t i) {
    float value;
    if (t->dtype == 0)
        memcpy(&value, raw + 4u * i, 4);
    else
        value = (float)((t->dtype == 9 ? (int8_t)raw[i] : raw[i]) - t->zero_point) * scale_of(t);
    if (!(value > 0.0f))
        return 0;
    return value >= 1.0f ? 10000u : (uint16_t)(value * 10000.0f + 0.5f);
}

static void infer(struct fc_core *core, const struct fc_engine *engine, const struct fc_model *m,
                  uint32_t values) {
    static uint16_t scores[FC_CLASSES_MAX];
    struct fc_buf in = {s_input, m->in[0].bytes}, out[FC_TENSORS_MAX] = {{0}};
    struct fc_sample sample = {.slot = SLOT, .scores = scores, .label = -1};
    uint32_t width = m->out[0].dtype == 0 ? 4u : 1u;
    bool is_fed =
        m->nin == 1 && in.n == values * (m->in[0].dtype == 0 ? 4u : 1u) && fill(&m->in[0], values);
    if (!is_fed || engine->invoke(engine->ctx, SLOT, &in, 1, out, m->nout, &sample.us) != FC_OK) {
        sample.failed = 1;
    } else if (m->hints.head == 1) {
        for (; sample.n_scores < FC_CLASSES_MAX && (sample.n_scores + 1u) * width <= out[0].n;
             sample.n_scores++)
            scores[sample.n_scores] = score_of(&m->out[0], out[0].p, sample.n_scores);
    }
    fc_sample_put(core, &sample);
}

void inference_step(struct fc_core *core, const struct fc_engine *engine) {
    const struct fc_model *m = fc_running(core, SLOT);
    uint32_t channels = s_channels, gaps = s_gaps;
    if (!m || !channels || m->hints.channels != channels || !m->hints.window ||
        m->hints.window > VALUES_MAX / channels) {
        s_have = 0;
        xStreamBufferReset(s_stream); /* refused, harmlessly, while the other side is inside */
        return;
    }
    uint32_t values = m->hints.window * channels; /* <= VALUES_MAX */
    if (gaps != s_gaps_seen || s_have > values) {
        s_gaps_seen = gaps;
        s_have = 0;
    }
    size_t got = xStreamBufferReceive(s_stream, s_window + s_have,
                                      (values - s_have) * sizeof s_window[0], 0);
    s_have += (uint32_t)(got / sizeof s_window[0]);
    if (s_have < values)
        return;
    infer(core, engine, m, values);
    uint32_t hop = m->hints.hop && m->hints.hop <= m->hints.window ? m->hints.hop : m->hints.window;
    s_have = values - hop * channels;
    memmove(s_window, s_window + hop * channels, s_have * sizeof s_window[0]);
}
