/* Filters over single values: text and numbers. Source: jinja2/filters.py. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/text/chat_internal.h"

static bool absent(tdm_jval v) { return v.kind == TDM_J_MISSING || v.kind == TDM_J_NONE; }

static int64_t int_of(tdm_jrun *r, tdm_jval v, const char *what, int64_t otherwise)
{
    if (v.kind == TDM_J_MISSING) return otherwise;
    if (!tdm_jval_is_int(v)) tdm_jrun_fail(r, NULL, "%s expects an integer, not %s", what, tdm_jval_type(v));
    return tdm_jval_int(v);
}

/* What adds to, slices or measures a string in Python and so fails on anything else. */
static const tdm_jstr *str_of(tdm_jrun *r, tdm_jval v, const char *what)
{
    if (v.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, v.u.s));
    if (v.kind != TDM_J_STR) tdm_jrun_fail(r, NULL, "%s expects a string, not %s", what, tdm_jval_type(v));
    return v.u.s;
}

/* ---- text ------------------------------------------------------------------------------------------------------------------ */

static tdm_jval change_case(tdm_jrun *r, tdm_jval v, const tdm_jargs *args, const char *what, tdm_jcase how)
{
    tdm_jargs_bind(r, args, what, "", 0, NULL);
    const tdm_jstr *s = tdm_jval_str(r, v);
    return tdm_jv_like(r, tdm_jstr_case(r, s, how), s);
}

static tdm_jval f_upper(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return change_case(r, v, args, "upper", TDM_JCASE_UPPER); }
static tdm_jval f_lower(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return change_case(r, v, args, "lower", TDM_JCASE_LOWER); }
static tdm_jval f_capitalize(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return change_case(r, v, args, "capitalize", TDM_JCASE_CAPITALIZE); }

/* Words begin after white space and after - ( { [ <; unlike str.title, not after a digit or an apostrophe. */
static tdm_jval f_title(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jbuf b = {0};
    tdm_jargs_bind(r, args, "title", "", 0, NULL);
    const tdm_jstr *s = tdm_jval_str(r, v);
    for (size_t i = 0; i < s->len;) {
        const size_t first = tdm_utf8_len(s->data + i);
        const uint32_t c = tdm_utf8_at(s->data + i);
        size_t end = i + first;
        if (!tdm_unicode_space(c) && (c >= 0x80 || !c || !strchr("-({[<", (char)c))) {
            while (end < s->len) {
                const uint32_t d = tdm_utf8_at(s->data + end);
                if (tdm_unicode_space(d) || (d && d < 0x80 && strchr("-({[<", (char)d))) break;
                end += tdm_utf8_len(s->data + end);
            }
        }
        tdm_jbuf_str(r, &b, tdm_jv_str(tdm_jstr_case(r, tdm_jstr_lend(r, s->data + i, first), TDM_JCASE_UPPER)));
        tdm_jbuf_str(r, &b, tdm_jv_str(tdm_jstr_case(r, tdm_jstr_lend(r, s->data + i + first, end - i - first), TDM_JCASE_LOWER)));
        i = end;
    }
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}

static tdm_jval f_trim(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval chars;
    tdm_jargs_bind(r, args, "trim", "chars", 0, &chars);
    const tdm_jstr *s = tdm_jval_str(r, v);
    return tdm_jv_like(r, tdm_jstr_strip(r, s, absent(chars) ? NULL : str_of(r, chars, "trim"), 3), s);
}

static tdm_jval f_replace(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[3];
    tdm_jargs_bind(r, args, "replace", "old new count", 2, given);
    const int64_t max = given[2].kind == TDM_J_NONE ? -1 : int_of(r, given[2], "replace", -1);
    return tdm_jv_str(tdm_jstr_replace(r, tdm_jval_str(r, v), tdm_jval_str(r, given[0]), tdm_jval_str(r, given[1]), max));
}

static tdm_jval f_center(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval width;
    tdm_jargs_bind(r, args, "center", "width", 0, &width);
    return tdm_jstr_center(r, tdm_jval_str(r, v), int_of(r, width, "center", 80), " ", 3);
}

static const tdm_jstr *indention(tdm_jrun *r, tdm_jval width)
{
    if (width.kind == TDM_J_STR) return width.u.s;
    return tdm_jstr_center(r, tdm_jstr_lend(r, "", 0), int_of(r, width, "indent", 4), " ", 2).u.s;
}

static tdm_jval f_indent(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[3];
    tdm_jbuf b = {0};
    tdm_jargs_bind(r, args, "indent", "width first blank", 0, given);
    const tdm_jstr *by = indention(r, given[0]), *s = str_of(r, v, "indent");
    const bool first = tdm_jval_true(r, given[1]), blank = tdm_jval_true(r, given[2]);
    tdm_jbuf whole = {0};
    tdm_jbuf_add(r, &whole, s->data, s->len);
    tdm_jbuf_text(r, &whole, "\n");
    const tdm_jval lines = tdm_jstr_split_lines(r, tdm_jbuf_done(r, &whole), false);
    for (int64_t i = 0; i < lines.u.list->count; i++) {
        const tdm_jstr *line = lines.u.list->at[i].u.s;
        tdm_jrun_charge(r, 1);
        if (i) tdm_jbuf_text(r, &b, "\n");
        if (i ? blank || line->len : first) tdm_jbuf_add(r, &b, by->data, by->len);
        tdm_jbuf_add(r, &b, line->data, line->len);
    }
    return tdm_jv_like(r, tdm_jbuf_done(r, &b), s);
}

static tdm_jval f_truncate(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[4];
    tdm_jargs_bind(r, args, "truncate", "length killwords end leeway", 0, given);
    const int64_t length = int_of(r, given[0], "truncate", 255), leeway = absent(given[3]) ? 5 : int_of(r, given[3], "truncate", 5);
    const tdm_jstr *end = given[2].kind == TDM_J_MISSING ? tdm_jv_text(r, "...").u.s : str_of(r, given[2], "truncate");
    const int64_t end_count = tdm_utf8_count(end->data, end->len);
    if (length < end_count) tdm_jrun_fail(r, NULL, "truncate: expected length >= %lld, got %lld", (long long)end_count, (long long)length);
    if (leeway < 0) tdm_jrun_fail(r, NULL, "truncate: expected leeway >= 0, got %lld", (long long)leeway);
    if (tdm_jval_len(r, v) - length <= leeway) return v;
    const tdm_jstr *s = str_of(r, v, "truncate");
    size_t keep = tdm_utf8_offset(s->data, s->len, length - end_count);
    if (!tdm_jval_true(r, given[1])) {
        const char *space = memrchr(s->data, ' ', keep);
        if (space) keep = (size_t)(space - s->data);
    }
    tdm_jbuf b = {0};
    tdm_jbuf_add(r, &b, s->data, keep);
    tdm_jbuf_add(r, &b, end->data, end->len);
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}

static tdm_jval f_wordcount(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bool inside = false;
    int64_t n = 0;
    tdm_jargs_bind(r, args, "wordcount", "", 0, NULL);
    const tdm_jstr *s = tdm_jval_str(r, v);
    tdm_jrun_charge(r, (int64_t)(s->len / 16));
    for (size_t i = 0; i < s->len; i += tdm_utf8_len(s->data + i)) {
        const bool word = tdm_unicode_word(tdm_utf8_at(s->data + i));
        n += word && !inside;
        inside = word;
    }
    return tdm_jv_int(n);
}

static tdm_jval f_string(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jargs_bind(r, args, "string", "", 0, NULL);
    return tdm_jv_str(tdm_jval_str(r, v));
}

static tdm_jval f_escape(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jargs_bind(r, args, "escape", "", 0, NULL);
    return tdm_jv_str(tdm_jstr_escape(r, tdm_jval_str(r, v)));
}

static tdm_jval f_forceescape(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jargs_bind(r, args, "forceescape", "", 0, NULL);
    const tdm_jstr *s = tdm_jval_str(r, v);
    return tdm_jv_str(tdm_jstr_escape(r, tdm_jstr_lend(r, s->data, s->len)));
}

static tdm_jval f_safe(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    static const tdm_jstr markup = {.markup = true};
    tdm_jargs_bind(r, args, "safe", "", 0, NULL);
    return tdm_jv_like(r, tdm_jval_str(r, v), &markup);
}

static tdm_jval f_format(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    const tdm_jstr *s = tdm_jval_str(r, v);
    if (args->count && args->kw_count) tdm_jrun_fail(r, NULL, "format: can't handle positional and keyword arguments at the same time");
    if (args->kw_count) {
        tdm_jdict *d = tdm_jdict_new(r);
        for (int64_t i = 0; i < args->kw_count; i++) tdm_jdict_set(r, d, tdm_jv_str(args->kw[i].name), args->kw[i].value);
        return tdm_jformat_percent(r, s, tdm_jv_dict(d));
    }
    tdm_jlist *l = tdm_jlist_new(r, args->count);
    for (int64_t i = 0; i < args->count; i++) tdm_jlist_push(r, l, args->at[i]);
    return tdm_jformat_percent(r, s, tdm_jv_tuple(l));
}

/* ---- numbers --------------------------------------------------------------------------------------------------------------- */

static void refuse_undefined(tdm_jrun *r, tdm_jval v)
{
    if (v.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, v.u.s));
}

static int64_t truncated(tdm_jrun *r, double f)
{
    if (isinf(f)) tdm_jrun_fail(r, NULL, "cannot convert float infinity to integer");
    if (!(f >= -0x1p63 && f < 0x1p63)) tdm_jrun_fail(r, NULL, "an integer is past 64 bits");
    return (int64_t)f;
}

static tdm_jval f_int(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[2];
    int64_t i = 0;
    double f = 0;
    tdm_jargs_bind(r, args, "int", "default base", 0, given);
    const tdm_jval otherwise = given[0].kind == TDM_J_MISSING ? tdm_jv_int(0) : given[0];
    refuse_undefined(r, v);
    if (tdm_jval_is_int(v)) return tdm_jv_int(tdm_jval_int(v));
    if (v.kind == TDM_J_FLOAT) return isnan(v.u.f) ? otherwise : tdm_jv_int(truncated(r, v.u.f));
    if (v.kind != TDM_J_STR) return otherwise;
    int64_t base = given[1].kind == TDM_J_MISSING ? 10 : tdm_jval_is_int(given[1]) ? tdm_jval_int(given[1]) : -1;
    if (base < 0 || base > 36) base = 1; /* none that int() takes */
    if (tdm_int_parse(r, v.u.s, (int)base, &i)) return tdm_jv_int(i);
    if (!tdm_float_parse(r, v.u.s, &f) || isnan(f) || isinf(f)) return otherwise;
    return tdm_jv_int(truncated(r, f));
}

static tdm_jval f_float(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given;
    double f = 0;
    tdm_jargs_bind(r, args, "float", "default", 0, &given);
    refuse_undefined(r, v);
    if (tdm_jval_is_number(v)) return tdm_jv_float(tdm_jval_double(v));
    if (v.kind == TDM_J_STR && tdm_float_parse(r, v.u.s, &f)) return tdm_jv_float(f);
    return given.kind == TDM_J_MISSING ? tdm_jv_float(0) : given;
}

static tdm_jval f_abs(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jargs_bind(r, args, "abs", "", 0, NULL);
    if (v.kind == TDM_J_FLOAT) return tdm_jv_float(fabs(v.u.f));
    if (!tdm_jval_is_int(v)) tdm_jrun_fail(r, NULL, "bad operand type for abs(): '%s'", tdm_jval_type(v));
    if (tdm_jval_int(v) == INT64_MIN) tdm_jrun_fail(r, NULL, "an integer is past 64 bits");
    return tdm_jv_int(tdm_jval_int(v) < 0 ? -tdm_jval_int(v) : tdm_jval_int(v));
}

/* round(i, -digits): to the nearest multiple of 10^digits, halves to the even one. */
static tdm_jval round_int(tdm_jrun *r, int64_t i, int64_t digits)
{
    int64_t unit = 1, v = 0;
    for (int64_t k = 0; k < digits; k++)
        if (__builtin_mul_overflow(unit, (int64_t)10, &unit)) return tdm_jv_int(0);
    int64_t q = i / unit;
    const uint64_t rest = i % unit < 0 ? 0 - (uint64_t)(i % unit) : (uint64_t)(i % unit), twice = rest * 2;
    if (twice > (uint64_t)unit || (twice == (uint64_t)unit && q % 2 != 0)) q += i < 0 ? -1 : 1;
    if (__builtin_mul_overflow(q, unit, &v)) tdm_jrun_fail(r, NULL, "an integer is past 64 bits");
    return tdm_jv_int(v);
}

/* Correctly rounded in decimal, halves of the exact value to even, as Python's round. */
static double round_double(tdm_jrun *r, double f, int64_t digits)
{
    char text[512];
    if (!isfinite(f) || f == 0 || digits > 340) return f;
    if (digits >= 0) {
        snprintf(text, sizeof(text), "%.*f", (int)digits, f);
    } else {
        int exponent = 0;
        snprintf(text, sizeof(text), "%.17e", f);
        exponent = atoi(strchr(text, 'e') + 1);
        const int64_t kept = exponent + 1 + digits; /* significant digits that stay */
        if (kept < 0) return copysign(0.0, f);
        if (kept > 0) {
            snprintf(text, sizeof(text), "%.*e", (int)kept - 1, f);
        } else { /* none: up to one unit or down to nothing */
            const double half = strtod("5e0", NULL) * pow(10, exponent);
            return fabs(f) > half ? copysign(pow(10, exponent + 1), f) : copysign(0.0, f);
        }
    }
    const double v = strtod(text, NULL);
    if (isinf(v)) tdm_jrun_fail(r, NULL, "rounded value too large to represent");
    return v;
}

static tdm_jval f_round(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[2];
    tdm_jargs_bind(r, args, "round", "precision method", 0, given);
    const tdm_jstr *method = given[1].kind == TDM_J_MISSING ? tdm_jv_text(r, "common").u.s : str_of(r, given[1], "round");
    const bool up = tdm_jstr_is(method, "ceil"), down = tdm_jstr_is(method, "floor");
    if (!up && !down && !tdm_jstr_is(method, "common")) tdm_jrun_fail(r, NULL, "round: method must be common, ceil or floor");
    refuse_undefined(r, v);
    if (!tdm_jval_is_number(v)) tdm_jrun_fail(r, NULL, "round expects a number, not %s", tdm_jval_type(v));
    if (!up && !down) {
        if (given[0].kind == TDM_J_NONE) return v.kind == TDM_J_FLOAT ? tdm_jv_int(truncated(r, nearbyint(v.u.f))) : tdm_jv_int(tdm_jval_int(v));
        const int64_t digits = int_of(r, given[0], "round", 0);
        if (v.kind == TDM_J_FLOAT) return tdm_jv_float(round_double(r, v.u.f, digits));
        return digits >= 0 ? tdm_jv_int(tdm_jval_int(v)) : round_int(r, tdm_jval_int(v), -digits);
    }
    const tdm_jval unit = tdm_jbinary(r, TDM_JT_POW, tdm_jv_int(10), given[0].kind == TDM_J_MISSING ? tdm_jv_int(0) : given[0]);
    tdm_jval scaled = tdm_jbinary(r, TDM_JT_MUL, v, unit);
    if (scaled.kind == TDM_J_FLOAT) {
        if (isnan(scaled.u.f)) tdm_jrun_fail(r, NULL, "cannot convert float NaN to integer");
        scaled = tdm_jv_int(truncated(r, up ? ceil(scaled.u.f) : floor(scaled.u.f)));
    }
    return tdm_jbinary(r, TDM_JT_DIV, scaled, unit);
}

/* ---- any value ------------------------------------------------------------------------------------------------------------- */

static tdm_jval f_default(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval given[2];
    tdm_jargs_bind(r, args, "default", "default_value boolean", 0, given);
    const bool use = v.kind == TDM_J_UNDEFINED || (tdm_jval_true(r, given[1]) && !tdm_jval_true(r, v));
    if (!use) return v;
    return given[0].kind == TDM_J_MISSING ? tdm_jv_text(r, "") : given[0];
}

static tdm_jval f_attr(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    tdm_jval name;
    tdm_jargs_bind(r, args, "attr", "name", 1, &name);
    if (name.kind != TDM_J_STR) tdm_jrun_fail(r, NULL, "attribute name must be string, not '%s'", tdm_jval_type(name));
    refuse_undefined(r, v);
    const tdm_jval own = tdm_jown_attr(r, v, name.u.s);
    if (own.kind != TDM_J_MISSING) return own;
    return tdm_jv_undefined(r, "'%s' object has no attribute '%s'", tdm_jval_type(v), tdm_jstr_c(r, name.u.s));
}

const tdm_jnamed *tdm_jfilter_find(const tdm_jstr *name)
{
    static const tdm_jnamed filters[] = {
        {"trim", f_trim}, {"tojson", tdm_jfilter_tojson}, {"default", f_default}, {"d", f_default}, {"string", f_string},
        {"upper", f_upper}, {"lower", f_lower}, {"title", f_title}, {"capitalize", f_capitalize}, {"replace", f_replace},
        {"indent", f_indent}, {"int", f_int}, {"float", f_float}, {"round", f_round}, {"abs", f_abs}, {"safe", f_safe},
        {"escape", f_escape}, {"e", f_escape}, {"forceescape", f_forceescape}, {"center", f_center}, {"truncate", f_truncate},
        {"wordcount", f_wordcount}, {"format", f_format}, {"attr", f_attr}};
    const tdm_jnamed *found = tdm_jtable_find(filters, TDM_COUNT(filters), name);
    return found ? found : tdm_jfilter_seq_find(name);
}
