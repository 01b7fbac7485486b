/* enrol.c: the portable files of main/ for tests. argv[1]: "ticket", "answer", "request" or
 * "class". Standard input: the text (ticket, answer, request), or for "class" numbers and texts as
 * the test writes them. Prints what was understood, one field a line; exit 1 = refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port.h"

static void print_hex(const char *name, const uint8_t *p, size_t n) {
    printf("%s=", name);
    for (size_t i = 0; i < n; i++)
        printf("%02x", p[i]);
    printf("\n");
}

static int class_main(char **argv) {
    uint8_t out[CLASS_DESCRIPTION_MAX], ops[FC_OPS_BYTES_MAX];
    uint32_t slot_bytes[FC_SLOTS_MAX];
    struct class_description d = {.name = argv[0],
                                  .esp_nn = argv[1],
                                  .chip = (uint8_t)atoi(argv[2]),
                                  .arena_bytes = (uint32_t)atoi(argv[3]),
                                  .slot_bytes = slot_bytes,
                                  .ops = ops};
    for (char **bank = argv + 4; *bank && d.n_slots < FC_SLOTS_MAX; bank++)
        slot_bytes[d.n_slots++] = class_slot_bytes((uint32_t)atoi(*bank));
    d.ops_n = fread(ops, 1, sizeof ops, stdin);
    size_t n = class_describe(&d, out);
    print_hex("class", out, n);
    return n ? 0 : 1;
}

int main(int argc, char **argv) {
    static char big[65536];
    if (argc > 5 && strcmp(argv[1], "class") == 0)
        return class_main(argv + 2);
    size_t n = fread(big, 1, sizeof big, stdin);
    char *text = malloc(n ? n : 1); /* of exactly this size, for ASan */
    struct port_ticket t;
    static struct port_identity id;
    int rc = 2;
    if (argc < 2 || !text)
        return rc;
    memcpy(text, big, n);
    if (strcmp(argv[1], "answer") == 0) {
        rc = enrol_answer_parse(text, n, &id) != FC_OK;
        if (!rc) {
            printf("device_id=%s\nhost=%s\nport=%u\nuser=%s\nsecret=%s\nleast=%u\narena=%u\n",
                   id.device_id, id.host, id.port, id.user, id.secret,
                   (unsigned)id.least_trust_version, (unsigned)id.arena_bytes);
            printf("threshold=%u\n", id.root_threshold);
            print_hex("ca", (const uint8_t *)id.ca, strlen(id.ca));
            print_hex("installation", id.installation, 16);
            print_hex("class", id.class_id, 16);
            print_hex("mac", id.mac_key, 32);
            print_hex("roots", id.roots[0], 32u * id.n_roots);
        }
    } else {
        char body[512];
        rc = enrol_ticket_parse(text, n, &t) != FC_OK ||
             enrol_request_write(&t, "esp32c3", "1.0.0", body, sizeof body) != FC_OK;
        if (!rc)
            printf("url=%s\nbody=%s\n", t.url, body);
    }
    free(text);
    return rc;
}
