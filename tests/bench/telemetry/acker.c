/* acker.c: the raw limit of a broker: a subscriber that acknowledges QoS 1 messages and does
 * nothing else. One connection, one thread, a kept session as the gateway has one.
 *
 *   acker --port P --user NAME --secret S --filter F --messages N [--deadline 600]
 *
 * Prints {"event": "up"} when the broker has granted the filter and {"event": "end"} when it has
 * sent and been acknowledged N messages; then it ends its subscription. Every acknowledgement of
 * what one read brought leaves in one write.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"
#include "mqtt_mini.h"

#define IN_MAX (1u << 18)
#define ACKS_MAX (IN_MAX / 8u) /* no PUBLISH with a topic is shorter than 8 bytes */

struct raw {
    int fd;
    uint64_t got, bytes, goal;
    double first_s, last_s;
    uint8_t in[IN_MAX], out[4u * ACKS_MAX];
    size_t in_n, out_n;
};

static void write_all(struct raw *r) {
    for (size_t at = 0; at < r->out_n;) {
        ssize_t n = send(r->fd, r->out + at, r->out_n - at, MSG_NOSIGNAL);
        struct pollfd ready = {.fd = r->fd, .events = POLLOUT};
        if (n < 0 && errno == EAGAIN)
            poll(&ready, 1, 1000);
        else if (n < 0)
            die("the broker closed the connection");
        else
            at += (size_t)n;
    }
    r->out_n = 0;
}

static void on_packet(struct raw *r, const struct mq_packet *packet) {
    if (packet->type == MQ_SUBACK) {
        if (packet->code > 2)
            die("the broker refuses the subscription");
        printf("{\"event\": \"up\"}\n");
        fflush(stdout);
    } else if (packet->type == MQ_PUBLISH) {
        r->last_s = now_s();
        r->first_s = r->got ? r->first_s : r->last_s;
        r->got++;
        r->bytes += packet->payload_n;
        r->out_n += mq_put_puback(r->out + r->out_n, sizeof r->out - r->out_n, packet->id);
    } else if (packet->type == MQ_CONNACK && packet->code) {
        die("the broker refuses us: %d", packet->code);
    }
}

int main(int argc, char **argv) {
    struct raw *r = calloc(1, sizeof *r);
    const char *user = option_text(argc, argv, "user", NULL);
    const char *filter = option_text(argc, argv, "filter", NULL);
    struct mq_hello hello = {.client_id = user,
                             .user = user,
                             .secret = option_text(argc, argv, "secret", NULL),
                             .keepalive_s = 600};
    if (!r)
        die("out of memory");
    r->goal = (uint64_t)option_number(argc, argv, "messages", 1);
    double until_s = now_s() + option_number(argc, argv, "deadline", 600);
    r->fd = loopback_connect((uint16_t)option_number(argc, argv, "port", 0));
    if (r->fd < 0)
        die("no broker answers");
    r->out_n = mq_put_connect(r->out, sizeof r->out, &hello);
    r->out_n += mq_put_subscribe(r->out + r->out_n, sizeof r->out - r->out_n, filter, 1, 1);
    write_all(r);
    while (r->got < r->goal) {
        struct pollfd ready = {.fd = r->fd, .events = POLLIN};
        if (now_s() > until_s)
            die("%llu messages at the deadline", (unsigned long long)r->got);
        poll(&ready, 1, 500);
        ssize_t n = recv(r->fd, r->in + r->in_n, sizeof r->in - r->in_n, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            die("the broker closed the connection");
        r->in_n += (size_t)n;
        struct mq_packet packet;
        size_t at = 0, used = 0;
        int got;
        while ((got = mq_read(r->in + at, r->in_n - at, sizeof r->in, &packet, &used)) > 0) {
            on_packet(r, &packet);
            at += used;
        }
        if (got < 0)
            die("the broker sends no MQTT");
        memmove(r->in, r->in + at, r->in_n - at);
        r->in_n -= at;
        write_all(r);
    }
    printf(
        "{\"event\": \"end\", \"messages\": %llu, \"bytes\": %llu, \"s\": %.4f, \"cpu_s\": %.3f}\n",
        (unsigned long long)r->got, (unsigned long long)r->bytes, r->last_s - r->first_s,
        cpu_used_s());
    r->out_n = mq_put_unsubscribe(r->out, sizeof r->out, filter, 2);
    r->out_n += mq_put_disconnect(r->out + r->out_n, sizeof r->out - r->out_n);
    write_all(r);
    close(r->fd);
    return 0;
}
