/* mqtt_mini.c: see mqtt_mini.h. Standard: OASIS MQTT 3.1.1; [MQTT-x.y.z-n] are its rules. */
#include "mqtt_mini.h"

#include <string.h>

#define LENGTH_MAX 268435455u /* 2^28 - 1: four bytes of seven bits */

/* --- reading --------------------------------------------------------------------------
 * Everything read comes from the broker or from whoever holds the wire. Bound: mq_read() looks at
 * no more than n bytes, and body_n <= most - 2 < 2^28, so no sum below wraps a size_t of 32 bits.
 */

static uint16_t get16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

/* The length field behind the first byte. Its bytes (1..4), 0 = not whole, or MQ_ERR_LENGTH. */
static int read_length(const uint8_t *p, size_t n, uint32_t *out) {
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        if ((size_t)i + 1 >= n)
            return 0;
        uint8_t b = p[1 + i];
        v |= (uint32_t)(b & 0x7Fu) << (7 * i);
        if (!(b & 0x80u)) {
            *out = v;
            return i && !b ? MQ_ERR_LENGTH : i + 1; /* a last byte of 0 is not the shortest form */
        }
    }
    return MQ_ERR_LENGTH;
}

static int read_connack(uint8_t flags, const uint8_t *p, size_t n, struct mq_packet *out) {
    if (flags || n != 2 || p[0] > 1 || p[1] > 5 || (p[0] && p[1]))
        return MQ_ERR_FORM;
    out->session = p[0];
    out->code = p[1];
    return MQ_PACKET;
}

static int is_topic(const char *p, size_t n) {
    return n && !memchr(p, 0, n) && !memchr(p, '+', n) && !memchr(p, '#', n);
}

static int read_publish(uint8_t flags, const uint8_t *p, size_t n, struct mq_packet *out) {
    out->retain = flags & 1u;
    out->qos = flags >> 1 & 3u;
    out->dup = flags >> 3;
    if (out->qos > 1 || (out->dup && !out->qos) || n < 2)
        return MQ_ERR_FORM;
    out->topic_n = get16(p);
    if (out->topic_n > n - 2)
        return MQ_ERR_FORM;
    out->topic = (const char *)p + 2;
    if (!is_topic(out->topic, out->topic_n))
        return MQ_ERR_FORM;
    p += 2 + out->topic_n;
    n -= 2 + out->topic_n;
    if (out->qos) {
        if (n < 2 || !get16(p))
            return MQ_ERR_FORM;
        out->id = get16(p);
        p += 2;
        n -= 2;
    }
    out->payload = p;
    out->payload_n = n;
    return MQ_PACKET;
}

static int read_ack(uint8_t flags, const uint8_t *p, size_t n, struct mq_packet *out) {
    if (flags || n != 2 || !get16(p))
        return MQ_ERR_FORM;
    out->id = get16(p);
    return MQ_PACKET;
}

static int read_suback(uint8_t flags, const uint8_t *p, size_t n, struct mq_packet *out) {
    if (flags || n < 3 || !get16(p))
        return MQ_ERR_FORM;
    out->id = get16(p);
    for (size_t i = 2; i < n; i++) {
        if (p[i] > 2 && p[i] != 0x80u)
            return MQ_ERR_FORM;
        if (p[i] == 0x80u || i == 2)
            out->code = p[i]; /* one refused filter is told, wherever it stands */
    }
    return MQ_PACKET;
}

int mq_read(const uint8_t *p, size_t n, size_t most, struct mq_packet *out, size_t *used) {
    uint32_t body_n = 0;
    memset(out, 0, sizeof *out);
    *used = 0;
    if (!n)
        return MQ_MORE;
    int head = read_length(p, n, &body_n);
    if (head <= 0)
        return head ? MQ_ERR_LENGTH : MQ_MORE;
    size_t whole = 1u + (size_t)head + body_n;
    if (whole > most)
        return MQ_ERR_LENGTH;
    *used = whole;
    if (n < whole)
        return MQ_MORE;
    const uint8_t *body = p + 1 + head;
    uint8_t flags = p[0] & 15u;
    out->type = p[0] >> 4;
    switch (out->type) {
    case MQ_CONNACK:
        return read_connack(flags, body, body_n, out);
    case MQ_PUBLISH:
        return read_publish(flags, body, body_n, out);
    case MQ_PUBACK:
    case MQ_UNSUBACK:
        return read_ack(flags, body, body_n, out);
    case MQ_SUBACK:
        return read_suback(flags, body, body_n, out);
    case MQ_PINGRESP:
        return flags || body_n ? MQ_ERR_FORM : MQ_PACKET;
    default:
        return MQ_ERR_TYPE;
    }
}

/* --- writing -------------------------------------------------------------------------- */

/* A writer that counts on after its buffer is full, so that one check at the end is enough. The
 * count cannot wrap: texts are <= 65535 bytes, a body is bounded before it is added. */
struct out {
    uint8_t *p;
    size_t cap, n;
};

static void put(struct out *o, const void *src, size_t n) {
    if (n && o->n <= o->cap && n <= o->cap - o->n)
        memcpy(o->p + o->n, src, n);
    o->n += n;
}

static void put8(struct out *o, uint8_t v) {
    put(o, &v, 1);
}

static void put16(struct out *o, size_t v) {
    put8(o, (uint8_t)(v >> 8));
    put8(o, (uint8_t)v);
}

static void put_text(struct out *o, const void *text, size_t n) {
    put16(o, n);
    put(o, text, n);
}

static struct out begin(uint8_t *p, size_t cap, unsigned first, size_t body_n) {
    struct out o = {p, cap, 0};
    put8(&o, (uint8_t)first);
    do {
        uint8_t low = body_n & 0x7Fu;
        body_n >>= 7;
        put8(&o, (uint8_t)(low | (body_n ? 0x80u : 0u)));
    } while (body_n);
    return o;
}

static size_t end(const struct out *o) {
    return o->n <= o->cap ? o->n : 0;
}

/* Length of a text that a field can hold, 0 for none. */
static size_t text_n(const char *text) {
    size_t n = text ? strlen(text) : 0;
    return n <= UINT16_MAX ? n : 0;
}

size_t mq_put_connect(uint8_t *out, size_t cap, const struct mq_hello *h) {
    size_t id_n = text_n(h->client_id), will_topic_n = text_n(h->will_topic);
    size_t user_n = text_n(h->user), secret_n = text_n(h->secret), body_n = 10 + 2 + id_n;
    unsigned flags = h->clean ? 2u : 0u;
    if (!id_n || (h->user && !user_n) || (h->secret && !secret_n) || !h->user != !h->secret)
        return 0;
    if (h->will_topic) {
        if (!will_topic_n || h->will_n > UINT16_MAX)
            return 0;
        flags |= 4u | 1u << 3 | 1u << 5; /* will, QoS 1, retained */
        body_n += 2 + will_topic_n + 2 + h->will_n;
    }
    if (h->user) {
        flags |= 0x80u | 0x40u;
        body_n += 2 + user_n + 2 + secret_n;
    }
    struct out o = begin(out, cap, MQ_CONNECT << 4, body_n);
    put_text(&o, "MQTT", 4);
    put8(&o, 4); /* protocol level of 3.1.1 */
    put8(&o, (uint8_t)flags);
    put16(&o, h->keepalive_s);
    put_text(&o, h->client_id, id_n);
    if (h->will_topic) {
        put_text(&o, h->will_topic, will_topic_n);
        put_text(&o, h->will, h->will_n);
    }
    if (h->user) {
        put_text(&o, h->user, user_n);
        put_text(&o, h->secret, secret_n);
    }
    return end(&o);
}

size_t mq_put_publish(uint8_t *out, size_t cap, const char *topic, const uint8_t *payload, size_t n,
                      int qos, int retain, uint16_t id) {
    size_t topic_n = text_n(topic), extra = 2u + topic_n + (qos ? 2u : 0u);
    if (!is_topic(topic, topic_n) || n > LENGTH_MAX - extra || qos < 0 || qos > 1 || (qos && !id))
        return 0;
    struct out o =
        begin(out, cap, MQ_PUBLISH << 4 | (unsigned)qos << 1 | (retain ? 1u : 0u), extra + n);
    put_text(&o, topic, topic_n);
    if (qos)
        put16(&o, id);
    put(&o, payload, n);
    return end(&o);
}

size_t mq_put_subscribe(uint8_t *out, size_t cap, const char *filter, int qos, uint16_t id) {
    size_t n = text_n(filter);
    if (!n || !id || qos < 0 || qos > 1)
        return 0;
    struct out o = begin(out, cap, MQ_SUBSCRIBE << 4 | 2u, 2 + 2 + n + 1);
    put16(&o, id);
    put_text(&o, filter, n);
    put8(&o, (uint8_t)qos);
    return end(&o);
}

size_t mq_put_unsubscribe(uint8_t *out, size_t cap, const char *filter, uint16_t id) {
    size_t n = text_n(filter);
    if (!n || !id)
        return 0;
    struct out o = begin(out, cap, MQ_UNSUBSCRIBE << 4 | 2u, 2 + 2 + n);
    put16(&o, id);
    put_text(&o, filter, n);
    return end(&o);
}

size_t mq_put_puback(uint8_t *out, size_t cap, uint16_t id) {
    if (!id)
        return 0;
    struct out o = begin(out, cap, MQ_PUBACK << 4, 2);
    put16(&o, id);
    return end(&o);
}

size_t mq_put_ping(uint8_t *out, size_t cap) {
    struct out o = begin(out, cap, MQ_PINGREQ << 4, 0);
    return end(&o);
}

size_t mq_put_disconnect(uint8_t *out, size_t cap) {
    struct out o = begin(out, cap, MQ_DISCONNECT << 4, 0);
    return end(&o);
}
