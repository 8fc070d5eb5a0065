/* rollouts/step-000010.jsonl: completions with their rewards, in a form that rollout.replay reads back. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/run/metrics.h"

tdm_status tdm_rollout_log_open(tdm_rollout_log *log, const char *run_dir, int64_t step, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char dir[TDM_PATH_BYTES], name[64], tmp[TDM_PATH_BYTES];
    memset(log, 0, sizeof *log);
    log->file.fd = -1;
    TDM_TRY(st, tdm_fs_join(dir, run_dir, "rollouts", err), done);
    TDM_TRY(st, tdm_fs_mkdirs(dir, err), done);
    snprintf(name, sizeof name, "step-%06" PRId64 ".jsonl", step);
    TDM_TRY(st, tdm_fs_join(log->path, dir, name, err), done);
    snprintf(name, sizeof name, ".step-%06" PRId64 ".jsonl.tmp", step);
    TDM_TRY(st, tdm_fs_join(tmp, dir, name, err), done);
    st = tdm_file_create(&log->file, tmp, err);
done:
    return st;
}

static void put_ids(tdm_writer *t, const char *key, const int32_t *ids, int64_t count)
{
    tdm_writer_printf(t, ",\"%s\":[", key);
    for (int64_t i = 0; i < count; i++) tdm_writer_printf(t, "%s%" PRId32, i ? "," : "", ids[i]);
    tdm_writer_puts(t, "]");
}

/* A number, or null where there is none: a reward may say None. */
static void put_number(tdm_writer *t, double v)
{
    if (isfinite(v)) tdm_writer_number(t, v);
    else tdm_writer_puts(t, "null");
}

/* Nothing for NULL. */
static tdm_status put_value(tdm_writer *t, const char *key, const json_t *v, const char *where, tdm_error *err)
{
    if (!v) return TDM_OK;
    char *text = json_dumps(v, JSON_COMPACT);
    if (!text) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a completion's %s", key);
    tdm_writer_printf(t, ",\"%s\":%s", key, text);
    free(text);
    return TDM_OK;
}

tdm_status tdm_rollout_log_put(tdm_rollout_log *log, const tdm_rollout_record *r, tdm_error *err)
{
    tdm_writer *t = &log->line;
    tdm_writer_clear(t);
    tdm_writer_printf(t, "{\"group\":%" PRId64 ",\"prompt\":", r->group);
    tdm_writer_json(t, r->prompt, r->prompt_len);
    tdm_writer_puts(t, ",\"completion\":");
    tdm_writer_json(t, r->completion, r->completion_len);
    tdm_writer_puts(t, ",\"reward\":");
    put_number(t, r->reward);
    tdm_writer_puts(t, ",\"rewards\":{");
    for (int64_t i = 0; i < r->reward_count; i++) {
        if (i) tdm_writer_puts(t, ",");
        tdm_writer_json(t, r->reward_names[i], strlen(r->reward_names[i]));
        tdm_writer_puts(t, ":");
        put_number(t, r->reward_values[i]);
    }
    tdm_writer_puts(t, "},\"advantage\":");
    put_number(t, r->advantage);
    tdm_writer_printf(t, ",\"truncated\":%s", r->truncated ? "true" : "false");
    put_ids(t, "prompt_ids", r->prompt_ids, r->prompt_count);
    put_ids(t, "completion_ids", r->completion_ids, r->completion_count);
    if (r->logprobs) {
        tdm_writer_puts(t, ",\"logprobs\":[");
        for (int64_t i = 0; i < r->completion_count; i++) {
            if (i) tdm_writer_puts(t, ",");
            put_number(t, (double)r->logprobs[i]);
        }
        tdm_writer_puts(t, "]");
    }
    if (r->mask) {
        tdm_writer_puts(t, ",\"mask\":[");
        for (int64_t i = 0; i < r->completion_count; i++) tdm_writer_puts(t, i ? r->mask[i] ? ",1" : ",0" : r->mask[i] ? "1" : "0");
        tdm_writer_puts(t, "]");
    }
    tdm_status st = TDM_OK;
    TDM_TRY(st, put_value(t, "judges", r->judges, log->path, err), done);
    TDM_TRY(st, put_value(t, "turns", r->turns, log->path, err), done);
    tdm_writer_puts(t, "}\n");
    TDM_TRY(st, tdm_writer_check(t, log->path, err), done);
    st = tdm_file_put(&log->file, t->data, t->len, err);
done:
    return st;
}

tdm_status tdm_rollout_log_close(tdm_rollout_log *log, tdm_error *err)
{
    tdm_status st = tdm_file_close(&log->file, err);
    if (st == TDM_OK) st = tdm_fs_rename(log->file.path, log->path, err);
    if (st != TDM_OK) unlink(log->file.path);
    tdm_writer_free(&log->line);
    return st;
}

void tdm_rollout_log_abort(tdm_rollout_log *log)
{
    bool open = log->file.fd >= 0;
    (void)tdm_file_close(&log->file, NULL);
    if (open) unlink(log->file.path);
    tdm_writer_free(&log->line);
}

tdm_status tdm_rollout_log_truncate(const char *run_dir, int64_t step, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_names names = {0};
    char dir[TDM_PATH_BYTES], path[TDM_PATH_BYTES];
    TDM_TRY(st, tdm_fs_join(dir, run_dir, "rollouts", err), done);
    if (!tdm_fs_is_dir(dir)) goto done;
    TDM_TRY(st, tdm_fs_list(dir, &names, err), done);
    for (int64_t i = 0; i < names.count; i++) {
        int64_t s = 0;
        int end = 0;
        bool later = sscanf(names.names[i], "step-%" SCNd64 ".jsonl%n", &s, &end) == 1 && end > 0 && !names.names[i][end] && s > step;
        bool torn = strncmp(names.names[i], ".step-", 6) == 0;
        if (!later && !torn) continue;
        TDM_TRY(st, tdm_fs_join(path, dir, names.names[i], err), done);
        TDM_TRY(st, tdm_fs_remove_tree(path, err), done);
    }
done:
    tdm_names_free(&names);
    return st;
}
