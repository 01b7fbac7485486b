/* bytes.h: little-endian and big-endian integers in byte buffers; never by struct cast. */
#ifndef FLEET_CORE_BYTES_H
#define FLEET_CORE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Keeps the frame of a big step out of the deepest chain of calls. */
#define FC_NOINLINE __attribute__((noinline))

/* Out of line (bytes.c): they are called from many places. */
void fc_put32(uint8_t *p, uint32_t v);
void fc_put32be(uint8_t *p, uint32_t v);
uint32_t fc_get32(const uint8_t *p);
int fc_is_zero(const uint8_t *p, size_t n);

static inline void fc_put16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void fc_put64(uint8_t *p, uint64_t v) {
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint16_t fc_get16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint64_t fc_get64(const uint8_t *p) {
    return (uint64_t)fc_get32(p) | (uint64_t)fc_get32(p + 4) << 32;
}

/* IEEE 754 single precision, little-endian: parameters of the application, never of an update. */
static inline float fc_get_f32(const uint8_t *p) {
    uint32_t bits = fc_get32(p);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

#endif
