/* The one allocation of a run in the backend's memory, sized by the plan: what a run takes it takes at once, so running out of memory
 * happens before the first step or never.
 *   created   tdm_slab_open, once    released  tdm_slab_close */
#ifndef TANDEM_MEMORY_SLAB_H
#define TANDEM_MEMORY_SLAB_H

#include "memory/mirror.h"
#include "memory/plan.h"

typedef struct tdm_slab {
    const tdm_backend *be;
    char *base;
    size_t bytes;
} tdm_slab;

tdm_status tdm_slab_open(tdm_slab *s, const tdm_backend *be, const tdm_plan *plan, tdm_error *err);
void tdm_slab_close(tdm_slab *s);
/* The bytes of a plan's item. */
void *tdm_slab_at(const tdm_slab *s, const tdm_plan *plan, int item);
/* Enters a phase: nothing moves. In debug and ASan builds the phase region is poisoned, so a stale pointer fails at its first use. */
void tdm_slab_flip(const tdm_slab *s, const tdm_plan *plan);

#endif
