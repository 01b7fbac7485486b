/* crc32.h: CRC-32 (IEEE 802.3, reflected, polynomial 0xEDB88320). */
#ifndef FLEET_CORE_CRC32_H
#define FLEET_CORE_CRC32_H

#include <stddef.h>
#include <stdint.h>

uint32_t fc_crc32(const void *p, size_t n);

#endif
