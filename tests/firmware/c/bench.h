/* bench.h: what the C test programs share: a scenario file that Python wrote with real signatures,
 * a broker that is a list, an engine that echoes, and a clock that the test moves.
 *
 * Scenario file: "FCSC", then records of u8 kind, u16le topic length, topic, u32le length, payload.
 * Kind 0 is the identity (see bench_open), 1 retained from the start, 2 and up are the program's.
 */
#ifndef TESTS_FIRMWARE_BENCH_H
#define TESTS_FIRMWARE_BENCH_H

#include <setjmp.h>

#include "fleet_host.h"
#include "hal_host.h"

#define MAX_ITEMS 512
#define MAX_INBOX 256

struct item {
    uint8_t kind;
    char topic[96];
    uint32_t n;
    const uint8_t *p;
};

struct bench {
    struct fh *h;
    struct fh_ident ident;
    struct item item[MAX_ITEMS];
    uint32_t n_items;
    uint8_t shown[MAX_ITEMS]; /* retained now */
    const struct item *inbox[MAX_INBOX];
    uint32_t inbox_n;
    int tokens[4096];
    uint32_t n_tokens;
    int next_token;
    int want_link; /* the core asked for a new connection */
    int reboots;
    uint32_t bad_model; /* first byte of a model whose outputs are off; 256 = none */
    uint32_t crash_model;
    uint32_t loaded_in[4]; /* first byte of what a slot has loaded, 256 = nothing */
    uint32_t slots;        /* that the device has, all of one size */
    uint32_t loaded;       /* first byte of what is loaded, 256 = nothing */
    int edited; /* flash was changed behind the core's back: sleep and reboots do not hash it */
    uint64_t ms;
    jmp_buf cut;
    uint8_t *snapshot;
};

void fail(const char *what, long a, long b);
/* Reads the scenario and opens a device on `flash`. */
void bench_open(struct bench *b, const char *scenario, const char *flash);
void bench_open_slots(struct bench *b, const char *scenario, const char *flash, uint32_t slots);
void bench_close(struct bench *b);
void bench_save(struct bench *b);    /* flash as it is now */
void bench_restore(struct bench *b); /* and back; ends the running core */
void bench_boot(struct bench *b, int reason);
void bench_show(struct bench *b, uint8_t kind); /* retain and deliver every item of a kind */
void bench_send(struct bench *b, uint8_t kind, uint32_t nth); /* deliver one, not retained */
void bench_link(struct bench *b, int up);
/* Steps, delivers, acknowledges, infers; time passes while the core waits. */
void bench_drive(struct bench *b, uint32_t rounds);

#endif
