/* Methods of list, tuple, range and dict. Those that change their object are refused, as the immutable sandbox has it. */
#include "runtime/text/chat_internal.h"

/* ---- list, tuple, range ---------------------------------------------------------------------------------------------------- */

static tdm_jval seq_index(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval given[3];
    tdm_jargs_bind(r, args, "index", "/ value start stop", 1, given);
    const tdm_jlist *l = self.u.list;
    int64_t ends[2] = {0, l->count};
    for (int i = 0; i < 2; i++) {
        if (given[i + 1].kind == TDM_J_MISSING) continue;
        if (!tdm_jval_is_int(given[i + 1])) tdm_jrun_fail(r, NULL, "slice indices must be integers");
        ends[i] = tdm_jval_int(given[i + 1]);
        if (ends[i] < 0) ends[i] = ends[i] < -l->count ? 0 : ends[i] + l->count;
    }
    for (int64_t i = ends[0]; i < l->count && i < ends[1]; i++) {
        tdm_jrun_charge(r, 1);
        if (tdm_jval_eq(r, l->at[i], given[0])) return tdm_jv_int(i);
    }
    tdm_jrun_fail(r, NULL, "%s is not in the %s", tdm_jval_repr_c(r, given[0]), tdm_jval_type(self));
}

static tdm_jval seq_count(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval value;
    int64_t n = 0;
    tdm_jargs_bind(r, args, "count", "/ value", 1, &value);
    for (int64_t i = 0; i < self.u.list->count; i++) {
        tdm_jrun_charge(r, 1);
        n += tdm_jval_eq(r, self.u.list->at[i], value);
    }
    return tdm_jv_int(n);
}

static tdm_jval list_copy(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    if (args->count || args->kw_count) tdm_jrun_fail(r, NULL, "copy takes no arguments");
    tdm_jlist *l = tdm_jlist_new(r, self.u.list->count);
    tdm_jrun_charge(r, self.u.list->count);
    for (int64_t i = 0; i < self.u.list->count; i++) tdm_jlist_push(r, l, self.u.list->at[i]);
    return tdm_jv_list(l);
}

/* ---- dict ------------------------------------------------------------------------------------------------------------------ */

static tdm_jval view_of(tdm_jrun *r, tdm_jval self, const tdm_jargs *args, const char *type)
{
    const tdm_jdict *d = self.u.dict;
    if (args->count || args->kw_count) tdm_jrun_fail(r, NULL, "keys, values and items of a dict take no arguments");
    tdm_jview *view = tdm_jrun_alloc(r, sizeof(*view));
    view->type = type;
    view->items = *tdm_jlist_new(r, d->count);
    tdm_jrun_charge(r, d->count);
    for (int64_t i = 0; i < d->count; i++) {
        tdm_jval v = type[5] == 'k' ? d->at[i].key : d->at[i].value;
        if (type[5] == 'i') {
            tdm_jlist *pair = tdm_jlist_new(r, 2);
            tdm_jlist_push(r, pair, d->at[i].key);
            tdm_jlist_push(r, pair, d->at[i].value);
            v = tdm_jv_tuple(pair);
        }
        tdm_jlist_push(r, &view->items, v);
    }
    return (tdm_jval){.kind = TDM_J_VIEW, .u.view = view};
}

static tdm_jval dict_keys(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return view_of(r, self, args, "dict_keys"); }
static tdm_jval dict_values(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return view_of(r, self, args, "dict_values"); }
static tdm_jval dict_items(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return view_of(r, self, args, "dict_items"); }

static tdm_jval dict_get(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval given[2];
    tdm_jargs_bind(r, args, "get", "/ key default", 1, given);
    const tdm_jval *found = tdm_jdict_find(r, self.u.dict, given[0]);
    if (found) return *found;
    return given[1].kind == TDM_J_MISSING ? tdm_jv_none() : given[1];
}

static tdm_jval dict_copy(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    if (args->count || args->kw_count) tdm_jrun_fail(r, NULL, "copy takes no arguments");
    tdm_jdict *d = tdm_jdict_new(r);
    tdm_jrun_charge(r, self.u.dict->count);
    for (int64_t i = 0; i < self.u.dict->count; i++) tdm_jdict_set(r, d, self.u.dict->at[i].key, self.u.dict->at[i].value);
    return tdm_jv_dict(d);
}

const tdm_jnamed *tdm_jmethod_find(tdm_jkind kind, const tdm_jstr *name, bool *refused)
{
    static const tdm_jnamed of_list[] = {{"index", seq_index}, {"count", seq_count}, {"copy", list_copy}, {"append", NULL},
                                         {"clear", NULL}, {"extend", NULL}, {"insert", NULL}, {"pop", NULL}, {"remove", NULL},
                                         {"reverse", NULL}, {"sort", NULL}};
    static const tdm_jnamed of_tuple[] = {{"index", seq_index}, {"count", seq_count}};
    static const tdm_jnamed of_dict[] = {{"get", dict_get}, {"items", dict_items}, {"keys", dict_keys}, {"values", dict_values},
                                         {"copy", dict_copy}, {"fromkeys", NULL}, {"clear", NULL}, {"pop", NULL},
                                         {"popitem", NULL}, {"setdefault", NULL}, {"update", NULL}};
    const tdm_jnamed *found = NULL;
    switch (kind) {
    case TDM_J_STR: found = tdm_jstr_method_find(name); break;
    case TDM_J_LIST: found = tdm_jtable_find(of_list, TDM_COUNT(of_list), name); break;
    case TDM_J_TUPLE: case TDM_J_RANGE: found = tdm_jtable_find(of_tuple, TDM_COUNT(of_tuple), name); break;
    case TDM_J_DICT: found = tdm_jtable_find(of_dict, TDM_COUNT(of_dict), name); break;
    default: found = tdm_jobject_method_find(kind, name); break;
    }
    *refused = found && !found->call;
    return *refused ? NULL : found;
}
