/* bench.c: runs a script of calls into the core on the emulated chip and prints what each did.
 *
 * Script (bench.py writes it): "FCRV", then records of u8 verb, u16le topic length, topic, u32le
 * length, payload. Each record is answered by one line
 *
 *   number result instructions stack [key=value ..]
 *
 * stack = bytes of stack below the verb's frame that were written, by painting. The program ends
 * with a line "end N".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "board.h"
#include "bytes.h"
#include "crypto.h"
#include "rig.h"

#define PAINT_BYTES 12288u
#define PAINT 0xA5u

enum verb {
    V_IDENTITY,
    V_BOOT,
    V_LINK,
    V_MESSAGE,
    V_CBOR,
    V_MANIFEST,
    V_VERIFY,
    V_SHA256,
    V_HMAC,
    V_CLOCK,
    V_STATE,
    V_SAVE,
    V_RESTORE,
    V_RETAIN,
    V_DRIVE,
    V_RESET_COST,
};

static struct fc_manifest manifest;
static struct fc_model model;
static uint8_t digest[32];

static void print_hex(const char *key, const uint8_t *p, size_t n) {
    printf(" %s=", key);
    for (size_t i = 0; i < n; i++)
        printf("%02x", p[i]);
}

static void print_tensors(const char *key, const struct fc_tensor *t, uint32_t n) {
    printf(" %s=", key);
    for (uint32_t i = 0; i < n; i++) {
        printf("%s%u:", i ? "," : "", t[i].dtype);
        for (uint32_t d = 0; d < t[i].ndim; d++)
            printf("%s%lu", d ? "x" : "", (unsigned long)t[i].dim[d]);
        printf(":%lu:%ld:%lu", (unsigned long)t[i].scale_bits, (long)t[i].zero_point,
               (unsigned long)t[i].bytes);
    }
}

/* What an update and what an application read of an accepted manifest. */
static void print_manifest(const struct fc_manifest *m, const uint8_t *p, uint32_t n) {
    const struct fc_hints *h = &model.hints;
    memcpy(fc_msg(&rig.core), p, n); /* it was accepted: at most FC_MSG_MAX */
    if (fc_manifest_read(&rig.core, n, &manifest, &model))
        board_fail("an accepted manifest cannot be read", (long)n, 0);
    if (memcmp(model.id, m->id, 32) != 0 || model.seq != m->seq || model.floor != m->floor ||
        model.size != m->size || model.arena != m->arena || model.nin != m->nin ||
        model.nout != m->nout || h->latency_us != m->hints.latency_us)
        board_fail("two readings of a manifest differ", (long)n, 0);
    printf(" name=%s version=%s seq=%lu floor=%lu size=%lu arena=%lu", model.name, model.version,
           (unsigned long)m->seq, (unsigned long)m->floor, (unsigned long)m->size,
           (unsigned long)m->arena);
    print_hex("id", m->id, 32);
    print_hex("sha256", m->sha256, 32);
    print_hex("leaves", m->leaves_sha256, 32);
    printf(" firmware=%u.%u.%u expires=%llu kind=%u slot=%u chunks=%lu", m->firmware[0],
           m->firmware[1], m->firmware[2], (unsigned long long)m->expires, m->kind, m->slot,
           (unsigned long)m->chunks);
    print_tensors("in", model.in, model.nin);
    print_tensors("out", model.out, model.nout);
    printf(" golden=%lu tol=%lu blob=%lu", (unsigned long)m->golden_n, (unsigned long)m->tol,
           (unsigned long)m->blob_size);
    printf(" hints=%lu,%lu,%lu,%lu,%lu,%lu,%lu,%lu,%lu,%lu", (unsigned long)h->window,
           (unsigned long)h->hop, (unsigned long)h->channels, (unsigned long)h->reset_policy,
           (unsigned long)h->variables, (unsigned long)h->latency_us, (unsigned long)h->head,
           (unsigned long)h->classes, (unsigned long)h->anomaly_kind,
           (unsigned long)h->anomaly_threshold);
    print_hex("labels", h->labels, 8);
}

static void print_trust(const struct fc_trust *t) {
    static const char *const roles[] = {"roots", "release", "online", "firmware"};
    printf(" trust=%lu issued=%llu expires=%llu", (unsigned long)t->version,
           (unsigned long long)t->issued, (unsigned long long)t->expires);
    for (uint32_t r = 0; r < FC_ROLES; r++) {
        printf(" %s=%u/%u", roles[r], t->role[r].threshold, t->role[r].n);
        for (uint32_t i = 0; i < t->role[r].n; i++)
            print_hex("key", t->role[r].key[i], 32);
    }
    for (uint32_t i = 0; i < t->n_revoked; i++)
        print_hex("revoked", t->revoked[i], 8);
    for (uint32_t i = 0; i < t->n_names; i++)
        printf(" least=%lu,%u", (unsigned long)t->names[i].least_seq, t->names[i].resets);
}

static void print_config(const struct fc_config *c) {
    printf(" config=%lu,%lu,%lu,%lu,%lu/%lu,%lu/%lu/%lu,%lu/%lu,%lu,%lu,%lu invalid=%lu",
           (unsigned long)c->heartbeat_s, (unsigned long)c->window_s, (unsigned long)c->period_ms,
           (unsigned long)c->threshold, (unsigned long)c->alarm_k, (unsigned long)c->alarm_n,
           (unsigned long)c->maint_mask, (unsigned long)c->maint_start_min,
           (unsigned long)c->maint_min, (unsigned long)c->probation_n,
           (unsigned long)c->probation_s, (unsigned long)c->sample_n, (unsigned long)c->chunk_cap,
           (unsigned long)c->sketch_s, (unsigned long)c->invalid);
}

static void print_state(void) {
    const struct fc_core *c = &rig.core;
    const struct fc_slot *s = &c->slot[0];
    const struct fc_rec_slot *rs = &c->rec.slots[0];
    print_trust(&c->trust);
    printf(" desired=%llu cmd=%llu record=%llu", (unsigned long long)c->rec.desired_counter,
           (unsigned long long)c->rec.cmd_counter, (unsigned long long)c->rec.number);
    for (uint32_t i = 0; i < FC_SLOTS; i++) {
        const struct fc_target *t = &c->slot[i].target;
        if (!t->set)
            continue;
        printf(" entry=%lu,%u,%llu,%llu,%u", (unsigned long)i, t->action,
               (unsigned long long)t->not_before, (unsigned long long)t->deadline, t->attempt);
        print_hex("entry_id", t->id, 32);
    }
    print_config(fc_cfg(c));
    printf(" state=%u code=%u have=%lu total=%lu phase=%u run_bank=%u", s->state, s->code,
           (unsigned long)s->have, (unsigned long)s->total, rs->phase, rs->run_bank);
    print_hex("run_id", rs->run_id, 16);
    printf(" floor=%lu seq=%lu golden=%lu/%lu", (unsigned long)c->rec.names[0].floor,
           (unsigned long)c->rec.names[0].seq, (unsigned long)s->golden.ok,
           (unsigned long)s->golden.n);
    printf(" loaded_bytes=%lu sent=%lu invokes=%lu", (unsigned long)rig.loaded_bytes,
           (unsigned long)rig.sent, (unsigned long)rig.invokes);
}

static void print_cost(void) {
    const struct rig_cost *c = &rig.cost;
    printf(" steps=%llu step_sum=%llu step_most=%llu message_sum=%llu message_most=%llu"
           " chunks=%llu chunk_sum=%llu chunk_most=%llu crypto=%llu",
           (unsigned long long)c->steps, (unsigned long long)c->step_sum,
           (unsigned long long)c->step_most, (unsigned long long)c->message_sum,
           (unsigned long long)c->message_most, (unsigned long long)c->chunks,
           (unsigned long long)c->chunk_sum, (unsigned long long)c->chunk_most,
           (unsigned long long)c->crypto);
}

/* The call that is measured. Results: what the core says; 0 for verbs that have none. */
static int call(enum verb verb, const char *topic, const uint8_t *p, uint32_t n) {
    switch (verb) {
    case V_BOOT:
        return rig_boot((enum fc_reset)p[0]);
    case V_LINK:
        rig_link(p[0]);
        return 0;
    case V_MESSAGE:
        return rig_message(topic, p, n);
    case V_CBOR:
        return fc_cbor_check(p, n, 0, FC_ITEMS_MAX);
    case V_MANIFEST:
        return fc_manifest_check(&rig.core, 0, p, n, FC_CHECK_DOCUMENT, &manifest);
    case V_VERIFY: /* key 32, signature 64, message */
        return n < 96 ? FC_ERR_SCHEMA : crypto_verify(p + 32, p + 96, n - 96, p);
    case V_SHA256:
        fc_sha256(&rig.hal, p, n, digest);
        return 0;
    case V_HMAC: /* key 32, message */
        return n < 32 ? FC_ERR_SCHEMA : crypto_mac(p, p + 32, n - 32, digest);
    case V_DRIVE:
        rig_drive(fc_get32(p));
        return 0;
    default:
        return 0;
    }
}

/* What is done between calls, unmeasured. 1 = it was one of these. */
static int prepare(enum verb verb, const char *topic, const uint8_t *p, uint32_t n) {
    switch (verb) {
    case V_IDENTITY:
        rig_identity(topic, p, n);
        return 1;
    case V_CLOCK:
        rig.ms = fc_get64(p);
        rig.unix_s = fc_get64(p + 8);
        return 1;
    case V_SAVE:
        rig_save(p[0]);
        return 1;
    case V_RESTORE:
        rig_restore(p[0]);
        return 1;
    case V_RETAIN:
        rig_retain(topic, p, n);
        return 1;
    case V_RESET_COST:
        memset(&rig.cost, 0, sizeof rig.cost);
        return 1;
    default:
        return 0;
    }
}

static uint8_t *stack_here(void) {
    uintptr_t sp;
    __asm__ volatile("mv %0, sp" : "=r"(sp));
    return (uint8_t *)sp;
}

/* A frame of its own, so that what is painted begins where the callee's frame will. */
static __attribute__((noinline)) uint8_t *paint(void) {
    volatile uint8_t *low = stack_here() - PAINT_BYTES;
    for (uint32_t i = 0; i < PAINT_BYTES - 64; i++)
        low[i] = PAINT;
    return (uint8_t *)(uintptr_t)low;
}

static uint32_t depth(const uint8_t *low, const uint8_t *from) {
    uint32_t i = 0;
    while (i < PAINT_BYTES - 64 && low[i] == PAINT)
        i++;
    if (i == 0)
        board_fail("the painted stack was too small", (long)PAINT_BYTES, 0);
    return (uint32_t)(from - (low + i));
}

static void answer(uint32_t number, enum verb verb, const char *topic, const uint8_t *p,
                   uint32_t n) {
    if (prepare(verb, topic, p, n)) {
        printf("%lu 0 0 0\n", (unsigned long)number);
        return;
    }
    const uint8_t *from = stack_here(), *low = paint();
    uint64_t since = board_instructions();
    int rc = call(verb, topic, p, n);
    uint64_t took = board_instructions() - since;
    printf("%lu %d %llu %lu", (unsigned long)number, rc, (unsigned long long)took,
           (unsigned long)depth(low, from));
    if (verb == V_MANIFEST && rc == FC_OK)
        print_manifest(&manifest, p, n);
    if (verb == V_SHA256 || verb == V_HMAC)
        print_hex("digest", digest, 32);
    if (verb == V_STATE)
        print_state();
    if (verb == V_DRIVE)
        print_cost();
    putchar('\n');
}

static const uint8_t *take(const uint8_t **p, const uint8_t *end, size_t n) {
    const uint8_t *at = *p;
    if ((size_t)(end - at) < n)
        board_fail("the script ends early", (long)n, (long)(end - at));
    *p += n;
    return at;
}

int main(void) {
    uint32_t size = 0, number = 0;
    const uint8_t *p = board_read_file("script.bin", &size), *end = p + size;
    if (memcmp(take(&p, end, 4), "FCRV", 4) != 0)
        board_fail("not a script", 0, 0);
    while (p < end) {
        enum verb verb = (enum verb) * take(&p, end, 1);
        uint32_t topic_len = fc_get16(take(&p, end, 2));
        char *topic = calloc(1, topic_len + 1); /* the core may keep it as its name */
        if (!topic)
            board_fail("no memory for a topic", (long)topic_len, 0);
        memcpy(topic, take(&p, end, topic_len), topic_len);
        uint32_t n = fc_get32(take(&p, end, 4));
        answer(number++, verb, topic, take(&p, end, n), n);
    }
    printf("end %lu\n", (unsigned long)number);
    board_stop(0);
}
