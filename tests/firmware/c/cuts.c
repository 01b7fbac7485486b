/* cuts.c: power cuts at every flash operation, in three ways, alone and in pairs.
 *
 *   cuts SCENARIO FLASH single|pairs FILLS PART PARTS SEED
 *
 * FILLS: of the 16 fills of the log (two sectors of eight records: every position, both sectors,
 * each rotation) this many are tried, evenly spread. PART of PARTS: a share of the work, for
 * processes side by side. SEED: of what torn operations leave.
 *
 * Kinds of the scenario: 1 trust 1 and all model parts, 2 desired: run A, 3 desired: run B, 4
 * desired: run A from the other bank, 5 desired: run the bad model C, 6 trust 2, 7 commands that
 * only count, 8 desired: stop, 9 desired: run A again.
 *
 * After each cut the device starts again without a network, and then with one; the second cut of a
 * pair falls into any flash operation of that. Whatever was cut:
 *   - a slot with a confirmed model still has one that loads (or the slot was EMPTY before), and it
 *     is the old one or the one asked for, byte for byte;
 *   - no committed counter, version, seq or floor is lower, no record number goes back;
 *   - the scenario then ends as it does without a cut, and a good model is never marked as failed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "tears.h"

struct story {
    const char *name;
    uint8_t before[3]; /* kinds shown and driven to their end first */
    uint8_t cut;       /* the kind during which the power fails */
    uint8_t state;     /* enum fc_state at the end */
    char runs;         /* model that runs at the end: A, B, or 0 none */
    uint8_t trust;     /* trust version at the end */
    uint8_t worn;      /* the running bank is damaged while the device is off */
};

static const struct story STORIES[] = {
    {"first install", {0}, 2, FC_ST_CONFIRMED, 'A', 1, 0},
    {"update", {2}, 3, FC_ST_CONFIRMED, 'B', 1, 0},
    {"back to the other bank", {2, 3}, 4, FC_ST_CONFIRMED, 'A', 1, 0},
    {"bad model", {2, 3}, 5, FC_ST_REVERTED, 'B', 1, 0},
    {"bad first model", {0}, 5, FC_ST_REVERTED, 0, 1, 0},
    {"trust rotation", {2}, 6, FC_ST_CONFIRMED, 'A', 2, 0},
    {"stop", {2}, 8, FC_ST_CONFIRMED, 0, 1, 0},
    {"run again after a stop", {2, 8}, 9, FC_ST_CONFIRMED, 'A', 1, 0},
    {"worn flash", {2, 3}, 0, FC_ST_CONFIRMED, 'B', 1, 1},
};

#define ROUNDS 400u
#define QUIET 4u /* looks without a change after which nothing more is expected */

static struct bench b;
static struct tear_log first, second;
static unsigned long n_single, n_pairs, n_run;
static uint32_t seed;
static struct fc_record start; /* the prepared device's */
static uint8_t bad_id[8];      /* of model C */

static uint32_t runs_now(void) {
    struct fh_model m;
    return fh_running(b.h, 0, &m) ? (uint32_t)(uint8_t)m.name[0] - 'a' + 'A' : 0;
}

/* --- what must hold ------------------------------------------------------------------- */

static void check_end(const struct story *s) {
    static const uint8_t none[8];
    struct fh_slot_state slot;
    struct fh_state state;
    fh_slot(b.h, 0, &slot);
    fh_state(b.h, &state);
    if (slot.state != s->state)
        fail(s->name, slot.state, slot.code);
    if (runs_now() != (uint32_t)(uint8_t)s->runs)
        fail("another model runs at the end", (long)runs_now(), s->runs);
    if (state.trust_version != s->trust)
        fail("another trust version at the end", state.trust_version, s->trust);
    const uint8_t *failed = s->state == FC_ST_REVERTED ? bad_id : none;
    if (memcmp(slot.failed_id, failed, 8) != 0)
        fail("a good model is marked as failed, or a bad one is not", slot.failed_id[0], failed[0]);
}

/* What was committed may not be undone by a cut. */
static void check_not_lower(const struct fc_record *was) {
    const struct fc_record *is = &b.h->core.rec;
    if (is->number < was->number || is->desired_counter < was->desired_counter ||
        is->cmd_counter < was->cmd_counter || is->trust_version < was->trust_version ||
        is->time_floor < was->time_floor)
        fail("a committed fact was lost", (long)is->number, (long)was->number);
    for (uint32_t i = 0; i < FC_NAMES; i++) {
        int found = fc_is_zero(was->names[i].hash, 8);
        for (uint32_t k = 0; k < FC_NAMES; k++)
            found |= memcmp(was->names[i].hash, is->names[k].hash, 8) == 0 &&
                     is->names[k].seq >= was->names[i].seq &&
                     is->names[k].floor >= was->names[i].floor;
        if (!found)
            fail("seq or floor fell", (long)i, 0);
    }
}

static void check_offline(const struct story *s) {
    const struct fc_core *core = &b.h->core;
    uint32_t runs = runs_now();
    struct fh_model m;
    int was_stopped = start.slots[0].flags & FC_FLAG_STOPPED;
    int is_stopped = core->rec.slots[0].flags & FC_FLAG_STOPPED;
    if (start.slots[0].run_bank != FC_NO_BANK && !was_stopped && !is_stopped && !runs)
        fail("no runnable model without a network", core->rec.slots[0].phase, core->job.stage);
    if (runs && fh_running(b.h, 0, &m) && memcmp(m.id, start.slots[0].run_id, 16) != 0 &&
        memcmp(m.id, start.slots[0].other_id, 16) != 0 && runs != (uint32_t)(uint8_t)s->runs)
        fail("a model runs that nobody asked for", (long)runs, s->runs);
    if (!core->has_trust || (start.desired_counter && !core->has_desired))
        fail("a stored document was lost", core->has_trust, core->has_desired);
}

/* --- driving --------------------------------------------------------------------------- */

/* Until the state at the end is there and nothing changes any more, or ROUNDS. */
static void drive_to_end(const struct story *s) {
    uint64_t ops = b.h->nor.ops;
    for (uint32_t quiet = 0, r = 0; quiet < QUIET && r < ROUNDS; r += 4) {
        struct fh_slot_state slot;
        bench_drive(&b, 4);
        fh_slot(b.h, 0, &slot);
        int is_idle = slot.state == s->state && b.h->nor.ops == ops && !b.inbox_n;
        quiet = is_idle && runs_now() == (uint32_t)(uint8_t)s->runs ? quiet + 1 : 0;
        ops = b.h->nor.ops;
    }
}

/* Until a model runs and stays: a trial may still come and go. Nothing to run: a while. */
static void drive_offline(void) {
    uint64_t ops = b.h->nor.ops;
    uint32_t most = start.slots[0].run_bank == FC_NO_BANK ? 60 : 160;
    for (uint32_t quiet = 0, r = 0; quiet < QUIET && r < most; r += 4) {
        bench_drive(&b, 4);
        quiet = runs_now() && b.h->nor.ops == ops ? quiet + 1 : 0;
        ops = b.h->nor.ops;
    }
}

static void show_all(const struct story *s) {
    for (uint32_t i = 0; i < b.n_items; i++)
        b.shown[i] = b.item[i].kind == 1;
    for (uint32_t i = 0; i < 3 && s->before[i]; i++)
        bench_show(&b, s->before[i]);
}

static void prepare(const struct story *s, uint32_t fill) {
    memset(b.h->nor.programmed, 0, b.h->nor.size - (size_t)(b.h->nor.programmed - b.h->nor.base));
    memset(b.h->nor.base + 4096, 0xFF, (size_t)(b.h->nor.programmed - b.h->nor.base) - 4096);
    for (uint32_t i = 0; i < b.n_items; i++)
        b.shown[i] = b.item[i].kind == 1;
    bench_boot(&b, FC_RST_POWER);
    bench_link(&b, 1);
    bench_drive(&b, 20);
    for (uint32_t i = 0; i < 3 && s->before[i]; i++) {
        bench_show(&b, s->before[i]);
        bench_drive(&b, ROUNDS);
    }
    for (uint32_t i = 0; i < fill; i++)
        bench_send(&b, 7, i);
    bench_drive(&b, 40);
    if (s->worn) /* one bit of the running model's first chunk */
        fh_flip(b.h, FC_BANK0 + b.h->core.rec.slots[0].run_bank, 2 * FC_SECTOR + 3, 5);
    bench_save(&b);
}

/* The story from the prepared state, uncut, noting its operations. */
static void rehearse(const struct story *s) {
    bench_restore(&b);
    show_all(s);
    fh_random_seed(b.h, 1);
    if (s->worn)
        tear_watch(&b, &first);
    bench_boot(&b, FC_RST_POWER);
    start = b.h->core.rec;
    bench_link(&b, 1);
    if (!s->worn) {
        bench_drive(&b, 60);
        start = b.h->core.rec;
        tear_watch(&b, &first);
        bench_show(&b, s->cut);
    }
    drive_to_end(s);
    tear_unwatch(&b);
    check_end(s);
}

/* The power comes back: whatever flash holds, the story ends well. log: notes a way to cut again.
 */
static void recover(const struct story *s, const struct fc_record *was, struct tear_log *log) {
    n_run++;
    show_all(s);
    if (log)
        tear_watch(&b, log);
    bench_boot(&b, n_run % 4 ? FC_RST_POWER : FC_RST_BROWNOUT);
    check_not_lower(was);
    drive_offline();
    check_offline(s);
    bench_link(&b, 1);
    if (s->cut)
        bench_show(&b, s->cut);
    drive_to_end(s);
    tear_unwatch(&b);
    check_not_lower(was);
    check_not_lower(&start);
    check_end(s);
}

/* A cut after an operation leaves flash as a cut before the next one does. It is run once, as the
 * latter, which is the stricter case (the record counts as committed by then), and counted twice.
 */
static uint32_t weight(const struct tear_log *log, uint32_t i, int how) {
    if (how == NOR_DONE && i + 1 < log->n)
        return 0;
    return how == NOR_NOTHING && i > 0 ? 2 : 1;
}

static uint32_t next_seed(void) {
    return seed = seed * 1664525u + 1013904223u; /* wraps, as it should */
}

static void cut_again(const struct story *s) {
    for (uint32_t i = 0; i < second.n; i++) {
        for (int how = NOR_NOTHING; how <= NOR_DONE; how++) {
            if (weight(&second, i, how) == 0)
                continue;
            tear_apply(&b, &second.op[i], how, next_seed());
            recover(s, &second.op[i].committed, NULL);
        }
    }
}

static void cut_story(const struct story *s, int is_pairs) {
    for (uint32_t i = 0; i < first.n; i++) {
        for (int how = NOR_NOTHING; how <= NOR_DONE; how++) {
            uint32_t times = weight(&first, i, how);
            if (times == 0)
                continue;
            tear_apply(&b, &first.op[i], how, next_seed());
            recover(s, &first.op[i].committed, is_pairs ? &second : NULL);
            n_single += times;
            if (is_pairs) {
                n_pairs += times * 3ul * second.n;
                cut_again(s);
            }
        }
    }
}

static void find_bad_model(void) {
    for (uint32_t i = 0; i < b.n_items; i++) {
        const char *mid = b.item[i].topic + strlen("f1/model/");
        if (b.item[i].kind != 1 || !strstr(b.item[i].topic, "/0/0") || b.item[i].p[0] != 'C')
            continue;
        b.bad_model = 'C';
        for (int k = 0; k < 8; k++) {
            char digits[3] = {mid[2 * k], mid[2 * k + 1], 0};
            bad_id[k] = (uint8_t)strtoul(digits, NULL, 16);
        }
    }
    if (b.bad_model != 'C')
        fail("the scenario has no bad model", 0, 0);
}

int main(int argc, char **argv) {
    if (argc != 8)
        fail("usage: cuts SCENARIO FLASH single|pairs FILLS PART PARTS SEED", argc, 0);
    int is_pairs = strcmp(argv[3], "pairs") == 0;
    uint32_t fills = (uint32_t)strtoul(argv[4], NULL, 10), turn = 0;
    uint32_t part = (uint32_t)strtoul(argv[5], NULL, 10);
    uint32_t parts = (uint32_t)strtoul(argv[6], NULL, 10);
    seed = (uint32_t)strtoul(argv[7], NULL, 10);
    if (!fills || fills > 16 || !parts)
        fail("1 to 16 fills, 1 part or more", fills, parts);
    bench_open(&b, argv[1], argv[2]);
    find_bad_model();
    for (uint32_t k = 0; k < sizeof STORIES / sizeof STORIES[0]; k++) {
        unsigned long before = n_single + n_pairs, run = n_run;
        uint32_t most = 0;
        for (uint32_t f = 0; f < fills; f++) {
            if (turn++ % parts != part)
                continue;
            prepare(&STORIES[k], f * 16 / fills);
            rehearse(&STORIES[k]);
            most = first.n > most ? first.n : most;
            cut_story(&STORIES[k], is_pairs);
        }
        printf("%-24s %8lu cuts and pairs %8lu flash states, up to %u operations\n",
               STORIES[k].name, n_single + n_pairs - before, n_run - run, most);
        fflush(stdout);
    }
    printf("%lu single cuts, %lu pairs of cuts, %lu flash states, 0 failures\n", n_single, n_pairs,
           n_run);
    bench_close(&b);
    tear_free(&first);
    tear_free(&second);
    return 0;
}
