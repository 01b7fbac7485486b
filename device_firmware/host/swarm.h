/* swarm.h: thousands of true firmware cores in one process, against a real broker.
 *
 * Real: the core, its signatures and MACs (libsodium), MQTT, the flash rules, power cuts. Played:
 * the engine, which knows no TFLM and passes, fails or crashes as the seed says.
 */
#ifndef FLEET_HOST_SWARM_H
#define FLEET_HOST_SWARM_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include "fleet_core/app.h"
#include "fleet_core/core.h"
#include "mqtt_mini.h"
#include "pages.h"

#define SWARM_DEVICES_MAX 20000u
#define SWARM_GOALS_MAX 8u
#define SWARM_PACKET_MAX 16640u /* the broker lets 16,384 B of payload through */
#define SWARM_OUT_MAX 32768u    /* bytes a device may have waiting for its socket */
#define SWARM_INFLIGHT 20u
#define SWARM_READ 65536u
#define SWARM_RING 4096u /* telemetry that a device keeps for a re-send */

struct swarm_options {
    const char *file, *host;
    uint16_t port;
    uint32_t devices, rate, seed;
    double loss, cut_per_hour, bad_golden, crash, duration_s;
    uint8_t goal[SWARM_GOALS_MAX][8]; /* model ids, in the order they are desired */
    uint32_t n_goals;
};

/* What every device shares. */
struct swarm_class {
    struct fc_ident ident;
    uint8_t ops[FC_OPS_BYTES_MAX];
    char firmware[33];
    uint32_t slot_bytes;
};

enum conn_state { CONN_DOWN, CONN_OPENING, CONN_HELLO, CONN_UP };

struct conn {
    int fd;
    uint8_t state;   /* enum conn_state */
    uint8_t broken;  /* the last connection ended with publishes that nobody acknowledged */
    uint8_t writing; /* EPOLLOUT is asked for */
    uint16_t last_id;
    uint16_t inflight[SWARM_INFLIGHT]; /* ids of unacknowledged publishes, 0 = free */
    uint32_t n_inflight;
    uint8_t *in, *out; /* a packet that is not whole; bytes that the socket did not take */
    size_t in_n, out_n;
    uint64_t at_ms; /* DOWN: when to try; OPENING, HELLO: when to give up */
    uint64_t sent_ms, heard_ms;
    uint32_t failures; /* in a row */
};

enum life { LIFE_ON, LIFE_CUT, LIFE_PANIC, LIFE_REBOOT }; /* what setjmp() returns */
enum outcome { OUTCOME_PASS, OUTCOME_BAD_GOLDEN, OUTCOME_CRASH };

struct device {
    struct fc_core core;
    struct fc_app app; /* of its only slot */
    _Alignas(4) uint8_t ring[SWARM_RING];
    struct fc_hal hal;
    struct fc_engine engine;
    struct fc_ident ident;
    struct pages flash;
    struct conn conn;
    struct swarm *swarm;
    jmp_buf end; /* of this life */
    char id[33], secret[65];
    uint8_t mac_key[32], keep[64];
    uint32_t index, heap_at; /* heap_at: its place in the timer heap */
    uint64_t due_ms;
    uint64_t sample_ms;         /* next inference */
    uint64_t cut_ms, cut_by_ms; /* next power cut; an armed one that met no flash operation */
    uint8_t is_on, reason, want_reconnect, want_reboot;
    uint8_t offset;                    /* what the played engine adds to its answers */
    uint32_t answer_n[FC_TENSORS_MAX]; /* bytes of the loaded model's outputs */
    uint32_t rng, boots;
    uint64_t settled_ms; /* when the present goal was reached, 0 = not yet */
    uint8_t end_state, end_code;
};

struct swarm_counts {
    uint64_t connects, connect_failures, connections_lost, packets_in, bytes_in, bytes_out;
    uint64_t chunks, chunks_lost, cuts, cuts_in_flash, panics, reboots, steps, samples;
    uint64_t outbox_full, subscribes, protocol_errors;
};

struct swarm {
    struct swarm_options opt;
    struct swarm_class class;
    struct device **device; /* each on its own: a resize must not move a core */
    struct device **heap;   /* by due_ms, the earliest first */
    struct pool pool;
    struct swarm_counts count;
    int epoll;
    uint64_t start_ms, rss_empty_kib;
    double open_at_ms; /* the next connection may be opened then */
    uint32_t settled;  /* devices that reached the present goal */
    uint32_t goal;     /* index of the present goal */
    uint32_t row[16];  /* the last line of states */
    uint8_t read[SWARM_PACKET_MAX + SWARM_READ];
    uint8_t answer[FC_TENSOR_BYTES_MAX]; /* of the played engine */
};

/* swarm_file.c. FC_OK, or FC_ERR_SCHEMA after a line on stderr that names file and line. */
int swarm_file_read(struct swarm *s);

/* swarm_device.c */
uint64_t swarm_now_ms(void);
uint32_t swarm_random(uint32_t *state);           /* xorshift32 */
double swarm_chance(uint32_t *state);             /* [0, 1) */
int device_open(struct swarm *s, uint32_t index); /* FC_OK, FC_ERR_PORT */
/* Does everything that is due, then plans the next turn. events: of epoll. */
void device_turn(struct device *d, uint64_t now, uint32_t events);
/* What the seed has in store for a device and a model: failures hit the last goal's model only. */
enum outcome device_outcome(const struct swarm *s, uint32_t index, const uint8_t model[8]);
void device_close(struct device *d); /* and frees it */
/* A new goal: nobody has reached it. */
void device_goal(struct device *d);

/* swarm_link.c */
int link_send(struct device *d, const char *topic, const uint8_t *p, size_t n, int qos, int retain);
int link_watch(struct device *d, const char *filter, int qos);
int link_unwatch(struct device *d, const char *filter);
/* Connects when it is time, takes what the socket has, sends what waits. */
void link_turn(struct device *d, uint64_t now, uint32_t events);
/* Plans the next connection, `after_ms` from now at the earliest. */
void link_plan(struct device *d, uint64_t now, uint64_t after_ms);
/* in_order: with a DISCONNECT, as before a reconnect; else as when power or radio go. */
void link_close(struct device *d, int in_order);
uint64_t link_due(const struct device *d);

/* swarm_report.c: JSON lines on stdout */
uint64_t swarm_rss_kib(const char *field); /* "VmRSS:" or "VmHWM:" */
void report_start(const struct swarm *s);
void report_states(struct swarm *s, uint64_t now); /* when they changed */
void report_goal(const struct swarm *s, uint64_t now);
void report_end(const struct swarm *s, uint64_t now, const char *how);

#endif
