/* app.c: the pipeline of a slot beside the core that loads its model. */
#include "internal.h"

/* The model that front-end 2 names, when it runs and is the one that was signed for. */
static const struct fc_model *front_model(const struct fc_core *core, const struct fc_model *m) {
    if (m->hints.front != FC_FRONT_SLOT || m->params.front_bytes != 1)
        return NULL;
    return fc_running(core, m->params.bytes[m->params.distance_bytes]);
}

int fc_app_open(struct fc_core *core, uint32_t slot, const struct fc_pipe_memory *memory) {
    const struct fc_model *m = fc_running(core, slot), *pre;
    if (!m)
        return FC_ERR_BUSY;
    pre = front_model(core, m);
    if (m->hints.front == FC_FRONT_SLOT && (!pre || memcmp(pre->id, m->hints.front_digest, 8) != 0))
        return FC_ERR_BUSY;
    return fc_pipe_open(&core->app[slot]->pipe, (uint8_t)slot, m, pre, memory);
}

int fc_app_ready(const struct fc_core *core, uint32_t slot) {
    const struct fc_model *m = fc_running(core, slot);
    const struct fc_pipe *p = m ? &core->app[slot]->pipe : NULL;
    if (!p || !p->model)
        return 0;
    const struct fc_model *pre = front_model(core, m);
    return m->hints.front != FC_FRONT_SLOT || (pre && memcmp(pre->id, p->pre_id, 8) == 0);
}

int fc_app_step(struct fc_core *core, uint32_t slot, int32_t label, struct fc_result *r) {
    if (!fc_app_ready(core, slot))
        return FC_ERR_BUSY;
    if (!fc_pipe_run(&core->app[slot]->pipe, core->hal->engine, fc_clock(core), r))
        return 0;
    r->label = r->n_scores ? label : -1;
    int rc = fc_result_put(core, r);
    return rc < 0 ? rc : 1;
}
