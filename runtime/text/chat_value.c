/* Values: strings, lists, dicts, and what Python says of truth, equality, order and iteration. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "runtime/text/chat_internal.h"

/* ---- strings --------------------------------------------------------------------------------------------------------------- */

const tdm_jstr *tdm_jstr_lend(tdm_jrun *r, const char *data, size_t len)
{
    tdm_jstr *s = tdm_jrun_alloc(r, sizeof(*s));
    s->data = data;
    s->len = len;
    return s;
}

const tdm_jstr *tdm_jstr_new(tdm_jrun *r, const char *data, size_t len)
{
    tdm_jstr *s = tdm_jrun_alloc(r, sizeof(*s) + len + 1);
    char *copy = (char *)(s + 1);
    tdm_jrun_charge(r, (int64_t)(len / 64));
    memcpy(copy, data, len);
    s->data = copy;
    s->len = len;
    return s;
}

tdm_jval tdm_jv_text(tdm_jrun *r, const char *text) { return tdm_jv_str(tdm_jstr_lend(r, text, strlen(text))); }
bool tdm_jstr_eq(const tdm_jstr *a, const tdm_jstr *b) { return a == b || (a->len == b->len && memcmp(a->data, b->data, a->len) == 0); }
bool tdm_jstr_is(const tdm_jstr *a, const char *text) { return a->len == strlen(text) && memcmp(a->data, text, a->len) == 0; }

int tdm_jstr_cmp(const tdm_jstr *a, const tdm_jstr *b)
{
    const int c = memcmp(a->data, b->data, a->len < b->len ? a->len : b->len);
    return c ? (c > 0) - (c < 0) : (a->len > b->len) - (a->len < b->len);
}

tdm_jval tdm_jv_undefined(tdm_jrun *r, const char *fmt, ...)
{
    char why[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    return (tdm_jval){.kind = TDM_J_UNDEFINED, .u.s = tdm_jstr_new(r, why, strlen(why))};
}

/* ---- lists ----------------------------------------------------------------------------------------------------------------- */

tdm_jlist *tdm_jlist_new(tdm_jrun *r, int64_t room)
{
    tdm_jlist *l = tdm_jrun_alloc(r, sizeof(*l));
    l->room = room;
    if (room > 0) l->at = tdm_jrun_alloc(r, (size_t)room * sizeof(*l->at));
    return l;
}

void tdm_jlist_push(tdm_jrun *r, tdm_jlist *l, tdm_jval v)
{
    if (l->count == l->room) {
        const int64_t room = l->room ? l->room * 2 : 4;
        tdm_jval *at = tdm_jrun_alloc(r, (size_t)room * sizeof(*at));
        if (l->count) memcpy(at, l->at, (size_t)l->count * sizeof(*at));
        l->at = at;
        l->room = room;
    }
    l->at[l->count++] = v;
}

tdm_jval tdm_jv_iter(tdm_jrun *r, const tdm_jlist *l, const char *type)
{
    tdm_jiter *it = tdm_jrun_alloc(r, sizeof(*it));
    it->items = *l;
    it->type = type;
    return (tdm_jval){.kind = TDM_J_ITER, .u.iter = it};
}

/* ---- dicts ----------------------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15ull;
    return h ^ (h >> 32);
}

static uint64_t hash_str(tdm_jrun *r, const tdm_jstr *s)
{
    uint64_t h = 0xCBF29CE484222325ull;
    if (s->len > 64) tdm_jrun_charge(r, (int64_t)(s->len / 64));
    for (size_t i = 0; i < s->len; i++) h = (h ^ (unsigned char)s->data[i]) * 0x100000001B3ull;
    return h;
}

/* Equal values have equal hashes: 1, 1.0 and True are one key. */
static uint64_t hash(tdm_jrun *r, tdm_jval v, int depth)
{
    uint64_t h = 7;
    switch (v.kind) {
    case TDM_J_UNDEFINED: case TDM_J_NONE: return (uint64_t)v.kind;
    case TDM_J_BOOL: case TDM_J_INT: return mix(1, (uint64_t)tdm_jval_int(v));
    case TDM_J_FLOAT:
        if (v.u.f == floor(v.u.f) && fabs(v.u.f) < 0x1p62) return mix(1, (uint64_t)(int64_t)v.u.f);
        memcpy(&h, &v.u.f, sizeof(h));
        return mix(2, h);
    case TDM_J_STR: return hash_str(r, v.u.s);
    case TDM_J_TUPLE:
        if (depth > TDM_CHAT_MAX_DATA_DEPTH) tdm_jrun_fail(r, NULL, "a value nests more than %d deep", TDM_CHAT_MAX_DATA_DEPTH);
        tdm_jrun_charge(r, v.u.list->count);
        for (int64_t i = 0; i < v.u.list->count; i++) h = mix(h, hash(r, v.u.list->at[i], depth + 1));
        return h;
    case TDM_J_LIST: case TDM_J_DICT: tdm_jrun_fail(r, NULL, "unhashable type: '%s'", tdm_jval_type(v));
    default: memcpy(&h, &v.u, sizeof(v.u.s)); return mix(3, h);
    }
}

tdm_jdict *tdm_jdict_new(tdm_jrun *r) { return tdm_jrun_alloc(r, sizeof(tdm_jdict)); }

static bool same_key(tdm_jrun *r, const tdm_jentry *e, tdm_jval key, uint64_t h)
{
    if (e->hash != h) return false;
    if (e->key.kind == TDM_J_STR && key.kind == TDM_J_STR) return tdm_jstr_eq(e->key.u.s, key.u.s);
    return tdm_jval_eq(r, e->key, key);
}

static int64_t find(tdm_jrun *r, const tdm_jdict *d, tdm_jval key, uint64_t h)
{
    if (!d->index) {
        for (int64_t i = 0; i < d->count; i++)
            if (same_key(r, &d->at[i], key, h)) return i;
        return -1;
    }
    const uint64_t mask = (uint64_t)d->index_room - 1;
    for (uint64_t at = mix(h, 0) & mask;; at = (at + 1) & mask) {
        const int32_t i = d->index[at];
        if (!i) return -1;
        tdm_jrun_charge(r, 1);
        if (same_key(r, &d->at[i - 1], key, h)) return i - 1;
    }
}

static void reindex(tdm_jrun *r, tdm_jdict *d)
{
    d->index_room = d->index_room ? d->index_room * 4 : 32;
    d->index = tdm_jrun_alloc(r, (size_t)d->index_room * sizeof(*d->index));
    const uint64_t mask = (uint64_t)d->index_room - 1;
    for (int64_t i = 0; i < d->count; i++) {
        uint64_t at = mix(d->at[i].hash, 0) & mask;
        while (d->index[at]) at = (at + 1) & mask;
        d->index[at] = (int32_t)(i + 1);
    }
}

tdm_jval *tdm_jdict_find(tdm_jrun *r, const tdm_jdict *d, tdm_jval key)
{
    if (!d->count) {
        hash(r, key, 0); /* an unhashable key is a fault in an empty dict too */
        return NULL;
    }
    const int64_t i = find(r, d, key, hash(r, key, 0));
    return i < 0 ? NULL : &d->at[i].value;
}

tdm_jval *tdm_jdict_find_str(tdm_jrun *r, const tdm_jdict *d, const tdm_jstr *key)
{
    return d->count ? tdm_jdict_find(r, d, tdm_jv_str(key)) : NULL;
}

void tdm_jdict_set(tdm_jrun *r, tdm_jdict *d, tdm_jval key, tdm_jval value)
{
    const uint64_t h = hash(r, key, 0);
    const int64_t i = find(r, d, key, h);
    if (i >= 0) {
        d->at[i].value = value;
        return;
    }
    if (d->count == d->room) {
        const int64_t room = d->room ? d->room * 2 : 4;
        tdm_jentry *at = tdm_jrun_alloc(r, (size_t)room * sizeof(*at));
        if (d->count) memcpy(at, d->at, (size_t)d->count * sizeof(*at));
        d->at = at;
        d->room = room;
    }
    d->at[d->count++] = (tdm_jentry){.key = key, .value = value, .hash = h};
    if (d->count > 8 && d->count * 2 > d->index_room) {
        reindex(r, d);
    } else if (d->index) {
        const uint64_t mask = (uint64_t)d->index_room - 1;
        uint64_t at = mix(h, 0) & mask;
        while (d->index[at]) at = (at + 1) & mask;
        d->index[at] = (int32_t)d->count;
    }
}

/* ---- truth, equality, order ------------------------------------------------------------------------------------------------ */

const char *tdm_jval_type(tdm_jval v)
{
    switch (v.kind) {
    case TDM_J_MISSING: case TDM_J_UNDEFINED: return "Undefined";
    case TDM_J_NONE: return "NoneType";
    case TDM_J_BOOL: return "bool";
    case TDM_J_INT: return "int";
    case TDM_J_FLOAT: return "float";
    case TDM_J_STR: return v.u.s->markup ? "Markup" : "str";
    case TDM_J_LIST: return "list";
    case TDM_J_TUPLE: return "tuple";
    case TDM_J_RANGE: return "range";
    case TDM_J_DICT: return "dict";
    case TDM_J_VIEW: return v.u.view->type;
    case TDM_J_ITER: return v.u.iter->type;
    case TDM_J_NAMESPACE: return "Namespace";
    case TDM_J_MACRO: return "Macro";
    case TDM_J_FUNC: return "function";
    case TDM_J_LOOP: return "LoopContext";
    case TDM_J_CYCLER: return "Cycler";
    case TDM_J_JOINER: return "Joiner";
    }
    return "object";
}

bool tdm_jval_true(tdm_jrun *r, tdm_jval v)
{
    (void)r;
    switch (v.kind) {
    case TDM_J_MISSING: case TDM_J_UNDEFINED: case TDM_J_NONE: return false;
    case TDM_J_BOOL: return v.u.b;
    case TDM_J_INT: return v.u.i != 0;
    case TDM_J_FLOAT: return v.u.f != 0;
    case TDM_J_STR: return v.u.s->len > 0;
    case TDM_J_LIST: case TDM_J_TUPLE: case TDM_J_RANGE: case TDM_J_VIEW: return v.u.list->count > 0;
    case TDM_J_DICT: return v.u.dict->count > 0;
    case TDM_J_LOOP: return v.u.loop->items.count > 0;
    default: return true; /* a generator is true even when it is empty, as in Python */
    }
}

static bool dict_eq(tdm_jrun *r, const tdm_jdict *a, const tdm_jdict *b)
{
    if (a->count != b->count) return false;
    for (int64_t i = 0; i < a->count; i++) {
        const tdm_jval *other = tdm_jdict_find(r, b, a->at[i].key);
        if (!other || !tdm_jval_eq(r, a->at[i].value, *other)) return false;
    }
    return true;
}

static bool list_eq(tdm_jrun *r, const tdm_jlist *a, const tdm_jlist *b)
{
    if (a->count != b->count) return false;
    for (int64_t i = 0; i < a->count; i++)
        if (!tdm_jval_eq(r, a->at[i], b->at[i])) return false;
    return true;
}

/* An int and a float, exactly: 2^53 + 1 is not 2.0^53. */
static int cmp_int_float(int64_t i, double f)
{
    if (isnan(f)) return 2;
    if (f >= 0x1p63) return -1;
    if (f < -0x1p63) return 1;
    const int64_t whole = (int64_t)f;
    if (i != whole) return i < whole ? -1 : 1;
    const double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

static int cmp_numbers(tdm_jval a, tdm_jval b)
{
    if (a.kind != TDM_J_FLOAT && b.kind != TDM_J_FLOAT) {
        const int64_t x = tdm_jval_int(a), y = tdm_jval_int(b);
        return (x > y) - (x < y);
    }
    if (a.kind == TDM_J_FLOAT && b.kind == TDM_J_FLOAT) {
        if (isnan(a.u.f) || isnan(b.u.f)) return 2;
        return (a.u.f > b.u.f) - (a.u.f < b.u.f);
    }
    if (a.kind != TDM_J_FLOAT) return cmp_int_float(tdm_jval_int(a), b.u.f);
    const int c = cmp_int_float(tdm_jval_int(b), a.u.f);
    return c == 2 ? 2 : -c;
}

bool tdm_jval_eq(tdm_jrun *r, tdm_jval a, tdm_jval b)
{
    if (tdm_jval_is_number(a) && tdm_jval_is_number(b)) return cmp_numbers(a, b) == 0;
    if (a.kind != b.kind) return false;
    bool equal = false;
    tdm_jrun_enter(r); /* lists can nest as deep as a template makes them */
    switch (a.kind) {
    case TDM_J_UNDEFINED: case TDM_J_NONE: equal = true; break;
    case TDM_J_STR:
        if (a.u.s->len == b.u.s->len) tdm_jrun_charge(r, (int64_t)(a.u.s->len / 64));
        equal = tdm_jstr_eq(a.u.s, b.u.s);
        break;
    case TDM_J_LIST: case TDM_J_TUPLE: case TDM_J_RANGE: equal = list_eq(r, a.u.list, b.u.list); break;
    case TDM_J_DICT: equal = dict_eq(r, a.u.dict, b.u.dict); break;
    default: equal = a.u.list == b.u.list; break; /* identity */
    }
    tdm_jrun_leave(r);
    return equal;
}

int tdm_jval_cmp(tdm_jrun *r, tdm_jval a, tdm_jval b, const char *op)
{
    if (tdm_jval_is_number(a) && tdm_jval_is_number(b)) return cmp_numbers(a, b);
    if (a.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, a.u.s));
    if (b.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, b.u.s));
    if (a.kind == TDM_J_STR && b.kind == TDM_J_STR) {
        tdm_jrun_charge(r, (int64_t)((a.u.s->len < b.u.s->len ? a.u.s->len : b.u.s->len) / 64));
        return tdm_jstr_cmp(a.u.s, b.u.s);
    }
    if (a.kind != b.kind || (a.kind != TDM_J_LIST && a.kind != TDM_J_TUPLE))
        tdm_jrun_fail(r, NULL, "'%s' not supported between instances of '%s' and '%s'", op, tdm_jval_type(a), tdm_jval_type(b));
    int c = 0;
    tdm_jrun_enter(r);
    const int64_t n = tdm_min_i64(a.u.list->count, b.u.list->count);
    int64_t i = 0;
    while (i < n && tdm_jval_eq(r, a.u.list->at[i], b.u.list->at[i])) i++;
    c = i < n ? tdm_jval_cmp(r, a.u.list->at[i], b.u.list->at[i], op)
              : (a.u.list->count > b.u.list->count) - (a.u.list->count < b.u.list->count);
    tdm_jrun_leave(r);
    return c;
}

/* ---- iteration ------------------------------------------------------------------------------------------------------------- */

static tdm_jlist str_chars(tdm_jrun *r, const tdm_jstr *s)
{
    tdm_jlist *l = tdm_jlist_new(r, tdm_utf8_count(s->data, s->len));
    tdm_jrun_charge(r, l->room);
    for (size_t i = 0; i < s->len;) {
        const size_t n = tdm_utf8_len(s->data + i);
        tdm_jlist_push(r, l, tdm_jv_str(tdm_jstr_lend(r, s->data + i, n)));
        i += n;
    }
    return *l;
}

bool tdm_jval_iterable(tdm_jval v)
{
    switch (v.kind) {
    case TDM_J_UNDEFINED: case TDM_J_STR: case TDM_J_LIST: case TDM_J_TUPLE: case TDM_J_RANGE: case TDM_J_DICT: case TDM_J_VIEW:
    case TDM_J_ITER: case TDM_J_LOOP: return true;
    default: return false;
    }
}

tdm_jlist tdm_jval_iterate(tdm_jrun *r, tdm_jval v)
{
    tdm_jlist l = {0};
    switch (v.kind) {
    case TDM_J_UNDEFINED: return l;
    case TDM_J_STR: return str_chars(r, v.u.s);
    case TDM_J_LIST: case TDM_J_TUPLE: case TDM_J_RANGE: case TDM_J_VIEW:
        l = *v.u.list;
        l.room = l.count; /* a copy that pushes must not write over the original */
        return l;
    case TDM_J_ITER:
        l = v.u.iter->items;
        v.u.iter->items = (tdm_jlist){0};
        return l;
    case TDM_J_DICT:
        for (int64_t i = 0; i < v.u.dict->count; i++) tdm_jlist_push(r, &l, v.u.dict->at[i].key);
        tdm_jrun_charge(r, l.count);
        return l;
    case TDM_J_LOOP: tdm_jrun_fail(r, NULL, "the loop object cannot be walked through");
    default: tdm_jrun_fail(r, NULL, "'%s' object is not iterable", tdm_jval_type(v));
    }
}

bool tdm_jval_has_len(tdm_jval v) { return tdm_jval_iterable(v) && v.kind != TDM_J_ITER; }

int64_t tdm_jval_len(tdm_jrun *r, tdm_jval v)
{
    switch (v.kind) {
    case TDM_J_UNDEFINED: return 0;
    case TDM_J_STR: tdm_jrun_charge(r, (int64_t)(v.u.s->len / 64)); return tdm_utf8_count(v.u.s->data, v.u.s->len);
    case TDM_J_LIST: case TDM_J_TUPLE: case TDM_J_RANGE: case TDM_J_VIEW: return v.u.list->count;
    case TDM_J_DICT: return v.u.dict->count;
    case TDM_J_LOOP: return v.u.loop->items.count;
    default: tdm_jrun_fail(r, NULL, "object of type '%s' has no len()", tdm_jval_type(v));
    }
}

bool tdm_jval_contains(tdm_jrun *r, tdm_jval item, tdm_jval container)
{
    if (container.kind == TDM_J_STR) {
        const tdm_jstr *s = container.u.s;
        if (item.kind != TDM_J_STR) tdm_jrun_fail(r, NULL, "'in <string>' requires string as left operand, not %s", tdm_jval_type(item));
        tdm_jrun_charge(r, (int64_t)(s->len / 64));
        return !item.u.s->len || memmem(s->data, s->len, item.u.s->data, item.u.s->len);
    }
    if (container.kind == TDM_J_DICT) return tdm_jdict_find(r, container.u.dict, item) != NULL;
    if (!tdm_jval_iterable(container)) tdm_jrun_fail(r, NULL, "argument of type '%s' is not iterable", tdm_jval_type(container));
    const tdm_jlist l = tdm_jval_iterate(r, container);
    for (int64_t i = 0; i < l.count; i++) {
        tdm_jrun_charge(r, 1);
        if (!tdm_jval_eq(r, l.at[i], item)) continue;
        if (container.kind == TDM_J_ITER) { /* reading stops at the item found */
            container.u.iter->items = l;
            container.u.iter->items.at += i + 1;
            container.u.iter->items.count = container.u.iter->items.room = l.count - i - 1;
        }
        return true;
    }
    return false;
}

/* ---- sorting --------------------------------------------------------------------------------------------------------------- */

void tdm_jval_sort(tdm_jrun *r, tdm_jval *items, tdm_jval *keys, int64_t count, bool reverse)
{
    tdm_jval *items2 = tdm_jrun_alloc(r, (size_t)count * sizeof(*items2)), *keys2 = tdm_jrun_alloc(r, (size_t)count * sizeof(*keys2));
    for (int64_t width = 1; width < count; width *= 2) { /* merge sort, from the bottom */
        for (int64_t lo = 0; lo < count; lo += 2 * width) {
            const int64_t mid = tdm_min_i64(lo + width, count), hi = tdm_min_i64(lo + 2 * width, count);
            int64_t i = lo, j = mid;
            for (int64_t k = lo; k < hi; k++) {
                bool right = i >= mid;
                if (!right && j < hi) /* equal keys keep their order, in reverse too */
                    right = reverse ? tdm_jval_cmp(r, keys[i], keys[j], "<") == -1 : tdm_jval_cmp(r, keys[j], keys[i], "<") == -1;
                tdm_jrun_charge(r, 1);
                items2[k] = items[right ? j : i];
                keys2[k] = keys[right ? j++ : i++];
            }
        }
        memcpy(items, items2, (size_t)count * sizeof(*items));
        memcpy(keys, keys2, (size_t)count * sizeof(*keys));
    }
}
