/* The loop: rollout, reward, update, log, save; and again. */
#include "runtime/run/job_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/run/report.h"

static double share(int64_t part, int64_t whole) { return whole > 0 ? (double)part / (double)whole : 0.0; }
static bool due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }
static double rate(int64_t count, double s) { return s > 0.0 ? (double)count / s : 0.0; }

/* Mean and standard deviation (Bessel) of rewards that were given. */
static void reward_moments(const double *x, int64_t n, double *mean, double *std)
{
    int64_t count = 0;
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < n; i++)
        if (!isnan(x[i])) sum += x[i], count++;
    *mean = count ? sum / (double)count : 0.0;
    for (int64_t i = 0; i < n; i++)
        if (!isnan(x[i])) squares += (x[i] - *mean) * (x[i] - *mean);
    *std = count > 1 ? sqrt(squares / (double)(count - 1)) : 0.0;
}

static void put_importance(tdm_step_metrics *m, const tdm_job_figures *f, bool floor)
{
    if (!f->importance_count) return;
    tdm_metric_set(m, TDM_METRIC_IMPORTANCE_MEAN, f->importance_mean);
    tdm_metric_set(m, TDM_METRIC_IMPORTANCE_MIN, f->importance_min);
    tdm_metric_set(m, TDM_METRIC_IMPORTANCE_MAX, f->importance_max);
    tdm_metric_set(m, TDM_METRIC_IMPORTANCE_FRACTION_HIGH, f->importance_high);
    if (floor) tdm_metric_set(m, TDM_METRIC_IMPORTANCE_FRACTION_LOW, f->importance_low);
    tdm_metric_set(m, TDM_METRIC_IMPORTANCE_ESS, f->importance_ess);
    if (f->normalizer > 0.0) tdm_metric_set(m, TDM_METRIC_IMPORTANCE_NORM, f->normalizer);
}

/* What was rejected, of what was compared; where sampler and trainer give the same bits, that is nothing. */
static void put_rejected(tdm_step_metrics *m, const tdm_job_figures *f, const tdm_reject_config *c)
{
    if (c->count == 0 && c->veto <= 0.0) return;
    tdm_metric_set(m, TDM_METRIC_REJECTED, share(f->rejected.rejected, f->rejected.tokens));
    tdm_metric_set(m, TDM_METRIC_REJECTED_SEQUENCES, share(f->rejected.touched, f->rejected.sequences));
    if (c->veto > 0.0) tdm_metric_set(m, TDM_METRIC_VETOED, share(f->rejected.vetoed, f->rejected.sequences));
}

/* What is known of sampled completions once the policy was updated. */
static void put_policy(tdm_step_metrics *m, const tdm_job *j)
{
    const tdm_job_figures *f = &j->fig;
    tdm_metric_set(m, TDM_METRIC_KL, f->kl);
    if (!tdm_job_distills_full(j)) tdm_metric_set(m, TDM_METRIC_CLIP_FRACTION, f->clip_fraction);
    tdm_metric_set(m, TDM_METRIC_MISMATCH_MEAN, f->mismatch_mean);
    tdm_metric_set(m, TDM_METRIC_MISMATCH_MAX, f->mismatch_max);
    tdm_metric_set(m, TDM_METRIC_MISMATCH_KL, f->mismatch_kl);
    tdm_metric_set(m, TDM_METRIC_MISMATCH_K3, f->mismatch_k3);
    if (j->r->train.use_adaptive_entropy) tdm_metric_set(m, TDM_METRIC_ENTROPY_COEF, j->entropy_coef);
    put_importance(m, f, j->loss.floor > 0.0);
    put_rejected(m, f, &j->r->train.importance.rejects);
    if (j->loss.off_policy_threshold > 0.0) tdm_metric_set(m, TDM_METRIC_OFF_POLICY, f->off_policy);
}

static void put_update(tdm_step_metrics *m, const tdm_job_figures *f, bool entropy)
{
    tdm_metric_set(m, TDM_METRIC_LOSS, f->loss);
    if (entropy) tdm_metric_set(m, TDM_METRIC_ENTROPY, f->entropy);
    tdm_metric_set(m, TDM_METRIC_GRAD_NORM, f->grad_norm);
    tdm_metric_set(m, TDM_METRIC_LR, f->lr);
}

static void put_turns(tdm_step_metrics *m, const tdm_job_figures *f, int64_t samples)
{
    tdm_metric_set(m, TDM_METRIC_TURNS_MEAN, share(f->turns, samples));
    tdm_metric_set(m, TDM_METRIC_TURNS_MAX, (double)f->turns_max);
    tdm_metric_set(m, TDM_METRIC_OBSERVATION_TOKENS, (double)f->observation_tokens);
    tdm_metric_set(m, TDM_METRIC_ENVIRONMENT_ERRORS, (double)f->environment_errors);
    tdm_metric_set(m, TDM_METRIC_ENVIRONMENT_S, f->environment_s);
}

static void put_judges(tdm_step_metrics *m, const tdm_job_figures *f)
{
    tdm_metric_set(m, TDM_METRIC_JUDGE_PARSE_FAILED, (double)f->judge_failed);
    tdm_metric_set(m, TDM_METRIC_JUDGE_TOKENS, (double)f->judge_tokens);
    tdm_metric_set(m, TDM_METRIC_JUDGE_S, f->judge_s);
}

/* Groups of the step that say nothing about the policy. */
static int64_t zero_std(const tdm_job *j)
{
    int64_t n = 0;
    for (int64_t g = 0; g < j->group_count; g++) n += tdm_rewards_equal(j->total, j->group_start[g], j->group_start[g + 1]);
    return n;
}

static tdm_status log_step(tdm_job *j, double step_s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    enum { MOST = 64 };
    const char *names[MOST];
    double values[MOST], mean, std;
    const tdm_job_figures *f = &j->fig;
    tdm_step_metrics m = {.step = j->step};
    if (!tdm_job_supervised(j)) {
        if (j->r->reward_count || tdm_job_replays(j)) {
            reward_moments(j->total, j->sequence_count, &mean, &std);
            tdm_metric_set(&m, TDM_METRIC_REWARD_MEAN, mean);
            tdm_metric_set(&m, TDM_METRIC_REWARD_STD, std);
            tdm_metric_set(&m, TDM_METRIC_FRAC_REWARD_ZERO_STD, share(zero_std(j), j->group_count));
        }
        if (j->r->rollout.filter_groups.enable) {
            tdm_metric_set(&m, TDM_METRIC_NUM_GEN_BATCHES, (double)f->gen_batches);
            tdm_metric_set(&m, TDM_METRIC_GROUPS_DROPPED, (double)f->groups_dropped);
        }
        if (j->turns) put_turns(&m, f, j->sequence_count);
        if (j->judges) put_judges(&m, f);
        if (tdm_job_policy_learns(j, j->step - 1)) put_policy(&m, j);
        tdm_metric_set(&m, TDM_METRIC_TRUNCATED_FRACTION, share(f->truncated, j->sequence_count));
        tdm_metric_set(&m, TDM_METRIC_ROLLOUT_S, f->rollout_s);
        tdm_metric_set(&m, TDM_METRIC_REWARD_S, f->reward_s);
        tdm_metric_set(&m, TDM_METRIC_FLIP_S, f->flip_s);
        tdm_metric_set(&m, TDM_METRIC_ROLLOUT_TOKENS_PER_S, rate(f->generated_tokens, f->rollout_s));
    }
    if (tdm_job_prefers(j)) tdm_job_preference_metrics(j, &m);
    if (tdm_job_ppo(j)) tdm_job_critic_metrics(j, &m);
    if (tdm_job_policy_learns(j, j->step - 1)) put_update(&m, f, !tdm_job_scores(j));
    tdm_metric_set(&m, TDM_METRIC_COMPLETION_TOKENS_MEAN, share(f->completion_tokens, j->sequence_count));
    tdm_metric_set(&m, TDM_METRIC_COMPLETION_TOKENS_MAX, (double)f->longest);
    tdm_metric_set(&m, TDM_METRIC_PROMPT_TOKENS, (double)f->prompt_tokens);
    tdm_metric_set(&m, TDM_METRIC_COMPLETION_TOKENS, (double)f->completion_tokens);
    tdm_metric_set(&m, TDM_METRIC_TRAIN_S, f->train_s);
    tdm_metric_set(&m, TDM_METRIC_STEP_S, step_s);
    tdm_metric_set(&m, TDM_METRIC_TRAIN_TOKENS_PER_S, rate(f->prompt_tokens + f->completion_tokens + f->observation_tokens, f->train_s));
    tdm_metric_set(&m, TDM_METRIC_MEMORY_PEAK_BYTES, (double)tdm_session_peak_bytes(&j->session));
    const int64_t rewards = j->rewards ? tdm_min_i64(MOST, tdm_rewards_count(j->rewards)) : 0;
    int64_t shown = 0;
    for (int64_t i = 0; i < rewards; i++) {
        bool any = false;
        for (int64_t k = 0; k < j->sequence_count; k++) any = any || !isnan(j->scores[i * j->sequence_count + k]);
        if (!any) continue; /* the reward had no opinion on any sample: there is no mean to write */
        names[shown] = tdm_rewards_name(j->rewards, i);
        reward_moments(j->scores + i * j->sequence_count, j->sequence_count, &values[shown++], &std);
    }
    m.reward_names = names;
    m.reward_values = values;
    m.reward_count = shown;
    m.extra_names = j->eval_names;
    m.extra_values = j->eval_values;
    m.extra_count = j->eval_count;
    TDM_TRY(st, tdm_metrics_put(&j->metrics, &m, err), done);
    if (j->tensorboard.file.fd >= 0) TDM_TRY(st, tdm_tensorboard_put(&j->tensorboard, &m, err), done);
    tdm_progress_step(&j->progress, &m);
done:
    return st;
}

static tdm_status one_step(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const double start = tdm_now_s();
    const int64_t position = j->data_position, skipped = j->skipped;
    j->fig = (tdm_job_figures){0};
    j->updated = false;
    j->eval_count = 0;
    if (tdm_job_prefers(j)) TDM_TRY(st, tdm_job_preferences(j, err), done);
    else if (tdm_job_sft(j)) TDM_TRY(st, tdm_job_examples(j, err), done);
    else {
        tdm_session_enter(&j->session, TDM_PHASE_ROLLOUT);
        TDM_TRY(st, tdm_job_rollout(j, err), done);
        const double flip = tdm_now_s();
        tdm_session_enter(&j->session, TDM_PHASE_TRAIN);
        j->fig.flip_s = tdm_now_s() - flip;
    }
    TDM_TRY(st, tdm_job_update(j, err), done);
    if (!tdm_job_supervised(j) && !tdm_job_replays(j) && due(j->r->log.rollouts, j->step + 1)) TDM_TRY(st, tdm_job_log_rollouts(j, err), done);
    tdm_status evaluated = TDM_OK;
    const bool evaluates = tdm_job_eval_due(j);
    if (evaluates) evaluated = tdm_job_eval(j, err);
    j->step++;
    TDM_TRY(st, log_step(j, tdm_now_s() - start, err), done);
    if (evaluated != TDM_OK) { /* the step is whole and stands in the metrics: it is saved before the error is told */
        j->updated = false;
        return evaluated;
    }
    if (evaluates) tdm_job_eval_judge(j);
done:
    if (st != TDM_OK && !j->updated) { /* the step did not happen: a checkpoint now is that of the step before */
        j->data_position = position;
        j->skipped = skipped;
    }
    return st;
}

static void note_saved(tdm_job *j)
{
    if (j->saved_step == j->step) tdm_progress_note(&j->progress, "saved %s/step-%06lld", j->checkpoints, (long long)j->step);
}

static tdm_status save(tdm_job *j, tdm_error *err)
{
    const int64_t before = j->saved_step;
    const tdm_status st = tdm_job_save(j, err);
    if (st == TDM_OK && before != j->saved_step) note_saved(j);
    return st;
}

/* A failing step leaves a checkpoint of the last whole one behind it, then the error is told. */
static tdm_status stop_after(tdm_job *j, tdm_status st, tdm_error *err)
{
    tdm_error second = {0};
    if (!j->updated || st == TDM_STOPPED) {
        const tdm_status saved = save(j, &second);
        if (saved != TDM_OK && st == TDM_STOPPED) {
            *err = second;
            return saved;
        }
        if (saved != TDM_OK) tdm_error_print(&second);
    }
    if (st == TDM_STOPPED)
        return TDM_FAIL(err, TDM_STOPPED, j->checkpoints, "continue with --resume", "stopped by a signal after step %lld", (long long)j->step);
    return st;
}

static tdm_status loop(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t last = j->r->train.steps;
    tdm_progress_init(&j->progress, stderr, j->step + 1, last, j->r->log.every, j->o->quiet);
    while (j->step < last && !tdm_job_eval_stops(j)) {
        st = tdm_signals_stop() ? TDM_STOPPED : one_step(j, err);
        if (st != TDM_OK) {
            st = stop_after(j, st, err);
            goto done;
        }
        if (due(j->r->checkpoint.every, j->step) || j->step == last || j->best_step == j->step || tdm_job_eval_stops(j)) TDM_TRY(st, save(j, err), done);
        if (tdm_signals_stop() && j->step < last && !tdm_job_eval_stops(j)) {
            j->updated = false;
            st = stop_after(j, TDM_STOPPED, err);
            goto done;
        }
    }
done:
    tdm_progress_end(&j->progress);
    return st;
}

static tdm_status finish(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_metrics_sync(&j->metrics, err), done);
    uint64_t hash;
    TDM_TRY(st, tdm_weights_hash(j->session.weights, &hash, err), done);
    if (hash != j->base_hash) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, j->r->model.path, "please report this; the checkpoints may be wrong", "the base weights changed during the run");
        goto done;
    }
    if (j->r->log.report) TDM_TRY(st, tdm_report_write(j->r->output, err), done);
done:
    return st;
}

static void tell_next(const tdm_job *j)
{
    if (j->o->quiet) return;
    if (tdm_job_eval_stops(j))
        fprintf(stderr, "stopped after step %lld: eval/%s has not risen for %lld evaluations (eval.patience)\n", (long long)j->step, j->r->eval.best, (long long)j->stale);
    if (j->best_step) fprintf(stderr, "best: eval/%s %.6g at step %lld, in %s/best\n", j->r->eval.best, j->best_value, (long long)j->best_step, j->checkpoints);
    fprintf(stderr, "done: %lld steps; adapter in %s/step-%06lld/adapter%s%s%s\n", (long long)j->step, j->checkpoints, (long long)j->step,
            j->r->log.report ? ", report in " : "", j->r->log.report ? j->r->output : "", j->r->log.report ? "/report.html" : "");
    if (tdm_job_scores(j)) {
        fprintf(stderr, "next: in a recipe, reward: [{type: model, path: %s/step-%06lld/adapter}]\n", j->checkpoints, (long long)j->step);
        return;
    }
    if (j->r->model.random_weights) return;
    fprintf(stderr, "next: tandem generate --model %s --adapter %s/step-%06lld/adapter --chat --prompt \"...\"\n", j->r->model.path, j->checkpoints,
            (long long)j->step);
}

static tdm_status run(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (j->o->plan) {
        tdm_plan_print(&j->session.plan, j->session.budget_bytes, stdout);
        if (j->session.plan.total_bytes > j->session.budget_bytes) {
            char where[TDM_RECIPE_WHERE];
            st = tdm_plan_check(&j->session.plan, j->session.budget_bytes, tdm_recipe_where(j->r, "memory.budget", where), err);
        }
        return st;
    }
    if (j->o->check) {
        if (!j->o->quiet) fprintf(stderr, "ok: recipe, model, data and rewards open, and the plan fits\n");
        return TDM_OK;
    }
    TDM_TRY(st, tdm_job_folder(j, err), done);
    j->first_step = j->step;
    st = loop(j, err);
    if (st != TDM_OK && st != TDM_STOPPED) goto done;
    tdm_error late = {0};
    const tdm_status ended = finish(j, &late);
    if (st == TDM_OK && ended != TDM_OK) {
        *err = late;
        st = ended;
    }
    if (st == TDM_OK) tell_next(j);
done:
    return st;
}

tdm_status tdm_job_run(tdm_recipe *r, const tdm_job_options *o, tdm_error *err)
{
    tdm_job j;
    tdm_status st;
    tdm_signals_install();
    TDM_TRY(st, tdm_job_open(&j, r, o, err), done);
    st = run(&j, err);
done:
    tdm_job_close(&j);
    tdm_signals_restore();
    return st;
}
