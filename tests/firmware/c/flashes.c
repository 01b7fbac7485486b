/* flashes.c: the swarm's interned flash (pages.c) against the file flash (nor.c): the same random
 * operations, tears and power cuts on both must leave the same bytes.
 *
 *   flashes FILE SEED ROUNDS -> "rounds N cuts N shared N private N"; ends with 1 at a difference
 *   flashes FILE misuse WHAT -> must abort
 *   flashes FILE blank TEARS -> "tears N blank N": programs torn before a bit has arrived may be
 * tried again without an erase, as what reads the flash cannot tell
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nor.h"
#include "pages.h"

#define DEVICES 3
#define SECTORS 6u

static jmp_buf cut;
static struct nor nor[DEVICES];
static struct pages pages[DEVICES];
static struct pool pool;

static void on_cut(void *ctx) {
    (void)ctx;
    longjmp(cut, 1);
}

static uint32_t luck(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void open_all(const char *file) {
    char path[4096];
    uint32_t capacity[FC_AREAS] = {[FC_META] = 2 * FC_SECTOR,
                                   [FC_BANK0] = SECTORS * FC_SECTOR,
                                   [FC_BANK0 + 1] = SECTORS * FC_SECTOR};
    if (pool_open(&pool, 64))
        exit(2);
    for (int i = 0; i < DEVICES; i++) {
        snprintf(path, sizeof path, "%s.%d", file, i);
        if (nor_open(&nor[i], path, capacity) || pages_open(&pages[i], &pool, capacity))
            exit(2);
        nor[i].cut = pages[i].cut = on_cut;
    }
}

static void compare(int i, uint32_t round) {
    static const uint8_t areas[] = {FC_META, FC_BANK0, FC_BANK0 + 1};
    uint8_t a[FC_SECTOR], b[FC_SECTOR];
    for (uint32_t k = 0; k < 3; k++) {
        for (uint32_t off = 0; off < pages[i].count[areas[k]] * FC_SECTOR; off += FC_SECTOR) {
            nor_read(&nor[i], areas[k], off, a, FC_SECTOR);
            pages_read(&pages[i], areas[k], off, b, FC_SECTOR);
            if (memcmp(a, b, FC_SECTOR) != 0) {
                printf("round %u: device %d, area %u, offset %u differ\n", round, i, areas[k], off);
                exit(1);
            }
        }
    }
}

/* One operation on both; 1 = the power was cut in it. Few different contents, so that pages meet.
 */
static int operate(int i, uint8_t area, uint32_t off, int erase, const uint8_t *p, uint32_t n) {
    volatile int was_cut = 0;
    if (setjmp(cut) == 0) {
        if (erase)
            nor_erase(&nor[i], area, off);
        else
            nor_program(&nor[i], area, off, p, n);
    } else {
        was_cut = 1;
    }
    if (setjmp(cut) == 0) {
        if (erase)
            pages_erase(&pages[i], area, off);
        else
            pages_program(&pages[i], area, off, p, n);
    } else if (!was_cut) {
        puts("only one was cut");
        exit(1);
    }
    return was_cut;
}

static void maps(int i, uint32_t *state) {
    uint32_t off = luck(state) % (SECTORS * FC_SECTOR), room = SECTORS * FC_SECTOR - off;
    uint32_t n = 1 + luck(state) % room;
    const uint8_t *p = NULL;
    if (pages_map(&pages[i], FC_BANK0, off, n, &p))
        exit(2);
    if (memcmp(p, nor_map(&nor[i], FC_BANK0, off, n), n) != 0) {
        printf("a map of %u bytes at %u differs\n", n, off);
        exit(1);
    }
    pages_unmap(&pages[i], p);
}

static int random_rounds(uint32_t state, uint32_t rounds) {
    static uint8_t bytes[FC_SECTOR];
    uint32_t cuts = 0;
    for (uint32_t r = 0; r < rounds; r++) {
        int i = (int)(luck(&state) % DEVICES);
        uint8_t area = luck(&state) % 4 ? (uint8_t)(FC_BANK0 + luck(&state) % 2) : FC_META;
        uint32_t sector = luck(&state) % pages[i].count[area], off = sector * FC_SECTOR;
        uint32_t n = luck(&state) % 3 ? FC_SECTOR : 32 * (1 + luck(&state) % 100);
        memset(bytes, (int)(luck(&state) % 3), sizeof bytes);
        bytes[32] = (uint8_t)luck(&state) % 2;
        if (luck(&state) % 8 == 0) {
            nor[i].seed = pages[i].seed = luck(&state) | 1u;
            nor[i].cut_mode = pages[i].cut_mode = (int)(luck(&state) % 3);
            nor[i].cut_at = nor[i].ops + 1 + luck(&state) % 2;
            pages[i].cut_at = pages[i].ops + (nor[i].cut_at - nor[i].ops);
        }
        int gone = operate(i, area, off, 1, NULL, 0);
        if (!gone)
            gone = operate(i, area, off, 0, bytes, n);
        if (!gone && n < FC_SECTOR) /* behind it, in the same sector, as records are */
            gone = operate(i, area, off + n, 0, bytes + 32, 32);
        if (gone) {
            cuts++;
            pages_forget(&pages[i]);
        }
        compare(i, r);
        maps(i, &state);
    }
    printf("rounds %u cuts %u shared %llu private %llu\n", rounds, cuts,
           (unsigned long long)pool.n_shared, (unsigned long long)pool.n_private);
    for (int i = 0; i < DEVICES; i++) {
        pages_close(&pages[i]);
        nor_close(&nor[i]);
    }
    return pool_close(&pool) ? 1 : 0;
}

static void misuse(const char *what) {
    static uint8_t zeros[FC_SECTOR];
    const uint8_t *p = NULL;
    pages_program(&pages[0], FC_BANK0, 0, zeros, FC_SECTOR);
    if (strcmp(what, "twice") == 0)
        pages_program(&pages[0], FC_BANK0, 32, zeros, 32);
    if (strcmp(what, "unaligned") == 0)
        pages_program(&pages[0], FC_BANK0, FC_SECTOR + 16, zeros, 32);
    if (strcmp(what, "across") == 0)
        pages_program(&pages[0], FC_BANK0, 2 * FC_SECTOR - 32, zeros, 64);
    if (strcmp(what, "behind") == 0)
        pages_erase(&pages[0], FC_BANK0, SECTORS * FC_SECTOR);
    if (strcmp(what, "area") == 0)
        pages_erase(&pages[0], FC_FW_IMG, 0);
    if (strcmp(what, "mapped") == 0 && !pages_map(&pages[0], FC_BANK0, 100, 8000, &p))
        pages_erase(&pages[0], FC_BANK0, FC_SECTOR);
    if (strcmp(what, "unmap") == 0)
        pages_unmap(&pages[0], zeros);
}

static int blank(uint32_t tears) {
    static uint8_t bytes[64], back[64];
    uint32_t found = 0;
    memset(bytes, 0x46, sizeof bytes);
    for (uint32_t seed = 1; seed <= tears; seed++) {
        operate(0, FC_BANK0, 0, 1, NULL, 0);
        nor[0].seed = pages[0].seed = seed;
        nor[0].cut_mode = NOR_TORN;
        pages[0].cut_mode = PAGES_TORN;
        nor[0].cut_at = nor[0].ops + 1;
        pages[0].cut_at = pages[0].ops + 1;
        operate(0, FC_BANK0, 0, 0, bytes, sizeof bytes);
        compare(0, seed);
        nor_read(&nor[0], FC_BANK0, 0, back, sizeof back);
        uint32_t i = 0;
        while (i < sizeof back && back[i] == 0xFF)
            i++;
        if (i == sizeof back) {
            found++;
            operate(0, FC_BANK0, 0, 0, bytes,
                    sizeof bytes); /* aborts when one calls it programmed */
        }
    }
    printf("tears %u blank %u\n", tears, found);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    open_all(argv[1]);
    if (strcmp(argv[2], "misuse") == 0) {
        misuse(argv[3]);
        return 0;
    }
    if (strcmp(argv[2], "blank") == 0)
        return blank((uint32_t)atoi(argv[3]));
    return random_rounds((uint32_t)atoi(argv[2]), (uint32_t)atoi(argv[3]));
}
