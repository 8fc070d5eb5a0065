/* The update of one step: passes that freeze log-probabilities, then epochs of minibatches. */
#include "runtime/run/job_internal.h"

#include <math.h>
#include <string.h>

/* Where sampler and trainer give the same bits, the sampler's log-probabilities are the trainer's first pass. */
static bool same_bits(const tdm_job *j)
{
    if (j->session.be->device && !j->session.spec.exact) return false; /* fast kernels are chosen by the number of rows */
    return !tdm_job_replays(j) && j->r->adapter.dropout == 0.0 && !tdm_weights_batch_dependent(j->session.weights);
}

tdm_status tdm_job_score(tdm_job *j, const tdm_adapter *adapter, float *const *rows, int64_t count, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t i = 0; i < count; i++) {
        j->item[i].lp = rows[i];
        j->item[i].entropy = NULL;
    }
    TDM_TRY(st, tdm_trainer_score(j->session.trainer, adapter, j->item, count, &j->sampling, err), done);
done:
    for (int64_t i = 0; i < count; i++) {
        j->item[i].lp = j->sequences.lp[i];
        j->item[i].entropy = j->sequences.entropy[i];
    }
    return st;
}

static bool penalizes(const tdm_recipe_train *t) { return t->kl != 0.0 && t->kl_in != TDM_KL_IN_LOSS; }

/* Old log-probabilities of the ratio, by the rules of design section 7: with one epoch and no correction the sampler's; else the
 * trainer's own before the first update. With a single update that is the pass itself (old stays NULL), unless it is needed before, by rewards or by what is
 * rejected, which the same bits leave out too: then every ratio is 1. */
static tdm_status freeze_old(tdm_job *j, int64_t updates, bool needed, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_recipe_train *t = &j->r->train;
    const bool sampler = j->item[0].sampler != NULL;
    const bool from_sampler = sampler && t->importance.correction == TDM_CORRECTION_NONE && t->epochs_per_rollout == 1;
    const bool compares = tdm_job_compares(j) && !same_bits(j), pass = compares || (!from_sampler && (updates > 1 || needed));
    if (pass && !same_bits(j)) TDM_TRY(st, tdm_job_score(j, &j->session.adapter, j->sequences.old, j->sequence_count, err), done);
    for (int64_t i = 0; i < j->sequence_count; i++) {
        if (from_sampler || (pass && same_bits(j))) j->item[i].old = j->item[i].sampler;
        else if (pass) j->item[i].old = j->sequences.old[i];
    }
    if (compares) tdm_job_correct(j, j->sequences.old);
done:
    return st;
}

/* train.kl_in: token. Each token has its own KL in its reward (train/advantage.h). */
static void penalize_tokens(tdm_job *j)
{
    const tdm_recipe_train *t = &j->r->train;
    for (int64_t i = 0; i < j->sequence_count; i++) {
        const tdm_train_item *it = &j->item[i];
        const tdm_loss_tokens tokens = {.count = tdm_sequence_completion(it->seq), .lp = it->old, .ref = it->ref, .mask = it->mask};
        tdm_loss_kl(&j->loss, &tokens, j->sequences.advantages[i]);
        j->tokens[i] = tokens.count; /* all of the completion, those in no loss too */
        j->item[i].advantages = j->sequences.advantages[i];
    }
    tdm_advantages_by_token(t->advantage == TDM_ADVANTAGE_REINFORCE_PP_BASELINE, j->total, t->kl, j->tokens, j->group_start, j->group_count, j->sequences.advantages);
}

/* train.kl_in: reward. Advantages are made again, of the rewards less train.kl times the KL of a completion at the old log-probabilities, as
 * TRL's RLOOTrainer does (trl/trainer/rloo_trainer.py); what is logged as reward stays. */
static void penalize(tdm_job *j)
{
    for (int64_t i = 0; i < j->sequence_count; i++) {
        const tdm_train_item *it = &j->item[i];
        const tdm_loss_tokens tokens = {.count = tdm_sequence_completion(it->seq), .lp = it->old, .ref = it->ref, .mask = it->mask};
        j->advantage[i] = j->total[i] - j->r->train.kl * tdm_loss_kl(&j->loss, &tokens, NULL);
    }
    tdm_job_advantages(j, j->advantage);
    for (int64_t i = 0; i < j->sequence_count; i++) j->item[i].advantage = j->advantage[i];
}

/* A completion that was cut, or of which nothing is left. */
static bool left_out(const tdm_job *j, const tdm_train_item *it)
{
    if (tdm_job_supervised(j)) return it->left_out;
    return it->left_out || (j->r->train.mask_truncated && it->seq->finish == TDM_FINISH_LENGTH) || tdm_job_tokens_in_loss(it) == 0;
}

/* Items [first, end) with their weights; those that are in no loss are moved behind *kept. Order is kept. */
static void weigh(tdm_job *j, int64_t first, int64_t end, int64_t *kept)
{
    int64_t total = 0;
    *kept = first;
    for (int64_t i = first; i < end; i++) {
        if (left_out(j, &j->item[i])) continue;
        const tdm_train_item it = j->item[*kept];
        j->item[*kept] = j->item[i];
        if (*kept != i) j->item[i] = it;
        total += tdm_job_tokens_in_loss(&j->item[(*kept)++]);
    }
    for (int64_t i = first; i < *kept; i++) {
        j->item[i].weight = tdm_loss_weight(&j->loss, tdm_job_tokens_in_loss(&j->item[i]), end - first, total);
        j->item[i].entropy_weight = tdm_job_sft(j) ? 0.0 : tdm_job_entropy_coef(j) / (double)tdm_max_i64(total, 1);
    }
}

bool tdm_job_keep_going(void *ctx)
{
    const tdm_job *j = ctx;
    /* once the adapter has moved, the step is finished: a checkpoint stands between steps */
    return j->updated || !tdm_signals_stop();
}

static tdm_status update_policy(tdm_job *j, const tdm_train_pass *pass, tdm_train_item *items, int64_t count, tdm_loss_sums *sums, tdm_error *err)
{
    tdm_status st = TDM_OK;
    double norm, lr;
    const tdm_loss_sums before = *sums;
    TDM_TRY(st, tdm_optimizer_zero_grad(&j->session.optimizer, err), done);
    TDM_TRY(st, tdm_trainer_accumulate(j->session.trainer, pass, items, count, sums, err), done);
    TDM_TRY(st, tdm_optimizer_step(&j->session.optimizer, &norm, &lr, err), done);
    tdm_job_entropy_follow(j, sums->objective_entropy - before.objective_entropy, sums->objective_tokens - before.objective_tokens);
    j->updated = true;
    j->fig.grad_norm += norm;
    j->fig.lr = lr;
done:
    return st;
}

static tdm_status update(tdm_job *j, int64_t first, int64_t end, tdm_loss_sums *sums, tdm_value_sums *values, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int64_t kept = end;
    const tdm_train_pass pass = {.adapter = &j->session.adapter, .loss = &j->loss, .sampling = &j->sampling, .opt = &j->session.optimizer,
                                 .values = tdm_job_scores(j) ? TDM_VALUES_SEQUENCE : TDM_VALUES_NONE,
                                 .dropout = (float)j->r->adapter.dropout,
                                 .dropout_seed = (uint64_t)j->r->seed * 0x9E3779B97F4A7C15ull + (uint64_t)j->session.optimizer.updates,
                                 .keep_going = tdm_job_keep_going, .ctx = j, .distills = tdm_job_distills_full(j), .teacher = tdm_job_distills(j) ? tdm_job_teacher(j) : NULL,
                                 .beta = j->r->train.distill.beta};
    if (tdm_job_prefers(j)) TDM_TRY(st, tdm_job_preference_weigh(j, &pass, first, end, sums, err), done);
    else weigh(j, first, end, &kept);
    if (tdm_job_ppo(j)) TDM_TRY(st, tdm_job_critic_update(j, j->item + first, kept - first, values, err), done);
    if (!tdm_job_policy_learns(j, j->step)) goto done;
    TDM_TRY(st, tdm_job_top_entropy(j, &pass, first, kept, err), done);
    TDM_TRY(st, update_policy(j, &pass, j->item + first, kept - first, sums, err), done);
done:
    return st;
}

/* Over all updates: the weights are of the frozen log-probabilities, so each epoch has the same. */
static void importance_figures(tdm_job_figures *f, const tdm_loss_sums *s)
{
    const double n = (double)tdm_max_i64(1, s->importance_count);
    f->importance_count = s->importance_count;
    f->importance_mean = s->importance / n;
    f->importance_min = s->importance_min;
    f->importance_max = s->importance_max;
    f->importance_high = (double)s->importance_high / n;
    f->importance_low = (double)s->importance_low / n;
    f->importance_ess = s->importance_squares > 0.0 ? s->importance * s->importance / (n * s->importance_squares) : 0.0;
    f->off_policy = s->sequences ? (double)s->off_policy / (double)s->sequences : 0.0;
}

int64_t tdm_job_part(const tdm_job *j, int64_t k, int64_t parts)
{
    const int64_t unit = tdm_job_prefers(j) && tdm_preference_pairs(j->preference.kind) ? 2 : 1;
    return unit * (j->sequence_count / unit * k / parts);
}

/* What a policy gradient knows before its first update: reference, old log-probabilities, and of them what is taken from rewards. */
static tdm_status look_back(tdm_job *j, int64_t updates, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_recipe_train *t = &j->r->train;
    if (t->kl != 0.0) {
        TDM_TRY(st, tdm_job_score(j, NULL, j->sequences.ref, j->sequence_count, err), done);
        for (int64_t i = 0; i < j->sequence_count; i++) j->item[i].ref = j->sequences.ref[i];
    }
    TDM_TRY(st, freeze_old(j, updates, penalizes(t), err), done);
    if (tdm_job_ppo(j)) TDM_TRY(st, tdm_job_critic_advantages(j, err), done);
    else if (penalizes(t) && t->kl_in == TDM_KL_IN_TOKEN) penalize_tokens(j);
    else if (penalizes(t)) penalize(j);
done:
    return st;
}

static tdm_status distill(tdm_job *j, int64_t updates, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (tdm_job_distills_full(j)) return TDM_OK; /* both distributions are computed in the update */
    TDM_TRY(st, tdm_job_distill_reference(j, err), done);
    TDM_TRY(st, freeze_old(j, updates, true, err), done);
    tdm_job_distill_advantages(j);
done:
    return st;
}

/* Those of tokens, which have just been made. */
static void clip_advantages(tdm_job *j)
{
    const tdm_recipe_train *r = &j->r->train;
    for (int64_t i = 0; j->sequences.advantages && i < j->sequence_count; i++)
        for (int64_t t = 0; t < tdm_sequence_completion(j->item[i].seq); t++) {
            float *a = &j->sequences.advantages[i][t];
            *a = fminf(fmaxf(*a, (float)r->advantage_clip_low), (float)r->advantage_clip_high);
        }
}

tdm_status tdm_job_update(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const double start = tdm_now_s();
    const tdm_recipe_train *t = &j->r->train;
    const int64_t epochs = tdm_job_supervised(j) ? 1 : t->epochs_per_rollout, parts = tdm_min_i64(t->minibatches, tdm_max_i64(1, j->sequence_count));
    tdm_loss_sums all = {0}, first_update = {0};
    tdm_value_sums values = {0};
    int64_t updates = 0;
    if (tdm_job_prefers(j)) TDM_TRY(st, tdm_job_preference_reference(j, err), done);
    if (!tdm_job_supervised(j)) {
        if (tdm_job_distills(j)) TDM_TRY(st, distill(j, epochs * parts, err), done);
        else TDM_TRY(st, look_back(j, epochs * parts, err), done);
        clip_advantages(j);
    }
    for (int64_t e = 0; e < epochs; e++)
        for (int64_t k = 0; k < parts; k++, updates++) {
            TDM_TRY(st, update(j, tdm_job_part(j, k, parts), tdm_job_part(j, k + 1, parts), &all, &values, err), done);
            if (updates == 0) first_update = all;
            tdm_progress_phase(&j->progress, j->step + 1, "train", updates + 1, epochs * parts);
        }
    tdm_job_figures *f = &j->fig;
    const double tokens = (double)tdm_max_i64(1, all.tokens), n = (double)tdm_max_i64(1, updates);
    f->loss = all.loss / n;
    f->grad_norm /= n;
    f->kl = all.kl / tokens;
    f->entropy = all.entropy / tokens;
    f->value_loss = values.loss / n;
    f->value_clip_fraction = (double)values.clipped / (double)tdm_max_i64(1, values.tokens);
    f->critic_grad_norm /= n;
    f->clip_fraction = all.clip_count > 0.0 ? all.clipped / all.clip_count : 0.0;
    /* later updates run under another policy than the sampler's: the mismatch is that of the first */
    f->mismatch_mean = first_update.mismatch / (double)tdm_max_i64(1, first_update.mismatch_tokens);
    f->mismatch_max = first_update.mismatch_max;
    f->mismatch_kl = first_update.mismatch_k1 / (double)tdm_max_i64(1, first_update.mismatch_tokens);
    f->mismatch_k3 = first_update.mismatch_k3 / (double)tdm_max_i64(1, first_update.mismatch_tokens);
    importance_figures(f, &all);
done:
    j->fig.train_s = tdm_now_s() - start;
    return st;
}
