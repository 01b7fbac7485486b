/* bank.c: a slot's two banks: manifest, leaf list, chunks (SPEC.md section 8). */
#include "internal.h"

uint8_t fc_bank_area(uint32_t slot, uint8_t bank) {
    return (uint8_t)(FC_BANK0 + 2u * slot + (bank & 1u));
}

uint8_t fc_bank_idle(const struct fc_core *core, uint32_t slot) {
    uint8_t run = core->rec.slots[slot].run_bank;
    return run == FC_NO_BANK ? 0 : (uint8_t)(1u - run);
}

/* Programs `lead` bytes of length and p[0..n): whole units as they lie, a composed first and a
 * padded last one from the stack. n + lead <= FC_SECTOR, so no offset leaves the sector. */
static int program(struct fc_core *core, uint8_t area, uint32_t off, const uint8_t *p, uint32_t n,
                   uint32_t lead) {
    const struct fc_hal *hal = core->hal;
    uint8_t unit[FC_PROGRAM_UNIT];
    uint32_t part;
    for (uint32_t at = 0; at < n + lead; at += part) {
        uint32_t done = at ? at - lead : 0, skip = at ? 0 : lead;
        const uint8_t *from = p + done;
        part = (n - done) / FC_PROGRAM_UNIT * FC_PROGRAM_UNIT;
        if (skip || !part) {
            part = FC_PROGRAM_UNIT - skip;
            memset(unit, 0xFF, sizeof unit);
            fc_put32(unit, n);
            memset(unit + skip, 0xFF, 4 - skip);
            memcpy(unit + skip, from, n - done < part ? n - done : part);
            from = unit;
            part = FC_PROGRAM_UNIT;
        }
        if (hal->program(hal->ctx, area, off + at, from, part))
            return FC_ERR_FLASH_IO;
    }
    return FC_OK;
}

/* 1 erase, 2 program, 3 read back. A cut in between leaves a sector that fails its digest or leaf,
 * and is written again. */
int fc_sector_write(struct fc_core *core, uint8_t area, uint32_t off, const uint8_t *p, size_t n,
                    uint32_t lead) {
    const struct fc_hal *hal = core->hal;
    uint8_t back[64];
    uint32_t part;
    int rc = FC_ERR_FLASH_IO;

    if (n > FC_SECTOR - lead || hal->erase(hal->ctx, area, off) ||
        program(core, area, off, p, (uint32_t)n, lead))
        goto out;
    if (hal->read(hal->ctx, area, off, back, 4) || (lead && fc_get32(back) != n))
        goto out;
    for (uint32_t at = 0; at < n; at += part) {
        part = (uint32_t)n - at < sizeof back ? (uint32_t)n - at : (uint32_t)sizeof back;
        if (hal->read(hal->ctx, area, off + lead + at, back, part) ||
            memcmp(back, p + at, part) != 0)
            goto out;
    }
    rc = FC_OK;
out:
    if (rc)
        fc_log(core, 2, FC_LOG_FLASH, area, off / FC_SECTOR);
    return rc;
}

/* The length comes from flash, which a cut may have torn: it is bounded before it is read, and the
 * digest is compared with one that is signed or in the record. */
uint32_t fc_message_read(struct fc_core *core, uint8_t area, uint32_t off, const uint8_t *id,
                         size_t id_len) {
    const struct fc_hal *hal = core->hal;
    uint8_t raw[4];
    if (hal->capacity(hal->ctx, area) < off + FC_SECTOR || hal->read(hal->ctx, area, off, raw, 4))
        return 0;
    uint32_t n = fc_get32(raw);
    if (n == 0 || n > FC_MSG_MAX || hal->read(hal->ctx, area, off + 4, fc_msg(core), n))
        return 0;
    return fc_is_digest(hal, fc_msg(core), n, id, id_len) ? n : 0;
}

uint32_t fc_leaf_sectors(const struct fc_manifest *m) {
    return m->chunks <= FC_SECTOR / 8u ? 1u : 2u;
}

/* index < chunks <= 1023: the product stays below 2^23. */
uint32_t fc_chunk_off(const struct fc_manifest *m, uint32_t index) {
    return (1u + fc_leaf_sectors(m) + index) * FC_SECTOR;
}

uint32_t fc_chunk_len(const struct fc_manifest *m, uint32_t index) {
    uint32_t size = m->size;
    if (index >= m->model_chunks) {
        index -= m->model_chunks;
        size = m->blob_size;
    }
    size -= index * FC_SECTOR;
    return size < FC_SECTOR ? size : FC_SECTOR;
}

/* p[0..n) is the broker's: n is compared with the signed chunk count, the bytes with the signed
 * digest, before a sector is touched. chunks <= 1023, so 8 * chunks cannot wrap. */
int fc_bank_put_leaves(struct fc_core *core, const uint8_t *p, size_t n) {
    const struct fc_job *j = &core->job;
    if (n != 8u * (size_t)j->m.chunks || !fc_is_digest(core->hal, p, n, j->m.leaves_sha256, 32))
        return FC_ERR_LEAF_LIST;
    for (uint32_t at = 0; at < n; at += FC_SECTOR) {
        size_t part = n - at < FC_SECTOR ? n - at : FC_SECTOR;
        if (fc_sector_write(core, fc_job_area(core), FC_SECTOR + at, p + at, part, 0))
            return FC_ERR_FLASH_IO;
    }
    return FC_OK;
}

int fc_bank_hash(struct fc_core *core, uint32_t off, uint32_t n, struct fc_digest *d) {
    const struct fc_hal *hal = core->hal;
    const uint8_t *p = NULL;
    if (hal->map(hal->ctx, fc_job_area(core), off, n, &p))
        return FC_ERR_FLASH_IO;
    hal->digest_add(d, p, n);
    hal->unmap(hal->ctx, p);
    return FC_OK;
}

int fc_bank_leaves_check(struct fc_core *core) {
    struct fc_digest d;
    uint8_t digest[32];
    core->hal->digest_begin(&d);
    if (fc_bank_hash(core, FC_SECTOR, 8u * core->job.m.chunks, &d))
        return FC_ERR_FLASH_IO;
    core->hal->digest_end(&d, digest);
    return memcmp(digest, core->job.m.leaves_sha256, 32) == 0 ? FC_OK : FC_ERR_LEAF_LIST;
}

/* Leaf i = SHA-256(0x00, u32be(i), chunk)[0:8], of received bytes or, with p NULL, of flash. */
static int leaf_fits(struct fc_core *core, uint32_t index, const uint8_t *p, uint32_t n) {
    const struct fc_hal *hal = core->hal;
    struct fc_digest d;
    uint8_t digest[32], leaf[8] = {0};
    fc_put32be(leaf + 1, index);
    hal->digest_begin(&d);
    hal->digest_add(&d, leaf, 5);
    if (p)
        hal->digest_add(&d, p, n);
    else if (fc_bank_hash(core, fc_chunk_off(&core->job.m, index), n, &d))
        return FC_ERR_FLASH_IO;
    hal->digest_end(&d, digest);
    if (hal->read(hal->ctx, fc_job_area(core), FC_SECTOR + 8u * index, leaf, 8))
        return FC_ERR_FLASH_IO;
    return memcmp(digest, leaf, 8) == 0;
}

/* `index` comes from the topic and `n` from the packet: an attacker picks both. Neither reaches
 * flash before it was compared with the signed manifest, whose chunk count is bounded at parse. */
int fc_bank_put_chunk(struct fc_core *core, uint32_t index, const uint8_t *p, size_t n) {
    const struct fc_manifest *m = &core->job.m;
    if (index >= m->chunks || n != fc_chunk_len(m, index))
        return FC_ERR_DROP;
    int fits = leaf_fits(core, index, p, (uint32_t)n);
    if (fits <= 0)
        return fits < 0 ? fits : FC_ERR_DROP;
    return fc_sector_write(core, fc_job_area(core), fc_chunk_off(m, index), p, n, 0);
}

int fc_bank_has_chunk(struct fc_core *core, uint32_t index) {
    return leaf_fits(core, index, NULL, fc_chunk_len(&core->job.m, index));
}
