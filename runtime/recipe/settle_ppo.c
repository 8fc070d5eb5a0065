/* ppo: what follows from the policy's keys, and what a critic leaves no place for. */
#include "runtime/recipe/schema.h"

#define REFUSE(key, hint, ...) TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(r, (key), (char[TDM_RECIPE_WHERE]){0}), (hint), __VA_ARGS__)

/* Keys of a critic where there is none. */
static tdm_status check_no_critic(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_train *t = &r->train;
    const tdm_recipe_critic *c = &t->critic;
    const struct { const char *key; bool changed; } keys[] = {
        {"train.gamma", t->gamma != 1.0}, {"train.lam", t->lam != 0.95}, {"train.whiten_rewards", t->whiten_rewards},
        {"train.critic.rank", c->rank != 0}, {"train.critic.alpha", c->alpha != 0.0}, {"train.critic.init", c->init[0] != 0},
        {"train.critic.lr", c->lr != 1e-5}, {"train.critic.cliprange_value", c->cliprange_value != 0.2}, {"train.critic.vf_coef", c->vf_coef != 1.0},
        {"train.critic.warmup", c->warmup != 0},
    };
    for (size_t i = 0; i < TDM_COUNT(keys); i++)
        if (keys[i].changed)
            return REFUSE(keys[i].key, "remove it, or use train.algorithm: ppo", "%s is of a critic, and train.algorithm: %s has none", keys[i].key,
                          tdm_algorithm_names[t->algorithm]);
    return TDM_OK;
}

/* Advantages are of tokens, so the ratio is too. */
static tdm_status check_tokens(const tdm_recipe *r, tdm_error *err)
{
    static const struct { tdm_loss_kind loss; const char *name; } of_sequences[] = {
        {TDM_LOSS_LUSPO, "luspo"}, {TDM_LOSS_VESPO, "vespo"}, {TDM_LOSS_GMPO, "gmpo"}, {TDM_LOSS_RLOO, "rloo"}};
    const tdm_recipe_train *t = &r->train;
    for (size_t i = 0; i < TDM_COUNT(of_sequences); i++)
        if (t->loss == of_sequences[i].loss)
            return REFUSE("train.loss", "use dapo, grpo, bnpo, dr_grpo, cispo or sapo", "train.loss: %s has one ratio a completion, and ppo's advantages are of tokens",
                          of_sequences[i].name);
    if (t->importance.ratio == TDM_RATIO_SEQUENCE)
        return REFUSE(tdm_recipe_given(r, "train.importance.ratio") ? "train.importance.ratio" : "train.loss", "use importance.ratio: token, and no gspo",
                      "a ratio of the sequence is one number a completion, and ppo's advantages are of tokens");
    if (t->off_policy_threshold != 0.0)
        return REFUSE("train.off_policy_threshold", "remove it", "train.off_policy_threshold looks at a completion's advantage, and ppo's are of tokens");
    return TDM_OK;
}

static tdm_status check_critic(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_train *t = &r->train;
    if (t->advantage != TDM_ADVANTAGE_GROUP_STD)
        return REFUSE("train.advantage", "remove it, or use train.algorithm: grpo", "train.advantage compares a group's completions, ppo's advantages are of the critic's values");
    if (r->rollout.filter_groups.enable)
        return REFUSE("rollout.filter_groups.enable", "remove it, or use train.algorithm: grpo",
                      "rollout.filter_groups drops groups that tell no completion from another, and ppo compares with the critic");
    if (t->critic.warmup > t->steps)
        return REFUSE("train.critic.warmup", "warm up for fewer steps", "train.critic.warmup is %lld, train.steps is %lld", (long long)t->critic.warmup,
                      (long long)t->steps);
    return check_tokens(r, err);
}

tdm_status tdm_recipe_settle_ppo(tdm_recipe *r, tdm_error *err)
{
    tdm_recipe_train *t = &r->train;
    if (t->algorithm != TDM_ALGORITHM_PPO) return check_no_critic(r, err);
    if (t->importance.ratio == TDM_RATIO_AUTO) t->importance.ratio = TDM_RATIO_TOKEN;
    if (!t->critic.init[0]) { /* else both are the loaded adapter's */
        if (t->critic.rank == 0) t->critic.rank = r->adapter.rank;
        if (t->critic.alpha == 0.0) t->critic.alpha = r->adapter.alpha;
    }
    /* as TRL's PPOTrainer has it */
    if (!tdm_recipe_given(r, "train.kl_in")) t->kl_in = TDM_KL_IN_REWARD;
    if (!tdm_recipe_given(r, "train.kl_type") && t->kl_in == TDM_KL_IN_REWARD) t->kl_type = TDM_KL_K1;
    return check_critic(r, err);
}
