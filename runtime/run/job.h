/* A training run, from a recipe to a run folder: what `grpo_train` does. */
#ifndef TANDEM_RUNTIME_RUN_JOB_H
#define TANDEM_RUNTIME_RUN_JOB_H

#include "runtime/recipe/recipe.h"

typedef struct tdm_job_options {
    bool check;             /* recipe, model headers, tokenizer, data, rewards: open everything, train nothing */
    bool plan;              /* print the plan on stdout; exit status 4 when it does not fit */
    bool resume;
    const char *resume_dir; /* a run folder or one checkpoint of it; NULL: the recipe's output */
    bool quiet;
} tdm_job_options;

/* TDM_STOPPED: a signal came and a checkpoint was saved. Default lengths of r shrink to what the model's context takes. */
tdm_status tdm_job_run(tdm_recipe *r, const tdm_job_options *o, tdm_error *err);

#endif
