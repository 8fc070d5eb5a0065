/* data.eval during a run: greedy completions of its first rows, scored by the recipe's rewards. The step's own sequences have been
 * trained on and logged by then, so theirs are used again; what log_step still reads (scores, totals, counts) is left alone. */
#include "runtime/run/job_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 64 };

tdm_status tdm_job_eval_open(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (!j->r->data.eval[0]) return TDM_OK;
    TDM_TRY(st, tdm_dataset_open(&j->eval, j->r->data.eval, err), done);
    const int64_t rewards = tdm_rewards_count(j->rewards);
    j->eval_rows = tdm_min_i64(MOST_ROWS, tdm_dataset_rows(j->eval));
    j->eval_keys = calloc((size_t)rewards + 1, sizeof *j->eval_keys);
    j->eval_names = calloc((size_t)rewards + 1, sizeof *j->eval_names);
    j->eval_values = calloc((size_t)rewards + 1, sizeof *j->eval_values);
    if (!j->eval_keys || !j->eval_names || !j->eval_values) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, j->r->data.eval, "free host memory", "out of memory for the evaluation");
        goto done;
    }
    for (int64_t i = 0; i <= rewards; i++)
        snprintf(j->eval_keys[i], sizeof j->eval_keys[i], "eval/%s", i ? tdm_rewards_name(j->rewards, i - 1) : "reward_mean");
done:
    return st;
}

void tdm_job_eval_close(tdm_job *j)
{
    tdm_dataset_close(j->eval);
    free(j->eval_keys);
    free(j->eval_names);
    free(j->eval_values);
}

/* Sums and counts of the total and of each reward; NaN: no opinion. */
typedef struct tally {
    double *sum;    /* [1 + rewards] */
    int64_t *count;
    double *scores; /* [rewards, groups] */
    double *total;  /* [groups] */
} tally;

static void add(tally *t, int64_t key, const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isnan(x[i])) t->sum[key] += x[i], t->count[key]++;
}

/* Prompts from row *row on that fit, one completion each. */
static tdm_status batch(tdm_job *j, int64_t *row, tally *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_recipe_rollout *ro = &j->r->rollout;
    const int64_t rewards = tdm_rewards_count(j->rewards);
    int64_t n = 0;
    for (; n < j->groups && *row < j->eval_rows; (*row)++) {
        tdm_job_prompt *p = &j->prompt[n];
        bool fits;
        TDM_TRY(st, tdm_job_prompt_make(j, j->eval, *row, p, &fits, err), done);
        if (!fits) continue;
        tdm_sequence_start(&j->sequences.seq[n], p->ids.data, p->ids.count, ro->max_new_tokens);
        j->request[n] = (tdm_request){.sequence = &j->sequences.seq[n], .samples = 1,
                                      .sampling = {.top_p = 1.0f, .repetition_penalty = (float)ro->repetition_penalty},
                                      .seed = (uint64_t)j->r->seed, .step = (uint32_t)(j->step + 1), .prompt_index = (uint32_t)n,
                                      .stop_ids = j->language.eos, .stop_count = j->language.eos_count,
                                      .stop = ro->stop.count > 0 ? tdm_stops_hit : NULL, .stop_ctx = &j->stops};
        n++;
    }
    if (n == 0) goto done;
    /* the adapter has moved: a signal waits until the step is whole */
    TDM_TRY(st, tdm_engine_run(j->session.engine, &j->session.adapter, j->request, n, NULL, NULL, err), done);
    for (int64_t i = 0; i < n; i++) TDM_TRY(st, tdm_job_reward_sample(j, i, &j->prompt[i], &j->reward_sample[i], err), done);
    TDM_TRY(st, tdm_rewards_score(j->rewards, j->reward_sample, n, t->scores, err), done);
    tdm_rewards_combine(j->rewards, t->scores, n, t->total);
    add(t, 0, t->total, n);
    for (int64_t k = 0; k < rewards; k++) add(t, k + 1, t->scores + k * n, n);
done:
    return st;
}

tdm_status tdm_job_eval(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const size_t keys = (size_t)tdm_rewards_count(j->rewards) + 1;
    tally t = {.sum = calloc(keys, sizeof(double)), .count = calloc(keys, sizeof(int64_t)), .scores = calloc(keys * (size_t)j->groups, sizeof(double)),
               .total = calloc((size_t)j->groups, sizeof(double))};
    j->eval_count = 0;
    if (!t.sum || !t.count || !t.scores || !t.total) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, j->r->data.eval, "free host memory", "out of memory for the evaluation");
        goto done;
    }
    tdm_session_enter(&j->session, TDM_PHASE_ROLLOUT);
    for (int64_t row = 0; row < j->eval_rows;) {
        tdm_progress_phase(&j->progress, j->step + 1, "eval", row, j->eval_rows);
        TDM_TRY(st, batch(j, &row, &t, err), done);
    }
    for (size_t k = 0; k < keys; k++)
        if (t.count[k]) {
            j->eval_names[j->eval_count] = j->eval_keys[k];
            j->eval_values[j->eval_count++] = t.sum[k] / (double)t.count[k];
        }
done:
    free(t.sum);
    free(t.count);
    free(t.scores);
    free(t.total);
    return st;
}
