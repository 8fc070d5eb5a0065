/* Whether a run may go on with another recipe than it began with. */
#include "runtime/recipe/schema.h"

#include <stdio.h>
#include <string.h>

static bool same_texts(const tdm_strings *a, const tdm_strings *b)
{
    if (a->count != b->count) return false;
    for (int64_t i = 0; i < a->count; i++)
        if (strcmp(a->items[i], b->items[i]) != 0) return false;
    return true;
}

static bool same_value(const tdm_key *k, const void *a_base, const void *b_base)
{
    const void *a = (const char *)a_base + k->offset, *b = (const char *)b_base + k->offset;
    const tdm_numbers *an = a, *bn = b;
    switch (k->type) {
    case TDM_KEY_BOOL: return *(const bool *)a == *(const bool *)b;
    case TDM_KEY_ENUM: return *(const int *)a == *(const int *)b;
    case TDM_KEY_FLOAT: return *(const double *)a == *(const double *)b;
    case TDM_KEY_INT:
    case TDM_KEY_SIZE:
    case TDM_KEY_KV: return *(const int64_t *)a == *(const int64_t *)b;
    case TDM_KEY_TEXT: return strcmp(*(const char *const *)a, *(const char *const *)b) == 0;
    case TDM_KEY_TEXTS: return same_texts(a, b);
    case TDM_KEY_NUMBERS: return an->count == bn->count && (!an->count || memcmp(an->items, bn->items, (size_t)an->count * sizeof *an->items) == 0);
    case TDM_KEY_TARGETS: return memcmp(a, b, TDM_PROJ_COUNT * sizeof(bool)) == 0;
    case TDM_KEY_BETAS: return memcmp(a, b, 2 * sizeof(double)) == 0;
    }
    TDM_ASSERT(!"every key type is compared");
    return false;
}

static tdm_status changed(const tdm_recipe *now, const char *path, const tdm_key *k, const void *then_base, const void *now_base, tdm_error *err)
{
    char where[TDM_RECIPE_WHERE], was[64], is[64];
    return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(now, path, where), "put the old value back, or start a new run with another output",
                    "%s is %s, this run began with %s", path, tdm_key_show(k, now_base, is), tdm_key_show(k, then_base, was));
}

/* Two keys matter or not by what others say. */
static bool matters(const tdm_key *k, const tdm_recipe *then)
{
    if (strcmp(k->path, "train.steps") == 0) return then->train.schedule != TDM_SCHEDULE_CONSTANT; /* the curve ends at the last step */
    if (strcmp(k->path, "train.micro_tokens") == 0) return then->train.loss == TDM_LOSS_BNPO;      /* its mean is the micro-batch's */
    return !(k->flags & TDM_KEY_FREE);
}

static tdm_status compare_rewards(const tdm_recipe *then, const tdm_recipe *now, tdm_error *err)
{
    char path[64], where[TDM_RECIPE_WHERE];
    if (then->reward_count != now->reward_count)
        return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(now, "reward", where), "put the old list back, or start a new run with another output",
                        "reward has %lld entries, this run began with %lld", (long long)now->reward_count, (long long)then->reward_count);
    for (int64_t i = 0; i < now->reward_count; i++) {
        const tdm_recipe_reward *a = &then->reward[i], *b = &now->reward[i];
        snprintf(path, sizeof path, "reward[%lld]", (long long)i);
        if (a->kind != b->kind)
            return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(now, path, where), "put the old one back, or start a new run with another output",
                            "%s is of type %s, this run began with %s", path, tdm_reward_kind_names[b->kind], tdm_reward_kind_names[a->kind]);
        for (int k = 0; k < tdm_reward_keys.count; k++) {
            const tdm_key *key = &tdm_reward_keys.keys[k];
            if (key->flags & TDM_KEY_FREE || same_value(key, a, b)) continue;
            snprintf(path, sizeof path, "reward[%lld].%s", (long long)i, key->path);
            return changed(now, path, key, a, b, err);
        }
    }
    return TDM_OK;
}

static tdm_status compare_sources(const tdm_recipe *then, const tdm_recipe *now, tdm_error *err)
{
    char path[64], where[TDM_RECIPE_WHERE];
    if (!then->store->source_list && !now->store->source_list) return TDM_OK; /* data.train, data.system and data.prompt say it all */
    if (then->store->source_list != now->store->source_list || then->data.source_count != now->data.source_count)
        return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(now, "data.train", where), "put the old list back, or start a new run with another output",
                        "data.train has %lld entries, this run began with %lld", (long long)now->data.source_count, (long long)then->data.source_count);
    for (int64_t i = 0; i < now->data.source_count; i++)
        for (int k = 0; k < tdm_source_keys.count; k++) {
            const tdm_key *key = &tdm_source_keys.keys[k];
            if (same_value(key, &then->data.source[i], &now->data.source[i])) continue;
            snprintf(path, sizeof path, "data.train[%lld].%s", (long long)i, key->path);
            return changed(now, path, key, &then->data.source[i], &now->data.source[i], err);
        }
    return TDM_OK;
}

tdm_status tdm_recipe_compare(const tdm_recipe *then, const tdm_recipe *now, tdm_error *err)
{
    for (int i = 0; i < tdm_recipe_keys.count; i++) {
        const tdm_key *k = &tdm_recipe_keys.keys[i];
        if (matters(k, then) && !same_value(k, then, now)) return changed(now, k->path, k, then, now, err);
    }
    /* Where the cache lies and how much it holds is free; the precision of its keys is not. */
    if (now->memory.kv_dtype != then->memory.kv_dtype)
        return changed(now, "memory.kv", &tdm_recipe_keys.keys[tdm_key_find(&tdm_recipe_keys, "memory.kv")], then, now, err);
    const tdm_status st = compare_sources(then, now, err);
    return st == TDM_OK ? compare_rewards(then, now, err) : st;
}
