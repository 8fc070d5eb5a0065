/* state.json and the recipe's hash. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/run/checkpoint.h"

/* ---- reading ---- */

static tdm_status missing(const char *key, const char *kind, const char *where, tdm_error *err)
{
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "the checkpoint is damaged or of another version: resume from an older one",
                    "\"%s\" is missing or not %s", key, kind);
}

static tdm_status get_count(const json_t *o, const char *key, int64_t *out, const char *where, tdm_error *err)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0) return missing(key, "a whole number >= 0", where, err);
    *out = json_integer_value(v);
    return TDM_OK;
}

/* 64 bits do not fit a JSON number as others read it, so they stand as 16 hexadecimal digits. */
static tdm_status get_hex(const json_t *o, const char *key, uint64_t *out, const char *where, tdm_error *err)
{
    const char *s = json_string_value(json_object_get(o, key));
    if (!s || strlen(s) != 16 || strspn(s, "0123456789abcdef") != 16) return missing(key, "16 hexadecimal digits", where, err);
    *out = strtoull(s, NULL, 16);
    return TDM_OK;
}

tdm_status tdm_checkpoint_state_parse(tdm_checkpoint_state *s, const char *text, size_t len, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_error_t je;
    int64_t format = 0;
    const char *key;
    json_t *recipe, *counters, *v;
    *s = (tdm_checkpoint_state){0};
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(o)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "the checkpoint is damaged: resume from an older one", "is not a JSON object: %s",
                      o ? "another value" : je.text);
        goto done;
    }
    TDM_TRY(st, get_count(o, "format", &format, where, err), done);
    if (format != TDM_CHECKPOINT_FORMAT) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "resume with the version of tandem that wrote it",
                      "checkpoint format is %" PRId64 ", this version reads %d", format, TDM_CHECKPOINT_FORMAT);
        goto done;
    }
    TDM_TRY(st, get_count(o, "step", &s->step, where, err), done);
    TDM_TRY(st, get_count(o, "data_position", &s->data_position, where, err), done);
    TDM_TRY(st, get_hex(o, "seed", &s->seed, where, err), done);
    TDM_TRY(st, get_hex(o, "base_hash", &s->base_hash, where, err), done);
    TDM_TRY(st, get_hex(o, "recipe_hash", &s->recipe_hash, where, err), done);
    recipe = json_object_get(o, "recipe");
    counters = json_object_get(o, "counters");
    if (!json_is_object(recipe)) {
        st = missing("recipe", "an object", where, err);
        goto done;
    }
    if (!json_is_object(counters)) {
        st = missing("counters", "an object", where, err);
        goto done;
    }
    json_object_foreach(counters, key, v)
    {
        if (!json_is_number(v)) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, where, "the checkpoint is damaged: resume from an older one",
                          "counter \"%s\" is not a number", key);
            goto done;
        }
    }
    s->recipe = json_incref(recipe);
    s->counters = json_incref(counters);
    if (tdm_checkpoint_recipe_hash(s->recipe) != s->recipe_hash) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "state.json was edited: resume from an older checkpoint", "recipe and recipe_hash differ");
        tdm_checkpoint_state_fini(s);
    }
done:
    json_decref(o);
    return st;
}

void tdm_checkpoint_state_fini(tdm_checkpoint_state *s)
{
    json_decref(s->recipe);
    json_decref(s->counters);
    s->recipe = s->counters = NULL;
}

/* ---- writing ---- */

static json_t *hex(uint64_t v)
{
    char s[17];
    snprintf(s, sizeof s, "%016" PRIx64, v);
    return json_string(s);
}

char *tdm_checkpoint_state_format(const tdm_checkpoint_state *s)
{
    char *text = NULL;
    json_t *o = json_object();
    /* The set_new calls take the value also when they fail, and accept NULL as a failure. */
    int bad = !o || json_object_set_new(o, "format", json_integer(TDM_CHECKPOINT_FORMAT)) ||
              json_object_set_new(o, "step", json_integer(s->step)) ||
              json_object_set_new(o, "data_position", json_integer(s->data_position)) ||
              json_object_set_new(o, "seed", hex(s->seed)) || json_object_set_new(o, "base_hash", hex(s->base_hash)) ||
              json_object_set_new(o, "recipe_hash", hex(s->recipe_hash)) ||
              json_object_set_new(o, "counters", s->counters ? json_incref(s->counters) : json_object()) ||
              json_object_set_new(o, "recipe", s->recipe ? json_incref(s->recipe) : json_object());
    if (!bad) text = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(o);
    return text;
}

/* ---- recipes ---- */

static uint64_t fnv(uint64_t h, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3ULL;
    return h;
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static uint64_t hash_value(uint64_t h, const json_t *v);

static uint64_t hash_object(uint64_t h, const json_t *o)
{
    const char *key;
    json_t *v;
    size_t n = 0;
    const char **keys = calloc(json_object_size(o) + 1, sizeof *keys);
    if (!keys) return 0; /* agrees with nothing, so a resume is refused rather than allowed */
    json_object_foreach((json_t *)o, key, v) keys[n++] = key;
    qsort(keys, n, sizeof *keys, by_name);
    for (size_t i = 0; i < n; i++) {
        h = fnv(h, keys[i], strlen(keys[i]) + 1);
        h = hash_value(h, json_object_get(o, keys[i]));
    }
    free(keys);
    return h;
}

/* A tag before each value, so that ["a", "b"] and ["ab"] differ. 1 and 1.0 hash alike: the recipe means the same. */
static uint64_t hash_value(uint64_t h, const json_t *v)
{
    double d = json_number_value(v);
    size_t i;
    json_t *e;
    switch (json_typeof(v)) {
    case JSON_OBJECT: return fnv(hash_object(fnv(h, "{", 1), v), "}", 1);
    case JSON_ARRAY:
        h = fnv(h, "[", 1);
        json_array_foreach((json_t *)v, i, e) h = hash_value(h, e);
        return fnv(h, "]", 1);
    case JSON_STRING: return fnv(fnv(h, "s", 1), json_string_value(v), json_string_length(v) + 1);
    case JSON_INTEGER:
    case JSON_REAL: return fnv(fnv(h, "n", 1), &d, sizeof d);
    case JSON_TRUE: return fnv(h, "t", 1);
    case JSON_FALSE: return fnv(h, "f", 1);
    case JSON_NULL: return fnv(h, "0", 1);
    }
    return h;
}

uint64_t tdm_checkpoint_recipe_hash(const json_t *recipe) { return hash_value(0xcbf29ce484222325ULL, recipe); }
