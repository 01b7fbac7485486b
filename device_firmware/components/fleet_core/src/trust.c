/* trust.c: the trust document: which keys may sign what (SPEC.md section 6).
 *
 * The payload is parsed before its own roots are known, so every byte is an attacker's: counts are
 * compared with the arrays here before an element is stored.
 */
#include <string.h>

#include "documents.h"

/* An array of keys. More than `most` is `trust`, not `schema`: the form is right. */
static uint8_t keys(struct fc_in *in, const struct fc_hal *hal, struct fc_key *out, uint32_t most,
                    int *insane) {
    uint32_t n = fc_in_array(in, 0, FC_ITEMS_MAX), size = 0;
    for (uint32_t i = 0; i < n && !in->err; i++) {
        const uint8_t *pk = fc_in_bytes(in, 32, 32, &size);
        if (!pk || i >= most)
            continue;
        uint8_t digest[32];
        memcpy(out[i].pk, pk, 32);
        fc_sha256(hal, pk, 32, digest);
        memcpy(out[i].kid, digest, 8);
    }
    if (n > most)
        *insane = 1;
    return (uint8_t)(n > most ? most : n);
}

static void revoked(struct fc_in *in, struct fc_trust *out, int *insane) {
    uint32_t n = fc_in_array(in, 0, FC_ITEMS_MAX), size = 0;
    for (uint32_t i = 0; i < n && !in->err; i++) {
        const uint8_t *kid = fc_in_bytes(in, 8, 8, &size);
        if (kid && i < 8)
            memcpy(out->revoked[i], kid, 8);
    }
    if (n > 8)
        *insane = 1;
    out->n_revoked = (uint8_t)(n > 8 ? 8 : n);
}

static int is_name(const uint8_t *p, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        int alnum = (p[i] >= 'a' && p[i] <= 'z') || (p[i] >= '0' && p[i] <= '9');
        int extra = i > 0 && (p[i] == '.' || p[i] == '_' || p[i] == '-');
        if (!alnum && !extra)
            return 0;
    }
    return n > 0;
}

static void names(struct fc_in *in, const struct fc_hal *hal, struct fc_trust *out, int *insane) {
    uint32_t n = fc_in_map(in, FC_ITEMS_MAX), size = 0;
    for (uint32_t i = 0; i < n && !in->err; i++) {
        struct fc_name_rule rule;
        uint8_t digest[32];
        const uint8_t *name = fc_in_text(in, 1, 32, &size);
        if (!name || !is_name(name, size)) {
            fc_in_fail(in);
            return;
        }
        fc_sha256(hal, name, size, digest);
        memcpy(rule.hash, digest, 8);
        uint32_t parts = fc_in_array(in, 1, 2);
        rule.least_seq = (uint32_t)fc_in_uint(in, UINT32_MAX);
        rule.resets = parts == 2 && fc_in_int(in, 1, 1) == 1;
        if (i < FC_NAMES)
            out->names[i] = rule;
    }
    if (n > FC_NAMES)
        *insane = 1;
    out->n_names = (uint8_t)(n > FC_NAMES ? FC_NAMES : n);
}

static int has_twins(const struct fc_trust *t) {
    const struct fc_key *all[12];
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_roots; i++)
        all[n++] = &t->roots[i];
    for (uint32_t i = 0; i < t->n_release; i++)
        all[n++] = &t->release[i];
    for (uint32_t i = 0; i < t->n_online; i++)
        all[n++] = &t->online[i];
    for (uint32_t i = 0; i < t->n_firmware; i++)
        all[n++] = &t->firmware[i];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++)
            if (memcmp(all[i]->pk, all[j]->pk, 32) == 0)
                return 1;
    return 0;
}

static int threshold_fits(uint64_t threshold, uint32_t n) {
    return threshold >= 1 && threshold <= n;
}

int fc_trust_parse(const struct fc_hal *hal, const uint8_t *p, size_t n, struct fc_trust *out) {
    int insane = 0;
    memset(out, 0, sizeof *out);
    if (fc_cbor_check(p, n, 0, FC_ITEMS_MAX))
        return FC_ERR_SCHEMA;
    struct fc_in in = fc_in_of(p, n);
    if (fc_in_map(&in, 13) != 13)
        return FC_ERR_SCHEMA;
    uint64_t root = 0, release = 0, firmware = 0;
    for (uint64_t key = 0; key < 13 && !in.err; key++) {
        if (fc_in_uint(&in, 12) != key)
            fc_in_fail(&in);
        switch (key) {
        case 0:
            if (fc_in_uint(&in, 1) != 1)
                fc_in_fail(&in);
            break;
        case 1:
            out->version = (uint32_t)fc_in_uint(&in, (1u << 23) - 1);
            if (!out->version)
                fc_in_fail(&in);
            break;
        case 2:
            out->expires = fc_in_uint(&in, UINT64_MAX);
            break;
        case 3:
            out->n_roots = keys(&in, hal, out->roots, 4, &insane);
            break;
        case 4:
            root = fc_in_uint(&in, UINT64_MAX);
            break;
        case 5:
            out->n_release = keys(&in, hal, out->release, 4, &insane);
            break;
        case 6:
            release = fc_in_uint(&in, UINT64_MAX);
            break;
        case 7:
            out->n_online = keys(&in, hal, out->online, 2, &insane);
            break;
        case 8:
            revoked(&in, out, &insane);
            break;
        case 9:
            names(&in, hal, out, &insane);
            break;
        case 10:
            out->n_firmware = keys(&in, hal, out->firmware, 2, &insane);
            break;
        case 11:
            firmware = fc_in_uint(&in, UINT64_MAX);
            break;
        default:
            out->issued = fc_in_uint(&in, UINT64_MAX);
            break;
        }
    }
    if (!fc_in_done(&in))
        return FC_ERR_SCHEMA;
    if (insane || !out->n_online || !threshold_fits(root, out->n_roots) ||
        !threshold_fits(release, out->n_release) || has_twins(out))
        return FC_ERR_TRUST;
    if (out->n_firmware ? !threshold_fits(firmware, out->n_firmware) : firmware != 0)
        return FC_ERR_TRUST;
    out->root_threshold = (uint8_t)root;
    out->release_threshold = (uint8_t)release;
    out->firmware_threshold = (uint8_t)firmware;
    return FC_OK;
}
