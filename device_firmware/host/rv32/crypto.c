/* crypto.c: see crypto.h. */
#include "crypto.h"

#include <sodium.h>

#include "board.h"

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(struct fc_digest), "digest state fits");
_Static_assert(_Alignof(crypto_hash_sha256_state) <= _Alignof(struct fc_digest),
               "and its alignment");
_Static_assert(crypto_sign_BYTES == 64 && crypto_sign_PUBLICKEYBYTES == 32, "Ed25519");
_Static_assert(crypto_auth_hmacsha256_KEYBYTES == 32 && crypto_auth_hmacsha256_BYTES == 32, "HMAC");

struct crypto_count crypto_count;

static void count(uint64_t since) {
    crypto_count.instructions += board_instructions() - since;
}

void crypto_digest_begin(struct fc_digest *d) {
    crypto_hash_sha256_init((crypto_hash_sha256_state *)(void *)d->opaque);
}

void crypto_digest_add(struct fc_digest *d, const void *p, size_t n) {
    uint64_t since = board_instructions();
    crypto_hash_sha256_update((crypto_hash_sha256_state *)(void *)d->opaque, p, n);
    count(since);
}

void crypto_digest_end(struct fc_digest *d, uint8_t out[32]) {
    uint64_t since = board_instructions();
    crypto_hash_sha256_final((crypto_hash_sha256_state *)(void *)d->opaque, out);
    count(since);
}

int crypto_verify(const uint8_t sig[64], const void *msg, size_t n, const uint8_t key[32]) {
    uint64_t since = board_instructions();
    int rc = crypto_sign_verify_detached(sig, msg, n, key);
    count(since);
    crypto_count.verified++;
    return rc == 0 ? FC_OK : FC_ERR_SIGNATURE;
}

int crypto_mac(const uint8_t key[32], const void *msg, size_t n, uint8_t out[32]) {
    return crypto_auth_hmacsha256(out, msg, n, key) == 0 ? FC_OK : FC_ERR_PORT;
}

/* libsodium names these; nothing that verifies draws random numbers, and getting here is a fault.
 */
void randombytes_buf(void *const buf, const size_t size) {
    (void)buf;
    board_fail("random bytes were asked for", (long)size, 0);
}

void randombytes_stir(void) {
    board_fail("random bytes were asked for", 0, 0);
}
