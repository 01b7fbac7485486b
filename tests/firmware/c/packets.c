/* packets.c: mqtt_mini.c behind a line protocol, for test_mqtt_mini.py. Built with ASan; every
 * packet is read from a buffer of exactly its size.
 *
 *   r MOST HEX                         -> result used type qos dup retain session code id topic
 * payload c CAP CLEAN KEEPALIVE ID USER SECRET WILLTOPIC WILLHEX     ("-" = none) -> hex, "-" =
 * refused p CAP QOS RETAIN ID TOPIC HEX      -> hex s|u CAP QOS ID FILTER              -> hex a|g|d
 * CAP ID                       -> hex of PUBACK, PINGREQ, DISCONNECT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mqtt_mini.h"

static char line[300000], word[8][140000];

static size_t unhex(const char *text, uint8_t **out) {
    size_t n = strcmp(text, "-") == 0 ? 0 : strlen(text) / 2;
    uint8_t *p = malloc(n ? n : 1);
    for (size_t i = 0; p && i < n; i++) {
        unsigned v = 0;
        if (sscanf(text + 2 * i, "%2x", &v) != 1)
            exit(2);
        p[i] = (uint8_t)v;
    }
    *out = p;
    return n;
}

static void hex(const void *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        printf("%02x", ((const uint8_t *)p)[i]);
    if (!n)
        putchar('-');
}

static void show_read(void) {
    struct mq_packet k;
    uint8_t *p = NULL;
    size_t used = 0, n = unhex(word[1], &p);
    int rc = mq_read(p, n, (size_t)atol(word[0]), &k, &used);
    printf("%d %zu %u %u %u %u %u %u %u ", rc, used, k.type, k.qos, k.dup, k.retain, k.session,
           k.code, k.id);
    hex(k.topic, rc == MQ_PACKET ? k.topic_n : 0);
    putchar(' ');
    hex(k.payload, rc == MQ_PACKET ? k.payload_n : 0);
    putchar('\n');
    free(p);
}

static const char *text(int i) {
    return strcmp(word[i], "-") == 0 ? NULL : word[i];
}

static void show_written(char what) {
    size_t cap = (size_t)atol(word[0]), n = 0;
    uint8_t *out = malloc(cap ? cap : 1), *p = NULL;
    uint16_t id = (uint16_t)atoi(word[1]);
    if (what == 'c') {
        struct mq_hello h = {.client_id = word[3],
                             .user = text(4),
                             .secret = text(5),
                             .will_topic = text(6),
                             .keepalive_s = (uint16_t)atoi(word[2]),
                             .clean = word[1][0] == '1'};
        h.will_n = unhex(word[7], &p);
        h.will = p;
        n = mq_put_connect(out, cap, &h);
    } else if (what == 'p') {
        size_t size = unhex(word[5], &p);
        n = mq_put_publish(out, cap, word[4], p, size, atoi(word[1]), atoi(word[2]),
                           (uint16_t)atoi(word[3]));
    } else if (what == 's') {
        n = mq_put_subscribe(out, cap, word[3], atoi(word[1]), (uint16_t)atoi(word[2]));
    } else if (what == 'u') {
        n = mq_put_unsubscribe(out, cap, word[3], (uint16_t)atoi(word[2]));
    } else {
        n = what == 'a'   ? mq_put_puback(out, cap, id)
            : what == 'g' ? mq_put_ping(out, cap)
                          : mq_put_disconnect(out, cap);
    }
    hex(out, n);
    putchar('\n');
    free(out);
    free(p);
}

int main(void) {
    while (fgets(line, sizeof line, stdin)) {
        char what = line[0];
        int n = sscanf(line + 1,
                       "%139999s %139999s %139999s %139999s %139999s %139999s %139999s %139999s",
                       word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]);
        if (n < 1)
            return 2;
        if (what == 'r')
            show_read();
        else
            show_written(what);
        fflush(stdout);
    }
    return 0;
}
