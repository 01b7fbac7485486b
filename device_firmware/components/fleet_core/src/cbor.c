/* cbor.c: see cbor.h. Every byte read here may come from an attacker: a length is compared with
 * what is left (n > end - p) before anything is added to a pointer.
 */
#include "cbor.h"

#include <string.h>

/* Reads a head in shortest form. 0 = done; the argument is any 64-bit number, not yet a length. */
static int head(const uint8_t **p, const uint8_t *end, unsigned *major, uint64_t *value) {
    if (*p >= end)
        return FC_ERR_SCHEMA;
    unsigned first = *(*p)++;
    unsigned info = first & 31u;
    *major = first >> 5;
    if (*major == FC_SIMPLE || info > 27)
        return FC_ERR_SCHEMA; /* float, simple, reserved or indefinite */
    if (info < 24) {
        *value = info;
        return FC_OK;
    }
    size_t size = (size_t)1 << (info - 24u);
    if ((size_t)(end - *p) < size)
        return FC_ERR_SCHEMA;
    uint64_t v = 0;
    for (size_t i = 0; i < size; i++)
        v = v << 8 | *(*p)++;
    uint64_t least = size == 1 ? 24 : (uint64_t)1 << (size * 4);
    if (v < least)
        return FC_ERR_SCHEMA;
    *value = v;
    return FC_OK;
}

/* Well-formed UTF-8 without surrogates or overlong forms (RFC 3629). */
static int is_utf8(const uint8_t *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint8_t a = p[i++];
        if (a < 0x80)
            continue;
        unsigned more;
        uint8_t low = 0x80, high = 0xBF;
        if (a >= 0xC2 && a <= 0xDF)
            more = 1;
        else if (a >= 0xE0 && a <= 0xEF)
            more = 2;
        else if (a >= 0xF0 && a <= 0xF4)
            more = 3;
        else
            return 0;
        if (a == 0xE0)
            low = 0xA0;
        if (a == 0xED)
            high = 0x9F;
        if (a == 0xF0)
            low = 0x90;
        if (a == 0xF4)
            high = 0x8F;
        if (n - i < more)
            return 0;
        for (; more; more--) {
            if (p[i] < low || p[i] > high)
                return 0;
            low = 0x80;
            high = 0xBF;
            i++;
        }
    }
    return 1;
}

struct frame {
    uint32_t left;       /* items still to come */
    uint8_t kind;        /* enum fc_major: array, map or tag */
    const uint8_t *last; /* map: the key before, encoded */
    size_t last_n;
};

/* A map key: 0..31 or text, its encoding above the one before. */
static int key_check(struct frame *f, const uint8_t *start, const uint8_t *after, unsigned major,
                     uint64_t value) {
    if (major != FC_TEXT && (major != FC_UINT || value > FC_KEY_MAX))
        return FC_ERR_SCHEMA;
    size_t n = (size_t)(after - start);
    if (f->last) {
        size_t shared = n < f->last_n ? n : f->last_n;
        int order = memcmp(f->last, start, shared);
        if (order > 0 || (order == 0 && f->last_n >= n))
            return FC_ERR_SCHEMA;
    }
    f->last = start;
    f->last_n = n;
    return FC_OK;
}

int fc_cbor_check(const uint8_t *p, size_t n, unsigned flags, uint32_t items_max) {
    struct frame stack[FC_DEPTH_MAX];
    unsigned depth = 0;
    uint32_t items = 0;
    const uint8_t *end = p + n;

    for (;;) {
        const uint8_t *start = p;
        unsigned major = FC_SIMPLE;
        uint64_t value = 0;
        if (++items > items_max || head(&p, end, &major, &value))
            return FC_ERR_SCHEMA;
        if (major == FC_BYTES || major == FC_TEXT) {
            if (value > (uint64_t)(end - p))
                return FC_ERR_SCHEMA;
            if (major == FC_TEXT && !is_utf8(p, (size_t)value))
                return FC_ERR_SCHEMA;
            p += value;
        }
        if (depth && stack[depth - 1].kind == FC_MAP && stack[depth - 1].left % 2 == 0 &&
            key_check(&stack[depth - 1], start, p, major, value))
            return FC_ERR_SCHEMA;
        if (major >= FC_ARRAY) {
            uint64_t left = value;
            if (depth >= FC_DEPTH_MAX)
                return FC_ERR_SCHEMA;
            if (major == FC_TAG) {
                if (depth || !(flags & FC_CBOR_TAG))
                    return FC_ERR_SCHEMA;
                left = 1;
            } else if (value > (uint64_t)(end - p) / (major == FC_MAP ? 2u : 1u)) {
                return FC_ERR_SCHEMA; /* more items than bytes; also bounds left to 32 bits */
            } else if (major == FC_MAP) {
                left = value * 2;
            }
            if (left) {
                stack[depth++] = (struct frame){(uint32_t)left, (uint8_t)major, NULL, 0};
                continue;
            }
        }
        /* An item ended: so do the containers of which it was the last. */
        while (depth && --stack[depth - 1].left == 0)
            depth--;
        if (!depth)
            return p == end ? FC_OK : FC_ERR_SCHEMA;
    }
}

struct fc_in fc_in_of(const uint8_t *p, size_t n) {
    return (struct fc_in){p, p + n, FC_OK};
}

void fc_in_fail(struct fc_in *in) {
    in->err = FC_ERR_SCHEMA;
}

int fc_in_major(const struct fc_in *in) {
    return in->err || in->p >= in->end ? -1 : *in->p >> 5;
}

/* The argument of the next head when it has the wanted type; else the cursor fails. */
static uint64_t argument(struct fc_in *in, unsigned wanted) {
    unsigned major = FC_SIMPLE;
    uint64_t value = 0;
    if (in->err)
        return 0;
    const uint8_t *p = in->p;
    if (head(&p, in->end, &major, &value) || major != wanted) {
        fc_in_fail(in);
        return 0;
    }
    in->p = p;
    return value;
}

uint64_t fc_in_uint(struct fc_in *in, uint64_t most) {
    uint64_t v = argument(in, FC_UINT);
    if (v > most)
        fc_in_fail(in);
    return in->err ? 0 : v;
}

int64_t fc_in_int(struct fc_in *in, int64_t least, int64_t most) {
    int major = fc_in_major(in);
    uint64_t raw = argument(in, major == FC_NINT ? FC_NINT : FC_UINT);
    if (raw > INT64_MAX)
        fc_in_fail(in);
    if (in->err)
        return 0;
    int64_t v = major == FC_NINT ? -1 - (int64_t)raw : (int64_t)raw;
    if (v < least || v > most)
        fc_in_fail(in);
    return in->err ? 0 : v;
}

static const uint8_t *string(struct fc_in *in, unsigned major, uint32_t least, uint32_t most,
                             uint32_t *n) {
    uint64_t size = argument(in, major);
    if (n)
        *n = 0;
    if (size < least || size > most || size > (uint64_t)(in->end - in->p))
        fc_in_fail(in);
    if (in->err)
        return NULL;
    const uint8_t *p = in->p;
    in->p += size;
    if (n)
        *n = (uint32_t)size;
    return p;
}

const uint8_t *fc_in_bytes(struct fc_in *in, uint32_t least, uint32_t most, uint32_t *n) {
    return string(in, FC_BYTES, least, most, n);
}

const uint8_t *fc_in_text(struct fc_in *in, uint32_t least, uint32_t most, uint32_t *n) {
    return string(in, FC_TEXT, least, most, n);
}

uint32_t fc_in_array(struct fc_in *in, uint32_t least, uint32_t most) {
    uint64_t n = argument(in, FC_ARRAY);
    if (n < least || n > most)
        fc_in_fail(in);
    return in->err ? 0 : (uint32_t)n;
}

uint32_t fc_in_map(struct fc_in *in, uint32_t most) {
    uint64_t n = argument(in, FC_MAP);
    if (n > most)
        fc_in_fail(in);
    return in->err ? 0 : (uint32_t)n;
}

uint64_t fc_in_tag(struct fc_in *in) {
    return argument(in, FC_TAG);
}

/* Skips an item whose form fc_cbor_check accepted: counting items is enough, no stack is needed.
 * value <= bytes left for all lengths (checked again), so neither p nor 2 * value can wrap. */
void fc_in_skip(struct fc_in *in) {
    uint32_t left = 1;
    while (left && !in->err) {
        unsigned major = FC_SIMPLE;
        uint64_t value = 0;
        if (head(&in->p, in->end, &major, &value) ||
            (major > FC_NINT && major < FC_TAG && value > (uint64_t)(in->end - in->p)))
            fc_in_fail(in);
        left--;
        if (in->err || major <= FC_NINT)
            continue;
        if (major == FC_TAG)
            left++;
        else if (major >= FC_ARRAY)
            left += (uint32_t)value << (major == FC_MAP);
        else
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

void fc_in_key(struct fc_in *in, uint64_t key) {
    if (argument(in, FC_UINT) != key)
        fc_in_fail(in);
}

void fc_in_raw(struct fc_in *in, uint8_t *out, uint32_t n) {
    const uint8_t *p = fc_in_bytes(in, n, n, NULL);
    if (p)
        memcpy(out, p, n);
}

/* Lower-case letters and digits; behind the first also what `extra` holds. */
static int is_id(const uint8_t *p, size_t n, const char *extra, size_t n_extra) {
    for (size_t i = 0; i < n; i++) {
        int good = (p[i] >= 'a' && p[i] <= 'z') || (p[i] >= '0' && p[i] <= '9');
        for (size_t k = 0; k < n_extra && i; k++)
            good |= p[i] == (uint8_t)extra[k];
        if (!good)
            return 0;
    }
    return n > 0;
}

int fc_is_name(const uint8_t *p, size_t n) {
    return is_id(p, n, "-._", 3);
}

int fc_is_device_id(const uint8_t *p, size_t n) {
    return n <= 32 && is_id(p, n, "-", 1);
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

void fc_out_raw(struct fc_out *out, const void *p, size_t n) {
    if (out->err || n > out->cap - out->n) {
        out->err = FC_ERR_TOO_LARGE;
        return;
    }
    if (n)
        memcpy(out->p + out->n, p, n);
    out->n += n;
}

void fc_out_head(struct fc_out *out, enum fc_major major, uint64_t value) {
    uint8_t raw[9];
    unsigned info = 24, size = 1;
    if (value < 24) {
        info = (unsigned)value;
        size = 0;
    }
    for (; size && size < 8 && value >> (8 * size); size *= 2)
        info++;
    raw[0] = (uint8_t)((unsigned)major << 5 | info);
    for (unsigned i = 0; i < size; i++)
        raw[size - i] = (uint8_t)(value >> (8 * i));
    fc_out_raw(out, raw, size + 1);
}

void fc_out_uint(struct fc_out *out, uint64_t value) {
    fc_out_head(out, FC_UINT, value);
}

void fc_out_int(struct fc_out *out, int64_t value) {
    if (value < 0)
        fc_out_head(out, FC_NINT, (uint64_t)(-1 - value));
    else
        fc_out_head(out, FC_UINT, (uint64_t)value);
}

void fc_out_bytes(struct fc_out *out, const void *p, size_t n) {
    fc_out_head(out, FC_BYTES, n);
    fc_out_raw(out, p, n);
}

void fc_out_text(struct fc_out *out, const char *text) {
    size_t n = strlen(text);
    fc_out_head(out, FC_TEXT, n);
    fc_out_raw(out, text, n);
}

void fc_out_array(struct fc_out *out, uint64_t n) {
    fc_out_head(out, FC_ARRAY, n);
}

void fc_out_map(struct fc_out *out, uint64_t n) {
    fc_out_head(out, FC_MAP, n);
}
