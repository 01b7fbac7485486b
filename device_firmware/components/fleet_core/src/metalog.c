/* metalog.c: the log of records and the two kinds of stored documents (SPEC.md section 8).
 *
 * A record is everything that survives, in 512 bytes with a CRC: one record is one transaction. Two
 * sectors of eight; the sector that holds the newest record is never erased, so a cut anywhere
 * leaves the old record or the new one. A document goes to the sector that the record does not
 * name and becomes current only by the next record, which carries its digest.
 */
#include "crc32.h"
#include "internal.h"

#define RECORD 512u
#define PER_SECTOR (FC_SECTOR / RECORD)
#define NAMES_AT 80u
#define SLOTS_AT 272u
#define CRC_AT 508u
#define DOC_AT(doc) ((2u + 2u * (uint32_t)(doc)) * FC_SECTOR)

_Static_assert(NAMES_AT + FC_NAMES * 24u == SLOTS_AT, "names end where slots begin");
_Static_assert(SLOTS_AT + FC_SLOTS * 56u + 12u == CRC_AT, "slots, 12 zero, CRC");

static const uint8_t MAGIC[8] = {'F', 'C', 'R', '1', 1, 0, 0, 2}; /* format 1, length 512 */

static void encode_slot(uint8_t *p, const struct fc_rec_slot *s) {
    p[0] = s->phase;
    p[1] = s->run_bank;
    p[2] = s->flags;
    p[3] = s->attempts;
    p[4] = s->cuts;
    p[5] = s->fail_code;
    fc_put16(p + 6, s->fail_detail);
    memcpy(p + 8, s->run_id, 16);
    memcpy(p + 24, s->other_id, 16);
    memcpy(p + 40, s->failed_id, 8);
    fc_put32(p + 48, s->failed_attempt);
    fc_put32(p + 52, s->panics);
}

static void decode_slot(const uint8_t *p, struct fc_rec_slot *s) {
    s->phase = p[0];
    s->run_bank = p[1];
    s->flags = p[2];
    s->attempts = p[3];
    s->cuts = p[4];
    s->fail_code = p[5];
    s->fail_detail = fc_get16(p + 6);
    memcpy(s->run_id, p + 8, 16);
    memcpy(s->other_id, p + 24, 16);
    memcpy(s->failed_id, p + 40, 8);
    s->failed_attempt = fc_get32(p + 48);
    s->panics = fc_get32(p + 52);
}

static void encode(uint8_t p[RECORD], const struct fc_record *r) {
    memset(p, 0, RECORD);
    memcpy(p, MAGIC, sizeof MAGIC);
    fc_put64(p + 8, r->number);
    fc_put64(p + 16, r->desired_counter);
    memcpy(p + 24, r->desired_digest, 8);
    fc_put32(p + 32, r->trust_version);
    p[36] = r->trust_sector;
    p[37] = r->desired_sector;
    memcpy(p + 40, r->trust_digest, 8);
    fc_put64(p + 48, r->cmd_counter);
    fc_put64(p + 56, r->time_floor);
    fc_put32(p + 64, r->panics);
    for (uint32_t i = 0; i < FC_NAMES; i++) {
        uint8_t *q = p + NAMES_AT + 24 * i;
        memcpy(q, r->names[i].hash, 8);
        memcpy(q + 8, r->names[i].id, 8);
        fc_put32(q + 16, r->names[i].seq);
        fc_put32(q + 20, r->names[i].floor);
    }
    for (uint32_t i = 0; i < FC_SLOTS; i++)
        encode_slot(p + SLOTS_AT + 56 * i, &r->slots[i]);
    fc_put32(p + CRC_AT, fc_crc32(p, CRC_AT));
}

/* Takes a record that is whole and whose enums are ones we wrote. 1 = taken. */
static int decode(const uint8_t p[RECORD], struct fc_record *r) {
    if (memcmp(p, MAGIC, sizeof MAGIC) != 0 || fc_get32(p + CRC_AT) != fc_crc32(p, CRC_AT))
        return 0;
    memset(r, 0, sizeof *r);
    r->number = fc_get64(p + 8);
    r->desired_counter = fc_get64(p + 16);
    memcpy(r->desired_digest, p + 24, 8);
    r->trust_version = fc_get32(p + 32);
    r->trust_sector = p[36] & 1u;
    r->desired_sector = p[37] & 1u;
    memcpy(r->trust_digest, p + 40, 8);
    r->cmd_counter = fc_get64(p + 48);
    r->time_floor = fc_get64(p + 56);
    r->panics = fc_get32(p + 64);
    for (uint32_t i = 0; i < FC_NAMES; i++) {
        const uint8_t *q = p + NAMES_AT + 24 * i;
        memcpy(r->names[i].hash, q, 8);
        memcpy(r->names[i].id, q + 8, 8);
        r->names[i].seq = fc_get32(q + 16);
        r->names[i].floor = fc_get32(q + 20);
    }
    for (uint32_t i = 0; i < FC_SLOTS; i++) {
        decode_slot(p + SLOTS_AT + 56 * i, &r->slots[i]);
        if (r->slots[i].phase > FC_PH_PROBATION ||
            (r->slots[i].run_bank > 1 && r->slots[i].run_bank != FC_NO_BANK))
            return 0;
    }
    return 1;
}

static int read_at(struct fc_core *core, uint32_t sector, uint32_t index) {
    return core->hal->read(core->hal->ctx, FC_META, sector * FC_SECTOR + index * RECORD,
                           core->scratch, RECORD);
}

static int is_blank(const uint8_t *p) {
    for (uint32_t i = 0; i < RECORD; i++)
        if (p[i] != 0xFF)
            return 0;
    return 1;
}

int fc_log_open(struct fc_core *core) {
    int found = 0;
    memset(&core->rec, 0, sizeof core->rec);
    for (uint32_t i = 0; i < FC_SLOTS; i++)
        core->rec.slots[i].run_bank = FC_NO_BANK;
    /* With no record at all both sectors are free; `next` 8 makes the first commit erase one. */
    core->log = (struct fc_log_pos){1, 1, PER_SECTOR};
    for (uint32_t sector = 0; sector < 2; sector++) {
        for (uint32_t i = 0; i < PER_SECTOR; i++) {
            if (read_at(core, sector, i))
                return FC_ERR_FLASH_IO;
            if (!decode(core->scratch, &core->next))
                continue;
            if (found && core->next.number <= core->rec.number)
                continue;
            found = 1;
            core->rec = core->next;
            core->log = (struct fc_log_pos){(uint8_t)sector, (uint8_t)sector, (uint8_t)(i + 1)};
        }
    }
    return FC_OK;
}

struct fc_record *fc_log_edit(struct fc_core *core) {
    core->next = core->rec;
    return &core->next;
}

/* Writes core->next at a position. The read-back makes a stuck bit look like a torn record. */
static int write_at(struct fc_core *core, uint32_t sector, uint32_t index) {
    const struct fc_hal *hal = core->hal;
    uint8_t *p = core->scratch, *back = core->scratch + RECORD;
    uint32_t off = sector * FC_SECTOR + index * RECORD;
    encode(p, &core->next);
    if (hal->program(hal->ctx, FC_META, off, p, RECORD))
        return FC_ERR_FLASH_IO;
    if (hal->read(hal->ctx, FC_META, off, back, RECORD) || memcmp(p, back, RECORD) != 0)
        return FC_ERR_FLASH_IO;
    return FC_OK;
}

int fc_log_commit(struct fc_core *core) {
    const struct fc_hal *hal = core->hal;
    struct fc_log_pos *pos = &core->log;
    core->next.number = core->rec.number + 1;
    for (uint32_t tries = 0; tries < 2 * PER_SECTOR; tries++) {
        if (pos->next >= PER_SECTOR) {
            /* Row 13: only the sector without the newest record is erased. */
            pos->sector = (uint8_t)(1u - pos->newest);
            if (hal->erase(hal->ctx, FC_META, pos->sector * FC_SECTOR)) {
                fc_log(core, 2, FC_LOG_FLASH, FC_META, pos->sector);
                return FC_ERR_FLASH_IO;
            }
            pos->next = 0;
        }
        uint32_t index = pos->next++;
        if (read_at(core, pos->sector, index))
            return FC_ERR_FLASH_IO;
        if (!is_blank(core->scratch))
            continue; /* torn by a cut */
        if (write_at(core, pos->sector, index) == FC_OK) {
            pos->newest = pos->sector;
            core->rec = core->next;
            fc_log(core, 0, FC_LOG_RECORD, (uint32_t)core->rec.number, 0);
            fc_report_want(core, 2);
            return FC_OK;
        }
        fc_log(core, 2, FC_LOG_FLASH, FC_META, pos->sector);
    }
    return FC_ERR_FLASH_IO;
}

/* The caller's next record names the sector; until then the old document stays in force. */
int fc_doc_store(struct fc_core *core, enum fc_doc doc, const uint8_t *p, size_t n,
                 uint8_t *sector) {
    uint8_t used = doc == FC_DOC_TRUST ? core->rec.trust_sector : core->rec.desired_sector;
    uint32_t off;
    if (n > FC_MSG_MAX)
        return FC_ERR_TOO_LARGE;
    *sector = (uint8_t)(1u - used);
    off = DOC_AT(doc) + *sector * FC_SECTOR;
    fc_put32(core->msg, (uint32_t)n);
    memcpy(core->msg + 4, p, n);
    return fc_sector_write(core, FC_META, off, core->msg, n + 4);
}

uint32_t fc_doc_load(struct fc_core *core, enum fc_doc doc) {
    const struct fc_hal *hal = core->hal;
    int is_trust = doc == FC_DOC_TRUST;
    uint8_t sector = is_trust ? core->rec.trust_sector : core->rec.desired_sector;
    const uint8_t *wanted = is_trust ? core->rec.trust_digest : core->rec.desired_digest;
    uint32_t off = DOC_AT(doc) + sector * FC_SECTOR;
    uint8_t raw[4], digest[32];
    if (hal->read(hal->ctx, FC_META, off, raw, 4))
        return 0;
    uint32_t n = fc_get32(raw);
    if (n == 0 || n > FC_MSG_MAX || hal->read(hal->ctx, FC_META, off + 4, core->msg, n))
        return 0;
    fc_sha256(hal, core->msg, n, digest);
    return memcmp(digest, wanted, 8) == 0 ? n : 0;
}
