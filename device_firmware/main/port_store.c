/* port_store.c: NVS holds Wi-Fi (IDF's own), identity, ticket and boot counter; nothing of models
 * or updates. Losing NVS means enrolling anew as another device; a new board is a new device id.
 */
#include <string.h>

#include "nvs.h"
#include "nvs_flash.h"
#include "sdkconfig.h"

#include "port.h"

/* Names of at most 15 bytes. The layout's version is part of the key: a new one is another key. */
#define SPACE "fleet"
#define KEY_IDENTITY "identity1"
#define KEY_BOOT "boot"
#define KEY_TICKET "ticket"
#define KEY_POP "pop"
#define TICKET_MAX 512u

int port_store_open(void) {
    esp_err_t err = nvs_flash_init();
    if (err == ESP_ERR_NVS_NO_FREE_PAGES || err == ESP_ERR_NVS_NEW_VERSION_FOUND) {
        /* Never erased here, unlike in most examples: the MAC key would be gone. */
        return FC_ERR_FLASH_IO;
    }
    return err == ESP_OK ? FC_OK : FC_ERR_FLASH_IO;
}

static int read_blob(const char *key, void *out, size_t *n) {
    nvs_handle_t nvs;
    if (nvs_open(SPACE, NVS_READONLY, &nvs) != ESP_OK)
        return FC_ERR_NOT_IN_BANK;
    esp_err_t err = nvs_get_blob(nvs, key, out, n);
    nvs_close(nvs);
    return err == ESP_OK ? FC_OK : FC_ERR_NOT_IN_BANK;
}

static int write_blob(const char *key, const void *p, size_t n) {
    nvs_handle_t nvs;
    if (nvs_open(SPACE, NVS_READWRITE, &nvs) != ESP_OK)
        return FC_ERR_FLASH_IO;
    esp_err_t err = nvs_set_blob(nvs, key, p, n);
    if (err == ESP_OK)
        err = nvs_commit(nvs);
    nvs_close(nvs);
    return err == ESP_OK ? FC_OK : FC_ERR_FLASH_IO;
}

int port_store_load(struct port_identity *out) {
    size_t n = sizeof *out;
    int rc = read_blob(KEY_IDENTITY, out, &n);
    return rc == FC_OK && n != sizeof *out ? FC_ERR_NOT_IN_BANK : rc;
}

int port_store_save(const struct port_identity *identity) {
    int rc = write_blob(KEY_IDENTITY, identity, sizeof *identity);
    nvs_handle_t nvs;
    if (rc == FC_OK && nvs_open(SPACE, NVS_READWRITE, &nvs) == ESP_OK) {
        nvs_erase_key(nvs, KEY_TICKET); /* used up; the backend would refuse it as well */
        nvs_commit(nvs);
        nvs_close(nvs);
    }
    return rc;
}

int port_store_ticket_save(const char *text, size_t n) {
    struct port_ticket ticket;
    if (n > TICKET_MAX || enrol_ticket_parse(text, n, &ticket) != FC_OK)
        return FC_ERR_SCHEMA;
    return write_blob(KEY_TICKET, text, n);
}

int port_store_ticket(struct port_ticket *out) {
    static const char BUILT_IN[] = CONFIG_TINYFLEET_TICKET;
    char text[TICKET_MAX];
    size_t n = sizeof text;
    if (read_blob(KEY_TICKET, text, &n) == FC_OK)
        return enrol_ticket_parse(text, n, out);
    if (sizeof BUILT_IN > 1)
        return enrol_ticket_parse(BUILT_IN, sizeof BUILT_IN - 1, out);
    return FC_ERR_NOT_IN_BANK;
}

/* The counter is signed into every report: it must have been stored before it is used. */
int port_store_count_boot(uint32_t *boot) {
    nvs_handle_t nvs;
    *boot = 0;
    if (nvs_open(SPACE, NVS_READWRITE, &nvs) != ESP_OK)
        return FC_ERR_FLASH_IO;
    esp_err_t err = nvs_get_u32(nvs, KEY_BOOT, boot);
    if (err == ESP_OK || err == ESP_ERR_NVS_NOT_FOUND) {
        err = *boot < INT32_MAX ? nvs_set_u32(nvs, KEY_BOOT, *boot + 1u) : ESP_FAIL;
        if (err == ESP_OK)
            err = nvs_commit(nvs);
        *boot += 1u;
    }
    nvs_close(nvs);
    return err == ESP_OK ? FC_OK : FC_ERR_FLASH_IO;
}

void port_store_pop(char *out, size_t room) {
    nvs_handle_t nvs;
    size_t n = room;
    bool found = false;
    if (nvs_open(SPACE, NVS_READONLY, &nvs) == ESP_OK) {
        found = nvs_get_str(nvs, KEY_POP, out, &n) == ESP_OK;
        nvs_close(nvs);
    }
    if (!found) {
        strncpy(out, CONFIG_TINYFLEET_PROV_POP, room - 1u);
        out[room - 1u] = 0;
    }
}
