/* manifest.c: the manifest payload (SPEC.md section 6).
 *
 * Its signatures were checked before, but a release key is no reason to trust lengths: sizes are
 * bounded here so that index * 4096 and sums of chunks cannot wrap anywhere later.
 */
#include <stddef.h>
#include <string.h>

#include "bytes.h"
#include "documents.h"

static const uint8_t DTYPE_BYTES[] = {4, 2, 4, 1, 8, 0, 1, 2, 0, 1};

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
        op.code = fc_in_u32(in, 32, 32);
        op.name = fc_in_text(in, 1, 64, &op.n);
        if (op.name && !fc_is_printable(op.name, op.n, 0x20))
            fc_in_fail(in);
    } else {
        op.code = fc_in_u32(in, 0, INT32_MAX);
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

static FC_NOINLINE void operators(struct fc_in *in) {
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
static struct fc_in seek(const uint8_t *p, size_t n, uint32_t key) {
    struct fc_in in = fc_in_of(p, n);
    uint32_t keys = fc_in_map(&in, FC_KEY_MAX + 1);
    for (uint32_t i = 0; i < keys && !in.err; i++) {
        if (fc_in_u32(&in, 0, FC_KEY_MAX) == key)
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

/* What one parse needs; `unfit` = a well-formed manifest that contradicts itself. */
struct parse {
    struct fc_in in;
    struct fc_manifest *m;
    struct fc_model *model; /* may be NULL */
    const uint8_t *p;
    uint32_t at; /* of the payload in its message */
    int unfit;
    uint64_t size;
};

static FC_NOINLINE void tensors(struct parse *ps, int side) {
    struct fc_in *in = &ps->in;
    struct fc_manifest *m = ps->m;
    uint32_t n = fc_in_array(in, 1, FC_TENSORS_MAX);
    struct fc_tensor *t = !ps->model ? NULL : side ? ps->model->out : ps->model->in;
    for (uint32_t k = side ? FC_TENSORS_MAX : 0, end = k + n; k < end && !in->err; k++) {
        fc_in_array(in, 4, 4);
        uint32_t dtype = fc_in_u32(in, 0, sizeof DTYPE_BYTES - 1), all = DTYPE_BYTES[dtype];
        if (!all)
            fc_in_fail(in);
        uint32_t dims = fc_in_array(in, 1, FC_DIMS_MAX);
        for (uint32_t d = 0; d < dims && !in->err; d++) {
            uint32_t dim = fc_in_u32(in, 1, INT32_MAX);
            /* Bound: all <= 2^18 before, and dim <= 2^18 / all makes the product so again. */
            if (all && dim > FC_TENSOR_BYTES_MAX / all) {
                ps->unfit = 1;
                all = 0;
            }
            all *= dim;
            if (t)
                t->dim[d] = dim;
        }
        uint32_t scale_bits = fc_in_u32(in, 0, UINT32_MAX);
        int64_t zero = fc_in_int(in);
        if (zero > INT32_MAX)
            fc_in_fail(in);
        m->dtype[k] = (uint8_t)dtype;
        m->bytes[k] = all;
        if (t) {
            t->dtype = (uint8_t)dtype;
            t->ndim = (uint8_t)dims;
            t->scale_bits = scale_bits;
            t->zero_point = (int32_t)zero;
            t++->bytes = all;
        }
    }
    *(side ? &m->nout : &m->nin) = (uint8_t)n;
}

/* The bytes were walked by fc_cbor_check(). An index runs up to FC_TENSORS_MAX - 1 behind k,
 * whatever the vector holds, and every length is compared with the tensor's. */
int fc_vector_parse(struct fc_in *in, const struct fc_manifest *m,
                    struct fc_buf bufs[2 * FC_TENSORS_MAX]) {
    int unfit = 0;
    fc_in_array(in, 2, 2);
    for (uint32_t k = 0; k < 2 * FC_TENSORS_MAX; k += FC_TENSORS_MAX) {
        uint32_t wanted = k ? m->nout : m->nin;
        uint32_t n = fc_in_array(in, 1, FC_TENSORS_MAX);
        unfit |= n != wanted;
        for (uint32_t i = k; i < k + n && !in->err; i++) {
            struct fc_buf buf;
            buf.p = fc_in_bytes(in, 0, UINT32_MAX, &buf.n);
            unfit |= buf.n != m->bytes[i];
            if (bufs)
                bufs[i] = buf;
        }
    }
    if (in->err)
        return FC_ERR_SCHEMA;
    return unfit ? FC_ERR_IO_CONTRACT : FC_OK;
}

int fc_blob_check(const struct fc_manifest *m, const uint8_t *p, size_t n) {
    struct fc_in in = fc_in_of(p, n);
    if (fc_cbor_check(p, n, 0, 4 * FC_ITEMS_MAX) ||
        fc_in_array(&in, 1, FC_ITEMS_MAX) != m->golden_n)
        return FC_ERR_SCHEMA;
    for (uint32_t i = 0; i < m->golden_n; i++) {
        int rc = fc_vector_parse(&in, m, NULL);
        if (rc)
            return rc;
    }
    return fc_in_done(&in) ? FC_OK : FC_ERR_SCHEMA;
}

/* Key 15. Inline vectors are checked against the tensors: 13 and 14 came before. */
static FC_NOINLINE void golden(struct parse *ps) {
    struct fc_in *in = &ps->in;
    struct fc_manifest *m = ps->m;
    const uint8_t *start = in->p;
    uint32_t parts = fc_in_array(in, 2, 4);
    int is_inline = fc_in_major(in) == FC_ARRAY;
    if (parts != (is_inline ? 2u : 4u))
        fc_in_fail(in);
    if (is_inline) {
        m->golden_off = ps->at + (uint32_t)(in->p - ps->p);
        m->golden_n = fc_in_array(in, 1, 8);
        for (uint32_t i = 0; i < m->golden_n && !in->err; i++)
            ps->unfit |= fc_vector_parse(in, m, NULL) == FC_ERR_IO_CONTRACT;
        m->golden_len = ps->at + (uint32_t)(in->p - ps->p) - m->golden_off;
    } else {
        m->blob_size = fc_in_u32(in, 1, FC_BLOB_MAX);
        fc_in_raw(in, m->blob_sha256, 32);
        m->golden_n = fc_in_u32(in, 1, FC_ITEMS_MAX);
    }
    m->tol = fc_in_u32(in, 0, UINT32_MAX);
    if (is_inline && in->p - start > (ptrdiff_t)FC_INLINE_MAX)
        fc_in_fail(in);
}

/* Name and display version, which only a loaded model keeps. */
static FC_NOINLINE void names(struct parse *ps, int is_version) {
    uint32_t n = 0, most = is_version ? 24 : 32;
    const uint8_t *p = fc_in_text(&ps->in, 1, most, &n);
    if (!p)
        return;
    if (is_version ? !fc_is_printable(p, n, 0x21) : !fc_is_name(p, n))
        fc_in_fail(&ps->in);
    if (!is_version) {
        ps->m->name_off = (uint16_t)(ps->at + (uint32_t)(p - ps->p));
        ps->m->name_n = (uint8_t)n;
    }
    if (ps->model)
        memcpy(is_version ? ps->model->version : ps->model->name, p, n); /* zeroed before */
}

/* One value of the manifest map. Keys rise, so 13 and 14 are known when 15 comes. */
static FC_NOINLINE void field(struct parse *ps, uint32_t key) {
    struct fc_in *in = &ps->in;
    struct fc_manifest *m = ps->m;
    uint32_t n = 0;
    switch (key) {
    case 0:
        fc_in_key(in, 1);
        break;
    case 1:
    case 2:
        names(ps, key == 2);
        break;
    case 3:
        m->seq = fc_in_u32(in, 0, UINT32_MAX);
        break;
    case 4:
        m->floor = fc_in_u32(in, 0, m->seq);
        break;
    case 5:
        n = fc_in_array(in, 1, 8);
        for (uint32_t i = 0; i < n; i++)
            fc_in_bytes(in, 16, 16, NULL);
        break;
    case 6:
        ps->size = fc_in_u64(in);
        if (ps->size - 1 >= INT64_MAX)
            fc_in_fail(in);
        break;
    case 7:
        fc_in_raw(in, m->sha256, 32);
        break;
    case 8:
        fc_in_key(in, FC_SECTOR);
        break;
    case 9:
        fc_in_raw(in, m->leaves_sha256, 32);
        break;
    case 10:
        m->arena = fc_in_u32(in, 0, INT32_MAX);
        break;
    case 11:
        fc_in_array(in, 3, 3);
        for (int i = 0; i < 3; i++)
            m->firmware[i] = (uint16_t)fc_in_u32(in, 0, UINT16_MAX);
        break;
    case 12:
        operators(in);
        break;
    case 13:
    case 14:
        tensors(ps, key == 14);
        break;
    case 15:
        golden(ps);
        break;
    case 16:
        fc_in_u64(in);
        break;
    case 17:
        m->expires = fc_in_u64(in);
        if (!m->expires)
            m->expires = 1; /* said, and long ago; 0 means not said */
        break;
    case 20:
        fc_in_array(in, 2, 2);
        m->kind = (uint8_t)fc_in_u32(in, 0, 1);
        m->slot = (uint8_t)fc_in_u32(in, 0, 255);
        if (m->kind ? m->slot != 255 : m->slot >= FC_SLOTS_MAX)
            fc_in_fail(in);
        break;
    default:
        fc_in_fail(in); /* 18, 19 and what format 1 does not know */
        break;
    }
}

int fc_manifest_parse(const uint8_t *p, size_t n, uint32_t at, struct fc_manifest *m,
                      struct fc_model *model) {
    struct parse ps = {.m = m, .model = model, .p = p, .at = at};
    uint32_t seen = 0, keys = fc_in_open(&ps.in, p, n, FC_KEY_MAX + 1);
    memset(&m->seq, 0, sizeof *m - offsetof(struct fc_manifest, seq));
    if (model)
        memset(model, 0, sizeof *model);
    for (uint32_t i = 0; i < keys && !ps.in.err; i++) {
        uint32_t key = fc_in_u32(&ps.in, 0, FC_KEY_MAX);
        seen |= 1u << key;
        if (key == 21) /* what it is checked against came before: 13, 14, 20 */
            ps.unfit |= fc_hints_parse(&ps.in, m, model ? &model->params : NULL);
        else
            field(&ps, key);
    }
    if (!fc_in_done(&ps.in) || (seen & 0x11FFFFu) != 0x11FFFFu)
        return FC_ERR_SCHEMA;
    if (ps.size > FC_MODEL_MAX)
        return FC_ERR_TOO_LARGE;
    m->size = (uint32_t)ps.size;
    m->model_chunks = (m->size + FC_SECTOR - 1) / FC_SECTOR;
    m->chunks = m->model_chunks + (m->blob_size + FC_SECTOR - 1) / FC_SECTOR;
    if (m->chunks > FC_CHUNKS_MAX)
        return FC_ERR_TOO_LARGE;
    if (model) {
        memcpy(model->id, m->id, sizeof m->id);
        model->hints = m->hints;
        model->nin = m->nin;
        model->nout = m->nout;
        model->seq = m->seq;
        model->floor = m->floor;
        model->size = m->size;
        model->arena = m->arena;
    }
    return ps.unfit ? FC_ERR_IO_CONTRACT : FC_OK;
}
