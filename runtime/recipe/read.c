/* From the tree to the struct: defaults first, then what file and command line say, then the checks across keys. */
#include "runtime/recipe/schema.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_MAX = 128, REWARDS_MAX = 64, SOURCES_MAX = 256 };

struct filling {
    tdm_recipe *r;
    tdm_error *err;
};

static tdm_status out_of_memory(tdm_error *err, const char *name)
{
    return TDM_FAIL(err, TDM_ERR_OTHER, name, "free some memory", "out of memory while reading the recipe");
}

/* Every default is written in the table as YAML and read by the code that reads the file. */
static tdm_status fill_defaults(struct filling *f, const tdm_key_table *t, void *base)
{
    static const tdm_yaml_source table = {"the schema", false};
    tdm_status st = TDM_OK;
    for (int i = 0; i < t->count && st == TDM_OK; i++) {
        const tdm_key *k = &t->keys[i];
        tdm_yaml_node *n = NULL;
        tdm_key loose = *k; /* a default may lie outside: length's buffer must be given, and reads as 0 until it is */
        loose.flags &= ~(unsigned)TDM_KEY_REQUIRED;
        loose.min = loose.min > 0 && k->fallback[0] == '0' ? 0 : loose.min;
        st = k->fallback[0] ? tdm_yaml_parse(&f->r->store->pool, k->fallback, strlen(k->fallback), &table, &n, f->err) : TDM_OK;
        if (st == TDM_OK && !n) {
            n = tdm_yaml_node_new(&f->r->store->pool, TDM_YAML_SCALAR, &table, f->err);
            if (!n) st = TDM_ERR_OTHER;
        }
        if (st == TDM_OK) st = tdm_key_read(&loose, k->path, n, &f->r->store->pool, base, f->err);
    }
    return st;
}

static void mark(tdm_mark *m, const tdm_yaml_node *n)
{
    *m = (tdm_mark){n->source, n->line, n->column};
}

static tdm_status unknown_key(struct filling *f, const tdm_key_table *t, const char *section, const char *in, const tdm_yaml_node *key)
{
    char hint[256], show[64];
    tdm_yaml_node quoted = *key;
    quoted.plain = false;
    tdm_key_suggest(t, section, key->text, hint);
    return TDM_YAML_FAIL(f->err, key, hint, "unknown key %s%s%s", tdm_yaml_show(&quoted, show), in[0] ? " in " : "", in);
}

static tdm_status wants_mapping(struct filling *f, const char *name, const tdm_yaml_node *n)
{
    char show[64];
    return TDM_YAML_FAIL(f->err, n, "write its keys below it, indented", "%s wants keys, found %s", name, tdm_yaml_show(n, show));
}

/* One value of the table. Nothing after the colon of a text that may be absent is the default, of anything else an error. */
static tdm_status fill_key(struct filling *f, const tdm_key *k, const char *name, const tdm_yaml_node *n, void *base, tdm_mark *m)
{
    if (tdm_yaml_is_null(n) && k->type == TDM_KEY_TEXT && !(k->flags & TDM_KEY_REQUIRED)) return TDM_OK;
    const tdm_status st = tdm_key_read(k, name, n, &f->r->store->pool, base, f->err);
    mark(m, n);
    return st;
}

/* kinds a reward may be: `type` names it, or python, command or plugin are there. */
static tdm_status find_kind(struct filling *f, const char *name, const tdm_yaml_node *n, tdm_reward_kind *kind)
{
    static const char *const sources[] = {"type", "python", "command", "plugin"};
    const char *found = NULL;
    for (size_t i = 0; i < TDM_COUNT(sources); i++) {
        const int64_t at = tdm_yaml_find(n, sources[i]);
        if (at < 0 || tdm_yaml_is_null(n->items[at])) continue;
        if (found)
            return TDM_YAML_FAIL(f->err, n->keys[at], "make them two rewards", "%s has both %s and %s", name, found, sources[i]);
        found = sources[i];
        if (i > 0) *kind = TDM_REWARD_PYTHON + (tdm_reward_kind)(i - 1);
    }
    if (found) return TDM_OK;
    return TDM_YAML_FAIL(f->err, n, "write type: number, exact, regex, format, length, environment, model or judge, or python:, command: or plugin:",
                         "%s has no type", name);
}

static tdm_status foreign_key(struct filling *f, const tdm_key *k, const char *name, tdm_reward_kind kind, const tdm_yaml_node *n)
{
    char hint[160];
    size_t used = (size_t)snprintf(hint, sizeof hint, "it belongs to");
    for (int i = 0; tdm_reward_kind_names[i]; i++)
        if (k->kinds & (1u << i) && used < sizeof hint) used += (size_t)snprintf(hint + used, sizeof hint - used, " %s", tdm_reward_kind_names[i]);
    return TDM_YAML_FAIL(f->err, n, hint, "%s means nothing to a %s reward", name, tdm_reward_kind_names[kind]);
}

static tdm_status fill_reward(struct filling *f, int64_t at, const tdm_yaml_node *n, tdm_recipe_reward *w)
{
    struct tdm_recipe_store *s = f->r->store;
    tdm_mark *marks = s->reward_marks + at * tdm_reward_keys.count;
    char name[KEY_MAX];
    tdm_status st = TDM_OK;
    snprintf(name, sizeof name, "reward[%lld]", (long long)at);
    mark(&s->rewards[at], n);
    if (n->kind != TDM_YAML_MAP) return wants_mapping(f, name, n);
    TDM_TRY(st, fill_defaults(f, &tdm_reward_keys, w), done);
    for (int64_t i = 0; i < n->count; i++)
        if (tdm_key_find(&tdm_reward_keys, n->keys[i]->text) < 0) return unknown_key(f, &tdm_reward_keys, "", name, n->keys[i]);
    TDM_TRY(st, find_kind(f, name, n, &w->kind), done);
    const tdm_reward_kind outside = w->kind;
    for (int64_t i = 0; i < n->count && st == TDM_OK; i++) {
        const int k = tdm_key_find(&tdm_reward_keys, n->keys[i]->text);
        const tdm_key *key = &tdm_reward_keys.keys[k];
        snprintf(name, sizeof name, "reward[%lld].%s", (long long)at, key->path);
        if (k == 0 && outside >= TDM_REWARD_PYTHON) continue; /* type: null beside python: */
        st = fill_key(f, key, name, n->items[i], w, &marks[k]);
    }
    for (int64_t i = 0; i < n->count && st == TDM_OK; i++) {
        const tdm_key *key = &tdm_reward_keys.keys[tdm_key_find(&tdm_reward_keys, n->keys[i]->text)];
        if (!key->kinds || key->kinds & (1u << w->kind) || tdm_yaml_is_null(n->items[i])) continue;
        snprintf(name, sizeof name, "reward[%lld].%s", (long long)at, key->path);
        st = foreign_key(f, key, name, w->kind, n->keys[i]);
    }
done:
    return st;
}

static tdm_status fill_rewards(struct filling *f, const tdm_yaml_node *n)
{
    struct tdm_recipe_store *s = f->r->store;
    char show[64];
    tdm_status st = TDM_OK;
    mark(&s->reward_list, n);
    if (n->kind != TDM_YAML_LIST)
        return TDM_YAML_FAIL(f->err, n, "start each reward with a dash", "reward wants a list, found %s", tdm_yaml_show(n, show));
    if (n->count > REWARDS_MAX)
        return TDM_YAML_FAIL(f->err, n, "join some in one function", "%lld rewards, a recipe may have %d", (long long)n->count, REWARDS_MAX);
    tdm_recipe_reward *rewards = tdm_pool_take(&s->pool, ((size_t)n->count + 1) * sizeof *rewards);
    s->rewards = tdm_pool_take(&s->pool, ((size_t)n->count + 1) * sizeof *s->rewards);
    s->reward_marks = tdm_pool_take(&s->pool, ((size_t)n->count + 1) * (size_t)tdm_reward_keys.count * sizeof *s->reward_marks);
    if (!rewards || !s->rewards || !s->reward_marks) return out_of_memory(f->err, s->file.name);
    f->r->reward = s->reward_items = rewards;
    f->r->reward_count = n->count;
    for (int64_t i = 0; i < n->count && st == TDM_OK; i++) st = fill_reward(f, i, n->items[i], &rewards[i]);
    return st;
}

static tdm_status fill_source(struct filling *f, int64_t at, const tdm_yaml_node *n, tdm_recipe_source *source)
{
    struct tdm_recipe_store *s = f->r->store;
    char name[KEY_MAX];
    tdm_status st = TDM_OK;
    snprintf(name, sizeof name, "data.train[%lld]", (long long)at);
    mark(&s->sources[at], n);
    if (n->kind == TDM_YAML_LIST) return wants_mapping(f, name, n);
    TDM_TRY(st, fill_defaults(f, &tdm_source_keys, source), done);
    if (n->kind == TDM_YAML_SCALAR) return fill_key(f, &tdm_source_keys.keys[0], name, n, source, &s->source_marks[at * tdm_source_keys.count]);
    for (int64_t i = 0; i < n->count; i++) {
        const int k = tdm_key_find(&tdm_source_keys, n->keys[i]->text);
        if (k < 0) return unknown_key(f, &tdm_source_keys, "", name, n->keys[i]);
        snprintf(name, sizeof name, "data.train[%lld].%s", (long long)at, tdm_source_keys.keys[k].path);
        TDM_TRY(st, fill_key(f, &tdm_source_keys.keys[k], name, n->items[i], source, &s->source_marks[at * tdm_source_keys.count + k]), done);
        snprintf(name, sizeof name, "data.train[%lld]", (long long)at);
    }
done:
    return st;
}

/* data.train as a list of files. */
static tdm_status fill_sources(struct filling *f, const tdm_yaml_node *n)
{
    struct tdm_recipe_store *s = f->r->store;
    tdm_status st = TDM_OK;
    mark(&s->marks[tdm_key_find(&tdm_recipe_keys, "data.train")], n);
    if (n->count == 0 || n->count > SOURCES_MAX)
        return TDM_YAML_FAIL(f->err, n, "write a path, or entries as in - {path: a.jsonl, weight: 1}", "data.train has %lld entries, a list may have 1 to %d",
                             (long long)n->count, SOURCES_MAX);
    s->source_items = tdm_pool_take(&s->pool, (size_t)n->count * sizeof *s->source_items);
    s->sources = tdm_pool_take(&s->pool, (size_t)n->count * sizeof *s->sources);
    s->source_marks = tdm_pool_take(&s->pool, (size_t)n->count * (size_t)tdm_source_keys.count * sizeof *s->source_marks);
    if (!s->source_items || !s->sources || !s->source_marks) return out_of_memory(f->err, s->file.name);
    s->source_list = true;
    f->r->data.source = s->source_items;
    f->r->data.source_count = n->count;
    for (int64_t i = 0; i < n->count && st == TDM_OK; i++) st = fill_source(f, i, n->items[i], &s->source_items[i]);
    return st;
}

static tdm_status fill_section(struct filling *f, const char *section, const tdm_yaml_node *n)
{
    tdm_status st = TDM_OK;
    for (int64_t i = 0; i < n->count && st == TDM_OK; i++) {
        const tdm_yaml_node *item = n->items[i];
        char path[KEY_MAX];
        snprintf(path, sizeof path, "%s%s%.60s", section, section[0] ? "." : "", n->keys[i]->text);
        const int k = tdm_key_find(&tdm_recipe_keys, path);
        if (strcmp(path, "data.train") == 0 && item->kind == TDM_YAML_LIST)
            st = fill_sources(f, item);
        else if (k >= 0)
            st = fill_key(f, &tdm_recipe_keys.keys[k], path, item, f->r, &f->r->store->marks[k]);
        else if (strcmp(path, "reward") == 0)
            st = tdm_yaml_is_null(item) ? TDM_OK : fill_rewards(f, item);
        else if (!tdm_key_is_section(&tdm_recipe_keys, path))
            st = unknown_key(f, &tdm_recipe_keys, section, section, n->keys[i]);
        else if (item->kind == TDM_YAML_MAP)
            st = fill_section(f, path, item);
        else if (!tdm_yaml_is_null(item)) /* a section whose keys are all commented out */
            st = wants_mapping(f, path, item);
    }
    return st;
}

static tdm_status fill(tdm_recipe *r, const char *text, size_t len, const char *name, const char *const *overrides, int override_count,
                       tdm_error *err)
{
    struct tdm_recipe_store *s = r->store;
    struct filling f = {r, err};
    tdm_yaml_node *root = NULL;
    tdm_status st = TDM_OK;
    s->file = (tdm_yaml_source){tdm_pool_text(&s->pool, name, strlen(name)), true};
    s->marks = tdm_pool_take(&s->pool, (size_t)tdm_recipe_keys.count * sizeof *s->marks);
    if (!s->file.name || !s->marks) return out_of_memory(err, name);
    TDM_TRY(st, fill_defaults(&f, &tdm_recipe_keys, r), done);
    TDM_TRY(st, tdm_yaml_parse(&s->pool, text, len, &s->file, &root, err), done);
    if (root->kind != TDM_YAML_MAP) {
        st = wants_mapping(&f, "a recipe", root);
        goto done;
    }
    for (int i = 0; i < override_count; i++) TDM_TRY(st, tdm_override_apply(&s->pool, root, overrides[i], err), done);
    TDM_TRY(st, fill_section(&f, "", root), done);
    TDM_TRY(st, tdm_recipe_settle(r, err), done);
done:
    return st;
}

tdm_status tdm_recipe_parse(tdm_recipe **out, const char *text, size_t len, const char *name, const char *const *overrides,
                            int override_count, tdm_error *err)
{
    *out = NULL;
    tdm_recipe *r = calloc(1, sizeof *r);
    struct tdm_recipe_store *s = calloc(1, sizeof *s);
    if (!r || !s) {
        free(r);
        free(s);
        return out_of_memory(err, name);
    }
    r->store = s;
    const tdm_status st = fill(r, text, len, name, overrides, override_count, err);
    if (st == TDM_OK)
        *out = r;
    else
        tdm_recipe_close(r);
    return st;
}

static tdm_status read_file(const char *path, char *text, size_t room, size_t *len, tdm_error *err)
{
    tdm_status st = TDM_OK;
    FILE *f = fopen(path, "rbe");
    if (!f) return TDM_FAIL(err, TDM_ERR_RECIPE, path, "give the path of a recipe", "cannot open the recipe: %s", strerror(errno));
    errno = 0;
    *len = fread(text, 1, room, f);
    if (ferror(f)) st = TDM_FAIL(err, TDM_ERR_RECIPE, path, "give the path of a recipe", "cannot read the recipe: %s", strerror(errno));
    fclose(f);
    return st;
}

tdm_status tdm_recipe_open(tdm_recipe **r, const char *path, const char *const *overrides, int override_count, tdm_error *err)
{
    size_t len = 0;
    *r = NULL;
    char *text = malloc(TDM_YAML_BYTES + 4); /* beyond the limit by the byte that shows it was passed, behind a byte order mark */
    if (!text) return out_of_memory(err, path);
    tdm_status st = read_file(path, text, TDM_YAML_BYTES + 4, &len, err);
    if (st == TDM_OK) st = tdm_recipe_parse(r, text, len, path, overrides, override_count, err);
    free(text);
    return st;
}

void tdm_recipe_close(tdm_recipe *r)
{
    if (!r) return;
    tdm_pool_free(&r->store->pool);
    free(r->store);
    free(r);
}

/* "reward[1].pattern" into its index and key; false where it is not of that form. */
static bool split_entry(const char *key, const char *list, int64_t count, int64_t *at, const char **rest)
{
    char *end;
    const size_t len = strlen(list);
    if (strncmp(key, list, len) != 0 || key[len] != '[') return false;
    *at = strtoll(key + len + 1, &end, 10);
    *rest = end + 1;
    return *end == ']' && *at >= 0 && *at < count;
}

static tdm_mark entry_mark(const tdm_key_table *t, int64_t at, const char *rest, const tdm_mark *entries, const tdm_mark *marks)
{
    const int k = *rest == '.' ? tdm_key_find(t, rest + 1) : -1;
    return k >= 0 ? marks[at * t->count + k] : entries[at];
}

static tdm_mark find_mark(const tdm_recipe *r, const char *key)
{
    const struct tdm_recipe_store *s = r->store;
    const char *rest;
    int64_t at;
    const int k = tdm_key_find(&tdm_recipe_keys, key);
    if (k >= 0) return s->marks[k];
    if (strcmp(key, "reward") == 0) return s->reward_list;
    if (split_entry(key, "reward", r->reward_count, &at, &rest)) return entry_mark(&tdm_reward_keys, at, rest, s->rewards, s->reward_marks);
    if (s->source_list && split_entry(key, "data.train", r->data.source_count, &at, &rest))
        return entry_mark(&tdm_source_keys, at, rest, s->sources, s->source_marks);
    return (tdm_mark){0};
}

const char *tdm_recipe_where(const tdm_recipe *r, const char *key, char buf[TDM_RECIPE_WHERE])
{
    static_assert((int)TDM_RECIPE_WHERE == (int)TDM_YAML_WHERE, "one buffer serves both");
    const tdm_mark m = find_mark(r, key);
    if (m.source) return tdm_yaml_where(m.source, m.line, m.column, buf);
    snprintf(buf, TDM_RECIPE_WHERE, "%s: %s", r->store->file.name, key);
    return buf;
}

bool tdm_recipe_given(const tdm_recipe *r, const char *key)
{
    return find_mark(r, key).source != NULL;
}
