/* Statements and scopes. A scope is what Jinja's compiler calls a frame: `set` writes to the innermost, names are looked up outwards;
 * for, with, macro, call, filter, block set and generation open one, `if` does not. */
#include "runtime/text/chat_internal.h"

static void set_name(tdm_jrun *r, tdm_jscope *scope, const tdm_jstr *name, tdm_jval v)
{
    tdm_jdict_set(r, &scope->vars, tdm_jv_str(name), v);
}

void tdm_jscope_hide(tdm_jrun *r, tdm_jscope *s, const tdm_jnames *hidden)
{
    for (int64_t i = 0; i < hidden->count; i++) set_name(r, s, hidden->at[i], (tdm_jval){.kind = TDM_J_MISSING});
}

tdm_jscope *tdm_jscope_new(tdm_jrun *r, tdm_jscope *parent, const tdm_jnames *hidden)
{
    tdm_jscope *s = tdm_jrun_alloc(r, sizeof(*s));
    s->parent = parent;
    if (hidden) tdm_jscope_hide(r, s, hidden);
    return s;
}

static void assign_attr(tdm_jrun *r, const tdm_jnode *target, tdm_jval v, tdm_jscope *scope)
{
    const tdm_jnode name = {.kind = TDM_JN_NAME, .line = target->line, .name = target->name};
    const tdm_jval ns = tdm_jeval(r, &name, scope);
    if (ns.kind != TDM_J_NAMESPACE) tdm_jrun_fail(r, "only namespace(...) takes attributes", "cannot assign attribute on non-namespace object");
    if (target->attr->data[0] == '_') tdm_jrun_fail(r, NULL, "a namespace cannot store the underscore-prefixed \"%s\"", tdm_jstr_c(r, target->attr));
    tdm_jdict_set(r, ns.u.dict, tdm_jv_str(target->attr), v);
}

void tdm_jassign(tdm_jrun *r, const tdm_jnode *target, tdm_jval v, tdm_jscope *scope)
{
    r->line = target->line;
    if (target->kind == TDM_JN_NAME) {
        set_name(r, scope, target->name, v);
        return;
    }
    if (target->kind == TDM_JN_NSREF) {
        assign_attr(r, target, v, scope);
        return;
    }
    const tdm_jlist l = tdm_jval_iterate(r, v);
    if (l.count != target->items.count)
        tdm_jrun_fail(r, NULL, "%lld names to unpack into, %lld values", (long long)target->items.count, (long long)l.count);
    for (int64_t i = 0; i < l.count; i++) tdm_jassign(r, target->items.at[i], l.at[i], scope);
}

const tdm_jstr *tdm_jexec_capture(tdm_jrun *r, const tdm_jnodes *body, tdm_jscope *scope, tdm_jflow *flow)
{
    tdm_jbuf captured = {0}, *outer = r->out;
    r->out = &captured; /* a fault leaves it dangling; nothing reads it then */
    *flow = tdm_jexec(r, body, scope);
    r->out = outer;
    return tdm_jbuf_done(r, &captured);
}

/* ---- for ------------------------------------------------------------------------------------------------------------------- */

static tdm_jlist filtered(tdm_jrun *r, const tdm_jnode *n, tdm_jlist all, tdm_jscope *scope)
{
    tdm_jlist kept = {0};
    for (int64_t i = 0; i < all.count; i++) {
        tdm_jscope *inner = tdm_jscope_new(r, scope, NULL);
        tdm_jassign(r, n->target, all.at[i], inner);
        if (tdm_jval_true(r, tdm_jeval(r, n->b, inner))) tdm_jlist_push(r, &kept, all.at[i]);
    }
    return kept;
}

tdm_jflow tdm_jexec_for(tdm_jrun *r, const tdm_jnode *n, tdm_jval over, int64_t depth0, tdm_jscope *scope)
{
    tdm_jlist items = tdm_jval_iterate(r, over);
    if (n->b) items = filtered(r, n, items, scope);
    if (items.count == 0) return tdm_jexec(r, &n->alternative, tdm_jscope_new(r, scope, &n->hidden_else));
    tdm_jloop *loop = tdm_jrun_alloc(r, sizeof(*loop));
    loop->items = items;
    loop->depth0 = depth0;
    loop->node = n->flag ? n : NULL;
    loop->scope = scope;
    static const tdm_jstr name = {.data = "loop", .len = 4};
    for (; loop->pos < items.count; loop->pos++) {
        tdm_jscope *inner = tdm_jscope_new(r, scope, &n->hidden);
        tdm_jrun_charge(r, 1);
        set_name(r, inner, &name, (tdm_jval){.kind = TDM_J_LOOP, .u.loop = loop});
        tdm_jassign(r, n->target, items.at[loop->pos], inner);
        if (tdm_jexec(r, &n->body, inner) == TDM_JF_BREAK) break;
    }
    return TDM_JF_NEXT;
}

/* ---- the other statements -------------------------------------------------------------------------------------------------- */

static tdm_jflow exec_if(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    for (const tdm_jnode *branch = n; branch; branch = branch->c) {
        r->line = branch->line;
        if (tdm_jval_true(r, tdm_jeval(r, branch->a, scope))) return tdm_jexec(r, &branch->body, scope);
        if (!branch->c) return tdm_jexec(r, &branch->alternative, scope);
    }
    return TDM_JF_NEXT;
}

static tdm_jflow exec_set_block(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    tdm_jflow flow = TDM_JF_NEXT;
    tdm_jscope *inner = tdm_jscope_new(r, scope, &n->hidden);
    tdm_jval v = tdm_jv_str(tdm_jexec_capture(r, &n->body, inner, &flow));
    if (flow != TDM_JF_NEXT) return flow;
    if (n->a) v = tdm_jeval_filter(r, n->a, v, inner);
    tdm_jassign(r, n->target, v, scope);
    return flow;
}

/* Blocks write what they get as it is; unlike {{ }} they do not turn it into text. */
static void put_string(tdm_jrun *r, tdm_jval v)
{
    if (v.kind != TDM_J_STR) tdm_jrun_fail(r, NULL, "a string is expected from the block, it gives %s", tdm_jval_type(v));
    tdm_jbuf_str(r, r->out, v);
}

static tdm_jflow exec_filter_block(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    tdm_jflow flow = TDM_JF_NEXT;
    tdm_jscope *inner = tdm_jscope_new(r, scope, &n->hidden);
    const tdm_jval v = tdm_jv_str(tdm_jexec_capture(r, &n->body, inner, &flow));
    if (flow == TDM_JF_NEXT) put_string(r, tdm_jeval_filter(r, n->a, v, inner));
    return flow;
}

static tdm_jflow exec_with(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    tdm_jscope *inner = tdm_jscope_new(r, scope, &n->hidden);
    for (int64_t i = 0; i < n->items.count; i += 2) /* values do not see the names beside them */
        tdm_jassign(r, n->items.at[i], tdm_jeval(r, n->items.at[i + 1], scope), inner);
    return tdm_jexec(r, &n->body, inner);
}

static tdm_jval new_macro(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope, bool is_caller)
{
    tdm_jmacro *m = tdm_jrun_alloc(r, sizeof(*m));
    *m = (tdm_jmacro){.node = n, .scope = scope, .is_caller = is_caller};
    return (tdm_jval){.kind = TDM_J_MACRO, .u.macro = m};
}

static void exec_call_block(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    static const tdm_jstr name = {.data = "caller", .len = 6};
    const tdm_jval callee = tdm_jeval(r, n->a->a, scope);
    tdm_jargs args = tdm_jeval_args(r, n->a->args, scope);
    tdm_jkwarg *kw = tdm_jrun_alloc(r, (size_t)(args.kw_count + 1) * sizeof(*kw));
    if (args.kw_count) memcpy(kw, args.kw, (size_t)args.kw_count * sizeof(*kw));
    kw[args.kw_count++] = (tdm_jkwarg){.name = &name, .value = new_macro(r, n->b, scope, true)};
    args.kw = kw;
    r->line = n->line;
    put_string(r, tdm_jcall(r, callee, &args));
}

static tdm_jflow exec_one(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope)
{
    switch (n->kind) {
    case TDM_JN_DATA: tdm_jbuf_add(r, r->out, n->value.u.s->data, n->value.u.s->len); break;
    case TDM_JN_OUTPUT:
        for (int64_t i = 0; i < n->items.count; i++) tdm_jbuf_str(r, r->out, tdm_jeval(r, n->items.at[i], scope));
        break;
    case TDM_JN_IF: return exec_if(r, n, scope);
    case TDM_JN_FOR: return tdm_jexec_for(r, n, tdm_jeval(r, n->a, scope), 0, scope);
    case TDM_JN_SET: tdm_jassign(r, n->target, tdm_jeval(r, n->a, scope), scope); break;
    case TDM_JN_SET_BLOCK: return exec_set_block(r, n, scope);
    case TDM_JN_WITH: return exec_with(r, n, scope);
    case TDM_JN_MACRO: set_name(r, scope, n->name, new_macro(r, n, scope, false)); break;
    case TDM_JN_CALL_BLOCK: exec_call_block(r, n, scope); break;
    case TDM_JN_FILTER_BLOCK: return exec_filter_block(r, n, scope);
    case TDM_JN_BLOCK: return tdm_jexec(r, &n->body, tdm_jscope_new(r, n->flag ? scope : r->globals, &n->hidden));
    case TDM_JN_SCOPE: return tdm_jexec(r, &n->body, tdm_jscope_new(r, scope, &n->hidden));
    case TDM_JN_BREAK: return TDM_JF_BREAK;
    case TDM_JN_CONTINUE: return TDM_JF_CONTINUE;
    default: TDM_ASSERT(false && "an expression among statements");
    }
    return TDM_JF_NEXT;
}

tdm_jflow tdm_jexec(tdm_jrun *r, const tdm_jnodes *body, tdm_jscope *scope)
{
    tdm_jflow flow = TDM_JF_NEXT;
    tdm_jrun_enter(r);
    for (int64_t i = 0; i < body->count && flow == TDM_JF_NEXT; i++) {
        r->line = body->at[i]->line;
        tdm_jrun_charge(r, 1);
        flow = exec_one(r, body->at[i], scope);
    }
    tdm_jrun_leave(r);
    return flow;
}
