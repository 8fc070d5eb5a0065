/* The files of data.train: one path is a list of one. */
#include "runtime/recipe/schema.h"

#include <stdio.h>
#include <string.h>

static tdm_status refuse(const tdm_recipe *r, int64_t i, const char *key, const char *hint, const char *what, tdm_error *err)
{
    char path[64], where[TDM_RECIPE_WHERE];
    snprintf(path, sizeof path, "data.train[%lld].%s", (long long)i, key);
    if (!tdm_recipe_given(r, path)) snprintf(path, sizeof path, "data.train[%lld]", (long long)i);
    return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(r, path, where), hint, "data.train[%lld]: %s", (long long)i, what);
}

static tdm_status check_source(const tdm_recipe *r, int64_t i, tdm_error *err)
{
    const tdm_recipe_source *s = &r->data.source[i];
    char what[128];
    if (!s->path[0]) return refuse(r, i, "path", "give a JSONL file", "path is missing", err);
    snprintf(what, sizeof what, "%s reads rows as they are, and no reward judges them", tdm_algorithm_names[r->train.algorithm]);
    if (r->store->source_list && tdm_algorithm_supervised(r->train.algorithm) && (s->system[0] || s->prompt[0] || s->rewards.count))
        return refuse(r, i, s->system[0] ? "system" : s->prompt[0] ? "prompt" : "rewards", "keep path and weight", what, err);
    for (int64_t k = 0; k < s->rewards.count; k++) {
        if (tdm_recipe_reward_find(r, s->rewards.items[k]) >= 0) continue;
        snprintf(what, sizeof what, "no reward is called \"%.64s\"", s->rewards.items[k]);
        return refuse(r, i, "rewards", "name rewards of the recipe, or leave it away for all of them", what, err);
    }
    return TDM_OK;
}

tdm_status tdm_recipe_settle_sources(tdm_recipe *r, tdm_error *err)
{
    tdm_status st = TDM_OK;
    static const char *const none[] = {NULL};
    struct tdm_recipe_store *s = r->store;
    if (!s->source_list && r->data.train[0]) {
        s->source_items = tdm_pool_take(&s->pool, sizeof *s->source_items);
        if (!s->source_items) return TDM_FAIL(err, TDM_ERR_OTHER, s->file.name, "free some memory", "out of memory while reading the recipe");
        *s->source_items = (tdm_recipe_source){.path = r->data.train, .weight = 1.0, .system = "", .prompt = "", .rewards = {none, 0}};
        r->data.source = s->source_items;
        r->data.source_count = 1;
    }
    for (int64_t i = 0; i < r->data.source_count; i++) {
        tdm_recipe_source *one = &s->source_items[i];
        TDM_TRY(st, check_source(r, i, err), done);
        if (tdm_algorithm_supervised(r->train.algorithm)) continue;
        if (!one->system[0]) one->system = r->data.system;
        if (!one->prompt[0]) one->prompt = r->data.prompt;
    }
done:
    return st;
}
