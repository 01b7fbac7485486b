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

struct fc_cose_sig {
    const uint8_t *kid; /* 8 bytes, a hint only */
    const uint8_t *sig; /* 64 bytes */
};

/* Pointers into the message. */
struct fc_cose {
    const uint8_t *payload;
    uint32_t n;
    uint32_t n_sigs;
    struct fc_cose_sig sigs[FC_SIGS_MAX];
};

/* COSE_Sign for manifest and trust, COSE_Sign1 for desired and cmd. The form only.
 *   FC_OK, FC_ERR_TOO_LARGE (over FC_MSG_MAX, unread), FC_ERR_SCHEMA */
int fc_cose_parse(enum fc_kind kind, const uint8_t *msg, size_t n, struct fc_cose *out);

struct fc_keyset {
    const struct fc_key *keys;
    uint32_t n;
    const uint8_t (*revoked)[8];
    uint32_t n_revoked;
};

/* How many different keys of the set signed. aad may be empty. scratch: FC_SCRATCH bytes. */
uint32_t fc_cose_signers(const struct fc_hal *hal, uint8_t *scratch, enum fc_kind kind,
                         const struct fc_cose *msg, const struct fc_keyset *set, const uint8_t *aad,
                         size_t aad_len);

/* Wraps a payload in a COSE_Mac0 into out. Returns its length, or FC_ERR_TOO_LARGE, FC_ERR_PORT. */
int fc_cose_mac0(const struct fc_hal *hal, uint8_t *scratch, enum fc_kind kind,
                 const uint8_t kid[4], const uint8_t *aad, size_t aad_len, const uint8_t *payload,
                 size_t n, uint8_t *out, size_t cap);

/* installation id, then the topic. Returns the length; out holds 16 + FC_TOPIC_MAX bytes. */
size_t fc_cose_aad(uint8_t *out, const uint8_t inst[16], const char *topic);

void fc_sha256(const struct fc_hal *hal, const void *p, size_t n, uint8_t out[32]);

#endif
