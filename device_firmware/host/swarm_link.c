/* swarm_link.c: a device's connection to the broker: a non-blocking socket and mqtt_mini.c.
 *
 * As on a board the session is kept (clean = 0). A board's client library sends unacknowledged
 * publishes again; here the core does, because such a connection is called fresh.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "swarm.h"

#define KEEPALIVE_S 300u
#define ANSWER_MS 20000u /* TCP, then CONNACK, may each take so long */
#define PAUSE_MAX_MS 10000u

static const uint8_t ONLINE_LEFT[] = {0xA1, 0x00, 0x00}; /* SPEC.md section 4: {0: 0} */

static void own_topic(const struct device *d, char out[FC_TOPIC_MAX], const char *kind) {
    snprintf(out, FC_TOPIC_MAX, "f1/dev/%s/%s", d->id, kind);
}

static void ask_events(struct device *d, int op) {
    struct conn *c = &d->conn;
    struct epoll_event e = {.events = EPOLLIN | (c->writing ? (uint32_t)EPOLLOUT : 0u),
                            .data.ptr = d};
    epoll_ctl(d->swarm->epoll, op, c->fd, &e);
}

void link_plan(struct device *d, uint64_t now, uint64_t after_ms) {
    struct swarm *s = d->swarm;
    double at = (double)(now + after_ms);
    if (at < s->open_at_ms) /* no more than --rate connections a second */
        at = s->open_at_ms;
    else
        s->open_at_ms = at;
    s->open_at_ms += 1000.0 / s->opt.rate;
    d->conn.at_ms = (uint64_t)at;
}

void link_close(struct device *d, int in_order) {
    struct conn *c = &d->conn;
    uint8_t bye[128];
    char topic[FC_TOPIC_MAX];
    if (c->fd >= 0) {
        if (in_order && c->state == CONN_UP && !c->out_n) {
            own_topic(d, topic, "online");
            size_t n = mq_put_publish(bye, sizeof bye, topic, ONLINE_LEFT, 3, 1, 1,
                                      (uint16_t)(c->last_id ? c->last_id : 1));
            n += mq_put_disconnect(bye + n, sizeof bye - n);
            if (send(c->fd, bye, n, MSG_NOSIGNAL) < 0)
                in_order = 0;
        }
        close(c->fd); /* which also takes it out of epoll */
    }
    c->broken = c->broken || !in_order || c->n_inflight;
    free(c->in);
    free(c->out);
    c->in = c->out = NULL;
    c->in_n = c->out_n = 0;
    c->fd = -1;
    c->writing = 0;
    c->state = CONN_DOWN;
    memset(c->inflight, 0, sizeof c->inflight);
    c->n_inflight = 0;
}

/* The connection is gone while the device lives. */
static void lost(struct device *d, uint64_t now) {
    struct conn *c = &d->conn;
    int was_up = c->state == CONN_UP;
    link_close(d, 0);
    if (was_up) {
        d->swarm->count.connections_lost++;
        fc_link_set(&d->core, 0, 0);
    } else {
        d->swarm->count.connect_failures++;
        c->failures++;
    }
    uint64_t pause = 500ull << (c->failures < 5 ? c->failures : 5);
    pause = pause > PAUSE_MAX_MS ? PAUSE_MAX_MS : pause;
    link_plan(d, now, pause / 2 + swarm_random(&d->rng) % pause);
}

/* --- sending -------------------------------------------------------------------------- */

/* Bytes go to the socket at once when nothing waits. FC_ERR_FULL: nothing was taken. */
static int put(struct device *d, const uint8_t *p, size_t n) {
    struct conn *c = &d->conn;
    size_t done = 0;
    if (c->fd < 0 || c->state < CONN_HELLO || c->out_n + n > SWARM_OUT_MAX)
        return FC_ERR_FULL;
    if (!c->out_n) {
        ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL);
        done = sent > 0 ? (size_t)sent : 0; /* an error comes again as an event */
    }
    if (done < n) {
        if (!c->out && !(c->out = malloc(SWARM_OUT_MAX)))
            return FC_ERR_FULL;
        memcpy(c->out + c->out_n, p + done, n - done);
        c->out_n += n - done;
        if (!c->writing) {
            c->writing = 1;
            ask_events(d, EPOLL_CTL_MOD);
        }
    }
    c->sent_ms = swarm_now_ms();
    d->swarm->count.bytes_out += n;
    return FC_OK;
}

static void flush_out(struct device *d) {
    struct conn *c = &d->conn;
    if (c->out_n) {
        ssize_t sent = send(c->fd, c->out, c->out_n, MSG_NOSIGNAL);
        size_t done = sent > 0 ? (size_t)sent : 0;
        c->out_n -= done;
        memmove(c->out, c->out + done, c->out_n);
    }
    if (!c->out_n) {
        free(c->out);
        c->out = NULL;
        c->writing = 0;
        ask_events(d, EPOLL_CTL_MOD);
    }
}

static uint16_t next_id(struct conn *c) {
    for (;;) {
        uint32_t taken = 0;
        c->last_id = (uint16_t)(c->last_id == UINT16_MAX ? 1 : c->last_id + 1);
        for (uint32_t i = 0; i < SWARM_INFLIGHT; i++)
            taken += c->inflight[i] == c->last_id;
        if (!taken)
            return c->last_id;
    }
}

int link_send(struct device *d, const char *topic, const uint8_t *p, size_t n, int qos,
              int retain) {
    struct conn *c = &d->conn;
    uint8_t packet[FC_REPORTED_MAX + FC_TOPIC_MAX + 16];
    uint32_t at = 0;
    if (c->state != CONN_UP)
        return FC_ERR_FULL;
    while (at < SWARM_INFLIGHT && c->inflight[at])
        at++;
    if (qos && at == SWARM_INFLIGHT) {
        d->swarm->count.outbox_full++;
        return FC_ERR_FULL;
    }
    uint16_t id = next_id(c);
    size_t size = mq_put_publish(packet, sizeof packet, topic, p, n, qos, retain, id);
    int rc = size ? put(d, packet, size) : FC_ERR_TOO_LARGE;
    if (rc)
        return rc;
    if (qos) {
        c->inflight[at] = id;
        c->n_inflight++;
    }
    return id;
}

int link_watch(struct device *d, const char *filter, int qos) {
    uint8_t packet[FC_TOPIC_MAX + 16];
    size_t n = mq_put_subscribe(packet, sizeof packet, filter, qos, next_id(&d->conn));
    d->swarm->count.subscribes++;
    return n ? put(d, packet, n) : FC_ERR_TOO_LARGE;
}

int link_unwatch(struct device *d, const char *filter) {
    uint8_t packet[FC_TOPIC_MAX + 16];
    size_t n = mq_put_unsubscribe(packet, sizeof packet, filter, next_id(&d->conn));
    return n ? put(d, packet, n) : FC_ERR_TOO_LARGE;
}

/* --- receiving ------------------------------------------------------------------------ */

static void acknowledged(struct device *d, uint16_t id) {
    struct conn *c = &d->conn;
    for (uint32_t i = 0; i < SWARM_INFLIGHT; i++) {
        if (c->inflight[i] == id) {
            c->inflight[i] = 0;
            c->n_inflight--;
            fc_sent(&d->core, id);
            return;
        }
    }
}

/* Chunks come at QoS 0: what a broker with a full queue drops is what --loss drops here. */
static int is_lost(struct device *d, const struct mq_packet *k) {
    struct swarm *s = d->swarm;
    char last = k->topic[k->topic_n - 1];
    if (k->topic_n < 9 || memcmp(k->topic, "f1/model/", 9) != 0 || last < '0' || last > '9')
        return 0;
    s->count.chunks++;
    if (s->opt.loss <= 0 || swarm_chance(&d->rng) >= s->opt.loss)
        return 0;
    s->count.chunks_lost++;
    return 1;
}

/* FC_OK, or FC_ERR_PORT when the connection has to be closed. */
static int take(struct device *d, const struct mq_packet *k) {
    struct conn *c = &d->conn;
    uint8_t ack[4];
    if (c->state == CONN_HELLO) {
        if (k->type != MQ_CONNACK || k->code)
            return FC_ERR_PORT;
        c->state = CONN_UP;
        c->failures = 0;
        d->swarm->count.connects++;
        int fresh = !k->session || c->broken;
        c->broken = 0;
        fc_link_set(&d->core, 1, fresh);
        return FC_OK;
    }
    switch (k->type) {
    case MQ_CONNACK:
        return FC_ERR_PORT;
    case MQ_PUBACK:
        acknowledged(d, k->id);
        return FC_OK;
    case MQ_PUBLISH:
        if (!is_lost(d, k))
            fc_message_put(&d->core, k->topic, k->topic_n, k->payload, k->payload_n);
        return k->qos ? put(d, ack, mq_put_puback(ack, sizeof ack, k->id)) : FC_OK;
    default: /* a refused SUBSCRIBE shows as silence, which the core deals with */
        return FC_OK;
    }
}

/* Keeps what is not whole for the next time. in_n < SWARM_PACKET_MAX, as mq_read() refuses more. */
static int keep_rest(struct conn *c, const uint8_t *p, size_t n) {
    free(c->in);
    c->in = NULL;
    c->in_n = 0;
    if (!n)
        return FC_OK;
    c->in = malloc(n);
    if (!c->in)
        return FC_ERR_PORT;
    memcpy(c->in, p, n);
    c->in_n = n;
    return FC_OK;
}

static int receive(struct device *d, uint64_t now) {
    struct swarm *s = d->swarm;
    struct conn *c = &d->conn;
    struct mq_packet packet;
    size_t at = 0, used = 0, n = c->in_n;
    int rc = MQ_PACKET;
    if (n)
        memcpy(s->read, c->in, n);
    ssize_t got = recv(c->fd, s->read + n, SWARM_READ, 0);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? FC_OK : FC_ERR_PORT;
    if (!got)
        return FC_ERR_PORT;
    n += (size_t)got;
    c->heard_ms = now;
    s->count.bytes_in += (uint64_t)got;
    while (at < n && (rc = mq_read(s->read + at, n - at, SWARM_PACKET_MAX, &packet, &used)) > 0) {
        at += used;
        s->count.packets_in++;
        if (take(d, &packet))
            return FC_ERR_PORT;
    }
    if (rc < 0) {
        s->count.protocol_errors++;
        return FC_ERR_PORT;
    }
    return keep_rest(c, s->read + at, n - at);
}

/* --- connecting ----------------------------------------------------------------------- */

static int open_socket(struct device *d, uint64_t now) {
    const struct swarm_options *opt = &d->swarm->opt;
    struct conn *c = &d->conn;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(opt->port)};
    int one = 1;
    if (inet_pton(AF_INET, opt->host, &to.sin_addr) != 1)
        return FC_ERR_PORT;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return FC_ERR_PORT;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CONN_OPENING;
    c->at_ms = now + ANSWER_MS;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        return FC_ERR_PORT;
    c->writing = 1;
    ask_events(d, EPOLL_CTL_ADD);
    return FC_OK;
}

static int hello(struct device *d, uint64_t now) {
    struct conn *c = &d->conn;
    char will[FC_TOPIC_MAX];
    uint8_t packet[512];
    int failed = 0;
    socklen_t n = sizeof failed;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &failed, &n) || failed)
        return FC_ERR_PORT;
    own_topic(d, will, "online");
    struct mq_hello h = {.client_id = d->id,
                         .user = d->id,
                         .secret = d->secret,
                         .will_topic = will,
                         .will = ONLINE_LEFT,
                         .will_n = sizeof ONLINE_LEFT,
                         .keepalive_s = KEEPALIVE_S};
    size_t size = mq_put_connect(packet, sizeof packet, &h);
    c->state = CONN_HELLO;
    c->at_ms = now + ANSWER_MS;
    c->heard_ms = now;
    c->writing = 0;
    ask_events(d, EPOLL_CTL_MOD);
    return size ? put(d, packet, size) : FC_ERR_PORT;
}

static int keep_alive(struct device *d, uint64_t now) {
    struct conn *c = &d->conn;
    uint8_t ping[2];
    if (now > c->heard_ms + KEEPALIVE_S * 1500u)
        return FC_ERR_PORT;
    if (now < c->sent_ms + KEEPALIVE_S * 500u)
        return FC_OK;
    return put(d, ping, mq_put_ping(ping, sizeof ping)) == FC_OK ? FC_OK : FC_ERR_PORT;
}

void link_turn(struct device *d, uint64_t now, uint32_t events) {
    struct conn *c = &d->conn;
    int rc = FC_OK;
    if (c->state == CONN_DOWN && now >= c->at_ms) {
        rc = open_socket(d, now);
        events = 0;
    } else if (c->state == CONN_OPENING && events) {
        rc = hello(d, now);
        events = 0;
    }
    if (rc == FC_OK && events & EPOLLOUT)
        flush_out(d);
    if (rc == FC_OK && events & ~(uint32_t)EPOLLOUT)
        rc = receive(d, now);
    if (rc == FC_OK && c->state == CONN_UP)
        rc = keep_alive(d, now);
    if (rc == FC_OK && (c->state == CONN_OPENING || c->state == CONN_HELLO) && now >= c->at_ms)
        rc = FC_ERR_PORT;
    if (rc)
        lost(d, now);
}

uint64_t link_due(const struct device *d) {
    const struct conn *c = &d->conn;
    uint64_t ping = c->sent_ms + KEEPALIVE_S * 500u, silent = c->heard_ms + KEEPALIVE_S * 1500u + 1;
    if (c->state != CONN_UP)
        return c->at_ms;
    return ping < silent ? ping : silent;
}
