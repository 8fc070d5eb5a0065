/* What entropy has to say: which tokens the objective is of, those of most entropy (TRL's top_entropy_quantile), and how much the bonus weighs, where that follows
 * the policy (TRL's use_adaptive_entropy; Skywork-OR1, arXiv:2505.22312). */
#include "runtime/run/job_internal.h"

#include <math.h>

double tdm_job_entropy_coef(const tdm_job *j)
{
    const tdm_recipe_train *t = &j->r->train;
    if (!t->use_adaptive_entropy) return t->entropy_coef;
    return j->entropy_known && j->last_entropy <= t->entropy_target ? j->entropy_coef : 0.0;
}

void tdm_job_entropy_follow(tdm_job *j, double sum, int64_t tokens)
{
    const tdm_recipe_train *t = &j->r->train;
    if (!t->use_adaptive_entropy || tokens == 0) return;
    j->last_entropy = sum / (double)tokens;
    j->entropy_known = true;
    if (j->last_entropy <= t->entropy_target) j->entropy_coef = fmin(j->entropy_coef + t->entropy_coef_delta, t->entropy_coef_max);
    else j->entropy_coef = fmax(j->entropy_coef - t->entropy_coef_delta, t->entropy_coef_min);
}

tdm_status tdm_job_top_entropy(tdm_job *j, const tdm_train_pass *pass, int64_t first, int64_t end, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int64_t count = 0;
    if (!j->entropies || first == end) return TDM_OK;
    TDM_TRY(st, tdm_trainer_look(j->session.trainer, pass, j->item + first, end - first, err), done);
    for (int64_t i = first; i < end; i++) {
        const tdm_train_item *it = &j->item[i];
        for (int64_t t = 0; t < tdm_sequence_completion(it->seq); t++)
            if (!it->mask || it->mask[t] == 1) j->entropies[count++] = it->entropy[t];
    }
    if (count == 0) return TDM_OK;
    const float least = tdm_quantile(j->entropies, count, 1.0 - j->r->train.top_entropy_quantile);
    count = 0;
    for (int64_t i = first; i < end; i++) {
        tdm_train_item *it = &j->item[i];
        uint8_t *policy = j->sequences.policy[i];
        for (int64_t t = 0; t < tdm_sequence_completion(it->seq); t++) {
            policy[t] = (!it->mask || it->mask[t] == 1) && it->entropy[t] >= least;
            count += policy[t];
        }
        it->policy = policy;
    }
    for (int64_t i = first; i < end; i++) j->item[i].entropy_weight = tdm_job_entropy_coef(j) / (double)tdm_max_i64(1, count);
done:
    return st;
}
