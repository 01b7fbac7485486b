/* rules.c: the simulated flash is as strict as the real one: each misuse ends the process.
 *
 *   rules FLASH
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static struct nor n;
static uint8_t bytes[4096];

static void program_twice(void) {
    nor_program(&n, FC_META, 64, bytes, 32);
    nor_program(&n, FC_META, 64, bytes, 32);
}

static void program_twice_with_ones(void) {
    memset(bytes, 0xFF, sizeof bytes); /* no bit changes, and yet encrypted flash forbids it */
    nor_program(&n, FC_META, 4096, bytes, 4096);
    nor_program(&n, FC_META, 4096 + 32, bytes, 32);
}

static void program_off_unit(void) {
    nor_program(&n, FC_META, 16, bytes, 32);
}

static void program_part_unit(void) {
    nor_program(&n, FC_META, 0, bytes, 48);
}

static void program_over_sector(void) {
    nor_program(&n, FC_META, 4096 - 32, bytes, 64);
}

static void program_nothing(void) {
    nor_program(&n, FC_META, 0, bytes, 0);
}

static void program_past_end(void) {
    nor_program(&n, FC_META, 8 * 4096, bytes, 32);
}

static void erase_off_sector(void) {
    nor_erase(&n, FC_META, 32);
}

static void erase_past_end(void) {
    nor_erase(&n, FC_META, 8 * 4096);
}

static void read_past_end(void) {
    nor_read(&n, FC_META, 8 * 4096 - 1, bytes, 2);
}

static void no_such_area(void) {
    nor_erase(&n, FC_AREAS, 0);
}

static const struct {
    const char *name;
    void (*misuse)(void);
} CASES[] = {
    {"program twice", program_twice},
    {"program twice with ones", program_twice_with_ones},
    {"program off a unit", program_off_unit},
    {"program part of a unit", program_part_unit},
    {"program over a sector's end", program_over_sector},
    {"program nothing", program_nothing},
    {"program past the end", program_past_end},
    {"erase off a sector", erase_off_sector},
    {"erase past the end", erase_past_end},
    {"read past the end", read_past_end},
    {"no such area", no_such_area},
};

/* What flash does: erase sets bits, programming clears them, and the file keeps it. */
static void check_use(const char *path, const uint32_t capacity[FC_AREAS]) {
    uint8_t back[32];
    memset(bytes, 0x5A, sizeof bytes);
    if (nor_erase(&n, FC_META, 0) || nor_program(&n, FC_META, 0, bytes, 32))
        fail("erase and program", 0, 0);
    nor_close(&n);
    if (nor_open(&n, path, capacity))
        fail("open again", 0, 0);
    nor_read(&n, FC_META, 0, back, 32);
    if (memcmp(back, bytes, 32) != 0)
        fail("what was programmed is not there", back[0], bytes[0]);
    nor_read(&n, FC_META, 32, back, 32);
    if (back[0] != 0xFF || nor_erase_count(&n, FC_META, 0) != 1)
        fail("what was erased is not blank, or not counted", back[0], 0);
    nor_erase(&n, FC_META, 0);
}

int main(int argc, char **argv) {
    uint32_t capacity[FC_AREAS] = {[FC_META] = 8 * 4096};
    if (argc != 2 || nor_open(&n, argv[1], capacity))
        fail("usage: rules FLASH", argc, 0);
    check_use(argv[1], capacity);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        int status = 0;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            CASES[i].misuse();
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child)
            fail("fork", (long)i, 0);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
            fail(CASES[i].name, status, (long)i);
    }
    printf("%zu kinds of misuse end the process\n", sizeof CASES / sizeof CASES[0]);
    nor_close(&n);
    return 0;
}
