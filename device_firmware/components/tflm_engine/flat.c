/* flat.c: FlatBuffers read with every offset checked.
 *
 * Who controls the bytes: whoever made the model. The bytes are those that the release keys signed,
 * so this is no wall against the network; it is one against a broken converter, a truncated upload
 * and a mistake in signing. Every offset, length and count below is taken from the file.
 *
 * Why nothing wraps: f->n < 2^31 and positions are kept <= f->n, so pos + 8 fits uint32_t; an
 * offset is compared with what is left (n - pos) before it is added; counts are divided, never
 * multiplied.
 */
#include "flat.h"

#include <stddef.h>

static uint32_t get16(const struct flat *f, uint32_t at) {
    return (uint32_t)f->p[at] | (uint32_t)f->p[at + 1] << 8;
}

static uint32_t get32(const struct flat *f, uint32_t at) {
    return get16(f, at) | get16(f, at + 2) << 16;
}

static struct flat_table torn_table(struct flat *f) {
    f->torn = 1;
    return (struct flat_table){0};
}

/* The table at a position. TFLM reads 32-bit fields as aligned words, hence the multiples of four.
 */
static struct flat_table table_at(struct flat *f, uint32_t at) {
    struct flat_table t = {.at = at};
    if (at % 4 || at > f->n || f->n - at < 4)
        return torn_table(f);
    int64_t fields = (int64_t)at - (int32_t)get32(f, at); /* both below 2^31: fits */
    if (fields < 0 || fields % 2 || fields > (int64_t)f->n - 4)
        return torn_table(f);
    uint32_t list = (uint32_t)fields, list_bytes = get16(f, list);
    t.size = get16(f, list + 2);
    if (list_bytes < 4 || list_bytes % 2 || list_bytes > f->n - list || t.size < 4 ||
        t.size > f->n - at)
        return torn_table(f);
    t.fields = list + 4;
    t.n_fields = (list_bytes - 4) / 2;
    for (uint32_t i = 0; i < t.n_fields; i++) { /* <= 32,766 */
        uint32_t off = get16(f, t.fields + 2 * i);
        if (off && (off < 4 || off >= t.size))
            return torn_table(f);
    }
    return t;
}

/* Where a field of `bytes` bytes is, 0 when the table does not have it. */
static uint32_t field_at(struct flat *f, const struct flat_table *t, uint32_t field,
                         uint32_t bytes) {
    uint32_t off = field < t->n_fields ? get16(f, t->fields + 2 * field) : 0;
    if (!off)
        return 0;
    if (bytes > t->size - off || (t->at + off) % bytes) { /* off < size, checked by table_at */
        f->torn = 1;
        return 0;
    }
    return t->at + off;
}

/* Follow the offset stored at a position. */
static uint32_t follow(struct flat *f, uint32_t at) {
    uint32_t off = get32(f, at);
    if (off < 4 || off > f->n - at || f->n - at - off < 4) {
        f->torn = 1;
        return 0;
    }
    return at + off;
}

struct flat_table flat_root(struct flat *f) {
    if (f->n < 8)
        return torn_table(f);
    uint32_t at = follow(f, 0);
    return at ? table_at(f, at) : torn_table(f);
}

struct flat_table flat_table_in(struct flat *f, const struct flat_table *t, uint32_t field) {
    uint32_t where = field_at(f, t, field, 4);
    if (!where)
        return (struct flat_table){0};
    uint32_t at = follow(f, where);
    return at ? table_at(f, at) : torn_table(f);
}

struct flat_table flat_table_of(struct flat *f, const struct flat_vec *v, uint32_t i) {
    uint32_t at = i < v->count ? follow(f, v->at + 4 * i) : 0;
    return at ? table_at(f, at) : torn_table(f);
}

struct flat_vec flat_vec_in(struct flat *f, const struct flat_table *t, uint32_t field,
                            uint32_t element_bytes) {
    struct flat_vec v = {0, 0};
    uint32_t where = field_at(f, t, field, 4), at = where ? follow(f, where) : 0;
    if (!at)
        return v;
    uint32_t count = get32(f, at), left = f->n - at - 4;
    if (at % 4 || count > left / element_bytes) {
        f->torn = 1;
        return v;
    }
    v.at = at + 4;
    v.count = count;
    return v;
}

const char *flat_text_in(struct flat *f, const struct flat_table *t, uint32_t field) {
    struct flat_vec v = flat_vec_in(f, t, field, 1);
    if (!v.at)
        return NULL;
    if (v.count >= f->n - v.at || f->p[v.at + v.count] != 0) { /* the closing zero is not counted */
        f->torn = 1;
        return NULL;
    }
    return (const char *)(f->p + v.at);
}

uint32_t flat_u8(struct flat *f, const struct flat_table *t, uint32_t field, uint32_t missing) {
    uint32_t at = field_at(f, t, field, 1);
    return at ? f->p[at] : missing;
}

uint32_t flat_u32(struct flat *f, const struct flat_table *t, uint32_t field, uint32_t missing) {
    uint32_t at = field_at(f, t, field, 4);
    return at ? get32(f, at) : missing;
}

int32_t flat_i32_of(const struct flat *f, const struct flat_vec *v, uint32_t i) {
    return (int32_t)get32(f, v->at + 4 * i);
}
