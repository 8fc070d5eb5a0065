/* ppo: the critic's values before the first update, the advantages and returns that follow from them, and the critic's part of an update.
 * The critic is a role on the policy's base: its own adapter and head, the same weights. The order of things is verl's
 * (verl/trainer/ppo/ray_trainer.py): values, rewards of tokens, advantages, then the critic's updates and, once it is warm, the policy's. */
#include "runtime/run/job_internal.h"

#include <math.h>
#include <string.h>

static tdm_role *critic_of(tdm_job *j) { return &j->session.role[TDM_JOB_CRITIC]; }

/* Score of sample i; NaN: no reward had an opinion, and it is in no loss. */
static bool is_judged(const tdm_job *j, int64_t i) { return !isnan(j->total[i]); }

/* Samples the policy and the critic learn from: not cut away by train.mask_truncated, and judged. */
static bool counts(const tdm_job *j, int64_t i)
{
    return is_judged(j, i) && !(j->r->train.mask_truncated && j->item[i].seq->finish == TDM_FINISH_LENGTH);
}

static tdm_status find_values(tdm_job *j, tdm_error *err)
{
    for (int64_t i = 0; i < j->sequence_count; i++) j->item[i].value = j->sequences.value[i];
    const tdm_train_pass pass = {.adapter = &critic_of(j)->adapter, .values = TDM_VALUES_TOKENS};
    return tdm_trainer_look(j->session.trainer, &pass, j->item, j->sequence_count, err);
}

/* -kl * KL at the log-probabilities before the first update, where that is in the reward, and the score at the last token. */
static void token_rewards(const tdm_job *j, int64_t i, float *reward)
{
    const tdm_train_item *it = &j->item[i];
    const tdm_recipe_train *t = &j->r->train;
    const int64_t n = tdm_sequence_completion(it->seq);
    const bool penalizes = t->kl != 0.0 && t->kl_in == TDM_KL_IN_REWARD;
    int64_t last = n - 1;
    while (last > 0 && it->mask && it->mask[last] != 1) last--;
    for (int64_t k = 0; k < n; k++) {
        const double kl = penalizes ? t->kl * tdm_loss_kl_token(&j->loss, (double)it->old[k], (double)it->ref[k]) : 0.0;
        reward[k] = (float)((k == last ? j->total[i] : 0.0) - kl);
    }
}

/* Whitens rows of the samples that count, over all their tokens. */
static void whiten(const tdm_job *j, float *const *rows, bool shift)
{
    tdm_moments m = {0};
    for (int pass = 0; pass < 3; pass++)
        for (int64_t i = 0; i < j->sequence_count; i++) {
            const uint8_t *mask = j->item[i].mask;
            const int64_t n = tdm_sequence_completion(j->item[i].seq);
            if (!counts(j, i)) continue;
            if (pass == 0) tdm_moments_add(&m, rows[i], mask, n);
            else if (pass == 1) tdm_moments_add_squares(&m, rows[i], mask, n);
            else tdm_whiten(&m, shift, rows[i], mask, n);
        }
}

/* verl's figures of values and returns (verl/trainer/ppo/metric_utils.py). */
static void describe(tdm_job *j)
{
    tdm_moments values = {0}, returns = {0}, left = {0};
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < j->sequence_count; i++) {
            const tdm_train_item *it = &j->item[i];
            if (!counts(j, i)) continue;
            for (int64_t k = 0; k < tdm_sequence_completion(it->seq); k++) {
                if (it->mask && it->mask[k] != 1) continue;
                const float error = it->returns[k] - it->value[k];
                void (*const add)(tdm_moments *, const float *, const uint8_t *, int64_t) = pass ? tdm_moments_add_squares : tdm_moments_add;
                add(&values, &it->value[k], NULL, 1);
                add(&returns, &it->returns[k], NULL, 1);
                add(&left, &error, NULL, 1);
            }
        }
    j->fig.value_mean = tdm_moments_mean(&values);
    j->fig.return_mean = tdm_moments_mean(&returns);
    j->fig.explained_variance = 1.0 - tdm_moments_variance(&left) / (tdm_moments_variance(&returns) + 1e-5);
}

tdm_status tdm_job_critic_advantages(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_recipe_train *t = &j->r->train;
    const tdm_gae gae = {.gamma = t->gamma, .lambda = t->lam};
    float **rows = j->sequences.advantages; /* rewards first, then what becomes of them */
    TDM_TRY(st, find_values(j, err), done);
    for (int64_t i = 0; i < j->sequence_count; i++)
        if (is_judged(j, i)) token_rewards(j, i, rows[i]);
    if (t->whiten_rewards) whiten(j, rows, false);
    for (int64_t i = 0; i < j->sequence_count; i++) {
        tdm_train_item *it = &j->item[i];
        it->left_out = !counts(j, i);
        if (!is_judged(j, i)) continue;
        tdm_gae_eval(&gae, rows[i], it->value, it->mask, tdm_sequence_completion(it->seq), rows[i], j->sequences.returns[i]);
        it->advantages = rows[i];
        it->returns = j->sequences.returns[i];
    }
    describe(j);
    whiten(j, rows, true);
done:
    return st;
}

bool tdm_job_policy_learns(const tdm_job *j, int64_t step) { return !tdm_job_ppo(j) || step >= j->r->train.critic.warmup; }

tdm_status tdm_job_critic_update(tdm_job *j, tdm_train_item *items, int64_t count, tdm_value_sums *sums, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_role *critic = critic_of(j);
    tdm_optimizer *o = &critic->optimizer;
    double norm, lr;
    const tdm_value_config loss = {.clip = j->r->train.critic.cliprange_value, .factor = j->r->train.critic.vf_coef};
    const tdm_train_pass pass = {.adapter = &critic->adapter, .opt = o, .values = TDM_VALUES_TOKENS, .value_loss = &loss, .value_sums = sums,
                                 .dropout = (float)j->r->adapter.dropout, .dropout_seed = ~((uint64_t)j->r->seed * 0x9E3779B97F4A7C15ull + (uint64_t)o->updates),
                                 .keep_going = tdm_job_keep_going, .ctx = j};
    TDM_TRY(st, tdm_optimizer_zero_grad(o, err), done);
    TDM_TRY(st, tdm_trainer_accumulate(j->session.trainer, &pass, items, count, NULL, err), done);
    TDM_TRY(st, tdm_optimizer_step(o, &norm, &lr, err), done);
    j->updated = true;
    j->fig.critic_grad_norm += norm;
    j->fig.critic_lr = lr;
done:
    return st;
}

void tdm_job_critic_metrics(const tdm_job *j, tdm_step_metrics *m)
{
    const tdm_job_figures *f = &j->fig;
    tdm_metric_set(m, TDM_METRIC_CRITIC_VF_LOSS, f->value_loss);
    tdm_metric_set(m, TDM_METRIC_CRITIC_VF_CLIPFRAC, f->value_clip_fraction);
    tdm_metric_set(m, TDM_METRIC_CRITIC_VALUES_MEAN, f->value_mean);
    tdm_metric_set(m, TDM_METRIC_CRITIC_RETURNS_MEAN, f->return_mean);
    tdm_metric_set(m, TDM_METRIC_CRITIC_VF_EXPLAINED_VAR, f->explained_variance);
    tdm_metric_set(m, TDM_METRIC_CRITIC_GRAD_NORM, f->critic_grad_norm);
    tdm_metric_set(m, TDM_METRIC_CRITIC_LR, f->critic_lr);
}
