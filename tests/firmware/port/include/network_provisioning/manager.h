#pragma once
#include <protocomm.h>
#include <stdbool.h>
#include <stddef.h>
#include "esp_event.h"
#include "esp_wifi_types.h"
ESP_EVENT_DECLARE_BASE(NETWORK_PROV_EVENT);
typedef enum {
    NETWORK_PROV_INIT,
    NETWORK_PROV_START,
    NETWORK_PROV_SET_WIFI_STA_CONFIG,
    NETWORK_PROV_WIFI_CRED_RECV,
    NETWORK_PROV_WIFI_CRED_FAIL,
    NETWORK_PROV_WIFI_CRED_SUCCESS,
    NETWORK_PROV_END,
    NETWORK_PROV_DEINIT,
} network_prov_cb_event_t;
typedef void (*network_prov_cb_func_t)(void *user_data, network_prov_cb_event_t event,
                                       void *event_data);
typedef struct {
    network_prov_cb_func_t event_cb;
    void *user_data;
} network_prov_event_handler_t;
typedef struct {
    uint32_t wifi_conn_attempts;
} network_prov_wifi_conn_cfg_t;
#define NETWORK_PROV_EVENT_HANDLER_NONE                                                            \
    { .event_cb = NULL, .user_data = NULL }
typedef struct network_prov_scheme {
    esp_err_t (*prov_start)(protocomm_t *pc, void *config);
    esp_err_t (*prov_stop)(protocomm_t *pc);
    void *(*new_config)(void);
    void (*delete_config)(void *config);
    esp_err_t (*set_config_service)(void *config, const char *service_name,
                                    const char *service_key);
    esp_err_t (*set_config_endpoint)(void *config, const char *endpoint_name, uint16_t uuid);
    wifi_mode_t wifi_mode;
} network_prov_scheme_t;
typedef struct {
    network_prov_scheme_t scheme;
    network_prov_event_handler_t scheme_event_handler;
    network_prov_event_handler_t app_event_handler;
    network_prov_wifi_conn_cfg_t network_prov_wifi_conn_cfg;
} network_prov_mgr_config_t;
typedef enum network_prov_security {
    NETWORK_PROV_SECURITY_0 = 0,
    NETWORK_PROV_SECURITY_1 = 1,
    NETWORK_PROV_SECURITY_2 = 2
} network_prov_security_t;
esp_err_t network_prov_mgr_init(network_prov_mgr_config_t config);
esp_err_t network_prov_mgr_deinit(void);
esp_err_t network_prov_mgr_is_wifi_provisioned(bool *provisioned);
esp_err_t network_prov_mgr_start_provisioning(network_prov_security_t security,
                                              const void *network_prov_sec_params,
                                              const char *service_name, const char *service_key);
esp_err_t network_prov_mgr_endpoint_create(const char *ep_name);
esp_err_t network_prov_mgr_endpoint_register(const char *ep_name, protocomm_req_handler_t handler,
                                             void *user_ctx);
esp_err_t network_prov_mgr_reset_wifi_sm_state_on_failure(void);
