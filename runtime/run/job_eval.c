/* data.eval during a run: completions of its first rows, scored by the recipe's rewards; pass@k; the best so far. The step's own sequences have
 * been trained on and logged by then, so theirs are used again; what log_step still reads (scores, totals, counts) is left alone. */
#include "runtime/run/job_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/run/pass_at.h"

static int64_t figures(const tdm_job *j) { return 1 + tdm_rewards_count(j->rewards) + j->r->eval.pass_at.count; }

static void name_figure(const tdm_job *j, int64_t i, char key[80])
{
    const int64_t rewards = tdm_rewards_count(j->rewards);
    if (i > rewards) snprintf(key, 80, "eval/pass@%lld", (long long)j->r->eval.pass_at.items[i - 1 - rewards]);
    else snprintf(key, 80, "eval/%s", i ? tdm_rewards_name(j->rewards, i - 1) : "reward_mean");
}

tdm_status tdm_job_eval_open(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (!j->r->data.eval[0]) return TDM_OK;
    TDM_TRY(st, tdm_dataset_open(&j->eval, j->r->data.eval, err), done);
    const int64_t rows = tdm_dataset_rows(j->eval), limit = j->r->eval.limit;
    const size_t n = (size_t)figures(j);
    j->eval_rows = limit ? tdm_min_i64(limit, rows) : rows;
    j->eval_keys = calloc(n, sizeof *j->eval_keys);
    j->eval_names = calloc(n, sizeof *j->eval_names);
    j->eval_values = calloc(n, sizeof *j->eval_values);
    if (!j->eval_keys || !j->eval_names || !j->eval_values) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, j->r->data.eval, "free host memory", "out of memory for the evaluation");
        goto done;
    }
    for (size_t i = 0; i < n; i++) name_figure(j, (int64_t)i, j->eval_keys[i]);
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

/* Sums and counts of each figure; NaN: no opinion. */
typedef struct tally {
    double *sum;    /* [figures] */
    int64_t *count;
    double *scores; /* [rewards, samples] */
    double *total;  /* [samples] */
} tally;

static void add(tally *t, int64_t key, const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isnan(x[i])) t->sum[key] += x[i], t->count[key]++;
}

/* Row by row, each of `generations` completions. No opinion is no pass. */
static void add_passes(const tdm_job *j, tally *t, int64_t rows)
{
    const tdm_recipe_eval *e = &j->r->eval;
    const int64_t rewards = tdm_rewards_count(j->rewards), n = rows * e->generations;
    const double *x = e->pass_metric[0] ? t->scores + tdm_recipe_reward_find(j->r, e->pass_metric) * n : t->total;
    for (int64_t row = 0; row < rows; row++) {
        int64_t right = 0;
        for (int64_t i = 0; i < e->generations; i++) right += x[row * e->generations + i] >= e->pass_threshold;
        for (int64_t k = 0; k < e->pass_at.count; k++) {
            const double pass = tdm_pass_at(e->generations, right, e->pass_at.items[k]);
            add(t, 1 + rewards + k, &pass, 1);
        }
    }
}

/* A row's draws are the same at every evaluation, and none of the steps', which count from 1: what differs is the model. */
static tdm_request request_of(tdm_job *j, tdm_sequence *s, int64_t row)
{
    const tdm_recipe_rollout *ro = &j->r->rollout;
    return (tdm_request){.sequence = s, .samples = j->r->eval.generations,
                         .sampling = {.temperature = (float)j->r->eval.temperature, .top_p = 1.0f, .repetition_penalty = (float)ro->repetition_penalty},
                         .seed = (uint64_t)j->r->seed, .step = 0, .prompt_index = (uint32_t)row,
                         .stop_ids = j->language.eos, .stop_count = j->language.eos_count,
                         .stop = ro->stop.count > 0 ? tdm_stops_hit : NULL, .stop_ctx = &j->stops};
}

/* Prompts from row *row on that fit, as many as the step's sequences hold. */
static tdm_status batch(tdm_job *j, int64_t *row, tally *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t rewards = tdm_rewards_count(j->rewards), size = j->r->eval.generations, most = tdm_min_i64(j->groups, j->samples / size);
    int64_t rows = 0;
    tdm_job_turns_begin(j, size, true);
    for (; rows < most && *row < j->eval_rows; (*row)++) {
        tdm_job_prompt *p = &j->prompt[rows];
        tdm_sequence *s = &j->sequences.seq[rows * size];
        bool fits;
        TDM_TRY(st, tdm_job_prompt_make(j, j->eval, NULL, *row, p, &fits, err), done);
        if (!fits) continue;
        const tdm_turns *turns = NULL;
        for (int64_t i = 0; i < size; i++) {
            tdm_sequence_start(&s[i], p->ids.data, p->ids.count, j->r->rollout.max_new_tokens);
            turns = tdm_job_turns_start(j, rows * size + i);
        }
        j->request[rows] = request_of(j, s, *row);
        j->request[rows++].turns = turns;
    }
    if (rows == 0) goto done;
    /* the adapter has moved: a signal waits until the step is whole */
    TDM_TRY(st, tdm_engine_run(j->session.engine, &j->session.adapter, j->request, rows, NULL, NULL, err), done);
    const int64_t n = rows * size;
    for (int64_t i = 0; i < n; i++) TDM_TRY(st, tdm_job_reward_sample(j, i, &j->prompt[i / size], &j->request[i / size], &j->reward_sample[i], err), done);
    TDM_TRY(st, tdm_rewards_score(j->rewards, j->reward_sample, n, t->scores, err), done);
    tdm_job_judges_leave(j);
    tdm_rewards_combine(j->rewards, t->scores, n, t->total);
    add(t, 0, t->total, n);
    for (int64_t k = 0; k < rewards; k++) add(t, k + 1, t->scores + k * n, n);
    add_passes(j, t, rows);
done:
    return st;
}

tdm_status tdm_job_eval(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const size_t keys = (size_t)figures(j), samples = (size_t)j->samples;
    tally t = {.sum = calloc(keys, sizeof(double)), .count = calloc(keys, sizeof(int64_t)),
               .scores = calloc((size_t)tdm_rewards_count(j->rewards) * samples, sizeof(double)), .total = calloc(samples, sizeof(double))};
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

bool tdm_job_eval_due(const tdm_job *j)
{
    const int64_t every = j->r->eval.every ? j->r->eval.every : j->r->checkpoint.every, step = j->step + 1;
    return j->eval && (step == j->r->train.steps || (every > 0 && step % every == 0));
}

void tdm_job_eval_judge(tdm_job *j)
{
    const tdm_recipe_eval *e = &j->r->eval;
    if (!e->best[0]) return;
    j->stale++;
    for (int64_t i = 0; i < j->eval_count; i++) {
        const double x = j->eval_values[i];
        if (strcmp(j->eval_names[i] + strlen("eval/"), e->best) != 0) continue;
        if (!j->best_step || x > j->best_value + e->min_delta) j->stale = 0;
        if (!j->best_step || x > j->best_value) {
            j->best_step = j->step;
            j->best_value = x;
        }
    }
}

bool tdm_job_eval_stops(const tdm_job *j) { return j->r->eval.patience > 0 && j->stale >= j->r->eval.patience; }
