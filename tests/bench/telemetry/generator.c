/* generator.c: a fleet that only sends telemetry: one MQTT connection a device, QoS 1, every batch
 * sealed by HMAC-SHA-256 (libsodium), paced or flat out. One thread, epoll.
 *
 *   generator --port P --file F --messages N --records R --boot B --t0 MS [--rate N] [--window 4]
 *             [--dt MS] [--ring 0] [--deadline 600]
 *
 * F: `installation HEX`, `mid HEX`, then `device ID SECRET KEYHEX HEADERHEX` each on a line; the
 * header is the protected one of SPEC.md section 3. Waits for a line on stdin once every device is
 * connected ({"event": "up"}), sends N messages of R windows, spread evenly, waits until the broker
 * has acknowledged each and prints {"event": "end"}. rate: messages a second of all devices
 * together, 0 = as fast as the broker acknowledges, at most `window` un-acknowledged a device.
 *
 * A device that loses its connection connects again and sends what was not acknowledged once more,
 * the same bytes, as SPEC.md asks of it; `ring` messages before those too, as after a gap repair.
 * Message i of a device follows from i alone, so its state is two counters.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cbor.h"
#include "load.h"
#include "mqtt_mini.h"

#define MESSAGE_MAX 4200u
#define OUT_MAX 8192u
#define IN_MAX 512u
#define AGAIN_S 0.5
#define ANSWER_S 30.0
#define HEADER_MAX 96u

struct device {
    char id[33], secret[72], topic[64];
    uint8_t key[32], header[HEADER_MAX];
    size_t header_n;
    int fd, is_up, is_writing;
    uint64_t goal, next, acked; /* messages: to send, next to send, acknowledged from the first */
    double at_s;                /* when to connect again, or to give up an answer */
    uint8_t out[OUT_MAX], in[IN_MAX];
    size_t out_n, in_n;
};

struct load {
    struct device *devices;
    uint32_t n, up;
    uint8_t installation[16], mid[8];
    uint16_t port;
    uint32_t records, boot, window, dt_ms, ring;
    uint64_t t0_ms, sent, acked, again, reconnects;
    double rate, late_s;
    int epoll;
};

/* --- messages ------------------------------------------------------------------------- */

/* The windows of message i; values move so that no two rows are alike. */
static size_t batch(const struct load *l, uint64_t i, uint8_t *p, size_t cap) {
    struct fc_out o = fc_out_to(p, cap);
    uint64_t first = i * l->records;
    fc_out_map(&o, 8);
    fc_out_pair(&o, 0, 1);
    fc_out_pair(&o, 1, l->boot);
    fc_out_pair(&o, 2, first);
    fc_out_pair(&o, 3, l->t0_ms + first * l->dt_ms);
    fc_out_pair(&o, 4, 2);
    fc_out_uint(&o, 5);
    fc_out_array(&o, 4);
    fc_out_uint(&o, 0);
    fc_out_text(&o, "activity");
    fc_out_text(&o, "1.0.0");
    fc_out_bytes(&o, l->mid, sizeof l->mid);
    fc_out_uint(&o, 6);
    fc_out_bytes(&o, "\1\2\3\4", 4);
    fc_out_uint(&o, 7);
    fc_out_array(&o, l->records);
    for (uint32_t r = 0; r < l->records; r++) {
        uint32_t x = (uint32_t)(first + r) * 2654435761u;
        const int32_t window[13] = {(int32_t)l->dt_ms,
                                    60,
                                    (int32_t)(1500 + (x >> 22)),
                                    (int32_t)(3000 + (x >> 20)),
                                    (int32_t)(9000 + (x >> 23)),
                                    (int32_t)(x >> 30),
                                    (int32_t)(x >> 18),
                                    (int32_t)(x >> 28),
                                    10,
                                    8,
                                    1000,
                                    -60,
                                    0};
        fc_out_array(&o, 13);
        for (int k = 0; k < 13; k++)
            fc_out_int(&o, window[k]);
    }
    return o.err ? 0 : o.n;
}

/* COSE_Mac0 around the batch, in a PUBLISH with packet number i mod 65535 + 1. */
static size_t message(const struct load *l, const struct device *d, uint64_t i, uint8_t *p,
                      size_t cap) {
    uint8_t payload[MESSAGE_MAX], mac[crypto_auth_hmacsha256_BYTES], aad[16 + sizeof d->topic];
    uint8_t sealed[MESSAGE_MAX], covered[MESSAGE_MAX];
    size_t topic_n = strlen(d->topic), n = batch(l, i, payload, sizeof payload);
    struct fc_out to = fc_out_to(covered, sizeof covered), o = fc_out_to(sealed, sizeof sealed);
    memcpy(aad, l->installation, 16);
    memcpy(aad + 16, d->topic, topic_n);
    fc_out_array(&to, 4);
    fc_out_text(&to, "MAC0");
    fc_out_bytes(&to, d->header, d->header_n);
    fc_out_bytes(&to, aad, 16 + topic_n);
    fc_out_bytes(&to, payload, n);
    if (!n || to.err)
        die("%u records do not fit a message", l->records);
    crypto_auth_hmacsha256(mac, covered, to.n, d->key);
    fc_out_raw(&o, "\xD1\x84", 2); /* tag 17, an array of four */
    fc_out_bytes(&o, d->header, d->header_n);
    fc_out_map(&o, 0);
    fc_out_bytes(&o, payload, n);
    fc_out_bytes(&o, mac, sizeof mac);
    if (o.err)
        die("%u records do not fit a message", l->records);
    return mq_put_publish(p, cap, d->topic, sealed, o.n, 1, 0, (uint16_t)(i % 65535u + 1u));
}

/* --- connections ---------------------------------------------------------------------- */

static void watch(const struct load *l, struct device *d, int op) {
    struct epoll_event e = {.events = EPOLLIN | (d->is_writing ? (uint32_t)EPOLLOUT : 0u),
                            .data.ptr = d};
    epoll_ctl(l->epoll, op, d->fd, &e);
}

static void lost(struct load *l, struct device *d) {
    if (d->fd >= 0)
        close(d->fd);
    if (d->is_up) {
        l->up--;
        l->reconnects++;
    }
    d->fd = -1;
    d->is_up = d->is_writing = 0;
    d->in_n = d->out_n = 0;
    d->at_s = now_s() + AGAIN_S;
}

static void flush(struct load *l, struct device *d) {
    while (d->out_n) {
        ssize_t n = send(d->fd, d->out, d->out_n, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            lost(l, d);
            return;
        }
        if (n < 0)
            break;
        memmove(d->out, d->out + n, d->out_n - (size_t)n);
        d->out_n -= (size_t)n;
    }
    if (d->is_writing != (d->out_n > 0)) {
        d->is_writing = d->out_n > 0;
        watch(l, d, EPOLL_CTL_MOD);
    }
}

static void join(struct load *l, struct device *d) {
    struct mq_hello hello = {
        .client_id = d->id, .user = d->id, .secret = d->secret, .keepalive_s = 600, .clean = 1};
    d->fd = loopback_connect(l->port);
    d->at_s = now_s() + (d->fd < 0 ? AGAIN_S : ANSWER_S);
    if (d->fd < 0)
        return;
    watch(l, d, EPOLL_CTL_ADD);
    d->out_n = mq_put_connect(d->out, sizeof d->out, &hello);
    flush(l, d);
}

static void on_up(struct load *l, struct device *d) {
    uint64_t back = d->acked < l->ring ? d->acked : l->ring;
    d->is_up = 1;
    l->up++;
    if (d->next) { /* connected before: what was not acknowledged goes again */
        l->again += d->next - d->acked + back;
        l->acked -= back;
        l->sent -= d->next - d->acked + back;
        d->acked -= back;
        d->next = d->acked;
    }
}

static void on_readable(struct load *l, struct device *d) {
    for (;;) {
        ssize_t n = recv(d->fd, d->in + d->in_n, sizeof d->in - d->in_n, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            lost(l, d);
            return;
        }
        d->in_n += (size_t)n;
        size_t at = 0, used = 0;
        struct mq_packet packet;
        int got;
        while ((got = mq_read(d->in + at, d->in_n - at, sizeof d->in, &packet, &used)) > 0) {
            at += used;
            if (packet.type == MQ_CONNACK && !packet.code)
                on_up(l, d);
            else if (packet.type == MQ_PUBACK && packet.id == d->acked % 65535u + 1u)
                d->acked++, l->acked++;
            else
                die("%s: packet %d (code %d) is out of order", d->id, packet.type, packet.code);
        }
        if (got < 0)
            die("%s: the broker sends no MQTT", d->id);
        memmove(d->in, d->in + at, d->in_n - at);
        d->in_n -= at;
    }
}

/* One more message if this device may send one; 0 when not. */
static int give(struct load *l, struct device *d) {
    if (!d->is_up || d->next >= d->goal || d->next - d->acked >= l->window)
        return 0;
    if (d->out_n + MESSAGE_MAX > sizeof d->out)
        return 0;
    size_t n = message(l, d, d->next, d->out + d->out_n, sizeof d->out - d->out_n);
    if (!n)
        die("a message does not fit its buffer");
    d->out_n += n;
    d->next++;
    l->sent++;
    flush(l, d);
    return 1;
}

static void poll_once(struct load *l, int wait_ms) {
    struct epoll_event events[256];
    int n = epoll_wait(l->epoll, events, 256, wait_ms);
    for (int i = 0; i < n; i++) {
        struct device *d = events[i].data.ptr;
        if (d->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            on_readable(l, d);
        if (d->fd >= 0 && events[i].events & EPOLLOUT)
            flush(l, d);
    }
}

static void reconnect(struct load *l) {
    double t = now_s();
    for (uint32_t i = 0; i < l->n && l->up < l->n; i++) {
        struct device *d = &l->devices[i];
        if (!d->is_up && d->at_s <= t) {
            if (d->fd >= 0)
                lost(l, d);
            else
                join(l, d);
        }
    }
}

/* --- the run -------------------------------------------------------------------------- */

static void send_all(struct load *l, uint64_t goal, double until_s) {
    double began = now_s(), seen = began;
    uint32_t turn = 0;
    while (l->acked < goal) {
        double t = now_s();
        if (t > until_s)
            die("%llu of %llu messages are acknowledged at the deadline",
                (unsigned long long)l->acked, (unsigned long long)goal);
        uint64_t due = goal, lag;
        if (l->rate > 0 && (t - began) * l->rate < (double)goal)
            due = (uint64_t)((t - began) * l->rate);
        for (uint32_t idle = 0; l->sent < due && idle < l->n; turn = (turn + 1) % l->n)
            idle = give(l, &l->devices[turn]) ? 0 : idle + 1;
        lag = l->sent < due ? due - l->sent : 0;
        if (l->rate > 0 && (double)lag / l->rate > l->late_s)
            l->late_s = (double)lag / l->rate;
        poll_once(l, 1);
        if (t - seen > 0.1) {
            reconnect(l);
            seen = t;
        }
    }
    printf("{\"event\": \"end\", \"sent\": %llu, \"acked\": %llu, \"again\": %llu, "
           "\"reconnects\": %llu, \"s\": %.4f, \"late_s\": %.3f, \"cpu_s\": %.3f}\n",
           (unsigned long long)l->sent, (unsigned long long)l->acked, (unsigned long long)l->again,
           (unsigned long long)l->reconnects, now_s() - began, l->late_s, cpu_used_s());
    fflush(stdout);
}

static size_t hex(uint8_t *out, size_t cap, const char *text) {
    size_t n = 0;
    if (sodium_hex2bin(out, cap, text, strlen(text), NULL, &n, NULL))
        die("%.20s... is not hexadecimal or too long", text);
    return n;
}

static void read_fleet(struct load *l, const char *path) {
    char line[512], word[4][256];
    FILE *file = fopen(path, "r");
    if (!file)
        die("%s cannot be read", path);
    while (fgets(line, sizeof line, file)) {
        int n = sscanf(line, "%*s %255s %255s %255s %255s", word[0], word[1], word[2], word[3]);
        if (!strncmp(line, "installation ", 13) && n == 1) {
            hex(l->installation, sizeof l->installation, word[0]);
        } else if (!strncmp(line, "mid ", 4) && n == 1) {
            hex(l->mid, sizeof l->mid, word[0]);
        } else if (!strncmp(line, "device ", 7) && n == 4) {
            l->devices = realloc(l->devices, (l->n + 1) * sizeof *l->devices);
            if (!l->devices)
                die("out of memory");
            struct device *d = &l->devices[l->n++];
            memset(d, 0, sizeof *d);
            d->fd = -1;
            snprintf(d->id, sizeof d->id, "%.32s", word[0]);
            snprintf(d->secret, sizeof d->secret, "%.71s", word[1]);
            snprintf(d->topic, sizeof d->topic, "f1/dev/%s/telemetry", d->id);
            if (hex(d->key, sizeof d->key, word[2]) != sizeof d->key)
                die("a key has 32 bytes");
            d->header_n = hex(d->header, sizeof d->header, word[3]);
        } else {
            die("not understood: %.60s", line);
        }
    }
    fclose(file);
}

int main(int argc, char **argv) {
    struct load l = {0};
    char go[16];
    signal(SIGPIPE, SIG_IGN);
    if (sodium_init() < 0 || (l.epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("libsodium or epoll is missing");
    l.port = (uint16_t)option_number(argc, argv, "port", 0);
    l.records = (uint32_t)option_number(argc, argv, "records", 10);
    l.boot = (uint32_t)option_number(argc, argv, "boot", 1);
    l.t0_ms = (uint64_t)option_number(argc, argv, "t0", 0);
    l.dt_ms = (uint32_t)option_number(argc, argv, "dt", 1);
    l.rate = option_number(argc, argv, "rate", 0);
    l.window = (uint32_t)option_number(argc, argv, "window", 4);
    l.ring = (uint32_t)option_number(argc, argv, "ring", 0);
    uint64_t goal = (uint64_t)option_number(argc, argv, "messages", 1);
    double until_s = now_s() + option_number(argc, argv, "deadline", 600);
    read_fleet(&l, option_text(argc, argv, "file", NULL));
    if (!l.n || !l.records || l.records > 64 || !l.window)
        die("there is nothing to send");
    for (uint32_t i = 0; i < l.n; i++)
        l.devices[i].goal = goal / l.n + (i < goal % l.n);
    for (uint32_t i = 0; i < l.n; i++) { /* few at a time: the broker's backlog is short */
        join(&l, &l.devices[i]);
        while (i >= 50 && l.up + 50 < i && now_s() < until_s)
            poll_once(&l, 5);
    }
    while (l.up < l.n) {
        if (now_s() > until_s)
            die("%u of %u devices are connected at the deadline", l.up, l.n);
        poll_once(&l, 20);
        reconnect(&l);
    }
    printf("{\"event\": \"up\", \"devices\": %u, \"cpu_s\": %.3f}\n", l.n, cpu_used_s());
    fflush(stdout);
    if (!fgets(go, sizeof go, stdin))
        return 0;
    send_all(&l, goal, until_s);
    return 0;
}
