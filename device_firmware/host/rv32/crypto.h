/* crypto.h: the core's crypto by libsodium, as in every other port. */
#ifndef FLEET_RV32_CRYPTO_H
#define FLEET_RV32_CRYPTO_H

#include "fleet_core/hal.h"

void crypto_digest_begin(struct fc_digest *d);
void crypto_digest_add(struct fc_digest *d, const void *p, size_t n);
void crypto_digest_end(struct fc_digest *d, uint8_t out[32]);
int crypto_verify(const uint8_t sig[64], const void *msg, size_t n, const uint8_t key[32]);
int crypto_mac(const uint8_t key[32], const void *msg, size_t n, uint8_t out[32]);

/* Instructions spent in here since start, and verifications made; exact under -icount. */
struct crypto_count {
    uint64_t instructions;
    uint32_t verified;
};
extern struct crypto_count crypto_count;

#endif
