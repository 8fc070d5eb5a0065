/* One reply line of an environment: {"id": 3, "observations": ["42", null], "rewards": [0.5, {"right": 1}], "done": [false, true]} or {"id": 3,
 * "error": "..."}. Not trusted. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/environment/environment.h"

typedef struct reader {
    const char *where;
    const char *const *names;
    int64_t names_count, n;
    tdm_error *err;
} reader;

static tdm_status read_number(const reader *r, const json_t *v, int64_t sample, double *out)
{
    if (!json_is_number(v) && !json_is_null(v) && !json_is_boolean(v))
        return TDM_FAIL(r->err, TDM_ERR_INPUT, r->where, "numbers, or null for none", "the reward of sample %" PRId64 " of the call is not a number", sample);
    *out = json_is_null(v) ? NAN : json_is_boolean(v) ? (double)json_is_true(v) : json_number_value(v);
    if (isinf(*out))
        return TDM_FAIL(r->err, TDM_ERR_INPUT, r->where, "finite numbers, or null for none", "the reward of sample %" PRId64 " of the call is infinite", sample);
    return TDM_OK;
}

/* A number is the reward called "environment". */
static tdm_status read_named(const reader *r, const char *name, const json_t *v, int64_t sample, double *reward)
{
    for (int64_t k = 0; k < r->names_count; k++)
        if (strcmp(r->names[k], name) == 0) return read_number(r, v, sample, &reward[k]);
    if (json_is_null(v)) return TDM_OK;
    return TDM_FAIL(r->err, TDM_ERR_INPUT, r->where, "add {type: environment, name: ...} to the recipe's rewards",
                    "the recipe has no reward of type environment called \"%.64s\"", name);
}

static tdm_status read_reward(const reader *r, const json_t *v, int64_t sample, double *reward)
{
    tdm_status st = TDM_OK;
    const char *name;
    json_t *one;
    if (!json_is_object(v)) return v ? read_named(r, "environment", v, sample, reward) : TDM_OK;
    json_object_foreach((json_t *)(uintptr_t)v, name, one)
        if (st == TDM_OK) st = read_named(r, name, one, sample, reward);
    return st;
}

/* A list of n under the key, or none; *list NULL then. */
static tdm_status find_list(const reader *r, const json_t *o, const char *key, const json_t **list)
{
    *list = json_object_get(o, key);
    if (json_is_null(*list)) *list = NULL;
    if (!*list) return TDM_OK;
    if (!json_is_array(*list)) return TDM_FAIL(r->err, TDM_ERR_INPUT, r->where, "one entry for each completion", "\"%s\" is no list", key);
    if ((int64_t)json_array_size(*list) == r->n) return TDM_OK;
    return TDM_FAIL(r->err, TDM_ERR_INPUT, r->where, "one entry for each completion", "\"%s\" has %zu entries for %" PRId64 " completions", key,
                    json_array_size(*list), r->n);
}

static tdm_status read_texts(const reader *r, const json_t *observations, const json_t *errors, int64_t i, tdm_turn_reply *out)
{
    const json_t *text = json_array_get(observations, (size_t)i), *error = json_array_get(errors, (size_t)i);
    if (!json_is_string(text) && !json_is_null(text))
        return TDM_FAIL(r->err, TDM_ERR_INPUT, r->where, "texts, or null to end the episode", "the observation of sample %" PRId64 " of the call is no text", i);
    if (error && !json_is_string(error) && !json_is_null(error))
        return TDM_FAIL(r->err, TDM_ERR_INPUT, r->where, "texts, or null for none", "the error of sample %" PRId64 " of the call is no text", i);
    out->observation = json_string_value(text);
    out->observation_len = json_string_length(text);
    out->error = json_string_value(error);
    return TDM_OK;
}

static tdm_status read_samples(const reader *r, const json_t *o, tdm_turn_reply *out)
{
    tdm_status st = TDM_OK;
    const json_t *observations, *rewards, *done, *errors;
    TDM_TRY(st, find_list(r, o, "observations", &observations), done);
    TDM_TRY(st, find_list(r, o, "rewards", &rewards), done);
    TDM_TRY(st, find_list(r, o, "done", &done), done);
    TDM_TRY(st, find_list(r, o, "errors", &errors), done);
    if (!observations) {
        st = TDM_FAIL(r->err, TDM_ERR_INPUT, r->where, "answer {\"id\": N, \"observations\": [...]}", "the reply has no list \"observations\"");
        goto done;
    }
    for (int64_t i = 0; i < r->n; i++) {
        const json_t *ends = json_array_get(done, (size_t)i);
        for (int64_t k = 0; k < r->names_count; k++) out[i].reward[k] = NAN;
        TDM_TRY(st, read_texts(r, observations, errors, i, &out[i]), done);
        TDM_TRY(st, read_reward(r, json_array_get(rewards, (size_t)i), i, out[i].reward), done);
        if (ends && !json_is_boolean(ends)) {
            st = TDM_FAIL(r->err, TDM_ERR_INPUT, r->where, "true or false", "\"done\" of sample %" PRId64 " of the call is neither true nor false", i);
            goto done;
        }
        out[i].done = json_is_true(ends) || !out[i].observation;
    }
done:
    return st;
}

tdm_status tdm_environment_reply_parse(const char *line, size_t len, const char *where, int64_t request, const char *const *names, int64_t names_count,
                                       int64_t n, tdm_turn_reply *out, json_t **root, tdm_error *err)
{
    json_error_t je;
    const reader r = {where, names, names_count, n, err};
    json_t *o = *root = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (!json_is_object(o))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "answer one JSON object a line, and nothing else on stdout", "the reply is not JSON: %s", o ? "no object" : je.text);
    const json_t *error = json_object_get(o, "error"), *id = json_object_get(o, "id");
    if (json_is_string(error))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "mend the environment, or set environment.on_error", "the environment failed: %.180s", json_string_value(error));
    if (id && json_integer_value(id) != request)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "answer each request once, with its id", "the reply is to request %" JSON_INTEGER_FORMAT ", not %" PRId64,
                        json_integer_value(id), request);
    return read_samples(&r, o, out);
}
