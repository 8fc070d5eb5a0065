#include "runtime/reward/judge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "runtime/data/dataset.h"
#include "runtime/reward/pattern.h"

struct tdm_judge {
    const tdm_recipe_reward *w;
    tdm_pattern *parse;
};

tdm_status tdm_judge_open(tdm_judge **out, const tdm_recipe_reward *w, const char *where, tdm_error *err)
{
    tdm_judge *g = calloc(1, sizeof *g);
    *out = g;
    if (!g) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a judge");
    g->w = w;
    const tdm_status st = tdm_pattern_open(&g->parse, w->parse, false, where, err);
    if (st == TDM_OK) return TDM_OK;
    tdm_judge_close(g);
    *out = NULL;
    return st;
}

void tdm_judge_close(tdm_judge *g)
{
    if (!g) return;
    tdm_pattern_close(g->parse);
    free(g);
}

/* ---- The question ---------------------------------------------------------------------------------------------------------------- */

/* Messages as one text: a single one as it is (the system's is not the user's question), several with their roles. */
static json_t *conversation_text(const json_t *messages)
{
    size_t count = 0, len = 0, i;
    char *text = NULL;
    const json_t *m, *only = NULL;
    json_array_foreach((json_t *)(uintptr_t)messages, i, m) {
        const char *role = json_string_value(json_object_get(m, "role"));
        if (role && strcmp(role, "system") == 0) continue;
        only = json_object_get(m, "content");
        count++;
    }
    if (count == 1 && json_is_string(only)) return json_incref((json_t *)(uintptr_t)only);
    FILE *out = open_memstream(&text, &len);
    if (!out) return NULL;
    json_array_foreach((json_t *)(uintptr_t)messages, i, m) {
        const char *role = json_string_value(json_object_get(m, "role"));
        const json_t *content = json_object_get(m, "content");
        if (!role || strcmp(role, "system") == 0 || !json_is_string(content)) continue;
        fprintf(out, "%s%s: %s", ftell(out) > 0 ? "\n\n" : "", role, json_string_value(content));
    }
    json_t *all = fclose(out) == 0 ? json_stringn(text, len) : NULL;
    free(text);
    return all;
}

static json_t *columns_of(const tdm_reward_sample *s)
{
    json_t *row = json_copy((json_t *)(uintptr_t)s->row);
    json_t *prompt = json_is_array(s->prompt) ? conversation_text(s->prompt) : json_incref((json_t *)(uintptr_t)s->prompt);
    json_t *completion = s->turns ? conversation_text(s->turns) : json_stringn(s->completion, s->completion_len);
    if (!completion && !s->turns) completion = json_string("\xef\xbf\xbd"); /* cannot happen: the tokenizer's text is UTF-8 */
    if (row && prompt && completion && json_object_set(row, "prompt", prompt) == 0 && json_object_set(row, "completion", completion) == 0) {
        json_decref(prompt);
        json_decref(completion);
        return row;
    }
    json_decref(prompt);
    json_decref(completion);
    json_decref(row);
    return NULL;
}

static tdm_status add(json_t *list, const char *role, const char *template, const json_t *row, const char *where, tdm_error *err)
{
    char *text = NULL;
    size_t len = 0;
    tdm_status st = tdm_template_fill(template, row, where, &text, &len, err);
    if (st == TDM_OK && json_array_append_new(list, json_pack("{s:s,s:s%}", "role", role, "content", text, len)) != 0)
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "questions are UTF-8", "the judge's %s message is not UTF-8", role);
    free(text);
    return st;
}

tdm_status tdm_judge_ask(const tdm_judge *g, const tdm_reward_sample *s, const char *where, json_t **messages, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *row = columns_of(s), *list = json_array();
    *messages = NULL;
    if (!row || !list) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a judge's question");
        goto done;
    }
    if (g->w->system[0]) TDM_TRY(st, add(list, "system", g->w->system, row, where, err), done);
    TDM_TRY(st, add(list, "user", g->w->prompt, row, where, err), done);
    *messages = json_incref(list);
done:
    json_decref(row);
    json_decref(list);
    return st;
}

/* ---- The score ------------------------------------------------------------------------------------------------------------------- */

static bool is_word(const char *text, size_t len, const char *const *words)
{
    for (; *words; words++)
        if (strlen(*words) == len && strncasecmp(text, *words, len) == 0) return true;
    return false;
}

bool tdm_judge_read(tdm_judge *g, const char *reply, size_t len, bool cut, double *score)
{
    static const char *const yes[] = {"yes", "true", "correct", NULL}, *const no[] = {"no", "false", "incorrect", "wrong", NULL};
    tdm_pattern_hit hit;
    double x;
    if (!tdm_pattern_find(g->parse, reply, len, &hit) || (cut && hit.end == len)) return false;
    if (is_word(hit.text, hit.len, yes)) return *score = 1.0, true;
    if (is_word(hit.text, hit.len, no)) return *score = 0.0, true;
    if (!tdm_reward_number_find(hit.text, hit.len, &x)) return false;
    const double *range = g->w->range;
    if (x < range[0] || x > range[1]) return false;
    *score = (x - range[0]) / (range[1] - range[0]);
    return true;
}
