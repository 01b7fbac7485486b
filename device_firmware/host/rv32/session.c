/* session.c: see session.h. */
#include "session.h"

#include <string.h>

#include "fleet_core/codes.h"

#define QUIET_MS 200u   /* no byte for so long: what was on the line has drained */
#define ANSWER_MS 1200u /* for CONNACK, at first; QEMU renews a connection after a second */
#define ANSWER_MAX_MS 10000u
#define PING_MS 5000u
#define SILENT_MS 12000u
#define BUSY_MS 5u

void session_open(struct session *s, struct uart uart, const struct mq_hello *hello,
                  const struct session_owner *owner) {
    memset(s, 0, sizeof *s);
    s->uart = uart;
    s->hello = *hello;
    s->owner = *owner;
    s->patience_ms = ANSWER_MS;
}

static void enter(struct session *s, enum session_state state, uint64_t now_ms) {
    s->state = state;
    s->since_ms = s->heard_ms = s->pinged_ms = now_ms;
    s->n_in = 0;
}

static void lose(struct session *s, uint64_t now_ms) {
    int was_up = s->state == SESSION_UP;
    s->has_broken |= (uint8_t)was_up;
    enter(s, SESSION_DOWN, now_ms);
    if (was_up)
        s->owner.down(s->owner.ctx);
}

static int put(struct session *s, size_t n) {
    if (!n)
        return FC_ERR_PORT;
    uart_write(s->uart, s->out, n);
    return FC_OK;
}

/* The line is emptied before CONNECT: bytes of the connection before would be read as an answer. */
static int connect_when_quiet(struct session *s, uint64_t now_ms) {
    uint8_t old[64];
    if (uart_read(s->uart, old, sizeof old))
        s->since_ms = now_ms;
    if (now_ms - s->since_ms < QUIET_MS)
        return 0;
    memset(s->inflight, 0, sizeof s->inflight);
    put(s, mq_put_connect(s->out, sizeof s->out, &s->hello));
    enter(s, SESSION_ASKED, now_ms);
    return 0;
}

static uint16_t new_id(struct session *s) {
    s->last_id = s->last_id == UINT16_MAX ? 1 : (uint16_t)(s->last_id + 1);
    return s->last_id;
}

static void acknowledged(struct session *s, uint16_t id) {
    for (uint32_t i = 0; i < SESSION_INFLIGHT; i++) {
        if (s->inflight[i] == id) {
            s->inflight[i] = 0;
            s->owner.sent(s->owner.ctx, id);
            return;
        }
    }
}

/* The broker is not trusted; mq_read() bounds every length, and what a packet says the core judges.
 * 0 = the connection is of no use. */
static int take(struct session *s, const struct mq_packet *p, uint64_t now_ms) {
    if ((s->state == SESSION_ASKED) != (p->type == MQ_CONNACK))
        return 0;
    switch (p->type) {
    case MQ_CONNACK:
        if (p->code)
            return 0;
        enter(s, SESSION_UP, now_ms);
        s->patience_ms = ANSWER_MS;
        s->owner.up(s->owner.ctx, !p->session || s->has_broken);
        s->has_broken = 0;
        return 1;
    case MQ_PUBLISH:
        if (p->qos)
            put(s, mq_put_puback(s->out, sizeof s->out, p->id));
        s->owner.message(s->owner.ctx, p->topic, p->topic_n, p->payload, p->payload_n);
        return 1;
    case MQ_PUBACK:
        acknowledged(s, p->id);
        return 1;
    default:
        return 1;
    }
}

/* 1 = a packet was taken or the connection given up. */
static int receive(struct session *s, uint64_t now_ms) {
    struct mq_packet packet;
    size_t used = 0;
    for (;;) {
        int rc = mq_read(s->in, s->n_in, sizeof s->in, &packet, &used);
        if (rc == MQ_PACKET) {
            int is_good = take(s, &packet, now_ms);
            /* CONNACK emptied the buffer already: nothing can have come behind it. */
            size_t left = s->n_in > used ? s->n_in - used : 0;
            memmove(s->in, s->in + used, left);
            s->n_in = left;
            if (!is_good)
                lose(s, now_ms);
            return 1;
        }
        if (rc != MQ_MORE) {
            lose(s, now_ms);
            return 1;
        }
        /* Not past the end of this packet: what follows stays on the line until it is read. */
        size_t want = used ? used : s->n_in + 1;
        size_t got = uart_read(s->uart, s->in + s->n_in, want - s->n_in);
        if (!got)
            return 0;
        s->n_in += got;
        s->heard_ms = now_ms;
    }
}

int session_turn(struct session *s, uint64_t now_ms) {
    if (s->state == SESSION_DOWN)
        return connect_when_quiet(s, now_ms);
    if (receive(s, now_ms))
        return 1;
    if (s->state == SESSION_ASKED && now_ms - s->since_ms > s->patience_ms) {
        s->patience_ms = s->patience_ms < ANSWER_MAX_MS / 2 ? 2 * s->patience_ms : ANSWER_MAX_MS;
        lose(s, now_ms);
    }
    if (s->state != SESSION_UP)
        return 0;
    if (now_ms - s->heard_ms > SILENT_MS) {
        lose(s, now_ms);
    } else if (now_ms - s->heard_ms > PING_MS && now_ms - s->pinged_ms > PING_MS) {
        s->pinged_ms = now_ms;
        put(s, mq_put_ping(s->out, sizeof s->out));
    }
    return 0;
}

int session_is_busy(const struct session *s, uint64_t now_ms) {
    return s->state != SESSION_DOWN && now_ms - s->heard_ms < BUSY_MS;
}

int session_send(struct session *s, const char *topic, const uint8_t *p, size_t n, int qos,
                 int retain) {
    uint32_t place = 0;
    if (s->state != SESSION_UP)
        return FC_ERR_FULL;
    while (qos && place < SESSION_INFLIGHT && s->inflight[place])
        place++;
    if (place == SESSION_INFLIGHT)
        return FC_ERR_FULL;
    uint16_t id = new_id(s);
    if (put(s, mq_put_publish(s->out, sizeof s->out, topic, p, n, qos, retain, id)))
        return FC_ERR_PORT;
    if (qos)
        s->inflight[place] = id;
    return id;
}

int session_watch(struct session *s, const char *filter, int qos) {
    if (s->state != SESSION_UP)
        return FC_ERR_PORT;
    return put(s, mq_put_subscribe(s->out, sizeof s->out, filter, qos, new_id(s)));
}

int session_unwatch(struct session *s, const char *filter) {
    if (s->state != SESSION_UP)
        return FC_ERR_PORT;
    return put(s, mq_put_unsubscribe(s->out, sizeof s->out, filter, new_id(s)));
}

void session_drop(struct session *s, uint64_t now_ms) {
    if (s->state == SESSION_UP) {
        session_send(s, s->hello.will_topic, s->hello.will, s->hello.will_n, 0, 1);
        put(s, mq_put_disconnect(s->out, sizeof s->out));
    }
    lose(s, now_ms);
    s->has_broken = 0;
}
