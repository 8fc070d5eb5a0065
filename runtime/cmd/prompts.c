#include "runtime/cmd/prompts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tdm_status slot(tdm_prompts *p, tdm_ids **ids, tdm_error *err)
{
    if (p->count == p->room) {
        const int64_t room = p->room ? 2 * p->room : 64;
        tdm_ids *more = realloc(p->ids, (size_t)room * sizeof *more);
        if (!more) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the prompts");
        p->ids = more;
        p->room = room;
    }
    *ids = &p->ids[p->count++];
    **ids = (tdm_ids){0};
    return TDM_OK;
}

static tdm_status chat_ids(const tdm_language *l, json_t *vars, tdm_ids *ids, tdm_error *err)
{
    tdm_text text = {0};
    if (!json_object_get(vars, "add_generation_prompt")) json_object_set_new(vars, "add_generation_prompt", json_true());
    const tdm_status st = tdm_language_chat_ids(l, vars, &text, ids, err);
    tdm_text_free(&text);
    return st;
}

static tdm_status check(tdm_prompts *p, const tdm_ids *ids, const char *where, tdm_error *err)
{
    if (ids->count == 0) return TDM_FAIL(err, TDM_ERR_INPUT, where, "a prompt needs at least one token", "the prompt is empty");
    p->longest = tdm_max_i64(p->longest, ids->count);
    return TDM_OK;
}

tdm_status tdm_prompts_add_text(tdm_prompts *p, const tdm_language *l, const char *text, bool chat, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_ids *ids = NULL;
    json_t *vars = NULL;
    TDM_TRY(st, slot(p, &ids, err), done);
    if (chat) {
        vars = json_pack("{s:[{s:s,s:s}]}", "messages", "role", "user", "content", text);
        if (!vars) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, "command line: --prompt", "the prompt must be UTF-8", "cannot read the prompt");
            goto done;
        }
        TDM_TRY(st, chat_ids(l, vars, ids, err), done);
    } else TDM_TRY(st, tdm_tokenizer_encode(l->tokenizer, text, strlen(text), true, ids, err), done);
    TDM_TRY(st, check(p, ids, "command line: --prompt", err), done);
done:
    json_decref(vars);
    return st;
}

static tdm_status take_ids(const json_t *list, const tdm_model_config *c, const char *where, tdm_ids *ids, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= c->vocab) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, where, "ids are whole numbers below the vocabulary's size", "ids[%zu] is not an id of this model", i);
            goto done;
        }
        TDM_TRY(st, tdm_ids_push(ids, (int32_t)json_integer_value(v), err), done);
    }
done:
    return st;
}

static tdm_status read_line(tdm_prompts *p, const tdm_language *l, const char *line, size_t len, const char *where, const tdm_model_config *c, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_ids *ids = NULL;
    json_error_t je;
    json_t *v = json_loadb(line, len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &je);
    if (!v) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "one JSON value a line", "not JSON: %s", je.text);
        goto done;
    }
    TDM_TRY(st, slot(p, &ids, err), done);
    const json_t *prompt = json_is_string(v) ? v : json_object_get(v, "prompt");
    if (json_is_string(prompt))
        TDM_TRY(st, tdm_tokenizer_encode(l->tokenizer, json_string_value(prompt), json_string_length(prompt), true, ids, err), done);
    else if (json_is_array(json_object_get(v, "ids"))) TDM_TRY(st, take_ids(json_object_get(v, "ids"), c, where, ids, err), done);
    else if (json_is_array(json_object_get(v, "messages"))) TDM_TRY(st, chat_ids(l, v, ids, err), done);
    else {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "write a string, {\"prompt\":...}, {\"messages\":[...]} or {\"ids\":[...]}", "no prompt in the line");
        goto done;
    }
    TDM_TRY(st, check(p, ids, where, err), done);
done:
    json_decref(v);
    return st;
}

tdm_status tdm_prompts_read(tdm_prompts *p, const tdm_language *l, const char *path, const tdm_model_config *c, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char *line = NULL, where[512];
    size_t room = 0;
    ssize_t len;
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
    if (!f) return TDM_FAIL(err, TDM_ERR_INPUT, path, "is the path right?", "cannot open: %s", strerror(errno));
    for (int64_t number = 1; (len = getline(&line, &room, f)) >= 0; number++) {
        if (strspn(line, " \t\r\n") == (size_t)len) continue;
        snprintf(where, sizeof where, "%s:%" PRId64, path, number);
        TDM_TRY(st, read_line(p, l, line, (size_t)len, where, c, err), done);
    }
    if (ferror(f)) st = TDM_FAIL(err, TDM_ERR_INPUT, path, "is it a file?", "cannot read: %s", strerror(errno));
done:
    free(line);
    if (f != stdin) fclose(f);
    return st;
}

void tdm_prompts_free(tdm_prompts *p)
{
    for (int64_t i = 0; i < p->count; i++) tdm_ids_free(&p->ids[i]);
    free(p->ids);
    *p = (tdm_prompts){0};
}
