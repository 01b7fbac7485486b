/* trust.c: the trust document: which keys may sign what (SPEC.md section 6).
 *
 * The payload is parsed before its own roots are known, so every byte is an attacker's: counts are
 * compared with the arrays here before an element is stored. n <= FC_MSG_MAX, so no sum wraps.
 */
#include <string.h>

#include "documents.h"

/* Takes a list of byte strings of `size` bytes, at most `most` of them. More is `trust`, not
 * `schema`: the form is right. */
static uint8_t take_list(struct fc_in *in, uint32_t size, uint8_t *out, uint32_t most,
                         int *insane) {
    uint32_t n = fc_in_array(in, 0, FC_ITEMS_MAX);
    *insane |= n > most;
    for (uint32_t i = 0; i < n && !in->err; i++) {
        if (i < most)
            fc_in_raw(in, out + i * size, size);
        else
            fc_in_bytes(in, size, size, NULL);
    }
    return (uint8_t)(n > most ? most : n);
}

static void take_names(struct fc_in *in, const struct fc_hal *hal, struct fc_trust *out,
                       int *insane) {
    uint32_t n = fc_in_map(in, FC_ITEMS_MAX), size = 0;
    *insane |= n > FC_NAMES;
    for (uint32_t i = 0; i < n && !in->err; i++) {
        struct fc_name_rule rule;
        uint8_t digest[32];
        const uint8_t *name = fc_in_text(in, 1, 32, &size);
        if (!name || !fc_is_name(name, size)) {
            fc_in_fail(in);
            return;
        }
        fc_sha256(hal, name, size, digest);
        memcpy(rule.hash, digest, 8);
        uint32_t parts = fc_in_array(in, 1, 2);
        rule.least_seq = fc_in_u32(in, 0, UINT32_MAX);
        rule.resets = parts == 2 && fc_in_u32(in, 1, 1) == 1;
        if (i < FC_NAMES)
            out->names[i] = rule;
    }
    out->n_names = (uint8_t)(n > FC_NAMES ? FC_NAMES : n);
}

/* No key twice, neither in a role nor in two. */
static int has_twins(const struct fc_trust *t) {
    const uint8_t *seen[FC_ROLES * FC_ROLE_KEYS];
    uint32_t n = 0;
    for (uint32_t r = 0; r < FC_ROLES; r++) {
        for (uint32_t i = 0; i < t->role[r].n; i++) {
            seen[n] = t->role[r].key[i];
            for (uint32_t j = 0; j < n; j++)
                if (memcmp(seen[j], seen[n], 32) == 0)
                    return 1;
            n++;
        }
    }
    return 0;
}

int fc_trust_parse(const struct fc_hal *hal, const uint8_t *p, size_t n, struct fc_trust *out) {
    static const uint8_t most[FC_ROLES] = {4, 4, 2, 2};
    struct fc_in in;
    int insane = 0;
    uint64_t v = 0;
    memset(out, 0, sizeof *out);
    if (fc_in_open(&in, p, n, 13) != 13)
        return FC_ERR_SCHEMA;
    for (uint32_t key = 0; key < 13; key++) {
        /* Roots 3, release 5, online 7, firmware 10; a threshold follows but for online. */
        uint32_t r = key < 9 ? (key - 3) / 2 : FC_FIRMWARE;
        struct fc_role_keys *role = &out->role[key < 3 ? 0 : r];
        fc_in_key(&in, key);
        switch (key) {
        case 3:
        case 5:
        case 7:
        case 10:
            role->n = take_list(&in, 32, role->key[0], most[r], &insane);
            break;
        case 8:
            out->n_revoked = take_list(&in, 8, out->revoked[0], 8, &insane);
            break;
        case 9:
            take_names(&in, hal, out, &insane);
            break;
        default:
            v = fc_in_u64(&in);
            if (key == 0 ? v != 1 : key == 1 && (v < 1 || v >= 1u << 23))
                fc_in_fail(&in);
            if (key == 1)
                out->version = (uint32_t)v;
            else if (key == 2)
                out->expires = v;
            else if (key == 12)
                out->issued = v;
            else if (key) /* 4, 6, 11 */
                role->threshold = (uint8_t)(v > UINT8_MAX ? UINT8_MAX : v);
            break;
        }
    }
    if (!fc_in_done(&in))
        return FC_ERR_SCHEMA;
    out->role[FC_ONLINE].threshold = 1;
    for (uint32_t r = 0; r < FC_ROLES; r++) {
        uint8_t t = out->role[r].threshold;
        insane |= t > out->role[r].n || (t < 1 && (r != FC_FIRMWARE || out->role[r].n));
    }
    return insane || has_twins(out) ? FC_ERR_TRUST : FC_OK;
}
