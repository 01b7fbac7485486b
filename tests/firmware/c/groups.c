/* groups.c: two slots that switch together: a power cut at any flash operation leaves both old
 * models or both new ones, never one of each.
 *
 *   groups SCENARIO FLASH
 *
 * Kinds: 1 trust and all model parts, 2 desired: A and B, 3 desired: the group D and E, 4 desired:
 * the group D and the bad model F, 7 commands that only count.
 */
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "internal.h"

#define ROUNDS 600u

struct story {
    const char *name;
    uint8_t cut;
    uint8_t state; /* of both slots at the end */
    const char *ends;
};

static const struct story STORIES[] = {
    {"a group is confirmed", 3, FC_ST_CONFIRMED, "DE"},
    {"a group with a bad member is reverted", 4, FC_ST_REVERTED, "AB"},
};

static struct bench b;

static char runs_now(uint8_t slot) {
    struct fh_model m;
    return fh_running(b.h, slot, &m) ? (char)(m.name[0] - 'a' + 'A') : '-';
}

/* In every record the two slots are before, in, or behind the trial together. */
static void check_together(const struct fc_record *start, long op, int how) {
    const struct fc_record *r = &b.h->core.rec;
    int in_trial = 0, changed = 0;
    for (uint32_t s = 0; s < 2; s++) {
        in_trial += r->slots[s].phase >= FC_PH_TRIAL;
        changed += r->slots[s].run_bank != start->slots[s].run_bank;
        if (r->slots[s].phase == FC_PH_EMPTY)
            fail("a slot lost its model", op, how);
    }
    if (in_trial == 1 || changed == 1)
        fail("one of the group went without the other", op, how);
    if (r->slots[0].phase != r->slots[1].phase && in_trial)
        fail("their phases differ", op, how);
    for (uint32_t i = 0; i < FC_NAMES; i++)
        if (r->names[i].seq < start->names[i].seq || r->names[i].floor < start->names[i].floor)
            fail("seq or floor fell", op, how);
}

static void check_end(const struct story *s, long op, int how) {
    for (uint8_t i = 0; i < 2; i++) {
        struct fh_slot_state slot;
        fh_slot(b.h, i, &slot);
        if (slot.state != s->state)
            fail(s->name, slot.state, slot.code);
        if (runs_now(i) != s->ends[i])
            fail("another model runs at the end", runs_now(i), s->ends[i]);
    }
    (void)op;
    (void)how;
}

static void prepare(uint32_t fill) {
    memset(b.h->nor.programmed, 0, b.h->nor.size - (size_t)(b.h->nor.programmed - b.h->nor.base));
    memset(b.h->nor.base + 4096, 0xFF, (size_t)(b.h->nor.programmed - b.h->nor.base) - 4096);
    for (uint32_t i = 0; i < b.n_items; i++)
        b.shown[i] = b.item[i].kind == 1;
    bench_boot(&b, FC_RST_POWER);
    bench_link(&b, 1);
    bench_drive(&b, 20);
    bench_show(&b, 2);
    bench_drive(&b, ROUNDS);
    if (runs_now(0) != 'A' || runs_now(1) != 'B')
        fail("the old models do not run", runs_now(0), runs_now(1));
    for (uint32_t i = 0; i < fill; i++)
        bench_send(&b, 7, i);
    bench_drive(&b, 40);
    bench_save(&b);
}

static uint64_t rehearse(const struct story *s) {
    uint64_t ops = b.h->nor.ops;
    bench_show(&b, s->cut);
    bench_drive(&b, ROUNDS);
    check_end(s, -1, -1);
    return b.h->nor.ops - ops;
}

static void one_cut(const struct story *s, uint64_t op, int how) {
    struct fc_record start;
    bench_restore(&b);
    for (uint32_t i = 0; i < b.n_items; i++)
        b.shown[i] = b.item[i].kind == 1;
    bench_show(&b, 2);
    bench_boot(&b, FC_RST_POWER);
    bench_link(&b, 1);
    bench_drive(&b, 60);
    start = b.h->core.rec;
    if (setjmp(b.cut) == 0) {
        fh_random_seed(b.h, (uint32_t)(op * 3 + (uint64_t)how + 1));
        fh_cut_after(b.h, op, how);
        bench_show(&b, s->cut);
        bench_drive(&b, ROUNDS);
        fail("the power was not cut", (long)op, how);
    }
    bench_boot(&b, FC_RST_POWER);
    check_together(&start, (long)op, how);
    bench_drive(&b, 160);
    check_together(&start, (long)op, how);
    if (runs_now(0) == '-' || runs_now(1) == '-')
        fail("no runnable model without a network", (long)op, how);
    if ((runs_now(0) == 'A') != (runs_now(1) == 'B'))
        fail("one old and one new model run", runs_now(0), runs_now(1));
    bench_link(&b, 1);
    bench_show(&b, s->cut);
    bench_drive(&b, ROUNDS);
    check_end(s, (long)op, how);
}

int main(int argc, char **argv) {
    unsigned long cuts = 0;
    if (argc != 3)
        fail("usage: groups SCENARIO FLASH", argc, 0);
    bench_open_slots(&b, argv[1], argv[2], 2);
    b.bad_model = 'F';
    for (uint32_t k = 0; k < sizeof STORIES / sizeof STORIES[0]; k++) {
        unsigned long before = cuts;
        uint64_t most = 0;
        for (uint32_t fill = 0; fill < 16; fill += 3) {
            prepare(fill);
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
