/* class_id.c: the description of this board's class as the backend hashes it (SPEC.md section 9).
 *
 * A board reports the class that it is, from what it was built with and flashed onto, not the one
 * it was enrolled as: when they differ, every manifest is refused (`target_class`) instead of one
 * being run that was measured on something else.
 */
#include <string.h>

#include "port.h"

static uint8_t *head(uint8_t *p, unsigned major, uint32_t value) {
    if (value < 24u) {
        *p++ = (uint8_t)(major << 5 | value);
        return p;
    }
    int bytes = value < 256u ? 1 : value < 65536u ? 2 : 4;
    *p++ = (uint8_t)(major << 5 | (bytes == 1 ? 24u : bytes == 2 ? 25u : 26u));
    for (int i = bytes; i-- > 0;)
        *p++ = (uint8_t)(value >> (8 * i));
    return p;
}

static uint8_t *text(uint8_t *p, const char *s) {
    size_t n = strlen(s); /* <= 32 */
    p = head(p, 3, (uint32_t)n);
    memcpy(p, s, n);
    return p + n;
}

uint32_t class_slot_bytes(uint32_t bank_bytes) {
    uint32_t sectors = bank_bytes / FC_SECTOR, leaves_in_one = FC_SECTOR / 8u;
    if (sectors < 3u)
        return 0;
    uint32_t chunks = sectors - 2u <= leaves_in_one ? sectors - 2u : sectors - 3u;
    return (chunks < FC_CHUNKS_MAX ? chunks : FC_CHUNKS_MAX) * FC_SECTOR;
}

/* Bounds first: 2 names of 32 B, 4 slots and numbers of at most 5 B each stay below 160 B. */
size_t class_describe(const struct class_description *d, uint8_t out[CLASS_DESCRIPTION_MAX]) {
    uint8_t *p = out;
    if (!d->name[0] || strlen(d->name) > 32 || strlen(d->esp_nn) > 32 ||
        d->n_slots > FC_SLOTS_MAX || d->ops_n > FC_OPS_BYTES_MAX)
        return 0;
    p = head(p, 5, 7); /* a map of keys 0 .. 6 */
    p = head(head(p, 0, 0), 0, 1);
    p = text(head(p, 0, 1), d->name);
    p = head(head(p, 0, 2), 0, d->chip);
    p = head(head(p, 0, 3), 0, d->arena_bytes);
    p = head(head(p, 0, 4), 4, d->n_slots);
    for (uint32_t i = 0; i < d->n_slots; i++)
        p = head(p, 0, d->slot_bytes[i]);
    p = head(p, 0, 5);
    memcpy(p, d->ops, d->ops_n);
    p = text(head(p + d->ops_n, 0, 6), d->esp_nn);
    return (size_t)(p - out);
}
