/* enrol_json.c: the three JSON texts of enrolment (SPEC.md section 10). Portable C, no library.
 *
 * Who controls the bytes: the ticket comes from whoever provisions the device, the answer from the
 * backend behind a checked certificate. Both are read once, bounded by their length. Positions only
 * move forward and are compared with `end` before each read; nesting is counted, not recursed into.
 */
#include <stdio.h>
#include <string.h>

#include "port.h"

#define DEPTH_MAX 8

struct json {
    const char *p, *end;
};

static void skip_space(struct json *j) {
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\r' || *j->p == '\t'))
        j->p++;
}

static bool take(struct json *j, char c) {
    skip_space(j);
    if (j->p >= j->end || *j->p != c)
        return false;
    j->p++;
    return true;
}

/* Past a string; *text is what is between the quotes, still escaped. */
static bool take_string(struct json *j, struct json *text) {
    if (!take(j, '"'))
        return false;
    text->p = j->p;
    while (j->p < j->end && *j->p != '"') {
        if ((unsigned char)*j->p < 0x20u)
            return false;
        j->p += *j->p == '\\' && j->end - j->p > 1 ? 2 : 1;
    }
    if (j->p >= j->end)
        return false;
    text->end = j->p++;
    return true;
}

/* Past any value. Numbers and words are not looked at: whoever wants one reads it. */
static bool skip_value(struct json *j) {
    struct json text;
    char open[DEPTH_MAX];
    int depth = 0;
    do {
        skip_space(j);
        if (j->p >= j->end)
            return false;
        char c = *j->p;
        if (c == '"') {
            if (!take_string(j, &text))
                return false;
        } else if (c == '{' || c == '[') {
            if (depth == DEPTH_MAX)
                return false;
            open[depth++] = c == '{' ? '}' : ']';
            j->p++;
        } else if (c == '}' || c == ']') {
            if (!depth || open[--depth] != c)
                return false;
            j->p++;
        } else if (depth && (c == ',' || c == ':')) {
            j->p++;
        } else {
            const char *begin = j->p;
            while (j->p < j->end && !strchr(",:]} \n\r\t\"", *j->p))
                j->p++;
            if (j->p == begin)
                return false;
        }
    } while (depth);
    return true;
}

/* The value of a member of the object at `in`. False: no object, broken, or no such member. */
static bool member(struct json in, const char *name, struct json *value) {
    struct json key;
    if (!take(&in, '{'))
        return false;
    while (take_string(&in, &key) && take(&in, ':')) {
        skip_space(&in);
        value->p = in.p;
        if (!skip_value(&in))
            return false;
        value->end = in.p;
        if ((size_t)(key.end - key.p) == strlen(name) && memcmp(key.p, name, strlen(name)) == 0)
            return true;
        if (!take(&in, ','))
            return false;
    }
    return false;
}

/* One escape after its backslash; only ASCII is written by \u. */
static bool escape(struct json *t, char *c) {
    static const char FROM[] = "\"\\/bfnrt", TO[] = "\"\\/\b\f\n\r\t";
    const char *at = *t->p ? strchr(FROM, *t->p) : NULL;
    unsigned code = 0;
    if (at) {
        *c = TO[at - FROM];
        t->p++;
        return true;
    }
    if (*t->p != 'u' || t->end - t->p < 5)
        return false;
    for (int i = 1; i <= 4; i++) {
        char h = t->p[i];
        const char *digits = "0123456789abcdefABCDEF", *d = h ? strchr(digits, h) : NULL;
        if (!d)
            return false;
        unsigned v = (unsigned)(d - digits);
        code = code * 16u + (v > 15u ? v - 6u : v);
    }
    *c = (char)code;
    t->p += 5;
    return code > 0 && code < 128;
}

/* A string member, decoded, ending in a zero. */
static bool text(struct json in, const char *name, char *out, size_t room) {
    struct json value, t;
    size_t n = 0;
    if (!member(in, name, &value) || !take_string(&value, &t))
        return false;
    while (t.p < t.end) {
        char c = *t.p++;
        if (c == '\\' && (t.p >= t.end || !escape(&t, &c)))
            return false;
        if (!c || (unsigned char)c > 126u || n + 1 >= room) /* names, hosts and PEM are ASCII */
            return false;
        out[n++] = c;
    }
    out[n] = 0;
    return n > 0;
}

/* An unsigned number member, at most `most`. */
static bool number(struct json in, const char *name, uint32_t most, uint32_t *out) {
    struct json value;
    uint64_t v = 0;
    if (!member(in, name, &value) || value.p >= value.end || value.end - value.p > 10)
        return false;
    for (; value.p < value.end; value.p++) {
        if (*value.p < '0' || *value.p > '9')
            return false;
        v = v * 10u + (uint64_t)(*value.p - '0'); /* at most ten digits: below 2^34 */
    }
    *out = (uint32_t)v;
    return v <= most;
}

static int nibble(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A string of exactly n bytes in lower-case hex. */
static bool hex(struct json value, uint8_t *out, size_t n) {
    struct json t;
    if (!take_string(&value, &t) || (size_t)(t.end - t.p) != 2 * n)
        return false;
    for (size_t i = 0; i < n; i++) {
        int high = nibble(t.p[2 * i]), low = nibble(t.p[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high * 16 + low);
    }
    return true;
}

static bool hex_member(struct json in, const char *name, uint8_t *out, size_t n) {
    struct json value;
    return member(in, name, &value) && hex(value, out, n);
}

static bool roots(struct json in, struct port_identity *out) {
    struct json list, one;
    if (!member(in, "roots", &list) || !take(&list, '['))
        return false;
    do {
        skip_space(&list);
        one.p = list.p;
        if (out->n_roots == 4 || !skip_value(&list))
            return false;
        one.end = list.p;
        if (!hex(one, out->roots[out->n_roots++], 32))
            return false;
    } while (take(&list, ','));
    return take(&list, ']');
}

/* [a-z0-9][a-z0-9-]{0,31}: it becomes part of topics. */
static bool is_device_id(const char *id) {
    if (id[0] == '-' || !id[0])
        return false;
    for (; *id; id++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789-", *id))
            return false;
    return true;
}

int enrol_ticket_parse(const char *p, size_t n, struct port_ticket *out) {
    struct json in = {p, p + n};
    memset(out, 0, sizeof *out);
    bool good = text(in, "device_id", out->device_id, sizeof out->device_id) &&
                text(in, "token", out->token, sizeof out->token) &&
                text(in, "class", out->device_class, sizeof out->device_class) &&
                text(in, "url", out->url, sizeof out->url) && is_device_id(out->device_id) &&
                strncmp(out->url, "https://", 8) == 0; /* keys are handed out over HTTPS only */
    return good ? FC_OK : FC_ERR_SCHEMA;
}

int enrol_answer_parse(const char *p, size_t n, struct port_identity *out) {
    struct json in = {p, p + n}, broker = {0}, device_class = {0};
    uint32_t port = 0, threshold = 0;
    memset(out, 0, sizeof *out);
    bool good = member(in, "broker", &broker) && member(in, "class", &device_class) &&
                text(in, "device_id", out->device_id, sizeof out->device_id) &&
                text(broker, "host", out->host, sizeof out->host) &&
                number(broker, "port", 65535, &port) &&
                text(broker, "username", out->user, sizeof out->user) &&
                text(broker, "password", out->secret, sizeof out->secret) &&
                text(broker, "ca_pem", out->ca, sizeof out->ca) &&
                hex_member(in, "installation_id", out->installation, 16) &&
                hex_member(in, "class_id", out->class_id, 16) &&
                hex_member(in, "mac_key", out->mac_key, 32) && roots(in, out) &&
                number(in, "root_threshold", 4, &threshold) &&
                number(in, "least_trust_version", INT32_MAX, &out->least_trust_version) &&
                number(device_class, "arena_bytes", INT32_MAX, &out->arena_bytes) &&
                is_device_id(out->device_id);
    out->port = (uint16_t)port;
    out->root_threshold = (uint8_t)threshold;
    good = good && port && threshold >= 1 && threshold <= out->n_roots;
    return good ? FC_OK : FC_ERR_SCHEMA;
}

/* What came out of a JSON string goes back in: quotes and backslashes were never needed in these.
 */
static bool is_plain(const char *s) {
    for (; *s; s++)
        if (*s == '"' || *s == '\\' || (unsigned char)*s < 0x20u)
            return false;
    return true;
}

int enrol_request_write(const struct port_ticket *t, const char *chip, const char *firmware,
                        char *out, size_t room) {
    if (!is_plain(t->token) || !is_plain(t->device_class))
        return FC_ERR_SCHEMA;
    int n = snprintf(out, room,
                     "{\"token\":\"%s\",\"device_id\":\"%s\",\"class\":\"%s\",\"chip\":\"%s\","
                     "\"firmware\":\"%s\"}",
                     t->token, t->device_id, t->device_class, chip, firmware);
    return n > 0 && (size_t)n < room ? FC_OK : FC_ERR_TOO_LARGE;
}
