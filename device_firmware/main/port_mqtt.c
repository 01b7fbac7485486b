/* port_mqtt.c: one TLS connection by esp-mqtt.
 *
 * esp-mqtt holds its lock while it connects (seconds) and while it calls our handler. Were the
 * core's task to call into it, it would stand still during a TLS handshake, and for ever when the
 * handler waits for that very task. So: what goes out is put into a bounded buffer, never waited
 * for, and the task `uplink` alone calls the client. What comes in is joined in one of two buffers;
 * with both full the handler waits, the client stops reading, and TCP holds the broker back.
 */
#include <string.h>

#include "esp_log.h"
#include "fleet_core/reassemble.h"
#include "freertos/FreeRTOS.h"
#include "freertos/message_buffer.h"
#include "freertos/queue.h"
#include "freertos/task.h"
#include "mqtt_client.h"
#include "sdkconfig.h"

#include "port.h"

#define RX_BUFFERS 2u
#define RX_BYTES CONFIG_TINYFLEET_RX_BYTES
#define INBOX 16u
#define LOAD_MAX FC_REPORTED_MAX
#define RETRY_MS 200u
#define RETRIES 50u
#define TRACKED 16u /* publishes under way; the core has at most 8 batches and a few others */

_Static_assert(RX_BYTES >= FC_SECTOR, "a chunk fits a receive buffer");

enum verb { VERB_PUBLISH, VERB_WATCH, VERB_UNWATCH, VERB_RECONNECT };
struct order {
    uint8_t verb, qos, retain, topic_n; /* topic_n <= FC_TOPIC_MAX */
    int32_t token;
    char topic[FC_TOPIC_MAX + 1u];
    uint8_t load[LOAD_MAX];
};
#define ORDER_HEAD offsetof(struct order, load)

/* A publish, from the order until its acknowledgement. The two may be told in either order. */
struct track {
    int32_t token; /* 0 = not told yet */
    int msg_id;    /* 0 = free */
    uint8_t acked, is_report;
};

static esp_mqtt_client_handle_t s_client;
static MessageBufferHandle_t s_orders;
static QueueHandle_t s_inbox, s_free; /* events for `fleet`; numbers of free receive buffers */
static uint8_t s_rx[RX_BUFFERS][RX_BYTES];
static struct fc_pieces s_pieces;
static uint8_t s_filling; /* the buffer that s_pieces writes to, RX_BUFFERS = none */
static char s_topic[RX_BUFFERS][FC_TOPIC_MAX + 1u];
static bool s_broke;         /* the last connection ended against our will */
static volatile bool s_wish; /* we asked for the disconnection */
static int32_t s_token;
static volatile bool s_reported;
static struct track s_track[TRACKED];
static portMUX_TYPE s_lock = portMUX_INITIALIZER_UNLOCKED;
static char s_will_topic[FC_TOPIC_MAX + 1u];

/* --- in: the client's task ----------------------------------------------------------- */

/* False only when `fleet` has stood still for so long that the watchdog will have its say. */
static bool post(const struct port_event *event) {
    return xQueueSend(s_inbox, event, pdMS_TO_TICKS(10000)) == pdTRUE;
}

static void on_data(const esp_mqtt_event_t *e) {
    struct port_event event = {.kind = PORT_MESSAGE};
    if (e->data_len < 0 || e->total_data_len < 0 || e->current_data_offset < 0 || e->topic_len < 0)
        return;
    if (s_filling == RX_BUFFERS) {
        if (xQueueReceive(s_free, &s_filling, pdMS_TO_TICKS(10000)) != pdTRUE) {
            s_filling = RX_BUFFERS;
            return; /* the message is lost; chunks and documents are asked for again */
        }
        s_pieces.bytes = s_rx[s_filling];
    }
    if (fc_pieces_put(&s_pieces, e->topic, (size_t)e->topic_len, (const uint8_t *)e->data,
                      (uint32_t)e->data_len, (uint32_t)e->current_data_offset,
                      (uint32_t)e->total_data_len) != 1)
        return;
    memcpy(s_topic[s_filling], s_pieces.topic, sizeof s_pieces.topic);
    event.buffer = s_filling;
    event.topic = s_topic[s_filling];
    event.topic_n = s_pieces.topic_len;
    event.bytes = s_rx[s_filling];
    event.n = s_pieces.total;
    if (post(&event))
        s_filling = RX_BUFFERS;
}

/* One half of a pair (token, acknowledged) is known; post when both are. */
static void note(int msg_id, int32_t token, bool acked, bool is_report) {
    struct port_event event = {.kind = PORT_SENT};
    struct track *t = NULL;
    bool reported = false;
    taskENTER_CRITICAL(&s_lock);
    for (unsigned i = 0; i < TRACKED && !t; i++)
        t = s_track[i].msg_id == msg_id ? &s_track[i] : NULL;
    for (unsigned i = 0; i < TRACKED && !t; i++)
        t = s_track[i].msg_id == 0 ? &s_track[i] : NULL;
    for (unsigned i = 0; i < TRACKED && !t;
         i++) /* acknowledged after a new connection: told anew */
        t = s_track[i].token == 0 ? memset(&s_track[i], 0, sizeof s_track[i]) : NULL;
    if (t) {
        t->msg_id = msg_id;
        t->token = token ? token : t->token;
        t->acked |= acked;
        t->is_report |= is_report;
        if (t->token && t->acked) {
            event.token = t->token;
            reported = t->is_report;
            memset(t, 0, sizeof *t);
        }
    }
    taskEXIT_CRITICAL(&s_lock);
    s_reported = s_reported || reported;
    if (event.token)
        post(&event);
}

static void forget_tracks(void) {
    taskENTER_CRITICAL(&s_lock);
    memset(s_track, 0, sizeof s_track);
    taskEXIT_CRITICAL(&s_lock);
}

static void on_event(void *arg, esp_event_base_t base, int32_t id, void *data) {
    const esp_mqtt_event_t *e = data;
    struct port_event event = {0};
    (void)arg;
    (void)base;
    switch ((esp_mqtt_event_id_t)id) {
    case MQTT_EVENT_CONNECTED:
        event.kind = PORT_UP;
        /* A broker that died may keep the session and forget what it acknowledged (DESIGN.md). */
        event.fresh = !e->session_present || s_broke;
        s_broke = false;
        s_wish = false;
        post(&event);
        break;
    case MQTT_EVENT_DISCONNECTED:
        fc_pieces_reset(&s_pieces);
        s_broke = s_broke || !s_wish;
        event.kind = PORT_DOWN;
        post(&event);
        break;
    case MQTT_EVENT_DATA:
        on_data(e);
        break;
    case MQTT_EVENT_PUBLISHED:
        note(e->msg_id, 0, true, false);
        break;
    case MQTT_EVENT_DELETED: /* it expired in the client's outbox: what was told as sent was not */
        s_broke = true;
        break;
    default:
        break;
    }
}

/* --- out: the fleet task puts, the uplink task takes --------------------------------- */

static struct order s_put;  /* fleet task only */
static struct order s_take; /* uplink task only */

static int put_order(uint8_t verb, const char *topic, const uint8_t *p, size_t n) {
    size_t topic_n = strlen(topic);
    if (topic_n > FC_TOPIC_MAX || n > LOAD_MAX)
        return FC_ERR_TOO_LARGE;
    s_put.verb = verb;
    s_put.topic_n = (uint8_t)topic_n;
    memcpy(s_put.topic, topic, topic_n + 1u);
    if (n)
        memcpy(s_put.load, p, n);
    return xMessageBufferSend(s_orders, &s_put, ORDER_HEAD + n, 0) ? FC_OK : FC_ERR_FULL;
}

int port_mqtt_send(void *ctx, const char *topic, const uint8_t *p, size_t n, int qos, int retain) {
    (void)ctx;
    s_put.qos = (uint8_t)qos;
    s_put.retain = (uint8_t)retain;
    s_put.token = s_token = s_token < INT32_MAX ? s_token + 1 : 1;
    int rc = put_order(VERB_PUBLISH, topic, p, n);
    return rc == FC_OK ? s_token : rc;
}

int port_mqtt_watch(void *ctx, const char *filter, int qos) {
    (void)ctx;
    s_put.qos = (uint8_t)qos;
    return put_order(VERB_WATCH, filter, NULL, 0);
}

int port_mqtt_unwatch(void *ctx, const char *filter) {
    (void)ctx;
    return put_order(VERB_UNWATCH, filter, NULL, 0);
}

int port_mqtt_reconnect(void *ctx) {
    (void)ctx;
    return put_order(VERB_RECONNECT, "", NULL, 0);
}

/* Into the client's own outbox, which is bounded too. QoS 0 with store would trickle out once a
 * second; the core sends QoS 1 only. */
static void publish(const struct order *o, size_t n) {
    static const char REPORTED[] = "/reported";
    size_t tail = sizeof REPORTED - 1u;
    bool is_report = o->topic_n > tail && memcmp(o->topic + o->topic_n - tail, REPORTED, tail) == 0;
    int id = -1;
    for (unsigned i = 0; i < RETRIES; i++) {
        id = esp_mqtt_client_enqueue(s_client, o->topic, (const char *)o->load, (int)n, o->qos,
                                     o->retain, true);
        if (id >= 0)
            break;
        vTaskDelay(
            pdMS_TO_TICKS(RETRY_MS)); /* -2: the outbox is full; the core sees FULL meanwhile */
    }
    if (id > 0)
        note(id, o->token, false, is_report);
    else if (o->qos)
        esp_mqtt_client_disconnect(
            s_client); /* the core starts over with what was not acknowledged */
}

static void uplink_task(void *arg) {
    (void)arg;
    for (;;) {
        size_t n = xMessageBufferReceive(s_orders, &s_take, sizeof s_take, portMAX_DELAY);
        if (n < ORDER_HEAD)
            continue;
        switch (s_take.verb) {
        case VERB_PUBLISH:
            publish(&s_take, n - ORDER_HEAD);
            break;
        case VERB_WATCH: /* fails while there is no connection: the core asks again with the next */
            esp_mqtt_client_subscribe_single(s_client, s_take.topic, s_take.qos);
            break;
        case VERB_UNWATCH:
            esp_mqtt_client_unsubscribe(s_client, s_take.topic);
            break;
        default:
            s_wish = true;
            esp_mqtt_client_disconnect(s_client); /* connects again by itself after a pause */
            break;
        }
    }
}

/* --- the fleet task ------------------------------------------------------------------ */

bool port_mqtt_next(struct port_event *out, uint32_t wait_ms) {
    if (xQueueReceive(s_inbox, out, pdMS_TO_TICKS(wait_ms)) != pdTRUE)
        return false;
    if (out->kind == PORT_DOWN)
        forget_tracks();
    return true;
}

void port_mqtt_release(const struct port_event *event) {
    if (event->kind == PORT_MESSAGE)
        xQueueSend(s_free, &event->buffer, 0);
}

bool port_mqtt_reported(void) {
    return s_reported;
}

int port_mqtt_open(const struct port_identity *me) {
    static const char OFFLINE[3] = {(char)0xA1, 0,
                                    0}; /* {0: 0}; has a zero inside: give its length */
    s_orders = xMessageBufferCreate(CONFIG_TINYFLEET_OUTBOX_BYTES);
    s_inbox = xQueueCreate(INBOX, sizeof(struct port_event));
    s_free = xQueueCreate(RX_BUFFERS, sizeof(uint8_t));
    if (!s_orders || !s_inbox || !s_free)
        return FC_ERR_LOW_HEAP;
    for (uint8_t i = 0; i < RX_BUFFERS; i++)
        xQueueSend(s_free, &i, 0);
    s_filling = RX_BUFFERS;
    fc_pieces_begin(&s_pieces, NULL, RX_BYTES);
    strcpy(s_will_topic, "f1/dev/"); /* 7 + 32 + 7 < FC_TOPIC_MAX */
    strcat(s_will_topic, me->device_id);
    strcat(s_will_topic, "/online");
    esp_mqtt_client_config_t config = {
        .broker.address = {.hostname = me->host,
                           .port = me->port,
                           .transport = MQTT_TRANSPORT_OVER_SSL},
        .broker.verification.certificate = me->ca, /* PEM: length 0, it ends in a zero */
        .credentials = {.username = me->user,
                        .client_id = me->device_id,
                        .authentication.password = me->secret},
        .session = {.last_will = {.topic = s_will_topic,
                                  .msg = OFFLINE,
                                  .msg_len = sizeof OFFLINE,
                                  .qos = 1,
                                  .retain = 1},
                    .disable_clean_session = true,
                    .keepalive = 60,
                    .protocol_ver = MQTT_PROTOCOL_V_3_1_1},
        .network = {.reconnect_timeout_ms = 5000, .timeout_ms = 8000},
        .buffer = {.size = 2048, .out_size = 2560},
        .task = {.priority = 5, .stack_size = 6144},
        .outbox.limit = 8192,
    };
    s_client = esp_mqtt_client_init(&config);
    if (!s_client ||
        esp_mqtt_client_register_event(s_client, MQTT_EVENT_ANY, on_event, NULL) != ESP_OK ||
        xTaskCreate(uplink_task, "uplink", 4096, NULL, 4, NULL) != pdPASS)
        return FC_ERR_LOW_HEAP;
    return esp_mqtt_client_start(s_client) == ESP_OK ? FC_OK : FC_ERR_PORT;
}
