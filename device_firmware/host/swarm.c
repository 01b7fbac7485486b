/* swarm.c: thousands of true cores against one broker. See swarm.h; `swarm --help`.
 *
 * One thread. Each core's next turn stands in a heap by time; epoll says which sockets have news.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include "swarm.h"

#define EVENTS 512
#define TURNS 256u /* due devices between two looks at the sockets */
#define ROW_MS 1000u
#define DURATION_MAX_S 86400.0

enum { EXIT_BAD_USE = 2, EXIT_NOT_SETTLED = 3, EXIT_PAGES_LOST = 4 };

static volatile sig_atomic_t stop;

static void on_signal(int number) {
    stop = number;
}

/* --- command line --------------------------------------------------------------------- */

static const char HELP[] =
    "usage: swarm --file FILE --port PORT [options]\n"
    "Runs true firmware cores with a played engine against an MQTT broker without TLS.\n"
    "JSON lines on stdout. Exit 0: every goal reached; 3: not within --duration; 2: bad use.\n\n"
    "  --file FILE        class and device identities (format: swarm_file.c)\n"
    "  --host ADDRESS     IPv4 address of the broker (127.0.0.1)\n"
    "  --port PORT\n"
    "  --devices N        the first N of the file (1..20000)\n"
    "  --goal MID         16 hex digits of the model that is to be run; again for the next one\n"
    "  --rate N           new connections a second at most (500)\n"
    "  --loss P           share of arriving chunks that is dropped, 0..0.9\n"
    "  --cut-per-hour X   power cuts of each device, at random times, half of them in flash\n"
    "  --bad-golden P     share of devices on which the last goal's model fails its self-test\n"
    "  --crash P          share on which it crashes when loaded\n"
    "  --seed N           of everything random (1)\n"
    "  --duration S       give up after so many seconds (600)\n";

static int whole(const char *text, uint32_t least, uint32_t most, uint32_t *out) {
    char *end = NULL;
    unsigned long long v = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || v < least || v > most)
        return -1;
    *out = (uint32_t)v;
    return 0;
}

static int real(const char *text, double most, double *out) {
    char *end = NULL;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= 0 && v <= most)) /* NaN fails too */
        return -1;
    *out = v;
    return 0;
}

static int take_goal(struct swarm_options *o, const char *text) {
    size_t n = 0;
    if (o->n_goals == SWARM_GOALS_MAX || strlen(text) != 16 ||
        sodium_hex2bin(o->goal[o->n_goals], 8, text, 16, NULL, &n, NULL) || n != 8)
        return -1;
    o->n_goals++;
    return 0;
}

static int take_option(struct swarm_options *o, int option, const char *text) {
    uint32_t port = 0;
    switch (option) {
    case 'f':
        o->file = text;
        return 0;
    case 'H':
        o->host = text;
        return 0;
    case 'p':
        if (whole(text, 1, UINT16_MAX, &port))
            return -1;
        o->port = (uint16_t)port;
        return 0;
    case 'n':
        return whole(text, 1, SWARM_DEVICES_MAX, &o->devices);
    case 'g':
        return take_goal(o, text);
    case 'r':
        return whole(text, 1, 100000, &o->rate);
    case 'l':
        return real(text, 0.9, &o->loss);
    case 'c':
        return real(text, 3600, &o->cut_per_hour);
    case 'b':
        return real(text, 1, &o->bad_golden);
    case 'x':
        return real(text, 1, &o->crash);
    case 's':
        return whole(text, 0, UINT32_MAX, &o->seed);
    case 'd':
        return real(text, DURATION_MAX_S, &o->duration_s);
    default:
        return -1;
    }
}

/* 0 go on, 1 help was shown, -1 bad use, said so. */
static int take_options(struct swarm_options *o, int argc, char **argv) {
    static const struct option known[] = {
        {"file", 1, NULL, 'f'},       {"host", 1, NULL, 'H'},
        {"port", 1, NULL, 'p'},       {"devices", 1, NULL, 'n'},
        {"goal", 1, NULL, 'g'},       {"rate", 1, NULL, 'r'},
        {"loss", 1, NULL, 'l'},       {"cut-per-hour", 1, NULL, 'c'},
        {"bad-golden", 1, NULL, 'b'}, {"crash", 1, NULL, 'x'},
        {"seed", 1, NULL, 's'},       {"duration", 1, NULL, 'd'},
        {"help", 0, NULL, 'h'},       {NULL, 0, NULL, 0}};
    int option, which = 0;
    *o = (struct swarm_options){
        .host = "127.0.0.1", .devices = 1, .rate = 500, .seed = 1, .duration_s = 600};
    while ((option = getopt_long(argc, argv, "", known, &which)) != -1) {
        if (option == 'h') {
            fputs(HELP, stdout);
            return 1;
        }
        if (option == '?')
            return -1;
        if (take_option(o, option, optarg)) {
            fprintf(stderr, "swarm: --%s cannot be %s\n", known[which].name, optarg);
            return -1;
        }
    }
    if (optind < argc || !o->file || !o->port || o->bad_golden + o->crash > 1) {
        fputs("swarm: --file and --port are needed; --bad-golden + --crash is at most 1\n", stderr);
        return -1;
    }
    return 0;
}

/* --- the timer heap ------------------------------------------------------------------- */

static void place(struct swarm *s, uint32_t at, struct device *d) {
    s->heap[at] = d;
    d->heap_at = at;
}

static void resort(struct swarm *s, struct device *d) {
    uint32_t at = d->heap_at, n = s->opt.devices;
    while (at && s->heap[(at - 1) / 2]->due_ms > d->due_ms) {
        place(s, at, s->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < n && s->heap[child + 1]->due_ms < s->heap[child]->due_ms)
            child++;
        if (child >= n || s->heap[child]->due_ms >= d->due_ms)
            break;
        place(s, at, s->heap[child]);
        at = child;
    }
    place(s, at, d);
}

/* --- running -------------------------------------------------------------------------- */

/* The next goal, or 1 after the last. */
static int reached(struct swarm *s, uint64_t now) {
    report_states(s, now);
    report_goal(s, now);
    if (s->goal + 1 == s->opt.n_goals)
        return 1;
    s->goal++;
    s->settled = 0;
    for (uint32_t i = 0; i < s->opt.devices; i++)
        device_goal(s->device[i]);
    return 0;
}

static void look_at_sockets(struct swarm *s, int wait_ms) {
    struct epoll_event e[EVENTS];
    int n = epoll_wait(s->epoll, e, EVENTS, wait_ms);
    uint64_t now = swarm_now_ms();
    for (int i = 0; i < n; i++) {
        struct device *d = e[i].data.ptr;
        if (d->conn.fd < 0)
            continue; /* closed by an earlier event of this round */
        device_turn(d, now, e[i].events);
        resort(s, d);
    }
}

static int run(struct swarm *s) {
    uint64_t row_ms = s->start_ms, end_ms = s->start_ms + (uint64_t)(s->opt.duration_s * 1000);
    for (;;) {
        uint64_t now = swarm_now_ms();
        for (uint32_t i = 0; i < TURNS && s->heap[0]->due_ms <= now; i++) {
            device_turn(s->heap[0], now, 0);
            resort(s, s->heap[0]);
            now = swarm_now_ms();
        }
        uint64_t due = s->heap[0]->due_ms < row_ms ? s->heap[0]->due_ms : row_ms;
        look_at_sockets(s, due <= now ? 0 : due - now < 1000 ? (int)(due - now) : 1000);
        now = swarm_now_ms();
        if (now >= row_ms) {
            report_states(s, now);
            row_ms = now + ROW_MS;
        }
        if (s->opt.n_goals && s->settled == s->opt.devices && reached(s, now))
            break;
        if (stop || now >= end_ms) {
            if (s->opt.n_goals)
                report_goal(s, now);
            report_end(s, now, stop ? "stopped" : "duration");
            return s->opt.n_goals ? EXIT_NOT_SETTLED : 0;
        }
    }
    report_end(s, swarm_now_ms(), "goals reached");
    return 0;
}

static int set_up(struct swarm *s) {
    struct rlimit files;
    uint32_t n = s->opt.devices;
    s->rss_empty_kib = swarm_rss_kib("VmRSS:");
    s->device = calloc(n, sizeof *s->device);
    s->heap = calloc(n, sizeof *s->heap);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!s->device || !s->heap || s->epoll < 0 || pool_open(&s->pool, 1u << 16)) {
        fputs("swarm: no memory\n", stderr);
        return -1;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
        if (files.rlim_max < n + 64ull) {
            fprintf(stderr, "swarm: %u devices need as many open files, %llu are allowed\n", n,
                    (unsigned long long)files.rlim_max);
            return -1;
        }
    }
    if (swarm_file_read(s))
        return -1;
    s->class.ident.ops = s->class.ops;
    s->class.ident.firmware_version = s->class.firmware;
    s->class.ident.esp_nn = "";
    s->start_ms = swarm_now_ms();
    for (uint32_t i = 0; i < n; i++) {
        if (device_open(s, i)) {
            fputs("swarm: no memory\n", stderr);
            return -1;
        }
        place(s, i, s->device[i]);
    }
    return 0;
}

static int tear_down(struct swarm *s, int rc) {
    uint64_t left = 0;
    for (uint32_t i = 0; s->device && i < s->opt.devices; i++)
        if (s->device[i])
            device_close(s->device[i]);
    if (s->pool.bucket && (left = pool_close(&s->pool)) != 0) {
        fprintf(stderr, "swarm: %llu flash pages were not given back\n", (unsigned long long)left);
        rc = EXIT_PAGES_LOST;
    }
    free(s->device);
    free(s->heap);
    free(s);
    return rc;
}

int main(int argc, char **argv) {
    struct swarm *s = calloc(1, sizeof *s);
    struct sigaction action = {.sa_handler = on_signal};
    if (!s || sodium_init() < 0)
        return EXIT_BAD_USE;
    int rc = take_options(&s->opt, argc, argv);
    if (rc)
        return tear_down(s, rc < 0 ? EXIT_BAD_USE : 0);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    if (set_up(s))
        return tear_down(s, EXIT_BAD_USE);
    report_start(s);
    return tear_down(s, run(s));
}
