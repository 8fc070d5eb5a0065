/* Sample completions for the report: a few logged steps from first to last, a few records of each. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/run/report_data.h"

enum { MAX_FILES = 8, MAX_SAMPLES = 12, MAX_TEXT = 12000, MAX_FILE_BYTES = 1 << 30 };

/* A JSON string of the record, cut to MAX_TEXT bytes; a character cut in the middle becomes U+FFFD. */
static bool put_text(tdm_writer *t, const json_t *record, const char *key)
{
    const char *s = json_string_value(json_object_get(record, key));
    size_t len = json_string_length(json_object_get(record, key));
    tdm_writer_printf(t, "\"%s\":", key);
    tdm_writer_json(t, s ? s : "", len < MAX_TEXT ? len : MAX_TEXT);
    return len > MAX_TEXT;
}

void tdm_report_number(tdm_writer *t, double v)
{
    if (isfinite(v)) tdm_writer_number(t, v);
    else tdm_writer_puts(t, "null");
}

static double number_or_nan(const json_t *v) { return json_is_number(v) ? json_number_value(v) : NAN; }

static void put_rewards(tdm_writer *t, const json_t *rewards)
{
    const char *name;
    json_t *v;
    bool first = true;
    tdm_writer_puts(t, ",\"rewards\":{");
    json_object_foreach((json_t *)(uintptr_t)rewards, name, v)
    {
        if (!first) tdm_writer_puts(t, ",");
        first = false;
        tdm_writer_json(t, name, strlen(name));
        tdm_writer_puts(t, ":");
        tdm_report_number(t, number_or_nan(v));
    }
    tdm_writer_puts(t, "}");
}

/* The completion as it went: who wrote what, and what it earned. */
static bool put_turns(tdm_writer *t, const json_t *turns)
{
    bool cut = false;
    tdm_writer_puts(t, ",\"turns\":[");
    for (size_t i = 0; i < json_array_size(turns); i++) {
        const json_t *turn = json_array_get(turns, i);
        tdm_writer_puts(t, i ? ",{" : "{");
        cut = put_text(t, turn, "role") || cut;
        tdm_writer_puts(t, ",");
        cut = put_text(t, turn, "content") || cut;
        put_rewards(t, json_object_get(turn, "rewards"));
        tdm_writer_puts(t, "}");
    }
    tdm_writer_puts(t, "]");
    return cut;
}

static void put_record(tdm_writer *t, const json_t *r)
{
    const json_t *ids = json_object_get(r, "completion_ids"), *turns = json_object_get(r, "turns");
    tdm_writer_puts(t, "{");
    put_text(t, r, "prompt");
    tdm_writer_puts(t, ",");
    bool cut = put_text(t, r, "completion");
    tdm_writer_puts(t, ",\"reward\":");
    tdm_report_number(t, number_or_nan(json_object_get(r, "reward")));
    put_rewards(t, json_object_get(r, "rewards"));
    if (json_is_array(turns)) cut = put_turns(t, turns) || cut;
    tdm_writer_printf(t, ",\"truncated\":%s,\"cut\":%s", json_is_true(json_object_get(r, "truncated")) ? "true" : "false", cut ? "true" : "false");
    if (json_is_array(ids)) tdm_writer_printf(t, ",\"tokens\":%zu", json_array_size(ids));
    tdm_writer_puts(t, "}");
}

/* Records spread evenly over the file, so that several groups are seen. A broken line is left out. */
static void put_records(tdm_writer *t, const char *text, size_t bytes)
{
    int64_t lines = 0, line = 0, shown = 0;
    for (size_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    for (size_t at = 0; at < bytes; line++) {
        const char *nl = memchr(text + at, '\n', bytes - at);
        size_t len = nl ? (size_t)(nl - text) - at : bytes - at;
        bool wanted = lines <= MAX_SAMPLES || line * MAX_SAMPLES / lines != (line - 1) * MAX_SAMPLES / lines || line == 0;
        json_t *r = wanted ? json_loadb(text + at, len, JSON_ALLOW_NUL, NULL) : NULL;
        at += len + 1;
        if (json_is_object(r)) {
            if (shown++) tdm_writer_puts(t, ",");
            put_record(t, r);
        }
        json_decref(r);
    }
}

tdm_status tdm_report_rollouts(tdm_writer *t, const char *run_dir, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_names names = {0};
    char dir[TDM_PATH_BYTES], path[TDM_PATH_BYTES];
    int64_t count = 0;
    tdm_writer_puts(t, "[");
    TDM_TRY(st, tdm_fs_join(dir, run_dir, "rollouts", err), done);
    if (!tdm_fs_is_dir(dir)) goto done;
    TDM_TRY(st, tdm_fs_list(dir, &names, err), done);
    for (int64_t i = 0; i < names.count; i++) { /* keep the names of rollouts, sorted by step as they are zero-padded */
        int64_t step;
        int end = 0;
        bool ours = sscanf(names.names[i], "step-%" SCNd64 ".jsonl%n", &step, &end) == 1 && end > 0 && !names.names[i][end];
        char *name = names.names[i];
        if (!ours) continue;
        names.names[i] = names.names[count];
        names.names[count++] = name;
    }
    int64_t shown = count < MAX_FILES ? count : MAX_FILES;
    for (int64_t i = 0; i < shown; i++) {
        const char *name = names.names[shown > 1 ? i * (count - 1) / (shown - 1) : 0];
        char *text = NULL;
        size_t bytes = 0;
        TDM_TRY(st, tdm_fs_join(path, dir, name, err), done);
        TDM_TRY(st, tdm_fs_read(path, MAX_FILE_BYTES, &text, &bytes, err), done);
        tdm_writer_printf(t, "%s{\"step\":%lld,\"samples\":[", i ? "," : "", atoll(name + 5));
        put_records(t, text, bytes);
        tdm_writer_puts(t, "]}");
        free(text);
    }
done:
    tdm_writer_puts(t, "]");
    tdm_names_free(&names);
    return st;
}
