/* targets.c: see targets.h. The entry points of libFuzzer. */
#include "targets.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bench fuzz_bench;

static const struct {
    const char *name;
    void (*run)(const uint8_t *p, size_t n);
} TARGETS[] = {
    {"cbor", fuzz_cbor},       {"cose", fuzz_cose},       {"trust", fuzz_trust},
    {"desired", fuzz_desired}, {"command", fuzz_command}, {"manifest", fuzz_manifest},
    {"blob", fuzz_blob},       {"leaves", fuzz_leaves},   {"message", fuzz_message},
    {"signed", fuzz_signed},   {"boot", fuzz_boot},
};

static void (*run)(const uint8_t *p, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

uint32_t fuzz_take(struct fuzz_in *in, unsigned bytes) {
    uint32_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | (in->p < in->end ? *in->p++ : 0u);
    return v;
}

const uint8_t *fuzz_take_bytes(struct fuzz_in *in, size_t n, size_t *got) {
    const uint8_t *at = in->p;
    *got = n < (size_t)(in->end - in->p) ? n : (size_t)(in->end - in->p);
    in->p += *got;
    return at;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *name = getenv("FUZZ_TARGET"), *scenario = getenv("FUZZ_SCENARIO");
    const char *flash = getenv("FUZZ_FLASH");
    (void)argc;
    (void)argv;
    if (!name || !scenario || !flash)
        fail("FUZZ_TARGET, FUZZ_SCENARIO and FUZZ_FLASH name the work", 0, 0);
    for (size_t i = 0; i < sizeof TARGETS / sizeof TARGETS[0]; i++)
        if (strcmp(TARGETS[i].name, name) == 0)
            run = TARGETS[i].run;
    if (!run)
        fail(name, 0, 0);
    bench_open(&fuzz_bench, scenario, flash);
    unlink(flash); /* it stays mapped */
    fuzz_devices_open();
    return 0;
}

/* A copy that ends where the input ends, so that ASan sees a byte read too far. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    uint8_t *exact = malloc(n ? n : 1);
    if (!exact)
        return 0;
    if (n)
        memcpy(exact, p, n);
    run(exact, n);
    free(exact);
    return 0;
}
