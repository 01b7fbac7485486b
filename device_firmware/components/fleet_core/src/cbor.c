/* cbor.c: see cbor.h. Every byte read here may come from an attacker: a length is compared with
 * what is left (n > end - p) before anything is added to a pointer.
 */
#include "cbor.h"

#include "bytes.h"

/* Reads a head in shortest form. Returns its major type, or -1 and fails the cursor; in->value is
 * any 64-bit number, not yet a length. */
static int head(struct fc_in *in) {
    uint32_t left = (uint32_t)(in->end - in->p);
    if (in->err || !left)
        goto fail;
    uint32_t first = *in->p++, info = first & 31u, size = 0;
    if (first >> 5 == FC_SIMPLE || info > 27)
        goto fail; /* float, simple, reserved or indefinite */
    uint64_t v = info;
    if (info >= 24) {
        size = 1u << (info - 24u);
        if (left - 1 < size)
            goto fail;
        v = 0;
        for (uint32_t i = size; i; i--)
            v = v << 8 | *in->p++;
        /* Half the bytes would have held it, or the head itself. */
        if (size == 8 ? !(v >> 32) : (uint32_t)v < (size == 1 ? 24u : 1u << (size * 4)))
            goto fail;
    }
    in->value = v;
    return (int)(first >> 5);
fail:
    fc_in_fail(in);
    return -1;
}

/* Well-formed UTF-8 without surrogates or overlong forms (RFC 3629). */
static int is_utf8(const uint8_t *p, size_t n) {
    const uint8_t *end = p + n;
    while (p < end) {
        uint32_t a = *p++;
        if (a < 0x80)
            continue;
        if (a < 0xC2 || a > 0xF4)
            return 0;
        uint32_t more = 1u + (a >= 0xE0) + (a >= 0xF0), code = a & (0x3Fu >> more);
        uint32_t least = more == 1 ? 0 : 1u << (5 * more + 1); /* 0xC2 bounds the short form */
        for (; more; more--, p++) {
            if (p >= end || *p >> 6 != 2)
                return 0;
            code = code << 6 | (*p & 0x3Fu);
        }
        if (code < least || code > 0x10FFFF || code >> 11 == 0xD800 >> 11)
            return 0;
    }
    return 1;
}

/* 8 bytes: there are seven of them, deep in the stack. No item is longer than FC_BLOB_MAX, and what
 * a container holds lies behind its head: places, lengths and items left are below 2^16. */
struct frame {
    uint16_t left;         /* items still to come */
    uint16_t last, last_n; /* map: the key before, encoded: its place and length */
    uint8_t kind;          /* enum fc_major: array, map or tag */
};
_Static_assert(FC_BLOB_MAX <= UINT16_MAX + 1u, "places in an item");

/* A map key: 0..31 or text, its encoding above the one before. */
static int is_key(struct frame *f, const uint8_t *p, const uint8_t *start, size_t n, int major,
                  uint64_t value) {
    size_t shared = n < f->last_n ? n : f->last_n;
    int order = shared ? memcmp(p + f->last, start, shared) : -1;
    f->last = (uint16_t)(start - p);
    if (order == 0)
        order = f->last_n < n ? -1 : 1;
    f->last_n = (uint16_t)n;
    return order < 0 && (major == FC_TEXT || (major == FC_UINT && value <= FC_KEY_MAX));
}

int fc_cbor_check(const uint8_t *p, size_t n, unsigned flags, uint32_t items_max) {
    struct frame stack[FC_DEPTH_MAX + 1] = {{.left = 1}}, *f = stack;
    struct fc_in in = fc_in_of(p, n);
    if (n > FC_BLOB_MAX)
        return FC_ERR_SCHEMA;
    for (; items_max; items_max--) {
        const uint8_t *start = in.p;
        int major = head(&in);
        uint64_t value = in.value;
        /* More items than bytes; also bounds lengths and twice the pairs to 32 bits. */
        if (major < 0 || (major >= FC_BYTES && major <= FC_MAP &&
                          value > (uint32_t)(in.end - in.p) >> (major == FC_MAP)))
            break;
        uint32_t left = (uint32_t)value;
        if (major == FC_TEXT && !is_utf8(in.p, left))
            break;
        if (major == FC_BYTES || major == FC_TEXT)
            in.p += left;
        if (f->kind == FC_MAP && f->left % 2 == 0 &&
            !is_key(f, p, start, (size_t)(in.p - start), major, value))
            break;
        f->left--;
        if (major >= FC_ARRAY) {
            if (major == FC_TAG ? f != stack || !(flags & FC_CBOR_TAG) : 0)
                break;
            if (f == stack + FC_DEPTH_MAX)
                break;
            left = major == FC_TAG ? 1 : left << (major == FC_MAP);
            *++f = (struct frame){(uint16_t)left, 0, 0, (uint8_t)major};
        }
        /* An item ended: so do the containers of which it was the last. */
        for (; !f->left; f--)
            if (f == stack)
                return in.p == in.end ? FC_OK : FC_ERR_SCHEMA;
    }
    return FC_ERR_SCHEMA;
}

struct fc_in fc_in_of(const uint8_t *p, size_t n) {
    return (struct fc_in){p, p + n, FC_OK, 0};
}

void fc_in_fail(struct fc_in *in) {
    in->err = FC_ERR_SCHEMA;
}

int fc_in_major(const struct fc_in *in) {
    return in->err || in->p >= in->end ? -1 : *in->p >> 5;
}

/* The argument of the next head when it has the wanted type; else the cursor fails. */
static uint64_t argument(struct fc_in *in, int wanted) {
    if (head(in) == wanted)
        return in->value;
    fc_in_fail(in);
    return 0;
}

uint64_t fc_in_u64(struct fc_in *in) {
    return argument(in, FC_UINT);
}

uint32_t fc_in_head(struct fc_in *in, enum fc_major wanted, uint32_t least, uint32_t most) {
    if (head(in) != (int)wanted || in->value < least || in->value > most)
        fc_in_fail(in);
    return in->err ? 0 : (uint32_t)in->value;
}

int64_t fc_in_int(struct fc_in *in) {
    if (fc_in_major(in) == FC_NINT)
        return -1 - (int64_t)fc_in_head(in, FC_NINT, 0, INT32_MAX);
    return fc_in_u32(in, 0, UINT32_MAX);
}

const uint8_t *fc_in_string(struct fc_in *in, enum fc_major major, uint32_t least, uint32_t most,
                            uint32_t *n) {
    uint32_t size = fc_in_head(in, major, least, most);
    if (size > (uint32_t)(in->end - in->p))
        fc_in_fail(in);
    if (in->err)
        size = 0;
    if (n)
        *n = size;
    const uint8_t *p = in->p;
    in->p += size;
    return in->err ? NULL : p;
}

uint64_t fc_in_tag(struct fc_in *in) {
    return argument(in, FC_TAG);
}

/* Skips an item whose form fc_cbor_check accepted: counting items is enough, no stack is needed.
 * value <= bytes left for all lengths (checked again), so neither p nor 2 * value can wrap. */
void fc_in_skip(struct fc_in *in) {
    for (uint32_t left = 1; left && !in->err; left--) {
        int major = head(in);
        uint64_t value = in->value;
        if (major == FC_TAG)
            left++;
        else if (major >= FC_BYTES && value > (uint32_t)(in->end - in->p))
            fc_in_fail(in);
        else if (major >= FC_ARRAY)
            left += (uint32_t)value << (major == FC_MAP);
        else if (major >= FC_BYTES)
            in->p += value;
    }
}

int fc_in_done(const struct fc_in *in) {
    return !in->err && in->p == in->end;
}

uint32_t fc_in_open(struct fc_in *in, const uint8_t *p, size_t n, uint32_t most) {
    *in = fc_in_of(p, n);
    if (fc_cbor_check(p, n, 0, FC_ITEMS_MAX))
        fc_in_fail(in);
    return fc_in_map(in, most);
}

void fc_in_key(struct fc_in *in, uint32_t key) {
    fc_in_u32(in, key, key);
}

void fc_in_raw(struct fc_in *in, uint8_t *out, uint32_t n) {
    const uint8_t *p = fc_in_bytes(in, n, n, NULL);
    if (p)
        memcpy(out, p, n);
}

/* Lower-case letters, digits; behind the first also a hyphen and, in names, dot and underscore. */
static int is_id(const uint8_t *p, size_t n, int is_name) {
    for (size_t i = 0; i < n; i++) {
        uint32_t c = p[i];
        if (c - 'a' > 25 && c - '0' > 9 &&
            (!i || (c != '-' && (!is_name || (c != '.' && c != '_')))))
            return 0;
    }
    return n > 0;
}

int fc_is_name(const uint8_t *p, size_t n) {
    return is_id(p, n, 1);
}

int fc_is_device_id(const uint8_t *p, size_t n) {
    return n <= 32 && is_id(p, n, 0);
}

int fc_is_printable(const uint8_t *p, size_t n, uint8_t least) {
    for (size_t i = 0; i < n; i++)
        if (p[i] < least || p[i] > 0x7E)
            return 0;
    return 1;
}

struct fc_out fc_out_to(uint8_t *p, size_t cap) {
    return (struct fc_out){p, 0, cap, FC_OK};
}

/* Room for n bytes, NULL and an error when there is not so much. */
static uint8_t *room(struct fc_out *out, size_t n) {
    if (out->err || n > out->cap - out->n) {
        out->err = FC_ERR_TOO_LARGE;
        return NULL;
    }
    out->n += n;
    return out->p + out->n - n;
}

void fc_out_raw(struct fc_out *out, const void *p, size_t n) {
    uint8_t *to = room(out, n);
    if (to && n)
        memcpy(to, p, n);
}

void fc_out_head(struct fc_out *out, enum fc_major major, uint64_t value) {
    uint32_t low = (uint32_t)value, size = low < 24 ? 0 : low < 256 ? 1 : low < 65536 ? 2 : 4;
    if (value >> 32)
        size = 8;
    uint8_t *to = room(out, size + 1);
    if (!to)
        return;
    if (size) /* 24, 25, 26, 27 stand for 1, 2, 4, 8 bytes behind the head */
        low = 24u + (size > 1) + (size > 2) + (size > 4);
    to[0] = (uint8_t)((unsigned)major << 5 | low);
    for (; size; size--, value >>= 8)
        to[size] = (uint8_t)value;
}

void fc_out_u32(struct fc_out *out, uint32_t value) {
    fc_out_head(out, FC_UINT, value);
}

void fc_out_uint(struct fc_out *out, uint64_t value) {
    fc_out_head(out, FC_UINT, value);
}

void fc_out_int(struct fc_out *out, int64_t value) {
    fc_out_head(out, value < 0 ? FC_NINT : FC_UINT, (uint64_t)(value < 0 ? ~value : value));
}

void fc_out_text(struct fc_out *out, const char *text) {
    size_t n = strlen(text);
    fc_out_head(out, FC_TEXT, n);
    fc_out_raw(out, text, n);
}

void fc_out_array(struct fc_out *out, uint32_t n) {
    fc_out_head(out, FC_ARRAY, n);
}

void fc_out_map(struct fc_out *out, uint32_t n) {
    fc_out_head(out, FC_MAP, n);
}

void fc_out_pair(struct fc_out *out, uint32_t key, uint64_t value) {
    fc_out_u32(out, key);
    fc_out_uint(out, value);
}

void fc_out_list(struct fc_out *out, const uint32_t *v, uint32_t n) {
    fc_out_array(out, n);
    for (uint32_t i = 0; i < n; i++)
        fc_out_u32(out, v[i]);
}
