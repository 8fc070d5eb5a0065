#include "runtime/data/replay.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/data/dataset.h"

static tdm_status take_ids(const json_t *row, const char *key, int64_t vocab, int32_t *out, const char *where, tdm_error *err)
{
    const json_t *list = json_object_get(row, key);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab)
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "was it recorded with another model?", "%s[%zu] is not an id below %" PRId64, key, i, vocab);
        out[i] = (int32_t)json_integer_value(v);
    }
    return TDM_OK;
}

static tdm_status take_logprobs(const json_t *list, size_t count, tdm_replay_row *r, const char *where, tdm_error *err)
{
    if (!json_is_array(list) || json_array_size(list) != count)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "one for each completion id", "\"logprobs\" has %zu numbers, the completion %zu ids", json_array_size(list), count);
    r->logprob = malloc(count * sizeof *r->logprob);
    if (!r->logprob) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for the rollouts");
    for (size_t i = 0; i < count; i++) {
        const json_t *v = json_array_get(list, i);
        const double lp = json_number_value(v);
        if (!json_is_number(v) || !isfinite((float)lp) || lp > 1e-3) /* kept as a float: -1e73 would be an infinity there */
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "natural logarithms, 0 at most", "logprobs[%zu] is no log-probability", i);
        r->logprob[i] = (float)lp;
    }
    return TDM_OK;
}

/* TRL's env_mask, verl's response_mask. */
static tdm_status take_mask(const json_t *list, size_t count, tdm_replay_row *r, const char *where, tdm_error *err)
{
    size_t own = 0;
    if (!json_is_array(list) || json_array_size(list) != count)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "one for each completion id", "\"mask\" has %zu numbers, the completion %zu ids", json_array_size(list), count);
    r->mask = malloc(count);
    if (!r->mask) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for the rollouts");
    for (size_t i = 0; i < count; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || (json_integer_value(v) & ~(json_int_t)1))
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "1 for what the policy wrote, 0 for what it was told", "mask[%zu] is neither 0 nor 1", i);
        r->mask[i] = (uint8_t)json_integer_value(v);
        own += r->mask[i];
    }
    return own ? TDM_OK : TDM_FAIL(err, TDM_ERR_INPUT, where, "leave the line out", "\"mask\" leaves nothing to learn from");
}

static tdm_status take_row(tdm_replay *all, tdm_replay_row *r, const json_t *row, int64_t vocab, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const size_t prompt = json_array_size(json_object_get(row, "prompt_ids")), completion = json_array_size(json_object_get(row, "completion_ids"));
    const json_t *logprobs = json_object_get(row, "logprobs"), *reward = json_object_get(row, "reward"), *mask = json_object_get(row, "mask");
    if (prompt == 0 || completion == 0) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "lists of at least one id each", "\"%s\" is missing or empty", prompt == 0 ? "prompt_ids" : "completion_ids");
        goto done;
    }
    if (!json_is_number(reward) && !json_is_null(reward)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "a number, or null for none", "\"reward\" is missing or no number");
        goto done;
    }
    r->reward = json_is_null(reward) ? NAN : json_number_value(reward);
    r->prompt = (int64_t)prompt;
    r->count = (int64_t)(prompt + completion);
    r->tokens = malloc((prompt + completion) * sizeof *r->tokens);
    if (!r->tokens) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for the rollouts");
        goto done;
    }
    TDM_TRY(st, take_ids(row, "prompt_ids", vocab, r->tokens, where, err), done);
    TDM_TRY(st, take_ids(row, "completion_ids", vocab, r->tokens + prompt, where, err), done);
    if (logprobs && !json_is_null(logprobs)) TDM_TRY(st, take_logprobs(logprobs, completion, r, where, err), done);
    if (mask && !json_is_null(mask)) TDM_TRY(st, take_mask(mask, completion, r, where, err), done);
    all->masked = all->masked || r->mask;
    if (all->rows > 0 && !all->row[0].logprob != !r->logprob) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "give them on every line, or on none", "\"logprobs\" stand on some lines only");
        goto done;
    }
    all->longest_prompt = tdm_max_i64(all->longest_prompt, r->prompt);
    all->longest_completion = tdm_max_i64(all->longest_completion, (int64_t)completion);
done:
    return st;
}

/* A group ends where "group" changes; lines without one are groups of their own. */
static bool same_group(const json_t *a, const json_t *b) { return a && b && json_equal(a, b); }

static tdm_status read_rows(tdm_replay *r, const tdm_dataset *d, int64_t vocab, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *row = NULL, *group = NULL;
    for (int64_t i = 0; i < tdm_dataset_rows(d); i++) {
        char where[512];
        json_decref(row);
        row = NULL;
        TDM_TRY(st, tdm_dataset_row(d, i, &row, err), done);
        /* counted before it is filled, so that close frees what it holds */
        TDM_TRY(st, take_row(r, &r->row[r->rows++], row, vocab, tdm_dataset_where(d, i, where), err), done);
        json_t *g = json_object_get(row, "group");
        if (i == 0 || !same_group(g, group)) r->group_start[r->groups++] = i;
        r->largest_group = tdm_max_i64(r->largest_group, i + 1 - r->group_start[r->groups - 1]);
        json_decref(group);
        group = json_incref(g);
    }
    r->group_start[r->groups] = r->rows;
done:
    json_decref(row);
    json_decref(group);
    return st;
}

tdm_status tdm_replay_open(tdm_replay *r, const char *path, int64_t vocab, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_dataset *d = NULL;
    *r = (tdm_replay){0};
    TDM_TRY(st, tdm_dataset_open(&d, path, err), done);
    r->row = calloc((size_t)tdm_dataset_rows(d), sizeof *r->row);
    r->group_start = calloc((size_t)tdm_dataset_rows(d) + 1, sizeof *r->group_start);
    if (!r->row || !r->group_start) st = TDM_FAIL(err, TDM_ERR_OTHER, path, "free host memory", "out of memory for the rollouts");
    else st = read_rows(r, d, vocab, err);
done:
    tdm_dataset_close(d);
    return st;
}

void tdm_replay_close(tdm_replay *r)
{
    for (int64_t i = 0; i < r->rows; i++) {
        free(r->row[i].tokens);
        free(r->row[i].logprob);
        free(r->row[i].mask);
    }
    free(r->row);
    free(r->group_start);
    *r = (tdm_replay){0};
}
