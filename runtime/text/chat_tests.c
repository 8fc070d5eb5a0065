/* What may follow `is`. Source: jinja2/tests.py. */
#include "runtime/text/chat_internal.h"

static void bind_none(tdm_jrun *r, const tdm_jargs *args, const char *what)
{
    if (args->count || args->kw_count) tdm_jrun_fail(r, NULL, "the test %s takes no argument", what);
}

static tdm_jval other_of(tdm_jrun *r, const tdm_jargs *args, const char *what, const char *names)
{
    tdm_jval other;
    tdm_jargs_bind(r, args, what, names, 1, &other);
    return other;
}

static bool remainder_is(tdm_jrun *r, tdm_jval v, tdm_jval by, int64_t want)
{
    return tdm_jval_eq(r, tdm_jbinary(r, TDM_JT_MOD, v, by), tdm_jv_int(want));
}

static tdm_jval is_odd(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "odd");
    return tdm_jv_bool(remainder_is(r, v, tdm_jv_int(2), 1));
}

static tdm_jval is_even(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "even");
    return tdm_jv_bool(remainder_is(r, v, tdm_jv_int(2), 0));
}

static tdm_jval is_divisibleby(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    return tdm_jv_bool(remainder_is(r, v, other_of(r, args, "divisibleby", "num"), 0));
}

static tdm_jval is_defined(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "defined");
    return tdm_jv_bool(v.kind != TDM_J_UNDEFINED);
}

static tdm_jval is_undefined(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "undefined");
    return tdm_jv_bool(v.kind == TDM_J_UNDEFINED);
}

static tdm_jval is_none(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "none");
    return tdm_jv_bool(v.kind == TDM_J_NONE);
}

static tdm_jval is_boolean(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "boolean");
    return tdm_jv_bool(v.kind == TDM_J_BOOL);
}

static tdm_jval is_true(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "true");
    return tdm_jv_bool(v.kind == TDM_J_BOOL && v.u.b);
}

static tdm_jval is_false(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "false");
    return tdm_jv_bool(v.kind == TDM_J_BOOL && !v.u.b);
}

static tdm_jval is_integer(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "integer");
    return tdm_jv_bool(v.kind == TDM_J_INT);
}

static tdm_jval is_float(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "float");
    return tdm_jv_bool(v.kind == TDM_J_FLOAT);
}

static tdm_jval is_number(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "number");
    return tdm_jv_bool(tdm_jval_is_number(v));
}

static tdm_jval is_string(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "string");
    return tdm_jv_bool(v.kind == TDM_J_STR);
}

static tdm_jval is_mapping(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "mapping");
    return tdm_jv_bool(v.kind == TDM_J_DICT);
}

static tdm_jval is_sequence(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "sequence"); /* anything with len() and subscripts: strings and mappings too */
    return tdm_jv_bool(v.kind == TDM_J_STR || v.kind == TDM_J_LIST || v.kind == TDM_J_TUPLE || v.kind == TDM_J_RANGE ||
                       v.kind == TDM_J_DICT || v.kind == TDM_J_UNDEFINED);
}

static tdm_jval is_iterable(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "iterable");
    return tdm_jv_bool(tdm_jval_iterable(v));
}

static tdm_jval is_callable(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "callable");
    return tdm_jv_bool(v.kind == TDM_J_FUNC || v.kind == TDM_J_MACRO || v.kind == TDM_J_LOOP || v.kind == TDM_J_JOINER ||
                       v.kind == TDM_J_UNDEFINED);
}

static tdm_jval is_escaped(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "escaped");
    return tdm_jv_bool(v.kind == TDM_J_STR && v.u.s->markup);
}

static tdm_jval is_lower(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "lower");
    return tdm_jv_bool(tdm_jstr_is_case(tdm_jval_str(r, v), tdm_unicode_lower));
}

static tdm_jval is_upper(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "upper");
    return tdm_jv_bool(tdm_jstr_is_case(tdm_jval_str(r, v), tdm_unicode_upper));
}

static tdm_jval is_sameas(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    const tdm_jval o = other_of(r, args, "sameas", "other");
    if (v.kind != o.kind) return tdm_jv_bool(false);
    switch (v.kind) {
    case TDM_J_MISSING: case TDM_J_NONE: return tdm_jv_bool(true);
    case TDM_J_BOOL: case TDM_J_INT: case TDM_J_FLOAT: case TDM_J_STR: return tdm_jv_bool(tdm_jval_eq(r, v, o));
    default: return tdm_jv_bool(v.u.list == o.u.list);
    }
}

static tdm_jval is_in(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return tdm_jv_bool(tdm_jval_contains(r, v, other_of(r, args, "in", "seq"))); }
static tdm_jval is_eq(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return tdm_jv_bool(tdm_jval_eq(r, v, other_of(r, args, "eq", "/ other"))); }
static tdm_jval is_ne(tdm_jrun *r, tdm_jval v, const tdm_jargs *args) { return tdm_jv_bool(!tdm_jval_eq(r, v, other_of(r, args, "ne", "/ other"))); }

static tdm_jval is_lt(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    return tdm_jv_bool(tdm_jval_cmp(r, v, other_of(r, args, "lt", "/ other"), "<") == -1);
}

static tdm_jval is_le(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    return tdm_jv_bool(tdm_jval_cmp(r, v, other_of(r, args, "le", "/ other"), "<=") <= 0);
}

static tdm_jval is_gt(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    return tdm_jv_bool(tdm_jval_cmp(r, v, other_of(r, args, "gt", "/ other"), ">") == 1);
}

static tdm_jval is_ge(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    const int c = tdm_jval_cmp(r, v, other_of(r, args, "ge", "/ other"), ">=");
    return tdm_jv_bool(c == 0 || c == 1);
}

static tdm_jval is_filter(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "filter");
    return tdm_jv_bool(v.kind == TDM_J_STR && tdm_jfilter_find(v.u.s));
}

static tdm_jval is_test(tdm_jrun *r, tdm_jval v, const tdm_jargs *args)
{
    bind_none(r, args, "test");
    return tdm_jv_bool(v.kind == TDM_J_STR && tdm_jtest_find(v.u.s));
}

const tdm_jnamed *tdm_jtest_find(const tdm_jstr *name)
{
    static const tdm_jnamed tests[] = {
        {"odd", is_odd}, {"even", is_even}, {"divisibleby", is_divisibleby}, {"defined", is_defined}, {"undefined", is_undefined},
        {"filter", is_filter}, {"test", is_test}, {"none", is_none}, {"boolean", is_boolean}, {"true", is_true}, {"false", is_false},
        {"integer", is_integer}, {"float", is_float}, {"lower", is_lower}, {"upper", is_upper}, {"string", is_string},
        {"mapping", is_mapping}, {"number", is_number}, {"sequence", is_sequence}, {"iterable", is_iterable},
        {"callable", is_callable}, {"sameas", is_sameas}, {"escaped", is_escaped}, {"in", is_in}, {"==", is_eq}, {"eq", is_eq},
        {"equalto", is_eq}, {"!=", is_ne}, {"ne", is_ne}, {">", is_gt}, {"gt", is_gt}, {"greaterthan", is_gt}, {">=", is_ge},
        {"ge", is_ge}, {"<", is_lt}, {"lt", is_lt}, {"lessthan", is_lt}, {"<=", is_le}, {"le", is_le}};
    return tdm_jtable_find(tests, TDM_COUNT(tests), name);
}
