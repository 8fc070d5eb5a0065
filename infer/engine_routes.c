/* Which experts each token went to, kept with its sequence, so that the trainer can send it to the same ones. */
#include "infer/engine_internal.h"

#include <string.h>

/* Elements of one position. */
static int64_t position_routes(const tdm_engine *e) { return e->m->c->layers * e->m->c->experts_used; }

/* Rows of slot b, which begin at `row` of the step. Layers without experts keep what the array held. */
static void take_rows(const tdm_engine *e, const tdm_slot *slot, int64_t row)
{
    const int64_t used = e->m->c->experts_used, step = position_routes(e);
    uint16_t *to = tdm_engine_sequence(e, slot->sample)->routes;
    for (int64_t i = 0; to && i < slot->take; i++)
        for (int64_t l = 0; l < e->m->c->layers; l++)
            for (int64_t u = 0; u < used; u++)
                to[(slot->cached + i) * step + l * used + u] = (uint16_t)e->routes[(l * e->batch.tokens + row + i) * used + u];
}

tdm_status tdm_engine_take_routes(tdm_engine *e, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (!e->spec.routes) return TDM_OK;
    TDM_TRY(st, tdm_mirror_pull(&e->mirror, e->m->s, e->routes, (size_t)(position_routes(e) * e->batch.tokens) * sizeof *e->routes, err), done);
    TDM_TRY(st, e->m->be->stream_sync(e->m->s, err), done);
    for (int64_t b = 0; b < e->running; b++) take_rows(e, &e->slot[b], e->q_start[b]);
done:
    return st;
}

void tdm_engine_copy_routes(const tdm_engine *e, int64_t to, int64_t from, int64_t count)
{
    uint16_t *out = tdm_engine_sequence(e, to)->routes;
    const uint16_t *in = tdm_engine_sequence(e, from)->routes;
    if (e->spec.routes && out && in && out != in) memcpy(out, in, (size_t)(count * position_routes(e)) * sizeof *out);
}
