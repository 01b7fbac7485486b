/* window.h (private): what telemetry.c takes from window.c. */
#ifndef FLEET_CORE_SRC_WINDOW_H
#define FLEET_CORE_SRC_WINDOW_H

#include "fleet_core/app.h"

/* Flags of a window (SPEC.md section 7). */
#define FC_FLAG_SWAP 2u
#define FC_FLAG_LOST 4u
#define FC_FLAG_SHED 8u

/* Closes the window that is open, if one is. */
void fc_window_close(struct fc_core *core, struct fc_app *a, uint32_t flags);

#endif
