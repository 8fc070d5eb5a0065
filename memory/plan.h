/* The plan: every byte of the slab, computed, printed and checked before anything is loaded.
 *
 *   [ always: weights | adapter, optimizer | workspace ][ phase region: rollout layout  \  the same bytes,
 *                                                                       train layout    /  one phase at a time;
 *                                                                       a guest's, where a second model takes turns ]
 *   driver: what a device keeps beside the slab (context, code, recorded graphs); counted, not laid out. On a device the budget is the
 *         device's and host bytes do not count against it.
 *   host: what the process needs beside the slab (tokenizer, tables, the program itself); counted, not laid out.
 *
 *   created   tdm_plan_init, by the caller    filled  tdm_plan_add, in layout order    frozen  tdm_plan_layout */
#ifndef TANDEM_MEMORY_PLAN_H
#define TANDEM_MEMORY_PLAN_H

#include <stdio.h>

#include "kernels/base.h"

/* Guests are models that take turns in the phase region, each with a layout of its own. */
enum { TDM_GUESTS = 4 };
typedef enum tdm_phase {
    TDM_PHASE_ALWAYS, TDM_PHASE_ROLLOUT, TDM_PHASE_TRAIN, TDM_PHASE_GUEST, TDM_PHASE_DRIVER = TDM_PHASE_GUEST + TDM_GUESTS, TDM_PHASE_HOST, TDM_PHASE_COUNT
} tdm_phase;

typedef struct tdm_plan_item {
    char name[48];
    char hint[64]; /* the recipe key that would make it smaller; may be "" */
    tdm_phase phase;
    size_t bytes, offset; /* offset from the slab's start; 0 for driver and host items */
} tdm_plan_item;

enum { TDM_PLAN_ITEMS = 48, TDM_PLAN_ALIGN = 4096 };

typedef struct tdm_plan {
    tdm_plan_item item[TDM_PLAN_ITEMS];
    int count;
    size_t phase_bytes[TDM_PHASE_COUNT]; /* sums, after layout */
    size_t phase_offset;                 /* where the phase region begins */
    size_t slab_bytes;                   /* always + the greatest layout */
    size_t total_bytes;                  /* slab + host: the predicted peak resident set; on a device slab + driver */
    bool device;                         /* set by the caller after init */
    const char *guest[TDM_GUESTS];       /* what a guest is ("judge"): its layout's name; set by the caller after init */
} tdm_plan;

void tdm_plan_init(tdm_plan *p);
/* Returns the item's index, which names it from now on. */
int tdm_plan_add(tdm_plan *p, tdm_phase phase, const char *name, size_t bytes, const char *hint);
/* Gives every item its offset and checks each pair that may live at the same time for overlap. */
void tdm_plan_layout(tdm_plan *p);
/* TDM_ERR_BUDGET, with what is needed, what there is and what would have to shrink, when total_bytes > budget_bytes. */
tdm_status tdm_plan_check(const tdm_plan *p, size_t budget_bytes, const char *where, tdm_error *err);
void tdm_plan_print(const tdm_plan *p, size_t budget_bytes, FILE *out);
/* "9.41 GiB", "12.0 MiB", "640 B" into buf, which is returned. */
const char *tdm_bytes_text(char buf[24], size_t bytes);

#endif
