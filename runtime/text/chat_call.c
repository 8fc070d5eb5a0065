/* Calls, macros, attributes, subscripts and slices. */
#include "runtime/text/chat_internal.h"

/* ---- arguments ------------------------------------------------------------------------------------------------------------- */

static void add_dynamic(tdm_jrun *r, tdm_jlist *pos, tdm_jkwarg *kw, int64_t *kw_count, const tdm_jdict *more)
{
    (void)pos;
    for (int64_t i = 0; i < more->count; i++) {
        const tdm_jval key = more->at[i].key;
        if (key.kind != TDM_J_STR) tdm_jrun_fail(r, NULL, "keywords must be strings");
        for (int64_t k = 0; k < *kw_count; k++)
            if (tdm_jstr_eq(kw[k].name, key.u.s)) tdm_jrun_fail(r, NULL, "two values for the keyword argument '%s'", tdm_jstr_c(r, key.u.s));
        tdm_jrun_charge(r, *kw_count);
        kw[(*kw_count)++] = (tdm_jkwarg){.name = key.u.s, .value = more->at[i].value};
    }
}

tdm_jargs tdm_jeval_args(tdm_jrun *r, const tdm_jcallargs *args, tdm_jscope *scope)
{
    tdm_jargs out = {0};
    if (!args) return out;
    tdm_jlist *pos = tdm_jlist_new(r, args->items.count);
    tdm_jkwarg *kw = NULL;
    int64_t kw_count = 0, kw_room = 0;
    for (int64_t i = 0; i < args->items.count; i++) kw_room += args->names[i] != NULL;
    if (kw_room) kw = tdm_jrun_alloc(r, (size_t)kw_room * sizeof(*kw));
    for (int64_t i = 0; i < args->items.count; i++) {
        const tdm_jval v = tdm_jeval(r, args->items.at[i], scope);
        if (args->names[i]) kw[kw_count++] = (tdm_jkwarg){.name = args->names[i], .value = v};
        else tdm_jlist_push(r, pos, v);
    }
    if (args->dyn_list) {
        const tdm_jlist more = tdm_jval_iterate(r, tdm_jeval(r, args->dyn_list, scope));
        for (int64_t i = 0; i < more.count; i++) tdm_jlist_push(r, pos, more.at[i]);
    }
    if (args->dyn_dict) {
        const tdm_jval d = tdm_jeval(r, args->dyn_dict, scope);
        if (d.kind != TDM_J_DICT) tdm_jrun_fail(r, NULL, "argument after ** must be a mapping, not %s", tdm_jval_type(d));
        tdm_jkwarg *all = tdm_jrun_alloc(r, (size_t)(kw_count + d.u.dict->count) * sizeof(*all));
        if (kw_count) memcpy(all, kw, (size_t)kw_count * sizeof(*all));
        kw = all;
        add_dynamic(r, pos, kw, &kw_count, d.u.dict);
    }
    return (tdm_jargs){.at = pos->at, .count = pos->count, .kw = kw, .kw_count = kw_count};
}

/* The index of name among the names, -1 when it is not one of them. */
static int name_index(const char *names, const tdm_jstr *name)
{
    int at = 0;
    for (const char *p = names; *p; at++) {
        const size_t n = strcspn(p, " ");
        if (name && n == name->len && memcmp(p, name->data, n) == 0) return at;
        p += n + (p[n] == ' ');
    }
    return name ? -1 : at;
}

void tdm_jargs_bind(tdm_jrun *r, const tdm_jargs *args, const char *what, const char *names, int required, tdm_jval *out)
{
    const bool positional = names[0] == '/';
    if (positional) names += names[1] ? 2 : 1;
    const int count = name_index(names, NULL);
    for (int i = 0; i < count; i++) out[i] = (tdm_jval){.kind = TDM_J_MISSING};
    if (args->count > count)
        tdm_jrun_fail(r, NULL, "%s takes at most %d arguments, %lld given", what, count, (long long)args->count);
    for (int64_t i = 0; i < args->count; i++) out[i] = args->at[i];
    for (int64_t i = 0; i < args->kw_count; i++) {
        const int at = positional ? -1 : name_index(names, args->kw[i].name);
        if (at < 0) tdm_jrun_fail(r, NULL, "%s takes no keyword argument '%s'", what, tdm_jstr_c(r, args->kw[i].name));
        if (out[at].kind != TDM_J_MISSING) tdm_jrun_fail(r, NULL, "%s got two values for '%s'", what, tdm_jstr_c(r, args->kw[i].name));
        out[at] = args->kw[i].value;
    }
    for (int i = 0; i < required; i++)
        if (out[i].kind == TDM_J_MISSING) tdm_jrun_fail(r, NULL, "%s misses an argument: it takes %s", what, names);
}

/* ---- calls ----------------------------------------------------------------------------------------------------------------- */

static bool has_param(const tdm_jnode *n, const char *name)
{
    for (int64_t i = 0; i < n->items.count; i++)
        if (tdm_jstr_is(n->items.at[i]->name, name)) return true;
    return false;
}

static tdm_jval take_kwarg(const tdm_jargs *args, bool *taken, const tdm_jstr *name)
{
    for (int64_t i = 0; i < args->kw_count; i++) {
        if (taken[i] || !tdm_jstr_eq(args->kw[i].name, name)) continue;
        taken[i] = true;
        return args->kw[i].value;
    }
    return (tdm_jval){.kind = TDM_J_MISSING};
}

/* caller, kwargs and varargs exist in a macro that mentions them. */
static void set_specials(tdm_jrun *r, const tdm_jmacro *m, const tdm_jargs *args, bool *taken, tdm_jscope *scope)
{
    static const tdm_jstr caller = {.data = "caller", .len = 6};
    const tdm_jnode *n = m->node;
    const char *name = n->name ? tdm_jstr_c(r, n->name) : "caller";
    if (n->uses_caller && !has_param(n, "caller")) {
        tdm_jval v = take_kwarg(args, taken, &caller);
        if (v.kind == TDM_J_MISSING) v = tdm_jv_undefined(r, "No caller defined");
        tdm_jdict_set(r, &scope->vars, tdm_jv_str(&caller), v);
    }
    tdm_jdict *rest = tdm_jdict_new(r);
    for (int64_t i = 0; i < args->kw_count; i++)
        if (!taken[i]) tdm_jdict_set(r, rest, tdm_jv_str(args->kw[i].name), args->kw[i].value);
    if (n->uses_kwargs && !has_param(n, "kwargs")) tdm_jdict_set(r, &scope->vars, tdm_jv_text(r, "kwargs"), tdm_jv_dict(rest));
    else if (rest->count) tdm_jrun_fail(r, NULL, "macro '%s' takes no keyword argument %s", name, tdm_jval_repr_c(r, rest->at[0].key));
    if (n->uses_varargs && !has_param(n, "varargs")) {
        tdm_jlist *l = tdm_jlist_new(r, 0);
        for (int64_t i = n->items.count; i < args->count; i++) tdm_jlist_push(r, l, args->at[i]);
        tdm_jdict_set(r, &scope->vars, tdm_jv_text(r, "varargs"), tdm_jv_tuple(l));
    } else if (args->count > n->items.count) {
        tdm_jrun_fail(r, NULL, "macro '%s' takes not more than %lld arguments", name, (long long)n->items.count);
    }
}

tdm_jval tdm_jcall_macro(tdm_jrun *r, const tdm_jmacro *m, const tdm_jargs *args)
{
    const tdm_jnode *n = m->node;
    tdm_jscope *scope = tdm_jscope_new(r, m->scope, &n->hidden);
    bool *taken = tdm_jrun_alloc(r, (size_t)args->kw_count + 1);
    tdm_jval *given = tdm_jrun_alloc(r, (size_t)(n->items.count + 1) * sizeof(*given));
    for (int64_t i = 0; i < n->items.count; i++)
        given[i] = i < args->count ? args->at[i] : take_kwarg(args, taken, n->items.at[i]->name);
    set_specials(r, m, args, taken, scope);
    for (int64_t i = 0; i < n->items.count; i++) { /* in order: a default may read the parameters before it */
        const tdm_jnode *param = n->items.at[i];
        if (given[i].kind == TDM_J_MISSING)
            given[i] = param->a ? tdm_jeval(r, param->a, scope) : tdm_jv_undefined(r, "parameter '%s' was not provided", tdm_jstr_c(r, param->name));
        tdm_jdict_set(r, &scope->vars, tdm_jv_str(param->name), given[i]);
    }
    tdm_jflow flow = TDM_JF_NEXT;
    return tdm_jv_str(tdm_jexec_capture(r, &n->body, scope, &flow));
}

static tdm_jval call_loop(tdm_jrun *r, const tdm_jloop *l, const tdm_jargs *args)
{
    tdm_jval over;
    tdm_jbuf captured = {0}, *outer = r->out;
    tdm_jargs_bind(r, args, "loop", "iterable", 1, &over);
    if (!l->node) tdm_jrun_fail(r, NULL, "the loop must have the 'recursive' marker to be called recursively");
    r->out = &captured;
    tdm_jexec_for(r, l->node, over, l->depth0 + 1, l->scope);
    r->out = outer;
    return tdm_jv_str(tdm_jbuf_done(r, &captured));
}

tdm_jval tdm_jcall(tdm_jrun *r, tdm_jval callee, const tdm_jargs *args)
{
    tdm_jval v = {0};
    tdm_jrun_enter(r);
    switch (callee.kind) {
    case TDM_J_FUNC: v = callee.u.func->named->call(r, callee.u.func->self, args); break;
    case TDM_J_MACRO: v = tdm_jcall_macro(r, callee.u.macro, args); break;
    case TDM_J_LOOP: v = call_loop(r, callee.u.loop, args); break;
    case TDM_J_JOINER:
        v = tdm_jv_str(callee.u.cycler->used ? callee.u.cycler->sep : tdm_jv_text(r, "").u.s);
        callee.u.cycler->used = true;
        break;
    case TDM_J_UNDEFINED: tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, callee.u.s));
    default: tdm_jrun_fail(r, NULL, "'%s' object is not callable", tdm_jval_type(callee));
    }
    tdm_jrun_leave(r);
    return v;
}

/* ---- attributes and subscripts --------------------------------------------------------------------------------------------- */

static tdm_jval missing_attr(tdm_jrun *r, tdm_jval v, tdm_jval name)
{
    const char *object = v.kind == TDM_J_NONE ? "" : " object", *type = v.kind == TDM_J_NONE ? "None" : tdm_jval_type(v);
    if (name.kind == TDM_J_STR) return tdm_jv_undefined(r, "'%s%s' has no attribute '%s'", type, object, tdm_jstr_c(r, name.u.s));
    if (tdm_jval_is_number(name)) return tdm_jv_undefined(r, "%s%s has no element %s", type, object, tdm_jval_repr_c(r, name));
    return tdm_jv_undefined(r, "%s%s has no such element", type, object);
}

tdm_jval tdm_jown_attr(tdm_jrun *r, tdm_jval v, const tdm_jstr *name)
{
    bool refused = false;
    if (v.kind == TDM_J_NAMESPACE) {
        const tdm_jval *found = tdm_jdict_find_str(r, v.u.dict, name);
        return found ? *found : (tdm_jval){.kind = TDM_J_MISSING};
    }
    if (v.kind == TDM_J_LOOP) {
        const tdm_jval attr = tdm_jloop_attr(r, v.u.loop, name);
        if (attr.kind != TDM_J_MISSING) return attr;
    }
    if (v.kind == TDM_J_CYCLER && tdm_jstr_is(name, "current")) return v.u.cycler->items.at[v.u.cycler->pos];
    if (v.kind == TDM_J_MACRO && tdm_jstr_is(name, "name")) return v.u.macro->is_caller ? tdm_jv_none() : tdm_jv_str(v.u.macro->node->name);
    const tdm_jnamed *method = tdm_jmethod_find(v.kind, name, &refused);
    if (refused) return tdm_jv_undefined(r, "access to attribute '%s' of '%s' object is not allowed in a chat template", tdm_jstr_c(r, name), tdm_jval_type(v));
    if (!method) return (tdm_jval){.kind = TDM_J_MISSING};
    tdm_jfunc *f = tdm_jrun_alloc(r, sizeof(*f));
    *f = (tdm_jfunc){.self = v, .named = method};
    return (tdm_jval){.kind = TDM_J_FUNC, .u.func = f};
}

tdm_jval tdm_jget_attr(tdm_jrun *r, tdm_jval v, const tdm_jstr *name)
{
    if (v.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, v.u.s));
    const tdm_jval own = tdm_jown_attr(r, v, name);
    if (own.kind != TDM_J_MISSING) return own;
    if (v.kind == TDM_J_DICT) {
        const tdm_jval *found = tdm_jdict_find_str(r, v.u.dict, name);
        if (found) return *found;
    }
    return missing_attr(r, v, tdm_jv_str(name));
}

static bool hashable(tdm_jrun *r, tdm_jval v)
{
    bool ok = v.kind != TDM_J_LIST && v.kind != TDM_J_DICT;
    tdm_jrun_enter(r);
    for (int64_t i = 0; v.kind == TDM_J_TUPLE && ok && i < v.u.list->count; i++) ok = hashable(r, v.u.list->at[i]);
    tdm_jrun_leave(r);
    return ok;
}

static tdm_jval char_at(tdm_jrun *r, const tdm_jstr *s, int64_t at)
{
    const size_t from = tdm_utf8_offset(s->data, s->len, at);
    tdm_jrun_charge(r, (int64_t)(s->len / 64));
    return tdm_jv_like(r, tdm_jstr_lend(r, s->data + from, tdm_utf8_len(s->data + from)), s);
}

static bool is_sequence(tdm_jval v)
{
    return v.kind == TDM_J_STR || v.kind == TDM_J_LIST || v.kind == TDM_J_TUPLE || v.kind == TDM_J_RANGE;
}

tdm_jval tdm_jget_item(tdm_jrun *r, tdm_jval v, tdm_jval key)
{
    if (v.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, v.u.s));
    if (v.kind == TDM_J_DICT && hashable(r, key)) {
        const tdm_jval *found = tdm_jdict_find(r, v.u.dict, key);
        if (found) return *found;
    }
    if (is_sequence(v) && tdm_jval_is_int(key)) {
        const int64_t n = tdm_jval_len(r, v);
        int64_t i = tdm_jval_int(key);
        if (i < 0) i += n;
        if (i < 0 || i >= n) return missing_attr(r, v, key);
        return v.kind == TDM_J_STR ? char_at(r, v.u.s, i) : v.u.list->at[i];
    }
    if (key.kind == TDM_J_STR) {
        const tdm_jval own = tdm_jown_attr(r, v, key.u.s);
        if (own.kind != TDM_J_MISSING) return own;
    }
    return missing_attr(r, v, key);
}

/* ---- slices ---------------------------------------------------------------------------------------------------------------- */

static int64_t clamp(tdm_jval given, int64_t absent, int64_t n, int64_t step)
{
    if (given.kind == TDM_J_NONE) return absent;
    int64_t i = tdm_jval_int(given);
    if (i < 0) i = i < -n ? -1 : i + n;
    if (i < 0) return step < 0 ? -1 : 0;
    return i >= n ? (step < 0 ? n - 1 : n) : i;
}

static tdm_jval slice_str(tdm_jrun *r, const tdm_jstr *s, int64_t start, int64_t count, int64_t step)
{
    tdm_jrun_charge(r, (int64_t)(s->len / 64) + 1);
    if (step == 1) {
        const size_t from = tdm_utf8_offset(s->data, s->len, start);
        const size_t len = tdm_utf8_offset(s->data + from, s->len - from, count);
        return tdm_jv_like(r, tdm_jstr_lend(r, s->data + from, len), s);
    }
    tdm_jbuf b = {0};
    const tdm_jlist chars = tdm_jval_iterate(r, tdm_jv_str(s));
    for (int64_t i = 0; i < count; i++) tdm_jbuf_add(r, &b, chars.at[start + i * step].u.s->data, chars.at[start + i * step].u.s->len);
    return tdm_jv_like(r, tdm_jbuf_done(r, &b), s);
}

tdm_jval tdm_jget_slice(tdm_jrun *r, tdm_jval v, tdm_jval start, tdm_jval stop, tdm_jval step)
{
    const tdm_jval *parts[] = {&start, &stop, &step};
    if (v.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, v.u.s));
    if (!is_sequence(v)) tdm_jrun_fail(r, NULL, "'%s' object cannot be sliced", tdm_jval_type(v));
    for (int i = 0; i < 3; i++)
        if (parts[i]->kind != TDM_J_NONE && !tdm_jval_is_int(*parts[i])) tdm_jrun_fail(r, NULL, "slice indices must be integers or None");
    const int64_t n = tdm_jval_len(r, v);
    int64_t by = step.kind == TDM_J_NONE ? 1 : tdm_jval_int(step);
    if (by == 0) tdm_jrun_fail(r, NULL, "slice step cannot be zero");
    by = by > 0 ? tdm_min_i64(by, n + 1) : tdm_max_i64(by, -n - 1); /* no further than past the end */
    const int64_t from = clamp(start, by < 0 ? n - 1 : 0, n, by), to = clamp(stop, by < 0 ? -1 : n, n, by);
    const int64_t span = by > 0 ? to - from : from - to, size = by > 0 ? by : -by;
    const int64_t count = span <= 0 ? 0 : (span + size - 1) / size;
    if (v.kind == TDM_J_STR) return slice_str(r, v.u.s, from, count, by);
    tdm_jrange *range = tdm_jrun_alloc(r, sizeof(*range));
    tdm_jlist *l = &range->items;
    *l = *tdm_jlist_new(r, count);
    tdm_jrun_charge(r, count);
    for (int64_t i = 0; i < count; i++) tdm_jlist_push(r, l, v.u.list->at[from + i * by]);
    if (v.kind == TDM_J_RANGE) {
        const tdm_jrange *of = v.u.range;
        range->start = of->start + from * of->step;
        range->stop = of->start + to * of->step;
        range->step = of->step * (step.kind == TDM_J_NONE ? 1 : tdm_jval_int(step));
        return (tdm_jval){.kind = TDM_J_RANGE, .u.range = range};
    }
    return (tdm_jval){.kind = v.kind, .u.list = l};
}
