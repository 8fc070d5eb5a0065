/* train.distill: what on-policy distillation has no use for, and what only it has. */
#include "runtime/recipe/schema.h"

#include <string.h>

#define REFUSE(key, hint, ...) TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(r, (key), (char[TDM_RECIPE_WHERE]){0}), (hint), __VA_ARGS__)

static tdm_status check_keys(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_distill *d = &r->train.distill;
    const struct { const char *key; bool changed; } keys[] = {
        {"train.distill.loss", d->loss != TDM_DISTILL_FULL}, {"train.distill.teacher", strcmp(d->teacher, "base") != 0}, {"train.distill.beta", d->beta != 1.0}};
    for (size_t i = 0; i < TDM_COUNT(keys); i++)
        if (keys[i].changed)
            return REFUSE(keys[i].key, "remove it, or use that algorithm", "%s is of train.algorithm: distill", keys[i].key);
    return TDM_OK;
}

/* The whole distributions are compared as they are: nothing of a policy gradient is in the loss, and what was not sampled from is in it. */
static tdm_status check_full(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_train *t = &r->train;
    const struct { const char *key; bool set; } keys[] = {
        {"train.loss", t->loss != TDM_LOSS_DAPO}, {"train.clip_low", t->clip_low != 0.2}, {"train.clip_high", t->clip_high != 0.2},
        {"train.importance.level", t->importance.level != TDM_LEVEL_TOKEN}, {"train.importance.ratio", t->importance.ratio != TDM_RATIO_TOKEN},
        {"train.importance.correction", t->importance.correction != TDM_CORRECTION_TRUNCATE}, {"train.importance.floor", t->importance.floor != 0.0},
        {"train.importance.cap", t->importance.cap != 2.0}, {"train.delta", t->delta != 0.0}, {"train.off_policy_threshold", t->off_policy_threshold != 0.0}, {"train.entropy_coef", t->entropy_coef != 0.0},
        {"train.use_adaptive_entropy", t->use_adaptive_entropy}, {"train.advantage_clip_low", t->advantage_clip_low != -1e9},
        {"train.advantage_clip_high", t->advantage_clip_high != 1e9},
        {"train.top_entropy_quantile", t->top_entropy_quantile != 1.0}, {"train.importance.batch_normalize", t->importance.batch_normalize},
        {"train.importance.reject", t->importance.reject.count > 0}, {"train.importance.veto", t->importance.veto != 0.0}};
    for (size_t i = 0; i < TDM_COUNT(keys); i++)
        if (keys[i].set)
            return REFUSE(keys[i].key, "remove it, or use train.distill.loss: sampled", "%s is of a policy gradient, and train.distill.loss is full", keys[i].key);
    const tdm_recipe_rollout *o = &r->rollout;
    const char *cut = o->top_p < 1.0 ? "rollout.top_p" : o->top_k > 0 ? "rollout.top_k" : o->min_p > 0.0 ? "rollout.min_p" : NULL;
    if (cut) return REFUSE(cut, "remove it, or use train.distill.loss: sampled", "%s leaves tokens out, and train.distill.loss: full compares whole distributions", cut);
    if (o->repetition_penalty != 1.0)
        return REFUSE("rollout.repetition_penalty", "remove it, or use train.distill.loss: sampled",
                      "rollout.repetition_penalty changes the distribution by what came before, and train.distill.loss: full compares it as the model gives it");
    return TDM_OK;
}

/* Each token has an advantage of its own. */
static tdm_status check_sampled(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_train *t = &r->train;
    if (t->distill.beta != 1.0)
        return REFUSE("train.distill.beta", "remove it, or use train.distill.loss: full", "train.distill.beta is of whole distributions, and train.distill.loss is sampled");
    if (t->importance.ratio == TDM_RATIO_SEQUENCE || t->loss == TDM_LOSS_VESPO || t->loss == TDM_LOSS_GMPO || t->loss == TDM_LOSS_RLOO)
        return REFUSE(tdm_recipe_given(r, "train.loss") ? "train.loss" : "train.importance.ratio", "use a loss whose ratio is of tokens",
                      "train.distill.loss: sampled gives each token an advantage of its own, and this ratio is of the completion");
    return TDM_OK;
}

tdm_status tdm_recipe_check_distill(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_train *t = &r->train;
    if (t->algorithm != TDM_ALGORITHM_DISTILL) return check_keys(r, err);
    if (!t->distill.teacher[0]) return REFUSE("train.distill.teacher", "write base, or an adapter's folder", "train.distill.teacher is empty");
    if (t->kl != 0.0 || t->kl_in != TDM_KL_IN_LOSS)
        return REFUSE(t->kl != 0.0 ? "train.kl" : "train.kl_in", "remove it", "train.algorithm: distill is held to its teacher, and has no other reference");
    if (t->advantage != TDM_ADVANTAGE_GROUP_STD)
        return REFUSE("train.advantage", "remove it, or use train.algorithm: grpo", "train.advantage is of rewards, and train.algorithm: distill learns from its teacher");
    if (r->data.eval[0] && !r->reward_count)
        return REFUSE("data.eval", "add a reward, which is not learned from", "data.eval is scored by the rewards, and there are none");
    return t->distill.loss == TDM_DISTILL_FULL ? check_full(r, err) : check_sampled(r, err);
}
