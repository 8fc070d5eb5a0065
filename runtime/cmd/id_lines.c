#include "runtime/cmd/id_lines.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static tdm_status push(tdm_id_lines *in, int32_t *ids, int64_t count, int64_t number, tdm_error *err)
{
    if (in->count == in->room) {
        const int64_t room = in->room ? 2 * in->room : 64;
        tdm_id_line *line = realloc(in->line, (size_t)room * sizeof *line);
        if (!line) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the input");
        in->line = line;
        in->room = room;
    }
    in->line[in->count++] = (tdm_id_line){ids, count, number};
    in->longest = tdm_max_i64(in->longest, count);
    in->tokens += count;
    return TDM_OK;
}

static tdm_status read_line(tdm_id_lines *in, const char *text, size_t len, const char *where, int64_t number, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int32_t *ids = NULL;
    json_error_t je;
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!o) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "one JSON object a line", "not JSON: %s", je.text);
        goto done;
    }
    const json_t *list = json_object_get(o, "ids");
    if (!json_is_array(list)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "write {\"ids\":[1,2,3]}", "no list \"ids\"");
        goto done;
    }
    const size_t n = json_array_size(list);
    ids = malloc((n + 1) * sizeof *ids);
    if (!ids) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for the input");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, where, "token ids are whole numbers from 0", "ids[%zu] is not a token id", i);
            goto done;
        }
        ids[i] = (int32_t)json_integer_value(v);
    }
    TDM_TRY(st, push(in, ids, (int64_t)n, number, err), done);
    ids = NULL;
done:
    free(ids);
    json_decref(o);
    return st;
}

tdm_status tdm_id_lines_read(tdm_id_lines *in, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char *line = NULL, where[512];
    size_t room = 0;
    ssize_t len;
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
    if (!f) return TDM_FAIL(err, TDM_ERR_INPUT, path, "is the path right?", "cannot open: %s", strerror(errno));
    for (int64_t number = 1; (len = getline(&line, &room, f)) >= 0; number++) {
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r' || line[len - 1] == ' ')) line[--len] = 0;
        if (len == 0) continue;
        snprintf(where, sizeof where, "%s:%" PRId64, path, number);
        TDM_TRY(st, read_line(in, line, (size_t)len, where, number, err), done);
    }
    if (ferror(f)) st = TDM_FAIL(err, TDM_ERR_INPUT, path, "is it a file?", "cannot read: %s", strerror(errno));
done:
    free(line);
    if (f != stdin) fclose(f);
    return st;
}

void tdm_id_lines_free(tdm_id_lines *in)
{
    for (int64_t i = 0; i < in->count; i++) free(in->line[i].ids);
    free(in->line);
    *in = (tdm_id_lines){0};
}

tdm_status tdm_id_lines_rows(const tdm_id_lines *in, float ***rows, tdm_error *err)
{
    const size_t heads = (size_t)(in->count + 1) * sizeof(float *);
    float **p = malloc(heads + (size_t)(in->tokens + 1) * sizeof(float));
    *rows = p;
    if (!p) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for %" PRId64 " log-probabilities", in->tokens);
    float *at = (float *)(void *)((char *)p + heads);
    for (int64_t i = 0; i < in->count; i++) {
        p[i] = at;
        at += in->line[i].count;
    }
    return TDM_OK;
}
