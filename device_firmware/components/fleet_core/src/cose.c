/* cose.c: COSE_Sign, COSE_Sign1 and COSE_Mac0 with exactly the pinned headers.
 *
 * The messages are an attacker's until a signature was checked. fc_cbor_check() has walked a
 * message before a field of it is read, so no length here can reach beyond its end. A document of
 * one kind cannot pass as another: the kind stands in the protected header, which is compared byte
 * for byte and is part of what is signed.
 */
#include "cose.h"

#include <string.h>

#include "cbor.h"

#define HEADER_MAX 80u

static const char *const KIND_NAMES[] = {"manifest", "trust",     "desired", "cmd",
                                         "reported", "telemetry", "event"};

static int is_sign(enum fc_kind kind) {
    return kind == FC_K_MANIFEST || kind == FC_K_TRUST;
}

void fc_sha256(const struct fc_hal *hal, const void *p, size_t n, uint8_t out[32]) {
    struct fc_digest d;
    hal->digest_begin(&d);
    hal->digest_add(&d, p, n);
    hal->digest_end(&d, out);
}

static void put_content_type(struct fc_out *out, enum fc_kind kind) {
    static const char before[] = "application/vnd.tinyfleet.";
    static const char after[] = "+cbor";
    const char *name = KIND_NAMES[kind];
    fc_out_head(out, FC_TEXT, sizeof before - 1 + strlen(name) + sizeof after - 1);
    fc_out_raw(out, before, sizeof before - 1);
    fc_out_raw(out, name, strlen(name));
    fc_out_raw(out, after, sizeof after - 1);
}

/* {3: ct} */
static size_t body_header(enum fc_kind kind, uint8_t *p) {
    struct fc_out out = fc_out_to(p, HEADER_MAX);
    fc_out_map(&out, 1);
    fc_out_uint(&out, 3);
    put_content_type(&out, kind);
    return out.n;
}

/* {1: -8, 4: kid} */
static size_t signer_header(const uint8_t kid[8], uint8_t *p) {
    struct fc_out out = fc_out_to(p, HEADER_MAX);
    fc_out_map(&out, 2);
    fc_out_uint(&out, 1);
    fc_out_int(&out, -8);
    fc_out_uint(&out, 4);
    fc_out_bytes(&out, kid, 8);
    return out.n;
}

/* {1: alg, 3: ct, 4: kid} */
static size_t full_header(enum fc_kind kind, int64_t alg, const uint8_t *kid, size_t kid_len,
                          uint8_t *p) {
    struct fc_out out = fc_out_to(p, HEADER_MAX);
    fc_out_map(&out, 3);
    fc_out_uint(&out, 1);
    fc_out_int(&out, alg);
    fc_out_uint(&out, 3);
    put_content_type(&out, kind);
    fc_out_uint(&out, 4);
    fc_out_bytes(&out, kid, kid_len);
    return out.n;
}

/* Takes a protected header that must be the pinned one around the last `kid_len` bytes. */
static const uint8_t *pinned(struct fc_in *in, enum fc_kind kind, int signer) {
    uint8_t wanted[HEADER_MAX];
    uint32_t n = 0;
    const uint8_t *p = fc_in_bytes(in, 9, HEADER_MAX, &n);
    if (!p)
        return NULL;
    const uint8_t *kid = p + (n - 8);
    size_t size = signer ? signer_header(kid, wanted) : full_header(kind, -8, kid, 8, wanted);
    if (n != size || memcmp(p, wanted, size) != 0) {
        fc_in_fail(in);
        return NULL;
    }
    return kid;
}

static void no_unprotected(struct fc_in *in) {
    if (fc_in_map(in, 0) != 0)
        fc_in_fail(in);
}

static void parse_signers(struct fc_in *in, struct fc_cose *out) {
    uint32_t n = 0;
    out->n_sigs = fc_in_array(in, 1, FC_SIGS_MAX);
    for (uint32_t i = 0; i < out->n_sigs && !in->err; i++) {
        fc_in_array(in, 3, 3);
        out->sigs[i].kid = pinned(in, FC_K_MANIFEST, 1);
        no_unprotected(in);
        out->sigs[i].sig = fc_in_bytes(in, 64, 64, &n);
    }
}

int fc_cose_parse(enum fc_kind kind, const uint8_t *msg, size_t n, struct fc_cose *out) {
    uint32_t size = 0;
    memset(out, 0, sizeof *out);
    if (n > FC_MSG_MAX)
        return FC_ERR_TOO_LARGE;
    if (fc_cbor_check(msg, n, FC_CBOR_TAG, FC_ITEMS_MAX))
        return FC_ERR_SCHEMA;
    struct fc_in in = fc_in_of(msg, n);
    if (fc_in_tag(&in) != (is_sign(kind) ? 98u : 18u))
        fc_in_fail(&in);
    fc_in_array(&in, 4, 4);
    if (is_sign(kind)) {
        uint8_t wanted[HEADER_MAX];
        size_t body = body_header(kind, wanted);
        const uint8_t *p = fc_in_bytes(&in, 0, HEADER_MAX, &size);
        if (!p || size != body || memcmp(p, wanted, body) != 0)
            fc_in_fail(&in);
    } else {
        out->sigs[0].kid = pinned(&in, kind, 0);
    }
    no_unprotected(&in);
    out->payload = fc_in_bytes(&in, 0, FC_MSG_MAX, &out->n);
    if (is_sign(kind)) {
        parse_signers(&in, out);
    } else {
        out->n_sigs = 1;
        out->sigs[0].sig = fc_in_bytes(&in, 64, 64, &size);
    }
    return fc_in_done(&in) ? FC_OK : FC_ERR_SCHEMA;
}

/* Sig_structure of one signature into scratch; 0 when it would not fit. */
static size_t sig_structure(uint8_t *scratch, enum fc_kind kind, const struct fc_cose *msg,
                            const uint8_t *kid, const uint8_t *aad, size_t aad_len) {
    uint8_t header[HEADER_MAX];
    struct fc_out out = fc_out_to(scratch, FC_SCRATCH);
    if (is_sign(kind)) {
        fc_out_array(&out, 5);
        fc_out_text(&out, "Signature");
        fc_out_bytes(&out, header, body_header(kind, header));
        size_t n = signer_header(kid, header);
        fc_out_bytes(&out, header, n);
    } else {
        fc_out_array(&out, 4);
        fc_out_text(&out, "Signature1");
        size_t n = full_header(kind, -8, kid, 8, header);
        fc_out_bytes(&out, header, n);
    }
    fc_out_bytes(&out, aad, aad_len);
    fc_out_bytes(&out, msg->payload, msg->n);
    return out.err ? 0 : out.n;
}

static int is_revoked(const struct fc_keyset *set, const uint8_t kid[8]) {
    for (uint32_t i = 0; i < set->n_revoked; i++)
        if (memcmp(set->revoked[i], kid, 8) == 0)
            return 1;
    return 0;
}

uint32_t fc_cose_signers(const struct fc_hal *hal, uint8_t *scratch, enum fc_kind kind,
                         const struct fc_cose *msg, const struct fc_keyset *set, const uint8_t *aad,
                         size_t aad_len) {
    uint32_t count = 0;
    /* By key, not by signature: a key that signed twice counts once. */
    for (uint32_t k = 0; k < set->n; k++) {
        const struct fc_key *key = &set->keys[k];
        int good = 0;
        if (is_revoked(set, key->kid))
            continue;
        for (uint32_t s = 0; s < msg->n_sigs && !good; s++) {
            if (memcmp(msg->sigs[s].kid, key->kid, 8) != 0)
                continue;
            size_t n = sig_structure(scratch, kind, msg, key->kid, aad, aad_len);
            good = n && hal->verify(msg->sigs[s].sig, scratch, n, key->pk) == FC_OK;
        }
        count += good ? 1u : 0u;
    }
    return count;
}

int fc_cose_mac0(const struct fc_hal *hal, uint8_t *scratch, enum fc_kind kind,
                 const uint8_t kid[4], const uint8_t *aad, size_t aad_len, const uint8_t *payload,
                 size_t n, uint8_t *out, size_t cap) {
    uint8_t header[HEADER_MAX], tag[32];
    size_t header_len = full_header(kind, 5, kid, 4, header);

    struct fc_out mac = fc_out_to(scratch, FC_SCRATCH);
    fc_out_array(&mac, 4);
    fc_out_text(&mac, "MAC0");
    fc_out_bytes(&mac, header, header_len);
    fc_out_bytes(&mac, aad, aad_len);
    fc_out_bytes(&mac, payload, n);
    if (mac.err)
        return FC_ERR_TOO_LARGE;
    if (hal->mac(hal->ctx, scratch, mac.n, tag))
        return FC_ERR_PORT;

    struct fc_out msg = fc_out_to(out, cap);
    fc_out_head(&msg, FC_TAG, 17);
    fc_out_array(&msg, 4);
    fc_out_bytes(&msg, header, header_len);
    fc_out_map(&msg, 0);
    fc_out_bytes(&msg, payload, n);
    fc_out_bytes(&msg, tag, sizeof tag);
    return msg.err ? FC_ERR_TOO_LARGE : (int)msg.n;
}

size_t fc_cose_aad(uint8_t *out, const uint8_t inst[16], const char *topic) {
    size_t n = strlen(topic);
    memcpy(out, inst, 16);
    if (n > FC_TOPIC_MAX)
        n = FC_TOPIC_MAX;
    memcpy(out + 16, topic, n);
    return 16 + n;
}
