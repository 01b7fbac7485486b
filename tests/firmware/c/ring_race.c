/* ring_race.c: a producer that never waits against a consumer that is often too slow. Every window
 * that the consumer may keep has to be consecutive frames; what it lost has to be told.
 *
 *   ring_race WINDOWS    ends with so many windows kept and ten of them torn; 1 = a wrong window
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "fleet_core/pipeline.h"

#define WINDOW 32u
#define HOP 8u
#define CAPACITY 64u
#define MODULO (1u << 22) /* exact in a float */

struct race {
    struct fc_stream stream;
    atomic_int done;
};

static void *produce(void *arg) {
    struct race *race = arg;
    float burst[40][2];
    uint32_t seed = 7;
    for (uint32_t at = 0; !atomic_load(&race->done);) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t n = 1 + (seed >> 24) % 40u;
        for (uint32_t i = 0; i < n; i++) {
            burst[i][0] = (float)((at + i) % MODULO);
            burst[i][1] = -burst[i][0];
        }
        fc_stream_put(&race->stream, burst, n);
        at = (at + n) % MODULO;
        if (seed >> 30 == 0)
            sched_yield(); /* else the consumer would hardly ever keep up */
    }
    return NULL;
}

/* The window at hand against the frames it begins with. */
static int is_wrong(const float window[WINDOW][2]) {
    uint32_t first = (uint32_t)window[0][0];
    for (uint32_t f = 0; f < WINDOW; f++) {
        float expected = (float)((first + f) % MODULO);
        if (window[f][0] < expected || window[f][0] > expected || window[f][1] < -expected ||
            window[f][1] > -expected)
            return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    static struct race race;
    static float memory[CAPACITY][2], window[WINDOW][2];
    uint32_t windows = 0, torn = 0, wrong = 0, untold = 0, before = 0;
    pthread_t thread;
    uint32_t wanted = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    if (!wanted ||
        fc_stream_open(&race.stream, FC_SAMPLES_F32, 2, WINDOW, HOP, memory, sizeof memory))
        return 2;
    if (pthread_create(&thread, NULL, produce, &race))
        return 2;
    while (windows < wanted || torn < 10) {
        if (!fc_stream_ready(&race.stream)) {
            sched_yield();
            continue;
        }
        int jumped = race.stream.jumped;
        for (uint32_t f = 0; f < WINDOW; f++) {
            if (f == WINDOW / 2 && (windows + torn) % 7 == 0)
                sched_yield(); /* be overtaken in the middle of a window */
            for (uint32_t c = 0; c < 2; c++)
                window[f][c] = fc_stream_value(&race.stream, f, c);
        }
        if (!fc_stream_next(&race.stream)) {
            torn++;
            continue;
        }
        wrong += (uint32_t)is_wrong((const float(*)[2])window);
        uint32_t first = (uint32_t)window[0][0];
        untold += !jumped && first != (before + HOP) % MODULO;
        before = first;
        windows++;
    }
    atomic_store(&race.done, 1);
    pthread_join(thread, NULL);
    printf("windows %u torn %u dropped %u wrong %u untold %u\n", windows, torn, race.stream.dropped,
           wrong, untold);
    return wrong || untold;
}
