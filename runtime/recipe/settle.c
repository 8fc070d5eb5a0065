/* Rules across keys. Each error stands at the key a person would change, and says why the combination cannot be. */
#include "runtime/recipe/schema.h"

#include <stdio.h>
#include <string.h>

#define REFUSE(key, hint, ...) TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(r, (key), (char[TDM_RECIPE_WHERE]){0}), (hint), __VA_ARGS__)

static tdm_status check_model(tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_model *m = &r->model;
    if (!m->path[0]) return REFUSE("model.path", "give a model folder or a .gguf file", "model.path is missing");
    const size_t len = strlen(m->path);
    if (m->random_weights && len > 5 && strcmp(m->path + len - 5, ".gguf") == 0)
        return REFUSE("model.random_weights", "give a folder with config.json and tokenizer.json as model.path",
                      "model.random_weights takes its shapes from a config.json, and model.path is a GGUF file");
    return tdm_recipe_settle_fp8(r, err);
}

/* Design section 1, promise 3: the same log-probability in both engines, whatever the batch around a sequence. */
static tdm_status check_exact(const tdm_recipe *r, tdm_error *err)
{
    if (r->numerics != TDM_NUMERICS_EXACT) return TDM_OK;
    if (r->model.weights == TDM_SCHEME_FP8_TENSOR && r->model.activations == TDM_ACT_DYNAMIC)
        return REFUSE("numerics", "use model.weights: fp8_channel, activations: static or none, or numerics: fast",
                      "numerics: exact cannot hold with fp8_tensor and dynamic activations: their one scale depends on the batch");
    if (!tdm_algorithm_supervised(r->train.algorithm) && r->adapter.dropout > 0)
        return REFUSE(tdm_recipe_given(r, "adapter.dropout") ? "adapter.dropout" : "numerics", "use adapter.dropout: 0, or numerics: fast",
                      "numerics: exact cannot hold with adapter.dropout %g: the trainer would drop what the sampler used", r->adapter.dropout);
    return TDM_OK;
}

static tdm_status check_sources(const tdm_recipe *r, tdm_error *err)
{
    static const char *const rows[] = {[TDM_ALGORITHM_SFT] = "give a JSONL file of messages, or of prompt and completion",
                                       [TDM_ALGORITHM_DPO] = "give a JSONL file of prompt, chosen and rejected",
                                       [TDM_ALGORITHM_ORPO] = "give a JSONL file of prompt, chosen and rejected",
                                       [TDM_ALGORITHM_REWARD] = "give a JSONL file of prompt, chosen and rejected",
                                       [TDM_ALGORITHM_KTO] = "give a JSONL file of prompt, completion and label"};
    const tdm_algorithm a = r->train.algorithm;
    if (r->data.eval[0] && (tdm_algorithm_supervised(a) || r->rollout.replay[0]))
        return REFUSE("data.eval", "remove it, and use tandem eval on the checkpoints", "data.eval is scored by the rewards, and %s%s has none",
                      tdm_algorithm_supervised(a) ? "train.algorithm: " : "a ", tdm_algorithm_supervised(a) ? tdm_algorithm_names[a] : "replay");
    if (tdm_algorithm_supervised(a)) {
        if (!r->data.source_count) return REFUSE("data.train", rows[a], "train.algorithm: %s needs data.train", tdm_algorithm_names[a]);
        if (r->rollout.replay[0])
            return REFUSE("rollout.replay", "remove it, or use train.algorithm: grpo", "train.algorithm: %s replays no rollouts", tdm_algorithm_names[a]);
        return TDM_OK;
    }
    if (r->rollout.replay[0]) return TDM_OK; /* prompts, completions and rewards are all in the file */
    if (!r->data.source_count) return REFUSE("data.train", "give a JSONL file, or rollout.replay", "data.train is missing");
    if (!r->reward_count && a != TDM_ALGORITHM_DISTILL) return REFUSE("reward", "add one, as in reward: [{type: number, answer: \"{answer}\"}]", "no reward to learn from");
    return TDM_OK;
}

static tdm_status check_rollout(const tdm_recipe *r, tdm_error *err)
{
    if (tdm_algorithm_supervised(r->train.algorithm) || r->rollout.replay[0]) return TDM_OK;
    if (r->rollout.generations < 2 && r->train.algorithm == TDM_ALGORITHM_GRPO)
        return REFUSE("rollout.generations", "use 2 or more", "rollout.generations is 1: a completion has nothing to be better than");
    if (r->rollout.temperature == 0)
        return REFUSE("rollout.temperature", "use a temperature above 0", "rollout.temperature is 0: every completion of a prompt would be the same");
    if (r->rollout.ignore_eos && r->train.mask_truncated && !r->rollout.stop.count && !r->rollout.stop_token_ids.count)
        return REFUSE("train.mask_truncated", "give rollout.stop, or ignore_eos: false",
                      "train.mask_truncated leaves nothing to learn from: with rollout.ignore_eos every completion is cut at rollout.max_new_tokens");
    if (r->train.minibatches > r->rollout.prompts_per_step * r->rollout.generations)
        return REFUSE("train.minibatches", "use fewer minibatches", "train.minibatches is %lld, a step has %lld completions",
                      (long long)r->train.minibatches, (long long)(r->rollout.prompts_per_step * r->rollout.generations));
    return TDM_OK;
}

int64_t tdm_recipe_reward_find(const tdm_recipe *r, const char *name)
{
    for (int64_t i = 0; i < r->reward_count; i++)
        if (strcmp(r->reward[i].name, name) == 0) return i;
    return -1;
}

/* A key that takes a reward's name: the error lists those there are. */
static tdm_status check_reward_name(const tdm_recipe *r, const char *key, const char *name, tdm_error *err)
{
    char hint[200] = "name one of the recipe's rewards:";
    size_t at = strlen(hint);
    if (!name[0] || tdm_recipe_reward_find(r, name) >= 0) return TDM_OK;
    for (int64_t i = 0; i < r->reward_count && at < sizeof hint - 1; i++)
        at += (size_t)snprintf(hint + at, sizeof hint - at, "%s %s", i ? "," : "", r->reward[i].name);
    return REFUSE(key, hint, "%s: no reward is called \"%.64s\"", key, name);
}

static tdm_status check_filter(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_filter_groups *f = &r->rollout.filter_groups;
    if (!f->enable) return TDM_OK;
    if (r->train.algorithm != TDM_ALGORITHM_GRPO)
        return REFUSE("rollout.filter_groups.enable", "remove it, or use train.algorithm: grpo", "rollout.filter_groups looks at rewards, and this algorithm has none");
    if (r->rollout.replay[0])
        return REFUSE("rollout.filter_groups.enable", "remove it, or generate", "rollout.filter_groups generates other groups, and a replay has only its own");
    if (f->difficulty_low_threshold > f->difficulty_high_threshold)
        return REFUSE("rollout.filter_groups.difficulty_low_threshold", "use a low threshold below the high one",
                      "rollout.filter_groups.difficulty_low_threshold is %g, the high one is %g", f->difficulty_low_threshold, f->difficulty_high_threshold);
    return check_reward_name(r, "rollout.filter_groups.metric", f->metric, err);
}

static bool pass_at_holds(const tdm_recipe_eval *e, const char *name)
{
    char key[32];
    for (int64_t i = 0; i < e->pass_at.count; i++) {
        snprintf(key, sizeof key, "pass@%lld", (long long)e->pass_at.items[i]);
        if (strcmp(key, name) == 0) return true;
    }
    return false;
}

static tdm_status check_best(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_eval *e = &r->eval;
    if (e->patience > 0 && !e->best[0])
        return REFUSE("eval.patience", "name it, as in eval.best: reward_mean", "eval.patience waits for a better eval.best, and none is named");
    if (!e->best[0] || strcmp(e->best, "reward_mean") == 0 || tdm_recipe_reward_find(r, e->best) >= 0 || pass_at_holds(e, e->best)) return TDM_OK;
    return REFUSE("eval.best", "use reward_mean, a reward's name, or pass@K with K in eval.pass_at", "eval.best: an evaluation has no figure \"%.64s\"", e->best);
}

static tdm_status check_eval(const tdm_recipe *r, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_recipe_eval *e = &r->eval;
    const char *used = e->best[0] ? "eval.best" : e->patience ? "eval.patience" : e->pass_at.count ? "eval.pass_at" : e->every ? "eval.every" : NULL;
    if (!r->data.eval[0]) return used ? REFUSE(used, "give data.eval", "%s is of the evaluation, and there is no data.eval", used) : TDM_OK;
    if (e->generations > 1 && e->temperature == 0)
        return REFUSE("eval.generations", "give eval.temperature, or 1 generation", "eval.generations is %lld, and at eval.temperature 0 they would all be the same",
                      (long long)e->generations);
    if (e->generations > r->rollout.prompts_per_step * r->rollout.generations)
        return REFUSE("eval.generations", "use fewer", "eval.generations is %lld, and a step, for which memory is planned, has %lld completions",
                      (long long)e->generations, (long long)(r->rollout.prompts_per_step * r->rollout.generations));
    for (int64_t i = 0; i < e->pass_at.count; i++) {
        if (e->pass_at.items[i] > e->generations)
            return REFUSE("eval.pass_at", "raise eval.generations", "eval.pass_at has %lld, and eval.generations is %lld", (long long)e->pass_at.items[i],
                          (long long)e->generations);
        if (i > 0 && e->pass_at.items[i] <= e->pass_at.items[i - 1])
            return REFUSE("eval.pass_at", "write them rising, each once", "eval.pass_at has %lld after %lld", (long long)e->pass_at.items[i],
                          (long long)e->pass_at.items[i - 1]);
    }
    TDM_TRY(st, check_reward_name(r, "eval.pass_metric", e->pass_metric, err), done);
    TDM_TRY(st, check_best(r, err), done);
done:
    return st;
}

static tdm_status check_train(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_train *t = &r->train;
    if (t->advantage == TDM_ADVANTAGE_GDPO && r->rollout.replay[0])
        return REFUSE("train.advantage", "use group_std, batch_std, none or leave_one_out",
                      "train.advantage: gdpo normalizes the rewards one by one, and a replay has their sum alone");
    if (t->warmup_steps > t->steps)
        return REFUSE("train.warmup_steps", "warm up for fewer steps", "train.warmup_steps is %lld, train.steps is %lld",
                      (long long)t->warmup_steps, (long long)t->steps);
    if (tdm_algorithm_supervised(t->algorithm) && t->minibatches > t->batch_size)
        return REFUSE("train.minibatches", "use fewer minibatches", "train.minibatches is %lld, train.batch_size is %lld",
                      (long long)t->minibatches, (long long)t->batch_size);
    return TDM_OK;
}

/* Keys that speak of another algorithm's loss. */
static tdm_status check_preference_keys(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_preference *p = &r->train.preference;
    const tdm_algorithm a = r->train.algorithm;
    const unsigned dpo = 1u << TDM_ALGORITHM_DPO, kto = 1u << TDM_ALGORITHM_KTO, reward = 1u << TDM_ALGORITHM_REWARD, all = dpo | 1u << TDM_ALGORITHM_ORPO | kto;
    const struct { const char *key; bool changed; unsigned of; const char *names; } keys[] = {
        {"train.preference.loss", p->loss != TDM_PREFERENCE_SIGMOID, dpo, "dpo"},
        {"train.preference.beta", p->beta != 0.1, all, "dpo, orpo and kto"},
        {"train.preference.label_smoothing", p->label_smoothing != 0.0, dpo, "dpo"},
        {"train.preference.sft", p->sft != 0.0, dpo, "dpo"},
        {"train.preference.desirable_weight", p->desirable_weight != 1.0, kto, "kto"},
        {"train.preference.undesirable_weight", p->undesirable_weight != 1.0, kto, "kto"},
        {"train.preference.center_rewards_coefficient", p->center_rewards_coefficient != 0.0, reward, "reward"},
    };
    for (size_t i = 0; i < TDM_COUNT(keys); i++)
        if (keys[i].changed && !(keys[i].of >> a & 1u))
            return REFUSE(keys[i].key, "remove it, or use that algorithm", "%s is of %s, and train.algorithm is %s", keys[i].key, keys[i].names,
                          tdm_algorithm_names[a]);
    return TDM_OK;
}

/* Keys of a loss over sampled completions, which an algorithm that learns from given ones has no use for. */
static tdm_status check_policy_keys(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_train *t = &r->train;
    const struct { const char *key; bool set; } keys[] = {
        {"train.delta", t->delta != 0.0}, {"train.off_policy_threshold", t->off_policy_threshold != 0.0}, {"train.entropy_coef", t->entropy_coef != 0.0},
        {"train.use_adaptive_entropy", t->use_adaptive_entropy}, {"train.advantage_clip_low", t->advantage_clip_low != -1e9},
        {"train.advantage_clip_high", t->advantage_clip_high != 1e9},
        {"train.top_entropy_quantile", t->top_entropy_quantile != 1.0}, {"train.kl_bias_correction", t->kl_bias_correction},
        {"train.importance.batch_normalize", t->importance.batch_normalize}, {"train.importance.reject", t->importance.reject.count > 0},
        {"train.importance.veto", t->importance.veto != 0.0}, {"train.kl_in", t->kl_in != TDM_KL_IN_LOSS}, {"train.kl_input_clamp", t->kl_input_clamp != 0.0}, {"train.kl_output_clamp", t->kl_output_clamp != 0.0},
    };
    if (!tdm_algorithm_supervised(t->algorithm)) return TDM_OK;
    for (size_t i = 0; i < TDM_COUNT(keys); i++)
        if (keys[i].set)
            return REFUSE(keys[i].key, "remove it, or use train.algorithm: grpo", "%s is of completions that were sampled, and train.algorithm is %s", keys[i].key,
                          tdm_algorithm_names[t->algorithm]);
    return TDM_OK;
}

/* Which experts a token went to is known of completions that were sampled in the same step. */
static tdm_status check_routing(const tdm_recipe *r, tdm_error *err)
{
    if (r->train.routing != TDM_ROUTING_REPLAY) return TDM_OK;
    if (r->train.algorithm != TDM_ALGORITHM_GRPO && r->train.algorithm != TDM_ALGORITHM_PPO)
        return REFUSE("train.routing", "remove it, or use that algorithm", "train.routing: replay is of grpo and ppo, and train.algorithm is %s",
                      tdm_algorithm_names[r->train.algorithm]);
    if (r->rollout.replay[0]) return REFUSE("train.routing", "use train.routing: recompute", "train.routing: replay has nothing to read: rows of rollout.replay do not name experts");
    return TDM_OK;
}

static tdm_status check_preference(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_train *t = &r->train;
    const char *name = tdm_algorithm_names[t->algorithm];
    if (!tdm_algorithm_prefers(t->algorithm)) return TDM_OK;
    if (t->preference.label_smoothing > 0.0 && (t->preference.loss == TDM_PREFERENCE_HINGE || t->preference.loss == TDM_PREFERENCE_IPO))
        return REFUSE("train.preference.label_smoothing", "use train.preference.loss: sigmoid or robust, or no smoothing",
                      "train.preference.label_smoothing is of the sigmoid and the robust loss, the hinge and ipo have none");
    if (t->kl != 0.0)
        return t->algorithm == TDM_ALGORITHM_REWARD
                   ? REFUSE("train.kl", "remove it", "train.kl is of a policy, and train.algorithm: reward trains none")
                   : REFUSE("train.kl", "remove it, and set train.preference.beta", "train.kl is grpo's: train.algorithm %s is held to its reference by beta", name);
    if (r->reward_count) return REFUSE("reward", "remove it, or use train.algorithm: grpo", "train.algorithm: %s learns from the data's answers, not from rewards", name);
    if (r->data.prompt[0] || r->data.system[0])
        return REFUSE(r->data.prompt[0] ? "data.prompt" : "data.system", "remove it, and write the messages into the rows",
                      "train.algorithm: %s takes its prompts from the rows as they are", name);
    if (t->epochs_per_rollout > 1)
        return REFUSE("train.epochs_per_rollout", "use more steps", "train.epochs_per_rollout is %lld, and train.algorithm: %s has no rollout",
                      (long long)t->epochs_per_rollout, name);
    if (t->mask_truncated) return REFUSE("train.mask_truncated", "remove it", "train.mask_truncated is of completions that were sampled, and train.algorithm is %s", name);
    if (t->algorithm == TDM_ALGORITHM_KTO && t->batch_size / t->minibatches < 2)
        return REFUSE("train.batch_size", "use a batch of two or more for each minibatch",
                      "train.algorithm: kto estimates the KL from the answers of other prompts in the minibatch, and it has one only");
    return TDM_OK;
}

static tdm_status check_memory(const tdm_recipe *r, tdm_error *err)
{
    if (r->memory.offload == TDM_OFFLOAD_ACTIVATIONS && r->train.checkpointing == TDM_CHECKPOINTING_NONE)
        return REFUSE("train.checkpointing", "use train.checkpointing: layer or auto",
                      "memory.offload: activations moves the inputs of layers that are computed again, and train.checkpointing is none");
    return TDM_OK;
}

/* Where the names of the losses have gspo, the paper's name for the grpo loss over sequence ratios (arXiv:2507.18071). */
enum { GSPO = TDM_LOSS_SFT };

/* gspo and luspo: ratio and correction of a sequence. */
static tdm_status settle_sequences(tdm_recipe *r, tdm_error *err)
{
    tdm_recipe_importance *i = &r->train.importance;
    const char *loss = (int)r->train.loss == GSPO ? "gspo" : "luspo";
    const bool level = tdm_recipe_given(r, "train.importance.level");
    if (level && i->level == TDM_LEVEL_TOKEN)
        return REFUSE("train.importance.level", "remove the level, or use loss: grpo", "train.loss: %s is over sequences, importance.level is token", loss);
    if (i->ratio == TDM_RATIO_TOKEN)
        return REFUSE("train.importance.ratio", "remove the ratio, or use loss: grpo", "train.loss: %s is over sequences, importance.ratio is token", loss);
    if ((int)r->train.loss == GSPO) r->train.loss = TDM_LOSS_GRPO;
    i->ratio = TDM_RATIO_SEQUENCE;
    if (!level) i->level = TDM_LEVEL_SEQUENCE;
    return TDM_OK;
}

/* vespo, gmpo and rloo weigh a sequence in their own way. The weight of the last two is one number a sequence, and so is their correction's. */
static tdm_status settle_own_ratio(tdm_recipe *r, tdm_error *err)
{
    tdm_recipe_importance *i = &r->train.importance;
    const bool vespo = r->train.loss == TDM_LOSS_VESPO, gmpo = r->train.loss == TDM_LOSS_GMPO;
    const char *name = vespo ? "vespo" : gmpo ? "gmpo" : "rloo";
    if (i->ratio == TDM_RATIO_SEQUENCE)
        return REFUSE("train.importance.ratio", "remove the ratio", "train.loss: %s makes its own ratio of a sequence's tokens", name);
    i->ratio = TDM_RATIO_TOKEN;
    if (vespo || i->correction == TDM_CORRECTION_NONE) return TDM_OK;
    if (!tdm_recipe_given(r, "train.importance.level")) i->level = gmpo ? TDM_LEVEL_GEOMETRIC : TDM_LEVEL_SEQUENCE;
    if (i->level == TDM_LEVEL_TOKEN)
        return REFUSE("train.importance.level", "use importance.level: geometric or sequence", "train.loss: %s is over sequences, importance.level is token", name);
    return TDM_OK;
}

/* The bounds a loss is published with, where the recipe gives none: TRL's for cispo (none below, 5 above), the paper's for gmpo. */
static void settle_clip(tdm_recipe *r)
{
    tdm_recipe_train *t = &r->train;
    const bool gmpo = t->loss == TDM_LOSS_GMPO;
    if (!gmpo && t->loss != TDM_LOSS_CISPO) return;
    if (!tdm_recipe_given(r, "train.clip_low")) t->clip_low = gmpo ? 0.4 : 1.0;
    if (!tdm_recipe_given(r, "train.clip_high")) t->clip_high = gmpo ? 0.4 : 4.0;
}

/* The rest of what TRL's RLOOTrainer is, where the recipe does not say. */
static void settle_rloo(tdm_recipe *r)
{
    tdm_recipe_train *t = &r->train;
    if (t->loss != TDM_LOSS_RLOO) return;
    if (!tdm_recipe_given(r, "train.advantage")) t->advantage = TDM_ADVANTAGE_LEAVE_ONE_OUT;
    if (!tdm_recipe_given(r, "train.kl_in")) t->kl_in = TDM_KL_IN_REWARD;
    if (!tdm_recipe_given(r, "train.kl_type") && t->kl_in == TDM_KL_IN_REWARD) t->kl_type = TDM_KL_K1;
}

/* Once gspo is grpo. gmpo and rloo have one value a sequence. */
static tdm_status settle_aggregation(tdm_recipe *r, tdm_error *err)
{
    tdm_recipe_train *t = &r->train;
    const tdm_aggregation own = tdm_loss_aggregation(t->loss);
    if (t->aggregation == TDM_AGGREGATION_AUTO) t->aggregation = own;
    if ((t->loss == TDM_LOSS_GMPO || t->loss == TDM_LOSS_RLOO) && t->aggregation != own)
        return REFUSE("train.aggregation", "remove it, or use another loss", "train.loss: %s has one value a completion, which leaves only aggregation: sequence_mean",
                      t->loss == TDM_LOSS_GMPO ? "gmpo" : "rloo");
    return TDM_OK;
}

/* dppo looks at a token's probability, reinforce at no ratio. */
static tdm_status check_of_tokens(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_importance *i = &r->train.importance;
    const char *name = r->train.loss == TDM_LOSS_REINFORCE ? "reinforce" : r->train.loss == TDM_LOSS_DPPO_TV ? "dppo_tv" : "dppo_kl";
    if (i->ratio == TDM_RATIO_SEQUENCE || (i->ratio == TDM_RATIO_AUTO && i->level == TDM_LEVEL_SEQUENCE))
        return REFUSE(i->ratio == TDM_RATIO_SEQUENCE ? "train.importance.ratio" : "train.importance.level", "use importance.ratio: token", "train.loss: %s is over tokens, the ratio is of sequences",
                      name);
    return TDM_OK;
}

static tdm_status settle_loss(tdm_recipe *r, tdm_error *err)
{
    settle_rloo(r);
    settle_clip(r);
    switch ((int)r->train.loss) {
    case GSPO:
    case TDM_LOSS_LUSPO: return settle_sequences(r, err);
    case TDM_LOSS_VESPO:
    case TDM_LOSS_GMPO:
    case TDM_LOSS_RLOO: return settle_own_ratio(r, err);
    case TDM_LOSS_DPPO_TV:
    case TDM_LOSS_DPPO_KL:
    case TDM_LOSS_REINFORCE: return check_of_tokens(r, err);
    default: return TDM_OK;
    }
}

/* A number that is not the key's default. The resolved recipe gives every key a value, so that one was given says nothing. */
static bool differs(const tdm_recipe *r, const char *path)
{
    const tdm_key *k = &tdm_recipe_keys.keys[tdm_key_find(&tdm_recipe_keys, path)];
    double fallback = 0.0;
    return tdm_number_read(k->fallback, &fallback) && *(const double *)((const char *)r + k->offset) != fallback;
}

/* Numbers that the loss has no use for. */
static tdm_status check_loss(const tdm_recipe *r, tdm_error *err)
{
    static const struct { tdm_loss_kind loss; const char *name, *key; } only[] = {
        {TDM_LOSS_SAPO, "sapo", "train.sapo.temperature_pos"}, {TDM_LOSS_SAPO, "sapo", "train.sapo.temperature_neg"},
        {TDM_LOSS_VESPO, "vespo", "train.vespo.k_pos"}, {TDM_LOSS_VESPO, "vespo", "train.vespo.lambda_pos"},
        {TDM_LOSS_VESPO, "vespo", "train.vespo.k_neg"}, {TDM_LOSS_VESPO, "vespo", "train.vespo.lambda_neg"}};
    static const char *const clips[] = {"train.clip_low", "train.clip_high"};
    const tdm_loss_kind loss = r->train.loss;
    for (size_t i = 0; i < TDM_COUNT(only); i++)
        if (loss != only[i].loss && differs(r, only[i].key))
            return REFUSE(only[i].key, "remove it, or use that loss", "%s is of train.loss: %s", only[i].key, only[i].name);
    for (size_t i = 0; i < TDM_COUNT(clips); i++)
        if ((loss == TDM_LOSS_SAPO || loss == TDM_LOSS_VESPO || loss == TDM_LOSS_REINFORCE) && differs(r, clips[i]))
            return REFUSE(clips[i], "remove it, or use another loss", "train.loss: %s clips no ratio",
                          loss == TDM_LOSS_SAPO ? "sapo" : loss == TDM_LOSS_VESPO ? "vespo" : "reinforce");
    return TDM_OK;
}

static tdm_status check_entropy(const tdm_recipe *r, tdm_error *err)
{
    static const char *const keys[] = {"train.entropy_coef_min", "train.entropy_coef_max", "train.entropy_coef_delta", "train.entropy_target"};
    const tdm_recipe_train *t = &r->train;
    for (size_t i = 0; i < TDM_COUNT(keys); i++)
        if (!t->use_adaptive_entropy && differs(r, keys[i])) return REFUSE(keys[i], "give train.use_adaptive_entropy: true, or remove it", "%s is of an adaptive coefficient, and it is fixed", keys[i]);
    if (t->use_adaptive_entropy && (t->entropy_coef < t->entropy_coef_min || t->entropy_coef > t->entropy_coef_max))
        return REFUSE("train.entropy_coef", "begin within the bounds", "train.entropy_coef is %g, train.entropy_coef_min is %g and entropy_coef_max %g", t->entropy_coef, t->entropy_coef_min,
                      t->entropy_coef_max);
    return TDM_OK;
}

/* Bounds of what is not there, or inside another bound. */
static tdm_status check_bounds(const tdm_recipe *r, tdm_error *err)
{
    static const char *const clamps[] = {"train.kl_input_clamp", "train.kl_output_clamp"};
    const tdm_recipe_train *t = &r->train;
    const bool dppo = t->loss == TDM_LOSS_DPPO_TV || t->loss == TDM_LOSS_DPPO_KL, clips = t->loss == TDM_LOSS_LUSPO || (int)t->loss <= (int)TDM_LOSS_DAPO;
    if (t->delta > 0.0 && !clips && !dppo)
        return REFUSE("train.delta", "remove it, or use another loss", "train.delta bounds the ratio of grpo, bnpo, dr_grpo, dapo, gspo, luspo and dppo");
    if (t->delta > 0.0 && !dppo && t->delta <= 1.0 + t->clip_high)
        return REFUSE("train.delta", "use a greater one", "train.delta is %g: the ratio is clipped at 1 + train.clip_high, %g", t->delta, 1.0 + t->clip_high);
    if (t->kl_in == TDM_KL_IN_REWARD && t->kl != 0.0 && t->advantage == TDM_ADVANTAGE_GDPO)
        return REFUSE("train.advantage", "use kl_in: loss, or another advantage",
                      "train.advantage: gdpo normalizes the rewards one by one, and train.kl_in: reward takes the KL from their sum");
    if (t->kl_in != TDM_KL_IN_LOSS && t->kl == 0.0 && t->loss != TDM_LOSS_RLOO && t->algorithm != TDM_ALGORITHM_PPO)
        return REFUSE("train.kl_in", "give train.kl, or remove it", "train.kl_in: %s takes the KL from the rewards, and train.kl is 0",
                      t->kl_in == TDM_KL_IN_TOKEN ? "token" : "reward");
    if (t->kl_in == TDM_KL_IN_TOKEN && t->advantage != TDM_ADVANTAGE_REINFORCE_PP && t->advantage != TDM_ADVANTAGE_REINFORCE_PP_BASELINE)
        return REFUSE("train.kl_in", "use kl_in: reward, or advantage: reinforce_pp or reinforce_pp_baseline",
                      "train.kl_in: token gives each token an advantage of its own, and train.advantage makes one a completion");
    if (t->kl_in == TDM_KL_IN_TOKEN && (t->importance.ratio == TDM_RATIO_SEQUENCE || t->loss == TDM_LOSS_VESPO || t->loss == TDM_LOSS_GMPO || t->loss == TDM_LOSS_RLOO))
        return REFUSE("train.kl_in", "use kl_in: reward, or a loss whose ratio is of tokens", "train.kl_in: token gives each token an advantage of its own, and this ratio is of the completion");
    if (t->kl_bias_correction && (t->kl == 0.0 || t->kl_in != TDM_KL_IN_LOSS))
        return REFUSE("train.kl_bias_correction", "give train.kl, with kl_in: loss, or remove it", "train.kl_bias_correction weighs the KL term of the loss, and there is none");
    if (t->kl_bias_correction && t->loss == TDM_LOSS_GMPO)
        return REFUSE("train.kl_bias_correction", "remove it, or use another loss", "train.kl_bias_correction weighs a token's KL by its ratio, and train.loss: gmpo has one of the completion's clipped ones");
    if (t->top_entropy_quantile < 1.0 && t->loss == TDM_LOSS_RLOO)
        return REFUSE("train.top_entropy_quantile", "remove it, or use another loss", "train.top_entropy_quantile leaves tokens out, and train.loss: rloo has one value a completion");
    for (size_t i = 0; i < TDM_COUNT(clamps); i++)
        if (t->kl == 0.0 && differs(r, clamps[i]))
            return REFUSE(clamps[i], "give train.kl, or remove it", "%s bounds the KL term, and train.kl is 0", clamps[i]);
    return TDM_OK;
}

static void settle_ratio(tdm_recipe_importance *i)
{
    if (i->ratio == TDM_RATIO_AUTO) i->ratio = i->level == TDM_LEVEL_SEQUENCE ? TDM_RATIO_SEQUENCE : TDM_RATIO_TOKEN;
}

/* configs/gsm8k.yaml runs in runs/gsm8k. */
static tdm_status settle_output(tdm_recipe *r, tdm_error *err)
{
    if (r->output[0]) return TDM_OK;
    const char *name = r->store->file.name, *slash = strrchr(name, '/');
    if (slash) name = slash + 1;
    const char *dot = strrchr(name, '.');
    const size_t len = dot && dot > name ? (size_t)(dot - name) : strlen(name);
    r->output = tdm_pool_print(&r->store->pool, "runs/%.*s", (int)len, len ? name : "recipe");
    return r->output ? TDM_OK : TDM_FAIL(err, TDM_ERR_OTHER, name, "free some memory", "out of memory while reading the recipe");
}

tdm_status tdm_recipe_settle(tdm_recipe *r, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, settle_loss(r, err), done);
    TDM_TRY(st, settle_aggregation(r, err), done);
    TDM_TRY(st, tdm_recipe_settle_ppo(r, err), done);
    settle_ratio(&r->train.importance);
    TDM_TRY(st, settle_output(r, err), done);
    TDM_TRY(st, tdm_recipe_settle_rewards(r, err), done);
    TDM_TRY(st, tdm_recipe_settle_sources(r, err), done);
    TDM_TRY(st, check_model(r, err), done);
    TDM_TRY(st, check_exact(r, err), done);
    TDM_TRY(st, check_sources(r, err), done);
    TDM_TRY(st, tdm_recipe_settle_environment(r, err), done);
    TDM_TRY(st, check_rollout(r, err), done);
    TDM_TRY(st, check_filter(r, err), done);
    TDM_TRY(st, check_eval(r, err), done);
    TDM_TRY(st, check_train(r, err), done);
    TDM_TRY(st, check_loss(r, err), done);
    TDM_TRY(st, check_bounds(r, err), done);
    TDM_TRY(st, check_entropy(r, err), done);
    TDM_TRY(st, tdm_recipe_settle_importance(r, err), done);
    TDM_TRY(st, check_policy_keys(r, err), done);
    TDM_TRY(st, check_preference_keys(r, err), done);
    TDM_TRY(st, check_preference(r, err), done);
    TDM_TRY(st, check_routing(r, err), done);
    TDM_TRY(st, tdm_recipe_check_distill(r, err), done);
    TDM_TRY(st, check_memory(r, err), done);
done:
    return st;
}

void tdm_recipe_fit_context(tdm_recipe *r, int64_t context)
{
    int64_t *prompt = &r->data.max_prompt_tokens, *completion = &r->rollout.max_new_tokens;
    const bool free_prompt = !tdm_recipe_given(r, "data.max_prompt_tokens"), free_completion = !tdm_recipe_given(r, "rollout.max_new_tokens");
    const int64_t before = *completion;
    if (*prompt + *completion <= context) return;
    if (free_completion) *completion = tdm_max_i64(1, tdm_min_i64(before, free_prompt ? context / 2 : context - *prompt));
    if (free_prompt) *prompt = tdm_max_i64(1, context - *completion);
    for (int64_t i = 0; i < r->reward_count; i++) { /* length's max is the longest completion unless it was given */
        tdm_recipe_reward *w = &r->store->reward_items[i];
        char key[48];
        snprintf(key, sizeof key, "reward[%lld].max", (long long)i);
        if (w->kind == TDM_REWARD_LENGTH && !tdm_recipe_given(r, key) && w->max == before) w->max = tdm_max_i64(w->buffer, *completion);
    }
}

tdm_status tdm_recipe_check_backend(const tdm_recipe *r, const tdm_backend *be, const tdm_model_config *c, tdm_error *err)
{
    if (r->memory.offload != TDM_OFFLOAD_NONE && !be->device)
        return REFUSE("memory.offload", "use memory.offload: none", "memory.offload moves bytes from a device to the host, and the CPU backend has only the host");
    if (r->memory.offload == TDM_OFFLOAD_OPTIMIZER)
        return REFUSE("memory.offload", "use memory.offload: activations, or train.optimizer: adamw_8bit",
                      "memory.offload: the optimizer's state of this version stays on the device");
    if (r->memory.embedding == TDM_PLACE_HOST && be->device && c->tied_head)
        return REFUSE("memory.embedding", "use memory.embedding: device",
                      "memory.embedding: the head of this model is its embedding, and every step reads all of it");
    return TDM_OK;
}
