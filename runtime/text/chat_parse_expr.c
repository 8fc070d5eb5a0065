/* Tokens to expressions, as jinja2/parser.py: one function per level of precedence, the loosest first. */
#include "runtime/text/chat_internal.h"

static tdm_jtoken_kind kind_here(const tdm_jparser *p) { return tdm_jparse_look(p, 0)->kind; }
static int line_here(const tdm_jparser *p) { return tdm_jparse_look(p, 0)->line; }

static tdm_jnode *pair(tdm_jparser *p, tdm_jnode_kind kind, tdm_jtoken_kind op, tdm_jnode *a, tdm_jnode *b, int line)
{
    tdm_jnode *n = tdm_jparse_node(p, kind, line);
    n->op = op;
    n->a = a;
    n->b = b;
    return n;
}

/* ---- names, literals, tuples ----------------------------------------------------------------------------------------------- */

static tdm_jnode *constant(tdm_jparser *p, tdm_jval v, int line)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_CONST, line);
    n->value = v;
    return n;
}

static tdm_jnode *parse_name(tdm_jparser *p, bool with_namespace)
{
    const tdm_jtoken *t = tdm_jparse_next(p);
    if (tdm_jstr_is(t->s, "true") || tdm_jstr_is(t->s, "True")) return constant(p, tdm_jv_bool(true), t->line);
    if (tdm_jstr_is(t->s, "false") || tdm_jstr_is(t->s, "False")) return constant(p, tdm_jv_bool(false), t->line);
    if (tdm_jstr_is(t->s, "none") || tdm_jstr_is(t->s, "None")) return constant(p, tdm_jv_none(), t->line);
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_NAME, t->line);
    n->name = t->s;
    if (with_namespace && tdm_jparse_skip(p, TDM_JT_DOT)) {
        n->kind = TDM_JN_NSREF;
        n->attr = tdm_jparse_expect(p, TDM_JT_NAME)->s;
    }
    if (p->macro) {
        p->macro->uses_caller |= tdm_jstr_is(t->s, "caller");
        p->macro->uses_varargs |= tdm_jstr_is(t->s, "varargs");
        p->macro->uses_kwargs |= tdm_jstr_is(t->s, "kwargs");
    }
    return n;
}

static tdm_jnode *parse_strings(tdm_jparser *p) /* "a" "b" is "ab" */
{
    const tdm_jtoken *first = tdm_jparse_next(p);
    if (kind_here(p) != TDM_JT_STR) return constant(p, tdm_jv_str(first->s), first->line);
    tdm_jbuf b = {0};
    tdm_jbuf_add(p->run, &b, first->s->data, first->s->len);
    while (kind_here(p) == TDM_JT_STR) {
        const tdm_jtoken *t = tdm_jparse_next(p);
        tdm_jbuf_add(p->run, &b, t->s->data, t->s->len);
    }
    return constant(p, tdm_jv_str(tdm_jbuf_done(p->run, &b)), first->line);
}

static tdm_jnode *parse_list(tdm_jparser *p)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_LIST, tdm_jparse_next(p)->line);
    while (kind_here(p) != TDM_JT_RBRACKET) {
        if (n->items.count) tdm_jparse_expect(p, TDM_JT_COMMA);
        if (kind_here(p) == TDM_JT_RBRACKET) break;
        tdm_jnodes_push(p, &n->items, tdm_jparse_expr(p, true));
    }
    tdm_jparse_expect(p, TDM_JT_RBRACKET);
    return n;
}

static tdm_jnode *parse_dict(tdm_jparser *p)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_DICT, tdm_jparse_next(p)->line);
    while (kind_here(p) != TDM_JT_RBRACE) {
        if (n->items.count) tdm_jparse_expect(p, TDM_JT_COMMA);
        if (kind_here(p) == TDM_JT_RBRACE) break;
        tdm_jnodes_push(p, &n->items, tdm_jparse_expr(p, true));
        tdm_jparse_expect(p, TDM_JT_COLON);
        tdm_jnodes_push(p, &n->items, tdm_jparse_expr(p, true));
    }
    tdm_jparse_expect(p, TDM_JT_RBRACE);
    return n;
}

tdm_jnode *tdm_jparse_primary(tdm_jparser *p, bool with_namespace)
{
    const tdm_jtoken *t = tdm_jparse_look(p, 0);
    tdm_jnode *n = NULL;
    switch (t->kind) {
    case TDM_JT_NAME: return parse_name(p, with_namespace);
    case TDM_JT_STR: return parse_strings(p);
    case TDM_JT_INT: return constant(p, tdm_jv_int(tdm_jparse_next(p)->num.i), t->line);
    case TDM_JT_FLOAT: return constant(p, tdm_jv_float(tdm_jparse_next(p)->num.f), t->line);
    case TDM_JT_LBRACKET: return parse_list(p);
    case TDM_JT_LBRACE: return parse_dict(p);
    case TDM_JT_LPAREN:
        tdm_jparse_next(p);
        n = tdm_jparse_tuple(p, (tdm_jtuple_how){.parens = true});
        tdm_jparse_expect(p, TDM_JT_RPAREN);
        return n;
    default: tdm_jparse_unexpected(p, "an expression");
    }
}

static bool tuple_ends(const tdm_jparser *p, const char *end_name)
{
    const tdm_jtoken_kind k = kind_here(p);
    return k == TDM_JT_VAR_END || k == TDM_JT_BLOCK_END || k == TDM_JT_RPAREN || (end_name && tdm_jparse_is_name(p, end_name));
}

tdm_jnode *tdm_jparse_tuple(tdm_jparser *p, tdm_jtuple_how how)
{
    tdm_jnodes items = {0};
    bool is_tuple = false;
    const int line = line_here(p);
    tdm_jparse_enter(p);
    for (;;) {
        if (items.count) tdm_jparse_expect(p, TDM_JT_COMMA);
        if (tuple_ends(p, how.end_name)) break;
        tdm_jnodes_push(p, &items, how.simplified ? tdm_jparse_primary(p, how.with_namespace) : tdm_jparse_expr(p, !how.no_cond));
        if (kind_here(p) != TDM_JT_COMMA) break;
        is_tuple = true;
    }
    p->nesting--;
    if (!is_tuple && items.count) return items.at[0];
    if (!is_tuple && !how.parens) tdm_jparse_unexpected(p, "an expression");
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_TUPLE, line);
    n->items = items;
    return n;
}

/* ---- calls, subscripts, filters, tests ------------------------------------------------------------------------------------- */

static void push_arg(tdm_jparser *p, tdm_jcallargs *a, const tdm_jstr *name, tdm_jnode *value)
{
    const int64_t had = a->items.room;
    tdm_jnodes_push(p, &a->items, value);
    if (a->items.room != had) {
        const tdm_jstr **names = tdm_jrun_alloc(p->run, (size_t)a->items.room * sizeof(*names));
        if (a->items.count > 1) memcpy(names, a->names, (size_t)(a->items.count - 1) * sizeof(*names));
        a->names = names;
    }
    a->names[a->items.count - 1] = name;
}

static tdm_jcallargs *parse_args(tdm_jparser *p)
{
    tdm_jcallargs *a = tdm_jrun_alloc(p->run, sizeof(*a));
    bool keywords = false;
    tdm_jparse_expect(p, TDM_JT_LPAREN);
    while (kind_here(p) != TDM_JT_RPAREN) {
        if (a->items.count || a->dyn_list || a->dyn_dict) {
            tdm_jparse_expect(p, TDM_JT_COMMA);
            if (kind_here(p) == TDM_JT_RPAREN) break;
        }
        bool fits = true;
        if (tdm_jparse_skip(p, TDM_JT_MUL)) {
            fits = !a->dyn_list && !a->dyn_dict;
            a->dyn_list = tdm_jparse_expr(p, true);
        } else if (tdm_jparse_skip(p, TDM_JT_POW)) {
            fits = !a->dyn_dict;
            a->dyn_dict = tdm_jparse_expr(p, true);
        } else if (kind_here(p) == TDM_JT_NAME && tdm_jparse_look(p, 1)->kind == TDM_JT_ASSIGN) {
            fits = !a->dyn_dict;
            const tdm_jstr *name = tdm_jparse_next(p)->s;
            tdm_jparse_next(p);
            for (int64_t i = 0; i < a->items.count; i++)
                if (a->names[i] && tdm_jstr_eq(a->names[i], name)) tdm_jrun_fail(p->run, NULL, "a keyword argument stands twice");
            push_arg(p, a, name, tdm_jparse_expr(p, true));
            keywords = true;
        } else {
            fits = !a->dyn_list && !a->dyn_dict && !keywords;
            push_arg(p, a, NULL, tdm_jparse_expr(p, true));
        }
        if (!fits) tdm_jrun_fail(p->run, NULL, "arguments of a call in an order that is not allowed");
    }
    tdm_jparse_expect(p, TDM_JT_RPAREN);
    return a;
}

static tdm_jnode *parse_call(tdm_jparser *p, tdm_jnode *callee)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_CALL, line_here(p));
    n->a = callee;
    n->args = parse_args(p);
    return n;
}

static tdm_jnode *parse_slice_or_item(tdm_jparser *p)
{
    tdm_jnode *start = NULL;
    const int line = line_here(p);
    if (kind_here(p) != TDM_JT_COLON) start = tdm_jparse_expr(p, true);
    if (!tdm_jparse_skip(p, TDM_JT_COLON)) return start;
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_SLICE, line);
    n->a = start;
    if (kind_here(p) != TDM_JT_COLON && kind_here(p) != TDM_JT_RBRACKET && kind_here(p) != TDM_JT_COMMA)
        n->b = tdm_jparse_expr(p, true);
    if (tdm_jparse_skip(p, TDM_JT_COLON) && kind_here(p) != TDM_JT_RBRACKET && kind_here(p) != TDM_JT_COMMA)
        n->c = tdm_jparse_expr(p, true);
    return n;
}

static tdm_jnode *parse_subscript(tdm_jparser *p, tdm_jnode *of)
{
    const tdm_jtoken *t = tdm_jparse_next(p);
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_ITEM, t->line);
    n->a = of;
    if (t->kind == TDM_JT_DOT) {
        const tdm_jtoken *attr = tdm_jparse_look(p, 0);
        if (attr->kind != TDM_JT_NAME && attr->kind != TDM_JT_INT) tdm_jparse_unexpected(p, "a name or a number");
        tdm_jparse_next(p);
        if (attr->kind == TDM_JT_NAME) {
            n->kind = TDM_JN_ATTR;
            n->name = attr->s;
        } else {
            n->b = constant(p, tdm_jv_int(attr->num.i), attr->line);
        }
        return n;
    }
    tdm_jnodes items = {0};
    while (kind_here(p) != TDM_JT_RBRACKET) {
        if (items.count) tdm_jparse_expect(p, TDM_JT_COMMA);
        tdm_jnodes_push(p, &items, parse_slice_or_item(p));
    }
    tdm_jparse_expect(p, TDM_JT_RBRACKET);
    if (items.count == 1) {
        n->b = items.at[0];
        return n;
    }
    n->b = tdm_jparse_node(p, TDM_JN_TUPLE, t->line);
    n->b->items = items;
    for (int64_t i = 0; i < items.count; i++)
        if (items.at[i]->kind == TDM_JN_SLICE) tdm_jrun_fail(p->run, NULL, "a slice among several subscripts");
    return n;
}

static tdm_jnode *parse_postfix(tdm_jparser *p, tdm_jnode *n)
{
    for (;;) {
        const tdm_jtoken_kind k = kind_here(p);
        if (k == TDM_JT_DOT || k == TDM_JT_LBRACKET) n = parse_subscript(p, n);
        else if (k == TDM_JT_LPAREN) n = parse_call(p, n);
        else return n;
    }
}

/* Names of filters and tests may be dotted: "a.b". */
static const tdm_jstr *parse_dotted(tdm_jparser *p)
{
    const tdm_jstr *name = tdm_jparse_expect(p, TDM_JT_NAME)->s;
    if (kind_here(p) != TDM_JT_DOT) return name;
    tdm_jbuf b = {0};
    tdm_jbuf_add(p->run, &b, name->data, name->len);
    while (tdm_jparse_skip(p, TDM_JT_DOT)) {
        const tdm_jstr *more = tdm_jparse_expect(p, TDM_JT_NAME)->s;
        tdm_jbuf_text(p->run, &b, ".");
        tdm_jbuf_add(p->run, &b, more->data, more->len);
    }
    return tdm_jbuf_done(p->run, &b);
}

tdm_jnode *tdm_jparse_filters(tdm_jparser *p, tdm_jnode *input, bool inline_first)
{
    while (inline_first || kind_here(p) == TDM_JT_PIPE) {
        if (!inline_first) tdm_jparse_next(p);
        inline_first = false;
        tdm_jnode *n = tdm_jparse_node(p, TDM_JN_FILTER, line_here(p));
        n->a = input;
        n->name = parse_dotted(p);
        n->found = tdm_jfilter_find(n->name);
        if (!n->found && !p->soft) tdm_jrun_fail(p->run, NULL, "no filter is named \"%s\"", tdm_jstr_c(p->run, n->name));
        if (kind_here(p) == TDM_JT_LPAREN) n->args = parse_args(p);
        input = n;
    }
    return input;
}

static tdm_jnode *parse_test(tdm_jparser *p, tdm_jnode *of)
{
    const int line = tdm_jparse_next(p)->line;
    const bool negated = tdm_jparse_skip_name(p, "not");
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_TEST, line);
    n->a = of;
    n->name = parse_dotted(p);
    n->found = tdm_jtest_find(n->name);
    if (!n->found && !p->soft) tdm_jrun_fail(p->run, NULL, "no test is named \"%s\"", tdm_jstr_c(p->run, n->name));
    const tdm_jtoken_kind k = kind_here(p);
    if (k == TDM_JT_LPAREN) {
        n->args = parse_args(p);
    } else if ((k == TDM_JT_NAME && !tdm_jparse_is_name(p, "else") && !tdm_jparse_is_name(p, "or") && !tdm_jparse_is_name(p, "and")) ||
               k == TDM_JT_STR || k == TDM_JT_INT || k == TDM_JT_FLOAT || k == TDM_JT_LBRACKET || k == TDM_JT_LBRACE) {
        if (tdm_jparse_is_name(p, "is")) tdm_jrun_fail(p->run, NULL, "tests cannot be chained with is");
        n->args = tdm_jrun_alloc(p->run, sizeof(*n->args));
        push_arg(p, n->args, NULL, parse_postfix(p, tdm_jparse_primary(p, false)));
    }
    return negated ? pair(p, TDM_JN_NOT, 0, n, NULL, line) : n;
}

static tdm_jnode *parse_unary(tdm_jparser *p, bool with_filter)
{
    const int line = line_here(p);
    tdm_jnode *n = NULL;
    tdm_jparse_enter(p);
    if (tdm_jparse_skip(p, TDM_JT_SUB)) n = pair(p, TDM_JN_NEG, 0, parse_unary(p, false), NULL, line);
    else if (tdm_jparse_skip(p, TDM_JT_ADD)) n = pair(p, TDM_JN_POS, 0, parse_unary(p, false), NULL, line);
    else n = tdm_jparse_primary(p, false);
    p->nesting--;
    n = parse_postfix(p, n);
    while (with_filter) {
        if (kind_here(p) == TDM_JT_PIPE) n = tdm_jparse_filters(p, n, false);
        else if (tdm_jparse_is_name(p, "is")) n = parse_test(p, n);
        else if (kind_here(p) == TDM_JT_LPAREN) n = parse_call(p, n); /* x|filter(...)(...) */
        else break;
    }
    return n;
}

/* ---- operators, tightest first --------------------------------------------------------------------------------------------- */

static tdm_jnode *parse_pow(tdm_jparser *p)
{
    int line = line_here(p);
    tdm_jnode *left = parse_unary(p, true);
    while (tdm_jparse_skip(p, TDM_JT_POW)) { /* from the left, unlike Python */
        left = pair(p, TDM_JN_BINARY, TDM_JT_POW, left, parse_unary(p, true), line);
        line = line_here(p);
    }
    return left;
}

static tdm_jnode *parse_product(tdm_jparser *p)
{
    int line = line_here(p);
    tdm_jnode *left = parse_pow(p);
    for (;;) {
        const tdm_jtoken_kind k = kind_here(p);
        if (k != TDM_JT_MUL && k != TDM_JT_DIV && k != TDM_JT_FLOORDIV && k != TDM_JT_MOD) return left;
        tdm_jparse_next(p);
        left = pair(p, TDM_JN_BINARY, k, left, parse_pow(p), line);
        line = line_here(p);
    }
}

static tdm_jnode *parse_concat(tdm_jparser *p)
{
    const int line = line_here(p);
    tdm_jnode *first = parse_product(p);
    if (kind_here(p) != TDM_JT_TILDE) return first;
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_CONCAT, line);
    tdm_jnodes_push(p, &n->items, first);
    while (tdm_jparse_skip(p, TDM_JT_TILDE)) tdm_jnodes_push(p, &n->items, parse_product(p));
    return n;
}

static tdm_jnode *parse_sum(tdm_jparser *p)
{
    int line = line_here(p);
    tdm_jnode *left = parse_concat(p);
    for (;;) {
        const tdm_jtoken_kind k = kind_here(p);
        if (k != TDM_JT_ADD && k != TDM_JT_SUB) return left;
        tdm_jparse_next(p);
        left = pair(p, TDM_JN_BINARY, k, left, parse_concat(p), line);
        line = line_here(p);
    }
}

/* The operator of a comparison that stands here: its token kind, NAME for `in`, DATA for `not in`, EOF for none. */
static tdm_jtoken_kind comparison(tdm_jparser *p)
{
    const tdm_jtoken_kind k = kind_here(p);
    if (k >= TDM_JT_EQ && k <= TDM_JT_LE) {
        tdm_jparse_next(p);
        return k;
    }
    if (tdm_jparse_skip_name(p, "in")) return TDM_JT_NAME;
    const tdm_jtoken *ahead = tdm_jparse_look(p, 1);
    if (tdm_jparse_is_name(p, "not") && ahead->kind == TDM_JT_NAME && tdm_jstr_is(ahead->s, "in")) {
        tdm_jparse_next(p);
        tdm_jparse_next(p);
        return TDM_JT_DATA;
    }
    return TDM_JT_EOF;
}

static tdm_jnode *parse_compare(tdm_jparser *p)
{
    const int line = line_here(p);
    tdm_jnode *first = parse_sum(p), *n = NULL;
    for (tdm_jtoken_kind op; (op = comparison(p)) != TDM_JT_EOF;) {
        if (!n) {
            n = tdm_jparse_node(p, TDM_JN_COMPARE, line);
            n->a = first;
        }
        const int64_t had = n->items.room;
        tdm_jnodes_push(p, &n->items, parse_sum(p));
        if (n->items.room != had) {
            uint8_t *ops = tdm_jrun_alloc(p->run, (size_t)n->items.room);
            if (n->items.count > 1) memcpy(ops, n->ops, (size_t)n->items.count - 1);
            n->ops = ops;
        }
        n->ops[n->items.count - 1] = (uint8_t)op;
    }
    return n ? n : first;
}

static tdm_jnode *parse_not(tdm_jparser *p)
{
    if (!tdm_jparse_is_name(p, "not")) return parse_compare(p);
    tdm_jparse_enter(p);
    const int line = tdm_jparse_next(p)->line;
    tdm_jnode *n = pair(p, TDM_JN_NOT, 0, parse_not(p), NULL, line);
    p->nesting--;
    return n;
}

static tdm_jnode *parse_and(tdm_jparser *p)
{
    int line = line_here(p);
    tdm_jnode *left = parse_not(p);
    while (tdm_jparse_skip_name(p, "and")) {
        left = pair(p, TDM_JN_AND, 0, left, parse_not(p), line);
        line = line_here(p);
    }
    return left;
}

static tdm_jnode *parse_or(tdm_jparser *p)
{
    int line = line_here(p);
    tdm_jnode *left = parse_and(p);
    while (tdm_jparse_skip_name(p, "or")) {
        left = pair(p, TDM_JN_OR, 0, left, parse_and(p), line);
        line = line_here(p);
    }
    return left;
}

/* Whether an `if` follows in this bracket. An unknown filter in any part of `a if b else c` is a fault only when it is reached, and
 * `a` is parsed before its `if` is met. */
static bool condition_follows(const tdm_jparser *p)
{
    int depth = 0;
    for (int64_t i = 0;; i++) {
        const tdm_jtoken *t = tdm_jparse_look(p, i);
        switch (t->kind) {
        case TDM_JT_LPAREN: case TDM_JT_LBRACKET: case TDM_JT_LBRACE: depth++; break;
        case TDM_JT_RPAREN: case TDM_JT_RBRACKET: case TDM_JT_RBRACE: depth--; break;
        case TDM_JT_EOF: case TDM_JT_BLOCK_END: case TDM_JT_VAR_END: return false;
        case TDM_JT_COMMA: case TDM_JT_COLON: if (depth == 0) return false; break;
        case TDM_JT_NAME: if (depth == 0 && tdm_jstr_is(t->s, "if")) return true; break;
        default: break;
        }
        if (depth < 0) return false;
    }
}

tdm_jnode *tdm_jparse_expr(tdm_jparser *p, bool with_cond)
{
    const bool soft = p->soft;
    tdm_jparse_enter(p);
    if (with_cond && !soft) p->soft = condition_follows(p);
    int line = line_here(p);
    tdm_jnode *n = parse_or(p);
    while (with_cond && tdm_jparse_skip_name(p, "if")) {
        tdm_jnode *cond = tdm_jparse_node(p, TDM_JN_COND, line);
        cond->a = n;
        cond->b = parse_or(p);
        if (tdm_jparse_skip_name(p, "else")) cond->c = tdm_jparse_expr(p, true);
        n = cond;
        line = line_here(p);
    }
    p->soft = soft;
    p->nesting--;
    return n;
}
