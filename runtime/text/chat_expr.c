/* Expressions: names, literals, operators, comparisons. */
#include <math.h>

#include "runtime/text/chat_internal.h"

/* ---- arithmetic ------------------------------------------------------------------------------------------------------------ */

static _Noreturn void unsupported(tdm_jrun *r, const char *op, tdm_jval a, tdm_jval b)
{
    if (a.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, a.u.s));
    if (b.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, b.u.s));
    tdm_jrun_fail(r, NULL, "unsupported operand types for %s: '%s' and '%s'", op, tdm_jval_type(a), tdm_jval_type(b));
}

static _Noreturn void overflow(tdm_jrun *r) { tdm_jrun_fail(r, NULL, "an integer is past 64 bits"); }

static void check_divisor(tdm_jrun *r, bool zero)
{
    if (zero) tdm_jrun_fail(r, NULL, "division by zero");
}

static int64_t floor_div(tdm_jrun *r, int64_t a, int64_t b)
{
    check_divisor(r, b == 0);
    if (a == INT64_MIN && b == -1) overflow(r);
    return a / b - (a % b != 0 && (a % b < 0) != (b < 0));
}

static int64_t floor_mod(tdm_jrun *r, int64_t a, int64_t b)
{
    check_divisor(r, b == 0);
    if (b == -1) return 0;
    const int64_t m = a % b;
    return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}

static int64_t int_pow(tdm_jrun *r, int64_t base, int64_t exponent)
{
    int64_t v = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(v, base, &v)) overflow(r);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) overflow(r);
    }
    return v;
}

/* Python's float % and //: the sign of the divisor. */
static double float_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m != 0) return (b < 0) != (m < 0) ? m + b : m;
    return copysign(0.0, b);
}

static double float_floor_div(double a, double b)
{
    double m = fmod(a, b), div = (a - m) / b;
    if (m != 0 && (b < 0) != (m < 0)) div -= 1.0;
    if (div == 0) return copysign(0.0, a / b);
    double whole = floor(div);
    if (div - whole > 0.5) whole += 1.0;
    return whole;
}

static tdm_jval float_pow(tdm_jrun *r, double a, double b)
{
    check_divisor(r, a == 0 && b < 0);
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b)) tdm_jrun_fail(r, NULL, "a power is a complex number");
    const double v = pow(a, b);
    if (isinf(v) && isfinite(a) && isfinite(b)) tdm_jrun_fail(r, NULL, "a power is too large for a float");
    return tdm_jv_float(v);
}

static tdm_jval ints(tdm_jrun *r, tdm_jtoken_kind op, int64_t a, int64_t b)
{
    int64_t v = 0;
    switch (op) {
    case TDM_JT_ADD: if (__builtin_add_overflow(a, b, &v)) overflow(r); break;
    case TDM_JT_SUB: if (__builtin_sub_overflow(a, b, &v)) overflow(r); break;
    case TDM_JT_MUL: if (__builtin_mul_overflow(a, b, &v)) overflow(r); break;
    case TDM_JT_FLOORDIV: v = floor_div(r, a, b); break;
    case TDM_JT_MOD: v = floor_mod(r, a, b); break;
    case TDM_JT_DIV:
        check_divisor(r, b == 0);
        return tdm_jv_float((double)((long double)a / (long double)b));
    default:
        if (b < 0) return float_pow(r, (double)a, (double)b);
        v = int_pow(r, a, b);
        break;
    }
    return tdm_jv_int(v);
}

static tdm_jval floats(tdm_jrun *r, tdm_jtoken_kind op, double a, double b)
{
    switch (op) {
    case TDM_JT_ADD: return tdm_jv_float(a + b);
    case TDM_JT_SUB: return tdm_jv_float(a - b);
    case TDM_JT_MUL: return tdm_jv_float(a * b);
    case TDM_JT_POW: return float_pow(r, a, b);
    default: break;
    }
    check_divisor(r, b == 0);
    if (op == TDM_JT_DIV) return tdm_jv_float(a / b);
    return tdm_jv_float(op == TDM_JT_MOD ? float_mod(a, b) : float_floor_div(a, b));
}

/* ---- sequences ------------------------------------------------------------------------------------------------------------- */

static tdm_jval add_strings(tdm_jrun *r, const tdm_jstr *a, const tdm_jstr *b)
{
    tdm_jbuf text = {0};
    const bool markup = a->markup || b->markup;
    if (markup) { /* what is not markup is escaped when it meets it */
        a = tdm_jstr_escape(r, a);
        b = tdm_jstr_escape(r, b);
    }
    text.data = tdm_jrun_alloc(r, a->len + b->len);
    text.room = a->len + b->len;
    tdm_jbuf_add(r, &text, a->data, a->len);
    tdm_jbuf_add(r, &text, b->data, b->len);
    tdm_jstr *s = tdm_jrun_alloc(r, sizeof(*s));
    *s = *tdm_jbuf_done(r, &text);
    s->markup = markup;
    return tdm_jv_str(s);
}

static tdm_jval repeat(tdm_jrun *r, tdm_jval v, int64_t times)
{
    if (times < 0) times = 0;
    const uint64_t each = v.kind == TDM_J_STR ? v.u.s->len : (uint64_t)v.u.list->count * sizeof(tdm_jval);
    if (each && (uint64_t)times > r->bytes_max / each) tdm_jrun_fail(r, NULL, "a repeated value takes more than %zu MiB", r->bytes_max >> 20);
    if (v.kind == TDM_J_STR) {
        tdm_jbuf b = {.data = tdm_jrun_alloc(r, (size_t)(each * (uint64_t)times)), .room = (size_t)(each * (uint64_t)times)};
        for (int64_t i = 0; each && i < times; i++) {
            tdm_jrun_charge(r, 1);
            tdm_jbuf_add(r, &b, v.u.s->data, v.u.s->len);
        }
        tdm_jstr *s = tdm_jrun_alloc(r, sizeof(*s));
        *s = *tdm_jbuf_done(r, &b);
        s->markup = v.u.s->markup;
        return tdm_jv_str(s);
    }
    tdm_jlist *l = tdm_jlist_new(r, v.u.list->count * times);
    for (int64_t i = 0; each && i < times; i++) {
        tdm_jrun_charge(r, v.u.list->count);
        for (int64_t k = 0; k < v.u.list->count; k++) tdm_jlist_push(r, l, v.u.list->at[k]);
    }
    return (tdm_jval){.kind = v.kind, .u.list = l};
}

static tdm_jval add_lists(tdm_jrun *r, tdm_jval a, tdm_jval b)
{
    tdm_jlist *l = tdm_jlist_new(r, a.u.list->count + b.u.list->count);
    tdm_jrun_charge(r, l->room);
    for (int64_t i = 0; i < a.u.list->count; i++) tdm_jlist_push(r, l, a.u.list->at[i]);
    for (int64_t i = 0; i < b.u.list->count; i++) tdm_jlist_push(r, l, b.u.list->at[i]);
    return (tdm_jval){.kind = a.kind, .u.list = l};
}

static bool repeats(tdm_jval v) { return v.kind == TDM_J_STR || v.kind == TDM_J_LIST || v.kind == TDM_J_TUPLE; }

tdm_jval tdm_jbinary(tdm_jrun *r, tdm_jtoken_kind op, tdm_jval a, tdm_jval b)
{
    static const char *const names[] = {[TDM_JT_ADD] = "+", [TDM_JT_SUB] = "-", [TDM_JT_MUL] = "*", [TDM_JT_DIV] = "/",
                                        [TDM_JT_FLOORDIV] = "//", [TDM_JT_MOD] = "%", [TDM_JT_POW] = "**"};
    if (tdm_jval_is_int(a) && tdm_jval_is_int(b)) return ints(r, op, tdm_jval_int(a), tdm_jval_int(b));
    if (tdm_jval_is_number(a) && tdm_jval_is_number(b)) return floats(r, op, tdm_jval_double(a), tdm_jval_double(b));
    if (op == TDM_JT_ADD && a.kind == TDM_J_STR && b.kind == TDM_J_STR) return add_strings(r, a.u.s, b.u.s);
    if (op == TDM_JT_ADD && a.kind == b.kind && (a.kind == TDM_J_LIST || a.kind == TDM_J_TUPLE)) return add_lists(r, a, b);
    if (op == TDM_JT_MUL && repeats(a) && tdm_jval_is_int(b)) return repeat(r, a, tdm_jval_int(b));
    if (op == TDM_JT_MUL && repeats(b) && tdm_jval_is_int(a)) return repeat(r, b, tdm_jval_int(a));
    if (op == TDM_JT_MOD && a.kind == TDM_J_STR) return tdm_jformat_percent(r, a.u.s, b);
    unsupported(r, names[op], a, b);
}

/* ---- nodes ----------------------------------------------------------------------------------------------------------------- */

static tdm_jval eval_name(tdm_jrun *r, const tdm_jstr *name, tdm_jscope *scope)
{
    for (const tdm_jscope *s = scope; s; s = s->parent) {
        const tdm_jval *v = tdm_jdict_find_str(r, &s->vars, name);
        if (v && v->kind != TDM_J_MISSING) return *v;
        if (v) break; /* hidden until it is set */
    }
    return tdm_jv_undefined(r, "'%s' is undefined", tdm_jstr_c(r, name));
}

static tdm_jval eval_list(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    tdm_jlist *l = tdm_jlist_new(r, n->items.count);
    for (int64_t i = 0; i < n->items.count; i++) tdm_jlist_push(r, l, tdm_jeval(r, n->items.at[i], scope));
    return (tdm_jval){.kind = n->kind == TDM_JN_LIST ? TDM_J_LIST : TDM_J_TUPLE, .u.list = l};
}

static tdm_jval eval_dict(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    tdm_jdict *d = tdm_jdict_new(r);
    for (int64_t i = 0; i < n->items.count; i += 2) {
        const tdm_jval key = tdm_jeval(r, n->items.at[i], scope);
        tdm_jdict_set(r, d, key, tdm_jeval(r, n->items.at[i + 1], scope));
    }
    return tdm_jv_dict(d);
}

static bool compare(tdm_jrun *r, tdm_jtoken_kind op, tdm_jval a, tdm_jval b)
{
    switch (op) {
    case TDM_JT_EQ: return tdm_jval_eq(r, a, b);
    case TDM_JT_NE: return !tdm_jval_eq(r, a, b);
    case TDM_JT_LT: return tdm_jval_cmp(r, a, b, "<") == -1;
    case TDM_JT_GT: return tdm_jval_cmp(r, a, b, ">") == 1;
    case TDM_JT_LE: return tdm_jval_cmp(r, a, b, "<=") <= 0;
    case TDM_JT_GE: {
        const int c = tdm_jval_cmp(r, a, b, ">=");
        return c == 0 || c == 1;
    }
    case TDM_JT_NAME: return tdm_jval_contains(r, a, b);
    default: return !tdm_jval_contains(r, a, b);
    }
}

static tdm_jval eval_compare(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    tdm_jval left = tdm_jeval(r, n->a, scope);
    for (int64_t i = 0; i < n->items.count; i++) {
        const tdm_jval right = tdm_jeval(r, n->items.at[i], scope);
        r->line = n->line;
        if (!compare(r, (tdm_jtoken_kind)n->ops[i], left, right)) return tdm_jv_bool(false);
        left = right;
    }
    return tdm_jv_bool(true);
}

static tdm_jval eval_concat(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    tdm_jbuf b = {0};
    for (int64_t i = 0; i < n->items.count; i++) tdm_jbuf_str(r, &b, tdm_jeval(r, n->items.at[i], scope));
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}

static tdm_jval eval_sign(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    const tdm_jval v = tdm_jeval(r, n->a, scope);
    const bool negate = n->kind == TDM_JN_NEG;
    r->line = n->line;
    if (v.kind == TDM_J_UNDEFINED) tdm_jrun_fail(r, NULL, "%s", tdm_jstr_c(r, v.u.s));
    if (v.kind == TDM_J_FLOAT) return tdm_jv_float(negate ? -v.u.f : v.u.f);
    if (!tdm_jval_is_int(v)) tdm_jrun_fail(r, NULL, "bad operand type for unary %s: '%s'", negate ? "-" : "+", tdm_jval_type(v));
    if (negate && tdm_jval_int(v) == INT64_MIN) overflow(r);
    return tdm_jv_int(negate ? -tdm_jval_int(v) : tdm_jval_int(v));
}

static tdm_jval eval_item(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    const tdm_jval v = tdm_jeval(r, n->a, scope);
    if (n->b->kind != TDM_JN_SLICE) {
        const tdm_jval key = tdm_jeval(r, n->b, scope);
        r->line = n->line;
        return tdm_jget_item(r, v, key);
    }
    const tdm_jval start = n->b->a ? tdm_jeval(r, n->b->a, scope) : tdm_jv_none();
    const tdm_jval stop = n->b->b ? tdm_jeval(r, n->b->b, scope) : tdm_jv_none();
    const tdm_jval step = n->b->c ? tdm_jeval(r, n->b->c, scope) : tdm_jv_none();
    r->line = n->line;
    return tdm_jget_slice(r, v, start, stop, step);
}

static tdm_jval eval_call(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    const tdm_jval callee = tdm_jeval(r, n->a, scope);
    const tdm_jargs args = tdm_jeval_args(r, n->args, scope);
    r->line = n->line;
    return tdm_jcall(r, callee, &args);
}

tdm_jval tdm_jeval_filter(tdm_jrun *r, const tdm_jnode *n, tdm_jval input, tdm_jscope *scope)
{
    const tdm_jnamed *found = n->found;
    if (!n->a) {
        tdm_jrun_charge(r, 1);
    } else if (n->a->kind == TDM_JN_FILTER) { /* the chain of a block ends in its text */
        tdm_jrun_enter(r);
        input = tdm_jeval_filter(r, n->a, input, scope);
        tdm_jrun_leave(r);
    } else {
        input = tdm_jeval(r, n->a, scope);
    }
    const tdm_jargs args = tdm_jeval_args(r, n->args, scope);
    r->line = n->line;
    if (!found) tdm_jrun_fail(r, NULL, "no %s is named \"%s\"", n->kind == TDM_JN_FILTER ? "filter" : "test", tdm_jstr_c(r, n->name));
    return found->call(r, input, &args);
}

static tdm_jval eval_cond(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    if (tdm_jval_true(r, tdm_jeval(r, n->b, scope))) return tdm_jeval(r, n->a, scope);
    if (n->c) return tdm_jeval(r, n->c, scope);
    return tdm_jv_undefined(r, "the inline if-expression in line %d evaluated to false and no else section was defined", n->line);
}

static tdm_jval eval_pair(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    const tdm_jval a = tdm_jeval(r, n->a, scope);
    if (n->kind == TDM_JN_AND) return tdm_jval_true(r, a) ? tdm_jeval(r, n->b, scope) : a;
    if (n->kind == TDM_JN_OR) return tdm_jval_true(r, a) ? a : tdm_jeval(r, n->b, scope);
    const tdm_jval b = tdm_jeval(r, n->b, scope);
    r->line = n->line;
    return tdm_jbinary(r, n->op, a, b);
}

tdm_jval tdm_jeval(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    tdm_jval v = {0};
    tdm_jrun_enter(r);
    switch (n->kind) {
    case TDM_JN_CONST: v = n->value; break;
    case TDM_JN_NAME: v = eval_name(r, n->name, scope); break;
    case TDM_JN_TUPLE: case TDM_JN_LIST: v = eval_list(r, n, scope); break;
    case TDM_JN_DICT: v = eval_dict(r, n, scope); break;
    case TDM_JN_AND: case TDM_JN_OR: case TDM_JN_BINARY: v = eval_pair(r, n, scope); break;
    case TDM_JN_NOT: v = tdm_jv_bool(!tdm_jval_true(r, tdm_jeval(r, n->a, scope))); break;
    case TDM_JN_COND: v = eval_cond(r, n, scope); break;
    case TDM_JN_COMPARE: v = eval_compare(r, n, scope); break;
    case TDM_JN_NEG: case TDM_JN_POS: v = eval_sign(r, n, scope); break;
    case TDM_JN_CONCAT: v = eval_concat(r, n, scope); break;
    case TDM_JN_ATTR:
        v = tdm_jeval(r, n->a, scope);
        r->line = n->line;
        v = tdm_jget_attr(r, v, n->name);
        break;
    case TDM_JN_ITEM: v = eval_item(r, n, scope); break;
    case TDM_JN_CALL: v = eval_call(r, n, scope); break;
    case TDM_JN_FILTER: case TDM_JN_TEST: v = tdm_jeval_filter(r, n, v, scope); break;
    default: TDM_ASSERT(false && "a statement among expressions");
    }
    tdm_jrun_leave(r);
    return v;
}
