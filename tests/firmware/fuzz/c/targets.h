/* targets.h: what a fuzzer may feed. One program holds all targets; the environment names one:
 *
 *   FUZZ_TARGET    name in targets.c
 *   FUZZ_SCENARIO  scenario file (bench.h): identity, trust 1, models A and B, desired documents
 *   FUZZ_FLASH     path for the flash file, made and removed
 */
#ifndef TESTS_FIRMWARE_FUZZ_TARGETS_H
#define TESTS_FIRMWARE_FUZZ_TARGETS_H

#include "bench.h"
#include "internal.h"

/* The device under test; parsers borrow its digests. */
extern struct bench fuzz_bench;

/* A signature that the lenient port accepts starts with this: payloads get behind the envelope. */
#define FUZZ_SIGNATURE "FUZZ"

/* The real check, or FUZZ_SIGNATURE. Never used by the boot target. */
int fuzz_verify(const uint8_t sig[64], const void *msg, size_t n, const uint8_t key[32]);

/* parsers.c: bytes into one parser, no device. */
void fuzz_cbor(const uint8_t *p, size_t n);
void fuzz_cose(const uint8_t *p, size_t n);
void fuzz_trust(const uint8_t *p, size_t n);
void fuzz_desired(const uint8_t *p, size_t n);
void fuzz_command(const uint8_t *p, size_t n);
void fuzz_manifest(const uint8_t *p, size_t n);
void fuzz_blob(const uint8_t *p, size_t n);

/* devices.c: bytes into a whole device. */
void fuzz_devices_open(void); /* runs the stories whose flash the targets start from */
void fuzz_message(const uint8_t *p, size_t n);
void fuzz_signed(const uint8_t *p, size_t n);
void fuzz_leaves(const uint8_t *p, size_t n);
void fuzz_boot(const uint8_t *p, size_t n);

/* A take from the front of the input; zeros behind its end. */
struct fuzz_in {
    const uint8_t *p, *end;
};
uint32_t fuzz_take(struct fuzz_in *in, unsigned bytes);
const uint8_t *fuzz_take_bytes(struct fuzz_in *in, size_t n, size_t *got);

#endif
