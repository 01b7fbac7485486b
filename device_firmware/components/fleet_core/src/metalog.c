/* metalog.c: the log of records and the two kinds of stored documents (SPEC.md section 8).
 *
 * A record is everything that survives, in 512 bytes with a CRC: one record is one transaction. Two
 * sectors of eight; the sector that holds the newest record is never erased, so a cut anywhere
 * leaves the old record or the new one. A document goes to the sector that the record does not
 * name and becomes current only by the next record, which carries its digest.
 *
 * struct fc_record lies in memory as in flash: every offset below is SPEC.md's. No byte of it comes
 * from a network, and a record is used only when its CRC fits and its enums are ones we write.
 */
#include "crc32.h"
#include "internal.h"

#define RECORD 512u
#define PER_SECTOR (FC_SECTOR / RECORD)
#define DOC_AT(doc) ((2u + 2u * (uint32_t)(doc)) * FC_SECTOR)
#define AT(field, offset)                                                                          \
    _Static_assert(offsetof(struct fc_record, field) == (offset), "SPEC.md section 8")
#define SLOT_AT(field, offset)                                                                     \
    _Static_assert(offsetof(struct fc_rec_slot, field) == (offset), "SPEC.md section 8")

_Static_assert(sizeof(struct fc_record) == RECORD && sizeof(struct fc_rec_name) == 24 &&
                   sizeof(struct fc_rec_slot) == 56,
               "a record without holes");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are little-endian");
AT(number, 8);
AT(desired_counter, 16);
AT(desired_digest, 24);
AT(trust_version, 32);
AT(trust_sector, 36);
AT(desired_sector, 37);
AT(trust_digest, 40);
AT(cmd_counter, 48);
AT(time_floor, 56);
AT(panics, 64);
AT(names, 80);
AT(slots, 272);
AT(no_links, 496);
AT(crc, 508);
SLOT_AT(run_bank, 1);
SLOT_AT(flags, 2);
SLOT_AT(attempts, 3);
SLOT_AT(cuts, 4);
SLOT_AT(fail_code, 5);
SLOT_AT(fail_detail, 6);
SLOT_AT(run_id, 8);
SLOT_AT(other_id, 24);
SLOT_AT(failed_id, 40);
SLOT_AT(failed_attempt, 48);
SLOT_AT(panics, 52);

static const uint8_t MAGIC[8] = {'F', 'C', 'R', '1', 1, 0, 0, 2}; /* format 1, length 512 */

static struct fc_record *next_of(struct fc_core *core) {
    return (struct fc_record *)(void *)core->work; /* aligned for it */
}

/* A record that is whole and whose enums are ones we wrote. */
static int is_record(struct fc_record *r) {
    if (memcmp(r->magic, MAGIC, sizeof MAGIC) != 0 || r->crc != fc_crc32(r, RECORD - 4))
        return 0;
    r->trust_sector &= 1u;
    r->desired_sector &= 1u;
    for (uint32_t i = 0; i < FC_SLOTS_MAX; i++) {
        const struct fc_rec_slot *s = &r->slots[i];
        if (s->phase > FC_PH_PROBATION || (s->run_bank > 1 && s->run_bank != FC_NO_BANK))
            return 0;
    }
    return 1;
}

static int read_at(struct fc_core *core, uint32_t sector, uint32_t index, void *to) {
    return core->hal->read(core->hal->ctx, FC_META, sector * FC_SECTOR + index * RECORD, to,
                           RECORD);
}

int fc_log_open(struct fc_core *core) {
    struct fc_record *r = next_of(core);
    int found = 0;
    memset(&core->rec, 0, sizeof core->rec);
    memcpy(core->rec.magic, MAGIC, sizeof MAGIC);
    for (uint32_t i = 0; i < FC_SLOTS_MAX; i++)
        core->rec.slots[i].run_bank = FC_NO_BANK;
    /* With no record at all both sectors are free; `next` 8 makes the first commit erase one. */
    core->log = (struct fc_log_pos){1, 1, PER_SECTOR};
    for (uint32_t i = 0; i < 2 * PER_SECTOR; i++) {
        uint8_t sector = (uint8_t)(i / PER_SECTOR), at = (uint8_t)(i % PER_SECTOR);
        if (read_at(core, sector, at, r))
            return FC_ERR_FLASH_IO;
        if (!is_record(r) || (found && r->number <= core->rec.number))
            continue;
        found = 1;
        core->rec = *r;
        core->log = (struct fc_log_pos){sector, sector, (uint8_t)(at + 1)};
    }
    return FC_OK;
}

struct fc_record *fc_log_edit(struct fc_core *core) {
    struct fc_record *r = next_of(core);
    *r = core->rec;
    return r;
}

/* Writes the edited record at a position. The read-back makes a stuck bit look like a torn record.
 */
static int write_at(struct fc_core *core, uint32_t sector, uint32_t index) {
    const struct fc_hal *hal = core->hal;
    uint8_t *p = core->work, *back = p + RECORD;
    if (hal->program(hal->ctx, FC_META, sector * FC_SECTOR + index * RECORD, p, RECORD) ||
        read_at(core, sector, index, back) || memcmp(p, back, RECORD) != 0)
        return FC_ERR_FLASH_IO;
    return FC_OK;
}

static int is_blank(const uint8_t *p) {
    for (uint32_t i = 0; i < RECORD; i++)
        if (p[i] != 0xFF)
            return 0;
    return 1;
}

int fc_log_commit(struct fc_core *core) {
    const struct fc_hal *hal = core->hal;
    struct fc_log_pos *pos = &core->log;
    struct fc_record *r = next_of(core);
    r->number = core->rec.number + 1;
    r->crc = fc_crc32(r, RECORD - 4);
    for (uint32_t tries = 0; tries < 2 * PER_SECTOR; tries++) {
        if (pos->next >= PER_SECTOR) {
            /* Row 13: only the sector without the newest record is erased. */
            pos->sector = (uint8_t)(1u - pos->newest);
            if (hal->erase(hal->ctx, FC_META, pos->sector * FC_SECTOR))
                break;
            pos->next = 0;
        }
        uint32_t index = pos->next++;
        if (read_at(core, pos->sector, index, core->work + RECORD))
            return FC_ERR_FLASH_IO;
        if (!is_blank(core->work + RECORD))
            continue; /* torn by a cut */
        if (write_at(core, pos->sector, index) == FC_OK) {
            pos->newest = pos->sector;
            core->rec = *r;
            fc_log(core, 0, FC_LOG_RECORD, (uint32_t)r->number, 0);
            fc_report_want(core, 2);
            return FC_OK;
        }
        fc_log(core, 2, FC_LOG_FLASH, FC_META, pos->sector);
    }
    fc_log(core, 2, FC_LOG_FLASH, FC_META, pos->sector);
    return FC_ERR_FLASH_IO;
}

/* The caller's next record names the sector; until then the old document stays in force. */
int fc_doc_store(struct fc_core *core, enum fc_doc doc, const uint8_t *p, size_t n,
                 uint8_t *sector) {
    uint8_t used = doc == FC_DOC_TRUST ? core->rec.trust_sector : core->rec.desired_sector;
    if (n > FC_MSG_MAX)
        return FC_ERR_TOO_LARGE;
    *sector = (uint8_t)(1u - used);
    return fc_sector_write(core, FC_META, DOC_AT(doc) + *sector * FC_SECTOR, p, n, 4);
}

uint32_t fc_doc_load(struct fc_core *core, enum fc_doc doc) {
    int is_trust = doc == FC_DOC_TRUST;
    uint8_t sector = is_trust ? core->rec.trust_sector : core->rec.desired_sector;
    const uint8_t *wanted = is_trust ? core->rec.trust_digest : core->rec.desired_digest;
    return fc_message_read(core, FC_META, DOC_AT(doc) + sector * FC_SECTOR, wanted, 8);
}
