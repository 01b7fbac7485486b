/* port_net.c: Wi-Fi station, provisioning over a soft access point, SNTP.
 *
 * Without Wi-Fi credentials the board opens "tinyfleet-XXXXXX"; Espressif's provisioning app (or
 * esp_prov.py) hands credentials over, and through the endpoint "fleet-ticket" the line that
 * `manage.py devices enrol` printed. The component network_provisioning serves IDF 5.1 and later,
 * so there is no second version for wifi_provisioning, which IDF 6 has dropped.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "esp_event.h"
#include "esp_log.h"
#include "esp_mac.h"
#include "esp_netif.h"
#include "esp_netif_sntp.h"
#include "esp_random.h"
#include "esp_timer.h"
#include "esp_wifi.h"
#include "freertos/FreeRTOS.h"
#include "freertos/event_groups.h"
#include "network_provisioning/manager.h"
#include "network_provisioning/scheme_softap.h"
#include "sdkconfig.h"

#include "port.h"

#define ADDRESS_BIT 1u
#define PLAUSIBLE_S 1700000000u /* a clock before this was never set */
#define BACKOFF_MAX_MS 30000u

static EventGroupHandle_t s_bits;
static volatile bool s_provisioning;
static volatile bool s_synced;
static esp_timer_handle_t s_retry;
static uint32_t s_wait_ms;

/* In the event task (2,304 bytes of stack): start things, never wait. */
static void on_wifi(void *arg, esp_event_base_t base, int32_t id, void *data) {
    (void)arg;
    (void)base;
    (void)data;
    if (id == WIFI_EVENT_STA_START && !s_provisioning)
        esp_wifi_connect();
    if (id != WIFI_EVENT_STA_DISCONNECTED)
        return;
    xEventGroupClearBits(s_bits, ADDRESS_BIT);
    if (s_provisioning)
        return; /* the provisioning manager tries by itself */
    s_wait_ms = s_wait_ms < BACKOFF_MAX_MS / 2u ? s_wait_ms * 2u + 500u : BACKOFF_MAX_MS;
    esp_timer_stop(s_retry); /* an error means that it did not run */
    esp_timer_start_once(s_retry,
                         1000ull * (s_wait_ms / 2u + esp_random() % (s_wait_ms / 2u + 1u)));
}

static void on_retry(void *arg) {
    (void)arg;
    esp_wifi_connect();
}

static void on_address(void *arg, esp_event_base_t base, int32_t id, void *data) {
    (void)arg;
    (void)base;
    (void)id;
    (void)data;
    s_wait_ms = 0;
    xEventGroupSetBits(s_bits, ADDRESS_BIT);
}

static void on_provisioned(void *arg, esp_event_base_t base, int32_t id, void *data) {
    (void)arg;
    (void)base;
    (void)data;
    if (id == NETWORK_PROV_WIFI_CRED_FAIL) {
        network_prov_mgr_reset_wifi_sm_state_on_failure(); /* let the person try again */
    } else if (id == NETWORK_PROV_END) {
        s_provisioning = false;
        network_prov_mgr_deinit();
    }
}

static void on_time(struct timeval *tv) {
    (void)tv;
    s_synced = true;
}

/* The enrolment ticket over the encrypted provisioning session. The manager frees the answer. */
static esp_err_t on_ticket(uint32_t session, const uint8_t *in, ssize_t n, uint8_t **out,
                           ssize_t *out_n, void *arg) {
    (void)session;
    (void)arg;
    bool good = in && n > 0 && port_store_ticket_save((const char *)in, (size_t)n) == FC_OK;
    *out = (uint8_t *)strdup(good ? "stored" : "refused");
    *out_n = *out ? (ssize_t)strlen((const char *)*out) : 0;
    return *out ? ESP_OK : ESP_ERR_NO_MEM;
}

static esp_err_t start_provisioning(void) {
    char name[32], pop[33];
    uint8_t mac[6] = {0};
    esp_err_t err = esp_read_mac(mac, ESP_MAC_WIFI_STA);
    snprintf(name, sizeof name, "tinyfleet-%02X%02X%02X", mac[3], mac[4], mac[5]);
    port_store_pop(pop, sizeof pop);
    if (err == ESP_OK)
        err = network_prov_mgr_endpoint_create("fleet-ticket");
    if (err == ESP_OK) /* security 1: X25519 and AES, with the proof that is printed on the board */
        err = network_prov_mgr_start_provisioning(NETWORK_PROV_SECURITY_1, pop[0] ? pop : NULL,
                                                  name, NULL);
    if (err == ESP_OK)
        err = network_prov_mgr_endpoint_register("fleet-ticket", on_ticket, NULL);
    ESP_LOGI(PORT_TAG, "provisioning as %s", name);
    return err;
}

static esp_err_t start_wifi(void) {
    bool known = false;
    wifi_init_config_t wifi = WIFI_INIT_CONFIG_DEFAULT();
    network_prov_mgr_config_t prov = {
        .scheme = network_prov_scheme_softap,
        .scheme_event_handler = NETWORK_PROV_EVENT_HANDLER_NONE,
        .app_event_handler = NETWORK_PROV_EVENT_HANDLER_NONE,
    };
    esp_err_t err = esp_wifi_init(&wifi);
    if (err == ESP_OK)
        err = network_prov_mgr_init(prov);
    if (err == ESP_OK)
        err = network_prov_mgr_is_wifi_provisioned(&known);
    if (err != ESP_OK)
        return err;
    if (!known) {
        s_provisioning = true;
        return start_provisioning();
    }
    network_prov_mgr_deinit();
    err = esp_wifi_set_mode(WIFI_MODE_STA);
    if (err == ESP_OK)
        err = esp_wifi_start(); /* WIFI_EVENT_STA_START connects, with what NVS knows */
    return err;
}

static esp_err_t start_events(void) {
    esp_event_handler_instance_t unused;
    esp_timer_create_args_t retry = {.callback = on_retry, .name = "wifi"};
    esp_err_t err = esp_timer_create(&retry, &s_retry);
    if (err == ESP_OK)
        err = esp_event_handler_instance_register(WIFI_EVENT, ESP_EVENT_ANY_ID, on_wifi, NULL,
                                                  &unused);
    if (err == ESP_OK)
        err = esp_event_handler_instance_register(IP_EVENT, IP_EVENT_STA_GOT_IP, on_address, NULL,
                                                  &unused);
    if (err == ESP_OK)
        err = esp_event_handler_instance_register(NETWORK_PROV_EVENT, ESP_EVENT_ANY_ID,
                                                  on_provisioned, NULL, &unused);
    return err;
}

int port_net_open(void) {
    esp_sntp_config_t sntp = ESP_NETIF_SNTP_DEFAULT_CONFIG(CONFIG_TINYFLEET_SNTP_SERVER);
    s_bits = xEventGroupCreate();
    if (!s_bits)
        return FC_ERR_LOW_HEAP;
    esp_err_t err = esp_netif_init();
    if (err == ESP_OK)
        err = esp_event_loop_create_default();
    if (err == ESP_OK && !esp_netif_create_default_wifi_sta())
        err = ESP_ERR_NO_MEM;
    if (err == ESP_OK && !esp_netif_create_default_wifi_ap())
        err = ESP_ERR_NO_MEM;
    if (err == ESP_OK)
        err = start_events();
    if (err == ESP_OK)
        err = start_wifi();
    /* Time is a convenience: what expires is judged by signed time first (DESIGN.md). */
    sntp.sync_cb = on_time;
    if (err == ESP_OK)
        err = esp_netif_sntp_init(&sntp);
    if (err != ESP_OK)
        ESP_LOGE(PORT_TAG, "network: %s", esp_err_to_name(err));
    return err == ESP_OK ? FC_OK : FC_ERR_PORT;
}

bool port_net_wait(uint32_t ms) {
    EventBits_t bits = xEventGroupWaitBits(s_bits, ADDRESS_BIT, pdFALSE, pdTRUE, pdMS_TO_TICKS(ms));
    return (bits & ADDRESS_BIT) != 0;
}

uint64_t port_net_unix_s(void) {
    time_t now = time(NULL);
    return s_synced && now > (time_t)PLAUSIBLE_S ? (uint64_t)now : 0;
}

int port_net_rssi(void) {
    wifi_ap_record_t ap;
    if ((xEventGroupGetBits(s_bits) & ADDRESS_BIT) == 0 || esp_wifi_sta_get_ap_info(&ap) != ESP_OK)
        return 0;
    return ap.rssi;
}
