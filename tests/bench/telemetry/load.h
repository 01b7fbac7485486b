/* load.h: what the generator and the raw subscriber of the ingest benchmark share: a clock, sockets
 * of loopback and one line of options. Host tools: they may exit on any surprise.
 */
#ifndef FLEET_BENCH_LOAD_H
#define FLEET_BENCH_LOAD_H

#include <stdint.h>

/* Prints the words to stderr and ends the process with 2. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Monotonic seconds; CPU seconds of this process. */
double now_s(void);
double cpu_used_s(void);

/* A connected, then non-blocking TCP socket of 127.0.0.1 without Nagle, or -1. */
int loopback_connect(uint16_t port);

/* The value behind `--name` as text; NULL when it is not given and `otherwise` when it has none. */
const char *option_text(int argc, char **argv, const char *name, const char *otherwise);
double option_number(int argc, char **argv, const char *name, double otherwise);

#endif
