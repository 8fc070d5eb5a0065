/* metrics.jsonl: one object a step, all values numbers, keys in a fixed order; and rollouts/step-000010.jsonl.
 *
 * A value that is not finite is refused, with key and step: JSON has no such number, and a 0 in its place would be a lie that
 * someone believes. A key that does not apply (reward_mean in sft) is left out. */
#ifndef TANDEM_RUNTIME_RUN_METRICS_H
#define TANDEM_RUNTIME_RUN_METRICS_H

#include <jansson.h>

#include "memory/fs.h"
#include "runtime/run/writer.h"

/* In the order of the file. */
typedef enum tdm_metric {
    TDM_METRIC_REWARD_MEAN, TDM_METRIC_REWARD_STD, TDM_METRIC_FRAC_REWARD_ZERO_STD, TDM_METRIC_NUM_GEN_BATCHES, TDM_METRIC_GROUPS_DROPPED,
    TDM_METRIC_TURNS_MEAN, TDM_METRIC_TURNS_MAX, TDM_METRIC_OBSERVATION_TOKENS, TDM_METRIC_ENVIRONMENT_ERRORS,
    TDM_METRIC_LOSS, TDM_METRIC_KL, TDM_METRIC_ENTROPY, TDM_METRIC_ENTROPY_COEF, TDM_METRIC_GRAD_NORM,
    TDM_METRIC_LR, TDM_METRIC_CLIP_FRACTION, TDM_METRIC_COMPLETION_TOKENS_MEAN, TDM_METRIC_COMPLETION_TOKENS_MAX,
    TDM_METRIC_TRUNCATED_FRACTION, TDM_METRIC_PROMPT_TOKENS, TDM_METRIC_COMPLETION_TOKENS, TDM_METRIC_MISMATCH_MEAN,
    TDM_METRIC_MISMATCH_MAX, TDM_METRIC_MISMATCH_KL, TDM_METRIC_MISMATCH_K3, TDM_METRIC_IMPORTANCE_MEAN, TDM_METRIC_IMPORTANCE_MIN, TDM_METRIC_IMPORTANCE_MAX,
    TDM_METRIC_IMPORTANCE_FRACTION_HIGH, TDM_METRIC_IMPORTANCE_FRACTION_LOW, TDM_METRIC_IMPORTANCE_ESS, TDM_METRIC_IMPORTANCE_NORM,
    TDM_METRIC_REJECTED, TDM_METRIC_REJECTED_SEQUENCES, TDM_METRIC_VETOED, TDM_METRIC_OFF_POLICY,
    TDM_METRIC_CRITIC_VF_LOSS, TDM_METRIC_CRITIC_VF_CLIPFRAC, TDM_METRIC_CRITIC_VALUES_MEAN, TDM_METRIC_CRITIC_RETURNS_MEAN,
    TDM_METRIC_CRITIC_VF_EXPLAINED_VAR, TDM_METRIC_CRITIC_GRAD_NORM, TDM_METRIC_CRITIC_LR,
    TDM_METRIC_REWARDS_CHOSEN, TDM_METRIC_REWARDS_REJECTED, TDM_METRIC_REWARDS_ACCURACIES, TDM_METRIC_REWARDS_MARGINS,
    TDM_METRIC_LOGPS_CHOSEN, TDM_METRIC_LOGPS_REJECTED, TDM_METRIC_NLL_LOSS, TDM_METRIC_LOG_ODDS_RATIO, TDM_METRIC_LOG_ODDS_CHOSEN,
    TDM_METRIC_JUDGE_PARSE_FAILED, TDM_METRIC_JUDGE_TOKENS,
    TDM_METRIC_ROLLOUT_S, TDM_METRIC_ENVIRONMENT_S, TDM_METRIC_REWARD_S, TDM_METRIC_JUDGE_S,
    TDM_METRIC_TRAIN_S, TDM_METRIC_FLIP_S, TDM_METRIC_STEP_S,
    TDM_METRIC_ROLLOUT_TOKENS_PER_S, TDM_METRIC_TRAIN_TOKENS_PER_S, TDM_METRIC_MEMORY_PEAK_BYTES, TDM_METRIC_COUNT
} tdm_metric;

typedef struct tdm_metric_info {
    const char *key; /* "reward_mean" */
    const char *tag; /* TensorBoard: "train/reward_mean" */
} tdm_metric_info;
extern const tdm_metric_info tdm_metric_infos[TDM_METRIC_COUNT];

/* One step's figures. Start as {0}; rewards and extras are lent. */
typedef struct tdm_step_metrics {
    int64_t step;                       /* from 1 */
    double value[TDM_METRIC_COUNT];
    bool set[TDM_METRIC_COUNT];
    const char *const *reward_names;    /* written as reward/NAME */
    const double *reward_values;
    int64_t reward_count;
    const char *const *extra_names;     /* written as they are, after the rewards: "eval/accuracy" */
    const double *extra_values;
    int64_t extra_count;
} tdm_step_metrics;
static inline void tdm_metric_set(tdm_step_metrics *m, tdm_metric key, double value)
{
    m->value[key] = value;
    m->set[key] = true;
}

typedef struct tdm_metrics_log {
    tdm_file file;
    tdm_writer line;
} tdm_metrics_log;

/* Appends; each line goes out in one write. sync before a checkpoint becomes durable, so that a resume finds every step. */
tdm_status tdm_metrics_open(tdm_metrics_log *log, const char *path, tdm_error *err);
tdm_status tdm_metrics_put(tdm_metrics_log *log, const tdm_step_metrics *m, tdm_error *err);
tdm_status tdm_metrics_sync(tdm_metrics_log *log, tdm_error *err);
tdm_status tdm_metrics_close(tdm_metrics_log *log, tdm_error *err); /* {.file.fd = -1} is fine */
/* Before a resume: drops every line after `step` and a torn last line, atomically. A missing file is an empty one. */
tdm_status tdm_metrics_truncate(const char *path, int64_t step, tdm_error *err);

/* The file read back: one row a step, one column a key, in order of first appearance. NaN: not there. A torn or broken line is
 * skipped and counted. Of two lines with one step the later one counts. */
typedef struct tdm_metrics_table {
    char **keys;       /* [cols], without "step" */
    double *values;    /* [rows, cols] */
    int64_t *steps;    /* [rows], rising */
    int64_t rows, cols, skipped;
} tdm_metrics_table;
tdm_status tdm_metrics_read(tdm_metrics_table *t, const char *path, tdm_error *err); /* missing: no rows */
void tdm_metrics_table_free(tdm_metrics_table *t);

/* One completion as it is logged; `group` and the ids make the file a replay file too (rollout.replay). */
typedef struct tdm_rollout_record {
    int64_t group;
    const char *prompt, *completion;   /* UTF-8, or nearly; with lengths: a completion may hold a 0 byte */
    size_t prompt_len, completion_len;
    const int32_t *prompt_ids, *completion_ids;
    int64_t prompt_count, completion_count;
    const float *logprobs;             /* [completion_count] of the sampler; NULL: left out */
    double reward, advantage;          /* reward NaN: none had an opinion; written as null */
    const char *const *reward_names;
    const double *reward_values;       /* NaN: this reward said None; written as null */
    int64_t reward_count;
    bool truncated;
    const uint8_t *mask;               /* [completion_count] 1: sampled, 0: observed; NULL: left out */
    const json_t *judges;              /* replies by the reward's name; NULL: left out */
    const json_t *turns;               /* the completion as messages, with tokens and rewards; NULL: left out */
} tdm_rollout_record;

typedef struct tdm_rollout_log {
    tdm_file file;                       /* under a temporary name until close */
    tdm_writer line;
    char path[TDM_PATH_BYTES];
} tdm_rollout_log;
/* run_dir/rollouts/step-000010.jsonl; close renames it into place, abort (after an error) removes it. */
tdm_status tdm_rollout_log_open(tdm_rollout_log *log, const char *run_dir, int64_t step, tdm_error *err);
tdm_status tdm_rollout_log_put(tdm_rollout_log *log, const tdm_rollout_record *r, tdm_error *err);
tdm_status tdm_rollout_log_close(tdm_rollout_log *log, tdm_error *err);
void tdm_rollout_log_abort(tdm_rollout_log *log);
/* Before a resume: rollouts of later steps go. */
tdm_status tdm_rollout_log_truncate(const char *run_dir, int64_t step, tdm_error *err);

#endif
