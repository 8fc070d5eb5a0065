/* A recipe: the YAML file a person writes, checked against the schema and resolved with defaults and command-line overrides.
 *
 *   created   tdm_recipe_open or tdm_recipe_parse         released  tdm_recipe_close
 *   owns      every string and list it points to; good until close
 *   threads   nothing changes after open returns, so readers need no lock
 *
 * The schema keeps file, line and column of every value: a check made much later points at the line with tdm_recipe_where. */
#ifndef TANDEM_RUNTIME_RECIPE_RECIPE_H
#define TANDEM_RUNTIME_RECIPE_RECIPE_H

#include <string.h>

#include "kernels/ops.h"
#include "memory/weights.h"
#include "train/advantage.h"
#include "train/loss.h"
#include "train/optimizer.h"
#include "train/preference.h"
#include "train/reject.h"

typedef enum tdm_algorithm { TDM_ALGORITHM_GRPO, TDM_ALGORITHM_PPO, TDM_ALGORITHM_SFT, TDM_ALGORITHM_DPO, TDM_ALGORITHM_ORPO, TDM_ALGORITHM_KTO,
                             TDM_ALGORITHM_REWARD, TDM_ALGORITHM_DISTILL } tdm_algorithm;
extern const char *const tdm_algorithm_names[]; /* NULL-terminated */
typedef enum tdm_kl_in { TDM_KL_IN_LOSS, TDM_KL_IN_REWARD, TDM_KL_IN_TOKEN } tdm_kl_in;
typedef enum tdm_distill_loss { TDM_DISTILL_FULL, TDM_DISTILL_SAMPLED } tdm_distill_loss;
typedef enum tdm_ratio { TDM_RATIO_AUTO, TDM_RATIO_TOKEN, TDM_RATIO_SEQUENCE } tdm_ratio; /* auto: settled before anyone looks */
typedef enum tdm_checkpointing { TDM_CHECKPOINTING_AUTO, TDM_CHECKPOINTING_NONE, TDM_CHECKPOINTING_LAYER } tdm_checkpointing;
typedef enum tdm_fp8_fmt { TDM_FP8_E4M3, TDM_FP8_E5M2 } tdm_fp8_fmt; /* the second is refused before anyone looks */
typedef enum tdm_precision { TDM_PRECISION_BF16, TDM_PRECISION_FP8 } tdm_precision;
typedef enum tdm_place { TDM_PLACE_DEVICE, TDM_PLACE_HOST } tdm_place;
typedef enum tdm_routing { TDM_ROUTING_RECOMPUTE, TDM_ROUTING_REPLAY } tdm_routing;
typedef enum tdm_offload { TDM_OFFLOAD_NONE, TDM_OFFLOAD_OPTIMIZER, TDM_OFFLOAD_ACTIVATIONS } tdm_offload;
typedef enum tdm_device { TDM_DEVICE_AUTO, TDM_DEVICE_CPU, TDM_DEVICE_CUDA } tdm_device;
extern const char *const tdm_device_names[]; /* as tdm_backend_open takes them; NULL-terminated */
typedef enum tdm_numerics { TDM_NUMERICS_FAST, TDM_NUMERICS_EXACT } tdm_numerics;
typedef enum tdm_reward_kind {
    TDM_REWARD_NUMBER, TDM_REWARD_EXACT, TDM_REWARD_REGEX, TDM_REWARD_FORMAT, TDM_REWARD_LENGTH, TDM_REWARD_ENVIRONMENT, TDM_REWARD_MODEL,
    TDM_REWARD_JUDGE,                                          /* `type:` */
    TDM_REWARD_PYTHON, TDM_REWARD_COMMAND, TDM_REWARD_PLUGIN   /* by the key that names the source */
} tdm_reward_kind;
enum { TDM_REWARD_KINDS = TDM_REWARD_PLUGIN + 1 };
typedef enum tdm_on_error { TDM_ON_ERROR_STOP, TDM_ON_ERROR_ZERO, TDM_ON_ERROR_SKIP } tdm_on_error;
typedef enum tdm_environment_error { TDM_ENVIRONMENT_STOP, TDM_ENVIRONMENT_ZERO, TDM_ENVIRONMENT_SKIP } tdm_environment_error;
typedef enum tdm_render { TDM_RENDER_TOOL, TDM_RENDER_USER, TDM_RENDER_TEXT } tdm_render; /* of an observation: a turn of this role, or as it is */

typedef struct tdm_strings { const char *const *items; int64_t count; } tdm_strings; /* items is NULL-terminated, never NULL */
typedef struct tdm_numbers { const int64_t *items; int64_t count; } tdm_numbers;

/* A string that is absent is "", never NULL. Paths are as written: relative to the working directory. */
typedef struct tdm_recipe_model {
    const char *path;          /* folder or .gguf; always given */
    bool random_weights;       /* path gives config and tokenizer alone */
    tdm_scheme weights;        /* tdm_recipe_given(r, "model.weights") says whether the user named it */
    tdm_act_quant activations; /* without meaning when weights is bf16 */
    tdm_fp8_fmt fmt;
    bool pow2_scale, pow2_weight_scales, pow2_activation_scales; /* with the first the others are true */
    tdm_numbers weight_block_size; /* none, or [128, 128] */
    tdm_precision lm_head, embedding;
    int64_t first_layers_bf16, last_layers_bf16;
    tdm_strings keep_bf16;
    const char *activation_scales; /* a file of tandem calibrate, or "" */
} tdm_recipe_model;

typedef struct tdm_recipe_adapter {
    int64_t rank;
    double alpha, dropout;
    const char *init;    /* "": fresh (A random, B zero); else a PEFT adapter folder to start from */
    bool target[TDM_PROJ_COUNT];
    bool rslora;         /* scale alpha / sqrt(rank) instead of alpha / rank */
} tdm_recipe_adapter;

/* One of the files trained on. */
typedef struct tdm_recipe_source {
    const char *path;
    double weight;               /* share of the draws, beside the others' weights */
    const char *system, *prompt; /* as in data; data's where the entry has none */
    tdm_strings rewards;         /* names of those that judge its rows; none: all */
} tdm_recipe_source;

typedef struct tdm_recipe_data {
    const char *train, *eval; /* JSONL files; train "": a list, in source */
    const tdm_recipe_source *source; /* [source_count] of `train`, be it one path or a list */
    int64_t source_count;
    const char *system;       /* "": no system message */
    const char *prompt;       /* template of the user message, "{column}"; "": the row's own messages, prompt or question, the first there is */
    bool shuffle;
    int64_t max_prompt_tokens;
} tdm_recipe_data;

/* DAPO's dynamic sampling, by verl's names: groups whose metric is equal throughout are generated anew, from the next prompts. */
typedef struct tdm_recipe_filter_groups {
    bool enable;
    const char *metric;          /* a reward's name; "": the weighted sum */
    int64_t max_num_gen_batches; /* of a step, the first included */
    double difficulty_low_threshold, difficulty_high_threshold; /* of the metric's mean over a group: outside, it is dropped too (ROLL's names) */
} tdm_recipe_filter_groups;

typedef struct tdm_recipe_rollout {
    int64_t prompts_per_step, generations, max_new_tokens;
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k;           /* 0: off */
    tdm_strings stop;
    tdm_numbers stop_token_ids;
    bool ignore_eos;         /* the model's own end tokens end nothing */
    const char *replay;      /* "": generate; else recorded rollouts */
    int64_t max_sequences;   /* sequences decoded together; 0: as many as fit */
    tdm_recipe_filter_groups filter_groups;
} tdm_recipe_rollout;

/* What a rollout's turns are handed to. */
typedef struct tdm_recipe_environment {
    const char *python;      /* file.py:Class; "": command */
    tdm_strings command;     /* argv; empty too: there is no environment */
    const char *interpreter; /* of python */
    int64_t max_turns;       /* turns of the model */
    int64_t max_observation_tokens;
    tdm_render render;
    double timeout_s;        /* for the answer to a call, and for a worker to start */
    int64_t workers;         /* processes the samples are divided among */
    tdm_environment_error on_error;
} tdm_recipe_environment;

/* Evaluations of data.eval during a run. */
typedef struct tdm_recipe_eval {
    int64_t every;           /* steps; 0: when a checkpoint is due */
    int64_t limit;           /* first rows of the data; 0: all */
    int64_t generations;     /* completions of a row */
    double temperature;      /* 0: greedy */
    tdm_numbers pass_at;     /* the k of pass@k, rising */
    const char *pass_metric; /* a reward's name; "": the weighted sum */
    double pass_threshold;   /* a completion is right from here on */
    const char *best;        /* "reward_mean", a reward's name or "pass@K", the greater the better; "": none */
    int64_t patience;        /* evaluations in a row that may not improve it; 0: any number */
    double min_delta;        /* what an improvement is more than, for patience */
} tdm_recipe_eval;

typedef struct tdm_recipe_reward {
    tdm_reward_kind kind;
    const char *name;        /* unique in the list: reward/NAME in the metrics */
    double weight;
    const char *answer;      /* template: "{answer}"; number, exact, regex */
    const char *pattern;     /* regex, format */
    const char *python;      /* file.py:function */
    tdm_strings command;     /* argv */
    const char *plugin;      /* file.so */
    const char *path;        /* model: the folder of an adapter with a head */
    const char *interpreter; /* python: "python3" */
    double timeout_s;        /* python, command: for one batch, and for a worker to start */
    tdm_on_error on_error;
    int64_t workers;         /* processes a batch is divided among */
    int64_t max, buffer;     /* length, in tokens: reward falls over the last `buffer` of `max` tokens */
    double penalty;          /* length: factor on the penalty */
    /* judge */
    const char *model;       /* "self": the base with the adapter off; else a folder or .gguf */
    tdm_scheme weights;      /* of a model of its own */
    const char *system, *prompt; /* templates: "{prompt}", "{completion}", "{column}" */
    const char *parse;       /* pattern of the score in the reply */
    double range[2];         /* of the score: becomes 0 to 1 */
    int64_t max_prompt_tokens; /* 0: what the template, data.max_prompt_tokens and rollout.max_new_tokens come to */
    int64_t max_new_tokens;
    double temperature;
} tdm_recipe_reward;

typedef struct tdm_recipe_importance {
    tdm_level level;         /* of the correction */
    tdm_ratio ratio;         /* the policy ratio's (GSPO: sequence) */
    tdm_correction correction;
    double floor, cap;       /* floor 0: none */
    bool batch_normalize;    /* weights are divided by their mean over the step */
    tdm_strings reject, reject_threshold; /* as written; settled into rejects */
    double veto;             /* 0: none */
    tdm_reject_config rejects;
} tdm_recipe_importance;

/* ppo; elsewhere the defaults. */
typedef struct tdm_recipe_critic {
    int64_t rank;            /* 0: adapter.rank, once settled its number, or with init the loaded one's; alpha too */
    double alpha;
    const char *init;        /* "": fresh; else the folder of an adapter with a head */
    double lr, cliprange_value, vf_coef;
    int64_t warmup;          /* first steps in which the critic alone learns */
} tdm_recipe_critic;

/* dpo, orpo, kto, reward; elsewhere the defaults. */
typedef struct tdm_recipe_preference {
    tdm_preference_kind loss; /* dpo's */
    double beta, label_smoothing, sft;
    double desirable_weight, undesirable_weight; /* kto's */
    double center_rewards_coefficient; /* reward's */
} tdm_recipe_preference;

/* distill; elsewhere the defaults. */
typedef struct tdm_recipe_distill {
    tdm_distill_loss loss;   /* over the whole vocabulary, or by the log-probability of the token that was sampled */
    const char *teacher;     /* "base": the model without an adapter; else an adapter's folder */
    double beta;             /* full: 1 reverse KL, 0 forward KL, between a Jensen-Shannon divergence */
} tdm_recipe_distill;

typedef struct tdm_recipe_train {
    tdm_algorithm algorithm;
    tdm_loss_kind loss;      /* `loss: gspo` is resolved to GRPO with importance.ratio SEQUENCE */
    int64_t steps, epochs_per_rollout, minibatches;
    int64_t batch_size;      /* sft, kto: samples a step; dpo, orpo, reward: pairs */
    double lr;
    tdm_schedule schedule;
    int64_t warmup_steps;
    tdm_optimizer_kind optimizer;
    tdm_routing routing;
    double betas[2], eps, weight_decay;
    double max_grad_norm;    /* 0: no clipping */
    double clip_low, clip_high;
    double kl;               /* beta; 0: the reference is not evaluated */
    tdm_kl_type kl_type;
    tdm_kl_in kl_in;
    double kl_input_clamp, kl_output_clamp; /* 0: none */
    bool kl_bias_correction; /* the KL term is weighed by the policy ratio */
    double delta;            /* bound of the ratio where the advantage is below 0; 0: none */
    double off_policy_threshold; /* 0: none */
    tdm_aggregation aggregation; /* never AUTO once settled */
    double top_entropy_quantile; /* part of the tokens, those of most entropy, that the objective is of */
    double entropy_coef;     /* times the mean entropy, taken from the loss; 0: none */
    bool use_adaptive_entropy; /* then it is where the coefficient begins */
    double entropy_coef_min, entropy_coef_max, entropy_coef_delta, entropy_target;
    tdm_sapo sapo;
    tdm_vespo vespo;
    tdm_advantage advantage;
    double advantage_clip_low, advantage_clip_high;
    tdm_recipe_importance importance;
    double gamma, lam;       /* ppo: of the advantages */
    bool whiten_rewards;     /* ppo */
    tdm_recipe_critic critic;
    tdm_recipe_preference preference;
    tdm_recipe_distill distill;
    int64_t micro_tokens;    /* tokens of one forward and backward */
    tdm_checkpointing checkpointing;
    bool mask_truncated;     /* completions cut at max_new_tokens enter no loss */
} tdm_recipe_train;

typedef struct tdm_recipe_memory {
    int64_t budget_bytes;    /* 0: auto */
    int64_t kv_bytes;        /* `kv: SIZE`; 0: auto */
    tdm_dtype kv_dtype;      /* `kv: fp8`: TDM_DTYPE_E4M3; else TDM_DTYPE_BF16 */
    tdm_offload offload;
    tdm_place embedding;
} tdm_recipe_memory;

typedef struct tdm_recipe_checkpoint { int64_t every, keep; } tdm_recipe_checkpoint; /* every 0: at the end only; keep 0: all */
typedef struct tdm_recipe_log {
    int64_t every;           /* steps between progress lines; metrics.jsonl has every step */
    int64_t rollouts;        /* steps between rollout files; 0: none */
    bool tensorboard, report;
} tdm_recipe_log;

typedef struct tdm_recipe {
    tdm_recipe_model model;
    tdm_recipe_adapter adapter;
    tdm_recipe_data data;
    tdm_recipe_rollout rollout;
    tdm_recipe_environment environment;
    tdm_recipe_eval eval;
    const tdm_recipe_reward *reward;
    int64_t reward_count;
    tdm_recipe_train train;
    tdm_recipe_memory memory;
    tdm_device device;
    tdm_numerics numerics;
    tdm_recipe_checkpoint checkpoint;
    tdm_recipe_log log;
    int64_t seed;            /* 0 or above */
    const char *output;      /* run folder; default runs/NAME of the recipe's file */
    int64_t threads;         /* CPU threads; 0: all this process may use */
    struct tdm_recipe_store *store; /* private: strings, lists and where each value stands */
} tdm_recipe;

/* Whether the algorithm learns from the data's own answers: nothing is generated or rewarded. */
static inline bool tdm_algorithm_supervised(tdm_algorithm a) { return a != TDM_ALGORITHM_GRPO && a != TDM_ALGORITHM_PPO && a != TDM_ALGORITHM_DISTILL; }
/* Whether those are preferences. */
static inline bool tdm_algorithm_prefers(tdm_algorithm a) { return a >= TDM_ALGORITHM_DPO && a <= TDM_ALGORITHM_REWARD; }

static inline bool tdm_reward_judges_by_itself(const tdm_recipe_reward *w) { return w->kind == TDM_REWARD_JUDGE && strcmp(w->model, "self") == 0; }
/* Whether rollouts have turns. */
/* What the keys of `model` say to the weight store; where the embedding lies is memory's. */
tdm_weights_options tdm_recipe_weights(const tdm_recipe *r);
static inline bool tdm_recipe_has_environment(const tdm_recipe *r) { return r->environment.python[0] || r->environment.command.count > 0; }

/* Reads, applies overrides ("section.key=value", the value YAML; "reward[0].weight=2" reaches into the list) in order, fills in
 * defaults and checks what can be checked without model or data. Every failure is TDM_ERR_RECIPE with file:line:col or the
 * override as `where`; a file that cannot be read too. */
tdm_status tdm_recipe_open(tdm_recipe **r, const char *path, const char *const *overrides, int override_count, tdm_error *err);
/* The same from memory; name is what errors call it. */
tdm_status tdm_recipe_parse(tdm_recipe **r, const char *text, size_t len, const char *name, const char *const *overrides,
                            int override_count, tdm_error *err);
void tdm_recipe_close(tdm_recipe *r); /* NULL: nothing */

/* "configs/gsm8k.yaml:31:12", "command line: memory.budget=8GiB", or, for a default, "configs/gsm8k.yaml: memory.budget".
 * key: "memory.budget", "train.importance.cap", "reward[1].pattern". Returns buf. */
enum { TDM_RECIPE_WHERE = 512 };
const char *tdm_recipe_where(const tdm_recipe *r, const char *key, char buf[TDM_RECIPE_WHERE]);
/* Whether file or command line gave the key a value (otherwise it is the default). */
bool tdm_recipe_given(const tdm_recipe *r, const char *key);

/* The reward of this name, -1: none. */
int64_t tdm_recipe_reward_find(const tdm_recipe *r, const char *name);

/* A model with a short context: data.max_prompt_tokens and rollout.max_new_tokens shrink until both fit, where the recipe gives them no value.
 * Values that were given stay, and the caller refuses them. */
void tdm_recipe_fit_context(tdm_recipe *r, int64_t context);

/* What the chosen backend cannot do with a model of this config is refused, with the reason. */
tdm_status tdm_recipe_check_backend(const tdm_recipe *r, const tdm_backend *be, const tdm_model_config *c, tdm_error *err);

/* The resolved recipe as YAML: reads back to the same recipe. The caller frees *text. */
tdm_status tdm_recipe_text(const tdm_recipe *r, char **text, size_t *len, tdm_error *err);
/* Complete or absent: written beside path, synced, renamed. */
tdm_status tdm_recipe_write(const tdm_recipe *r, const char *path, tdm_error *err);

/* For --resume: TDM_ERR_RECIPE naming the first key of `now` whose value changed in a way that matters since `then`.
 * Free to change: where things lie and how often they are written (output, checkpoint, log, eval, data.eval, model.path: the base is
 * known by its hash), what does not change a result (memory but for kv's dtype, threads, rollout.max_sequences,
 * train.checkpointing, train.micro_tokens but for bnpo, a reward's or the environment's timeout_s, workers, on_error, interpreter), and
 * train.steps while the schedule is constant. */
tdm_status tdm_recipe_compare(const tdm_recipe *then, const tdm_recipe *now, tdm_error *err);

#endif
