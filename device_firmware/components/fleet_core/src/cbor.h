/* cbor.h: the deterministic CBOR of SPEC.md section 2, reader and writer, no allocation. */
#ifndef FLEET_CORE_CBOR_H
#define FLEET_CORE_CBOR_H

#include <stddef.h>
#include <stdint.h>

#include "fleet_core/codes.h"
#include "fleet_core/limits.h"

enum fc_major { FC_UINT, FC_NINT, FC_BYTES, FC_TEXT, FC_ARRAY, FC_MAP, FC_TAG, FC_SIMPLE };

#define FC_CBOR_TAG 1u /* flag of fc_cbor_check: the outermost item may be a tag */
#define FC_ITEMS_MAX 4096u

/* Walks one item that must fill p[0..n): shortest heads, definite lengths, no floats or simple
 * values, UTF-8 text, map keys text or 0..31 and strictly rising, depth and item count bounded.
 *
 *   FC_OK          deterministic; the cursor functions below can only meet wrong types and ranges
 *   FC_ERR_SCHEMA  anything else
 */
int fc_cbor_check(const uint8_t *p, size_t n, unsigned flags, uint32_t items_max);

/* A cursor over bytes that fc_cbor_check accepted. The first misfit sets err and every later call
 * returns 0, so a parser checks err once at its end. */
struct fc_in {
    const uint8_t *p;
    const uint8_t *end;
    int err;
    uint64_t value; /* argument of the head read last */
};

struct fc_in fc_in_of(const uint8_t *p, size_t n);
/* Checks p[0..n) as fc_cbor_check() does and enters its map of at most `most` pairs. Returns how
 * many there are; 0 and a failed cursor for anything else, and for the empty map. */
uint32_t fc_in_open(struct fc_in *in, const uint8_t *p, size_t n, uint32_t most);
void fc_in_key(struct fc_in *in, uint32_t key);             /* exactly this number */
void fc_in_raw(struct fc_in *in, uint8_t *out, uint32_t n); /* a byte string of exactly n bytes */
int fc_in_major(
    const struct fc_in *in); /* type of the next item, -1 at the end or after an error */
uint64_t fc_in_u64(struct fc_in *in);
/* The argument of a head of this type within bounds; below, its commonest forms. */
uint32_t fc_in_head(struct fc_in *in, enum fc_major wanted, uint32_t least, uint32_t most);
static inline uint32_t fc_in_u32(struct fc_in *in, uint32_t least, uint32_t most) {
    return fc_in_head(in, FC_UINT, least, most);
}
static inline uint32_t fc_in_array(struct fc_in *in, uint32_t least, uint32_t most) {
    return fc_in_head(in, FC_ARRAY, least, most);
}
static inline uint32_t fc_in_map(struct fc_in *in, uint32_t most) {
    return fc_in_head(in, FC_MAP, 0, most);
}
int64_t fc_in_int(struct fc_in *in); /* within INT32_MIN..UINT32_MAX */
/* A byte string or text; NULL after an error. *n = its length, at most `most`; n may be NULL. */
const uint8_t *fc_in_string(struct fc_in *in, enum fc_major major, uint32_t least, uint32_t most,
                            uint32_t *n);
static inline const uint8_t *fc_in_bytes(struct fc_in *in, uint32_t least, uint32_t most,
                                         uint32_t *n) {
    return fc_in_string(in, FC_BYTES, least, most, n);
}
static inline const uint8_t *fc_in_text(struct fc_in *in, uint32_t least, uint32_t most,
                                        uint32_t *n) {
    return fc_in_string(in, FC_TEXT, least, most, n);
}
uint64_t fc_in_tag(struct fc_in *in);
void fc_in_skip(struct fc_in *in);
void fc_in_fail(struct fc_in *in);
/* True when nothing failed and nothing is left. */
int fc_in_done(const struct fc_in *in);
/* A model name: [a-z0-9][a-z0-9._-]*, not empty. */
int fc_is_name(const uint8_t *p, size_t n);
/* A device id: [a-z0-9][a-z0-9-]{0,31} */
int fc_is_device_id(const uint8_t *p, size_t n);
/* All bytes within least..0x7E: printable ASCII with (0x20) or without (0x21) spaces. */
int fc_is_printable(const uint8_t *p, size_t n, uint8_t least);

/* A writer into a caller's buffer; err is set when it would not fit, and nothing is written then.
 */
struct fc_out {
    uint8_t *p;
    size_t n;
    size_t cap;
    int err;
};

struct fc_out fc_out_to(uint8_t *p, size_t cap);
void fc_out_head(struct fc_out *out, enum fc_major major, uint64_t value);
void fc_out_uint(struct fc_out *out, uint64_t value);
void fc_out_u32(struct fc_out *out, uint32_t value);
void fc_out_int(struct fc_out *out, int64_t value);
void fc_out_text(struct fc_out *out, const char *text);
void fc_out_array(struct fc_out *out, uint32_t n);
void fc_out_map(struct fc_out *out, uint32_t n);
/* A small key and its number; a list of numbers. */
void fc_out_pair(struct fc_out *out, uint32_t key, uint64_t value);
void fc_out_list(struct fc_out *out, const uint32_t *v, uint32_t n);
void fc_out_raw(struct fc_out *out, const void *p, size_t n);
static inline void fc_out_bytes(struct fc_out *out, const void *p, size_t n) {
    fc_out_head(out, FC_BYTES, n);
    fc_out_raw(out, p, n);
}

#endif
