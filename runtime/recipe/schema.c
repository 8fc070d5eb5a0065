#include "runtime/recipe/schema.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define AT(field) offsetof(tdm_recipe, field)
#define IN(field) offsetof(tdm_recipe_reward, field)
#define COUNT_MAX 9e18 /* as far as an int64_t counts */

static const char *const schemes[] = {"bf16", "fp8_tensor", "fp8_channel", "fp8_block", NULL};
static const char *const fmts[] = {"e4m3", "e5m2", NULL};
static const char *const precisions[] = {"bf16", "fp8", NULL};
static const char *const activations[] = {"none", "dynamic", "static", NULL};
const char *const tdm_algorithm_names[] = {"grpo", "ppo", "sft", "dpo", "orpo", "kto", "reward", "distill", NULL};
static const char *const losses[] = {"grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo", "gmpo", "rloo", "dppo_tv", "dppo_kl", "reinforce", "gspo", NULL}; /* gspo: settled before anyone looks */
static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
static const char *const routings[] = {"recompute", "replay", NULL};
static const char *const optimizers[] = {"adamw", "sgd", "adamw_8bit", NULL};
static const char *const kl_types[] = {"k1", "k2", "k3", NULL};
static const char *const aggregations[] = {"auto", "token_mean", "sequence_mean", "sequence_sum", "constant", "token_sum", NULL};
static const char *const kl_ins[] = {"loss", "reward", "token", NULL};
static const char *const advantages[] = {"group_std", "batch_std", "none", "leave_one_out", "gdpo", "reinforce_pp", "reinforce_pp_baseline", NULL};
static const char *const levels[] = {"token", "sequence", "geometric", NULL};
static const char *const ratios[] = {"auto", "token", "sequence", NULL};
static const char *const corrections[] = {"none", "truncate", "mask", NULL};
static const char *const preferences[] = {"sigmoid", "hinge", "ipo", "robust", NULL};
static const char *const distill_losses[] = {"full", "sampled", NULL};
static const char *const checkpointings[] = {"auto", "none", "layer", NULL};
static const char *const offloads[] = {"none", "optimizer", "activations", NULL};
static const char *const places[] = {"device", "host", NULL};
const char *const tdm_device_names[] = {"auto", "cpu", "cuda", NULL};
static const char *const numerics[] = {"fast", "exact", NULL};
static const char *const on_errors[] = {"stop", "zero", "skip", NULL};
const char *const tdm_reward_kind_names[] = {"number", "exact", "regex", "format", "length", "environment", "model", "judge", "python", "command", "plugin", NULL};
static const char *const renders[] = {"tool", "user", "text", NULL};
static const char *const environment_errors[] = {"stop", "zero", "skip", NULL};
static const char *const reward_types[] = {"number", "exact", "regex", "format", "length", "environment", "model", "judge", NULL};

static_assert(TDM_SCHEME_FP8_BLOCK == 3 && TDM_ACT_STATIC == 2 && TDM_REWARD_PLUGIN == 10 && TDM_PREFERENCE_ROBUST == 3, "names stand in the order of the enums");
static_assert(sizeof(tdm_scheme) == sizeof(int) && sizeof(tdm_on_error) == sizeof(int), "an enum is stored as an int");

static const tdm_key recipe_keys[] = {
    {"model.path", TDM_KEY_TEXT, AT(model.path), "", 0, 0, NULL, TDM_KEY_REQUIRED | TDM_KEY_FREE, 0},
    {"model.random_weights", TDM_KEY_BOOL, AT(model.random_weights), "false", 0, 0, NULL, 0, 0},
    {"model.weights", TDM_KEY_ENUM, AT(model.weights), "fp8_channel", 0, 0, schemes, 0, 0},
    {"model.activations", TDM_KEY_ENUM, AT(model.activations), "dynamic", 0, 0, activations, 0, 0},
    {"model.activation_scales", TDM_KEY_TEXT, AT(model.activation_scales), "null", 0, 0, NULL, 0, 0},
    {"model.fmt", TDM_KEY_ENUM, AT(model.fmt), "e4m3", 0, 0, fmts, 0, 0},
    {"model.weight_block_size", TDM_KEY_NUMBERS, AT(model.weight_block_size), "[]", 1, 65536, NULL, 0, 0},
    {"model.pow2_scale", TDM_KEY_BOOL, AT(model.pow2_scale), "false", 0, 0, NULL, 0, 0},
    {"model.pow2_weight_scales", TDM_KEY_BOOL, AT(model.pow2_weight_scales), "false", 0, 0, NULL, 0, 0},
    {"model.pow2_activation_scales", TDM_KEY_BOOL, AT(model.pow2_activation_scales), "false", 0, 0, NULL, 0, 0},
    {"model.first_layers_bf16", TDM_KEY_INT, AT(model.first_layers_bf16), "0", 0, 10000, NULL, 0, 0},
    {"model.last_layers_bf16", TDM_KEY_INT, AT(model.last_layers_bf16), "0", 0, 10000, NULL, 0, 0},
    {"model.keep_bf16", TDM_KEY_TEXTS, AT(model.keep_bf16), "[lm_head]", 0, 0, NULL, 0, 0},
    {"model.lm_head", TDM_KEY_ENUM, AT(model.lm_head), "bf16", 0, 0, precisions, 0, 0},
    {"model.embedding", TDM_KEY_ENUM, AT(model.embedding), "bf16", 0, 0, precisions, 0, 0},

    {"adapter.rank", TDM_KEY_INT, AT(adapter.rank), "16", 1, 1024, NULL, 0, 0},
    {"adapter.alpha", TDM_KEY_FLOAT, AT(adapter.alpha), "32", 0, 1e6, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"adapter.dropout", TDM_KEY_FLOAT, AT(adapter.dropout), "0.0", 0, 1, NULL, TDM_KEY_BELOW_MAX, 0},
    {"adapter.init", TDM_KEY_TEXT, AT(adapter.init), "none", 0, 0, NULL, TDM_KEY_NONE, 0},
    {"adapter.targets", TDM_KEY_TARGETS, AT(adapter.target), "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]", 0, 0,
     NULL, 0, 0},
    {"adapter.rslora", TDM_KEY_BOOL, AT(adapter.rslora), "false", 0, 0, NULL, 0, 0},

    {"data.train", TDM_KEY_TEXT, AT(data.train), "null", 0, 0, NULL, 0, 0},
    {"data.eval", TDM_KEY_TEXT, AT(data.eval), "null", 0, 0, NULL, TDM_KEY_FREE, 0},
    {"data.system", TDM_KEY_TEXT, AT(data.system), "null", 0, 0, NULL, 0, 0},
    {"data.prompt", TDM_KEY_TEXT, AT(data.prompt), "null", 0, 0, NULL, 0, 0},
    {"data.shuffle", TDM_KEY_BOOL, AT(data.shuffle), "true", 0, 0, NULL, 0, 0},
    {"data.max_prompt_tokens", TDM_KEY_INT, AT(data.max_prompt_tokens), "512", 1, 1e7, NULL, 0, 0},

    {"rollout.prompts_per_step", TDM_KEY_INT, AT(rollout.prompts_per_step), "8", 1, 1e6, NULL, 0, 0},
    {"rollout.generations", TDM_KEY_INT, AT(rollout.generations), "8", 1, 65536, NULL, 0, 0},
    {"rollout.max_new_tokens", TDM_KEY_INT, AT(rollout.max_new_tokens), "256", 1, 1e7, NULL, 0, 0},
    {"rollout.temperature", TDM_KEY_FLOAT, AT(rollout.temperature), "1.0", 0, 100, NULL, 0, 0},
    {"rollout.top_p", TDM_KEY_FLOAT, AT(rollout.top_p), "1.0", 0, 1, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"rollout.top_k", TDM_KEY_INT, AT(rollout.top_k), "0", 0, 1e9, NULL, 0, 0},
    {"rollout.min_p", TDM_KEY_FLOAT, AT(rollout.min_p), "0.0", 0, 1, NULL, 0, 0},
    {"rollout.repetition_penalty", TDM_KEY_FLOAT, AT(rollout.repetition_penalty), "1.0", 0, 100, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"rollout.stop", TDM_KEY_TEXTS, AT(rollout.stop), "[]", 0, 0, NULL, 0, 0},
    {"rollout.stop_token_ids", TDM_KEY_NUMBERS, AT(rollout.stop_token_ids), "[]", 0, 2147483647, NULL, 0, 0},
    {"rollout.ignore_eos", TDM_KEY_BOOL, AT(rollout.ignore_eos), "false", 0, 0, NULL, 0, 0},
    {"rollout.replay", TDM_KEY_TEXT, AT(rollout.replay), "null", 0, 0, NULL, 0, 0},
    {"rollout.max_sequences", TDM_KEY_INT, AT(rollout.max_sequences), "0", 0, 1e6, NULL, TDM_KEY_FREE, 0},
    {"rollout.filter_groups.enable", TDM_KEY_BOOL, AT(rollout.filter_groups.enable), "false", 0, 0, NULL, 0, 0},
    {"rollout.filter_groups.metric", TDM_KEY_TEXT, AT(rollout.filter_groups.metric), "null", 0, 0, NULL, 0, 0},
    {"rollout.filter_groups.max_num_gen_batches", TDM_KEY_INT, AT(rollout.filter_groups.max_num_gen_batches), "10", 2, 1e6, NULL, 0, 0},
    {"rollout.filter_groups.difficulty_low_threshold", TDM_KEY_FLOAT, AT(rollout.filter_groups.difficulty_low_threshold), "-1.0e9", -1e9, 1e9, NULL, 0, 0},
    {"rollout.filter_groups.difficulty_high_threshold", TDM_KEY_FLOAT, AT(rollout.filter_groups.difficulty_high_threshold), "1.0e9", -1e9, 1e9, NULL, 0, 0},

    {"environment.python", TDM_KEY_TEXT, AT(environment.python), "null", 0, 0, NULL, 0, 0},
    {"environment.command", TDM_KEY_TEXTS, AT(environment.command), "[]", 0, 0, NULL, 0, 0},
    {"environment.interpreter", TDM_KEY_TEXT, AT(environment.interpreter), "python3", 0, 0, NULL, TDM_KEY_FREE, 0},
    {"environment.max_turns", TDM_KEY_INT, AT(environment.max_turns), "8", 1, 1000, NULL, 0, 0},
    {"environment.max_observation_tokens", TDM_KEY_INT, AT(environment.max_observation_tokens), "256", 1, 1e7, NULL, 0, 0},
    {"environment.render", TDM_KEY_ENUM, AT(environment.render), "tool", 0, 0, renders, 0, 0},
    {"environment.timeout_s", TDM_KEY_FLOAT, AT(environment.timeout_s), "60", 0, 86400, NULL, TDM_KEY_ABOVE_MIN | TDM_KEY_FREE, 0},
    {"environment.workers", TDM_KEY_INT, AT(environment.workers), "1", 1, 256, NULL, TDM_KEY_FREE, 0},
    {"environment.on_error", TDM_KEY_ENUM, AT(environment.on_error), "stop", 0, 0, environment_errors, TDM_KEY_FREE, 0},

    {"eval.every", TDM_KEY_INT, AT(eval.every), "0", 0, 1e9, NULL, TDM_KEY_FREE, 0},
    {"eval.limit", TDM_KEY_INT, AT(eval.limit), "64", 0, 1e9, NULL, TDM_KEY_FREE, 0},
    {"eval.generations", TDM_KEY_INT, AT(eval.generations), "1", 1, 65536, NULL, TDM_KEY_FREE, 0},
    {"eval.temperature", TDM_KEY_FLOAT, AT(eval.temperature), "0.0", 0, 100, NULL, TDM_KEY_FREE, 0},
    {"eval.pass_at", TDM_KEY_NUMBERS, AT(eval.pass_at), "[]", 1, 65536, NULL, TDM_KEY_FREE, 0},
    {"eval.pass_metric", TDM_KEY_TEXT, AT(eval.pass_metric), "null", 0, 0, NULL, TDM_KEY_FREE, 0},
    {"eval.pass_threshold", TDM_KEY_FLOAT, AT(eval.pass_threshold), "1.0", -1e9, 1e9, NULL, TDM_KEY_FREE, 0},
    {"eval.best", TDM_KEY_TEXT, AT(eval.best), "null", 0, 0, NULL, TDM_KEY_FREE, 0},
    {"eval.patience", TDM_KEY_INT, AT(eval.patience), "0", 0, 1e9, NULL, TDM_KEY_FREE, 0},
    {"eval.min_delta", TDM_KEY_FLOAT, AT(eval.min_delta), "0.0", 0, 1e9, NULL, TDM_KEY_FREE, 0},

    {"train.algorithm", TDM_KEY_ENUM, AT(train.algorithm), "grpo", 0, 0, tdm_algorithm_names, 0, 0},
    {"train.loss", TDM_KEY_ENUM, AT(train.loss), "dapo", 0, 0, losses, 0, 0},
    {"train.steps", TDM_KEY_INT, AT(train.steps), "100", 1, 1e9, NULL, 0, 0},
    {"train.epochs_per_rollout", TDM_KEY_INT, AT(train.epochs_per_rollout), "1", 1, 1000, NULL, 0, 0},
    {"train.minibatches", TDM_KEY_INT, AT(train.minibatches), "1", 1, 1e6, NULL, 0, 0},
    {"train.batch_size", TDM_KEY_INT, AT(train.batch_size), "8", 1, 1e6, NULL, 0, 0},
    {"train.lr", TDM_KEY_FLOAT, AT(train.lr), "1.0e-5", 0, 1000, NULL, 0, 0},
    {"train.schedule", TDM_KEY_ENUM, AT(train.schedule), "constant", 0, 0, schedules, 0, 0},
    {"train.warmup_steps", TDM_KEY_INT, AT(train.warmup_steps), "0", 0, 1e9, NULL, 0, 0},
    {"train.optimizer", TDM_KEY_ENUM, AT(train.optimizer), "adamw", 0, 0, optimizers, 0, 0},
    {"train.betas", TDM_KEY_BETAS, AT(train.betas), "[0.9, 0.999]", 0, 1, NULL, TDM_KEY_BELOW_MAX, 0},
    {"train.eps", TDM_KEY_FLOAT, AT(train.eps), "1.0e-8", 0, 1, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"train.weight_decay", TDM_KEY_FLOAT, AT(train.weight_decay), "0.0", 0, 1000, NULL, 0, 0},
    {"train.max_grad_norm", TDM_KEY_FLOAT, AT(train.max_grad_norm), "1.0", 0, 1e30, NULL, 0, 0},
    {"train.clip_low", TDM_KEY_FLOAT, AT(train.clip_low), "0.2", 0, 1000, NULL, 0, 0},
    {"train.clip_high", TDM_KEY_FLOAT, AT(train.clip_high), "0.2", 0, 1e6, NULL, 0, 0},
    {"train.kl", TDM_KEY_FLOAT, AT(train.kl), "0.0", 0, 1000, NULL, 0, 0},
    {"train.kl_type", TDM_KEY_ENUM, AT(train.kl_type), "k3", 0, 0, kl_types, 0, 0},
    {"train.kl_in", TDM_KEY_ENUM, AT(train.kl_in), "loss", 0, 0, kl_ins, 0, 0},
    {"train.kl_input_clamp", TDM_KEY_FLOAT, AT(train.kl_input_clamp), "0.0", 0, 1000, NULL, 0, 0},
    {"train.kl_output_clamp", TDM_KEY_FLOAT, AT(train.kl_output_clamp), "0.0", 0, 1e30, NULL, 0, 0},
    {"train.kl_bias_correction", TDM_KEY_BOOL, AT(train.kl_bias_correction), "false", 0, 0, NULL, 0, 0},
    {"train.delta", TDM_KEY_FLOAT, AT(train.delta), "0.0", 0, 1e6, NULL, 0, 0},
    {"train.off_policy_threshold", TDM_KEY_FLOAT, AT(train.off_policy_threshold), "0.0", 0, 1000, NULL, 0, 0},
    {"train.aggregation", TDM_KEY_ENUM, AT(train.aggregation), "auto", 0, 0, aggregations, 0, 0},
    {"train.top_entropy_quantile", TDM_KEY_FLOAT, AT(train.top_entropy_quantile), "1.0", 0, 1, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"train.entropy_coef", TDM_KEY_FLOAT, AT(train.entropy_coef), "0.0", -1000, 1000, NULL, 0, 0},
    {"train.use_adaptive_entropy", TDM_KEY_BOOL, AT(train.use_adaptive_entropy), "false", 0, 0, NULL, 0, 0},
    {"train.entropy_coef_min", TDM_KEY_FLOAT, AT(train.entropy_coef_min), "0.0", 0, 1000, NULL, 0, 0},
    {"train.entropy_coef_max", TDM_KEY_FLOAT, AT(train.entropy_coef_max), "1.0", 0, 1000, NULL, 0, 0},
    {"train.entropy_coef_delta", TDM_KEY_FLOAT, AT(train.entropy_coef_delta), "0.005", 0, 1000, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"train.entropy_target", TDM_KEY_FLOAT, AT(train.entropy_target), "0.2", 0, 1000, NULL, 0, 0},
    {"train.sapo.temperature_pos", TDM_KEY_FLOAT, AT(train.sapo.temperature[0]), "1.0", 0, 1e6, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"train.sapo.temperature_neg", TDM_KEY_FLOAT, AT(train.sapo.temperature[1]), "1.05", 0, 1e6, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"train.vespo.k_pos", TDM_KEY_FLOAT, AT(train.vespo.k[0]), "2.0", 0, 1000, NULL, 0, 0},
    {"train.vespo.lambda_pos", TDM_KEY_FLOAT, AT(train.vespo.lambda[0]), "3.0", 0, 1000, NULL, 0, 0},
    {"train.vespo.k_neg", TDM_KEY_FLOAT, AT(train.vespo.k[1]), "3.0", 0, 1000, NULL, 0, 0},
    {"train.vespo.lambda_neg", TDM_KEY_FLOAT, AT(train.vespo.lambda[1]), "2.0", 0, 1000, NULL, 0, 0},
    {"train.advantage", TDM_KEY_ENUM, AT(train.advantage), "group_std", 0, 0, advantages, 0, 0},
    {"train.advantage_clip_low", TDM_KEY_FLOAT, AT(train.advantage_clip_low), "-1.0e9", -1e9, 0, NULL, 0, 0},
    {"train.advantage_clip_high", TDM_KEY_FLOAT, AT(train.advantage_clip_high), "1.0e9", 0, 1e9, NULL, 0, 0},
    {"train.importance.level", TDM_KEY_ENUM, AT(train.importance.level), "token", 0, 0, levels, 0, 0},
    {"train.importance.ratio", TDM_KEY_ENUM, AT(train.importance.ratio), "auto", 0, 0, ratios, 0, 0},
    {"train.importance.correction", TDM_KEY_ENUM, AT(train.importance.correction), "truncate", 0, 0, corrections, 0, 0},
    {"train.importance.floor", TDM_KEY_FLOAT, AT(train.importance.floor), "0.0", 0, 1, NULL, 0, 0},
    {"train.importance.cap", TDM_KEY_FLOAT, AT(train.importance.cap), "2.0", 0, 1e6, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"train.importance.batch_normalize", TDM_KEY_BOOL, AT(train.importance.batch_normalize), "false", 0, 0, NULL, 0, 0},
    {"train.importance.reject", TDM_KEY_TEXTS, AT(train.importance.reject), "[]", 0, 0, NULL, 0, 0},
    {"train.importance.reject_threshold", TDM_KEY_TEXTS, AT(train.importance.reject_threshold), "[]", 0, 0, NULL, 0, 0},
    {"train.importance.veto", TDM_KEY_FLOAT, AT(train.importance.veto), "0.0", 0, 1, NULL, TDM_KEY_BELOW_MAX, 0},
    {"train.gamma", TDM_KEY_FLOAT, AT(train.gamma), "1.0", 0, 1, NULL, 0, 0},
    {"train.lam", TDM_KEY_FLOAT, AT(train.lam), "0.95", 0, 1, NULL, 0, 0},
    {"train.whiten_rewards", TDM_KEY_BOOL, AT(train.whiten_rewards), "false", 0, 0, NULL, 0, 0},
    {"train.critic.rank", TDM_KEY_INT, AT(train.critic.rank), "0", 0, 1024, NULL, 0, 0},
    {"train.critic.alpha", TDM_KEY_FLOAT, AT(train.critic.alpha), "0.0", 0, 1e6, NULL, 0, 0},
    {"train.critic.init", TDM_KEY_TEXT, AT(train.critic.init), "none", 0, 0, NULL, TDM_KEY_NONE, 0},
    {"train.critic.lr", TDM_KEY_FLOAT, AT(train.critic.lr), "1.0e-5", 0, 1000, NULL, 0, 0},
    {"train.critic.cliprange_value", TDM_KEY_FLOAT, AT(train.critic.cliprange_value), "0.2", 0, 1e30, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"train.critic.vf_coef", TDM_KEY_FLOAT, AT(train.critic.vf_coef), "1.0", 0, 1e6, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"train.critic.warmup", TDM_KEY_INT, AT(train.critic.warmup), "0", 0, 1e9, NULL, 0, 0},
    {"train.preference.loss", TDM_KEY_ENUM, AT(train.preference.loss), "sigmoid", 0, 0, preferences, 0, 0},
    {"train.preference.beta", TDM_KEY_FLOAT, AT(train.preference.beta), "0.1", 0, 1000, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"train.preference.label_smoothing", TDM_KEY_FLOAT, AT(train.preference.label_smoothing), "0.0", 0, 0.5, NULL, TDM_KEY_BELOW_MAX, 0},
    {"train.preference.sft", TDM_KEY_FLOAT, AT(train.preference.sft), "0.0", 0, 1000, NULL, 0, 0},
    {"train.preference.desirable_weight", TDM_KEY_FLOAT, AT(train.preference.desirable_weight), "1.0", 0, 1000, NULL, 0, 0},
    {"train.preference.undesirable_weight", TDM_KEY_FLOAT, AT(train.preference.undesirable_weight), "1.0", 0, 1000, NULL, 0, 0},
    {"train.preference.center_rewards_coefficient", TDM_KEY_FLOAT, AT(train.preference.center_rewards_coefficient), "0.0", 0, 1000, NULL, 0, 0},
    {"train.distill.loss", TDM_KEY_ENUM, AT(train.distill.loss), "full", 0, 0, distill_losses, 0, 0},
    {"train.distill.teacher", TDM_KEY_TEXT, AT(train.distill.teacher), "base", 0, 0, NULL, 0, 0},
    {"train.distill.beta", TDM_KEY_FLOAT, AT(train.distill.beta), "1.0", 0, 1, NULL, 0, 0},
    {"train.micro_tokens", TDM_KEY_INT, AT(train.micro_tokens), "4096", 1, 1e8, NULL, 0, 0},
    {"train.routing", TDM_KEY_ENUM, AT(train.routing), "recompute", 0, 0, routings, 0, 0},
    {"train.checkpointing", TDM_KEY_ENUM, AT(train.checkpointing), "auto", 0, 0, checkpointings, TDM_KEY_FREE, 0},
    {"train.mask_truncated", TDM_KEY_BOOL, AT(train.mask_truncated), "false", 0, 0, NULL, 0, 0},

    {"memory.budget", TDM_KEY_SIZE, AT(memory.budget_bytes), "auto", 1 << 20, 1e15, NULL, TDM_KEY_FREE, 0},
    {"memory.kv", TDM_KEY_KV, AT(memory.kv_bytes), "auto", 1 << 12, 1e15, NULL, TDM_KEY_FREE, 0},
    {"memory.offload", TDM_KEY_ENUM, AT(memory.offload), "none", 0, 0, offloads, TDM_KEY_FREE, 0},
    {"memory.embedding", TDM_KEY_ENUM, AT(memory.embedding), "device", 0, 0, places, TDM_KEY_FREE, 0},

    {"device", TDM_KEY_ENUM, AT(device), "auto", 0, 0, tdm_device_names, TDM_KEY_FREE, 0},
    {"numerics", TDM_KEY_ENUM, AT(numerics), "fast", 0, 0, numerics, 0, 0},
    {"checkpoint.every", TDM_KEY_INT, AT(checkpoint.every), "20", 0, 1e9, NULL, TDM_KEY_FREE, 0},
    {"checkpoint.keep", TDM_KEY_INT, AT(checkpoint.keep), "3", 0, 1e9, NULL, TDM_KEY_FREE, 0},
    {"log.every", TDM_KEY_INT, AT(log.every), "1", 1, 1e9, NULL, TDM_KEY_FREE, 0},
    {"log.rollouts", TDM_KEY_INT, AT(log.rollouts), "10", 0, 1e9, NULL, TDM_KEY_FREE, 0},
    {"log.tensorboard", TDM_KEY_BOOL, AT(log.tensorboard), "true", 0, 0, NULL, TDM_KEY_FREE, 0},
    {"log.report", TDM_KEY_BOOL, AT(log.report), "true", 0, 0, NULL, TDM_KEY_FREE, 0},
    {"seed", TDM_KEY_INT, AT(seed), "1", 0, COUNT_MAX, NULL, 0, 0},
    {"output", TDM_KEY_TEXT, AT(output), "", 0, 0, NULL, TDM_KEY_FREE, 0},
    {"threads", TDM_KEY_INT, AT(threads), "0", 0, 4096, NULL, TDM_KEY_FREE, 0},
};

#define KIND(k) (1u << TDM_REWARD_##k)
#define OUTSIDE (KIND(PYTHON) | KIND(COMMAND))

/* `type` is an enum of the first eight kinds; python, command and plugin say theirs by being there. */
static const tdm_key reward_keys[] = {
    {"type", TDM_KEY_ENUM, IN(kind), "number", 0, 0, reward_types, 0, KIND(NUMBER) | KIND(EXACT) | KIND(REGEX) | KIND(FORMAT) | KIND(LENGTH) | KIND(ENVIRONMENT) | KIND(MODEL) | KIND(JUDGE)},
    {"python", TDM_KEY_TEXT, IN(python), "null", 0, 0, NULL, 0, KIND(PYTHON)},
    {"command", TDM_KEY_TEXTS, IN(command), "[]", 0, 0, NULL, 0, KIND(COMMAND)},
    {"plugin", TDM_KEY_TEXT, IN(plugin), "null", 0, 0, NULL, 0, KIND(PLUGIN)},
    {"path", TDM_KEY_TEXT, IN(path), "null", 0, 0, NULL, 0, KIND(MODEL)},
    {"name", TDM_KEY_TEXT, IN(name), "null", 0, 0, NULL, 0, 0},
    {"weight", TDM_KEY_FLOAT, IN(weight), "1.0", -1e6, 1e6, NULL, 0, 0},
    {"answer", TDM_KEY_TEXT, IN(answer), "null", 0, 0, NULL, 0, KIND(NUMBER) | KIND(EXACT) | KIND(REGEX)},
    {"pattern", TDM_KEY_TEXT, IN(pattern), "null", 0, 0, NULL, 0, KIND(REGEX) | KIND(FORMAT)},
    {"max", TDM_KEY_INT, IN(max), "0", 0, 1e7, NULL, 0, KIND(LENGTH)},
    {"buffer", TDM_KEY_INT, IN(buffer), "0", 1, 1e7, NULL, 0, KIND(LENGTH)},
    {"penalty", TDM_KEY_FLOAT, IN(penalty), "1.0", 0, 1e6, NULL, 0, KIND(LENGTH)},
    {"model", TDM_KEY_TEXT, IN(model), "self", 0, 0, NULL, 0, KIND(JUDGE)},
    {"weights", TDM_KEY_ENUM, IN(weights), "fp8_channel", 0, 0, schemes, 0, KIND(JUDGE)},
    {"system", TDM_KEY_TEXT, IN(system), "null", 0, 0, NULL, 0, KIND(JUDGE)},
    {"prompt", TDM_KEY_TEXT, IN(prompt), "null", 0, 0, NULL, 0, KIND(JUDGE)},
    {"parse", TDM_KEY_TEXT, IN(parse), "null", 0, 0, NULL, 0, KIND(JUDGE)},
    {"range", TDM_KEY_BETAS, IN(range), "[0.0, 1.0]", -1e9, 1e9, NULL, 0, KIND(JUDGE)},
    {"max_prompt_tokens", TDM_KEY_INT, IN(max_prompt_tokens), "0", 0, 1e7, NULL, 0, KIND(JUDGE)},
    {"max_new_tokens", TDM_KEY_INT, IN(max_new_tokens), "256", 1, 1e7, NULL, 0, KIND(JUDGE)},
    {"temperature", TDM_KEY_FLOAT, IN(temperature), "0.0", 0, 100, NULL, 0, KIND(JUDGE)},
    {"interpreter", TDM_KEY_TEXT, IN(interpreter), "python3", 0, 0, NULL, TDM_KEY_FREE, KIND(PYTHON)},
    {"timeout_s", TDM_KEY_FLOAT, IN(timeout_s), "60", 0, 86400, NULL, TDM_KEY_ABOVE_MIN | TDM_KEY_FREE, OUTSIDE},
    {"workers", TDM_KEY_INT, IN(workers), "1", 1, 256, NULL, TDM_KEY_FREE, OUTSIDE},
    {"on_error", TDM_KEY_ENUM, IN(on_error), "stop", 0, 0, on_errors, TDM_KEY_FREE, 0},
};

#define OF(field) offsetof(tdm_recipe_source, field)

/* An entry of data.train, where that is a list. */
static const tdm_key source_keys[] = {
    {"path", TDM_KEY_TEXT, OF(path), "", 0, 0, NULL, TDM_KEY_REQUIRED, 0},
    {"weight", TDM_KEY_FLOAT, OF(weight), "1.0", 0, 1e9, NULL, TDM_KEY_ABOVE_MIN, 0},
    {"system", TDM_KEY_TEXT, OF(system), "null", 0, 0, NULL, 0, 0},
    {"prompt", TDM_KEY_TEXT, OF(prompt), "null", 0, 0, NULL, 0, 0},
    {"rewards", TDM_KEY_TEXTS, OF(rewards), "[]", 0, 0, NULL, 0, 0},
};

const tdm_key_table tdm_recipe_keys = {recipe_keys, TDM_COUNT(recipe_keys)};
const tdm_key_table tdm_reward_keys = {reward_keys, TDM_COUNT(reward_keys)};
const tdm_key_table tdm_source_keys = {source_keys, TDM_COUNT(source_keys)};

int tdm_key_find(const tdm_key_table *t, const char *path)
{
    for (int i = 0; i < t->count; i++)
        if (strcmp(t->keys[i].path, path) == 0) return i;
    return -1;
}

bool tdm_key_is_section(const tdm_key_table *t, const char *path)
{
    const size_t len = strlen(path);
    for (int i = 0; i < t->count; i++)
        if (strncmp(t->keys[i].path, path, len) == 0 && t->keys[i].path[len] == '.') return true;
    return false;
}

const char *tdm_key_range(const tdm_key *k, char buf[96])
{
    const bool open_min = k->flags & TDM_KEY_ABOVE_MIN, open_max = k->flags & TDM_KEY_BELOW_MAX;
    if (k->max >= COUNT_MAX)
        snprintf(buf, 96, open_min ? "above %.15g" : "%.15g or more", k->min);
    else
        snprintf(buf, 96, "%s%.15g %s %.15g", open_min ? "above " : "", k->min, open_max ? "to below" : open_min ? "up to" : "to", k->max);
    return buf;
}
