/* desired.c: desired documents and commands (SPEC.md section 6). Signed by the online key, which a
 * broken-into backend holds: it can choose among released models, so every number is bounded.
 */
#include <string.h>

#include "bytes.h"
#include "documents.h"

#define VERSION_SHIFT 40 /* counter: trust version << 40 | seconds << 8 | n */

void fc_config_default(struct fc_config *c) {
    memset(c, 0, sizeof *c);
    c->heartbeat_s = 300;
    c->window_s = 60;
    c->period_ms = 1000;
    c->alarm_k = 3;
    c->alarm_n = 5;
    c->sketch_s = 900;
}

/* Every number of struct fc_config, in its order: the key it belongs to and its range. A key with
 * several numbers is an array of them. */
static const struct {
    uint8_t key, least;
    uint32_t most;
} NUMBERS[] = {
    {1, 1, 86400}, {2, 1, 3600},    {3, 10, 3600000}, {4, 0, INT32_MAX}, {5, 1, 64},
    {5, 1, 64},    {6, 1, 127},     {6, 0, 1439},     {6, 1, 1440},      {7, 0, 100000},
    {7, 0, 86400}, {8, 0, 1000000}, {9, 0, 6000},     {10, 1, 86400},
};
#define N_NUMBERS (sizeof NUMBERS / sizeof NUMBERS[0])
_Static_assert(offsetof(struct fc_config, has_threshold) == 4 * N_NUMBERS, "one row a number");

/* Takes the value of one key into its numbers. 0 = out of its range, or of a newer backend: named
 * as invalid, and the numbers stay as they were before this document. */
static int config_value(struct fc_in *in, uint32_t key, const struct fc_config *before,
                        struct fc_config *c) {
    struct fc_in at = *in;
    uint32_t first = 0, n = 0;
    fc_in_skip(in);
    for (uint32_t i = 0; i < N_NUMBERS; i++) {
        first += NUMBERS[i].key < key;
        n += NUMBERS[i].key == key;
    }
    if (n > 1)
        fc_in_array(&at, n, n);
    for (uint32_t i = first; i < first + n; i++) {
        uint32_t v = fc_in_u32(&at, NUMBERS[i].least, NUMBERS[i].most);
        memcpy((uint8_t *)c + 4 * i, &v, 4);
    }
    if (n && !at.err && (key != 5 || c->alarm_k <= c->alarm_n))
        return 1;
    memcpy((uint8_t *)c + 4 * first, (const uint8_t *)before + 4 * first, 4 * n);
    return 0;
}

static void parse_config(struct fc_in *in, const struct fc_config *before, struct fc_config *c) {
    uint32_t n = fc_in_map(in, FC_KEY_MAX + 1);
    fc_config_default(c);
    for (uint32_t i = 0; i < n && !in->err; i++) {
        uint32_t key = fc_in_u32(in, 0, FC_KEY_MAX);
        int good = config_value(in, key, before, c);
        if (!good)
            c->invalid |= 1u << key;
        if (key == 4)
            c->has_threshold = good ? 1 : before->has_threshold;
    }
}

/* Format, device id, counter and trust version: what both kinds begin with. */
static int opening(struct fc_in *in, const char *device_id, uint64_t *counter, uint32_t *version) {
    uint32_t n = 0;
    fc_in_key(in, 0);
    fc_in_key(in, 1);
    fc_in_key(in, 1);
    const uint8_t *id = fc_in_text(in, 1, 32, &n);
    if (!id || !fc_is_device_id(id, n))
        return FC_ERR_SCHEMA;
    int other = n != strlen(device_id) || memcmp(id, device_id, n) != 0;
    fc_in_key(in, 2);
    *counter = fc_in_u64(in);
    fc_in_key(in, 3);
    *version = fc_in_u32(in, 1, (1 << 23) - 1);
    if (in->err)
        return FC_ERR_SCHEMA;
    if (*counter >> VERSION_SHIFT != *version)
        return FC_ERR_SEQUENCE;
    return other ? FC_ERR_SIGNATURE : FC_OK;
}

static int ending(struct fc_in *in, uint64_t *issued, uint64_t *expires) {
    fc_in_key(in, 6);
    *issued = fc_in_u64(in);
    fc_in_key(in, 7);
    *expires = fc_in_u64(in);
    return fc_in_done(in) ? FC_OK : FC_ERR_SCHEMA;
}

static int entry(struct fc_in *in, struct fc_target *t) {
    fc_in_array(in, 5, 5);
    uint64_t action = fc_in_u64(in);
    fc_in_raw(in, t->id, 32);
    t->not_before = fc_in_u64(in);
    t->deadline = fc_in_u64(in);
    t->attempt = (uint16_t)fc_in_u32(in, 0, UINT16_MAX);
    if (in->err)
        return FC_ERR_SCHEMA;
    if (action > FC_ACT_STOP)
        return FC_ERR_UNKNOWN_ACTION;
    t->action = (uint8_t)action;
    t->set = 1;
    return (action == FC_ACT_STOP) == fc_is_zero(t->id, 32) ? FC_OK : FC_ERR_SCHEMA;
}

/* p[0..n) was signed by an online key, n <= FC_MSG_MAX. Slots are at most 3 before one is an index;
 * times are compared, never added to. */
int fc_desired_parse(const uint8_t *p, size_t n, const char *device_id,
                     const struct fc_config *before, struct fc_desired *out) {
    struct fc_in in;
    memset(out, 0, sizeof *out);
    if (fc_in_open(&in, p, n, 8) != 8)
        return FC_ERR_SCHEMA;
    int rc = opening(&in, device_id, &out->counter, &out->trust_version);
    if (rc)
        return rc;
    fc_in_key(&in, 4);
    uint32_t entries = fc_in_map(&in, FC_SLOTS_MAX);
    for (uint32_t i = 0; i < entries; i++) {
        struct fc_target t; /* a slot that this build lacks is judged, and forgotten */
        uint32_t slot = fc_in_u32(&in, 0, FC_SLOTS_MAX - 1);
        memset(&t, 0, sizeof t);
        rc = entry(&in, &t);
        if (rc)
            return rc;
        if (slot < FC_SLOTS)
            out->target[slot] = t;
    }
    fc_in_key(&in, 5);
    parse_config(&in, before, &out->config);
    return ending(&in, &out->issued, &out->expires);
}

/* p[0..n) was signed by an online key, n <= FC_MSG_MAX. At most 8 arguments, any 64-bit numbers. */
int fc_command_parse(const uint8_t *p, size_t n, const char *device_id, struct fc_command *out) {
    struct fc_in in;
    memset(out, 0, sizeof *out);
    uint32_t keys = fc_in_open(&in, p, n, 8);
    if (keys != 7 && keys != 8)
        return FC_ERR_SCHEMA;
    int rc = opening(&in, device_id, &out->counter, &out->trust_version);
    if (rc)
        return rc;
    fc_in_key(&in, 4);
    out->verb = fc_in_u64(&in);
    if (keys == 8) {
        fc_in_key(&in, 5);
        out->nargs = (uint8_t)fc_in_array(&in, 0, 8);
        for (uint32_t i = 0; i < out->nargs; i++)
            out->args[i] = fc_in_u64(&in);
    }
    return ending(&in, &out->issued, &out->expires);
}
