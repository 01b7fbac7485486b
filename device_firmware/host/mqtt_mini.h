/* mqtt_mini.h: the packets of MQTT 3.1.1 that a device sends and receives, as bytes in and bytes
 * out. Freestanding: no malloc, no sockets, no globals; the caller owns every buffer and the order
 * of packets. Used by the swarm and by the emulated device; ESP32 boards use esp-mqtt.
 *
 *   packet = type/flags u8, remaining length (1..4 bytes of 7 bits, least first), body
 *   text   = length u16be, bytes
 */
#ifndef FLEET_HOST_MQTT_MINI_H
#define FLEET_HOST_MQTT_MINI_H

#include <stddef.h>
#include <stdint.h>

enum mq_type {
    MQ_CONNECT = 1,
    MQ_CONNACK,
    MQ_PUBLISH,
    MQ_PUBACK,
    MQ_SUBSCRIBE = 8,
    MQ_SUBACK,
    MQ_UNSUBSCRIBE,
    MQ_UNSUBACK,
    MQ_PINGREQ,
    MQ_PINGRESP,
    MQ_DISCONNECT,
};

enum mq_result {
    MQ_ERR_LENGTH = -3, /* a length field that is too long, not shortest, or above the bound */
    MQ_ERR_TYPE = -2,   /* a packet that no broker sends to this client */
    MQ_ERR_FORM = -1,   /* fields, flags or sizes that the standard forbids */
    MQ_MORE = 0,        /* the packet is not whole yet */
    MQ_PACKET = 1,
};

/* One received packet. Pointers go into the caller's bytes. */
struct mq_packet {
    uint8_t type;             /* enum mq_type */
    uint8_t qos, dup, retain; /* PUBLISH; qos 0 or 1 */
    uint8_t session;          /* CONNACK: the broker kept a session */
    uint8_t code;             /* CONNACK: 0 accepted; SUBACK: the first code, 0x80 refused */
    uint16_t id;              /* PUBLISH with qos 1, PUBACK, SUBACK, UNSUBACK; never 0 */
    const char *topic;        /* PUBLISH; not terminated */
    size_t topic_n;           /* 1..65535 */
    const uint8_t *payload;
    size_t payload_n;
};

/* Reads the packet that begins at p. most = largest whole packet that the caller can hold, < 2^28.
 *   MQ_PACKET  *out is filled, *used = its bytes
 *   MQ_MORE    not whole: *used = bytes of the whole packet once its length is known, else 0
 *   MQ_ERR_*   the connection cannot be trusted to be in step any more: close it */
int mq_read(const uint8_t *p, size_t n, size_t most, struct mq_packet *out, size_t *used);

/* What a client says of itself. will_topic NULL = no will; the will is QoS 1 and retained. */
struct mq_hello {
    const char *client_id, *user, *secret; /* user and secret: both or none */
    const char *will_topic;
    const uint8_t *will;
    size_t will_n;
    uint16_t keepalive_s;
    uint8_t clean; /* 0 = the broker keeps the session */
};

/* Writers: bytes written, or 0 when they do not fit `cap` or the arguments make no legal packet
 * (empty or too long text, a wildcard in a published topic, id 0 where one is needed). */
size_t mq_put_connect(uint8_t *out, size_t cap, const struct mq_hello *hello);
/* qos 0 or 1; id is used with qos 1 only. */
size_t mq_put_publish(uint8_t *out, size_t cap, const char *topic, const uint8_t *payload, size_t n,
                      int qos, int retain, uint16_t id);
size_t mq_put_subscribe(uint8_t *out, size_t cap, const char *filter, int qos, uint16_t id);
size_t mq_put_unsubscribe(uint8_t *out, size_t cap, const char *filter, uint16_t id);
size_t mq_put_puback(uint8_t *out, size_t cap, uint16_t id);
size_t mq_put_ping(uint8_t *out, size_t cap);
size_t mq_put_disconnect(uint8_t *out, size_t cap);

#endif
