/* judge.c: no flipped bit and no cut end of a good document passes, and no bytes crash the core.
 *
 *   judge SCENARIO FLASH ROUNDS
 *
 * Kinds: 1 trust and model parts, 2 a good desired document, 3 a good command, 4 a good trust
 * document, 5 a good manifest, 9 further messages to mutate (the shared vectors, good and bad).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "internal.h"

static struct bench b;
static uint8_t work[8192];

static uint32_t noise(void) {
    static uint32_t x = 0x1234567;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return x;
}

/* A copy that ends where the message ends, so that ASan sees a byte read too far. */
static int judge(const struct item *it, const uint8_t *p, uint32_t n) {
    uint8_t *exact = malloc(n ? n : 1);
    struct fh_model m;
    uint32_t detail;
    int rc;
    memcpy(exact, p, n);
    if (it->kind == 5)
        rc = fh_check_manifest(b.h, 0, exact, n, &m, &detail);
    else
        rc = fh_message(b.h, it->topic, exact, n);
    free(exact);
    return rc;
}

/* Every single-bit flip and every truncation of a good document is refused and changes nothing. */
static unsigned long every_flip(const struct item *it) {
    unsigned long n = 0;
    uint64_t record = b.h->core.rec.number;
    for (uint32_t bit = 0; bit < it->n * 8; bit++, n++) {
        memcpy(work, it->p, it->n);
        work[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        int rc = judge(it, work, it->n);
        if (rc >= 0 || rc < -28)
            fail("a flipped bit passes", bit, rc);
    }
    for (uint32_t len = 0; len < it->n; len++, n++) {
        int rc = judge(it, it->p, len);
        if (rc >= 0 || rc < -28)
            fail("a truncated document passes", len, rc);
    }
    if (b.h->core.rec.number != record)
        fail("a refused document was recorded", (long)record, it->kind);
    if (judge(it, it->p, it->n) != 0)
        fail("the good document does not pass", it->kind, 0);
    return n;
}

/* Overwrites, cuts, doubles and splices: only that nothing crashes and nothing hangs. */
static void mutate(const struct item *it) {
    uint32_t n = it->n > sizeof work ? (uint32_t)sizeof work : it->n;
    memcpy(work, it->p, n);
    for (uint32_t times = 1 + noise() % 6; times && n; times--) {
        uint32_t at = noise() % n;
        switch (noise() % 5) {
        case 0:
            work[at] = (uint8_t)noise();
            break;
        case 1:
            n = at;
            break;
        case 2:
            work[at] ^= (uint8_t)(1u << noise() % 8);
            break;
        case 3:
            if (n < sizeof work) {
                memmove(work + at + 1, work + at, n - at);
                n++;
            }
            break;
        default:
            memmove(work + at, work + at + (at + 1 < n), n - at - (at + 1 < n));
            n -= at + 1 < n;
            break;
        }
    }
    judge(it, work, n);
    fh_check_cbor(work, n);
}

/* Whatever flash holds, the device starts and stays drivable. */
static void random_flash(void) {
    struct nor *nor = &b.h->nor;
    uint8_t *data = nor->base + 4096;
    uint64_t size = (uint64_t)(nor->programmed - data);
    bench_restore(&b);
    for (uint32_t times = 1 + noise() % 400; times; times--)
        data[noise() % (times % 3 ? 8 * 4096 : size)] = (uint8_t)noise();
    int reason = (int)(noise() % 6);
    b.edited = reason >= FC_RST_EXPECTED;
    bench_boot(&b, reason);
    bench_link(&b, 1);
    bench_drive(&b, 60);
}

int main(int argc, char **argv) {
    unsigned long flips = 0, mutants = 0;
    if (argc != 4)
        fail("usage: judge SCENARIO FLASH ROUNDS", argc, 0);
    unsigned long rounds = strtoul(argv[3], NULL, 10);
    bench_open(&b, argv[1], argv[2]);
    bench_boot(&b, FC_RST_POWER);
    bench_link(&b, 1);
    bench_drive(&b, 20);
    for (uint8_t kind = 2; kind <= 5; kind++)
        for (uint32_t i = 0; i < b.n_items; i++)
            if (b.item[i].kind == kind)
                flips += every_flip(&b.item[i]);
    bench_drive(&b, 400); /* what was accepted is installed: every kind of state is in flash */
    bench_save(&b);
    for (unsigned long r = 0; r < rounds; r++)
        for (uint32_t i = 0; i < b.n_items; i++)
            if (b.item[i].kind != 0) {
                mutate(&b.item[i]);
                mutants++;
            }
    for (unsigned long r = 0; r < rounds * 4; r++)
        random_flash();
    printf("%lu flips and truncations refused, %lu mutants, %lu random flashes survived\n", flips,
           mutants, rounds * 4);
    bench_close(&b);
    return 0;
}
