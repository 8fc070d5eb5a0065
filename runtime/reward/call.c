/* What a reward's process is asked, and what it answers: a part of a batch. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/reward/reward_internal.h"

static json_t *completion_of(const tdm_reward_sample *s)
{
    if (s->turns) return json_incref((json_t *)(uintptr_t)s->turns);
    json_t *text = json_stringn(s->completion, s->completion_len);
    if (!text) text = json_string("\xef\xbf\xbd"); /* cannot happen for text from the tokenizer: it is UTF-8 */
    if (!json_is_array(s->prompt)) return text;
    return json_pack("[{s:s,s:o}]", "role", "assistant", "content", text);
}

static json_t *ids_of(const tdm_reward_sample *s)
{
    json_t *ids = json_array();
    for (int64_t i = 0; i < s->ids_count; i++) json_array_append_new(ids, json_integer(s->ids[i]));
    return ids;
}

static json_t *columns_of(const tdm_reward_sample *s, int64_t n)
{
    const json_t **rows = calloc((size_t)n + 1, sizeof *rows);
    for (int64_t i = 0; rows && i < n; i++) rows[i] = s[i].row;
    json_t *columns = rows ? tdm_worker_columns(rows, n) : NULL;
    free(rows);
    return columns;
}

static json_t *request_of(const tdm_reward_call *c)
{
    const tdm_reward_sample *s = c->samples + c->first;
    json_t *prompts = json_array(), *completions = json_array(), *ids = json_array();
    for (int64_t i = 0; i < c->count; i++) {
        json_array_append(prompts, (json_t *)(uintptr_t)s[i].prompt);
        json_array_append_new(completions, completion_of(&s[i]));
        json_array_append_new(ids, ids_of(&s[i]));
    }
    return json_pack("{s:I,s:o,s:o,s:o,s:o}", "id", (json_int_t)c->request, "prompts", prompts, "completions", completions, "completion_ids", ids, "columns",
                     columns_of(s, c->count));
}

static tdm_status take_rewards(void *ctx, const char *line, size_t len, tdm_error *err)
{
    const tdm_reward_call *c = ctx;
    return tdm_reward_reply_parse(line, len, c->worker.label, c->request, c->first, c->count, c->out + c->first, err);
}

void tdm_reward_call_init(tdm_reward_call *c, const tdm_recipe_reward *w)
{
    const tdm_worker_spec spec = {.python = w->kind == TDM_REWARD_PYTHON ? w->python : NULL, .program = tdm_python_reward,
                                  .form = "file.py:function, importable by itself", .interpreter = w->interpreter, .command = w->command.items,
                                  .timeout_s = w->timeout_s};
    *c = (tdm_reward_call){0};
    tdm_worker_init(&c->worker, &spec);
}

void tdm_reward_call_begin(tdm_reward_call *c, const tdm_reward_sample *samples, int64_t first, int64_t count, double *out)
{
    char where[256];
    c->samples = samples;
    c->first = first;
    c->count = count;
    c->out = out;
    c->request++;
    json_t *request = request_of(c);
    snprintf(where, sizeof where, "%s, samples %" PRId64 " to %" PRId64, c->worker.label, first, first + count - 1);
    tdm_worker_call(&c->worker, request, where, take_rewards, c);
    json_decref(request);
}
