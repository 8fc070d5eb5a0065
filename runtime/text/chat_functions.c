/* Global functions, and the members of `loop`, cyclers and joiners. Source: jinja2/defaults.py, runtime.py, utils.py. */
#include <stdio.h>
#include <time.h>

#include "runtime/text/chat_internal.h"

const tdm_jnamed *tdm_jtable_find(const tdm_jnamed *table, size_t count, const tdm_jstr *name)
{
    for (size_t i = 0; i < count; i++)
        if (tdm_jstr_is(name, table[i].name)) return &table[i];
    return NULL;
}

/* ---- functions ------------------------------------------------------------------------------------------------------------- */

static int64_t index_of(tdm_jrun *r, tdm_jval v)
{
    if (v.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, v.u.s));
    if (!tdm_jval_is_int(v)) tdm_jrun_fail(r, NULL, "'%s' object cannot be interpreted as an integer", tdm_jval_type(v));
    return tdm_jval_int(v);
}

static tdm_jval call_range(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval given[3];
    (void)self;
    tdm_jargs_bind(r, args, "range", "/ start stop step", 1, given);
    const bool one = given[1].kind == TDM_J_MISSING;
    const int64_t start = one ? 0 : index_of(r, given[0]), stop = index_of(r, given[one ? 0 : 1]);
    const int64_t step = given[2].kind == TDM_J_MISSING ? 1 : index_of(r, given[2]);
    if (step == 0) tdm_jrun_fail(r, NULL, "range() arg 3 must not be zero");
    uint64_t count = 0;
    if (step > 0 && start < stop) count = ((uint64_t)stop - (uint64_t)start - 1) / (uint64_t)step + 1;
    if (step < 0 && start > stop) count = ((uint64_t)start - (uint64_t)stop - 1) / (0 - (uint64_t)step) + 1;
    if (count > TDM_CHAT_MAX_RANGE) tdm_jrun_fail(r, NULL, "a range has more than %d items", TDM_CHAT_MAX_RANGE);
    tdm_jrange *range = tdm_jrun_alloc(r, sizeof(*range));
    range->items = *tdm_jlist_new(r, (int64_t)count);
    range->start = start;
    range->stop = stop;
    range->step = step;
    tdm_jrun_charge(r, (int64_t)count);
    for (uint64_t i = 0; i < count; i++)
        tdm_jlist_push(r, &range->items, tdm_jv_int((int64_t)((uint64_t)start + i * (uint64_t)step)));
    return (tdm_jval){.kind = TDM_J_RANGE, .u.range = range};
}

/* dict(mapping or pairs, **more) */
static tdm_jdict *make_dict(tdm_jrun *r, const tdm_jargs *args, const char *what)
{
    tdm_jdict *d = tdm_jdict_new(r);
    if (args->count > 1) tdm_jrun_fail(r, NULL, "%s expected at most 1 argument, got %lld", what, (long long)args->count);
    if (args->count && args->at[0].kind == TDM_J_DICT) {
        const tdm_jdict *from = args->at[0].u.dict;
        tdm_jrun_charge(r, from->count);
        for (int64_t i = 0; i < from->count; i++) tdm_jdict_set(r, d, from->at[i].key, from->at[i].value);
    } else if (args->count) {
        const tdm_jlist pairs = tdm_jval_iterate(r, args->at[0]);
        for (int64_t i = 0; i < pairs.count; i++) {
            const tdm_jlist pair = tdm_jval_iterate(r, pairs.at[i]);
            tdm_jrun_charge(r, 1);
            if (pair.count != 2) tdm_jrun_fail(r, NULL, "%s: element %lld has length %lld; 2 is required", what, (long long)i, (long long)pair.count);
            tdm_jdict_set(r, d, pair.at[0], pair.at[1]);
        }
    }
    for (int64_t i = 0; i < args->kw_count; i++) tdm_jdict_set(r, d, tdm_jv_str(args->kw[i].name), args->kw[i].value);
    return d;
}

static tdm_jval call_dict(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    (void)self;
    return tdm_jv_dict(make_dict(r, args, "dict"));
}

static tdm_jval call_namespace(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    (void)self;
    tdm_jdict *d = make_dict(r, args, "namespace");
    for (int64_t i = 0; i < d->count; i++) {
        const tdm_jval key = d->at[i].key;
        if (key.kind == TDM_J_STR && key.u.s->len && key.u.s->data[0] == '_')
            tdm_jrun_fail(r, NULL, "a namespace cannot store the underscore-prefixed \"%s\"", tdm_jstr_c(r, key.u.s));
    }
    return (tdm_jval){.kind = TDM_J_NAMESPACE, .u.dict = d};
}

static tdm_jval call_cycler(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    (void)self;
    if (args->kw_count) tdm_jrun_fail(r, NULL, "cycler takes no keyword arguments");
    if (!args->count) tdm_jrun_fail(r, NULL, "at least one item has to be provided to cycler");
    tdm_jcycler *c = tdm_jrun_alloc(r, sizeof(*c));
    for (int64_t i = 0; i < args->count; i++) tdm_jlist_push(r, &c->items, args->at[i]);
    return (tdm_jval){.kind = TDM_J_CYCLER, .u.cycler = c};
}

static tdm_jval call_joiner(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval sep;
    (void)self;
    tdm_jargs_bind(r, args, "joiner", "sep", 0, &sep);
    if (sep.kind == TDM_J_MISSING) sep = tdm_jv_text(r, ", ");
    if (sep.kind != TDM_J_STR) tdm_jrun_fail(r, NULL, "joiner expects a string");
    tdm_jcycler *c = tdm_jrun_alloc(r, sizeof(*c));
    c->sep = sep.u.s;
    return (tdm_jval){.kind = TDM_J_JOINER, .u.cycler = c};
}

static tdm_jval call_raise_exception(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval message;
    tdm_jbuf text = {0};
    (void)self;
    tdm_jargs_bind(r, args, "raise_exception", "message", 1, &message);
    tdm_jbuf_str(r, &text, message);
    tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, tdm_jbuf_done(r, &text)));
}

/* The supplied clock as a struct tm, with the days of the week and of the year. */
static struct tm clock_tm(const tdm_jrun *r)
{
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    const int y = (int)r->clock[0], mon = (int)r->clock[1], d = (int)r->clock[2];
    const bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    const int yday = before[mon - 1] + (leap && mon > 2) + d - 1;
    const int64_t days = (int64_t)(y - 1) * 365 + (y - 1) / 4 - (y - 1) / 100 + (y - 1) / 400 + yday; /* since Monday 0001-01-01 */
    return (struct tm){.tm_year = y - 1900, .tm_mon = mon - 1, .tm_mday = d, .tm_hour = (int)r->clock[3], .tm_min = (int)r->clock[4],
                       .tm_sec = (int)r->clock[5], .tm_yday = yday, .tm_wday = (int)((days + 1) % 7), .tm_isdst = -1};
}

static tdm_jval call_strftime_now(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    static const char directives[] = "aAbBcCdDeFgGhHIjmMnpRrStTuUVwWxXyY";
    tdm_jval format;
    tdm_jbuf b = {0};
    (void)self;
    tdm_jargs_bind(r, args, "strftime_now", "format", 1, &format);
    if (format.kind != TDM_J_STR) tdm_jrun_fail(r, NULL, "strftime_now expects a string, not %s", tdm_jval_type(format));
    const struct tm when = clock_tm(r);
    const tdm_jstr *f = format.u.s;
    for (size_t i = 0; i < f->len; i++) {
        const char c = i + 1 < f->len ? f->data[i + 1] : 0;
        if (f->data[i] != '%') {
            tdm_jbuf_add(r, &b, &f->data[i], 1);
            continue;
        }
        i++;
        char directive[4] = {'%', c, 0, 0}, text[128];
        if (c == '-' && i + 1 < f->len) { /* glibc's flag: no padding */
            directive[2] = f->data[++i];
        }
        const char last = directive[2] ? directive[2] : c;
        if (last == '%' || last == 0) tdm_jbuf_text(r, &b, "%");
        else if (last == 'f') tdm_jbuf_text(r, &b, "000000");
        else if (last == 'z' || last == 'Z') continue; /* a time without a zone */
        else if (!strchr(directives, last)) tdm_jrun_fail(r, NULL, "strftime_now does not know \"%%%c\"", last);
        else tdm_jbuf_add(r, &b, text, strftime(text, sizeof(text), directive, &when));
    }
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}

void tdm_jfunctions_add(tdm_jrun *r, tdm_jscope *globals)
{
    static const tdm_jnamed functions[] = {
        {"range", call_range}, {"dict", call_dict}, {"namespace", call_namespace}, {"cycler", call_cycler}, {"joiner", call_joiner},
        {"raise_exception", call_raise_exception}, {"strftime_now", call_strftime_now}};
    for (size_t i = 0; i < TDM_COUNT(functions); i++) {
        if (functions[i].call == call_strftime_now && !r->has_clock) continue;
        tdm_jfunc *f = tdm_jrun_alloc(r, sizeof(*f));
        f->named = &functions[i];
        tdm_jdict_set(r, &globals->vars, tdm_jv_text(r, functions[i].name), (tdm_jval){.kind = TDM_J_FUNC, .u.func = f});
    }
}

/* ---- loop, cycler ---------------------------------------------------------------------------------------------------------- */

tdm_jval tdm_jloop_attr(tdm_jrun *r, tdm_jloop *l, const tdm_jstr *name)
{
    const int64_t n = l->items.count, at = l->pos;
    if (tdm_jstr_is(name, "index")) return tdm_jv_int(at + 1);
    if (tdm_jstr_is(name, "index0")) return tdm_jv_int(at);
    if (tdm_jstr_is(name, "revindex")) return tdm_jv_int(n - at);
    if (tdm_jstr_is(name, "revindex0")) return tdm_jv_int(n - at - 1);
    if (tdm_jstr_is(name, "first")) return tdm_jv_bool(at == 0);
    if (tdm_jstr_is(name, "last")) return tdm_jv_bool(at + 1 >= n);
    if (tdm_jstr_is(name, "length")) return tdm_jv_int(n);
    if (tdm_jstr_is(name, "depth")) return tdm_jv_int(l->depth0 + 1);
    if (tdm_jstr_is(name, "depth0")) return tdm_jv_int(l->depth0);
    if (tdm_jstr_is(name, "previtem")) return at > 0 ? l->items.at[at - 1] : tdm_jv_undefined(r, "there is no previous item");
    if (tdm_jstr_is(name, "nextitem")) return at + 1 < n ? l->items.at[at + 1] : tdm_jv_undefined(r, "there is no next item");
    return (tdm_jval){.kind = TDM_J_MISSING};
}

static tdm_jval loop_cycle(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    if (args->kw_count) tdm_jrun_fail(r, NULL, "loop.cycle takes no keyword arguments");
    if (!args->count) tdm_jrun_fail(r, NULL, "no items for cycling given");
    return args->at[self.u.loop->pos % args->count];
}

static tdm_jval loop_changed(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    if (args->kw_count) tdm_jrun_fail(r, NULL, "loop.changed takes no keyword arguments");
    tdm_jlist *l = tdm_jlist_new(r, args->count);
    for (int64_t i = 0; i < args->count; i++) tdm_jlist_push(r, l, args->at[i]);
    const tdm_jval now = tdm_jv_tuple(l), before = self.u.loop->changed;
    const bool changed = before.kind == TDM_J_MISSING || !tdm_jval_eq(r, before, now);
    self.u.loop->changed = now;
    return tdm_jv_bool(changed);
}

static tdm_jval cycler_next(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jcycler *c = self.u.cycler;
    if (args->count || args->kw_count) tdm_jrun_fail(r, NULL, "cycler.next takes no argument");
    const tdm_jval v = c->items.at[c->pos];
    c->pos = (c->pos + 1) % c->items.count;
    return v;
}

static tdm_jval cycler_reset(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    if (args->count || args->kw_count) tdm_jrun_fail(r, NULL, "cycler.reset takes no argument");
    self.u.cycler->pos = 0;
    return tdm_jv_none();
}

const tdm_jnamed *tdm_jobject_method_find(tdm_jkind kind, const tdm_jstr *name)
{
    static const tdm_jnamed of_loop[] = {{"cycle", loop_cycle}, {"changed", loop_changed}};
    static const tdm_jnamed of_cycler[] = {{"next", cycler_next}, {"reset", cycler_reset}};
    if (kind == TDM_J_LOOP) return tdm_jtable_find(of_loop, TDM_COUNT(of_loop), name);
    return kind == TDM_J_CYCLER ? tdm_jtable_find(of_cycler, TDM_COUNT(of_cycler), name) : NULL;
}
