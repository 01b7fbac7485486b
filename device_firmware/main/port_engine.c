/* port_engine.c: the arena, and the TFLM engine on it. */
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "esp_timer.h"
#include "sdkconfig.h"

#include "port.h"
#include "tflm_engine/tflm_engine.h"

#if CONFIG_TINYFLEET_ARENA_IN_PSRAM
#define ARENA_CAPS (MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT)
#else
#define ARENA_CAPS (MALLOC_CAP_INTERNAL | MALLOC_CAP_8BIT)
#endif

static uint64_t now_us(void) {
    return (uint64_t)esp_timer_get_time();
}

int port_engine_open(struct fc_hal *hal, uint32_t *arena_bytes, const uint8_t **ops,
                     size_t *ops_n) {
    struct tflm_config config = {.arena_bytes = CONFIG_TINYFLEET_ARENA_BYTES, .now_us = now_us};
    /* Taken first of all and kept for ever: later no block of this size is left in one piece. */
    config.arena = heap_caps_aligned_alloc(16, config.arena_bytes, ARENA_CAPS);
    if (!config.arena) {
        ESP_LOGE(PORT_TAG, "no %u bytes for the arena; largest block %u",
                 (unsigned)config.arena_bytes,
                 (unsigned)heap_caps_get_largest_free_block(ARENA_CAPS));
        return FC_ERR_LOW_HEAP;
    }
    hal->engine = tflm_engine_open(&config);
    *arena_bytes = config.arena_bytes;
    *ops = tflm_engine_ops(ops_n);
    return hal->engine ? FC_OK : FC_ERR_LOAD_FAILED;
}
