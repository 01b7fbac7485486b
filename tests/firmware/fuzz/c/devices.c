/* devices.c: whole devices under hostile bytes.
 *
 * `message` and `signed` start from a device in the middle of a download, or with a model and an
 * offer; their port also accepts signatures that begin with FUZZ_SIGNATURE, so that the fuzzer gets
 * behind the envelopes. `leaves` feeds leaf lists and chunks of manifests it invents. `boot` edits
 * flash and starts: its port checks signatures for real, and whatever the flash says, the engine
 * may be given nothing but the signed bytes of a staged model (bench.c ends the process otherwise).
 */
#include <stdlib.h>
#include <string.h>

#include "crc32.h"
#include "targets.h"

#define IMAGES 5u

static uint8_t *image[IMAGES]; /* flash: blank, with A, with A and B, fetching B, B in its trial */
static struct fc_core during;  /* a core that fetches B */
static struct fc_app during_app[FC_SLOTS];
static int (*real_verify)(const uint8_t[64], const void *, size_t, const uint8_t[32]);

#define B (&fuzz_bench)

int fuzz_verify(const uint8_t sig[64], const void *msg, size_t n, const uint8_t key[32]) {
    if (memcmp(sig, FUZZ_SIGNATURE, 4) == 0)
        return FC_OK;
    return real_verify(sig, msg, n, key);
}

static void keep_image(uint32_t i) {
    image[i] = malloc(B->h->nor.size);
    if (!image[i])
        fail("no memory", i, 0);
    memcpy(image[i], B->h->nor.base, B->h->nor.size);
}

static void hide_chunks_of_b(uint8_t shown) {
    for (uint32_t i = 0; i < B->n_items; i++)
        if (B->item[i].kind == 4)
            B->shown[i] = shown;
}

/* Kinds: 1 trust, manifests, leaf lists and A's chunks, 2 run A, 3 run B, 4 B's chunks. */
void fuzz_devices_open(void) {
    real_verify = B->h->hal.verify;
    fh_random_seed(B->h, 1);
    keep_image(0);
    bench_boot(B, FC_RST_POWER);
    bench_link(B, 1);
    bench_drive(B, 20);
    bench_show(B, 2);
    bench_drive(B, 400);
    keep_image(1);
    bench_show(B, 3);
    bench_drive(B, 20);
    keep_image(3);
    if (B->h->core.job.stage != FC_JOB_CHUNKS)
        fail("the device does not fetch B", B->h->core.job.stage, 0);
    during = B->h->core;
    memcpy(during_app, B->h->app, sizeof during_app);
    hide_chunks_of_b(1);
    for (uint32_t i = 0; i < 400 && B->h->core.rec.slots[0].phase != FC_PH_TRIAL; i++)
        bench_drive(B, 1);
    if (B->h->core.rec.slots[0].phase != FC_PH_TRIAL)
        fail("B does not come to its trial", B->h->core.rec.slots[0].phase, 0);
    keep_image(4);
    bench_drive(B, 400);
    if (B->loaded != 'B')
        fail("B does not run", (long)B->loaded, 0);
    keep_image(2);
    hide_chunks_of_b(0);
}

static void set_flash(uint32_t i) {
    memcpy(B->h->nor.base, image[i], B->h->nor.size);
}

/* A device that runs A and fetches B, without its link's past. */
static void rewind_to_fetch(void) {
    set_flash(3);
    B->h->core = during;
    memcpy(B->h->app, during_app, sizeof during_app);
    B->h->hal.verify = fuzz_verify;
    B->inbox_n = B->n_tokens = 0;
    B->want_link = 0;
    B->loaded = 'A';
    fh_random_seed(B->h, 1);
}

static void check_running(void) {
    struct fh_model m;
    struct fh_slot_state s;
    fh_slot(B->h, 0, &s);
    if (s.phase > FC_PH_PROBATION || s.state > FC_ST_DEFERRED)
        fail("a phase or state that is none", s.phase, s.state);
    if (fh_running(B->h, 0, &m) && B->loaded > 255)
        fail("a model is said to run and none is loaded", B->loaded, 0);
}

/* Topics by number: those of the scenario, then any text. */
void fuzz_message(const uint8_t *p, size_t n) {
    struct fuzz_in in = {p, p + n};
    rewind_to_fetch();
    for (uint32_t k = 0; k < 16 && in.p < in.end; k++) {
        char topic[96] = {0};
        size_t got = 0;
        uint32_t which = fuzz_take(&in, 1);
        if (which < B->n_items) {
            memcpy(topic, B->item[which].topic, sizeof topic);
        } else {
            const uint8_t *text = fuzz_take_bytes(&in, which % 90u, &got);
            memcpy(topic, text, got);
        }
        if (which == 254) { /* the connection breaks and comes back */
            bench_link(B, 0);
            bench_link(B, 1);
        }
        const uint8_t *payload = fuzz_take_bytes(&in, fuzz_take(&in, 2) % 8300u, &got);
        uint8_t *exact = malloc(got ? got : 1);
        if (!exact)
            return;
        if (got)
            memcpy(exact, payload, got);
        fh_message(B->h, topic, exact, got);
        free(exact);
        bench_drive(B, 3);
    }
    bench_drive(B, 30);
    check_running();
}

static const uint8_t *kid_of(enum fc_role role, int i) {
    static uint8_t digest[32];
    fc_sha256(&B->h->hal, B->h->core.trust.role[role].key[i], 32, digest);
    return digest;
}

/* A payload in a good envelope of its kind, signed for by the lenient port. */
static size_t wrap(enum fc_kind kind, const uint8_t *p, size_t n, uint8_t *to, size_t cap) {
    static const char *const names[] = {"manifest", "trust", "desired", "cmd"};
    static const uint8_t sig[64] = FUZZ_SIGNATURE;
    uint8_t header[96];
    char type[64] = "application/vnd.tinyfleet.";
    int is_sign = kind == FC_K_MANIFEST || kind == FC_K_TRUST;
    strcat(strcat(type, names[kind]), "+cbor");
    struct fc_out h = fc_out_to(header, sizeof header), out = fc_out_to(to, cap);
    fc_out_map(&h, is_sign ? 1 : 3);
    if (!is_sign) {
        fc_out_uint(&h, 1);
        fc_out_int(&h, -8);
    }
    fc_out_uint(&h, 3);
    fc_out_text(&h, type);
    if (!is_sign) {
        fc_out_uint(&h, 4);
        fc_out_bytes(&h, kid_of(FC_ONLINE, 0), 8);
    }
    fc_out_head(&out, FC_TAG, is_sign ? 98 : 18);
    fc_out_array(&out, 4);
    fc_out_bytes(&out, header, h.n);
    fc_out_map(&out, 0);
    fc_out_bytes(&out, p, n);
    if (!is_sign) {
        fc_out_bytes(&out, sig, 64);
        return out.err ? 0 : out.n;
    }
    fc_out_array(&out, 2); /* two signers: enough for every threshold of the scenario */
    for (int i = 0; i < 2; i++) {
        uint8_t signer[32];
        struct fc_out s = fc_out_to(signer, sizeof signer);
        fc_out_map(&s, 2);
        fc_out_uint(&s, 1);
        fc_out_int(&s, -8);
        fc_out_uint(&s, 4);
        fc_out_bytes(&s, kid_of(kind == FC_K_TRUST ? FC_ROOT : FC_RELEASE, i), 8);
        fc_out_array(&out, 3);
        fc_out_bytes(&out, signer, s.n);
        fc_out_map(&out, 0);
        fc_out_bytes(&out, sig, 64);
    }
    return out.err ? 0 : out.n;
}

/* Documents that pass every signature: what a thief of all keys could send. */
void fuzz_signed(const uint8_t *p, size_t n) {
    struct fuzz_in in = {p, p + n};
    uint8_t message[FC_MSG_MAX + 256];
    rewind_to_fetch();
    for (uint32_t k = 0; k < 6 && in.p < in.end; k++) {
        size_t got = 0;
        enum fc_kind kind = (enum fc_kind)(fuzz_take(&in, 1) % 4u);
        const uint8_t *payload = fuzz_take_bytes(&in, fuzz_take(&in, 2) % 2000u, &got);
        size_t size = wrap(kind, payload, got, message, sizeof message);
        char topic[96] = "f1/trust";
        struct fh_model m;
        uint32_t detail = 0;
        if (kind == FC_K_DESIRED)
            fc_topic_own(&B->h->core, topic, "desired");
        if (kind == FC_K_CMD)
            fc_topic_own(&B->h->core, topic, "cmd");
        if (kind == FC_K_MANIFEST)
            fh_check_manifest(B->h, 0, message, size, &m, &detail);
        else
            fh_message(B->h, topic, message, size);
        bench_drive(B, 4);
    }
    bench_drive(B, 40);
    check_running();
    bench_boot(B, FC_RST_POWER); /* what was stored is read again */
    bench_drive(B, 20);
    check_running();
}

/* Chunks and leaf lists of a manifest with invented numbers land in their own sectors or nowhere.
 */
void fuzz_leaves(const uint8_t *p, size_t n) {
    struct fuzz_in in = {p, p + n};
    struct fc_manifest m = {0};
    struct fc_job *job = &B->h->core.job;
    size_t got = 0;
    uint32_t sectors = B->h->nor.capacity[FC_BANK0] / FC_SECTOR;
    rewind_to_fetch();
    m.size = 1 + fuzz_take(&in, 2) % ((sectors - 2) * FC_SECTOR);
    m.model_chunks = (m.size + FC_SECTOR - 1) / FC_SECTOR;
    uint32_t room = sectors - 2 - m.model_chunks;
    m.blob_size = room ? fuzz_take(&in, 2) % (room * FC_SECTOR + 1) : 0;
    m.chunks = m.model_chunks + (m.blob_size + FC_SECTOR - 1) / FC_SECTOR;
    uint32_t listed = fuzz_take(&in, 1);
    const uint8_t *list = fuzz_take_bytes(&in, listed, &got);
    fc_sha256(&B->h->hal, list, got, m.leaves_sha256);
    job->slot = 0;
    job->bank = 1;
    job->m = m;
    int rc = fc_bank_put_leaves(&B->h->core, list, got);
    if ((rc == FC_OK) != (got == 8u * (size_t)m.chunks))
        fail("a leaf list of another length is taken, or a good one is not", rc, (long)got);
    for (uint32_t k = 0; k < 4 && in.p < in.end; k++) {
        uint32_t index = fuzz_take(&in, 2);
        const uint8_t *chunk = fuzz_take_bytes(&in, fuzz_take(&in, 2), &got);
        rc = fc_bank_put_chunk(&B->h->core, index, chunk, got);
        if (rc == FC_OK && (index >= m.chunks || got != fc_chunk_len(&m, index)))
            fail("a chunk outside the model is stored", (long)index, (long)got);
        if (rc == FC_OK && fc_bank_has_chunk(&B->h->core, index) != 1)
            fail("a stored chunk is not there", (long)index, 0);
    }
    uint64_t at = B->h->nor.at[FC_BANK0 + 1], size = B->h->nor.capacity[FC_BANK0 + 1];
    const uint8_t *base = B->h->nor.base;
    if (memcmp(base, image[3], at) != 0 || memcmp(base + at, image[3] + at, FC_SECTOR) != 0 ||
        memcmp(base + at + size, image[3] + at + size,
               (size_t)(B->h->nor.programmed - base) - at - size) != 0)
        fail("a sector outside the bank's leaves and chunks was written", 0, 0);
}

/* --- flash that says anything ----------------------------------------------------------- */

static void fix_record(uint8_t *record) {
    static const uint8_t magic[8] = {'F', 'C', 'R', '1', 1, 0, 0, 2};
    memcpy(record, magic, sizeof magic);
    fc_put32(record + 508, fc_crc32(record, 508));
}

/* The record's digest of a stored document becomes that of whatever lies there. */
static void fix_document(uint8_t *meta, uint8_t *record, int is_trust) {
    uint8_t digest[32], *sector = meta + (is_trust ? 2 : 4) * FC_SECTOR;
    sector += (record[is_trust ? 36 : 37] & 1u) * FC_SECTOR;
    uint32_t n = fc_get32(sector);
    if (n > FC_SECTOR - 4)
        return;
    fc_sha256(&B->h->hal, sector + 4, n, digest);
    memcpy(record + (is_trust ? 40 : 24), digest, 8);
    fix_record(record);
}

/* Edits of flash, each a number and its arguments. Records get a good CRC, so that their content is
 * looked at; documents get a good digest. What an attacker with a programmer could not do either is
 * a manifest that fits an id in the record: ids are digests. */
static void edit_flash(struct fuzz_in *in) {
    struct nor *nor = &B->h->nor;
    uint8_t *data = nor->base + 4096;
    uint32_t size = (uint32_t)(nor->programmed - data);
    for (uint32_t k = 0; k < 64 && in->p < in->end; k++) {
        uint32_t what = fuzz_take(in, 1);
        uint8_t *record = data + fuzz_take(in, 1) % 16u * 512u;
        uint32_t at = fuzz_take(in, 3);
        size_t got = 0;
        const uint8_t *bytes = fuzz_take_bytes(in, what / 8u, &got);
        switch (what % 8u) {
        case 0:
        case 1: /* anywhere */
            at %= size;
            memcpy(data + at, bytes, got < size - at ? got : size - at);
            break;
        case 2: /* META */
            at %= 8 * FC_SECTOR;
            memcpy(data + at, bytes, got);
            break;
        case 3: /* a field of a record */
            at %= 508;
            memcpy(record + at, bytes, got < 508 - at ? got : 508 - at);
            fix_record(record);
            break;
        case 4:
            memset(data + at % size / FC_SECTOR * FC_SECTOR, got ? bytes[0] : 0xFF, FC_SECTOR);
            break;
        case 5:
            memcpy(data + at % size / FC_SECTOR * FC_SECTOR,
                   data + (got ? bytes[0] : 0u) % (size / FC_SECTOR) * FC_SECTOR, FC_SECTOR);
            break;
        case 6:
            memcpy(record, data + at % 16u * 512u, 512);
            fc_put64(record + 8, fc_get64(record + 8) + 1);
            fix_record(record);
            break;
        default:
            fix_document(data, record, at & 1);
            break;
        }
    }
    for (uint32_t u = 0; u < size / FC_PROGRAM_UNIT; u++) { /* what is not blank was programmed */
        int is_blank = 1;
        for (uint32_t i = 0; i < FC_PROGRAM_UNIT; i++)
            is_blank &= data[u * FC_PROGRAM_UNIT + i] == 0xFF;
        uint8_t bit = (uint8_t)(1u << (u % 8));
        nor->programmed[u / 8] =
            (uint8_t)(is_blank ? nor->programmed[u / 8] & ~bit : nor->programmed[u / 8] | bit);
    }
}

void fuzz_boot(const uint8_t *p, size_t n) {
    struct fuzz_in in = {p, p + n};
    uint32_t how = fuzz_take(&in, 1);
    set_flash(how % IMAGES);
    B->h->hal.verify = real_verify;
    memset(B->h->keep, 0, 64);
    fh_random_seed(B->h, how);
    /* A wake from sleep trusts the banks without hashing them: their power was not off. */
    int reason = (int)(how / IMAGES % 5u);
    edit_flash(&in);
    for (uint32_t times = 0; times < 2; times++) {
        bench_boot(B, reason);
        bench_drive(B, 20);
        check_running();
        bench_link(B, 1);
        bench_drive(B, 60);
        check_running();
        reason = FC_RST_PANIC;
    }
}
