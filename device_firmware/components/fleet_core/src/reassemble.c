/* reassemble.c: see reassemble.h.
 *
 * A broker picks topic, lengths and offsets; the MQTT client hands them on. Nothing is copied
 * before total <= room and offset == have <= total are checked, and n is compared with what is left
 * (total - have), so no sum is formed that could wrap.
 */
#include "fleet_core/reassemble.h"

#include <string.h>

#include "fleet_core/codes.h"

enum { PIECES_NONE, PIECES_JOINING, PIECES_SKIPPING };

void fc_pieces_begin(struct fc_pieces *p, uint8_t *bytes, uint32_t room) {
    memset(p, 0, sizeof *p);
    p->bytes = bytes;
    p->room = room;
}

void fc_pieces_reset(struct fc_pieces *p) {
    if (p->open == PIECES_JOINING)
        p->dropped++;
    p->open = PIECES_NONE;
    p->have = p->total = 0;
    p->topic_len = 0;
}

/* Give the message up; the rest of it is skipped without a further count. */
static int give_up(struct fc_pieces *p) {
    if (p->open != PIECES_SKIPPING)
        p->dropped++;
    p->open = PIECES_SKIPPING;
    return FC_ERR_DROP;
}

int fc_pieces_put(struct fc_pieces *p, const char *topic, size_t topic_len, const uint8_t *data,
                  uint32_t n, uint32_t offset, uint32_t total) {
    if (offset == 0 && topic_len) { /* a first piece begins anew, whatever was open */
        fc_pieces_reset(p);
        if (topic_len > FC_TOPIC_MAX || total > p->room || !p->bytes)
            return give_up(p);
        memcpy(p->topic, topic, topic_len);
        p->topic[topic_len] = 0;
        p->topic_len = (uint16_t)topic_len;
        p->total = total;
        p->open = PIECES_JOINING;
    } else if (p->open != PIECES_JOINING || total != p->total || offset != p->have) {
        return give_up(p);
    }
    if (n > p->total - p->have)
        return give_up(p);
    if (n)
        memcpy(p->bytes + p->have, data, n);
    p->have += n;
    if (p->have < p->total)
        return 0;
    p->open = PIECES_NONE;
    return 1;
}
