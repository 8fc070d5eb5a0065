/* "{column}" templates and the messages a row asks with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/data/dataset.h"

static tdm_status no_column(const json_t *row, const char *name, size_t len, const char *where, tdm_error *err)
{
    char hint[200] = "the row has ";
    const char *key;
    json_t *value;
    size_t at = strlen(hint);
    json_object_foreach((json_t *)(uintptr_t)row, key, value)
        if (at < sizeof hint - 1) at += (size_t)snprintf(hint + at, sizeof hint - at, "%s%s", at > 12 ? ", " : "", key);
    if (json_object_size(row) == 0) snprintf(hint, sizeof hint, "the row has no columns");
    return TDM_FAIL(err, TDM_ERR_INPUT, where, hint, "the template wants the column \"%.*s\"", (int)(len > 100 ? 100 : len), name);
}

static tdm_status put_column(FILE *out, const json_t *row, const char *name, size_t len, const char *where, tdm_error *err)
{
    const json_t *v = json_object_getn(row, name, len);
    if (!v) return no_column(row, name, len, where, err);
    if (json_is_string(v)) {
        fwrite(json_string_value(v), 1, json_string_length(v), out);
        return TDM_OK;
    }
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    if (!text) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a column");
    fputs(text, out);
    free(text);
    return TDM_OK;
}

static tdm_status fill(FILE *out, const char *t, const json_t *row, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (const char *p = t; *p; p++) {
        if ((*p == '{' || *p == '}') && p[1] == *p) {
            fputc(*p++, out);
            continue;
        }
        if (*p != '{') {
            fputc(*p, out);
            continue;
        }
        const char *end = strchr(p, '}');
        if (!end) {
            st = TDM_FAIL(err, TDM_ERR_RECIPE, where, "write {{ for a brace of the text", "the template has a { without its }");
            goto done;
        }
        TDM_TRY(st, put_column(out, row, p + 1, (size_t)(end - p - 1), where, err), done);
        p = end;
    }
done:
    return st;
}

tdm_status tdm_template_fill(const char *template_text, const json_t *row, const char *where, char **text, size_t *len, tdm_error *err)
{
    *text = NULL;
    FILE *out = open_memstream(text, len);
    if (!out) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a template");
    tdm_status st = fill(out, template_text, row, where, err);
    const bool failed = ferror(out) != 0;
    if ((fclose(out) != 0 || failed) && st == TDM_OK) st = TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a template");
    if (st != TDM_OK) {
        free(*text);
        *text = NULL;
    }
    return st;
}

/* The conversation up to its last user turn: what stands behind it is an answer, not a question. */
static json_t *up_to_last_user(const json_t *messages)
{
    size_t keep = json_array_size(messages);
    while (keep > 0) {
        const char *role = json_string_value(json_object_get(json_array_get(messages, keep - 1), "role"));
        if (role && (strcmp(role, "user") == 0 || strcmp(role, "tool") == 0)) break;
        keep--;
    }
    json_t *out = json_array();
    for (size_t i = 0; out && i < keep; i++) json_array_append(out, json_array_get(messages, i));
    return out;
}

static tdm_status add_text(json_t *list, const char *role, const char *text, size_t len, const char *where, tdm_error *err)
{
    json_t *m = json_pack("{s:s,s:s%}", "role", role, "content", text, len);
    if (!m) return TDM_FAIL(err, TDM_ERR_INPUT, where, "prompts are UTF-8", "the %s message is not UTF-8", role);
    return json_array_append_new(list, m) == 0 ? TDM_OK : TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a message");
}

tdm_status tdm_row_messages(const json_t *row, const char *system, const char *prompt, const char *where, json_t **messages, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char *filled = NULL;
    size_t len = 0;
    json_t *list = NULL;
    const json_t *given = json_object_get(row, "messages"), *asked = json_object_get(row, "prompt"), *question = json_object_get(row, "question");
    *messages = NULL;
    if (!prompt[0] && json_is_array(given)) list = up_to_last_user(given);
    else if (!prompt[0] && json_is_array(asked)) list = json_deep_copy(asked);
    else {
        list = json_array();
        const json_t *text = json_is_string(asked) ? asked : question;
        if (list && system[0]) TDM_TRY(st, add_text(list, "system", system, strlen(system), where, err), done);
        if (list && prompt[0]) {
            TDM_TRY(st, tdm_template_fill(prompt, row, where, &filled, &len, err), done);
            TDM_TRY(st, add_text(list, "user", filled, len, where, err), done);
        } else if (list && json_is_string(text))
            TDM_TRY(st, add_text(list, "user", json_string_value(text), json_string_length(text), where, err), done);
        else if (list) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, where, "set data.prompt, or give the row \"messages\", \"prompt\" or \"question\"", "the row asks nothing");
            goto done;
        }
    }
    if (!list) st = TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for the messages");
    else if (json_array_size(list) == 0) st = TDM_FAIL(err, TDM_ERR_INPUT, where, "a conversation needs a user's message", "the row's messages ask nothing");
    /* a system message of the recipe stands before conversations that bring none */
    else if (system[0] && !prompt[0] && !json_is_string(asked) && (json_is_array(given) || json_is_array(asked))) {
        const char *role = json_string_value(json_object_get(json_array_get(list, 0), "role"));
        json_t *m = role && strcmp(role, "system") == 0 ? NULL : json_pack("{s:s,s:s}", "role", "system", "content", system);
        if (m) json_array_insert_new(list, 0, m);
    }
done:
    free(filled);
    if (st == TDM_OK) *messages = list;
    else json_decref(list);
    return st;
}
