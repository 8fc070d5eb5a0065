#include "memory/slab.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

tdm_status tdm_slab_open(tdm_slab *s, const tdm_plan *plan, tdm_error *err)
{
    const size_t huge = (size_t)2 << 20;
    s->bytes = tdm_align_up(plan->slab_bytes ? plan->slab_bytes : 1, TDM_PLAN_ALIGN);
    void *p = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        char text[24];
        s->base = NULL;
        return TDM_FAIL(err, TDM_ERR_BUDGET, NULL, "lower memory.budget, or free memory", "cannot map a slab of %s: %s",
                        tdm_bytes_text(text, s->bytes), strerror(errno));
    }
    if (s->bytes >= 4 * huge) (void)madvise(p, s->bytes, MADV_HUGEPAGE); /* advice only */
    s->base = p;
    for (size_t i = 0; i < s->bytes; i += 4096) s->base[i] = 0; /* touch: all of it is ours from now on */
    return TDM_OK;
}

void tdm_slab_close(tdm_slab *s)
{
    if (s->base) munmap(s->base, s->bytes);
    s->base = NULL;
    s->bytes = 0;
}

void *tdm_slab_at(const tdm_slab *s, const tdm_plan *plan, int item)
{
    TDM_ASSERT(item >= 0 && item < plan->count && plan->item[item].phase != TDM_PHASE_HOST);
    return s->base + plan->item[item].offset;
}

void tdm_slab_flip(const tdm_slab *s, const tdm_plan *plan)
{
#if defined(__SANITIZE_ADDRESS__) || defined(TDM_POISON)
    /* 0xFF bytes are NaN in f32, bf16 and e4m3: a value of the phase that ended shows at once. */
    memset(s->base + plan->phase_offset, 0xFF, s->bytes - plan->phase_offset);
#else
    (void)s;
    (void)plan;
#endif
}
