/* bank.c: a slot's two banks: manifest, leaf list, chunks (SPEC.md section 8). */
#include "internal.h"

uint8_t fc_bank_area(uint8_t slot, uint8_t bank) {
    return (uint8_t)(FC_BANK0 + 2u * slot + (bank & 1u));
}

uint8_t fc_bank_idle(const struct fc_core *core, uint8_t slot) {
    uint8_t run = core->rec.slots[slot].run_bank;
    return run == FC_NO_BANK ? 0 : (uint8_t)(1u - run);
}

/* 1 erase, 2 program whole units, 3 the padded rest, 4 read back. A cut in between leaves a sector
 * that fails its digest or leaf, and is written again. */
int fc_sector_write(struct fc_core *core, uint8_t area, uint32_t off, const uint8_t *p, size_t n) {
    const struct fc_hal *hal = core->hal;
    uint8_t piece[256];
    uint32_t whole = (uint32_t)n / FC_PROGRAM_UNIT * FC_PROGRAM_UNIT;
    int rc = FC_ERR_FLASH_IO;

    if (n > FC_SECTOR || hal->erase(hal->ctx, area, off))
        goto out;
    if (whole && hal->program(hal->ctx, area, off, p, whole))
        goto out;
    if (n > whole) {
        memset(piece, 0xFF, FC_PROGRAM_UNIT);
        memcpy(piece, p + whole, n - whole);
        if (hal->program(hal->ctx, area, off + whole, piece, FC_PROGRAM_UNIT))
            goto out;
    }
    for (uint32_t at = 0; at < n; at += (uint32_t)sizeof piece) {
        uint32_t part = (uint32_t)n - at < sizeof piece ? (uint32_t)n - at : sizeof piece;
        if (hal->read(hal->ctx, area, off + at, piece, part) || memcmp(piece, p + at, part) != 0)
            goto out;
    }
    rc = FC_OK;
out:
    if (rc)
        fc_log(core, 2, FC_LOG_FLASH, area, off / FC_SECTOR);
    return rc;
}

uint32_t fc_bank_manifest(struct fc_core *core, uint8_t slot, uint8_t bank) {
    const struct fc_hal *hal = core->hal;
    uint8_t area = fc_bank_area(slot, bank), raw[4];
    if (hal->capacity(hal->ctx, area) < FC_SECTOR || hal->read(hal->ctx, area, 0, raw, 4))
        return 0;
    uint32_t n = fc_get32(raw);
    if (n == 0 || n > FC_MSG_MAX || hal->read(hal->ctx, area, 4, core->msg, n))
        return 0;
    return n;
}

int fc_bank_put_manifest(struct fc_core *core, uint8_t slot, uint8_t bank, const uint8_t *p,
                         size_t n) {
    if (n > FC_MSG_MAX)
        return FC_ERR_TOO_LARGE;
    if (p != core->msg + 4)
        memmove(core->msg + 4, p, n);
    fc_put32(core->msg, (uint32_t)n);
    return fc_sector_write(core, fc_bank_area(slot, bank), 0, core->msg, n + 4);
}

uint32_t fc_leaf_sectors(const struct fc_manifest *m) {
    return m->chunks <= FC_SECTOR / 8u ? 1u : 2u;
}

/* index < chunks <= 1023: the product stays below 2^23. */
uint32_t fc_chunk_off(const struct fc_manifest *m, uint32_t index) {
    return (1u + fc_leaf_sectors(m) + index) * FC_SECTOR;
}

uint32_t fc_chunk_len(const struct fc_manifest *m, uint32_t index) {
    uint32_t at = index < m->model_chunks ? index : index - m->model_chunks;
    uint32_t size = index < m->model_chunks ? m->size : m->blob_size;
    uint32_t left = size - at * FC_SECTOR;
    return left < FC_SECTOR ? left : FC_SECTOR;
}

int fc_bank_put_leaves(struct fc_core *core, uint8_t slot, uint8_t bank,
                       const struct fc_manifest *m, const uint8_t *p, size_t n) {
    uint8_t digest[32];
    if (n != 8u * (size_t)m->chunks)
        return FC_ERR_LEAF_LIST;
    fc_sha256(core->hal, p, n, digest);
    if (memcmp(digest, m->leaves_sha256, 32) != 0)
        return FC_ERR_LEAF_LIST;
    for (uint32_t at = 0; at < n; at += FC_SECTOR) {
        size_t part = n - at < FC_SECTOR ? n - at : FC_SECTOR;
        if (fc_sector_write(core, fc_bank_area(slot, bank), FC_SECTOR + at, p + at, part))
            return FC_ERR_FLASH_IO;
    }
    return FC_OK;
}

/* Hashes a stretch of flash in small pieces. */
static int hash_flash(struct fc_core *core, uint8_t area, uint32_t off, uint32_t n,
                      struct fc_digest *d) {
    uint8_t piece[256];
    for (uint32_t at = 0; at < n; at += (uint32_t)sizeof piece) {
        uint32_t part = n - at < sizeof piece ? n - at : (uint32_t)sizeof piece;
        if (core->hal->read(core->hal->ctx, area, off + at, piece, part))
            return FC_ERR_FLASH_IO;
        core->hal->digest_add(d, piece, part);
    }
    return FC_OK;
}

int fc_bank_leaves_check(struct fc_core *core, uint8_t slot, uint8_t bank,
                         const struct fc_manifest *m) {
    struct fc_digest d;
    uint8_t digest[32];
    core->hal->digest_begin(&d);
    if (hash_flash(core, fc_bank_area(slot, bank), FC_SECTOR, 8u * m->chunks, &d))
        return FC_ERR_FLASH_IO;
    core->hal->digest_end(&d, digest);
    return memcmp(digest, m->leaves_sha256, 32) == 0 ? FC_OK : FC_ERR_LEAF_LIST;
}

/* Leaf i = SHA-256(0x00, u32be(i), chunk)[0:8] */
static void leaf_begin(struct fc_core *core, uint32_t index, struct fc_digest *d) {
    uint8_t prefix[5] = {0};
    fc_put32be(prefix + 1, index);
    core->hal->digest_begin(d);
    core->hal->digest_add(d, prefix, sizeof prefix);
}

static int leaf_fits(struct fc_core *core, uint8_t area, uint32_t index, struct fc_digest *d) {
    uint8_t digest[32], leaf[8];
    core->hal->digest_end(d, digest);
    if (core->hal->read(core->hal->ctx, area, FC_SECTOR + 8u * index, leaf, 8))
        return FC_ERR_FLASH_IO;
    return memcmp(digest, leaf, 8) == 0;
}

/* `index` comes from the topic and `n` from the packet: an attacker picks both. Neither reaches
 * flash before it was compared with the signed manifest, whose chunk count is bounded at parse. */
int fc_bank_put_chunk(struct fc_core *core, uint8_t slot, uint8_t bank, const struct fc_manifest *m,
                      uint32_t index, const uint8_t *p, size_t n) {
    uint8_t area = fc_bank_area(slot, bank);
    struct fc_digest d;
    if (index >= m->chunks || n != fc_chunk_len(m, index))
        return FC_ERR_DROP;
    leaf_begin(core, index, &d);
    core->hal->digest_add(&d, p, n);
    int fits = leaf_fits(core, area, index, &d);
    if (fits <= 0)
        return fits < 0 ? fits : FC_ERR_DROP;
    return fc_sector_write(core, area, fc_chunk_off(m, index), p, n);
}

int fc_bank_has_chunk(struct fc_core *core, uint8_t slot, uint8_t bank, const struct fc_manifest *m,
                      uint32_t index) {
    uint8_t area = fc_bank_area(slot, bank);
    struct fc_digest d;
    leaf_begin(core, index, &d);
    if (hash_flash(core, area, fc_chunk_off(m, index), fc_chunk_len(m, index), &d))
        return FC_ERR_FLASH_IO;
    return leaf_fits(core, area, index, &d);
}
