/* pieces.c: fc_pieces for tests. argv: room. Standard input: pieces as u32 topic length, n, offset,
 * total, then topic and data; topic length 0xffffffff = the connection is lost. Standard output:
 * i32 result for each, and after a whole message u32 lengths, topic and bytes.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fleet_core/reassemble.h"

int main(int argc, char **argv) {
    uint32_t head[4], room = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    struct fc_pieces p;
    uint8_t *bytes = malloc(room ? room : 1);
    if (!bytes)
        return 2;
    fc_pieces_begin(&p, bytes, room);
    while (fread(head, sizeof head, 1, stdin) == 1) {
        int32_t rc = 0;
        if (head[0] == 0xffffffffu) {
            fc_pieces_reset(&p);
        } else {
            char *topic = malloc(head[0] ? head[0] : 1);
            uint8_t *data = malloc(head[1] ? head[1] : 1);
            if (!topic || !data || fread(topic, 1, head[0], stdin) != head[0] ||
                fread(data, 1, head[1], stdin) != head[1])
                return 2;
            rc = fc_pieces_put(&p, topic, head[0], data, head[1], head[2], head[3]);
            free(topic);
            free(data);
        }
        fwrite(&rc, sizeof rc, 1, stdout);
        if (rc == 1) {
            uint32_t n[2] = {p.topic_len, p.total};
            fwrite(n, sizeof n, 1, stdout);
            fwrite(p.topic, 1, n[0], stdout);
            fwrite(p.bytes, 1, n[1], stdout);
        }
    }
    fwrite(&p.dropped, sizeof p.dropped, 1, stdout);
    free(bytes);
    return 0;
}
