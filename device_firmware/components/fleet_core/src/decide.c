/* decide.c: from noisy class scores to one decision: a sliding mean, k of the last m, then quiet.
 */
#include <string.h>

#include "fleet_core/pipeline.h"

#define NO_CLASS 255u

int fc_decide_open(struct fc_decide *d, uint32_t classes, uint32_t n, uint32_t k, uint32_t m,
                   uint32_t threshold, uint32_t refractory_ms) {
    memset(d, 0, sizeof *d);
    /* n <= 64 and classes < 2^8 keep the product below 2^32. */
    if (!classes || classes > NO_CLASS || !n || n > FC_DECIDE_LAST ||
        n * classes > FC_DECIDE_SCORES || !k || k > m || m > FC_DECIDE_LAST || threshold > 10000)
        return FC_ERR_IO_CONTRACT;
    d->classes = (uint16_t)classes;
    d->n = (uint8_t)n;
    d->k = (uint8_t)k;
    d->m = (uint8_t)m;
    d->threshold = (uint16_t)threshold;
    d->refractory_ms = refractory_ms;
    return FC_OK;
}

void fc_decide_reset(struct fc_decide *d) {
    d->have = d->at = d->seen = d->last = 0;
}

/* The best class of the mean over what is there, -1 when it stays below the threshold. */
static int top_of_mean(const struct fc_decide *d) {
    uint32_t best = 0;
    int top = 0;
    for (uint32_t c = 0; c < d->classes; c++) {
        uint32_t sum = 0; /* <= 64 * 10000 */
        for (uint32_t i = 0; i < d->have; i++)
            sum += d->scores[i * d->classes + c];
        if (sum > best) {
            best = sum;
            top = (int)c;
        }
    }
    return best >= (uint32_t)d->threshold * d->have ? top : -1;
}

int fc_decide_put(struct fc_decide *d, const uint16_t *scores, uint64_t now_ms) {
    uint32_t same = 0;
    memcpy(d->scores + (size_t)d->at * d->classes, scores, d->classes * sizeof scores[0]);
    d->at = (uint8_t)((d->at + 1) % d->n);
    if (d->have < d->n)
        d->have++;
    int top = top_of_mean(d);
    d->tops[d->last] = top < 0 ? (uint8_t)NO_CLASS : (uint8_t)top;
    d->last = (uint8_t)((d->last + 1) % d->m);
    if (d->seen < d->m)
        d->seen++;
    for (uint32_t i = 0; i < d->seen; i++)
        same += d->tops[i] == (uint32_t)top;
    if (top < 0 || same < d->k || (d->fired && now_ms - d->fired_ms < d->refractory_ms))
        return -1;
    d->fired = 1;
    d->fired_ms = now_ms;
    return top;
}
