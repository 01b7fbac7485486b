/* session.h: one MQTT 3.1.1 session over a serial line whose other end QEMU holds on a TCP
 * connection to the broker and renews when it breaks. The line tells nothing of that: a connection
 * is up when the broker answers CONNECT, and lost when it stays silent.
 */
#ifndef FLEET_RV32_SESSION_H
#define FLEET_RV32_SESSION_H

#include "mqtt_mini.h"
#include "uart.h"

#define SESSION_PACKET 12288u /* leaf list of 8 KiB, topic, heads */
#define SESSION_INFLIGHT 32u
#define SESSION_TOPIC 80u

/* Told from session_turn() only, so the core is never entered twice. */
struct session_owner {
    void *ctx;
    void (*up)(void *ctx, int fresh);
    void (*down)(void *ctx);
    void (*message)(void *ctx, const char *topic, size_t topic_n, const uint8_t *p, size_t n);
    void (*sent)(void *ctx, int token);
};

enum session_state { SESSION_DOWN, SESSION_ASKED, SESSION_UP };

struct session {
    struct uart uart;
    struct mq_hello hello;
    struct session_owner owner;
    enum session_state state;
    uint8_t has_broken; /* the last connection ended otherwise than by our wish */
    uint16_t last_id;
    uint16_t inflight[SESSION_INFLIGHT]; /* publishes not acknowledged, 0 = free */
    uint64_t since_ms;                   /* in this state, or silent while down */
    uint64_t heard_ms, pinged_ms;
    uint32_t patience_ms; /* for CONNACK; grows while none comes */
    size_t n_in;
    uint8_t in[SESSION_PACKET], out[SESSION_PACKET];
};

void session_open(struct session *s, struct uart uart, const struct mq_hello *hello,
                  const struct session_owner *owner);
/* Receives at most one packet and does what is due. 1 = there may be more at once. */
int session_turn(struct session *s, uint64_t now_ms);
/* Bytes came within the last few milliseconds: more are likely. */
int session_is_busy(const struct session *s, uint64_t now_ms);
/* A token > 0, or a negative fc_err. */
int session_send(struct session *s, const char *topic, const uint8_t *p, size_t n, int qos,
                 int retain);
int session_watch(struct session *s, const char *filter, int qos);
int session_unwatch(struct session *s, const char *filter);
/* Ends the connection in order; a new one follows. */
void session_drop(struct session *s, uint64_t now_ms);

#endif
