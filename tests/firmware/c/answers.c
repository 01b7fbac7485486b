/* answers.c: the port's Ed25519, SHA-256 and HMAC give the known answers, also byte by byte.
 *
 *   answers SCENARIO FLASH
 *
 * Kinds: 10 a signature that is good, 11 one that is not (key 32, signature 64, message), 12 a
 * digest (digest 32, message), 13 a MAC (tag 32, key 32, message). The topic is the name.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "internal.h"

static struct bench b;

/* The message alone in memory, so that ASan sees a byte read too far. */
static uint8_t *exact_copy(const uint8_t *p, size_t n) {
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        fail("no memory", (long)n, 0);
    if (n)
        memcpy(copy, p, n);
    return copy;
}

static void check_signature(const struct item *it, int is_good) {
    size_t n = it->n - 96;
    uint8_t *message = exact_copy(it->p + 96, n);
    int rc = b.h->hal.verify(it->p + 32, message, n, it->p);
    free(message);
    if ((rc == FC_OK) != is_good)
        fail(it->topic, rc, is_good);
}

/* In one piece, and in pieces of every size up to 70: chunks and headers are hashed that way. */
static void check_digest(const struct item *it) {
    uint8_t got[32], *message = exact_copy(it->p + 32, it->n - 32);
    fc_sha256(&b.h->hal, message, it->n - 32, got);
    if (memcmp(got, it->p, 32) != 0)
        fail(it->topic, got[0], it->p[0]);
    for (size_t piece = 1; piece <= 70; piece++) {
        struct fc_digest d;
        b.h->hal.digest_begin(&d);
        for (size_t at = 0; at < it->n - 32; at += piece) {
            size_t left = it->n - 32 - at;
            b.h->hal.digest_add(&d, message + at, left < piece ? left : piece);
        }
        b.h->hal.digest_end(&d, got);
        if (memcmp(got, it->p, 32) != 0)
            fail(it->topic, (long)piece, got[0]);
    }
    free(message);
}

static void check_mac(const struct item *it) {
    uint8_t got[32], *message = exact_copy(it->p + 64, it->n - 64);
    memcpy(b.h->mac_key, it->p + 32, 32);
    int rc = b.h->hal.mac(b.h->hal.ctx, message, it->n - 64, got);
    free(message);
    if (rc || memcmp(got, it->p, 32) != 0)
        fail(it->topic, rc, got[0]);
}

int main(int argc, char **argv) {
    unsigned done = 0;
    if (argc != 3)
        fail("usage: answers SCENARIO FLASH", argc, 0);
    bench_open(&b, argv[1], argv[2]);
    for (uint32_t i = 0; i < b.n_items; i++) {
        const struct item *it = &b.item[i];
        if (it->kind >= 10)
            done++;
        if (it->kind == 10 || it->kind == 11)
            check_signature(it, it->kind == 10);
        else if (it->kind == 12)
            check_digest(it);
        else if (it->kind == 13)
            check_mac(it);
    }
    printf("%u known answers\n", done);
    bench_close(&b);
    return 0;
}
