#include "memory/slab.h"

#include <string.h>

tdm_status tdm_slab_open(tdm_slab *s, const tdm_backend *be, const tdm_plan *plan, tdm_error *err)
{
    void *base = NULL;
    *s = (tdm_slab){.be = be, .bytes = tdm_align_up(plan->slab_bytes ? plan->slab_bytes : 1, TDM_PLAN_ALIGN)};
    const tdm_status st = be->memory_open(&base, s->bytes, err);
    s->base = base;
    return st;
}

void tdm_slab_close(tdm_slab *s)
{
    if (s->base) s->be->memory_close(s->base, s->bytes);
    *s = (tdm_slab){0};
}

void *tdm_slab_at(const tdm_slab *s, const tdm_plan *plan, int item)
{
    TDM_ASSERT(item >= 0 && item < plan->count && plan->item[item].phase < TDM_PHASE_DRIVER);
    return s->base + plan->item[item].offset;
}

void tdm_slab_flip(const tdm_slab *s, const tdm_plan *plan)
{
#if defined(__SANITIZE_ADDRESS__) || defined(TDM_POISON)
    /* 0xFF bytes are NaN in f32, bf16 and e4m3: a value of the phase that ended shows at once. */
    if (!s->be->device) memset(s->base + plan->phase_offset, 0xFF, s->bytes - plan->phase_offset);
#else
    (void)s;
    (void)plan;
#endif
}
