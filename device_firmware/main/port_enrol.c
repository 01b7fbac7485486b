/* port_enrol.c: a one-time token against an identity, over HTTPS (SPEC.md section 10). */
#include <stdlib.h>
#include <string.h>

#include "esp_app_desc.h"
#include "esp_http_client.h"
#include "esp_log.h"
#include "sdkconfig.h"
#if !CONFIG_TINYFLEET_ENROL_CA_FILE
#include "esp_crt_bundle.h"
#endif

#include "port.h"

#define ANSWER_MAX 12288u /* the CA's PEM, escaped, is most of it */
#define PATH "/api/v1/enrol"

#if CONFIG_TINYFLEET_ENROL_CA_FILE
extern const char enrol_ca_pem_start[] asm("_binary_enrol_ca_pem_start"); /* ends in a zero */
#endif

/* Write the body, read the answer to its end. The HTTP status, or -1 without one. */
static int exchange(esp_http_client_handle_t http, const char *body, char *answer, int *n) {
    int length = (int)strlen(body);
    *n = 0;
    if (esp_http_client_set_header(http, "Content-Type", "application/json") != ESP_OK ||
        esp_http_client_open(http, length) != ESP_OK ||
        esp_http_client_write(http, body, length) != length ||
        esp_http_client_fetch_headers(http) < 0)
        return -1;
    while (*n < (int)ANSWER_MAX) {
        int got = esp_http_client_read(http, answer + *n, (int)ANSWER_MAX - *n);
        if (got < 0)
            return -1;
        if (got == 0)
            return esp_http_client_get_status_code(http);
        *n += got;
    }
    return -1; /* larger than any answer of ours */
}

int port_enrol(const struct port_ticket *ticket, struct port_identity *out) {
    char url[PORT_URL_MAX + sizeof PATH], body[512];
    int rc = FC_ERR_NO_LINK, n = 0, status = -1;
    strcpy(url, ticket->url); /* url and PATH fit by their sizes */
    strcat(url, PATH);
    if (enrol_request_write(ticket, port_system_chip_name(), esp_app_get_description()->version,
                            body, sizeof body) != FC_OK)
        return FC_ERR_SCHEMA;
    esp_http_client_config_t config = {
        .url = url,
        .method = HTTP_METHOD_POST,
        .timeout_ms = 10000,
        .disable_auto_redirect = true,
#if CONFIG_TINYFLEET_ENROL_CA_FILE
        .cert_pem = enrol_ca_pem_start,
#else
        .crt_bundle_attach = esp_crt_bundle_attach,
#endif
    };
    char *answer = malloc(ANSWER_MAX); /* once in a device's life, before anything else needs it */
    esp_http_client_handle_t http = answer ? esp_http_client_init(&config) : NULL;
    if (!http)
        goto out;
    status = exchange(http, body, answer, &n);
    if (status == 201)
        rc = enrol_answer_parse(answer, (size_t)n, out);
    else if (status >= 400 && status < 500 && status != 408 && status != 429)
        rc = FC_ERR_TRUST; /* used, expired or unknown: asking again changes nothing */
    if (rc == FC_OK && strcmp(out->device_id, ticket->device_id) != 0)
        rc = FC_ERR_SCHEMA;
    memcpy(out->device_class, ticket->device_class, sizeof out->device_class);
    ESP_LOGI(PORT_TAG, "enrolment: HTTP %d, result %d", status, rc);
out:
    if (http) {
        esp_http_client_close(http);
        esp_http_client_cleanup(http);
    }
    if (answer) {
        memset(answer, 0, ANSWER_MAX);
        free(answer);
    }
    return rc;
}
