/* What the files of the training loop share: job.c (the loop), job_open.c, job_rollout.c, job_turns.c, job_update.c, job_correct.c, job_entropy.c,
 * job_distill.c, job_sft.c, job_preference.c, job_critic.c, job_reward_model.c, job_judge.c, job_eval.c, job_save.c. */
#ifndef TANDEM_RUNTIME_RUN_JOB_INTERNAL_H
#define TANDEM_RUNTIME_RUN_JOB_INTERNAL_H

#include "runtime/data/mixture.h"
#include "runtime/data/replay.h"
#include "runtime/environment/environment.h"
#include "runtime/reward/reward.h"
#include "runtime/run/checkpoint.h"
#include "runtime/run/job.h"
#include "runtime/run/language.h"
#include "runtime/run/metrics.h"
#include "runtime/run/progress.h"
#include "runtime/run/sequences.h"
#include "runtime/run/session.h"
#include "runtime/run/signals.h"
#include "runtime/run/tensorboard.h"

/* One prompt of a step. */
typedef struct tdm_job_prompt {
    json_t *row;         /* the dataset's row, owned */
    uint64_t skip;       /* rewards that do not judge it */
    json_t *messages;    /* what is asked, owned: a list of messages, or a string */
    tdm_text text;       /* as rendered */
    tdm_ids ids;
} tdm_job_prompt;

/* Figures of a step on their way to metrics. */
typedef struct tdm_job_figures {
    double rollout_s, reward_s, train_s, flip_s;
    double grad_norm, lr, loss, kl, entropy, clip_fraction, mismatch_mean, mismatch_max;
    double importance_mean, importance_min, importance_max, importance_high, importance_low; /* the last two: parts of the weights */
    int64_t importance_count; /* weights of the correction; 0: there was none */
    double importance_ess, normalizer; /* effective sample size, a part of the weights; what they were divided by, 0: nothing */
    double mismatch_kl, mismatch_k3;
    tdm_reject_sums rejected; /* sequences 0: nothing was compared */
    double off_policy;        /* part of the sequences */
    tdm_preference_sums preference;
    double value_loss, value_clip_fraction, value_mean, return_mean, explained_variance, critic_grad_norm, critic_lr;
    int64_t prompt_tokens, completion_tokens, longest, truncated;
    int64_t generated_tokens; /* completion_tokens and those of dropped groups */
    int64_t gen_batches, groups_dropped;
    int64_t turns, turns_max, observation_tokens, environment_errors; /* completion_tokens and longest are without observations */
    double environment_s;
    int64_t judge_tokens, judge_failed; /* of questions and replies; replies without a score */
    double judge_s;                     /* of reward_s */
} tdm_job_figures;

typedef struct tdm_job_turns tdm_job_turns;
typedef struct tdm_job_judges tdm_job_judges;

typedef struct tdm_job {
    const tdm_recipe *r;
    const tdm_job_options *o;
    tdm_language language;
    tdm_language plain;         /* the same, with the model's own end tokens whatever the recipe says; not owned */
    tdm_session session;
    tdm_mixture *data;          /* NULL: a replay */
    tdm_dataset *eval;          /* NULL: none */
    tdm_replay replay;
    tdm_rewards *rewards;
    tdm_job_turns *turns;       /* NULL: no environment */
    tdm_job_judges *judges;     /* NULL: no reward of type judge */
    tdm_sequences sequences;
    tdm_stops stops;
    /* sizes of a step */
    int64_t groups, samples;    /* prompts a step; sequences a step, at most */
    int64_t context;
    tdm_sampling sampling;
    tdm_loss_config loss;
    tdm_preference_config preference;
    tdm_optimizer_config optimizer, critic_optimizer;
    tdm_role_spec role[TDM_SESSION_ROLES];
    char role_name[TDM_SESSION_ROLES][48];
    int role_count, teacher_role;
    bool has_teacher;           /* one with an adapter */
    /* what reward models score: sequences of their own, as their template renders them */
    tdm_sequence *scored;       /* [samples] */
    int32_t *scored_tokens;     /* [samples, scored_context] */
    tdm_train_item *scored_item;
    float *score;               /* [samples] */
    int64_t scored_context;     /* 0: no reward model */
    /* where the run stands */
    int64_t step, data_position;
    int64_t first_step;         /* of this process */
    /* the best evaluation so far by eval.best, and how many since the last that was better by eval.min_delta; best_step 0: none */
    int64_t best_step, stale;
    double best_value;
    double entropy_coef, last_entropy; /* use_adaptive_entropy; the latter of the last update, where there was one */
    bool entropy_known;
    int64_t skipped;            /* prompts left out for their length, so far */
    /* the step at hand */
    tdm_job_prompt *prompt;     /* [groups] */
    tdm_request *request;       /* [groups] */
    int64_t *fresh;             /* [groups] the groups that are generated and scored next */
    int64_t *group_start;       /* [groups + 1] into sequences */
    int64_t group_count, sequence_count;
    double *scores;             /* [rewards, samples] */
    double *total, *advantage;  /* [samples] */
    int64_t *tokens;            /* [samples]: of the completion */
    tdm_text *completion;       /* [samples] */
    tdm_reward_sample *reward_sample; /* [samples] */
    double *weights;            /* [rewards] */
    double *fresh_scores;       /* [rewards, samples of the fresh groups] */
    tdm_train_item *item;       /* [samples] */
    uint8_t **mask;             /* sft: [samples] -> [context] */
    uint8_t *mask_bytes;
    float *entropies;           /* top_entropy_quantile: [tokens of a step] */
    tdm_preference_sequence *preferred; /* preferences: [samples] */
    tdm_job_figures fig;
    bool judging;               /* what judges do is of the step, not of an evaluation */
    /* the evaluation of the step at hand; eval_count 0: none */
    int64_t eval_rows, eval_count;
    char (*eval_keys)[80];      /* [1 + rewards + pass_at] "eval/reward_mean", "eval/NAME", "eval/pass@8" */
    const char **eval_names;    /* [eval_count] into eval_keys */
    double *eval_values;        /* [eval_count] */
    bool updated;               /* the step at hand has changed the adapter */
    /* outputs */
    char checkpoints[TDM_PATH_BYTES];
    int64_t saved_step;         /* newest checkpoint's; -1: none */
    uint64_t base_hash;
    tdm_metrics_log metrics;
    tdm_tensorboard tensorboard;
    tdm_progress progress;
    char **reward_key;          /* "reward/NAME" is made by the log; names here */
} tdm_job;

/* ppo's critic among the session's roles. */
enum { TDM_JOB_CRITIC = 0 };

static inline bool tdm_job_ppo(const tdm_job *j) { return j->r->train.algorithm == TDM_ALGORITHM_PPO; }
static inline bool tdm_job_scores(const tdm_job *j) { return j->r->train.algorithm == TDM_ALGORITHM_REWARD; } /* a reward model is trained */
static inline bool tdm_job_sft(const tdm_job *j) { return j->r->train.algorithm == TDM_ALGORITHM_SFT; }
static inline bool tdm_job_prefers(const tdm_job *j) { return tdm_algorithm_prefers(j->r->train.algorithm); }
static inline bool tdm_job_distills(const tdm_job *j) { return j->r->train.algorithm == TDM_ALGORITHM_DISTILL; }
/* Whole distributions are compared; else the tokens that were sampled have advantages. */
static inline bool tdm_job_distills_full(const tdm_job *j) { return tdm_job_distills(j) && j->r->train.distill.loss == TDM_DISTILL_FULL; }
static inline bool tdm_job_supervised(const tdm_job *j) { return tdm_algorithm_supervised(j->r->train.algorithm); }
static inline bool tdm_job_replays(const tdm_job *j) { return j->r->rollout.replay[0] != 0; }

/* job_open.c: everything but the run folder. With plan or check nothing big is loaded. */
tdm_status tdm_job_open(tdm_job *j, tdm_recipe *r, const tdm_job_options *o, tdm_error *err);
void tdm_job_close(tdm_job *j);

/* job_rollout.c: prompts -> completions -> rewards -> advantages of one step. */
tdm_status tdm_job_rollout(tdm_job *j, tdm_error *err);
/* advantage [samples] of rewards, which may be in its place. */
void tdm_job_advantages(tdm_job *j, const double *reward);
tdm_status tdm_job_log_rollouts(tdm_job *j, tdm_error *err);
/* Decodes sequence i, an answer to p by request q, for the rewards. */
tdm_status tdm_job_reward_sample(tdm_job *j, int64_t i, const tdm_job_prompt *p, const tdm_request *q, tdm_reward_sample *out, tdm_error *err);
/* Encodes one prompt of data, a part of data.train or data.eval (of NULL); *fits: false when it is longer than data.max_prompt_tokens. */
tdm_status tdm_job_prompt_make(tdm_job *j, const tdm_dataset *data, const tdm_recipe_source *of, int64_t row, tdm_job_prompt *p, bool *fits, tdm_error *err);
void tdm_job_prompt_clear(tdm_job_prompt *p);
/* Tokens of sequence i's completion that are its own. */
int64_t tdm_job_own_tokens(const tdm_job *j, int64_t i);
/* job_turns.c: environment; without one they do nothing. */
tdm_status tdm_job_turns_open(tdm_job *j, tdm_error *err); /* sizes are settled */
void tdm_job_turns_close(tdm_job *j);
tdm_status tdm_job_turns_try(tdm_job *j, const json_t *prompt, tdm_error *err); /* whether an observation behind this prompt can be rendered */
void tdm_job_turns_begin(tdm_job *j, int64_t size, bool evaluation); /* before the sequences of a run of the engine, `size` of each prompt, start */
const tdm_turns *tdm_job_turns_start(tdm_job *j, int64_t n); /* sequence n does; what its request needs */
void tdm_job_turns_reward(const tdm_job *j, int64_t n, tdm_reward_sample *out);
const json_t *tdm_job_turns_record(const tdm_job *j, int64_t n); /* for the rollout file; NULL: no turns */
void tdm_job_turns_count(const tdm_job *j, tdm_job_figures *f);
double tdm_job_turns_s(const tdm_job *j); /* seconds the environment was at work since begin */
/* job_judge.c: rewards of type judge; without one they do nothing. */
tdm_status tdm_job_judges_open(tdm_job *j, const tdm_model_config *c, tdm_error *err); /* rewards are open, sizes settled */
void tdm_job_judges_close(tdm_job *j);
tdm_status tdm_job_judges_try(tdm_job *j, const tdm_job_prompt *p, tdm_error *err); /* whether a question about this prompt can be asked */
void tdm_job_judges_need(tdm_job *j, tdm_session_spec *s); /* what the engine is opened for besides */
tdm_status tdm_job_judges_load(tdm_job *j, tdm_error *err);      /* the session is loaded */
tdm_status tdm_job_judges_expect(tdm_job *j, tdm_error *err);    /* a rollout begins: the first guest's weights may come */
void tdm_job_judges_leave(tdm_job *j);                           /* the region is the rollout's again */
const json_t *tdm_job_judges_record(const tdm_job *j, int64_t n); /* for the rollout file; NULL: no judges */
/* job_eval.c: data.eval; without one they do nothing, and _eval is not called. */
tdm_status tdm_job_eval_open(tdm_job *j, tdm_error *err); /* after the rewards are opened */
void tdm_job_eval_close(tdm_job *j);
tdm_status tdm_job_eval(tdm_job *j, tdm_error *err);
bool tdm_job_eval_due(const tdm_job *j); /* after the step at hand */
void tdm_job_eval_judge(tdm_job *j);     /* after an evaluation, the step counted: is it the best? */
bool tdm_job_eval_stops(const tdm_job *j); /* eval.patience is at its end */
/* job_sft.c: a batch of examples as items with masks. */
tdm_status tdm_job_examples(tdm_job *j, tdm_error *err);
/* job_preference.c: whether the first row of each file can be read; a batch of rows as items; the reference's pass over them; the coefficients of
 * sequences [first, end), which are a minibatch, and its loss into sums; the figures. */
tdm_status tdm_job_preference_try(tdm_job *j, tdm_error *err);
tdm_status tdm_job_preferences(tdm_job *j, tdm_error *err);
tdm_status tdm_job_preference_reference(tdm_job *j, tdm_error *err);
tdm_status tdm_job_preference_weigh(tdm_job *j, const tdm_train_pass *pass, int64_t first, int64_t end, tdm_loss_sums *sums, tdm_error *err);
void tdm_job_preference_metrics(const tdm_job *j, tdm_step_metrics *m);
/* job_correct.c, after the old pass: the weights' normalizer, and masks of what is not rejected; compares says whether they are asked for. */
bool tdm_job_compares(const tdm_job *j);
void tdm_job_correct(tdm_job *j, float *const *old);
/* job_entropy.c: of items [first, end), which are an update, the tokens of most entropy, found by a pass of its own; the bonus's coefficient now; what the entropy
 * of an update, a sum over the objective's tokens, makes of it. */
tdm_status tdm_job_top_entropy(tdm_job *j, const tdm_train_pass *pass, int64_t first, int64_t end, tdm_error *err);
double tdm_job_entropy_coef(const tdm_job *j);
void tdm_job_entropy_follow(tdm_job *j, double sum, int64_t tokens);
int64_t tdm_job_tokens_in_loss(const tdm_train_item *it);
/* job_distill.c: the teacher's role, after all others and before the session is planned; its adapter, NULL: none; the teacher's log-probabilities of what was sampled; of them each token's advantage, after the old pass. */
void tdm_job_teacher_open(tdm_job *j);
const tdm_adapter *tdm_job_teacher(const tdm_job *j);
tdm_status tdm_job_distill_reference(tdm_job *j, tdm_error *err);
void tdm_job_distill_advantages(tdm_job *j);
/* job_critic.c: values of the step's items, and of them advantages and returns; whether the policy is updated in step `step` (from 0); an update
 * of the critic from items, which have weights; the figures. */
tdm_status tdm_job_critic_advantages(tdm_job *j, tdm_error *err);
bool tdm_job_policy_learns(const tdm_job *j, int64_t step);
tdm_status tdm_job_critic_update(tdm_job *j, tdm_train_item *items, int64_t count, tdm_value_sums *sums, tdm_error *err);
void tdm_job_critic_metrics(const tdm_job *j, tdm_step_metrics *m);
/* job_reward_model.c: the roles of rewards of type model, and room for what they score; before the session is planned. The scorer of the rewards. */
tdm_status tdm_job_models_open(tdm_job *j, const tdm_model_config *c, tdm_error *err);
void tdm_job_models_close(tdm_job *j);
size_t tdm_job_models_bytes(const tdm_job *j); /* of the host */
tdm_reward_scorer tdm_job_models_score; /* ctx: the job */
/* job_update.c: reference and old passes, minibatches, optimizer. */
tdm_status tdm_job_update(tdm_job *j, tdm_error *err);
/* ctx: the job; asked before each micro-batch. */
bool tdm_job_keep_going(void *ctx);
/* Where minibatch k of `parts` begins in the step's sequences; a pair is never split. */
int64_t tdm_job_part(const tdm_job *j, int64_t k, int64_t parts);
/* Log-probabilities of the first `count` items into rows. */
tdm_status tdm_job_score(tdm_job *j, const tdm_adapter *adapter, float *const *rows, int64_t count, tdm_error *err);
/* job_save.c */
tdm_status tdm_job_folder(tdm_job *j, tdm_error *err);  /* fresh: makes the run folder; resume: loads the newest checkpoint */
tdm_status tdm_job_save(tdm_job *j, tdm_error *err);

#endif
