/* Filters over sequences. Source: jinja2/filters.py. What is a generator there is read at once here, and then handed on as one. */
#include "runtime/text/chat_internal.h"

/* ---- attributes by path: "a.b.0" --------------------------------------------------------------------------------------------- */

typedef struct getter {
    tdm_jlist parts;
    tdm_jval standin; /* instead of an undefined one; MISSING: nothing */
    bool fold;        /* strings in lower case */
} getter;

static void add_part(tdm_jrun *r, tdm_jlist *parts, const tdm_jstr *s)
{
    bool digits = s->len > 0;
    int64_t number = 0;
    for (size_t i = 0; i < s->len; i++) digits = digits && s->data[i] >= '0' && s->data[i] <= '9';
    tdm_jlist_push(r, parts, digits && tdm_int_parse(r, s, 10, &number) ? tdm_jv_int(number) : tdm_jv_str(s));
}

static getter getter_of(tdm_jrun *r, tdm_jval path, bool fold)
{
    getter g = {.fold = fold};
    if (path.kind == TDM_J_MISSING || path.kind == TDM_J_NONE) return g;
    if (path.kind != TDM_J_STR) {
        tdm_jlist_push(r, &g.parts, path);
        return g;
    }
    for (size_t from = 0; from <= path.u.s->len;) {
        const char *p = path.u.s->data + from, *dot = memchr(p, '.', path.u.s->len - from);
        const size_t n = dot ? (size_t)(dot - p) : path.u.s->len - from;
        add_part(r, &g.parts, tdm_jstr_lend(r, p, n));
        from += n + 1;
    }
    return g;
}

static tdm_jval fold_case(tdm_jrun *r, tdm_jval v) { return v.kind == TDM_J_STR ? tdm_jv_str(tdm_jstr_case(r, v.u.s, TDM_JCASE_LOWER)) : v; }

static tdm_jval get(tdm_jrun *r, const getter *g, tdm_jval item)
{
    tdm_jrun_charge(r, 1 + g->parts.count);
    for (int64_t i = 0; i < g->parts.count; i++) {
        item = tdm_jget_item(r, item, g->parts.at[i]);
        if (item.kind == TDM_J_UNDEFINED && g->standin.kind != TDM_J_MISSING && g->standin.kind != TDM_J_NONE) item = g->standin;
    }
    return g->fold ? fold_case(r, item) : item;
}

static bool given_true(tdm_jrun *r, tdm_jval v) { return v.kind != TDM_J_MISSING && tdm_jval_true(r, v); }

/* What Python takes as a flag where only an integer will do. */
static bool given_flag(tdm_jrun *r, tdm_jval v)
{
    if (v.kind == TDM_J_MISSING) return false;
    if (!tdm_jval_is_int(v)) tdm_jrun_fail(r, NULL, "'%s' object cannot be interpreted as an integer", tdm_jval_type(v));
    return tdm_jval_int(v) != 0;
}

/* ---- one item, or one value from all ------------------------------------------------------------------------------------------ */

static tdm_jval f_first(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jargs_bind(r, args, "first", "", 0, NULL);
    const tdm_jlist l = tdm_jval_iterate(r, v);
    if (!l.count) return tdm_jv_undefined(r, "No first item, sequence was empty.");
    if (v.kind == TDM_J_ITER) { /* the others can still be read */
        v.u.iter->items = l;
        v.u.iter->items.at++;
        v.u.iter->items.count = v.u.iter->items.room = l.count - 1;
    }
    return l.at[0];
}

static tdm_jval f_last(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jargs_bind(r, args, "last", "", 0, NULL);
    if (v.kind == TDM_J_ITER) tdm_jrun_fail(r, NULL, "'%s' object is not reversible", tdm_jval_type(v));
    const tdm_jlist l = tdm_jval_iterate(r, v);
    return l.count ? l.at[l.count - 1] : tdm_jv_undefined(r, "No last item, sequence was empty.");
}

static tdm_jval f_length(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jargs_bind(r, args, "length", "", 0, NULL);
    return tdm_jv_int(tdm_jval_len(r, v));
}

static tdm_jval min_or_max(tdm_jrun *r, tdm_jval v, const tdm_jargs *args, const char *what, bool max)
{
    tdm_jval given[2];
    tdm_jargs_bind(r, args, what, "case_sensitive attribute", 0, given);
    const getter g = getter_of(r, given[1], !given_true(r, given[0]));
    const tdm_jlist l = tdm_jval_iterate(r, v);
    if (!l.count) return tdm_jv_undefined(r, "No aggregated item, sequence was empty.");
    int64_t best = 0;
    tdm_jval key = get(r, &g, l.at[0]);
    for (int64_t i = 1; i < l.count; i++) {
        const tdm_jval other = get(r, &g, l.at[i]);
        if (tdm_jval_cmp(r, other, key, max ? ">" : "<") != (max ? 1 : -1)) continue;
        best = i;
        key = other;
    }
    return l.at[best];
}

static tdm_jval f_min(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return min_or_max(r, v, args, "min", false); }
static tdm_jval f_max(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return min_or_max(r, v, args, "max", true); }

static tdm_jval f_sum(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[2];
    tdm_jargs_bind(r, args, "sum", "attribute start", 0, given);
    const getter g = getter_of(r, given[0], false);
    tdm_jval sum = given[1].kind == TDM_J_MISSING ? tdm_jv_int(0) : given[1];
    const tdm_jlist l = tdm_jval_iterate(r, v);
    if (sum.kind == TDM_J_STR) tdm_jrun_fail(r, NULL, "sum() can't sum strings [use ''.join(seq) instead]");
    for (int64_t i = 0; i < l.count; i++) sum = tdm_jbinary(r, TDM_JT_ADD, sum, get(r, &g, l.at[i]));
    return sum;
}

static tdm_jval f_join(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[2];
    tdm_jbuf b = {0};
    tdm_jargs_bind(r, args, "join", "d attribute", 0, given);
    const getter g = getter_of(r, given[1], false);
    const tdm_jlist l = tdm_jval_iterate(r, v);
    const tdm_jstr *sep = given[0].kind == TDM_J_MISSING ? NULL : tdm_jval_str(r, given[0]);
    for (int64_t i = 0; i < l.count; i++) {
        if (i && sep) tdm_jbuf_add(r, &b, sep->data, sep->len);
        tdm_jbuf_str(r, &b, get(r, &g, l.at[i]));
    }
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}

/* ---- whole sequences ---------------------------------------------------------------------------------------------------------- */

static tdm_jlist *copy_of(tdm_jrun *r, tdm_jval v)
{
    const tdm_jlist all = tdm_jval_iterate(r, v);
    tdm_jlist *l = tdm_jlist_new(r, all.count);
    tdm_jrun_charge(r, all.count);
    for (int64_t i = 0; i < all.count; i++) tdm_jlist_push(r, l, all.at[i]);
    return l;
}

static tdm_jval f_list(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jargs_bind(r, args, "list", "", 0, NULL);
    return tdm_jv_list(copy_of(r, v));
}

static tdm_jval f_reverse(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jargs_bind(r, args, "reverse", "", 0, NULL);
    if (v.kind == TDM_J_STR) return tdm_jget_slice(r, v, tdm_jv_none(), tdm_jv_none(), tdm_jv_int(-1));
    if (!tdm_jval_iterable(v)) tdm_jrun_fail(r, NULL, "reverse: argument must be iterable");
    tdm_jlist *l = copy_of(r, v);
    for (int64_t i = 0; i < l->count / 2; i++) {
        const tdm_jval swap = l->at[i];
        l->at[i] = l->at[l->count - 1 - i];
        l->at[l->count - 1 - i] = swap;
    }
    if (v.kind == TDM_J_ITER) return tdm_jv_list(l);
    return tdm_jv_iter(r, l, v.kind == TDM_J_LIST ? "list_reverseiterator" : "reversed");
}

static tdm_jval f_sort(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[3];
    tdm_jargs_bind(r, args, "sort", "reverse case_sensitive attribute", 0, given);
    const bool fold = !given_true(r, given[1]);
    tdm_jlist *l = copy_of(r, v), *keys = tdm_jlist_new(r, l->count), paths = {0};
    if (given[2].kind == TDM_J_STR) { /* "a,b": by a, then by b */
        for (size_t from = 0; from <= given[2].u.s->len;) {
            const char *p = given[2].u.s->data + from, *comma = memchr(p, ',', given[2].u.s->len - from);
            const size_t n = comma ? (size_t)(comma - p) : given[2].u.s->len - from;
            tdm_jlist_push(r, &paths, tdm_jv_str(tdm_jstr_lend(r, p, n)));
            from += n + 1;
        }
    } else {
        tdm_jlist_push(r, &paths, given[2]);
    }
    getter *getters = tdm_jrun_alloc(r, (size_t)paths.count * sizeof(*getters));
    for (int64_t k = 0; k < paths.count; k++) getters[k] = getter_of(r, paths.at[k], fold);
    for (int64_t i = 0; i < l->count; i++) {
        tdm_jlist *key = tdm_jlist_new(r, paths.count);
        for (int64_t k = 0; k < paths.count; k++) tdm_jlist_push(r, key, get(r, &getters[k], l->at[i]));
        tdm_jlist_push(r, keys, tdm_jv_list(key));
    }
    tdm_jval_sort(r, l->at, keys->at, l->count, given_flag(r, given[0]));
    return tdm_jv_list(l);
}

static tdm_jval f_unique(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[2];
    tdm_jlist kept = {0};
    tdm_jargs_bind(r, args, "unique", "case_sensitive attribute", 0, given);
    const getter g = getter_of(r, given[1], !given_true(r, given[0]));
    const tdm_jlist l = tdm_jval_iterate(r, v);
    tdm_jdict *seen = tdm_jdict_new(r);
    for (int64_t i = 0; i < l.count; i++) {
        const tdm_jval key = get(r, &g, l.at[i]);
        if (tdm_jdict_find(r, seen, key)) continue;
        tdm_jdict_set(r, seen, key, tdm_jv_none());
        tdm_jlist_push(r, &kept, l.at[i]);
    }
    return tdm_jv_iter(r, &kept, "generator");
}

static const tdm_jdict *mapping_of(tdm_jrun *r, tdm_jval v, const char *what)
{
    if (v.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, v.u.s));
    if (v.kind != TDM_J_DICT) tdm_jrun_fail(r, NULL, "%s expects a mapping, not %s", what, tdm_jval_type(v));
    return v.u.dict;
}

static tdm_jlist pairs_of(tdm_jrun *r, const tdm_jdict *d)
{
    tdm_jlist l = {0};
    tdm_jrun_charge(r, d->count);
    for (int64_t i = 0; i < d->count; i++) {
        tdm_jlist *pair = tdm_jlist_new(r, 2);
        tdm_jlist_push(r, pair, d->at[i].key);
        tdm_jlist_push(r, pair, d->at[i].value);
        tdm_jlist_push(r, &l, tdm_jv_tuple(pair));
    }
    return l;
}

static tdm_jval f_items(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jlist l = {0};
    tdm_jargs_bind(r, args, "items", "", 0, NULL);
    if (v.kind != TDM_J_UNDEFINED) l = pairs_of(r, mapping_of(r, v, "items"));
    return tdm_jv_iter(r, &l, "generator");
}

static tdm_jval f_dictsort(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[3];
    tdm_jargs_bind(r, args, "dictsort", "case_sensitive by reverse", 0, given);
    const bool by_value = given[1].kind == TDM_J_STR && tdm_jstr_is(given[1].u.s, "value");
    if (!by_value && given[1].kind != TDM_J_MISSING && !(given[1].kind == TDM_J_STR && tdm_jstr_is(given[1].u.s, "key")))
        tdm_jrun_fail(r, NULL, "dictsort: you can only sort by either \"key\" or \"value\"");
    tdm_jlist *l = tdm_jlist_new(r, 0), *keys = tdm_jlist_new(r, 0);
    *l = pairs_of(r, mapping_of(r, v, "dictsort"));
    for (int64_t i = 0; i < l->count; i++) {
        const tdm_jval key = l->at[i].u.list->at[by_value];
        tdm_jlist_push(r, keys, given_true(r, given[0]) ? key : fold_case(r, key));
    }
    tdm_jval_sort(r, l->at, keys->at, l->count, given_flag(r, given[2]));
    return tdm_jv_list(l);
}

static int64_t count_of(tdm_jrun *r, tdm_jval v, const char *what)
{
    if (!tdm_jval_is_int(v)) tdm_jrun_fail(r, NULL, "%s expects an integer, not %s", what, tdm_jval_type(v));
    return tdm_jval_int(v);
}

static tdm_jval f_batch(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[2];
    tdm_jlist out = {0}, *now = NULL;
    tdm_jargs_bind(r, args, "batch", "linecount fill_with", 1, given);
    const tdm_jlist l = tdm_jval_iterate(r, v);
    const bool number = tdm_jval_is_number(given[0]);
    const double size = number ? tdm_jval_double(given[0]) : -1; /* what no length equals never ends a batch */
    for (int64_t i = 0; i < l.count; i++) {
        tdm_jrun_charge(r, 1);
        if (now ? (double)now->count == size : size == 0) {
            tdm_jlist_push(r, &out, tdm_jv_list(now ? now : tdm_jlist_new(r, 0)));
            now = NULL;
        }
        if (!now) now = tdm_jlist_new(r, 0);
        tdm_jlist_push(r, now, l.at[i]);
    }
    if (now && given[1].kind != TDM_J_MISSING && given[1].kind != TDM_J_NONE && tdm_jval_cmp(r, tdm_jv_int(now->count), given[0], "<") == -1)
        for (const int64_t want = count_of(r, given[0], "batch"); now->count < want;) {
            tdm_jrun_charge(r, 1);
            tdm_jlist_push(r, now, given[1]);
        }
    if (now) tdm_jlist_push(r, &out, tdm_jv_list(now));
    return tdm_jv_iter(r, &out, "generator");
}

static tdm_jval f_slice(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[2];
    tdm_jlist out = {0};
    tdm_jargs_bind(r, args, "slice", "slices fill_with", 1, given);
    const tdm_jlist l = tdm_jval_iterate(r, v);
    const int64_t slices = count_of(r, given[0], "slice");
    if (slices == 0) tdm_jrun_fail(r, NULL, "slice: division by zero");
    const int64_t each = slices > 0 ? l.count / slices : 0, extra = slices > 0 ? l.count % slices : 0;
    const bool fill = given[1].kind != TDM_J_MISSING && given[1].kind != TDM_J_NONE;
    for (int64_t i = 0, at = 0; i < slices; i++) {
        const int64_t n = each + (i < extra);
        tdm_jlist *part = tdm_jlist_new(r, n);
        tdm_jrun_charge(r, n + 1);
        for (int64_t k = 0; k < n; k++) tdm_jlist_push(r, part, l.at[at++]);
        if (fill && i >= extra) tdm_jlist_push(r, part, given[1]);
        tdm_jlist_push(r, &out, tdm_jv_list(part));
    }
    return tdm_jv_iter(r, &out, "generator");
}

static tdm_jval f_groupby(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[3];
    tdm_jlist *l = copy_of(r, v), *keys = tdm_jlist_new(r, 0), *groups = tdm_jlist_new(r, 0);
    tdm_jargs_bind(r, args, "groupby", "attribute default case_sensitive", 1, given);
    getter g = getter_of(r, given[0], !given_true(r, given[2]));
    g.standin = given[1];
    for (int64_t i = 0; i < l->count; i++) tdm_jlist_push(r, keys, get(r, &g, l->at[i]));
    tdm_jval_sort(r, l->at, keys->at, l->count, false);
    g.fold = false;
    tdm_jlist *members = NULL;
    for (int64_t i = 0; i < l->count; i++) {
        if (!members || !tdm_jval_eq(r, keys->at[i - 1], keys->at[i])) {
            tdm_jlist *group = tdm_jlist_new(r, 2);
            members = tdm_jlist_new(r, 0);
            tdm_jlist_push(r, group, get(r, &g, l->at[i]));
            tdm_jlist_push(r, group, tdm_jv_list(members));
            tdm_jlist_push(r, groups, tdm_jv_tuple(group));
        }
        tdm_jlist_push(r, members, l->at[i]);
    }
    return tdm_jv_list(groups);
}

/* ---- map, select, reject ------------------------------------------------------------------------------------------------------ */

static const tdm_jnamed *named_of(tdm_jrun *r, tdm_jval name, bool test)
{
    const tdm_jnamed *found = NULL;
    if (name.kind == TDM_J_STR) found = test ? tdm_jtest_find(name.u.s) : tdm_jfilter_find(name.u.s);
    if (!found) tdm_jrun_fail(r, NULL, "no %s is named %s", test ? "test" : "filter", tdm_jval_repr_c(r, name));
    return found;
}

static getter map_getter(tdm_jrun *r, const tdm_jargs *args)
{
    getter g = {0};
    for (int64_t i = 0; i < args->kw_count; i++)
        if (tdm_jstr_is(args->kw[i].name, "attribute")) g = getter_of(r, args->kw[i].value, false);
    for (int64_t i = 0; i < args->kw_count; i++) {
        if (tdm_jstr_is(args->kw[i].name, "default")) g.standin = args->kw[i].value;
        else if (!tdm_jstr_is(args->kw[i].name, "attribute"))
            tdm_jrun_fail(r, NULL, "map: unexpected keyword argument '%s'", tdm_jstr_c(r, args->kw[i].name));
    }
    return g;
}

static bool has_kwarg(const tdm_jargs *args, const char *name)
{
    for (int64_t i = 0; i < args->kw_count; i++)
        if (tdm_jstr_is(args->kw[i].name, name)) return true;
    return false;
}

static tdm_jval f_map(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jlist out = {0};
    if (!tdm_jval_true(r, v)) return tdm_jv_iter(r, &out, "generator");
    const bool by_attribute = !args->count && has_kwarg(args, "attribute");
    if (!by_attribute && !args->count) tdm_jrun_fail(r, NULL, "map requires a filter argument");
    const getter g = by_attribute ? map_getter(r, args) : (getter){0};
    const tdm_jlist l = tdm_jval_iterate(r, v);
    if (by_attribute) {
        for (int64_t i = 0; i < l.count; i++) tdm_jlist_push(r, &out, get(r, &g, l.at[i]));
        return tdm_jv_iter(r, &out, "generator");
    }
    const tdm_jargs more = {.at = args->at + 1, .count = args->count - 1, .kw = args->kw, .kw_count = args->kw_count};
    for (int64_t i = 0; i < l.count; i++) {
        tdm_jrun_enter(r);
        tdm_jlist_push(r, &out, named_of(r, args->at[0], false)->call(r, l.at[i], &more));
        tdm_jrun_leave(r);
    }
    return tdm_jv_iter(r, &out, "generator");
}

static tdm_jval pick(tdm_jrun *r, tdm_jval v, const tdm_jargs *args, bool keep, bool by_attribute)
{
    tdm_jlist out = {0};
    getter g = {0};
    const int64_t skip = by_attribute;
    if (!tdm_jval_true(r, v)) return tdm_jv_iter(r, &out, "generator");
    if (by_attribute) {
        if (!args->count) tdm_jrun_fail(r, NULL, "missing parameter for attribute name");
        g = getter_of(r, args->at[0], false);
    }
    const tdm_jlist l = tdm_jval_iterate(r, v);
    const bool tested = args->count > skip;
    const tdm_jargs more = {.at = tested ? args->at + skip + 1 : NULL, .count = tested ? args->count - skip - 1 : 0, .kw = args->kw,
                            .kw_count = args->kw_count};
    for (int64_t i = 0; i < l.count; i++) {
        tdm_jrun_enter(r);
        tdm_jval item = get(r, &g, l.at[i]);
        if (tested) item = named_of(r, args->at[skip], true)->call(r, item, &more);
        if (tdm_jval_true(r, item) == keep) tdm_jlist_push(r, &out, l.at[i]);
        tdm_jrun_leave(r);
    }
    return tdm_jv_iter(r, &out, "generator");
}

static tdm_jval f_select(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return pick(r, v, args, true, false); }
static tdm_jval f_reject(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return pick(r, v, args, false, false); }
static tdm_jval f_selectattr(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return pick(r, v, args, true, true); }
static tdm_jval f_rejectattr(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return pick(r, v, args, false, true); }

const tdm_jnamed *tdm_jfilter_seq_find(const tdm_jstr *name)
{
    static const tdm_jnamed filters[] = {
        {"first", f_first}, {"last", f_last}, {"length", f_length}, {"count", f_length}, {"min", f_min}, {"max", f_max}, {"sum", f_sum},
        {"join", f_join}, {"list", f_list}, {"reverse", f_reverse}, {"sort", f_sort}, {"unique", f_unique}, {"items", f_items},
        {"dictsort", f_dictsort}, {"batch", f_batch}, {"slice", f_slice}, {"groupby", f_groupby}, {"map", f_map},
        {"select", f_select}, {"reject", f_reject}, {"selectattr", f_selectattr}, {"rejectattr", f_rejectattr}};
    return tdm_jtable_find(filters, TDM_COUNT(filters), name);
}
