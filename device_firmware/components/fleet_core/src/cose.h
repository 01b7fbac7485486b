/* cose.h: envelopes with pinned headers (SPEC.md section 3). */
#ifndef FLEET_CORE_COSE_H
#define FLEET_CORE_COSE_H

#include "fleet_core/documents.h"
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

/* Pointers into the message; what lies before the payload is gone after fc_cose_signers(). */
struct fc_cose {
    uint8_t *payload;
    uint32_t n;
    uint32_t n_sigs;
    const uint8_t *sig; /* of the first signer; the others follow at equal distances */
    uint8_t own_kid[8]; /* of a COSE_Sign1 */
};

/* COSE_Sign for manifest and trust, COSE_Sign1 for desired and cmd. The form only.
 *   FC_OK, FC_ERR_TOO_LARGE (over FC_MSG_MAX, unread), FC_ERR_SCHEMA */
int fc_cose_parse(enum fc_kind kind, uint8_t *msg, size_t n, struct fc_cose *out);

/* Where a document belongs, for external_aad. */
struct fc_place {
    const uint8_t *inst; /* 16 bytes */
    const char *device_id;
};

/* How many different keys of a role signed. revoked: of the trust document in force, or NULL.
 * place: NULL for manifest and trust. The message must lie behind FC_HEAD bytes of the same buffer:
 * the Sig_structure grows into them. */
uint32_t fc_cose_signers(const struct fc_hal *hal, enum fc_kind kind, const struct fc_cose *msg,
                         const struct fc_role_keys *role, const struct fc_trust *revoked,
                         const struct fc_place *place);

/* Wraps the n bytes at `payload` in a COSE_Mac0 in place: FC_HEAD bytes before and 34 behind them
 * are ours. *msg = its start. Returns its length, or FC_ERR_TOO_LARGE, FC_ERR_PORT. */
int fc_cose_mac0(const struct fc_hal *hal, enum fc_kind kind, const uint8_t kid[4],
                 const struct fc_place *place, uint8_t *payload, size_t n, size_t most,
                 const uint8_t **msg);

void fc_sha256(const struct fc_hal *hal, const void *p, size_t n, uint8_t out[32]);

#endif
