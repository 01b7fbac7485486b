/* reassemble.h: MQTT clients hand large messages over in pieces, the topic with the first one only.
 * This joins them in the caller's memory. Portable: ports and fuzzers share it.
 */
#ifndef FLEET_CORE_REASSEMBLE_H
#define FLEET_CORE_REASSEMBLE_H

#include <stddef.h>
#include <stdint.h>

#include "fleet_core/limits.h"

struct fc_pieces {
    uint8_t *bytes; /* the caller's, `room` bytes; may be changed between messages */
    uint32_t room;
    uint32_t have, total;
    uint32_t dropped; /* messages that were given up */
    uint8_t open;     /* 0 none, 1 being joined, 2 being skipped */
    uint16_t topic_len;
    char topic[FC_TOPIC_MAX + 1u]; /* ends in a zero */
};

void fc_pieces_begin(struct fc_pieces *p, uint8_t *bytes, uint32_t room);

/* The connection is gone: what was begun will not be continued. */
void fc_pieces_reset(struct fc_pieces *p);

/* One piece: n bytes at `offset` of a message of `total` bytes. topic_len 0 = goes on.
 *   1             the message is whole: topic, bytes and total say what it is
 *   0             more is to come
 *   FC_ERR_DROP   too large, out of order or contradicting itself: its pieces are skipped */
int fc_pieces_put(struct fc_pieces *p, const char *topic, size_t topic_len, const uint8_t *data,
                  uint32_t n, uint32_t offset, uint32_t total);

#endif
