/* cose.h: envelopes with pinned headers (SPEC.md section 3). */
#ifndef FLEET_CORE_COSE_H
#define FLEET_CORE_COSE_H

#include "cbor.h"
#include "fleet_core/core.h"
#include "fleet_core/hal.h"

enum fc_kind {
    FC_K_MANIFEST,
    FC_K_TRUST,
    FC_K_DESIRED,
    FC_K_CMD,
    FC_K_REPORTED,
    FC_K_TELEMETRY,
    FC_K_EVENT
};

/* As in topics and content types. */
const char *fc_kind_name(enum fc_kind kind);

/* COSE_Sign for manifest and trust, COSE_Sign1 for desired and cmd. The form only.
 *   FC_OK, FC_ERR_TOO_LARGE (over FC_MSG_MAX, unread), FC_ERR_SCHEMA
 * It must lie behind FC_HEAD bytes of the same buffer: the pinned headers are made there. */
int fc_cose_parse(enum fc_kind kind, uint8_t *msg, size_t n, struct fc_cose *out);

/* How many different keys of a role signed. revoked: of the trust document in force, or NULL.
 * owner:
 * whose installation and device id are signed with it, NULL for manifest and trust. The message
 * must lie behind FC_HEAD bytes of the same buffer: the Sig_structure grows into them. */
uint32_t fc_cose_signers(const struct fc_hal *hal, enum fc_kind kind, const struct fc_cose *msg,
                         const struct fc_role_keys *role, const struct fc_trust *revoked,
                         const struct fc_ident *owner);

/* Wraps written content in a COSE_Mac0 in place: FC_HEAD bytes before and FC_MAC_TAIL behind it are
 * ours. Returns the message's length, or FC_ERR_TOO_LARGE, FC_ERR_PORT. */
int fc_cose_mac0(const struct fc_hal *hal, enum fc_kind kind, const struct fc_ident *owner,
                 const struct fc_out *content, size_t most);
#define FC_MAC_TAIL 34u /* a byte string of 32 */
/* Where the message of that length begins: it ends with its tag. */
static inline const uint8_t *fc_cose_start(const struct fc_out *content, size_t size) {
    return content->p + content->n + FC_MAC_TAIL - size;
}

/* The SHA-256 of p[0..n) begins with the k bytes at `wanted`. */
int fc_is_digest(const struct fc_hal *hal, const void *p, size_t n, const uint8_t *wanted,
                 size_t k);
void fc_sha256(const struct fc_hal *hal, const void *p, size_t n, uint8_t out[32]);

#endif
