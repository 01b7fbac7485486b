/* tears.h: every state that a power cut can leave flash in, without running up to each one.
 *
 * While a log watches a device, each erase and program is noted together with the flash and the
 * committed record as they were before it. tear_apply() then makes flash what a cut inside that
 * operation leaves, by the same nor.c that runs everywhere else. So a cut costs a copy of flash,
 * and pairs of cuts are as cheap as the recoveries between them.
 */
#ifndef TESTS_FIRMWARE_TEARS_H
#define TESTS_FIRMWARE_TEARS_H

#include "bench.h"

#define TEAR_OPS 160u /* operations one story may take */

struct tear_op {
    uint8_t is_erase, area;
    uint32_t off, n;
    uint8_t data[FC_SECTOR];
    uint8_t *flash;             /* before the operation */
    struct fc_record committed; /* the newest record by then */
};

struct tear_log {
    uint32_t n;
    struct tear_op op[TEAR_OPS];
};

/* Notes the operations of the bench's device from now on. One log at a time. */
void tear_watch(struct bench *b, struct tear_log *log);
void tear_unwatch(struct bench *b);
/* Flash as a cut in `op` leaves it. how: enum nor_tear; seed: of the garbage. */
void tear_apply(struct bench *b, const struct tear_op *op, int how, uint32_t seed);
void tear_free(struct tear_log *log);

#endif
