/* parsers.c: each parser of untrusted bytes alone, with what it promises about what it took. */
#include <string.h>

#include "targets.h"

static const struct fc_hal *hal(void) {
    return &fuzz_bench.h->hal;
}

/* What is accepted is one item: not less, not more, and the cursor walks over exactly it. */
void fuzz_cbor(const uint8_t *p, size_t n) {
    for (unsigned flags = 0; flags <= FC_CBOR_TAG; flags++) {
        if (fc_cbor_check(p, n, flags, FC_ITEMS_MAX))
            continue;
        struct fc_in in = fc_in_of(p, n);
        fc_in_skip(&in);
        if (!fc_in_done(&in))
            fail("the cursor does not walk over what was accepted", (long)n, (long)flags);
        if (n > 1 && fc_cbor_check(p, n - 1, flags, FC_ITEMS_MAX) == FC_OK)
            fail("an item without its last byte is accepted too", (long)n, (long)flags);
        if (fc_cbor_check(p, n, flags, 0) == FC_OK)
            fail("no limit of items", (long)n, (long)flags);
    }
}

void fuzz_cose(const uint8_t *p, size_t n) {
    static uint8_t work[FC_WORK]; /* the core's: room before the message for a Sig_structure */
    struct fc_cose cose;
    const struct fc_ident owner = {.device_id = fuzz_bench.ident.device_id};
    int kinds = 0;
    if (n > FC_MSG_MAX)
        return;
    for (enum fc_kind kind = FC_K_MANIFEST; kind <= FC_K_CMD; kind++) {
        uint8_t *msg = work + FC_WORK - n;
        memcpy(msg, p, n);
        if (fc_cose_parse(kind, msg, n, &cose))
            continue;
        kinds++;
        if (cose.n > n || cose.payload < msg || cose.payload + cose.n > msg + n || !cose.n_sigs ||
            cose.n_sigs > FC_SIGS_MAX)
            fail("an envelope points outside its message", (long)cose.n, (long)cose.n_sigs);
        struct fc_role_keys role = {.n = 2, .key = {{1}, {2}}};
        uint8_t kid[32];
        fc_sha256(hal(), role.key[0], 32, kid);
        memcpy(cose.own_kid, kid, 8); /* of a COSE_Sign1, so that its signature is looked at */
        if (fc_cose_signers(hal(), kind, &cose, &role, NULL, kind < FC_K_DESIRED ? NULL : &owner))
            fail("somebody signed for keys that nobody has", (long)kind, 0);
    }
    if (kinds > 1)
        fail("a message passes as two kinds", kinds, 0);
}

void fuzz_trust(const uint8_t *p, size_t n) {
    static const uint8_t most[FC_ROLES] = {4, 4, 2, 2};
    struct fc_trust t;
    if (fc_trust_parse(hal(), p, n, &t))
        return;
    if (!t.version || t.version >= 1u << 23 || t.n_revoked > 8 || t.n_names > FC_NAMES)
        fail("an unsound trust document is accepted", (long)t.version, t.n_names);
    for (uint32_t r = 0; r < FC_ROLES; r++) {
        const struct fc_role_keys *role = &t.role[r];
        int may_be_empty = r == FC_FIRMWARE && role->n == 0;
        if (role->n > most[r] || role->threshold > role->n || (!role->threshold && !may_be_empty))
            fail("a role without sound keys is accepted", (long)r, role->threshold);
    }
}

void fuzz_desired(const uint8_t *p, size_t n) {
    struct fc_desired d;
    struct fc_config before;
    fc_config_default(&before);
    if (fc_desired_parse(p, n, fuzz_bench.ident.device_id, &before, &d))
        return;
    if (d.counter >> 40 != d.trust_version || !d.trust_version)
        fail("a counter of another trust version is accepted", (long)d.trust_version, 0);
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        if (d.target[s].set &&
            (d.target[s].action > FC_ACT_STOP ||
             (d.target[s].action == FC_ACT_STOP) != fc_is_zero(d.target[s].id, 32)))
            fail("an entry that makes no sense is accepted", d.target[s].action, (long)s);
    const struct fc_config *c = &d.config;
    if (c->heartbeat_s < 1 || c->heartbeat_s > 86400 || c->window_s < 1 || c->window_s > 3600 ||
        c->period_ms < 10 || c->period_ms > 3600000 || c->alarm_k < 1 || c->alarm_k > c->alarm_n ||
        c->alarm_n > 64 || c->maint_mask > 127 || c->maint_start_min > 1439 ||
        c->maint_min > 1440 || c->chunk_cap > 6000)
        fail("a configuration out of range is taken", (long)c->invalid, 0);
}

void fuzz_command(const uint8_t *p, size_t n) {
    struct fc_command c;
    if (fc_command_parse(p, n, fuzz_bench.ident.device_id, &c))
        return;
    if (c.counter >> 40 != c.trust_version || c.nargs > 8)
        fail("a command that makes no sense is accepted", c.nargs, 0);
}

void fuzz_manifest(const uint8_t *p, size_t n) {
    struct fc_manifest m = {.id = {0}};
    struct fc_model model;
    const struct fc_core *core = &fuzz_bench.h->core;
    uint32_t detail = 0;
    fc_ops_valid(p, n);
    if (fc_manifest_parse(p, n, 0, &m, &model))
        return;
    fc_class_check(p, n, core->id->class_id);
    fc_ops_check(p, n, core->id->ops, core->id->ops_len, &detail);
    uint64_t chunks = ((uint64_t)m.size + 4095) / 4096 + ((uint64_t)m.blob_size + 4095) / 4096;
    if (!m.size || m.size > FC_MODEL_MAX || chunks != m.chunks || chunks > FC_CHUNKS_MAX ||
        m.floor > m.seq || !m.nin || m.nin > FC_TENSORS_MAX || !m.nout || m.nout > FC_TENSORS_MAX)
        fail("a manifest whose numbers contradict each other is accepted", m.chunks, m.nin);
    for (uint32_t i = 0; i < m.nin; i++)
        if (m.bytes[i] > FC_TENSOR_BYTES_MAX || model.in[i].bytes != m.bytes[i] ||
            model.in[i].ndim > FC_DIMS_MAX)
            fail("a tensor too large is accepted", model.in[i].bytes, model.in[i].ndim);
    if (!m.blob_size && (m.golden_off > n || m.golden_len > n - m.golden_off))
        fail("golden vectors outside the message", (long)m.golden_off, (long)m.golden_len);
    uint32_t end = fc_chunk_off(&m, m.chunks - 1) + fc_chunk_len(&m, m.chunks - 1);
    if (end > (3u + FC_CHUNKS_MAX) * FC_SECTOR)
        fail("a chunk behind the largest bank", (long)end, m.chunks);
}

/* A golden blob of two inputs and one output; the first byte says how many vectors there are. */
void fuzz_blob(const uint8_t *p, size_t n) {
    struct fc_manifest m = {.nin = 2, .nout = 1, .blob_size = (uint32_t)n};
    if (n < 1 || n > FC_BLOB_MAX)
        return;
    m.bytes[0] = 2;
    m.bytes[1] = 4;
    m.bytes[FC_TENSORS_MAX] = 3;
    memset(m.dtype, 9, sizeof m.dtype);
    m.golden_n = p[0] % 8u;
    fc_blob_check(&m, p + 1, n - 1);
}
