/* partner.h: what the emulated chip cannot run itself, asked for over a second serial line: the
 * TFLM engine (the official wheel in a process of its own) and a sensor with recordings.
 *
 *   request = u8 verb, u32le length, body      reply = i32le result, u32le length, body
 *
 * engine_child.py is the other end and has the bodies. One question at a time.
 */
#ifndef FLEET_RV32_PARTNER_H
#define FLEET_RV32_PARTNER_H

#include "fleet_core/core.h"
#include "uart.h"

#define PARTNER_REPLY (FC_TENSORS_MAX * 4096u)

struct partner {
    struct uart uart;
    uint8_t reply[PARTNER_REPLY];
    uint32_t n; /* bytes of the reply */
};

/* Fills an engine whose calls go to the partner. */
void partner_engine(struct partner *p, struct fc_engine *engine);

/* One inference on what the sensor has now. 1 = *s is filled (scores, at most FC_CLASSES_MAX, live
 * in `scores`), 0 = the engine failed. */
int partner_sense(struct partner *p, uint8_t slot, struct fc_sample *s, uint16_t *scores);

#endif
