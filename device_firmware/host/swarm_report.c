/* swarm_report.c: what the swarm says: one JSON object a line on stdout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "swarm.h"

#define OFF 11u /* behind the states of SPEC.md section 5 */

static const char *const STATES[] = {
    "idle",  "offered",   "manifest_ok", "downloading", "downloaded", "verified",
    "trial", "confirmed", "reverted",    "refused",     "deferred",   "off",
};

uint64_t swarm_rss_kib(const char *field) {
    char line[256];
    uint64_t found = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            found = strtoull(line + strlen(field), NULL, 10);
    if (file)
        fclose(file);
    return found;
}

static double seconds(const struct swarm *s, uint64_t now) {
    return (double)(now - s->start_ms) / 1000.0;
}

static void count_states(const struct swarm *s, uint32_t n[16]) {
    memset(n, 0, 16 * sizeof n[0]);
    for (uint32_t i = 0; i < s->opt.devices; i++)
        n[s->device[i]->is_on ? s->device[i]->core.slot[0].state : OFF]++;
}

static void put_states(const uint32_t n[16]) {
    printf("{");
    for (uint32_t i = 0, some = 0; i <= OFF; i++)
        if (n[i])
            printf("%s\"%s\": %u", some++ ? ", " : "", STATES[i], n[i]);
    printf("}");
}

void report_start(const struct swarm *s) {
    const struct swarm_options *o = &s->opt;
    printf(
        "{\"event\": \"start\", \"devices\": %u, \"engine\": \"played: echoes its input; passes, "
        "fails its golden vectors or crashes as the seed says; no TFLM\", \"rate\": %u, "
        "\"loss\": %g, \"cut_per_hour\": %g, \"bad_golden\": %g, \"crash\": %g, \"seed\": %u}\n",
        o->devices, o->rate, o->loss, o->cut_per_hour, o->bad_golden, o->crash, o->seed);
    fflush(stdout);
}

void report_states(struct swarm *s, uint64_t now) {
    uint32_t n[16];
    count_states(s, n);
    if (memcmp(n, s->row, sizeof n) == 0)
        return;
    memcpy(s->row, n, sizeof n);
    printf("{\"event\": \"states\", \"s\": %.1f, \"settled\": %u, \"states\": ", seconds(s, now),
           s->settled);
    put_states(n);
    printf("}\n");
    fflush(stdout);
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Seconds since the start until this share of the devices had settled. */
static void put_times(const struct swarm *s) {
    static uint64_t at[SWARM_DEVICES_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->opt.devices; i++)
        if (s->device[i]->settled_ms)
            at[n++] = s->device[i]->settled_ms;
    qsort(at, n, sizeof at[0], by_value);
    if (n)
        printf(", \"first_s\": %.1f, \"half_s\": %.1f, \"p99_s\": %.1f, \"last_s\": %.1f",
               seconds(s, at[0]), seconds(s, at[n / 2]), seconds(s, at[(n - 1) * 99ull / 100]),
               seconds(s, at[n - 1]));
}

/* Every device is counted once: in one pair of state and code, and in one row of the script. */
static void put_ends(const struct swarm *s) {
    static const struct {
        uint8_t state, code;
    } expected[] = {[OUTCOME_PASS] = {FC_ST_CONFIRMED, 0},
                    [OUTCOME_BAD_GOLDEN] = {FC_ST_REVERTED, -FC_ERR_SELFTEST_MISMATCH},
                    [OUTCOME_CRASH] = {FC_ST_REVERTED, -FC_ERR_CRASH_LOOP}};
    uint32_t n[OFF + 1][FC_CODE_MAX + 1] = {{0}}, scripted[3] = {0}, as_scripted = 0, some = 0;
    for (uint32_t i = 0; i < s->opt.devices; i++) {
        const struct device *d = s->device[i];
        enum outcome what = device_outcome(s, i, s->opt.goal[s->goal]);
        scripted[what]++;
        if (!d->settled_ms)
            continue;
        n[d->end_state][d->end_code <= FC_CODE_MAX ? d->end_code : 0]++;
        as_scripted += d->end_state == expected[what].state && d->end_code == expected[what].code;
    }
    printf(
        ", \"scripted\": {\"pass\": %u, \"bad_golden\": %u, \"crash\": %u}, \"as_scripted\": %u, "
        "\"ends\": {",
        scripted[OUTCOME_PASS], scripted[OUTCOME_BAD_GOLDEN], scripted[OUTCOME_CRASH], as_scripted);
    for (uint32_t state = 0; state <= OFF; state++)
        for (uint32_t code = 0; code <= FC_CODE_MAX; code++)
            if (n[state][code])
                printf("%s\"%s(%u)\": %u", some++ ? ", " : "", STATES[state], code, n[state][code]);
    printf("}");
}

static void put_usage(const struct swarm *s) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    uint64_t peak = swarm_rss_kib("VmHWM:");
    printf(", \"cpu_s\": %.1f, \"cpu_user_s\": %.1f, \"rss_kib\": %llu, \"peak_kib\": %llu, "
           "\"kib_per_core\": %.1f, \"core_struct_bytes\": %zu, \"device_struct_bytes\": %zu",
           (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
               (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6,
           (double)use.ru_utime.tv_sec + (double)use.ru_utime.tv_usec / 1e6,
           (unsigned long long)swarm_rss_kib("VmRSS:"), (unsigned long long)peak,
           (double)(peak - s->rss_empty_kib) / s->opt.devices, sizeof(struct fc_core),
           sizeof(struct device));
}

static void put_counts(const struct swarm *s) {
    const struct swarm_counts *c = &s->count;
    uint64_t ops = 0;
    for (uint32_t i = 0; i < s->opt.devices; i++)
        ops += s->device[i]->flash.ops;
    const struct {
        const char *name;
        uint64_t n;
    } rows[] = {
        {"connects", c->connects},
        {"connect_failures", c->connect_failures},
        {"connections_lost", c->connections_lost},
        {"protocol_errors", c->protocol_errors},
        {"packets_in", c->packets_in},
        {"bytes_in", c->bytes_in},
        {"bytes_out", c->bytes_out},
        {"subscribes", c->subscribes},
        {"chunks", c->chunks},
        {"chunks_lost", c->chunks_lost},
        {"cuts", c->cuts},
        {"cuts_in_flash", c->cuts_in_flash},
        {"panics", c->panics},
        {"reboots", c->reboots},
        {"outbox_full", c->outbox_full},
        {"steps", c->steps},
        {"samples", c->samples},
        {"flash_ops", ops},
        {"pages_shared", s->pool.n_shared},
        {"pages_private", s->pool.n_private},
        {"pages_referred_to", s->pool.n_refs},
        {"view_bytes", s->pool.view_bytes},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        printf(", \"%s\": %llu", rows[i].name, (unsigned long long)rows[i].n);
}

void report_goal(const struct swarm *s, uint64_t now) {
    const uint8_t *id = s->opt.goal[s->goal];
    printf("{\"event\": \"goal\", \"model\": \"%02x%02x%02x%02x%02x%02x%02x%02x\", \"s\": %.1f, "
           "\"settled\": %u",
           id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7], seconds(s, now), s->settled);
    put_times(s);
    put_ends(s);
    put_usage(s);
    put_counts(s);
    printf("}\n");
    fflush(stdout);
}

void report_end(const struct swarm *s, uint64_t now, const char *how) {
    printf("{\"event\": \"end\", \"how\": \"%s\", \"s\": %.1f", how, seconds(s, now));
    put_usage(s);
    put_counts(s);
    printf("}\n");
    fflush(stdout);
}
