/* manifest.c: the manifest payload (SPEC.md section 6).
 *
 * Its signatures were checked before, but a release key is no reason to trust lengths: sizes are
 * bounded here so that index * 4096 and sums of chunks cannot wrap anywhere later.
 */
#include <string.h>

#include "bytes.h"
#include "documents.h"

static const uint8_t DTYPE_BYTES[] = {4, 2, 4, 1, 8, 0, 1, 2, 0, 1};

static void text(struct fc_in *in, char *out, uint32_t most) {
    uint32_t n = 0;
    const uint8_t *p = fc_in_text(in, 1, most, &n);
    if (!p)
        return;
    memcpy(out, p, n);
    out[n] = 0;
}

static int is_name(const char *s) {
    for (uint32_t i = 0; s[i]; i++) {
        int alnum = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9');
        if (!alnum && !(i && (s[i] == '.' || s[i] == '_' || s[i] == '-')))
            return 0;
    }
    return s[0] != 0;
}

static int is_version(const char *s) {
    for (; *s; s++)
        if (*s < 0x21 || *s > 0x7E)
            return 0;
    return 1;
}

/* Takes a digest or id of exactly n bytes. */
static void raw(struct fc_in *in, uint8_t *out, uint32_t n) {
    uint32_t size = 0;
    const uint8_t *p = fc_in_bytes(in, n, n, &size);
    if (p)
        memcpy(out, p, n);
}

/* An operator: a builtin code, or 32 and a name. Builtins come before custom ones. */
struct op {
    uint32_t code;
    const uint8_t *name; /* custom operators only */
    uint32_t n;
};

static struct op take_op(struct fc_in *in) {
    struct op op = {0, NULL, 0};
    if (fc_in_major(in) == FC_ARRAY) {
        fc_in_array(in, 2, 2);
        op.code = (uint32_t)fc_in_int(in, 32, 32);
        op.name = fc_in_text(in, 1, 64, &op.n);
        if (op.name && !fc_text_printable(op.name, op.n))
            fc_in_fail(in);
    } else {
        op.code = (uint32_t)fc_in_uint(in, INT32_MAX);
        if (op.code == 32)
            fc_in_fail(in);
    }
    return op;
}

static int op_order(const struct op *a, const struct op *b) {
    if (!a->name != !b->name)
        return a->name ? 1 : -1;
    if (!a->name)
        return a->code < b->code ? -1 : a->code > b->code;
    uint32_t n = a->n < b->n ? a->n : b->n;
    int order = memcmp(a->name, b->name, n);
    return order ? order : a->n < b->n ? -1 : a->n > b->n;
}

static void operators(struct fc_in *in) {
    struct op last = {0, NULL, 0};
    uint32_t n = fc_in_array(in, 0, 256);
    for (uint32_t i = 0; i < n && !in->err; i++) {
        struct op op = take_op(in);
        if (!in->err && i && op_order(&last, &op) >= 0)
            fc_in_fail(in);
        last = op;
    }
}

/* A cursor at the value of `key` in a checked payload's map; failed when the key is missing. */
static struct fc_in seek(const uint8_t *p, size_t n, uint64_t key) {
    struct fc_in in = fc_in_of(p, n);
    uint32_t keys = fc_in_map(&in, FC_KEY_MAX + 1);
    for (uint32_t i = 0; i < keys && !in.err; i++) {
        if (fc_in_uint(&in, FC_KEY_MAX) == key)
            return in;
        fc_in_skip(&in);
    }
    fc_in_fail(&in);
    return in;
}

int fc_class_check(const uint8_t *p, size_t n, const uint8_t class_id[16]) {
    struct fc_in in = seek(p, n, 5);
    uint32_t count = fc_in_array(&in, 1, 8), size = 0;
    for (uint32_t i = 0; i < count && !in.err; i++) {
        const uint8_t *id = fc_in_bytes(&in, 16, 16, &size);
        if (id && memcmp(id, class_id, 16) == 0)
            return FC_OK;
    }
    return FC_ERR_TARGET_CLASS;
}

/* Both lists are sorted: one walk over ours finds all that are wanted. */
int fc_ops_check(const uint8_t *p, size_t n, const uint8_t *ops, size_t ops_len, uint32_t *detail) {
    struct fc_in in = seek(p, n, 12), have = fc_in_of(ops, ops_len);
    uint32_t wanted = fc_in_array(&in, 0, 256), left = fc_in_array(&have, 0, 256);
    for (uint32_t i = 0; i < wanted && !in.err; i++) {
        struct op op = take_op(&in);
        int order = -1;
        while (order < 0 && left && !have.err) {
            struct op mine = take_op(&have);
            left--;
            order = op_order(&mine, &op);
        }
        if (order != 0 || have.err) {
            *detail = op.code;
            return FC_ERR_OP_MISSING;
        }
    }
    return in.err ? FC_ERR_SCHEMA : FC_OK;
}

int fc_ops_valid(const uint8_t *ops, size_t ops_len) {
    if (ops_len > FC_OPS_BYTES_MAX || fc_cbor_check(ops, ops_len, 0, FC_ITEMS_MAX))
        return FC_ERR_SCHEMA;
    struct fc_in in = fc_in_of(ops, ops_len);
    operators(&in);
    return fc_in_done(&in) ? FC_OK : FC_ERR_SCHEMA;
}

static void tensors(struct fc_in *in, struct fc_tensor *out, uint8_t *count, int *unfit) {
    uint32_t n = fc_in_array(in, 1, FC_TENSORS_MAX);
    for (uint32_t i = 0; i < n && !in->err; i++) {
        struct fc_tensor *t = &out[i];
        fc_in_array(in, 4, 4);
        t->dtype = (uint8_t)fc_in_uint(in, sizeof DTYPE_BYTES - 1);
        t->bytes = DTYPE_BYTES[t->dtype];
        if (!t->bytes)
            fc_in_fail(in);
        t->ndim = (uint8_t)fc_in_array(in, 1, FC_DIMS_MAX);
        for (uint32_t d = 0; d < t->ndim && !in->err; d++) {
            t->dim[d] = (uint32_t)fc_in_int(in, 1, INT32_MAX);
            /* Bound: bytes <= 2^18 before, dim < 2^31, so the product fits 64 bits. */
            uint64_t bytes = (uint64_t)t->bytes * t->dim[d];
            if (bytes > FC_TENSOR_BYTES_MAX) {
                *unfit = 1;
                bytes = 0;
            }
            t->bytes = (uint32_t)bytes;
        }
        t->scale_bits = (uint32_t)fc_in_uint(in, UINT32_MAX);
        t->zero_point = (int32_t)fc_in_int(in, INT32_MIN, INT32_MAX);
    }
    *count = (uint8_t)n;
}

int fc_vector_parse(struct fc_in *in, const struct fc_manifest *m, struct fc_buf *ins,
                    struct fc_buf *outs) {
    int unfit = 0;
    fc_in_array(in, 2, 2);
    for (int side = 0; side < 2; side++) {
        const struct fc_tensor *t = side ? m->out : m->in;
        uint32_t wanted = side ? m->nout : m->nin;
        struct fc_buf *bufs = side ? outs : ins;
        uint32_t n = fc_in_array(in, 1, FC_TENSORS_MAX);
        unfit |= n != wanted;
        for (uint32_t i = 0; i < n && !in->err; i++) {
            bufs[i].p = fc_in_bytes(in, 0, UINT32_MAX, &bufs[i].n);
            unfit |= i >= wanted || bufs[i].n != t[i].bytes;
        }
    }
    if (in->err)
        return FC_ERR_SCHEMA;
    return unfit ? FC_ERR_IO_CONTRACT : FC_OK;
}

int fc_blob_check(const struct fc_manifest *m, const uint8_t *p, size_t n) {
    struct fc_buf ins[FC_TENSORS_MAX], outs[FC_TENSORS_MAX];
    if (fc_cbor_check(p, n, 0, 4 * FC_ITEMS_MAX))
        return FC_ERR_SCHEMA;
    struct fc_in in = fc_in_of(p, n);
    if (fc_in_array(&in, 1, FC_ITEMS_MAX) != m->golden_n)
        return FC_ERR_SCHEMA;
    for (uint32_t i = 0; i < m->golden_n; i++) {
        int rc = fc_vector_parse(&in, m, ins, outs);
        if (rc)
            return rc;
    }
    return fc_in_done(&in) ? FC_OK : FC_ERR_SCHEMA;
}

/* Key 15. Inline vectors are checked against the tensors: 13 and 14 came before. */
static void golden(struct fc_in *in, const uint8_t *msg, struct fc_manifest *m, int *unfit) {
    const uint8_t *start = in->p;
    uint32_t parts = fc_in_array(in, 2, 4);
    if (fc_in_major(in) != FC_ARRAY) {
        if (parts != 4)
            fc_in_fail(in);
        m->blob_size = (uint32_t)fc_in_int(in, 1, FC_BLOB_MAX);
        raw(in, m->blob_sha256, 32);
        m->golden_n = (uint32_t)fc_in_int(in, 1, FC_ITEMS_MAX);
        m->tol = (uint32_t)fc_in_uint(in, UINT32_MAX);
        return;
    }
    struct fc_buf ins[FC_TENSORS_MAX], outs[FC_TENSORS_MAX];
    if (parts != 2)
        fc_in_fail(in);
    m->golden_off = (uint32_t)(in->p - msg);
    m->golden_n = fc_in_array(in, 1, 8);
    for (uint32_t i = 0; i < m->golden_n && !in->err; i++)
        *unfit |= fc_vector_parse(in, m, ins, outs) == FC_ERR_IO_CONTRACT;
    m->golden_len = (uint32_t)(in->p - msg) - m->golden_off;
    m->tol = (uint32_t)fc_in_uint(in, UINT32_MAX);
    if (in->p - start > (ptrdiff_t)FC_INLINE_MAX)
        fc_in_fail(in);
}

static void hints(struct fc_in *in, struct fc_hints *h, int *unfit) {
    uint32_t n = fc_in_map(in, FC_KEY_MAX + 1), size = 0;
    int has_window = 0, has_hop = 0;
    for (uint32_t i = 0; i < n && !in->err; i++) {
        switch (fc_in_uint(in, FC_KEY_MAX)) {
        case 1:
            h->window = (uint32_t)fc_in_uint(in, UINT32_MAX);
            has_window = 1;
            break;
        case 2:
            h->hop = (uint32_t)fc_in_uint(in, UINT32_MAX);
            has_hop = 1;
            break;
        case 3:
            h->channels = (uint32_t)fc_in_int(in, 1, UINT16_MAX);
            break;
        case 4:
            h->reset_policy = (uint32_t)fc_in_uint(in, UINT32_MAX);
            break;
        case 5:
            h->variables = (uint32_t)fc_in_uint(in, UINT16_MAX);
            break;
        case 6:
            h->latency_us = (uint32_t)fc_in_uint(in, UINT32_MAX);
            break;
        case 7:
            fc_in_array(in, 2, 2);
            fc_in_uint(in, UINT32_MAX);
            fc_in_bytes(in, 8, 8, &size);
            break;
        case 8:
            h->head = (uint32_t)fc_in_uint(in, 1);
            break;
        case 9:
            fc_in_uint(in, 7);
            break;
        case 10: {
            fc_in_array(in, 3, 3);
            int64_t of = fc_in_int(in, 1, 64);
            fc_in_int(in, 1, of);
            fc_in_uint(in, UINT32_MAX);
            break;
        }
        case 11: {
            uint32_t parts = fc_in_array(in, 2, 8);
            for (uint32_t k = 0; k < parts && !in->err; k++) {
                int64_t v = fc_in_int(in, INT32_MIN, UINT32_MAX);
                if (k == 0)
                    h->anomaly_kind = v < 0 ? 0 : (uint32_t)v;
                else if (k == 1)
                    h->anomaly_threshold = v < 0 || v > INT32_MAX ? 0 : (uint32_t)v;
            }
            break;
        }
        case 12:
            raw(in, h->labels, 8);
            break;
        case 13:
            h->classes = (uint32_t)fc_in_int(in, 1, UINT16_MAX);
            break;
        default:
            fc_in_skip(in);
            break;
        }
    }
    if ((has_window && !h->window) || (has_hop && (!h->hop || h->hop > h->window)) ||
        h->reset_policy > 2)
        *unfit = 1;
}

/* One value of the manifest map. Keys rise, so 13 and 14 are known when 15 comes. */
static void field(struct fc_in *in, const struct fc_hal *hal, const uint8_t *msg, uint64_t key,
                  struct fc_manifest *m, uint64_t *size, int *unfit) {
    uint8_t digest[32];
    uint32_t n = 0;
    switch (key) {
    case 0:
        if (fc_in_uint(in, 1) != 1)
            fc_in_fail(in);
        break;
    case 1:
        text(in, m->name, 32);
        if (!is_name(m->name))
            fc_in_fail(in);
        fc_sha256(hal, m->name, strlen(m->name), digest);
        memcpy(m->name_hash, digest, 8);
        break;
    case 2:
        text(in, m->version, 24);
        if (!is_version(m->version))
            fc_in_fail(in);
        break;
    case 3:
        m->seq = (uint32_t)fc_in_uint(in, UINT32_MAX);
        break;
    case 4:
        m->floor = (uint32_t)fc_in_uint(in, m->seq);
        break;
    case 5:
        n = fc_in_array(in, 1, 8);
        for (uint32_t i = 0; i < n && !in->err; i++)
            raw(in, digest, 16);
        break;
    case 6:
        *size = fc_in_uint(in, INT64_MAX);
        if (!*size)
            fc_in_fail(in);
        break;
    case 7:
        raw(in, m->sha256, 32);
        break;
    case 8:
        fc_in_int(in, FC_SECTOR, FC_SECTOR);
        break;
    case 9:
        raw(in, m->leaves_sha256, 32);
        break;
    case 10:
        m->arena = (uint32_t)fc_in_uint(in, INT32_MAX);
        break;
    case 11:
        fc_in_array(in, 3, 3);
        for (int i = 0; i < 3; i++)
            m->firmware[i] = (uint16_t)fc_in_uint(in, UINT16_MAX);
        break;
    case 12:
        operators(in);
        break;
    case 13:
        tensors(in, m->in, &m->nin, unfit);
        break;
    case 14:
        tensors(in, m->out, &m->nout, unfit);
        break;
    case 15:
        golden(in, msg, m, unfit);
        break;
    case 16:
        fc_in_uint(in, UINT64_MAX);
        break;
    case 17:
        m->expires = fc_in_uint(in, UINT64_MAX);
        if (!m->expires)
            m->expires = 1; /* said, and long ago; 0 means not said */
        break;
    case 20:
        fc_in_array(in, 2, 2);
        m->kind = (uint8_t)fc_in_uint(in, 1);
        m->slot = (uint8_t)fc_in_uint(in, 255);
        if (m->kind ? m->slot != 255 : m->slot >= FC_SLOTS)
            fc_in_fail(in);
        break;
    case 21:
        hints(in, &m->hints, unfit);
        break;
    default:
        fc_in_fail(in); /* 18, 19 and what format 1 does not know */
        break;
    }
}

int fc_manifest_parse(const struct fc_hal *hal, const uint8_t *msg, const uint8_t *p, size_t n,
                      struct fc_manifest *out) {
    uint64_t size = 0;
    uint32_t seen = 0;
    int unfit = 0;
    memset(out, 0, sizeof *out);
    if (fc_cbor_check(p, n, 0, FC_ITEMS_MAX))
        return FC_ERR_SCHEMA;
    struct fc_in in = fc_in_of(p, n);
    uint32_t keys = fc_in_map(&in, FC_KEY_MAX + 1);
    for (uint32_t i = 0; i < keys && !in.err; i++) {
        uint64_t key = fc_in_uint(&in, FC_KEY_MAX);
        if (!in.err)
            seen |= 1u << key;
        field(&in, hal, msg, key, out, &size, &unfit);
    }
    if (!fc_in_done(&in) || (seen & 0x11FFFFu) != 0x11FFFFu)
        return FC_ERR_SCHEMA;
    if (size > FC_MODEL_MAX)
        return FC_ERR_TOO_LARGE;
    out->size = (uint32_t)size;
    out->model_chunks = (out->size + FC_SECTOR - 1) / FC_SECTOR;
    out->chunks = out->model_chunks + (out->blob_size + FC_SECTOR - 1) / FC_SECTOR;
    if (out->chunks > FC_CHUNKS_MAX)
        return FC_ERR_TOO_LARGE;
    return unfit ? FC_ERR_IO_CONTRACT : FC_OK;
}
