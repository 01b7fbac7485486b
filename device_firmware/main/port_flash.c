/* port_flash.c: areas of the core as partitions.
 *
 * The core checks offsets and lengths against capacity() before it calls; esp_partition_* checks
 * them again against the partition.
 */
#include <stdio.h>
#include <string.h>

#include "esp_ota_ops.h"
#include "esp_partition.h"

#include "port.h"

#define TYPE ((esp_partition_type_t)0x40) /* the project's own; the bootloader ignores it */
#define MAPPINGS (FC_SLOTS + 2u)          /* every loaded model, the one on trial, a chunk */

static const esp_partition_t *s_area[FC_AREAS];
static struct {
    const void *p;
    esp_partition_mmap_handle_t handle;
} s_mapping[MAPPINGS];

static const esp_partition_t *find(uint8_t area) {
    return area < FC_AREAS ? s_area[area] : NULL;
}

/* An encrypted partition is decrypted as it is read: what is erased would read as noise, and the
 * log would find no room for a record. Units whose raw bytes are erased are shown so. A written
 * unit has raw bytes of 0xFF alone once in 2^256. `off` and `n` are the core's, within the
 * partition.
 */
static int show_erased(const esp_partition_t *part, uint32_t off, uint8_t *dst, uint32_t n) {
    uint8_t raw[FC_PROGRAM_UNIT], erased[FC_PROGRAM_UNIT];
    memset(erased, 0xFF, sizeof erased);
    for (uint32_t at = 0; at + FC_PROGRAM_UNIT <= n; at += FC_PROGRAM_UNIT) {
        if (esp_partition_read_raw(part, off + at, raw, sizeof raw) != ESP_OK)
            return FC_ERR_FLASH_IO;
        if (memcmp(raw, erased, sizeof raw) == 0)
            memset(dst + at, 0xFF, sizeof raw);
    }
    return FC_OK;
}

static int flash_read(void *ctx, uint8_t area, uint32_t off, void *dst, uint32_t n) {
    const esp_partition_t *part = find(area);
    (void)ctx;
    if (!part || esp_partition_read(part, off, dst, n) != ESP_OK)
        return FC_ERR_FLASH_IO;
    if (area == FC_META && part->encrypted && off % FC_PROGRAM_UNIT == 0)
        return show_erased(part, off, dst, n);
    return FC_OK;
}

static int flash_program(void *ctx, uint8_t area, uint32_t off, const void *src, uint32_t n) {
    const esp_partition_t *part = find(area);
    (void)ctx;
    return part && esp_partition_write(part, off, src, n) == ESP_OK ? FC_OK : FC_ERR_FLASH_IO;
}

/* One sector, never a bank at once: code in flash stands still on both cores meanwhile. */
static int flash_erase(void *ctx, uint8_t area, uint32_t off) {
    const esp_partition_t *part = find(area);
    (void)ctx;
    return part && esp_partition_erase_range(part, off, FC_SECTOR) == ESP_OK ? FC_OK
                                                                             : FC_ERR_FLASH_IO;
}

static uint32_t flash_capacity(void *ctx, uint8_t area) {
    const esp_partition_t *part = find(area);
    (void)ctx;
    return part ? part->size : 0;
}

static int flash_map(void *ctx, uint8_t area, uint32_t off, uint32_t n, const uint8_t **p) {
    const esp_partition_t *part = find(area);
    const void *mapped = NULL;
    (void)ctx;
    for (unsigned i = 0; part && i < MAPPINGS; i++) {
        if (s_mapping[i].p)
            continue;
        /* The literal, never the type's name: 6.x renamed it, and warns about the old one. */
        if (esp_partition_mmap(part, off, n, ESP_PARTITION_MMAP_DATA, &mapped,
                               &s_mapping[i].handle) != ESP_OK)
            return FC_ERR_FLASH_IO;
        s_mapping[i].p = mapped;
        *p = mapped;
        return FC_OK;
    }
    return FC_ERR_FLASH_IO;
}

static void flash_unmap(void *ctx, const uint8_t *p) {
    (void)ctx;
    for (unsigned i = 0; i < MAPPINGS; i++) {
        if (p && s_mapping[i].p == p) {
            esp_partition_munmap(s_mapping[i].handle);
            s_mapping[i].p = NULL;
            return;
        }
    }
}

int port_flash_open(struct fc_hal *hal) {
    char label[8];
    s_area[FC_META] = esp_partition_find_first(TYPE, ESP_PARTITION_SUBTYPE_ANY, "fc_meta");
    s_area[FC_FW_HDR] = esp_partition_find_first(TYPE, ESP_PARTITION_SUBTYPE_ANY, "fc_fwhdr");
    s_area[FC_FW_IMG] = esp_ota_get_next_update_partition(NULL); /* the one that does not run */
    for (unsigned slot = 0; slot < FC_SLOTS; slot++) {
        for (unsigned bank = 0; bank < 2; bank++) {
            snprintf(label, sizeof label, "s%u_%c", slot, bank ? 'b' : 'a');
            s_area[FC_BANK0 + 2 * slot + bank] =
                esp_partition_find_first(TYPE, ESP_PARTITION_SUBTYPE_ANY, label);
        }
    }
    hal->read = flash_read;
    hal->program = flash_program;
    hal->erase = flash_erase;
    hal->capacity = flash_capacity;
    hal->map = flash_map;
    hal->unmap = flash_unmap;
    return s_area[FC_META] ? FC_OK : FC_ERR_FLASH_IO;
}

uint32_t port_flash_slots(void) {
    uint32_t n = 0;
    while (n < FC_SLOTS && s_area[FC_BANK0 + 2 * n] && s_area[FC_BANK0 + 2 * n + 1])
        n++;
    return n;
}
