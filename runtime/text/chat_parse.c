/* Tokens to statements, as jinja2/parser.py. */
#include "runtime/text/chat_internal.h"

/* ---- the token stream ------------------------------------------------------------------------------------------------------ */

const tdm_jtoken *tdm_jparse_look(const tdm_jparser *p, int64_t ahead)
{
    return &p->tokens.at[tdm_min_i64(p->pos + ahead, p->tokens.count - 1)]; /* the last one is EOF */
}

const tdm_jtoken *tdm_jparse_next(tdm_jparser *p)
{
    const tdm_jtoken *t = tdm_jparse_look(p, 0);
    if (t->kind != TDM_JT_EOF) p->pos++;
    return t;
}

bool tdm_jparse_is_name(const tdm_jparser *p, const char *name)
{
    const tdm_jtoken *t = tdm_jparse_look(p, 0);
    return t->kind == TDM_JT_NAME && tdm_jstr_is(t->s, name);
}

bool tdm_jparse_skip(tdm_jparser *p, tdm_jtoken_kind kind)
{
    const bool here = tdm_jparse_look(p, 0)->kind == kind;
    if (here) tdm_jparse_next(p);
    return here;
}

bool tdm_jparse_skip_name(tdm_jparser *p, const char *name)
{
    const bool here = tdm_jparse_is_name(p, name);
    if (here) tdm_jparse_next(p);
    return here;
}

static const char *token_text(tdm_jtoken_kind kind)
{
    static const char *const text[] = {
        [TDM_JT_EOF] = "the end of the template", [TDM_JT_DATA] = "text", [TDM_JT_BLOCK_BEGIN] = "{%", [TDM_JT_BLOCK_END] = "%}",
        [TDM_JT_VAR_BEGIN] = "{{", [TDM_JT_VAR_END] = "}}", [TDM_JT_NAME] = "a name", [TDM_JT_STR] = "a string",
        [TDM_JT_INT] = "an integer", [TDM_JT_FLOAT] = "a number", [TDM_JT_ADD] = "+", [TDM_JT_SUB] = "-", [TDM_JT_MUL] = "*",
        [TDM_JT_DIV] = "/", [TDM_JT_FLOORDIV] = "//", [TDM_JT_MOD] = "%", [TDM_JT_POW] = "**", [TDM_JT_TILDE] = "~",
        [TDM_JT_LBRACKET] = "[", [TDM_JT_RBRACKET] = "]", [TDM_JT_LPAREN] = "(", [TDM_JT_RPAREN] = ")", [TDM_JT_LBRACE] = "{",
        [TDM_JT_RBRACE] = "}", [TDM_JT_EQ] = "==", [TDM_JT_NE] = "!=", [TDM_JT_GT] = ">", [TDM_JT_GE] = ">=", [TDM_JT_LT] = "<",
        [TDM_JT_LE] = "<=", [TDM_JT_ASSIGN] = "=", [TDM_JT_DOT] = ".", [TDM_JT_COLON] = ":", [TDM_JT_PIPE] = "|",
        [TDM_JT_COMMA] = ",", [TDM_JT_SEMICOLON] = ";"};
    return text[kind];
}

_Noreturn void tdm_jparse_unexpected(tdm_jparser *p, const char *wanted)
{
    const tdm_jtoken *t = tdm_jparse_look(p, 0);
    p->run->line = t->line;
    if (t->kind == TDM_JT_NAME) tdm_jrun_fail(p->run, NULL, "expected %s, got \"%s\"", wanted, tdm_jstr_c(p->run, t->s));
    tdm_jrun_fail(p->run, NULL, "expected %s, got %s", wanted, token_text(t->kind));
}

const tdm_jtoken *tdm_jparse_expect(tdm_jparser *p, tdm_jtoken_kind kind)
{
    if (tdm_jparse_look(p, 0)->kind != kind) tdm_jparse_unexpected(p, token_text(kind));
    return tdm_jparse_next(p);
}

void tdm_jparse_expect_name(tdm_jparser *p, const char *name)
{
    if (!tdm_jparse_skip_name(p, name)) tdm_jparse_unexpected(p, name);
}

void tdm_jparse_enter(tdm_jparser *p)
{
    p->run->line = tdm_jparse_look(p, 0)->line;
    if (++p->nesting > TDM_CHAT_MAX_NESTING)
        tdm_jrun_fail(p->run, NULL, "the template nests more than %d deep", TDM_CHAT_MAX_NESTING);
}

tdm_jnode *tdm_jparse_node(tdm_jparser *p, tdm_jnode_kind kind, int line)
{
    tdm_jnode *n = tdm_jrun_alloc(p->run, sizeof(*n));
    n->kind = kind;
    n->line = line;
    return n;
}

void tdm_jnodes_push(tdm_jparser *p, tdm_jnodes *list, tdm_jnode *n)
{
    if (list->count == list->room) {
        const int64_t room = list->room ? list->room * 2 : 4;
        tdm_jnode **at = tdm_jrun_alloc(p->run, (size_t)room * sizeof(*at));
        if (list->count) memcpy(at, list->at, (size_t)list->count * sizeof(*at));
        list->at = at;
        list->room = room;
    }
    list->at[list->count++] = n;
}

/* ---- statements ------------------------------------------------------------------------------------------------------------ */

static tdm_jnodes subparse(tdm_jparser *p, const char *const *ends);

/* "%}", then statements up to one of the ends, which stays the current token. */
static tdm_jnodes parse_body(tdm_jparser *p, const char *const *ends)
{
    tdm_jparse_skip(p, TDM_JT_COLON);
    tdm_jparse_expect(p, TDM_JT_BLOCK_END);
    return subparse(p, ends);
}

static tdm_jnodes parse_body_to(tdm_jparser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    tdm_jnodes body = parse_body(p, ends);
    tdm_jparse_next(p);
    return body;
}

/* A body that is a scope of its own: an unknown filter in it is a fault at once, as Jinja's compiler has it. */
static tdm_jnodes parse_scope_to(tdm_jparser *p, const char *end)
{
    const bool soft = p->soft;
    p->soft = false;
    tdm_jnodes body = parse_body_to(p, end);
    p->soft = soft;
    return body;
}

static void check_target(tdm_jparser *p, const tdm_jnode *n)
{
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    p->run->line = n->line;
    if (n->kind == TDM_JN_NSREF) return;
    if (n->kind == TDM_JN_TUPLE) {
        for (int64_t i = 0; i < n->items.count; i++) check_target(p, n->items.at[i]);
        return;
    }
    if (n->kind != TDM_JN_NAME) tdm_jrun_fail(p->run, NULL, "only names can be assigned to");
    for (size_t i = 0; i < TDM_COUNT(constants); i++)
        if (tdm_jstr_is(n->name, constants[i])) tdm_jrun_fail(p->run, NULL, "cannot assign to %s", constants[i]);
}

static bool assigns_loop(const tdm_jnode *target)
{
    if (target->kind == TDM_JN_NAME) return tdm_jstr_is(target->name, "loop");
    for (int64_t i = 0; target->kind == TDM_JN_TUPLE && i < target->items.count; i++)
        if (assigns_loop(target->items.at[i])) return true;
    return false;
}

static tdm_jnode *parse_target(tdm_jparser *p, bool with_namespace, const char *end_name)
{
    tdm_jnode *n = tdm_jparse_tuple(p, (tdm_jtuple_how){.simplified = true, .with_namespace = with_namespace, .end_name = end_name});
    check_target(p, n);
    if (p->loops_all && assigns_loop(n)) tdm_jrun_fail(p->run, NULL, "cannot assign to loop in a for loop");
    return n;
}

static tdm_jnode *parse_target_name(tdm_jparser *p)
{
    const tdm_jtoken *t = tdm_jparse_expect(p, TDM_JT_NAME);
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_NAME, t->line);
    n->name = t->s;
    check_target(p, n);
    return n;
}

static tdm_jnode *parse_set(tdm_jparser *p, int line)
{
    tdm_jnode *target = parse_target(p, true, NULL);
    const bool block = !tdm_jparse_skip(p, TDM_JT_ASSIGN);
    tdm_jnode *n = tdm_jparse_node(p, block ? TDM_JN_SET_BLOCK : TDM_JN_SET, line);
    n->target = target;
    if (!block) {
        n->a = tdm_jparse_tuple(p, (tdm_jtuple_how){0});
        return n;
    }
    n->a = tdm_jparse_filters(p, NULL, false);
    n->body = parse_scope_to(p, "endset");
    return n;
}

static tdm_jnode *parse_for(tdm_jparser *p, int line)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_FOR, line);
    const bool soft = p->soft;
    p->loops_all++;
    n->target = parse_target(p, false, "in");
    tdm_jparse_expect_name(p, "in");
    n->a = tdm_jparse_tuple(p, (tdm_jtuple_how){.no_cond = true, .end_name = "recursive"});
    p->soft = false;
    if (tdm_jparse_skip_name(p, "if")) n->b = tdm_jparse_expr(p, true);
    n->flag = tdm_jparse_skip_name(p, "recursive");
    p->loops++;
    n->body = parse_body(p, ends);
    p->loops--;
    if (!tdm_jstr_is(tdm_jparse_next(p)->s, "endfor")) n->alternative = parse_body_to(p, "endfor");
    p->loops_all--;
    p->soft = soft;
    return n;
}

static tdm_jnode *parse_if(tdm_jparser *p, int line)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    tdm_jnode *first = tdm_jparse_node(p, TDM_JN_IF, line), *n = first;
    const bool soft = p->soft;
    p->soft = true;
    for (;;) {
        n->a = tdm_jparse_tuple(p, (tdm_jtuple_how){.no_cond = true});
        n->body = parse_body(p, ends);
        const tdm_jtoken *end = tdm_jparse_next(p);
        if (tdm_jstr_is(end->s, "elif")) {
            n->c = tdm_jparse_node(p, TDM_JN_IF, end->line); /* a chain, walked without recursion */
            n = n->c;
            continue;
        }
        if (tdm_jstr_is(end->s, "else")) n->alternative = parse_body_to(p, "endif");
        break;
    }
    p->soft = soft;
    return first;
}

static tdm_jnode *parse_with(tdm_jparser *p, int line)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_WITH, line);
    while (tdm_jparse_look(p, 0)->kind != TDM_JT_BLOCK_END) {
        if (n->items.count) tdm_jparse_expect(p, TDM_JT_COMMA);
        tdm_jnodes_push(p, &n->items, parse_target(p, false, NULL));
        tdm_jparse_expect(p, TDM_JT_ASSIGN);
        tdm_jnodes_push(p, &n->items, tdm_jparse_expr(p, true));
    }
    n->body = parse_scope_to(p, "endwith");
    return n;
}

static void parse_signature(tdm_jparser *p, tdm_jnode *macro)
{
    bool defaults = false;
    tdm_jparse_expect(p, TDM_JT_LPAREN);
    while (tdm_jparse_look(p, 0)->kind != TDM_JT_RPAREN) {
        if (macro->items.count) tdm_jparse_expect(p, TDM_JT_COMMA);
        tdm_jnode *param = parse_target_name(p);
        if (tdm_jparse_skip(p, TDM_JT_ASSIGN)) {
            param->a = tdm_jparse_expr(p, true);
            defaults = true;
        } else if (defaults) {
            tdm_jrun_fail(p->run, NULL, "a parameter without a default follows one with a default");
        }
        for (int64_t i = 0; i < macro->items.count; i++)
            if (tdm_jstr_eq(macro->items.at[i]->name, param->name))
                tdm_jrun_fail(p->run, NULL, "the parameter %s stands twice", tdm_jstr_c(p->run, param->name));
        tdm_jnodes_push(p, &macro->items, param);
    }
    tdm_jparse_expect(p, TDM_JT_RPAREN);
}

/* The signature and body of a macro or of a caller: a function of its own, so loops outside cannot be left from it. */
static void parse_function(tdm_jparser *p, tdm_jnode *macro, bool signature, const char *end, tdm_jnode **call)
{
    tdm_jnode *outer = p->macro;
    const int loops = p->loops;
    p->macro = macro;
    if (signature) parse_signature(p, macro);
    p->macro = outer;
    if (call) {
        *call = tdm_jparse_expr(p, true);
        if ((*call)->kind != TDM_JN_CALL) tdm_jrun_fail(p->run, NULL, "{%% call %%} expects a call of a macro");
    }
    p->macro = macro;
    p->loops = 0;
    macro->body = parse_scope_to(p, end);
    p->loops = loops;
    p->macro = outer;
    if (!outer) return; /* what a nested function mentions, the one around it needs too */
    outer->uses_caller |= macro->uses_caller;
    outer->uses_varargs |= macro->uses_varargs;
    outer->uses_kwargs |= macro->uses_kwargs;
}

static tdm_jnode *parse_macro(tdm_jparser *p, int line)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_MACRO, line);
    n->name = parse_target_name(p)->name;
    parse_function(p, n, true, "endmacro", NULL);
    return n;
}

static tdm_jnode *parse_call_block(tdm_jparser *p, int line)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_CALL_BLOCK, line);
    n->b = tdm_jparse_node(p, TDM_JN_MACRO, line);
    parse_function(p, n->b, tdm_jparse_look(p, 0)->kind == TDM_JT_LPAREN, "endcall", &n->a);
    return n;
}

static tdm_jnode *parse_filter_block(tdm_jparser *p, int line)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_FILTER_BLOCK, line);
    n->a = tdm_jparse_filters(p, NULL, true);
    n->body = parse_scope_to(p, "endfilter");
    return n;
}

/* Without other templates a block is its own body; it sees the template's variables and not those of a loop around it. */
static tdm_jnode *parse_block(tdm_jparser *p, int line)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_BLOCK, line);
    const int loops = p->loops;
    n->name = tdm_jparse_expect(p, TDM_JT_NAME)->s;
    if (tdm_jdict_find_str(p->run, &p->blocks, n->name))
        tdm_jrun_fail(p->run, NULL, "the block %s is defined twice", tdm_jstr_c(p->run, n->name));
    tdm_jdict_set(p->run, &p->blocks, tdm_jv_str(n->name), tdm_jv_none());
    n->flag = tdm_jparse_skip_name(p, "scoped");
    tdm_jparse_skip_name(p, "required");
    p->loops = 0;
    n->body = parse_scope_to(p, "endblock");
    p->loops = loops;
    const tdm_jtoken *t = tdm_jparse_look(p, 0);
    if (t->kind == TDM_JT_NAME && tdm_jstr_eq(t->s, n->name)) tdm_jparse_next(p);
    return n;
}

static tdm_jnode *parse_print(tdm_jparser *p, int line)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_OUTPUT, line);
    while (tdm_jparse_look(p, 0)->kind != TDM_JT_BLOCK_END) {
        if (n->items.count) tdm_jparse_expect(p, TDM_JT_COMMA);
        tdm_jnodes_push(p, &n->items, tdm_jparse_expr(p, true));
    }
    return n;
}

static tdm_jnode *parse_generation(tdm_jparser *p, int line)
{
    tdm_jnode *n = tdm_jparse_node(p, TDM_JN_SCOPE, line);
    const int loops = p->loops;
    p->loops = 0;
    n->body = parse_scope_to(p, "endgeneration");
    p->loops = loops;
    return n;
}

static tdm_jnode *parse_jump(tdm_jparser *p, int line, bool is_break)
{
    if (p->loops == 0) tdm_jrun_fail(p->run, NULL, "%s outside a for loop", is_break ? "break" : "continue");
    return tdm_jparse_node(p, is_break ? TDM_JN_BREAK : TDM_JN_CONTINUE, line);
}

static tdm_jnode *parse_statement(tdm_jparser *p)
{
    static const struct { const char *tag; tdm_jnode *(*parse)(tdm_jparser *p, int line); } tags[] = {
        {"for", parse_for}, {"if", parse_if}, {"set", parse_set}, {"macro", parse_macro}, {"with", parse_with},
        {"call", parse_call_block}, {"filter", parse_filter_block}, {"print", parse_print}, {"block", parse_block},
        {"generation", parse_generation}};
    static const char *const refused[] = {"extends", "include", "import", "from", "autoescape"};
    if (tdm_jparse_look(p, 0)->kind != TDM_JT_NAME) tdm_jparse_unexpected(p, "the name of a tag");
    const tdm_jtoken *t = tdm_jparse_next(p);
    p->run->line = t->line;
    for (size_t i = 0; i < TDM_COUNT(tags); i++)
        if (tdm_jstr_is(t->s, tags[i].tag)) return tags[i].parse(p, t->line);
    if (tdm_jstr_is(t->s, "break") || tdm_jstr_is(t->s, "continue")) return parse_jump(p, t->line, tdm_jstr_is(t->s, "break"));
    for (size_t i = 0; i < TDM_COUNT(refused); i++)
        if (tdm_jstr_is(t->s, refused[i])) tdm_jrun_fail(p->run, NULL, "{%% %s %%} is not available to a chat template", refused[i]);
    tdm_jrun_fail(p->run, NULL, "unknown tag \"%s\"", tdm_jstr_c(p->run, t->s));
}

static bool at_end(const tdm_jparser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (tdm_jparse_is_name(p, *ends)) return true;
    return false;
}

/* ends: names of the tags that end this body (the name stays the current token); NULL: the end of the template. */
static tdm_jnodes subparse(tdm_jparser *p, const char *const *ends)
{
    tdm_jnodes body = {0};
    const int opened = tdm_jparse_look(p, 0)->line;
    tdm_jparse_enter(p);
    for (;;) {
        const tdm_jtoken *t = tdm_jparse_look(p, 0);
        p->run->line = t->line;
        if (t->kind == TDM_JT_EOF) {
            if (ends) tdm_jrun_fail(p->run, NULL, "the template ends before {%% %s %%}; the block was opened in line %d", ends[0], opened);
            break;
        }
        tdm_jparse_next(p);
        if (t->kind == TDM_JT_DATA) {
            tdm_jnode *n = tdm_jparse_node(p, TDM_JN_DATA, t->line);
            n->value = tdm_jv_str(t->s);
            tdm_jnodes_push(p, &body, n);
        } else if (t->kind == TDM_JT_VAR_BEGIN) {
            tdm_jnode *n = tdm_jparse_node(p, TDM_JN_OUTPUT, t->line);
            tdm_jnodes_push(p, &n->items, tdm_jparse_tuple(p, (tdm_jtuple_how){0}));
            tdm_jparse_expect(p, TDM_JT_VAR_END);
            tdm_jnodes_push(p, &body, n);
        } else { /* BLOCK_BEGIN: nothing else follows text */
            if (at_end(p, ends)) break;
            tdm_jnodes_push(p, &body, parse_statement(p));
            tdm_jparse_expect(p, TDM_JT_BLOCK_END);
        }
    }
    p->nesting--;
    return body;
}

tdm_jnode *tdm_jparse(tdm_jrun *r, tdm_jtokens tokens)
{
    tdm_jparser p = {.run = r, .tokens = tokens};
    tdm_jnode *root = tdm_jparse_node(&p, TDM_JN_SCOPE, 1);
    root->body = subparse(&p, NULL);
    tdm_jscope_resolve(r, root);
    return root;
}
