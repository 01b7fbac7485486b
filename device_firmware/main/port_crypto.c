/* port_crypto.c: libsodium, as on the host. No mbedtls_* call: IDF 6 has none of the old ones left.
 *
 * SHA-256 is libsodium's own (LIBSODIUM_USE_MBEDTLS_SHA off): the core drops a digest half-way when
 * a download is replaced, and a PSA or hardware context that is never finished would leak.
 */
#include <string.h>

#include "sodium.h"

#include "port.h"

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(struct fc_digest), "digest state fits");
_Static_assert(crypto_sign_BYTES == 64 && crypto_sign_PUBLICKEYBYTES == 32, "Ed25519");
_Static_assert(crypto_auth_hmacsha256_KEYBYTES == 32 && crypto_auth_hmacsha256_BYTES == 32, "HMAC");

static uint8_t s_mac_key[32]; /* has no getter */

static crypto_hash_sha256_state *state(struct fc_digest *d) {
    return (crypto_hash_sha256_state *)(void *)d->opaque;
}

static void digest_begin(struct fc_digest *d) {
    crypto_hash_sha256_init(state(d));
}

static void digest_add(struct fc_digest *d, const void *p, size_t n) {
    crypto_hash_sha256_update(state(d), p, n);
}

static void digest_end(struct fc_digest *d, uint8_t out[32]) {
    crypto_hash_sha256_final(state(d), out);
}

static int verify(const uint8_t sig[64], const void *msg, size_t n, const uint8_t key[32]) {
    return crypto_sign_verify_detached(sig, msg, n, key) == 0 ? FC_OK : FC_ERR_SIGNATURE;
}

static int mac(void *ctx, const void *msg, size_t n, uint8_t out[32]) {
    (void)ctx;
    return crypto_auth_hmacsha256(out, msg, n, s_mac_key) == 0 ? FC_OK : FC_ERR_PORT;
}

void port_crypto_sha256(const void *p, size_t n, uint8_t out[32]) {
    crypto_hash_sha256(out, p, n);
}

int port_crypto_open(struct fc_hal *hal, const uint8_t mac_key[32]) {
    if (sodium_init() < 0)
        return FC_ERR_PORT;
    memcpy(s_mac_key, mac_key, sizeof s_mac_key);
    hal->digest_begin = digest_begin;
    hal->digest_add = digest_add;
    hal->digest_end = digest_end;
    hal->verify = verify;
    hal->mac = mac;
    return FC_OK;
}
