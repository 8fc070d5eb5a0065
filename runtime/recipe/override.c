/* `section.key=value` from the command line, set in the tree before the schema looks at it. */
#include "runtime/recipe/schema.h"

#include <stdio.h>
#include <string.h>

struct place {
    tdm_pool *pool;
    const tdm_yaml_source *source;
    tdm_error *err;
};

static tdm_status fail_override(const struct place *p, const char *hint, const char *what)
{
    return TDM_FAIL(p->err, TDM_ERR_RECIPE, p->source->name, hint, "%s", what);
}

static tdm_yaml_node *word_new(const struct place *p, const char *text, size_t len)
{
    tdm_yaml_node *n = tdm_yaml_node_new(p->pool, TDM_YAML_SCALAR, p->source, p->err);
    if (!n) return NULL;
    n->text = tdm_pool_text(p->pool, text, len);
    if (n->text) return n;
    TDM_FAIL(p->err, TDM_ERR_OTHER, p->source->name, "free some memory", "out of memory while reading the recipe");
    return NULL;
}

/* A text needs no quotes on the command line: data.prompt={question} is what it says. */
static tdm_status read_value(const struct place *p, const char *path, const char *value, tdm_yaml_node **out)
{
    const char *last = strrchr(path, '.');
    const tdm_key_table *t = strncmp(path, "reward[", 7) == 0 ? &tdm_reward_keys : strncmp(path, "data.train[", 11) == 0 ? &tdm_source_keys : &tdm_recipe_keys;
    const int k = tdm_key_find(t, t != &tdm_recipe_keys && last ? last + 1 : path);
    const bool quoted = value[0] == '"' || value[0] == '\'';
    const bool unknown = k < 0 && !tdm_key_is_section(t, path) && strncmp(path, "reward", 6) != 0; /* reported as such, later */
    if (unknown || (k >= 0 && t->keys[k].type == TDM_KEY_TEXT && !quoted)) {
        *out = word_new(p, value, strlen(value));
        if (!*out) return TDM_ERR_OTHER;
        (*out)->plain = true;
        return TDM_OK;
    }
    if (!value[0]) return fail_override(p, "write section.key=value", "no value after =");
    return tdm_yaml_parse(p->pool, value, strlen(value), p->source, out, p->err);
}

/* The slot of `name` in a mapping, made where it is missing. */
static tdm_status slot_key(const struct place *p, tdm_yaml_node *map, const char *name, size_t len, tdm_yaml_node ***slot)
{
    tdm_yaml_node *key = word_new(p, name, len);
    if (!key) return TDM_ERR_OTHER;
    int64_t i = tdm_yaml_find(map, key->text);
    if (i < 0) {
        const tdm_status st = tdm_yaml_append(p->pool, map, key, NULL, p->err);
        if (st != TDM_OK) return st;
        i = map->count - 1;
    }
    map->keys[i] = key; /* an unknown key is then reported where it was given last */
    *slot = &map->items[i];
    return TDM_OK;
}

static tdm_status slot_index(const struct place *p, tdm_yaml_node *list, const char **path, tdm_yaml_node ***slot)
{
    int64_t i = 0, digits = 0;
    for (; **path >= '0' && **path <= '9' && digits < 6; (*path)++, digits++) i = 10 * i + (**path - '0');
    if (!digits || **path != ']') return fail_override(p, "write it as in reward[0].weight=2", "a list index must be a number in brackets");
    (*path)++;
    if (list && list->kind == TDM_YAML_LIST && i < list->count) return *slot = &list->items[i], TDM_OK;
    char what[96];
    snprintf(what, sizeof what, "no entry [%lld], the list has %lld", (long long)i,
             (long long)(list && list->kind == TDM_YAML_LIST ? list->count : 0));
    return fail_override(p, "entries count from 0", what);
}

static tdm_status find_slot(const struct place *p, tdm_yaml_node *root, const char *path, tdm_yaml_node ***slot)
{
    tdm_yaml_node *at = root;
    tdm_status st = TDM_OK;
    for (;;) {
        const size_t len = strcspn(path, ".[");
        if (!len) return fail_override(p, "write section.key=value", "not a key before =");
        if (!at || at->kind == TDM_YAML_SCALAR) {
            at = tdm_yaml_node_new(p->pool, TDM_YAML_MAP, p->source, p->err);
            if (!at) return TDM_ERR_OTHER;
            **slot = at; /* the root is a mapping, so a slot was found before */
        }
        if (at->kind != TDM_YAML_MAP) return fail_override(p, "write it as in reward[0].weight=2", "a list has entries, not keys");
        TDM_TRY(st, slot_key(p, at, path, len, slot), done);
        path += len;
        while (*path == '[') {
            path++;
            TDM_TRY(st, slot_index(p, **slot, &path, slot), done);
        }
        if (!*path) break;
        if (*path++ != '.') return fail_override(p, "write section.key=value", "not a key before =");
        at = **slot;
    }
done:
    return st;
}

tdm_status tdm_override_apply(tdm_pool *pool, tdm_yaml_node *root, const char *text, tdm_error *err)
{
    tdm_yaml_source *source = tdm_pool_take(pool, sizeof *source);
    const char *equals = strchr(text, '=');
    char *path = tdm_pool_text(pool, text, equals ? (size_t)(equals - text) : strlen(text));
    char *name = tdm_pool_print(pool, "command line: %.200s", text);
    if (!source || !path || !name) return TDM_FAIL(err, TDM_ERR_OTHER, "command line", "free some memory", "out of memory");
    *source = (tdm_yaml_source){name, false};
    const struct place p = {pool, source, err};
    if (!equals) return fail_override(&p, "write section.key=value", "not an override");
    if (strlen(path) > 100) return fail_override(&p, "write section.key=value", "a key of more than 100 characters");

    tdm_yaml_node *value = NULL, **slot = NULL;
    tdm_status st = TDM_OK;
    TDM_TRY(st, read_value(&p, path, equals + 1, &value), done);
    TDM_TRY(st, find_slot(&p, root, path, &slot), done);
    *slot = value;
done:
    return st;
}
