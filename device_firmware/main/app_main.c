/* app_main.c: from power-up to the loop of the fleet task.
 *
 * Order: the arena first (largest block), then the network; an identity from NVS or from enrolment;
 * the boot counter before anything is signed; the core; then the connection.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "esp_app_desc.h"
#include "esp_log.h"
#include "fleet_core/app.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "sdkconfig.h"

#include "port.h"

#define STEP_WAIT_MS 20u /* at most: samples come in meanwhile */
#define EVENTS_A_TURN 4u /* then the core gets a step, whatever the broker sends */
#define ENROL_MIN_MS 2000u
#define ENROL_MAX_MS 60000u

static struct fc_core s_core; /* the one owner is the fleet task */
static struct fc_hal s_hal;
static struct fc_ident s_ident;
static struct fc_app s_app[FC_SLOTS];
static uint8_t s_ring[CONFIG_TINYFLEET_RING_BYTES];
static struct fc_memory s_memory = {.ring = s_ring, .ring_bytes = sizeof s_ring};
static struct port_identity s_me;

/* Blocks until there is an identity; each try waits longer, up to a minute. */
static void enrol_until_done(void) {
    static struct port_ticket ticket;
    uint32_t wait_ms = ENROL_MIN_MS;
    for (;;) {
        int rc = FC_ERR_NO_LINK;
        if (port_net_wait(wait_ms) && port_store_ticket(&ticket) == FC_OK) {
            rc = port_enrol(&ticket, &s_me);
            if (rc == FC_OK && port_store_save(&s_me) == FC_OK)
                return;
        }
        if (rc == FC_ERR_TRUST)
            ESP_LOGE(PORT_TAG, "the ticket was refused: provision a new one");
        vTaskDelay(pdMS_TO_TICKS(wait_ms));
        wait_ms = wait_ms < ENROL_MAX_MS / 2u ? wait_ms * 2u : ENROL_MAX_MS;
    }
}

/* "1.2.3" of the image's description (PROJECT_VER); anything else is no version we could compare.
 */
static int take_version(struct fc_ident *id) {
    unsigned v[3];
    char rest;
    id->firmware_version = esp_app_get_description()->version;
    if (sscanf(id->firmware_version, "%5u.%5u.%5u%c", &v[0], &v[1], &v[2], &rest) != 3)
        return FC_ERR_SCHEMA;
    for (int i = 0; i < 3; i++) {
        if (v[i] > UINT16_MAX)
            return FC_ERR_SCHEMA;
        id->firmware[i] = (uint16_t)v[i];
    }
    return FC_OK;
}

/* SPEC.md section 1: version, zero, esp-nn version, zero, chip name. */
static void take_build_id(struct fc_ident *id) {
    char text[3 * 33];
    uint8_t digest[32];
    int n = snprintf(text, sizeof text, "%s%c%s%c%s", id->firmware_version, 0, id->esp_nn, 0,
                     port_system_chip_name());
    port_crypto_sha256(text, n > 0 && (size_t)n < sizeof text ? (size_t)n : 0, digest);
    memcpy(id->build_id, digest, sizeof id->build_id);
}

/* The class that this board is; see class_id.c. */
static int take_class(struct fc_ident *id) {
    static uint8_t bytes[CLASS_DESCRIPTION_MAX];
    uint8_t digest[32];
    uint32_t slot_bytes[FC_SLOTS];
    struct class_description d = {.name = s_me.device_class,
                                  .chip = id->chip,
                                  .arena_bytes = id->arena_bytes,
                                  .slot_bytes = slot_bytes,
                                  .n_slots = port_flash_slots(),
                                  .ops = id->ops,
                                  .ops_n = id->ops_len,
                                  .esp_nn = id->esp_nn};
    for (uint32_t i = 0; i < d.n_slots; i++)
        slot_bytes[i] = class_slot_bytes(s_hal.capacity(s_hal.ctx, (uint8_t)(FC_BANK0 + 2 * i)));
    size_t n = class_describe(&d, bytes);
    if (!n)
        return FC_ERR_SCHEMA;
    port_crypto_sha256(bytes, n, digest);
    memcpy(id->class_id, digest, sizeof id->class_id);
    if (memcmp(id->class_id, s_me.class_id, sizeof id->class_id) != 0)
        ESP_LOGE(PORT_TAG,
                 "this build is not class %s: arena %" PRIu32 " B (class %" PRIu32 "), %" PRIu32
                 " slots, operators or esp-nn differ; no model will be accepted",
                 s_me.device_class, id->arena_bytes, s_me.arena_bytes, d.n_slots);
    return FC_OK;
}

static int take_ident(uint32_t boot) {
    struct fc_ident *id = &s_ident; /* ops and arena are there already */
    uint8_t digest[32];
    id->device_id = s_me.device_id;
    id->esp_nn = CONFIG_TINYFLEET_ESP_NN_VERSION;
    id->chip = port_system_chip();
    memcpy(id->inst, s_me.installation, sizeof id->inst);
    port_crypto_sha256(s_me.mac_key, sizeof s_me.mac_key, digest);
    memcpy(id->mac_kid, digest, sizeof id->mac_kid);
    id->boot = boot;
    id->least_trust_version = s_me.least_trust_version;
    memcpy(id->roots, s_me.roots, sizeof id->roots);
    id->n_roots = s_me.n_roots;
    id->root_threshold = s_me.root_threshold;
    id->heap_floor = CONFIG_TINYFLEET_HEAP_FLOOR;
    id->probation_n = CONFIG_TINYFLEET_PROBATION_N;
    id->probation_s = CONFIG_TINYFLEET_PROBATION_S;
    int rc = take_version(id);
    if (rc == FC_OK)
        take_build_id(id);
    return rc == FC_OK ? take_class(id) : rc;
}

static void handle(const struct port_event *event) {
    switch (event->kind) {
    case PORT_UP:
        fc_link_set(&s_core, 1, event->fresh);
        break;
    case PORT_DOWN:
        fc_link_set(&s_core, 0, 0);
        break;
    case PORT_MESSAGE: /* the core counts what it refuses */
        fc_message_put(&s_core, event->topic, event->topic_n, event->bytes, event->n);
        port_mqtt_release(event);
        break;
    default:
        fc_sent(&s_core, event->token);
        break;
    }
}

static void fleet_task(void *arg) {
    (void)arg;
    port_system_watch();
    for (;;) {
        struct port_event event;
        uint32_t again_ms = 0;
        port_system_feed();
        fc_core_step(&s_core, &again_ms);
        inference_step(&s_core, s_memory.app);
        uint32_t wait_ms = again_ms < STEP_WAIT_MS ? again_ms : STEP_WAIT_MS;
        for (unsigned i = 0; i < EVENTS_A_TURN && port_mqtt_next(&event, i ? 0 : wait_ms); i++)
            handle(&event);
        if (port_mqtt_reported())
            port_system_confirm_image();
    }
}

static int start(void) {
    uint32_t boot = 0;
    int rc = port_store_open();
    if (rc == FC_OK)
        rc = port_system_open(&s_hal);
    if (rc == FC_OK)
        rc = port_engine_open(&s_hal, &s_ident.arena_bytes, &s_ident.ops, &s_ident.ops_len);
    if (rc == FC_OK)
        rc = port_flash_open(&s_hal);
    if (rc == FC_OK)
        rc = port_net_open();
    if (rc == FC_OK && port_store_load(&s_me) != FC_OK)
        enrol_until_done();
    if (rc == FC_OK)
        rc = port_crypto_open(&s_hal, s_me.mac_key);
    if (rc == FC_OK)
        rc = port_store_count_boot(&boot);
    if (rc == FC_OK)
        rc = take_ident(boot);
    s_hal.send = port_mqtt_send;
    s_hal.watch = port_mqtt_watch;
    s_hal.unwatch = port_mqtt_unwatch;
    s_hal.reconnect = port_mqtt_reconnect;
    for (uint32_t i = 0; i < port_flash_slots(); i++)
        s_memory.app[i] = &s_app[i];
    if (rc == FC_OK)
        rc = port_mqtt_open(&s_me); /* events wait in the queue until the loop runs */
    if (rc == FC_OK)
        rc = fc_core_boot(&s_core, &s_hal, &s_ident, &s_memory);
    if (rc == FC_OK)
        rc = inference_open();
    memset(s_me.mac_key, 0, sizeof s_me.mac_key);
    return rc;
}

void app_main(void) {
    int rc = start();
    if (rc == FC_OK &&
        xTaskCreate(fleet_task, "fleet", CONFIG_TINYFLEET_FLEET_STACK, NULL, 5, NULL) == pdPASS)
        return;
    /* A new image that cannot even start is not confirmed, so the next reset takes the old one. */
    ESP_LOGE(PORT_TAG, "start failed: %d", rc);
}
