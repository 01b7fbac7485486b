/* sizes.c: objects whose sizes are the sizes that budgets.py wants to know; never linked. */
#include "fleet_core/app.h"
#include "fleet_core/core.h"

#define SIZE_OF(name)                                                                              \
    extern char size_of_##name[sizeof(struct name)];                                               \
    char size_of_##name[sizeof(struct name)]

SIZE_OF(fc_core);
SIZE_OF(fc_app);
SIZE_OF(fc_slot);
SIZE_OF(fc_job);
SIZE_OF(fc_ring);
SIZE_OF(fc_record);
SIZE_OF(fc_manifest);
SIZE_OF(fc_model);
SIZE_OF(fc_trust);
