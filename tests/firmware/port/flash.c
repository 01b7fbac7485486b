/* flash.c: port_flash.c over a partition in memory that is encrypted as a chip does it: what is
 * written is XORed with a key stream of its place, what is read is XORed back, erased or not.
 *
 *   flash plain|encrypted -> "ok", or what differs
 */
#include <stdio.h>
#include <string.h>

#include "esp_ota_ops.h"
#include "esp_partition.h"
#include "port.h"

static uint8_t raw[0x8000];
static esp_partition_t meta = {.size = sizeof raw, .label = "fc_meta"};

static uint8_t key(size_t at) {
    return (uint8_t)(0x5Bu + 37u * at + (at >> 5) * 11u);
}

static uint8_t mask(size_t at) {
    return meta.encrypted ? key(at) : 0;
}

const esp_partition_t *esp_partition_find_first(esp_partition_type_t type,
                                                esp_partition_subtype_t subtype,
                                                const char *label) {
    (void)type;
    (void)subtype;
    return strcmp(label, meta.label) == 0 ? &meta : NULL;
}

const esp_partition_t *esp_ota_get_next_update_partition(const esp_partition_t *from) {
    (void)from;
    return NULL;
}

esp_err_t esp_partition_read(const esp_partition_t *p, size_t off, void *dst, size_t n) {
    (void)p;
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)dst)[i] = raw[off + i] ^ mask(off + i);
    return ESP_OK;
}

esp_err_t esp_partition_read_raw(const esp_partition_t *p, size_t off, void *dst, size_t n) {
    (void)p;
    memcpy(dst, raw + off, n);
    return ESP_OK;
}

esp_err_t esp_partition_write(const esp_partition_t *p, size_t off, const void *src, size_t n) {
    (void)p;
    for (size_t i = 0; i < n; i++)
        raw[off + i] &= ((const uint8_t *)src)[i] ^ mask(off + i);
    return ESP_OK;
}

esp_err_t esp_partition_erase_range(const esp_partition_t *p, size_t off, size_t n) {
    (void)p;
    memset(raw + off, 0xFF, n);
    return ESP_OK;
}

esp_err_t esp_partition_mmap(const esp_partition_t *p, size_t off, size_t n,
                             esp_partition_mmap_flag_t flags, const void **out,
                             esp_partition_mmap_handle_t *handle) {
    (void)p, (void)off, (void)n, (void)flags, (void)out, (void)handle;
    return ESP_FAIL;
}

void esp_partition_munmap(esp_partition_mmap_handle_t handle) {
    (void)handle;
}

static int is_all(const uint8_t *p, size_t n, uint8_t value) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != value)
            return 0;
    return 1;
}

int main(int argc, char **argv) {
    struct fc_hal hal;
    uint8_t record[512], back[FC_SECTOR];
    meta.encrypted = argc > 1 && strcmp(argv[1], "encrypted") == 0;
    memset(record, 0x46, sizeof record);
    if (port_flash_open(&hal) || hal.erase(hal.ctx, FC_META, 0))
        return 2;
    if (hal.read(hal.ctx, FC_META, 0, back, sizeof back) || !is_all(back, sizeof back, 0xFF))
        return puts("an erased sector does not read as erased"), 1;
    if (hal.program(hal.ctx, FC_META, 512, record, sizeof record) ||
        hal.read(hal.ctx, FC_META, 512, back, 512) || memcmp(back, record, 512) != 0)
        return puts("a record does not read as it was written"), 1;
    if (hal.read(hal.ctx, FC_META, 0, back, sizeof back) || !is_all(back, 512, 0xFF) ||
        memcmp(back + 512, record, 512) != 0 || !is_all(back + 1024, sizeof back - 1024, 0xFF))
        return puts("a sector with one record reads otherwise"), 1;
    memset(record, 0xFF, sizeof record);
    if (hal.erase(hal.ctx, FC_META, 0) || hal.program(hal.ctx, FC_META, 0, record, 512) ||
        hal.read(hal.ctx, FC_META, 0, back, 512) || memcmp(back, record, 512) != 0)
        return puts("written 0xFF reads otherwise"), 1;
    puts("ok");
    return 0;
}
