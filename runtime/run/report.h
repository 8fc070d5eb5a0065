/* report.html: the whole run on one page, in one file, without the network.
 * Reads from the run folder metrics.jsonl, recipe.yaml, memory.json and rollouts/; whatever is missing is left out of the page.
 * Of further runs metrics.jsonl and recipe.yaml are read: their curves lie over those of the first, their figures stand beside its.
 * Completions are hostile text: they enter as JSON data with '<', '>', '&' escaped, and the page shows them with textContent only.
 * More than 800 steps are drawn in buckets: mean as the line, least and greatest as a band. */
#ifndef TANDEM_RUNTIME_RUN_REPORT_H
#define TANDEM_RUNTIME_RUN_REPORT_H

#include "kernels/base.h"

/* RUN_DIR/report.html, replaced atomically. */
tdm_status tdm_report_write(const char *run_dir, tdm_error *err);

enum { TDM_REPORT_RUNS = 12 }; /* as many as there are colours */
/* The page of run_dirs[0] with the others compared to it, 1 to TDM_REPORT_RUNS in all; path NULL: run_dirs[0]/report.html. Each run is
 * called by its folder's name, with as many folders above it as tell all of them apart.
 * Errors: a folder that is not there, or is given twice; one of the others without metrics.jsonl. */
tdm_status tdm_report_compare(const char *const *run_dirs, int64_t count, const char *path, tdm_error *err);

/* memory.json, from the plan: {"budget_bytes": N, "layouts": [{"name": "rollout", "regions": [{"name": "weights", "bytes": N}, ...]}, ...]} */
typedef struct tdm_report_region {
    const char *layout, *name; /* rows of one layout stand together, in address order */
    size_t bytes;
} tdm_report_region;
tdm_status tdm_report_memory_write(const char *run_dir, size_t budget_bytes, const tdm_report_region *regions, int64_t count, tdm_error *err);

#endif
