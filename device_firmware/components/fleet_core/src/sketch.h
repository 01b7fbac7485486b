/* sketch.h (private): a sketch on the wire (SPEC.md section 7, telemetry key 9). */
#ifndef FLEET_CORE_SRC_SKETCH_H
#define FLEET_CORE_SRC_SKETCH_H

#include "cbor.h"
#include "fleet_core/core.h"
#include "fleet_core/pipeline.h"

/* What the core adds to a slot's own distributions. */
struct fc_sketch_extra {
    uint32_t dt_ms, duration_s;
    const struct fc_golden *golden; /* n 0 = no self-test yet */
    uint32_t arena_used;
    uint8_t has_reset, reset; /* the reset that began this boot, told once */
    uint8_t lean;             /* to fit a message: 1 without class counts, 2 nor input moments */
};

/* Appends the map; out->err when it does not fit. */
void fc_sketch_write(const struct fc_sketch *s, const struct fc_sketch_extra *x,
                     struct fc_out *out);

#endif
