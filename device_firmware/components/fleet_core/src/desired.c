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
}

/* Takes `n` numbers (a bare one, or an array when `array`); 0 when one is out of its range. */
static int numbers(struct fc_in *in, int array, uint32_t n, const uint32_t ranges[][2],
                   uint32_t *out) {
    struct fc_in probe = *in;
    fc_in_skip(in);
    if (array && fc_in_array(&probe, 0, UINT32_MAX) != n)
        return 0;
    for (uint32_t i = 0; i < n && !probe.err; i++)
        out[i] = (uint32_t)fc_in_int(&probe, ranges[i][0], ranges[i][1]);
    return !probe.err;
}

static int config_value(struct fc_in *in, uint64_t key, const struct fc_config *before,
                        struct fc_config *c) {
    uint32_t v[3];
    switch (key) {
    case 1:
        if (numbers(in, 0, 1, (const uint32_t[][2]){{1, 86400}}, v))
            return c->heartbeat_s = v[0], 1;
        c->heartbeat_s = before->heartbeat_s;
        return 0;
    case 2:
        if (numbers(in, 0, 1, (const uint32_t[][2]){{1, 3600}}, v))
            return c->window_s = v[0], 1;
        c->window_s = before->window_s;
        return 0;
    case 3:
        if (numbers(in, 0, 1, (const uint32_t[][2]){{10, 3600000}}, v))
            return c->period_ms = v[0], 1;
        c->period_ms = before->period_ms;
        return 0;
    case 4:
        if (numbers(in, 0, 1, (const uint32_t[][2]){{0, INT32_MAX}}, v))
            return c->threshold = v[0], c->has_threshold = 1, 1;
        c->threshold = before->threshold;
        c->has_threshold = before->has_threshold;
        return 0;
    case 5:
        if (numbers(in, 1, 2, (const uint32_t[][2]){{1, 64}, {1, 64}}, v) && v[0] <= v[1])
            return c->alarm_k = v[0], c->alarm_n = v[1], 1;
        c->alarm_k = before->alarm_k;
        c->alarm_n = before->alarm_n;
        return 0;
    case 6:
        if (numbers(in, 1, 3, (const uint32_t[][2]){{1, 127}, {0, 1439}, {1, 1440}}, v)) {
            c->maint_mask = v[0];
            c->maint_start_min = v[1];
            c->maint_min = v[2];
            return 1;
        }
        c->maint_mask = before->maint_mask;
        c->maint_start_min = before->maint_start_min;
        c->maint_min = before->maint_min;
        return 0;
    case 7:
        if (numbers(in, 1, 2, (const uint32_t[][2]){{0, 100000}, {0, 86400}}, v))
            return c->probation_n = v[0], c->probation_s = v[1], 1;
        c->probation_n = before->probation_n;
        c->probation_s = before->probation_s;
        return 0;
    case 8:
        if (numbers(in, 0, 1, (const uint32_t[][2]){{0, 1000000}}, v))
            return c->sample_n = v[0], 1;
        c->sample_n = before->sample_n;
        return 0;
    case 9:
        if (numbers(in, 0, 1, (const uint32_t[][2]){{0, 6000}}, v))
            return c->chunk_cap = v[0], 1;
        c->chunk_cap = before->chunk_cap;
        return 0;
    default:
        fc_in_skip(in); /* of a newer backend: named as invalid, so that it can see so */
        return 0;
    }
}

static void parse_config(struct fc_in *in, const struct fc_config *before, struct fc_config *c) {
    uint32_t n = fc_in_map(in, FC_KEY_MAX + 1);
    fc_config_default(c);
    for (uint32_t i = 0; i < n && !in->err; i++) {
        uint64_t key = fc_in_uint(in, FC_KEY_MAX);
        if (!in->err && !config_value(in, key, before, c))
            c->invalid |= 1u << key;
    }
}

int fc_is_device_id(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int alnum = (p[i] >= 'a' && p[i] <= 'z') || (p[i] >= '0' && p[i] <= '9');
        if (!alnum && !(i && p[i] == '-'))
            return 0;
    }
    return n >= 1 && n <= 32;
}

/* Format, device id, counter and trust version: what both kinds begin with. */
static int opening(struct fc_in *in, const char *device_id, uint64_t *counter, uint32_t *version) {
    uint32_t n = 0;
    if (fc_in_uint(in, 0) != 0 || fc_in_int(in, 1, 1) != 1 || fc_in_int(in, 1, 1) != 1)
        return FC_ERR_SCHEMA;
    const uint8_t *id = fc_in_text(in, 1, 32, &n);
    if (!id || !fc_is_device_id(id, n))
        return FC_ERR_SCHEMA;
    int other = n != strlen(device_id) || memcmp(id, device_id, n) != 0;
    fc_in_int(in, 2, 2);
    *counter = fc_in_uint(in, UINT64_MAX);
    fc_in_int(in, 3, 3);
    *version = (uint32_t)fc_in_int(in, 1, (1 << 23) - 1);
    if (in->err)
        return FC_ERR_SCHEMA;
    if (*counter >> VERSION_SHIFT != *version)
        return FC_ERR_SEQUENCE;
    return other ? FC_ERR_SIGNATURE : FC_OK;
}

static int entry(struct fc_in *in, struct fc_target *t) {
    uint32_t n = 0;
    fc_in_array(in, 5, 5);
    uint64_t action = fc_in_uint(in, UINT64_MAX);
    const uint8_t *id = fc_in_bytes(in, 32, 32, &n);
    t->not_before = fc_in_uint(in, UINT64_MAX);
    t->deadline = fc_in_uint(in, UINT64_MAX);
    t->attempt = (uint16_t)fc_in_uint(in, UINT16_MAX);
    if (in->err || !id)
        return FC_ERR_SCHEMA;
    if (action > FC_ACT_STOP)
        return FC_ERR_UNKNOWN_ACTION;
    memcpy(t->id, id, 32);
    t->action = (uint8_t)action;
    t->set = 1;
    return (action == FC_ACT_STOP) == fc_is_zero(t->id, 32) ? FC_OK : FC_ERR_SCHEMA;
}

int fc_desired_parse(const uint8_t *p, size_t n, const char *device_id,
                     const struct fc_config *before, struct fc_desired *out) {
    memset(out, 0, sizeof *out);
    if (fc_cbor_check(p, n, 0, FC_ITEMS_MAX))
        return FC_ERR_SCHEMA;
    struct fc_in in = fc_in_of(p, n);
    if (fc_in_map(&in, 8) != 8)
        return FC_ERR_SCHEMA;
    int rc = opening(&in, device_id, &out->counter, &out->trust_version);
    if (rc)
        return rc;
    fc_in_int(&in, 4, 4);
    uint32_t entries = fc_in_map(&in, FC_SLOTS);
    for (uint32_t i = 0; i < entries && !in.err; i++) {
        uint64_t slot = fc_in_uint(&in, FC_SLOTS - 1);
        rc = in.err ? FC_ERR_SCHEMA : entry(&in, &out->target[slot]);
        if (rc)
            return rc;
    }
    fc_in_int(&in, 5, 5);
    parse_config(&in, before, &out->config);
    fc_in_int(&in, 6, 6);
    out->issued = fc_in_uint(&in, UINT64_MAX);
    fc_in_int(&in, 7, 7);
    out->expires = fc_in_uint(&in, UINT64_MAX);
    return fc_in_done(&in) ? FC_OK : FC_ERR_SCHEMA;
}

int fc_command_parse(const uint8_t *p, size_t n, const char *device_id, struct fc_command *out) {
    memset(out, 0, sizeof *out);
    if (fc_cbor_check(p, n, 0, FC_ITEMS_MAX))
        return FC_ERR_SCHEMA;
    struct fc_in in = fc_in_of(p, n);
    uint32_t keys = fc_in_map(&in, 8);
    if (keys != 7 && keys != 8)
        return FC_ERR_SCHEMA;
    int rc = opening(&in, device_id, &out->counter, &out->trust_version);
    if (rc)
        return rc;
    fc_in_int(&in, 4, 4);
    out->verb = fc_in_uint(&in, UINT64_MAX);
    if (keys == 8) {
        fc_in_int(&in, 5, 5);
        out->nargs = (uint8_t)fc_in_array(&in, 0, 8);
        for (uint32_t i = 0; i < out->nargs; i++)
            out->args[i] = fc_in_uint(&in, UINT64_MAX);
    }
    fc_in_int(&in, 6, 6);
    out->issued = fc_in_uint(&in, UINT64_MAX);
    fc_in_int(&in, 7, 7);
    out->expires = fc_in_uint(&in, UINT64_MAX);
    return fc_in_done(&in) ? FC_OK : FC_ERR_SCHEMA;
}
