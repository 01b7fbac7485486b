/* crc32.c: bit by bit; it runs over 512-byte records only, a table would cost more flash than time.
 */
#include "crc32.h"

uint32_t fc_crc32(const void *p, size_t n) {
    const uint8_t *b = p;
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < n; i++) {
        crc ^= b[i];
        for (int k = 0; k < 8; k++)
            crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}
