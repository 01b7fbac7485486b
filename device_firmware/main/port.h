/* port.h: what the files of this ESP32 application offer each other.
 *
 * Tasks (README, "Tasks and stacks"): `fleet` owns the core and the engine and is the only one that
 * calls into them; `uplink` talks to the MQTT client; the client's own task and `sense` only post
 * to `fleet`. So no lock is ever held while another is waited for.
 */
#ifndef MAIN_PORT_H
#define MAIN_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fleet_core/core.h"

struct fc_app;

#define PORT_TAG "tinyfleet"
#define PORT_CA_MAX 4096u   /* PEM of the broker's authority, its zero included */
#define PORT_HOST_MAX 128u  /* DNS name, its zero included */
#define PORT_TOKEN_MAX 129u /* enrolment token, its zero included */
#define PORT_URL_MAX 160u

/* What enrolment gave (SPEC.md section 10). Lies in NVS; the boot counter lies beside it. */
struct port_identity {
    char device_id[33];
    char user[33];
    char secret[65];
    char host[PORT_HOST_MAX];
    uint16_t port;
    uint8_t installation[16];
    uint8_t class_id[16];
    uint8_t mac_key[32];
    uint8_t roots[4][32];
    uint8_t n_roots, root_threshold;
    uint32_t least_trust_version;
    uint32_t arena_bytes; /* of the class; the build's own must equal it */
    char device_class[33];
    char ca[PORT_CA_MAX];
};

/* The right to enrol once: a line of `manage.py devices enrol`. */
struct port_ticket {
    char device_id[33];
    char token[PORT_TOKEN_MAX];
    char device_class[33];
    char url[PORT_URL_MAX];
};

/* --- enrol_json.c: portable, tested on the host -------------------------------------- */

/* FC_OK, or FC_ERR_SCHEMA: not the JSON that SPEC.md section 10 describes. */
int enrol_ticket_parse(const char *text, size_t n, struct port_ticket *out);
int enrol_answer_parse(const char *text, size_t n, struct port_identity *out);
/* The request's body, ending in a zero. FC_ERR_TOO_LARGE when it does not fit. */
int enrol_request_write(const struct port_ticket *t, const char *chip, const char *firmware,
                        char *out, size_t room);

/* --- class_id.c: portable, tested on the host ---------------------------------------- */

struct class_description {
    const char *name; /* of the class, 1 .. 32 bytes */
    uint8_t chip;
    uint32_t arena_bytes;
    const uint32_t *slot_bytes; /* room for model and golden blob, whole chunks */
    uint32_t n_slots;
    const uint8_t *ops; /* CBOR array */
    size_t ops_n;
    const char *esp_nn;
};
#define CLASS_DESCRIPTION_MAX (FC_OPS_BYTES_MAX + 160u)

/* Bytes of a bank that a model and its golden blob may take (SPEC.md section 8). */
uint32_t class_slot_bytes(uint32_t bank_bytes);
/* SPEC.md section 9. The number of bytes, 0 when something is out of bounds. */
size_t class_describe(const struct class_description *d, uint8_t out[CLASS_DESCRIPTION_MAX]);

/* --- port_store.c: NVS --------------------------------------------------------------- */

int port_store_open(void);
/* FC_ERR_NOT_IN_BANK: not enrolled yet. */
int port_store_load(struct port_identity *out);
int port_store_save(const struct port_identity *identity);
int port_store_ticket(struct port_ticket *out);
int port_store_ticket_save(const char *text, size_t n);
/* Counts this boot, durably, before anything is signed with the new number. */
int port_store_count_boot(uint32_t *boot);
/* Proof of possession for provisioning: from the factory partition data, or "". */
void port_store_pop(char *out, size_t room);

/* --- port_enrol.c -------------------------------------------------------------------- */

/* One try over HTTPS. FC_OK, FC_ERR_NO_LINK (try again later), FC_ERR_TRUST (refused: the ticket is
 * of no use), FC_ERR_SCHEMA. */
int port_enrol(const struct port_ticket *ticket, struct port_identity *out);

/* --- port_net.c ---------------------------------------------------------------------- */

/* Wi-Fi station, provisioning when there are no credentials, SNTP. Returns at once. */
int port_net_open(void);
bool port_net_wait(uint32_t ms); /* true: there is an address */
uint64_t port_net_unix_s(void);  /* 0 = SNTP has not answered since power-up */
int port_net_rssi(void);

/* --- port_mqtt.c --------------------------------------------------------------------- */

enum port_event_kind { PORT_UP, PORT_DOWN, PORT_MESSAGE, PORT_SENT };
struct port_event {
    uint8_t kind;
    uint8_t fresh;    /* PORT_UP: the broker may have forgotten something */
    uint8_t buffer;   /* PORT_MESSAGE: give it back by port_mqtt_release() */
    uint16_t topic_n; /* PORT_MESSAGE */
    uint32_t n;
    int32_t token; /* PORT_SENT */
    const char *topic;
    const uint8_t *bytes;
};
int port_mqtt_open(const struct port_identity *identity);
bool port_mqtt_next(struct port_event *out, uint32_t wait_ms);
void port_mqtt_release(const struct port_event *event);
int port_mqtt_send(void *, const char *topic, const uint8_t *p, size_t n, int qos, int retain);
int port_mqtt_watch(void *, const char *filter, int qos);
int port_mqtt_unwatch(void *, const char *filter);
int port_mqtt_reconnect(void *);
bool port_mqtt_reported(void); /* a `reported` was acknowledged since power-up or reset */

/* --- port_flash.c, port_crypto.c, port_engine.c, port_system.c: parts of the HAL ----- */

int port_flash_open(struct fc_hal *hal);
uint32_t port_flash_slots(void); /* banks that the partition table has */
int port_crypto_open(struct fc_hal *hal, const uint8_t mac_key[32]);
void port_crypto_sha256(const void *p, size_t n, uint8_t out[32]);
int port_engine_open(struct fc_hal *hal, uint32_t *arena_bytes, const uint8_t **ops, size_t *ops_n);
int port_system_open(struct fc_hal *hal);
uint8_t port_system_chip(void);
const char *port_system_chip_name(void);
void port_system_watch(void); /* put the calling task under the task watchdog */
void port_system_feed(void);
/* The image that runs has proved itself: keep it. Nothing happens when it was confirmed before. */
void port_system_confirm_image(void);

/* --- inference.c: from samples to records, by the core's pipelines -------------------- */

int inference_open(void);
/* Moves samples on and runs at most one window of each fed slot. apps: as given to fc_core_boot().
 */
void inference_step(struct fc_core *core, struct fc_app *const *apps);

#endif
