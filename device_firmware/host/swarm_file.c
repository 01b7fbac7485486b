/* swarm_file.c: who the devices of a swarm are, written by whoever runs the backend.
 *
 * Lines of words: `installation HEX16`, `class HEX16`, `root HEX32` (1..4), `root_threshold N`,
 * `least_trust N`, `arena BYTES`, `slot BYTES`, `firmware M.N.P`, `operators HEX`,
 * `probation INFERENCES SECONDS`, and `device ID SECRET MACKEY_HEX32` for each.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "documents.h"
#include "swarm.h"

#include <sodium.h>

#define LINE 1200

/* Exactly n bytes of hex, or up to n when `least` is smaller. Bytes read, 0 = no hex. */
static size_t unhex(const char *text, uint8_t *out, size_t least, size_t n) {
    size_t got = 0, len = strlen(text);
    if (len % 2 || sodium_hex2bin(out, n, text, len, NULL, &got, NULL) || got < least)
        return 0;
    return got;
}

static int number(const char *text, uint32_t most, uint32_t *out) {
    char *end = NULL;
    unsigned long long v = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || v > most)
        return FC_ERR_SCHEMA;
    *out = (uint32_t)v;
    return FC_OK;
}

static int take_root(struct fc_ident *id, const char *hex) {
    if (id->n_roots >= 4 || unhex(hex, id->roots[id->n_roots], 32, 32) != 32)
        return FC_ERR_SCHEMA;
    id->n_roots++;
    return FC_OK;
}

static int take_device(struct swarm *s, uint32_t *n, char *const word[4]) {
    if (*n >= s->opt.devices)
        return FC_OK; /* more than asked for */
    struct device *d = calloc(1, sizeof *d);
    if (!d)
        return FC_ERR_PORT;
    d->conn.fd = -1;
    s->device[(*n)++] = d;
    size_t id_n = strlen(word[1]), secret_n = strlen(word[2]);
    if (!fc_is_device_id((const uint8_t *)word[1], id_n) || secret_n >= sizeof d->secret ||
        unhex(word[3], d->mac_key, 32, 32) != 32)
        return FC_ERR_SCHEMA;
    memcpy(d->id, word[1], id_n + 1);
    memcpy(d->secret, word[2], secret_n + 1);
    return FC_OK;
}

static int take_firmware(struct swarm_class *c, const char *text) {
    unsigned v[3];
    char rest;
    if (strlen(text) > 32 || sscanf(text, "%5u.%5u.%5u%c", &v[0], &v[1], &v[2], &rest) != 3)
        return FC_ERR_SCHEMA;
    for (int i = 0; i < 3; i++) {
        if (v[i] > UINT16_MAX)
            return FC_ERR_SCHEMA;
        c->ident.firmware[i] = (uint16_t)v[i];
    }
    strcpy(c->firmware, text);
    return FC_OK;
}

static int take_class(struct swarm_class *c, uint32_t words, char *const word[4]) {
    struct fc_ident *id = &c->ident;
    uint32_t v = 0;
    int rc = FC_ERR_SCHEMA;
    const char *key = word[0];
    if (strcmp(key, "probation") == 0 && words == 3) {
        rc = number(word[1], 100000, &id->probation_n);
        return rc ? rc : number(word[2], 86400, &id->probation_s);
    }
    if (words != 2)
        return FC_ERR_SCHEMA;
    if (strcmp(key, "installation") == 0)
        return unhex(word[1], id->inst, 16, 16) ? FC_OK : FC_ERR_SCHEMA;
    if (strcmp(key, "class") == 0)
        return unhex(word[1], id->class_id, 16, 16) ? FC_OK : FC_ERR_SCHEMA;
    if (strcmp(key, "root") == 0)
        return take_root(id, word[1]);
    if (strcmp(key, "firmware") == 0)
        return take_firmware(c, word[1]);
    if (strcmp(key, "operators") == 0)
        return (id->ops_len = unhex(word[1], c->ops, 1, sizeof c->ops)) ? FC_OK : FC_ERR_SCHEMA;
    if (strcmp(key, "least_trust") == 0)
        return number(word[1], INT32_MAX, &id->least_trust_version);
    if (strcmp(key, "arena") == 0)
        return number(word[1], INT32_MAX, &id->arena_bytes);
    if (strcmp(key, "slot") == 0) {
        rc = number(word[1], FC_CHUNKS_MAX * FC_SECTOR, &c->slot_bytes);
        return rc || c->slot_bytes % FC_SECTOR || !c->slot_bytes ? FC_ERR_SCHEMA : FC_OK;
    }
    if (strcmp(key, "root_threshold") == 0) {
        rc = number(word[1], 4, &v);
        id->root_threshold = (uint8_t)v;
    }
    return rc;
}

static int take_line(struct swarm *s, char *line, uint32_t *n) {
    char *word[4] = {0}, *rest = NULL;
    uint32_t words = 0;
    for (char *w = strtok_r(line, " \n", &rest); w; w = strtok_r(NULL, " \n", &rest)) {
        if (words == 4)
            return FC_ERR_SCHEMA;
        word[words++] = w;
    }
    if (!words)
        return FC_OK;
    if (strcmp(word[0], "device") == 0)
        return words == 4 ? take_device(s, n, word) : FC_ERR_SCHEMA;
    return take_class(&s->class, words, word);
}

int swarm_file_read(struct swarm *s) {
    char line[LINE];
    uint32_t at = 0, n = 0;
    int rc = FC_ERR_SCHEMA;
    FILE *file = fopen(s->opt.file, "re");
    if (!file) {
        fprintf(stderr, "swarm: %s cannot be opened\n", s->opt.file);
        return rc;
    }
    while (fgets(line, sizeof line, file)) {
        at++;
        if (strlen(line) == sizeof line - 1 || take_line(s, line, &n)) {
            fprintf(stderr, "swarm: %s:%u: not understood\n", s->opt.file, at);
            goto out;
        }
    }
    if (n < s->opt.devices) {
        fprintf(stderr, "swarm: %s names %u devices, %u are asked for\n", s->opt.file, n,
                s->opt.devices);
        goto out;
    }
    if (!s->class.slot_bytes || !s->class.ident.n_roots || !s->class.ident.ops_len ||
        !s->class.firmware[0]) {
        fprintf(stderr, "swarm: %s lacks slot, root, operators or firmware\n", s->opt.file);
        goto out;
    }
    rc = FC_OK;
out:
    fclose(file);
    return rc;
}
