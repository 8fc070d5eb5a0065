/* Values as text: str(), repr(), json.dumps(), and text as numbers. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/text/chat_internal.h"

void tdm_jbuf_add(tdm_jrun *r, tdm_jbuf *b, const char *data, size_t len)
{
    if (b->len + len > b->room) {
        size_t room = b->room ? b->room * 2 : 64;
        if (room < b->len + len) room = b->len + len;
        char *grown = tdm_jrun_alloc(r, room);
        if (b->len) memcpy(grown, b->data, b->len);
        b->data = grown;
        b->room = room;
    }
    if (len) memcpy(b->data + b->len, data, len);
    b->len += len;
    if (len >= 64) tdm_jrun_charge(r, (int64_t)(len / 64));
    if (b == r->out && b->len > TDM_CHAT_MAX_OUTPUT_BYTES)
        tdm_jrun_fail(r, NULL, "the template writes more than %u MiB", TDM_CHAT_MAX_OUTPUT_BYTES >> 20);
}

void tdm_jbuf_text(tdm_jrun *r, tdm_jbuf *b, const char *text) { tdm_jbuf_add(r, b, text, strlen(text)); }
const tdm_jstr *tdm_jbuf_done(tdm_jrun *r, tdm_jbuf *b) { return tdm_jstr_lend(r, b->len ? b->data : "", b->len); }

/* ---- numbers --------------------------------------------------------------------------------------------------------------- */

/* Digits of f that read back as f, with that many of them; false: there are none. */
static bool digits_fit(char digits[32], int precision, double f)
{
    snprintf(digits, 32, "%.*e", precision - 1, f);
    if (strtod(digits, NULL) == f) return true;
    /* At a power of two the doubles above lie further apart than those below: the next digits up may do where the nearest do not. */
    for (char *p = strchr(digits, 'e') - 1; p >= digits; p--) {
        if (*p < '0' || *p > '9') continue;
        if (*p < '9') {
            ++*p;
            return strtod(digits, NULL) == f;
        }
        *p = '0';
    }
    return false;
}

size_t tdm_float_repr(char out[32], double f)
{
    char digits[32];
    if (isnan(f)) return (size_t)snprintf(out, 32, "nan");
    if (isinf(f)) return (size_t)snprintf(out, 32, f < 0 ? "-inf" : "inf");
    int precision = 1;
    while (!digits_fit(digits, precision, f) && precision < 17) precision++; /* the shortest that reads back as f */
    const int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        char *e = strchr(digits, 'e');
        return (size_t)snprintf(out, 32, "%.*se%c%02d", (int)(e - digits), digits, exponent < 0 ? '-' : '+', abs(exponent));
    }
    int places = precision - 1 - exponent;
    if (places < 1) places = 1;
    return (size_t)snprintf(out, 32, "%.*f", places, f);
}

static const tdm_jstr *without_underscores(tdm_jrun *r, const tdm_jstr *s)
{
    tdm_jbuf b = {0};
    const tdm_jstr *t = tdm_jstr_strip(r, s, NULL, 3);
    for (size_t i = 0; i < t->len; i++) {
        if (t->data[i] == '_') { /* one, between digits */
            if (i == 0 || i + 1 == t->len || !isalnum((unsigned char)t->data[i - 1]) || !isalnum((unsigned char)t->data[i + 1])) return NULL;
            continue;
        }
        tdm_jbuf_add(r, &b, &t->data[i], 1);
    }
    tdm_jbuf_add(r, &b, "", 1); /* NUL for strtod */
    return tdm_jstr_lend(r, b.data, b.len - 1);
}

bool tdm_float_parse(tdm_jrun *r, const tdm_jstr *s, double *f)
{
    const tdm_jstr *t = without_underscores(r, s);
    if (!t || !t->len || strlen(t->data) != t->len) return false;
    for (size_t i = 0; i < t->len; i++) /* strtod reads hexadecimal and nan(...) too, Python does not */
        if (t->data[i] == 'x' || t->data[i] == 'X' || t->data[i] == '(') return false;
    if (isspace((unsigned char)t->data[0])) return false;
    char *end = NULL;
    *f = strtod(t->data, &end);
    return *end == 0;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    const char low = (char)(c | 32);
    return low >= 'a' && low <= 'z' ? low - 'a' + 10 : 99;
}

bool tdm_int_parse(tdm_jrun *r, const tdm_jstr *s, int base, int64_t *i)
{
    if (base != 0 && (base < 2 || base > 36)) return false;
    const tdm_jstr *stripped = tdm_jstr_strip(r, s, NULL, 3), *t = without_underscores(r, s);
    if (!t || !t->len) return false;
    size_t p = 0;
    const bool negative = t->data[0] == '-';
    if (negative || t->data[0] == '+') p = 1;
    if (stripped->len > p && stripped->data[p] == '_') return false;
    const int prefix = t->len > p + 2 && t->data[p] == '0'
                           ? ((t->data[p + 1] | 32) == 'x' ? 16 : (t->data[p + 1] | 32) == 'o' ? 8 : (t->data[p + 1] | 32) == 'b' ? 2 : 0) : 0;
    bool any = false;
    int64_t v = 0;
    if (prefix && (base == 0 || base == prefix)) {
        p += 2;
        base = prefix;
    } else if (base == 0) {
        base = 10;
        if (t->data[p] == '0') base = 1; /* only zeros may follow */
    }
    for (; p < t->len; p++) {
        const int d = digit_of(t->data[p]);
        if (d >= base && !(base == 1 && d == 0)) return false;
        if (__builtin_mul_overflow(v, (int64_t)base, &v) || __builtin_sub_overflow(v, (int64_t)d, &v))
            tdm_jrun_fail(r, NULL, "an integer is past 64 bits");
        any = true;
    }
    if (!any) return false;
    if (!negative && v == INT64_MIN) tdm_jrun_fail(r, NULL, "an integer is past 64 bits");
    *i = negative ? v : -v;
    return true;
}

/* ---- str and repr ---------------------------------------------------------------------------------------------------------- */

static void repr_str(tdm_jrun *r, tdm_jbuf *b, const tdm_jstr *s)
{
    const char quote = memchr(s->data, '\'', s->len) && !memchr(s->data, '"', s->len) ? '"' : '\'';
    char text[16];
    tdm_jrun_charge(r, (int64_t)(s->len / 16));
    tdm_jbuf_add(r, b, &quote, 1);
    for (size_t i = 0; i < s->len;) {
        const size_t n = tdm_utf8_len(s->data + i);
        const uint32_t c = tdm_utf8_at(s->data + i);
        int len = 0;
        if (c == (uint32_t)quote || c == '\\') len = snprintf(text, sizeof(text), "\\%c", (char)c);
        else if (c == '\n') len = snprintf(text, sizeof(text), "\\n");
        else if (c == '\r') len = snprintf(text, sizeof(text), "\\r");
        else if (c == '\t') len = snprintf(text, sizeof(text), "\\t");
        else if (tdm_unicode_printable(c)) len = 0;
        else len = snprintf(text, sizeof(text), c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
        tdm_jbuf_add(r, b, len ? text : s->data + i, len ? (size_t)len : n);
        i += n;
    }
    tdm_jbuf_add(r, b, &quote, 1);
}

static void repr_items(tdm_jrun *r, tdm_jbuf *b, const tdm_jlist *l)
{
    for (int64_t i = 0; i < l->count; i++) {
        if (i) tdm_jbuf_text(r, b, ", ");
        tdm_jbuf_repr(r, b, l->at[i]);
    }
}

static void repr_dict(tdm_jrun *r, tdm_jbuf *b, const tdm_jdict *d)
{
    tdm_jbuf_text(r, b, "{");
    for (int64_t i = 0; i < d->count; i++) {
        if (i) tdm_jbuf_text(r, b, ", ");
        tdm_jbuf_repr(r, b, d->at[i].key);
        tdm_jbuf_text(r, b, ": ");
        tdm_jbuf_repr(r, b, d->at[i].value);
    }
    tdm_jbuf_text(r, b, "}");
}

static void repr_wrapped(tdm_jrun *r, tdm_jbuf *b, const char *before, const tdm_jlist *l, const char *after)
{
    tdm_jbuf_text(r, b, before);
    repr_items(r, b, l);
    tdm_jbuf_text(r, b, after);
}

static void repr_object(tdm_jrun *r, tdm_jbuf *b, tdm_jval v)
{
    char text[160];
    switch (v.kind) {
    case TDM_J_RANGE:
        if (v.u.range->step == 1) snprintf(text, sizeof(text), "range(%lld, %lld)", (long long)v.u.range->start, (long long)v.u.range->stop);
        else snprintf(text, sizeof(text), "range(%lld, %lld, %lld)", (long long)v.u.range->start, (long long)v.u.range->stop, (long long)v.u.range->step);
        break;
    case TDM_J_LOOP:
        snprintf(text, sizeof(text), "<LoopContext %lld/%lld>", (long long)v.u.loop->pos + 1, (long long)v.u.loop->items.count);
        break;
    case TDM_J_MACRO:
        if (v.u.macro->is_caller) snprintf(text, sizeof(text), "<Macro anonymous>");
        else snprintf(text, sizeof(text), "<Macro '%s'>", tdm_jstr_c(r, v.u.macro->node->name));
        break;
    default: /* Python prints an address here, so there is nothing to agree with */
        snprintf(text, sizeof(text), "<%s object>", tdm_jval_type(v));
        break;
    }
    tdm_jbuf_text(r, b, text);
}

/* Digits from the right: a list of millions of numbers is within a template's limits, and printf would take seconds for it. */
static void repr_int(tdm_jrun *r, tdm_jbuf *b, int64_t v)
{
    char text[24];
    size_t at = sizeof text;
    uint64_t left = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do {
        text[--at] = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    if (v < 0) text[--at] = '-';
    tdm_jbuf_add(r, b, text + at, sizeof text - at);
}

void tdm_jbuf_repr(tdm_jrun *r, tdm_jbuf *b, tdm_jval v)
{
    char text[32];
    tdm_jrun_enter(r);
    switch (v.kind) {
    case TDM_J_MISSING: case TDM_J_UNDEFINED: tdm_jbuf_text(r, b, "Undefined"); break;
    case TDM_J_NONE: tdm_jbuf_text(r, b, "None"); break;
    case TDM_J_BOOL: tdm_jbuf_text(r, b, v.u.b ? "True" : "False"); break;
    case TDM_J_INT: repr_int(r, b, v.u.i); break;
    case TDM_J_FLOAT: tdm_jbuf_add(r, b, text, tdm_float_repr(text, v.u.f)); break;
    case TDM_J_STR:
        if (v.u.s->markup) tdm_jbuf_text(r, b, "Markup(");
        repr_str(r, b, v.u.s);
        if (v.u.s->markup) tdm_jbuf_text(r, b, ")");
        break;
    case TDM_J_LIST: repr_wrapped(r, b, "[", v.u.list, "]"); break;
    case TDM_J_TUPLE: repr_wrapped(r, b, "(", v.u.list, v.u.list->count == 1 ? ",)" : ")"); break;
    case TDM_J_VIEW:
        tdm_jbuf_text(r, b, v.u.view->type);
        repr_wrapped(r, b, "([", &v.u.view->items, "])");
        break;
    case TDM_J_DICT: repr_dict(r, b, v.u.dict); break;
    case TDM_J_NAMESPACE:
        tdm_jbuf_text(r, b, "<Namespace ");
        repr_dict(r, b, v.u.dict);
        tdm_jbuf_text(r, b, ">");
        break;
    default: repr_object(r, b, v); break;
    }
    tdm_jrun_leave(r);
}

void tdm_jbuf_str(tdm_jrun *r, tdm_jbuf *b, tdm_jval v)
{
    if (v.kind == TDM_J_STR) tdm_jbuf_add(r, b, v.u.s->data, v.u.s->len);
    else if (v.kind != TDM_J_UNDEFINED) tdm_jbuf_repr(r, b, v);
}

const tdm_jstr *tdm_jval_str(tdm_jrun *r, tdm_jval v)
{
    tdm_jbuf b = {0};
    if (v.kind == TDM_J_STR) return v.u.s;
    tdm_jbuf_str(r, &b, v);
    return tdm_jbuf_done(r, &b);
}

const char *tdm_jstr_c(tdm_jrun *r, const tdm_jstr *s)
{
    size_t n = s->len < 200 ? s->len : 200;
    while (n < s->len && n > 0 && ((unsigned char)s->data[n] & 0xC0) == 0x80) n--; /* not inside a character */
    char *c = tdm_jrun_alloc(r, n + 1);
    memcpy(c, s->data, n);
    for (size_t i = 0; i < n; i++)
        if (!c[i]) c[i] = ' ';
    return c;
}

const char *tdm_jval_repr_c(tdm_jrun *r, tdm_jval v)
{
    tdm_jbuf b = {0};
    tdm_jbuf_repr(r, &b, v);
    return tdm_jstr_c(r, tdm_jbuf_done(r, &b));
}

const tdm_jstr *tdm_jstr_escape(tdm_jrun *r, const tdm_jstr *s)
{
    static const struct { char c; const char *to; } map[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    tdm_jbuf b = {0};
    if (s->markup) return s;
    tdm_jrun_charge(r, (int64_t)(s->len / 16));
    for (size_t i = 0; i < s->len; i++) {
        const char *to = NULL;
        for (size_t k = 0; k < TDM_COUNT(map); k++)
            if (map[k].c == s->data[i]) to = map[k].to;
        if (to) tdm_jbuf_text(r, &b, to);
        else tdm_jbuf_add(r, &b, &s->data[i], 1);
    }
    tdm_jstr *done = tdm_jrun_alloc(r, sizeof(*done));
    *done = *tdm_jbuf_done(r, &b);
    done->markup = true;
    return done;
}

/* ---- json.dumps ------------------------------------------------------------------------------------------------------------ */

typedef struct json_how {
    bool ascii, sort;
    const tdm_jstr *indent, *item_sep, *key_sep; /* indent NULL: one line */
} json_how;

static void json_str(tdm_jrun *r, tdm_jbuf *b, const tdm_jstr *s, bool ascii)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    char text[16];
    tdm_jrun_charge(r, (int64_t)(s->len / 16));
    tdm_jbuf_text(r, b, "\"");
    for (size_t i = 0; i < s->len;) {
        const size_t n = tdm_utf8_len(s->data + i);
        const uint32_t c = tdm_utf8_at(s->data + i);
        const char *simple = c && c < 0x80 ? strchr(from, (char)c) : NULL;
        int len = 0;
        if (simple) len = snprintf(text, sizeof(text), "\\%c", to[simple - from]);
        else if (c < 0x20 || (ascii && c >= 0x7F && c < 0x10000)) len = snprintf(text, sizeof(text), "\\u%04x", (unsigned)c);
        else if (ascii && c >= 0x10000)
            len = snprintf(text, sizeof(text), "\\u%04x\\u%04x", (unsigned)(0xD7C0 + (c >> 10)), (unsigned)(0xDC00 + (c & 0x3FF)));
        tdm_jbuf_add(r, b, len ? text : s->data + i, len ? (size_t)len : n);
        i += n;
    }
    tdm_jbuf_text(r, b, "\"");
}

static void json_float(tdm_jrun *r, tdm_jbuf *b, double f)
{
    char text[32];
    if (isnan(f)) tdm_jbuf_text(r, b, "NaN");
    else if (isinf(f)) tdm_jbuf_text(r, b, f < 0 ? "-Infinity" : "Infinity");
    else tdm_jbuf_add(r, b, text, tdm_float_repr(text, f));
}

static void json_break(tdm_jrun *r, tdm_jbuf *b, const json_how *how, int level)
{
    if (!how->indent) return;
    tdm_jbuf_text(r, b, "\n");
    for (int i = 0; i < level; i++) tdm_jbuf_add(r, b, how->indent->data, how->indent->len);
}

static void json_value(tdm_jrun *r, tdm_jbuf *b, tdm_jval v, const json_how *how, int level);

static void json_list(tdm_jrun *r, tdm_jbuf *b, const tdm_jlist *l, const json_how *how, int level)
{
    tdm_jbuf_text(r, b, "[");
    for (int64_t i = 0; i < l->count; i++) {
        if (i) tdm_jbuf_add(r, b, how->item_sep->data, how->item_sep->len);
        json_break(r, b, how, level + 1);
        json_value(r, b, l->at[i], how, level + 1);
    }
    if (l->count) json_break(r, b, how, level);
    tdm_jbuf_text(r, b, "]");
}

static void json_key(tdm_jrun *r, tdm_jbuf *b, tdm_jval key, const json_how *how)
{
    tdm_jbuf text = {0};
    switch (key.kind) {
    case TDM_J_STR: json_str(r, b, key.u.s, how->ascii); return;
    case TDM_J_NONE: tdm_jbuf_text(r, &text, "null"); break;
    case TDM_J_BOOL: tdm_jbuf_text(r, &text, key.u.b ? "true" : "false"); break;
    case TDM_J_INT: tdm_jbuf_repr(r, &text, key); break;
    case TDM_J_FLOAT: json_float(r, &text, key.u.f); break;
    default: tdm_jrun_fail(r, NULL, "tojson: keys must be str, int, float, bool or None, not %s", tdm_jval_type(key));
    }
    json_str(r, b, tdm_jbuf_done(r, &text), how->ascii);
}

static void json_dict(tdm_jrun *r, tdm_jbuf *b, const tdm_jdict *d, const json_how *how, int level)
{
    tdm_jlist *order = tdm_jlist_new(r, d->count), *keys = tdm_jlist_new(r, d->count);
    for (int64_t i = 0; i < d->count; i++) {
        tdm_jlist_push(r, order, tdm_jv_int(i));
        tdm_jlist_push(r, keys, d->at[i].key);
    }
    if (how->sort) tdm_jval_sort(r, order->at, keys->at, d->count, false);
    tdm_jbuf_text(r, b, "{");
    for (int64_t i = 0; i < d->count; i++) {
        const tdm_jentry *e = &d->at[order->at[i].u.i];
        if (i) tdm_jbuf_add(r, b, how->item_sep->data, how->item_sep->len);
        json_break(r, b, how, level + 1);
        json_key(r, b, e->key, how);
        tdm_jbuf_add(r, b, how->key_sep->data, how->key_sep->len);
        json_value(r, b, e->value, how, level + 1);
    }
    if (d->count) json_break(r, b, how, level);
    tdm_jbuf_text(r, b, "}");
}

static void json_value(tdm_jrun *r, tdm_jbuf *b, tdm_jval v, const json_how *how, int level)
{
    tdm_jrun_enter(r);
    switch (v.kind) {
    case TDM_J_NONE: tdm_jbuf_text(r, b, "null"); break;
    case TDM_J_BOOL: tdm_jbuf_text(r, b, v.u.b ? "true" : "false"); break;
    case TDM_J_INT: tdm_jbuf_repr(r, b, v); break;
    case TDM_J_FLOAT: json_float(r, b, v.u.f); break;
    case TDM_J_STR: json_str(r, b, v.u.s, how->ascii); break;
    case TDM_J_LIST: case TDM_J_TUPLE: json_list(r, b, v.u.list, how, level); break;
    case TDM_J_DICT: json_dict(r, b, v.u.dict, how, level); break;
    default: tdm_jrun_fail(r, NULL, "tojson: object of type %s is not JSON serializable", tdm_jval_type(v));
    }
    tdm_jrun_leave(r);
}

tdm_jval tdm_jfilter_tojson(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval given[4];
    tdm_jbuf b = {0}, spaces = {0};
    tdm_jargs_bind(r, args, "tojson", "ensure_ascii indent separators sort_keys", 0, given);
    json_how how = {.ascii = tdm_jval_true(r, given[0]), .sort = tdm_jval_true(r, given[3])};
    if (given[1].kind == TDM_J_STR) {
        how.indent = given[1].u.s;
    } else if (tdm_jval_is_int(given[1])) {
        for (int64_t i = 0; i < tdm_jval_int(given[1]); i++) {
            tdm_jrun_charge(r, 1);
            tdm_jbuf_text(r, &spaces, " ");
        }
        how.indent = tdm_jbuf_done(r, &spaces);
    } else if (given[1].kind != TDM_J_MISSING && given[1].kind != TDM_J_NONE) {
        tdm_jrun_fail(r, NULL, "tojson: indent is neither a number nor a string");
    }
    how.item_sep = tdm_jv_text(r, how.indent ? "," : ", ").u.s;
    how.key_sep = tdm_jv_text(r, ": ").u.s;
    if (given[2].kind == TDM_J_LIST || given[2].kind == TDM_J_TUPLE) {
        const tdm_jlist *l = given[2].u.list;
        if (l->count != 2 || l->at[0].kind != TDM_J_STR || l->at[1].kind != TDM_J_STR)
            tdm_jrun_fail(r, NULL, "tojson: separators are not two strings");
        how.item_sep = l->at[0].u.s;
        how.key_sep = l->at[1].u.s;
    } else if (given[2].kind != TDM_J_MISSING && given[2].kind != TDM_J_NONE) {
        tdm_jrun_fail(r, NULL, "tojson: separators are not two strings");
    }
    json_value(r, &b, self, &how, 0);
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}
