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
/* [h'A2 01 27 04 48 kid', {}, sig]: the pinned header makes every signer one size, its kid ends two
 * heads before its signature. */
#define SIGNER_BYTES 82u
#define KID_BEFORE_SIG 11u

const char *fc_kind_name(enum fc_kind kind) {
    static const char names[][10] = {"manifest", "trust",     "desired", "cmd",
                                     "reported", "telemetry", "event"};
    return names[kind];
}

static int is_sign(enum fc_kind kind) {
    return kind <= FC_K_TRUST;
}

void fc_sha256(const struct fc_hal *hal, const void *p, size_t n, uint8_t out[32]) {
    struct fc_digest d;
    hal->digest_begin(&d);
    hal->digest_add(&d, p, n);
    hal->digest_end(&d, out);
}

int fc_is_digest(const struct fc_hal *hal, const void *p, size_t n, const uint8_t *wanted,
                 size_t k) {
    uint8_t digest[32];
    fc_sha256(hal, p, n, digest);
    return memcmp(digest, wanted, k) == 0;
}

/* A byte string whose length is known when it is written: 24..255 bytes, or up to 23. */
static size_t bytes_begin(struct fc_out *out, int is_long) {
    fc_out_head(out, FC_BYTES, is_long ? 24 : 0);
    return out->n;
}

static void bytes_end(struct fc_out *out, size_t from) {
    if (!out->err)
        out->p[from - 1] = (uint8_t)((out->p[from - 1] & 0x40u) + (out->n - from));
}

/* A protected header as a byte string: {? 1: alg, ? 3: content type, ? 4: kid}. With a content type
 * it has 24 bytes or more, without one 13. */
static void put_header(struct fc_out *out, int alg, const char *name, const uint8_t *kid,
                       size_t kid_len) {
    static const char before[] = "application/vnd.tinyfleet.";
    size_t from = bytes_begin(out, name != NULL);
    fc_out_map(out, (alg ? 1u : 0u) + (name ? 1u : 0u) + (kid ? 1u : 0u));
    if (alg) {
        fc_out_u32(out, 1);
        fc_out_int(out, alg);
    }
    if (name) {
        size_t n = strlen(name);
        fc_out_u32(out, 3);
        fc_out_head(out, FC_TEXT, sizeof before - 1 + n + 5);
        fc_out_raw(out, before, sizeof before - 1);
        fc_out_raw(out, name, n);
        fc_out_raw(out, "+cbor", 5);
    }
    if (kid) {
        fc_out_u32(out, 4);
        fc_out_bytes(out, kid, kid_len);
    }
    bytes_end(out, from);
}

/* Takes a protected header that must be the pinned one around its last 8 bytes, or without them.
 * The message was walked: n bytes lie behind p, and n >= 9, so the kid lies within them. `raw` has
 * room for the pinned one: FC_HEAD bytes before the message. */
static const uint8_t *take_header(struct fc_in *in, uint8_t *raw, int alg, const char *name,
                                  int has_kid) {
    const uint8_t *start = in->p, *kid = NULL;
    uint32_t n = 0;
    const uint8_t *p = fc_in_bytes(in, 9, HEADER_MAX, &n);
    if (!p)
        return NULL;
    if (has_kid)
        kid = p + (n - 8);
    struct fc_out wanted = fc_out_to(raw, HEADER_MAX + 2);
    put_header(&wanted, alg, name, kid, 8);
    if (wanted.n != (size_t)(in->p - start) || memcmp(start, raw, wanted.n) != 0)
        fc_in_fail(in);
    return kid;
}

static void no_unprotected(struct fc_in *in) {
    fc_in_map(in, 0);
}

int fc_cose_parse(enum fc_kind kind, uint8_t *msg, size_t n, struct fc_cose *out) {
    const char *name = fc_kind_name(kind);
    const uint8_t *kid;
    memset(out, 0, sizeof *out);
    if (n > FC_MSG_MAX)
        return FC_ERR_TOO_LARGE;
    if (fc_cbor_check(msg, n, FC_CBOR_TAG, FC_ITEMS_MAX))
        return FC_ERR_SCHEMA;
    struct fc_in in = fc_in_of(msg, n);
    if (fc_in_tag(&in) != (is_sign(kind) ? 98u : 18u))
        fc_in_fail(&in);
    fc_in_array(&in, 4, 4);
    kid = take_header(&in, msg - FC_HEAD, is_sign(kind) ? 0 : -8, name, !is_sign(kind));
    no_unprotected(&in);
    const uint8_t *payload = fc_in_bytes(&in, 0, FC_MSG_MAX, &out->n);
    if (payload)
        out->payload = msg + (payload - msg);
    out->n_sigs = is_sign(kind) ? fc_in_array(&in, 1, FC_SIGS_MAX) : 1;
    for (uint32_t i = 0; i < out->n_sigs && !in.err; i++) {
        const uint8_t *sig;
        if (is_sign(kind)) {
            fc_in_array(&in, 3, 3);
            take_header(&in, msg - FC_HEAD, -8, NULL, 1);
            no_unprotected(&in);
        } else if (kid) {
            memcpy(out->own_kid, kid, 8);
        }
        sig = fc_in_bytes(&in, 64, 64, NULL);
        if (i == 0)
            out->sig = sig;
    }
    return fc_in_done(&in) ? FC_OK : FC_ERR_SCHEMA;
}

/* external_aad: installation id, then the topic, 24 bytes or more; empty for a COSE_Sign. */
static void put_aad(struct fc_out *out, enum fc_kind kind, const struct fc_ident *owner) {
    size_t from = bytes_begin(out, owner != NULL);
    if (owner) {
        fc_out_raw(out, owner->inst, 16);
        fc_out_raw(out, "f1/dev/", 7);
        fc_out_raw(out, owner->device_id, strlen(owner->device_id));
        fc_out_raw(out, "/", 1);
        fc_out_raw(out, fc_kind_name(kind), strlen(fc_kind_name(kind)));
    }
    bytes_end(out, from);
}

/* A Sig_structure or MAC_structure whose last element is the payload as it lies there; returns its
 * start. Context, headers and aad: 12 + 2 * (HEADER_MAX + 2) + 68 < FC_HEAD - 3 bytes. */
static const uint8_t *structure(enum fc_kind kind, const uint8_t *kid, const struct fc_ident *owner,
                                uint8_t *payload, size_t n) {
    struct fc_out out = fc_out_to(payload - FC_HEAD, FC_HEAD);
    const char *name = fc_kind_name(kind);
    fc_out_array(&out, is_sign(kind) ? 5 : 4);
    fc_out_text(&out, is_sign(kind) ? "Signature" : kind <= FC_K_CMD ? "Signature1" : "MAC0");
    if (is_sign(kind)) {
        put_header(&out, 0, name, NULL, 0);
        name = NULL;
    }
    put_header(&out, kind <= FC_K_CMD ? -8 : 5, name, kid, kind <= FC_K_CMD ? 8 : 4);
    put_aad(&out, kind, owner);
    fc_out_head(&out, FC_BYTES, n);
    return memmove(payload - out.n, out.p, out.n);
}

static int is_revoked(const struct fc_trust *trust, const uint8_t kid[8]) {
    for (uint32_t i = 0; trust && i < trust->n_revoked; i++)
        if (memcmp(trust->revoked[i], kid, 8) == 0)
            return 1;
    return 0;
}

uint32_t fc_cose_signers(const struct fc_hal *hal, enum fc_kind kind, const struct fc_cose *msg,
                         const struct fc_role_keys *role, const struct fc_trust *revoked,
                         const struct fc_ident *owner) {
    uint32_t count = 0;
    /* By key, not by signature: a key that signed twice counts once. */
    for (uint32_t k = 0; k < role->n; k++) {
        uint8_t kid[32];
        fc_sha256(hal, role->key[k], 32, kid);
        for (uint32_t s = 0; s < msg->n_sigs && !is_revoked(revoked, kid); s++) {
            const uint8_t *sig = msg->sig + s * SIGNER_BYTES;
            if (memcmp(is_sign(kind) ? sig - KID_BEFORE_SIG : msg->own_kid, kid, 8) != 0)
                continue;
            const uint8_t *p = structure(kind, kid, owner, msg->payload, msg->n);
            size_t n = (size_t)(msg->payload - p) + msg->n;
            if (hal->verify(sig, p, n, role->key[k]) == FC_OK) {
                count++;
                break;
            }
        }
    }
    return count;
}

int fc_cose_mac0(const struct fc_hal *hal, enum fc_kind kind, const struct fc_ident *owner,
                 const struct fc_out *content, size_t most) {
    uint8_t *payload = content->p;
    size_t n = content->n;
    if (content->err)
        return FC_ERR_TOO_LARGE;
    const uint8_t *start = structure(kind, owner->mac_kid, owner, payload, n);
    uint8_t *tag = payload + n;
    if (n + FC_MAC_TAIL > most || hal->mac(hal->ctx, start, (size_t)(payload - start) + n, tag + 2))
        return n + FC_MAC_TAIL > most ? FC_ERR_TOO_LARGE : FC_ERR_PORT;
    tag[0] = FC_BYTES << 5 | 24; /* the head of a byte string of 32 */
    tag[1] = 32;
    struct fc_out out = fc_out_to(payload - FC_HEAD, FC_HEAD);
    fc_out_head(&out, FC_TAG, 17);
    fc_out_array(&out, 4);
    put_header(&out, 5, fc_kind_name(kind), owner->mac_kid, 4);
    fc_out_map(&out, 0);
    fc_out_head(&out, FC_BYTES, n);
    size_t size = out.n + n + FC_MAC_TAIL;
    if (size > most)
        return FC_ERR_TOO_LARGE;
    memmove(payload - out.n, out.p, out.n);
    return (int)size;
}
