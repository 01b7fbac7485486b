/* port_system.c: clocks, reset reasons, memory that survives a reset, watchdog, image rollback. */
#include <inttypes.h>

#include "driver/gpio.h"
#include "esp_attr.h"
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "esp_ota_ops.h"
#include "esp_random.h"
#include "esp_system.h"
#include "esp_task_wdt.h"
#include "esp_timer.h"
#include "sdkconfig.h"

#include "port.h"

#define KEEP_BYTES 64u

/* RTC memory keeps its content over every reset but a power loss. The core guards it by a CRC. On a
 * chip without any, progress of a probation starts over and nothing else changes. */
#if CONFIG_SOC_RTC_FAST_MEM_SUPPORTED || CONFIG_SOC_RTC_SLOW_MEM_SUPPORTED
static RTC_NOINIT_ATTR uint8_t s_keep[KEEP_BYTES];
#else
static uint8_t s_keep[KEEP_BYTES];
#endif
static bool s_pending; /* this image has one boot to prove itself */

static uint64_t clock_ms(void *ctx) {
    (void)ctx;
    return (uint64_t)esp_timer_get_time() / 1000u;
}

static uint64_t unix_s(void *ctx) {
    (void)ctx;
    return port_net_unix_s();
}

static uint32_t random32(void *ctx) {
    (void)ctx;
    return esp_random();
}

/* Numbers, not names: enumerators cannot be asked for by #ifdef, and those of newer releases were
 * always appended. 14 is a power glitch, 15 a CPU lock-up. A software reset is expected only when
 * the core said so in `keep`; the core itself checks that, here it is reported as expected. */
static enum fc_reset reset_reason(void *ctx, uint32_t *raw) {
    (void)ctx;
    *raw = (uint32_t)esp_reset_reason();
    switch (*raw) {
    case ESP_RST_PANIC:
    case 15:
        return FC_RST_PANIC;
    case ESP_RST_INT_WDT:
    case ESP_RST_TASK_WDT:
    case ESP_RST_WDT:
        return FC_RST_WATCHDOG;
    case ESP_RST_BROWNOUT:
        return FC_RST_BROWNOUT;
    case ESP_RST_DEEPSLEEP:
        return FC_RST_SLEEP;
    case ESP_RST_SW:
        return FC_RST_EXPECTED;
    default: /* power-on, reset pin, USB, JTAG, glitch, unknown */
        return FC_RST_POWER;
    }
}

static uint8_t *keep(void *ctx) {
    (void)ctx;
    return s_keep;
}

/* IDF gives a new image one boot: a trial of a model must not use it up. */
static int may_switch(void *ctx) {
    (void)ctx;
    return s_pending ? FC_ERR_BUSY : FC_OK; /* the core itself looks at the heap */
}

static uint32_t heap_free(void *ctx) {
    (void)ctx;
    return (uint32_t)heap_caps_get_free_size(MALLOC_CAP_INTERNAL);
}

static int rssi(void *ctx) {
    (void)ctx;
    return port_net_rssi();
}

static void identify(void *ctx) {
    (void)ctx;
#if CONFIG_TINYFLEET_LED_GPIO >= 0
    static uint32_t level;
    level ^= 1u; /* each command turns the lamp over: nothing here may block the fleet task */
    gpio_set_level((gpio_num_t)CONFIG_TINYFLEET_LED_GPIO, level);
#endif
    ESP_LOGW(PORT_TAG, "identify: here I am");
}

static void reboot(void *ctx) {
    (void)ctx;
    esp_restart();
}

/* Numbers only, never received bytes: fc_log of codes.h says what they mean. */
static void log_event(void *ctx, int level, uint32_t event, uint32_t a, uint32_t b) {
    (void)ctx;
    if (level > 0)
        ESP_LOGW(PORT_TAG, "event %" PRIu32 " %" PRIu32 " %" PRIu32, event, a, b);
    else
        ESP_LOGI(PORT_TAG, "event %" PRIu32 " %" PRIu32 " %" PRIu32, event, a, b);
}

uint8_t port_system_chip(void) {
#if CONFIG_IDF_TARGET_ESP32
    return 1;
#elif CONFIG_IDF_TARGET_ESP32S2
    return 2;
#elif CONFIG_IDF_TARGET_ESP32S3
    return 3;
#elif CONFIG_IDF_TARGET_ESP32C3
    return 4;
#elif CONFIG_IDF_TARGET_ESP32C6
    return 5;
#elif CONFIG_IDF_TARGET_ESP32P4
    return 6;
#else
#error "SPEC.md section 5 has no number for this chip"
#endif
}

const char *port_system_chip_name(void) {
    return CONFIG_IDF_TARGET;
}

void port_system_watch(void) {
    ESP_ERROR_CHECK(esp_task_wdt_add(NULL));
}

void port_system_feed(void) {
    ESP_ERROR_CHECK(esp_task_wdt_reset());
}

void port_system_confirm_image(void) {
    if (s_pending && esp_ota_mark_app_valid_cancel_rollback() == ESP_OK) {
        s_pending = false;
        ESP_LOGI(PORT_TAG, "this firmware image is kept");
    }
}

int port_system_open(struct fc_hal *hal) {
    esp_ota_img_states_t image = ESP_OTA_IMG_UNDEFINED;
    s_pending = esp_ota_get_state_partition(esp_ota_get_running_partition(), &image) == ESP_OK &&
                image == ESP_OTA_IMG_PENDING_VERIFY;
#if CONFIG_TINYFLEET_LED_GPIO >= 0
    gpio_reset_pin((gpio_num_t)CONFIG_TINYFLEET_LED_GPIO);
    gpio_set_direction((gpio_num_t)CONFIG_TINYFLEET_LED_GPIO, GPIO_MODE_OUTPUT);
#endif
    hal->clock_ms = clock_ms;
    hal->unix_s = unix_s;
    hal->random = random32;
    hal->reset_reason = reset_reason;
    hal->keep = keep;
    hal->may_switch = may_switch;
    hal->heap_free = heap_free;
    hal->rssi = rssi;
    hal->identify = identify;
    hal->reboot = reboot;
    hal->log = log_event;
    return FC_OK;
}
