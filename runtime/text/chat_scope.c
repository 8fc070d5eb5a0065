/* What a name means before it is set. Jinja's compiler decides it when it reads the template: a name that a scope sets and has not read
 * before is undefined in it, and in the scopes inside it, until the `set` runs, whatever variable of that name was given. A name that
 * branches of an `if` set keeps its meaning from outside. Here each scope gets the list of names to hide at its start.
 * Source: jinja2/idtracking.py. */
#include "runtime/text/chat_internal.h"

enum { LOAD_UNDEFINED, LOAD_OTHER };

/* What is known of one scope. */
typedef struct symbols {
    const struct symbols *parent;
    tdm_jdict refs;   /* name: LOAD_... */
    tdm_jdict stores; /* names set */
} symbols;

static const tdm_jval *find_ref(tdm_jrun *r, const symbols *s, const tdm_jstr *name)
{
    for (; s; s = s->parent) {
        const tdm_jval *found = tdm_jdict_find_str(r, &s->refs, name);
        if (found) return found;
    }
    return NULL;
}

static void define(tdm_jrun *r, symbols *s, const tdm_jstr *name, int64_t load) { tdm_jdict_set(r, &s->refs, tdm_jv_str(name), tdm_jv_int(load)); }

static void load_name(tdm_jrun *r, symbols *s, const tdm_jstr *name)
{
    if (!find_ref(r, s, name)) define(r, s, name, LOAD_OTHER);
}

static void store_name(tdm_jrun *r, symbols *s, const tdm_jstr *name)
{
    tdm_jdict_set(r, &s->stores, tdm_jv_str(name), tdm_jv_none());
    if (tdm_jdict_find_str(r, &s->refs, name)) return;
    define(r, s, name, find_ref(r, s->parent, name) ? LOAD_OTHER : LOAD_UNDEFINED);
}

/* A parameter of the scope. */
static void declare(tdm_jrun *r, symbols *s, const tdm_jstr *name)
{
    tdm_jdict_set(r, &s->stores, tdm_jv_str(name), tdm_jv_none());
    define(r, s, name, LOAD_OTHER);
}

static tdm_jdict copy_of(tdm_jrun *r, const tdm_jdict *from)
{
    tdm_jdict d = {0};
    tdm_jrun_charge(r, from->count);
    for (int64_t i = 0; i < from->count; i++) tdm_jdict_set(r, &d, from->at[i].key, from->at[i].value);
    return d;
}

static void update(tdm_jrun *r, tdm_jdict *to, const tdm_jdict *from)
{
    tdm_jrun_charge(r, from->count);
    for (int64_t i = 0; i < from->count; i++) tdm_jdict_set(r, to, from->at[i].key, from->at[i].value);
}

/* ---- the names of one scope, not of those inside it ----------------------------------------------------------------------------- */

static void visit_expr(tdm_jrun *r, symbols *s, const tdm_jnode *n)
{
    if (!n) return;
    tdm_jrun_enter(r);
    if (n->kind == TDM_JN_NAME || n->kind == TDM_JN_NSREF) load_name(r, s, n->name);
    visit_expr(r, s, n->a);
    visit_expr(r, s, n->b);
    visit_expr(r, s, n->c);
    for (int64_t i = 0; i < n->items.count; i++) visit_expr(r, s, n->items.at[i]);
    for (int64_t i = 0; n->args && i < n->args->items.count; i++) visit_expr(r, s, n->args->items.at[i]);
    if (n->args) {
        visit_expr(r, s, n->args->dyn_list);
        visit_expr(r, s, n->args->dyn_dict);
    }
    tdm_jrun_leave(r);
}

static void visit_target(tdm_jrun *r, symbols *s, const tdm_jnode *n, bool param)
{
    if (n->kind == TDM_JN_NAME && param) declare(r, s, n->name);
    else if (n->kind == TDM_JN_NAME) store_name(r, s, n->name);
    else if (n->kind == TDM_JN_NSREF) load_name(r, s, n->name);
    for (int64_t i = 0; n->kind == TDM_JN_TUPLE && i < n->items.count; i++) visit_target(r, s, n->items.at[i], param);
}

static void visit_body(tdm_jrun *r, symbols *s, const tdm_jnodes *body);

/* Each branch starts from what was known before it. elifs: NULL for an `elif`, which is an `if` of its own. */
static void visit_if(tdm_jrun *r, symbols *s, const tdm_jnode *n, const tdm_jnode *elifs)
{
    symbols branches[3];
    const tdm_jnode *last = elifs;
    visit_expr(r, s, n->a);
    const tdm_jdict before = copy_of(r, &s->stores);
    for (int i = 0; i < 3; i++) branches[i] = (symbols){.parent = s->parent, .refs = copy_of(r, &s->refs), .stores = copy_of(r, &s->stores)};
    visit_body(r, &branches[0], &n->body);
    for (const tdm_jnode *e = elifs ? elifs->c : NULL; e; last = e, e = e->c) visit_if(r, &branches[1], e, NULL);
    if (last) visit_body(r, &branches[2], &last->alternative);
    for (int i = 0; i < 3; i++) {
        update(r, &s->refs, &branches[i].refs);
        update(r, &s->stores, &branches[i].stores);
    }
    for (int64_t i = 0; i < s->stores.count; i++)
        if (!tdm_jdict_find(r, &before, s->stores.at[i].key)) define(r, s, s->stores.at[i].key.u.s, LOAD_OTHER);
}

static void visit_statement(tdm_jrun *r, symbols *s, const tdm_jnode *n)
{
    switch (n->kind) {
    case TDM_JN_OUTPUT:
        for (int64_t i = 0; i < n->items.count; i++) visit_expr(r, s, n->items.at[i]);
        break;
    case TDM_JN_IF: visit_if(r, s, n, n); break;
    case TDM_JN_FOR: visit_expr(r, s, n->a); break;
    case TDM_JN_SET:
        visit_expr(r, s, n->a);
        visit_target(r, s, n->target, false);
        break;
    case TDM_JN_SET_BLOCK: visit_target(r, s, n->target, false); break;
    case TDM_JN_WITH:
        for (int64_t i = 1; i < n->items.count; i += 2) visit_expr(r, s, n->items.at[i]);
        break;
    case TDM_JN_MACRO: store_name(r, s, n->name); break;
    case TDM_JN_CALL_BLOCK: case TDM_JN_FILTER_BLOCK: visit_expr(r, s, n->a); break;
    default: break; /* text, jumps, and scopes that are looked at on their own */
    }
}

static void visit_body(tdm_jrun *r, symbols *s, const tdm_jnodes *body)
{
    tdm_jrun_enter(r);
    for (int64_t i = 0; i < body->count; i++) visit_statement(r, s, body->at[i]);
    tdm_jrun_leave(r);
}

/* ---- the scopes inside ------------------------------------------------------------------------------------------------------------ */

static void resolve_inside(tdm_jrun *r, const symbols *s, const tdm_jnodes *body);

/* s: with the parameters of the scope; its body and the scopes in it. */
static void resolve(tdm_jrun *r, symbols *s, const tdm_jnodes *body, tdm_jnames *hidden)
{
    int64_t count = 0;
    tdm_jrun_enter(r);
    visit_body(r, s, body);
    for (int64_t i = 0; i < s->refs.count; i++) count += s->refs.at[i].value.u.i == LOAD_UNDEFINED;
    if (count) hidden->at = tdm_jrun_alloc(r, (size_t)count * sizeof(*hidden->at));
    for (int64_t i = 0; i < s->refs.count; i++)
        if (s->refs.at[i].value.u.i == LOAD_UNDEFINED) hidden->at[hidden->count++] = s->refs.at[i].key.u.s;
    resolve_inside(r, s, body);
    tdm_jrun_leave(r);
}

static void resolve_macro(tdm_jrun *r, const symbols *around, tdm_jnode *n)
{
    symbols s = {.parent = around};
    for (int64_t i = 0; i < n->items.count; i++) declare(r, &s, n->items.at[i]->name);
    for (int64_t i = 0; i < n->items.count; i++) visit_expr(r, &s, n->items.at[i]->a);
    resolve(r, &s, &n->body, &n->hidden);
}

static void resolve_scope(tdm_jrun *r, const symbols *around, tdm_jnode *n)
{
    symbols s = {.parent = n->kind == TDM_JN_BLOCK && !n->flag ? NULL : around}, other = {.parent = around};
    switch (n->kind) {
    case TDM_JN_IF:
        for (; n; n = n->c) {
            resolve_inside(r, around, &n->body);
            resolve_inside(r, around, &n->alternative);
        }
        break;
    case TDM_JN_FOR:
        visit_target(r, &s, n->target, true);
        resolve(r, &s, &n->body, &n->hidden);
        resolve(r, &other, &n->alternative, &n->hidden_else);
        break;
    case TDM_JN_WITH:
        for (int64_t i = 0; i < n->items.count; i += 2) visit_target(r, &s, n->items.at[i], true);
        resolve(r, &s, &n->body, &n->hidden);
        break;
    case TDM_JN_MACRO: resolve_macro(r, around, n); break;
    case TDM_JN_CALL_BLOCK: resolve_macro(r, around, n->b); break;
    case TDM_JN_SET_BLOCK: case TDM_JN_FILTER_BLOCK: case TDM_JN_BLOCK: case TDM_JN_SCOPE: resolve(r, &s, &n->body, &n->hidden); break;
    default: break;
    }
}

static void resolve_inside(tdm_jrun *r, const symbols *s, const tdm_jnodes *body)
{
    for (int64_t i = 0; i < body->count; i++) resolve_scope(r, s, body->at[i]);
}

void tdm_jscope_resolve(tdm_jrun *r, tdm_jnode *root)
{
    symbols s = {0};
    resolve(r, &s, &root->body, &root->hidden);
}
