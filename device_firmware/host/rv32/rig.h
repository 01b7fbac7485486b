/* rig.h: one core on the emulated chip, a broker that is a list, an engine that answers input bytes
 * as output bytes, and a clock that the script moves. Everything but flash and the script's bytes
 * lives in struct rig, so a copy of it and of the flash is a snapshot.
 */
#ifndef FLEET_RV32_RIG_H
#define FLEET_RV32_RIG_H

#include "flash.h"
#include "fleet_core/app.h"
#include "internal.h"

#define RIG_RETAINED 160u
#define RIG_INBOX 64u
#define RIG_TOKENS 64u
#define RIG_RING_BYTES 16384u

struct rig_item {
    const char *topic; /* terminated */
    const uint8_t *p;
    uint32_t n;
};

/* What calls into the core cost, in instructions; since the last reset of the counters. */
struct rig_cost {
    uint64_t steps, step_sum, step_most, message_sum, message_most;
    uint64_t chunks, chunk_sum, chunk_most; /* whole chunks that arrived */
    uint64_t crypto;
};

struct rig {
    struct fc_core core;
    struct fc_app app[FC_SLOTS];
    _Alignas(4) uint8_t ring[RIG_RING_BYTES];
    struct fc_hal hal;
    struct fc_engine engine;
    struct fc_ident ident;
    struct flash flash;
    struct rig_item retained[RIG_RETAINED];
    uint32_t n_retained;
    const struct rig_item *inbox[RIG_INBOX];
    uint32_t n_inbox;
    int tokens[RIG_TOKENS];
    uint32_t n_tokens;
    int next_token, wants_link, reboots;
    uint32_t loaded_bytes, sent, invokes;
    uint64_t ms, unix_s;
    enum fc_reset reason;
    uint8_t keep[64];
    uint8_t mac_key[32];
    uint8_t out[FC_TENSORS_MAX][64];
    struct rig_cost cost;
};

extern struct rig rig;

/* A blank device of this identity; then rig_boot(). See bench.py for the bytes. */
void rig_identity(const char *device_id, const uint8_t *p, uint32_t n);
int rig_boot(enum fc_reset reason);
void rig_link(int up);
void rig_retain(const char *topic, const uint8_t *p, uint32_t n);
int rig_message(const char *topic, const uint8_t *p, uint32_t n);
/* Delivers, steps, acknowledges, infers and lets time pass, `rounds` times. */
void rig_drive(uint32_t rounds);

/* Snapshots, by number. */
#define RIG_SNAPSHOTS 16u
void rig_save(uint32_t number);
void rig_restore(uint32_t number);

#endif
