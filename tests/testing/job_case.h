/* A recipe's text, run. */
#ifndef TANDEM_TESTS_JOB_CASE_H
#define TANDEM_TESTS_JOB_CASE_H

#include <string.h>

#include "runtime/run/job.h"

/* The recipe is called a.yaml; its output is quiet. */
static inline tdm_status test_job_run(const char *text, tdm_job_options options, tdm_error *err)
{
    tdm_recipe *r = NULL;
    *err = (tdm_error){0};
    options.quiet = true;
    tdm_status st = tdm_recipe_parse(&r, text, strlen(text), "a.yaml", NULL, 0, err);
    if (st == TDM_OK) st = tdm_job_run(r, &options, err);
    tdm_recipe_close(r);
    return st;
}

#endif
