/* flat.h: bounded reading of FlatBuffers; see flat.c for who controls the bytes. */
#ifndef TFLM_ENGINE_FLAT_H
#define TFLM_ENGINE_FLAT_H

#include <stdint.h>

struct flat {
    const uint8_t *p;
    uint32_t n;   /* <= 2^31 - 1 */
    uint8_t torn; /* sticky: something led outside */
};

/* A table: where it is, and its list of field offsets. size 0 = not there. */
struct flat_table {
    uint32_t at, size, fields, n_fields;
};

/* A vector: where its first element is. A missing one has count 0 and at 0. */
struct flat_vec {
    uint32_t at, count;
};

struct flat_table flat_root(struct flat *f);
struct flat_table flat_table_in(struct flat *f, const struct flat_table *t, uint32_t field);
struct flat_table flat_table_of(struct flat *f, const struct flat_vec *v, uint32_t i);
struct flat_vec flat_vec_in(struct flat *f, const struct flat_table *t, uint32_t field,
                            uint32_t element_bytes);
/* The text of a string field, NULL when it is missing. */
const char *flat_text_in(struct flat *f, const struct flat_table *t, uint32_t field);
uint32_t flat_u8(struct flat *f, const struct flat_table *t, uint32_t field, uint32_t missing);
uint32_t flat_u32(struct flat *f, const struct flat_table *t, uint32_t field, uint32_t missing);
/* Element i of a vector of 32-bit numbers, i < count. */
int32_t flat_i32_of(const struct flat *f, const struct flat_vec *v, uint32_t i);

#endif
