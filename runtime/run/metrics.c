#include "runtime/run/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_METRICS_BYTES = 1 << 30 };

const tdm_metric_info tdm_metric_infos[TDM_METRIC_COUNT] = {
    [TDM_METRIC_REWARD_MEAN] = {"reward_mean", "train/reward_mean"},
    [TDM_METRIC_REWARD_STD] = {"reward_std", "train/reward_std"},
    [TDM_METRIC_FRAC_REWARD_ZERO_STD] = {"frac_reward_zero_std", "train/frac_reward_zero_std"},
    [TDM_METRIC_NUM_GEN_BATCHES] = {"num_gen_batches", "rollout/num_gen_batches"},
    [TDM_METRIC_GROUPS_DROPPED] = {"groups_dropped", "rollout/groups_dropped"},
    [TDM_METRIC_TURNS_MEAN] = {"turns_mean", "rollout/turns_mean"},
    [TDM_METRIC_TURNS_MAX] = {"turns_max", "rollout/turns_max"},
    [TDM_METRIC_OBSERVATION_TOKENS] = {"observation_tokens", "rollout/observation_tokens"},
    [TDM_METRIC_ENVIRONMENT_ERRORS] = {"environment_errors", "rollout/environment_errors"},
    [TDM_METRIC_LOSS] = {"loss", "train/loss"},
    [TDM_METRIC_KL] = {"kl", "train/kl"},
    [TDM_METRIC_ENTROPY] = {"entropy", "train/entropy"},
    [TDM_METRIC_ENTROPY_COEF] = {"entropy_coef", "train/entropy_coef"},
    [TDM_METRIC_GRAD_NORM] = {"grad_norm", "train/grad_norm"},
    [TDM_METRIC_LR] = {"lr", "train/lr"},
    [TDM_METRIC_CLIP_FRACTION] = {"clip_fraction", "train/clip_fraction"},
    [TDM_METRIC_COMPLETION_TOKENS_MEAN] = {"completion_tokens_mean", "rollout/completion_tokens_mean"},
    [TDM_METRIC_COMPLETION_TOKENS_MAX] = {"completion_tokens_max", "rollout/completion_tokens_max"},
    [TDM_METRIC_TRUNCATED_FRACTION] = {"truncated_fraction", "rollout/truncated_fraction"},
    [TDM_METRIC_PROMPT_TOKENS] = {"prompt_tokens", "rollout/prompt_tokens"},
    [TDM_METRIC_COMPLETION_TOKENS] = {"completion_tokens", "rollout/completion_tokens"},
    [TDM_METRIC_MISMATCH_MEAN] = {"mismatch_mean", "mismatch/mean"},
    [TDM_METRIC_MISMATCH_MAX] = {"mismatch_max", "mismatch/max"},
    [TDM_METRIC_MISMATCH_KL] = {"mismatch_kl", "mismatch/kl"},
    [TDM_METRIC_MISMATCH_K3] = {"mismatch_k3_kl", "mismatch/k3_kl"},
    [TDM_METRIC_IMPORTANCE_MEAN] = {"importance_mean", "importance/mean"},
    [TDM_METRIC_IMPORTANCE_MIN] = {"importance_min", "importance/min"},
    [TDM_METRIC_IMPORTANCE_MAX] = {"importance_max", "importance/max"},
    [TDM_METRIC_IMPORTANCE_FRACTION_HIGH] = {"importance_fraction_high", "importance/fraction_high"},
    [TDM_METRIC_IMPORTANCE_FRACTION_LOW] = {"importance_fraction_low", "importance/fraction_low"},
    [TDM_METRIC_IMPORTANCE_ESS] = {"rollout_is_eff_sample_size", "importance/eff_sample_size"},
    [TDM_METRIC_IMPORTANCE_NORM] = {"rollout_is_batch_norm_factor", "importance/batch_norm_factor"},
    [TDM_METRIC_REJECTED] = {"rollout_rs_masked_fraction", "importance/rs_masked_fraction"},
    [TDM_METRIC_REJECTED_SEQUENCES] = {"rollout_rs_seq_masked_fraction", "importance/rs_seq_masked_fraction"},
    [TDM_METRIC_VETOED] = {"rollout_is_veto_fraction", "importance/veto_fraction"},
    [TDM_METRIC_OFF_POLICY] = {"off_policy", "train/off_policy"},
    [TDM_METRIC_CRITIC_VF_LOSS] = {"critic/vf_loss", "critic/vf_loss"},
    [TDM_METRIC_CRITIC_VF_CLIPFRAC] = {"critic/vf_clipfrac", "critic/vf_clipfrac"},
    [TDM_METRIC_CRITIC_VALUES_MEAN] = {"critic/values/mean", "critic/values/mean"},
    [TDM_METRIC_CRITIC_RETURNS_MEAN] = {"critic/returns/mean", "critic/returns/mean"},
    [TDM_METRIC_CRITIC_VF_EXPLAINED_VAR] = {"critic/vf_explained_var", "critic/vf_explained_var"},
    [TDM_METRIC_CRITIC_GRAD_NORM] = {"critic/grad_norm", "critic/grad_norm"},
    [TDM_METRIC_CRITIC_LR] = {"critic/lr", "critic/lr"},
    [TDM_METRIC_REWARDS_CHOSEN] = {"rewards/chosen", "rewards/chosen"},
    [TDM_METRIC_REWARDS_REJECTED] = {"rewards/rejected", "rewards/rejected"},
    [TDM_METRIC_REWARDS_ACCURACIES] = {"rewards/accuracies", "rewards/accuracies"},
    [TDM_METRIC_REWARDS_MARGINS] = {"rewards/margins", "rewards/margins"},
    [TDM_METRIC_LOGPS_CHOSEN] = {"logps/chosen", "logps/chosen"},
    [TDM_METRIC_LOGPS_REJECTED] = {"logps/rejected", "logps/rejected"},
    [TDM_METRIC_NLL_LOSS] = {"nll_loss", "train/nll_loss"},
    [TDM_METRIC_LOG_ODDS_RATIO] = {"log_odds_ratio", "train/log_odds_ratio"},
    [TDM_METRIC_LOG_ODDS_CHOSEN] = {"log_odds_chosen", "train/log_odds_chosen"},
    [TDM_METRIC_JUDGE_PARSE_FAILED] = {"judge/parse_failed", "judge/parse_failed"},
    [TDM_METRIC_JUDGE_TOKENS] = {"judge_tokens", "judge/tokens"},
    [TDM_METRIC_ROLLOUT_S] = {"rollout_s", "time/rollout_s"},
    [TDM_METRIC_ENVIRONMENT_S] = {"environment_s", "time/environment_s"},
    [TDM_METRIC_REWARD_S] = {"reward_s", "time/reward_s"},
    [TDM_METRIC_JUDGE_S] = {"judge_s", "time/judge_s"},
    [TDM_METRIC_TRAIN_S] = {"train_s", "time/train_s"},
    [TDM_METRIC_FLIP_S] = {"flip_s", "time/flip_s"},
    [TDM_METRIC_STEP_S] = {"step_s", "time/step_s"},
    [TDM_METRIC_ROLLOUT_TOKENS_PER_S] = {"rollout_tokens_per_s", "speed/rollout_tokens_per_s"},
    [TDM_METRIC_TRAIN_TOKENS_PER_S] = {"train_tokens_per_s", "speed/train_tokens_per_s"},
    [TDM_METRIC_MEMORY_PEAK_BYTES] = {"memory_peak_bytes", "memory/peak_bytes"},
};

tdm_status tdm_metrics_open(tdm_metrics_log *log, const char *path, tdm_error *err)
{
    *log = (tdm_metrics_log){.file = {.fd = -1}};
    return tdm_file_append(&log->file, path, err);
}

static tdm_status put_pair(tdm_metrics_log *log, int64_t step, const char *prefix, const char *name, double value, tdm_error *err)
{
    if (!isfinite(value))
        return TDM_FAIL(err, TDM_ERR_OTHER, log->file.path, "the run diverged or a reward is broken: try a lower train.lr",
                        "%s%s is %s at step %" PRId64, prefix, name, isnan(value) ? "not a number" : "infinite", step);
    char key[256];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    tdm_writer_puts(&log->line, ",");
    tdm_writer_json(&log->line, key, strlen(key));
    tdm_writer_puts(&log->line, ":");
    tdm_writer_number(&log->line, value);
    return TDM_OK;
}

tdm_status tdm_metrics_put(tdm_metrics_log *log, const tdm_step_metrics *m, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_writer_clear(&log->line);
    tdm_writer_printf(&log->line, "{\"step\":%" PRId64, m->step);
    for (int i = 0; i < TDM_METRIC_COUNT; i++)
        if (m->set[i]) TDM_TRY(st, put_pair(log, m->step, "", tdm_metric_infos[i].key, m->value[i], err), done);
    for (int64_t i = 0; i < m->reward_count; i++)
        TDM_TRY(st, put_pair(log, m->step, "reward/", m->reward_names[i], m->reward_values[i], err), done);
    for (int64_t i = 0; i < m->extra_count; i++)
        TDM_TRY(st, put_pair(log, m->step, "", m->extra_names[i], m->extra_values[i], err), done);
    tdm_writer_puts(&log->line, "}\n");
    TDM_TRY(st, tdm_writer_check(&log->line, log->file.path, err), done);
    st = tdm_file_put(&log->file, log->line.data, log->line.len, err);
done:
    return st;
}

tdm_status tdm_metrics_sync(tdm_metrics_log *log, tdm_error *err) { return tdm_file_sync(&log->file, err); }

tdm_status tdm_metrics_close(tdm_metrics_log *log, tdm_error *err)
{
    tdm_writer_free(&log->line);
    return tdm_file_close(&log->file, err);
}

/* ---- reading ---- */

/* The object in one line with a step >= 0; NULL when it is torn or something else. */
static json_t *parse_line(const char *line, size_t len, int64_t *step)
{
    json_t *o = json_loadb(line, len, 0, NULL);
    const json_t *s = json_object_get(o, "step");
    if (!json_is_integer(s) || json_integer_value(s) < 0) {
        json_decref(o);
        return NULL;
    }
    *step = json_integer_value(s);
    return o;
}

tdm_status tdm_metrics_truncate(const char *path, int64_t step, tdm_error *err)
{
    char *text = NULL; /* owned here */
    size_t bytes = 0, kept = 0;
    if (!tdm_fs_is_file(path)) return TDM_OK;
    tdm_status st = tdm_fs_read(path, MAX_METRICS_BYTES, &text, &bytes, err);
    if (st != TDM_OK) return st;
    for (size_t at = 0; at < bytes;) {
        char *nl = memchr(text + at, '\n', bytes - at);
        if (!nl) break; /* torn */
        size_t len = (size_t)(nl - text) - at + 1;
        int64_t s = 0;
        json_t *o = parse_line(text + at, len, &s);
        if (o && s <= step) {
            memmove(text + kept, text + at, len);
            kept += len;
        }
        json_decref(o);
        at += len;
    }
    if (kept != bytes) st = tdm_fs_write(path, text, kept, err);
    free(text);
    return st;
}

static int64_t find_column(const tdm_metrics_table *t, const char *key)
{
    for (int64_t c = 0; c < t->cols; c++)
        if (strcmp(t->keys[c], key) == 0) return c;
    return -1;
}

enum { MAX_COLUMNS = 1024 };

/* First pass: which steps and which keys there are. */
typedef struct row {
    int64_t step, order;
    json_t *object;
} row;

static bool collect_keys(tdm_metrics_table *t, json_t *o)
{
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value)
    {
        if (!json_is_number(value) || strcmp(key, "step") == 0 || find_column(t, key) >= 0 || t->cols == MAX_COLUMNS) continue;
        if (!(t->keys[t->cols] = strdup(key))) return false;
        t->cols++;
    }
    return true;
}

static int by_step(const void *a, const void *b)
{
    const row *x = a, *y = b;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static bool fill_table(tdm_metrics_table *t, row *rows, int64_t count)
{
    if (count == 0) return true;
    t->steps = malloc((size_t)count * sizeof *t->steps);
    t->values = malloc((size_t)count * (size_t)(t->cols ? t->cols : 1) * sizeof *t->values);
    if (!t->steps || !t->values) return false;
    qsort(rows, (size_t)count, sizeof *rows, by_step);
    for (int64_t i = 0; i < count; i++) {
        if (i + 1 < count && rows[i + 1].step == rows[i].step) continue; /* the later line counts */
        t->steps[t->rows] = rows[i].step;
        for (int64_t c = 0; c < t->cols; c++) {
            const json_t *v = json_object_get(rows[i].object, t->keys[c]);
            t->values[t->rows * t->cols + c] = json_is_number(v) ? json_number_value(v) : NAN;
        }
        t->rows++;
    }
    return true;
}

tdm_status tdm_metrics_read(tdm_metrics_table *t, const char *path, tdm_error *err)
{
    char *text = NULL; /* owned here */
    row *rows = NULL;  /* owned here, with its objects */
    int64_t count = 0, room = 0;
    size_t bytes = 0;
    *t = (tdm_metrics_table){0};
    if (!tdm_fs_is_file(path)) return TDM_OK;
    tdm_status st = tdm_fs_read(path, MAX_METRICS_BYTES, &text, &bytes, err);
    if (st != TDM_OK) return st;
    bool ok = (t->keys = calloc(MAX_COLUMNS, sizeof *t->keys)) != NULL;
    for (size_t at = 0; ok && at < bytes;) {
        const char *nl = memchr(text + at, '\n', bytes - at);
        size_t len = nl ? (size_t)(nl - text) - at : bytes - at;
        int64_t step = 0;
        json_t *o = parse_line(text + at, len, &step);
        at += len + 1;
        if (!o) {
            t->skipped += len > 0;
            continue;
        }
        if (count == room) {
            room = room ? room * 2 : 256;
            row *grown = realloc(rows, (size_t)room * sizeof *rows);
            if (!grown) {
                json_decref(o);
                ok = false;
                break;
            }
            rows = grown;
        }
        rows[count] = (row){step, count, o};
        count++;
        ok = collect_keys(t, o);
    }
    ok = ok && fill_table(t, rows, count);
    if (!ok) {
        tdm_metrics_table_free(t);
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory reading %zu bytes of metrics", bytes);
    }
    for (int64_t i = 0; i < count; i++) json_decref(rows[i].object);
    free(rows);
    free(text);
    return st;
}

void tdm_metrics_table_free(tdm_metrics_table *t)
{
    for (int64_t c = 0; c < t->cols; c++) free(t->keys[c]);
    free(t->keys);
    free(t->steps);
    free(t->values);
    *t = (tdm_metrics_table){0};
}
