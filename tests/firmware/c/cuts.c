/* cuts.c: one power cut at every flash operation, in three ways, from every fill of the log.
 *
 *   cuts SCENARIO FLASH
 *
 * Kinds of the scenario: 1 trust 1 and all model parts, 2 desired: run A, 3 desired: run B, 4
 * desired: run A from the other bank, 5 desired: run the bad model C, 6 trust 2, 7 commands that
 * only count, 8 desired: stop.
 *
 * After each cut the device starts again without a network, and then with one. Whatever was cut:
 *   - a slot with a confirmed model still has one that loads (or the slot was EMPTY before);
 *   - no committed counter, version, seq or floor is lower, no record number goes back;
 *   - the scenario then ends as it does without a cut, and a good model is never marked as failed.
 */
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "internal.h"

struct story {
    const char *name;
    uint8_t before[3]; /* kinds shown and driven to their end first */
    uint8_t cut;       /* the kind during which the power fails */
    uint8_t state;     /* enum fc_state at the end */
    char runs;         /* model that runs at the end: A, B, or 0 none */
    uint8_t trust;     /* trust version at the end */
};

static const struct story STORIES[] = {
    {"first install", {0}, 2, FC_ST_CONFIRMED, 'A', 1},
    {"update", {2}, 3, FC_ST_CONFIRMED, 'B', 1},
    {"third model", {2, 3}, 4, FC_ST_CONFIRMED, 'A', 1},
    {"bad model", {2, 3}, 5, FC_ST_REVERTED, 'B', 1},
    {"trust rotation", {2}, 6, FC_ST_CONFIRMED, 'A', 2},
    {"stop", {2}, 8, FC_ST_CONFIRMED, 0, 1},
};

#define ROUNDS 400u

static struct bench b;

static uint32_t runs_now(void) {
    struct fh_model m;
    return fh_running(b.h, 0, &m) ? (uint32_t)(uint8_t)m.name[0] - 'a' + 'A' : 0;
}

static void check_end(const struct story *s, long op, long how) {
    struct fh_slot_state slot;
    struct fh_state state;
    fh_slot(b.h, 0, &slot);
    fh_state(b.h, &state);
    if (slot.state != s->state)
        fail(s->name, slot.state, slot.code);
    if (runs_now() != (uint32_t)(uint8_t)s->runs)
        fail("another model runs at the end", op, how);
    if (state.trust_version != s->trust)
        fail("another trust version at the end", op, how);
    static const uint8_t none[8];
    if (s->state == FC_ST_CONFIRMED && memcmp(slot.failed_id, none, 8) != 0)
        fail("a good model is marked as failed", op, how);
}

/* What was committed may not be undone by a cut. */
static void check_not_lower(const struct fc_record *was, long op, long how) {
    const struct fc_record *is = &b.h->core.rec;
    if (is->number < was->number || is->desired_counter < was->desired_counter ||
        is->cmd_counter < was->cmd_counter || is->trust_version < was->trust_version ||
        is->time_floor < was->time_floor)
        fail("a committed fact was lost", op, how);
    for (uint32_t i = 0; i < FC_NAMES; i++) {
        int found = fc_is_zero(was->names[i].hash, 8);
        for (uint32_t k = 0; k < FC_NAMES; k++)
            found |= memcmp(was->names[i].hash, is->names[k].hash, 8) == 0 &&
                     is->names[k].seq >= was->names[i].seq &&
                     is->names[k].floor >= was->names[i].floor;
        if (!found)
            fail("seq or floor fell", op, how);
    }
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
    bench_save(&b);
}

/* The story from the prepared state, uncut; how many flash operations it takes. */
static uint64_t rehearse(const struct story *s) {
    uint64_t ops = b.h->nor.ops;
    bench_show(&b, s->cut);
    bench_drive(&b, ROUNDS);
    check_end(s, -1, -1);
    return b.h->nor.ops - ops;
}

static void rewind_to_start(const struct story *s) {
    bench_restore(&b);
    for (uint32_t i = 0; i < b.n_items; i++)
        b.shown[i] = b.item[i].kind == 1;
    for (uint32_t i = 0; i < 3 && s->before[i]; i++)
        bench_show(&b, s->before[i]);
    bench_boot(&b, FC_RST_POWER);
    bench_link(&b, 1);
    bench_drive(&b, 60);
}

static void one_cut(const struct story *s, uint64_t op, int how) {
    struct fc_record start, was;
    rewind_to_start(s);
    start = b.h->core.rec;
    if (setjmp(b.cut) == 0) {
        fh_random_seed(b.h, (uint32_t)(op * 3 + (uint64_t)how + 1));
        fh_cut_after(b.h, op, how);
        bench_show(&b, s->cut);
        bench_drive(&b, ROUNDS);
        fail("the power was not cut", (long)op, how);
    }
    was = b.h->core.rec;
    bench_boot(&b, FC_RST_POWER);
    check_not_lower(&was, (long)op, how);
    bench_drive(&b, 120);
    int is_stopped = b.h->core.rec.slots[0].flags & FC_FLAG_STOPPED;
    if (start.slots[0].run_bank != FC_NO_BANK && !is_stopped && !runs_now())
        fail("no runnable model without a network", (long)op, how);
    if (!b.h->core.has_trust || (start.desired_counter && !b.h->core.has_desired))
        fail("a stored document was lost", (long)op, how);
    bench_link(&b, 1);
    bench_show(&b, s->cut);
    bench_drive(&b, ROUNDS);
    check_not_lower(&was, (long)op, how);
    check_not_lower(&start, (long)op, how);
    check_end(s, (long)op, how);
}

int main(int argc, char **argv) {
    unsigned long cuts = 0;
    if (argc != 3)
        fail("usage: cuts SCENARIO FLASH", argc, 0);
    bench_open(&b, argv[1], argv[2]);
    for (uint32_t i = 0; i < b.n_items; i++)
        if (b.item[i].kind == 1 && strstr(b.item[i].topic, "/0/0") && b.item[i].p[0] == 'C')
            b.bad_model = 'C';
    if (b.bad_model != 'C')
        fail("the scenario has no bad model", 0, 0);
    for (uint32_t k = 0; k < sizeof STORIES / sizeof STORIES[0]; k++) {
        unsigned long before = cuts;
        uint64_t most = 0;
        /* 16 records are a whole turn of the log: every position, both sectors, each rotation. */
        for (uint32_t fill = 0; fill < 16; fill++) {
            prepare(&STORIES[k], fill);
            uint64_t ops = rehearse(&STORIES[k]);
            most = ops > most ? ops : most;
            for (uint64_t op = 1; op <= ops; op++)
                for (int how = NOR_NOTHING; how <= NOR_DONE; how++, cuts++)
                    one_cut(&STORIES[k], op, how);
        }
        printf("%s: %lu cuts, up to %lu operations\n", STORIES[k].name, cuts - before,
               (unsigned long)most);
        fflush(stdout);
    }
    printf("%lu cuts, 0 failures\n", cuts);
    bench_close(&b);
    return 0;
}
