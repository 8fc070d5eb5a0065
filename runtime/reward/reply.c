/* One reply line of a worker: {"id": 3, "rewards": [1.0, null]} or {"id": 3, "error": "..."}. Not trusted. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "runtime/reward/reward.h"

static tdm_status read_rewards(const json_t *list, const char *where, int64_t first, int64_t n, double *out, tdm_error *err)
{
    if (!json_is_array(list)) return TDM_FAIL(err, TDM_ERR_INPUT, where, "answer {\"id\": N, \"rewards\": [...]}", "the reply has no list \"rewards\"");
    if ((int64_t)json_array_size(list) != n)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "one number, or null, for each completion", "%zu rewards for %" PRId64 " completions", json_array_size(list), n);
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        if (!json_is_number(v) && !json_is_null(v) && !json_is_boolean(v))
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "numbers, or null for none", "the reward of sample %" PRId64 " is not a number", first + i);
        out[i] = json_is_null(v) ? NAN : json_is_boolean(v) ? (double)json_is_true(v) : json_number_value(v);
        if (isinf(out[i])) return TDM_FAIL(err, TDM_ERR_INPUT, where, "finite numbers, or null for none", "the reward of sample %" PRId64 " is infinite", first + i);
    }
    return TDM_OK;
}

tdm_status tdm_reward_reply_parse(const char *line, size_t len, const char *label, int64_t request, int64_t first, int64_t n, double *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_error_t je;
    char where[256];
    snprintf(where, sizeof where, "%s, samples %" PRId64 " to %" PRId64, label, first, first + n - 1);
    json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(o)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "answer one JSON object a line, and nothing else on stdout", "the reply is not JSON: %s", o ? "no object" : je.text);
        goto done;
    }
    const json_t *error = json_object_get(o, "error");
    if (json_is_string(error)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "mend the function, or set on_error: zero", "the reward failed: %.180s", json_string_value(error));
        goto done;
    }
    const json_t *id = json_object_get(o, "id");
    if (id && json_integer_value(id) != request) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "answer each request once, with its id", "the reply is to request %" JSON_INTEGER_FORMAT ", not %" PRId64,
                      json_integer_value(id), request);
        goto done;
    }
    st = read_rewards(json_object_get(o, "rewards"), where, first, n, out, err);
done:
    json_decref(o);
    return st;
}
