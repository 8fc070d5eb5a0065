/* Private to runtime/text/chat*.c: values, the parsed template and the state of one run.
 *
 * Everything lives in the arena of a tdm_jrun (one for the parsed template, one per rendering) and is released with it, so a fault
 * anywhere unwinds with longjmp to the one place that set r->jump: there is nothing to release on the way. Nobody between may own
 * memory of another kind. */
#ifndef TANDEM_RUNTIME_TEXT_CHAT_INTERNAL_H
#define TANDEM_RUNTIME_TEXT_CHAT_INTERNAL_H

#include <setjmp.h>
#include <string.h>

#include "runtime/text/chat.h"

typedef struct tdm_jrun tdm_jrun;
typedef struct tdm_jnode tdm_jnode;

/* ---- values ---------------------------------------------------------------------------------------------------------------- */

typedef enum tdm_jkind {
    TDM_J_MISSING, /* an argument that was not given; never seen by a template */
    TDM_J_UNDEFINED,
    TDM_J_NONE,
    TDM_J_BOOL,
    TDM_J_INT,
    TDM_J_FLOAT,
    TDM_J_STR,
    TDM_J_LIST,
    TDM_J_TUPLE,
    TDM_J_RANGE,
    TDM_J_DICT,
    TDM_J_VIEW, /* dict.keys(), .values(), .items() */
    TDM_J_ITER, /* what Python would give as a generator or an iterator: read once */
    TDM_J_NAMESPACE,
    TDM_J_MACRO,
    TDM_J_FUNC, /* a global function or a bound method */
    TDM_J_LOOP,
    TDM_J_CYCLER,
    TDM_J_JOINER
} tdm_jkind;

typedef struct tdm_jstr {
    const char *data; /* UTF-8, valid, not NUL-terminated */
    size_t len;
    uint64_t hash;    /* 0: not computed yet */
    bool markup;      /* Markup of markupsafe: `+` escapes what is joined to it */
} tdm_jstr;

typedef struct tdm_jval {
    tdm_jkind kind;
    union {
        bool b;
        int64_t i;
        double f;
        const tdm_jstr *s; /* STR; UNDEFINED: why it is undefined */
        struct tdm_jlist *list; /* LIST, TUPLE, and first member of RANGE, VIEW, ITER */
        struct tdm_jrange *range;
        struct tdm_jview *view;
        struct tdm_jiter *iter;
        struct tdm_jdict *dict; /* DICT, NAMESPACE */
        struct tdm_jmacro *macro;
        struct tdm_jfunc *func;
        struct tdm_jloop *loop;
        struct tdm_jcycler *cycler;
    } u;
} tdm_jval;

typedef struct tdm_jlist { tdm_jval *at; int64_t count, room; } tdm_jlist;
typedef struct tdm_jrange { tdm_jlist items; int64_t start, stop, step; } tdm_jrange;
typedef struct tdm_jview { tdm_jlist items; const char *type; } tdm_jview; /* type: "dict_keys", ... */
typedef struct tdm_jiter { tdm_jlist items; const char *type; } tdm_jiter; /* items: those not read yet */
typedef struct tdm_jcycler { tdm_jlist items; int64_t pos; const tdm_jstr *sep; bool used; } tdm_jcycler; /* cycler and joiner */

typedef struct tdm_jentry { tdm_jval key, value; uint64_t hash; } tdm_jentry;
/* In order of insertion; index: open addressing over entries, kept from 9 entries on. */
typedef struct tdm_jdict { tdm_jentry *at; int64_t count, room; int32_t *index; int64_t index_room; } tdm_jdict;

typedef struct tdm_jscope { struct tdm_jscope *parent; tdm_jdict vars; } tdm_jscope;
typedef struct tdm_jmacro { const tdm_jnode *node; tdm_jscope *scope; bool is_caller; } tdm_jmacro;

typedef struct tdm_jloop {
    tdm_jlist items;
    int64_t pos, depth0;
    const tdm_jnode *node; /* the `for` when it is recursive, else NULL */
    tdm_jscope *scope;     /* where a recursive call evaluates the body */
    tdm_jval changed;      /* last arguments of loop.changed(), MISSING before the first */
} tdm_jloop;

typedef struct tdm_jkwarg { const tdm_jstr *name; tdm_jval value; } tdm_jkwarg;
typedef struct tdm_jargs { const tdm_jval *at; int64_t count; const tdm_jkwarg *kw; int64_t kw_count; } tdm_jargs;
typedef tdm_jval tdm_jcall_fn(tdm_jrun *r, tdm_jval self, const tdm_jargs *args);
typedef struct tdm_jnamed { const char *name; tdm_jcall_fn *call; } tdm_jnamed; /* call NULL: refused by the sandbox or here */
typedef struct tdm_jfunc { tdm_jval self; const tdm_jnamed *named; } tdm_jfunc;

static inline tdm_jval tdm_jv_none(void) { return (tdm_jval){.kind = TDM_J_NONE}; }
static inline tdm_jval tdm_jv_bool(bool b) { return (tdm_jval){.kind = TDM_J_BOOL, .u.b = b}; }
static inline tdm_jval tdm_jv_int(int64_t i) { return (tdm_jval){.kind = TDM_J_INT, .u.i = i}; }
static inline tdm_jval tdm_jv_float(double f) { return (tdm_jval){.kind = TDM_J_FLOAT, .u.f = f}; }
static inline tdm_jval tdm_jv_str(const tdm_jstr *s) { return (tdm_jval){.kind = TDM_J_STR, .u.s = s}; }
static inline tdm_jval tdm_jv_list(tdm_jlist *l) { return (tdm_jval){.kind = TDM_J_LIST, .u.list = l}; }
static inline tdm_jval tdm_jv_tuple(tdm_jlist *l) { return (tdm_jval){.kind = TDM_J_TUPLE, .u.list = l}; }
static inline tdm_jval tdm_jv_dict(tdm_jdict *d) { return (tdm_jval){.kind = TDM_J_DICT, .u.dict = d}; }

/* ---- the parsed template --------------------------------------------------------------------------------------------------- */

typedef enum tdm_jtoken_kind {
    TDM_JT_EOF, TDM_JT_DATA, TDM_JT_BLOCK_BEGIN, TDM_JT_BLOCK_END, TDM_JT_VAR_BEGIN, TDM_JT_VAR_END,
    TDM_JT_NAME, TDM_JT_STR, TDM_JT_INT, TDM_JT_FLOAT,
    TDM_JT_ADD, TDM_JT_SUB, TDM_JT_MUL, TDM_JT_DIV, TDM_JT_FLOORDIV, TDM_JT_MOD, TDM_JT_POW, TDM_JT_TILDE,
    TDM_JT_LBRACKET, TDM_JT_RBRACKET, TDM_JT_LPAREN, TDM_JT_RPAREN, TDM_JT_LBRACE, TDM_JT_RBRACE,
    TDM_JT_EQ, TDM_JT_NE, TDM_JT_GT, TDM_JT_GE, TDM_JT_LT, TDM_JT_LE,
    TDM_JT_ASSIGN, TDM_JT_DOT, TDM_JT_COLON, TDM_JT_PIPE, TDM_JT_COMMA, TDM_JT_SEMICOLON
} tdm_jtoken_kind;

typedef struct tdm_jtoken {
    tdm_jtoken_kind kind;
    int line;
    const tdm_jstr *s; /* DATA, NAME, STR */
    union { int64_t i; double f; } num;
} tdm_jtoken;

typedef struct tdm_jtokens { tdm_jtoken *at; int64_t count, room; } tdm_jtokens;

typedef enum tdm_jnode_kind {
    /* expressions */
    TDM_JN_CONST,    /* value */
    TDM_JN_NAME,     /* name */
    TDM_JN_NSREF,    /* name.attr as a target */
    TDM_JN_TUPLE, TDM_JN_LIST, /* items */
    TDM_JN_DICT,     /* items: key, value, key, value, ... */
    TDM_JN_AND, TDM_JN_OR, TDM_JN_NOT, /* a, b */
    TDM_JN_COND,     /* a if b else c (c may be NULL) */
    TDM_JN_COMPARE,  /* a, then items[i] with ops[i] */
    TDM_JN_BINARY,   /* op: token kind; a, b */
    TDM_JN_NEG, TDM_JN_POS, /* a */
    TDM_JN_CONCAT,   /* items */
    TDM_JN_ATTR,     /* a.name */
    TDM_JN_ITEM,     /* a[b] */
    TDM_JN_SLICE,    /* a:b:c, each may be NULL */
    TDM_JN_CALL,     /* a(args) */
    TDM_JN_FILTER, TDM_JN_TEST, /* a (NULL: the captured block), name, args */
    /* statements */
    TDM_JN_DATA,     /* value */
    TDM_JN_OUTPUT,   /* items */
    TDM_JN_IF,       /* a, body, alternative */
    TDM_JN_FOR,      /* target, a, b: the filter or NULL, body, alternative, flag: recursive */
    TDM_JN_SET,      /* target, a */
    TDM_JN_SET_BLOCK, /* target, a: filter chain or NULL, body */
    TDM_JN_WITH,     /* items: target, value, ...; body */
    TDM_JN_MACRO,    /* name, params, body */
    TDM_JN_CALL_BLOCK, /* a: the call, b: a MACRO node that is the caller */
    TDM_JN_FILTER_BLOCK, /* a: filter chain, body */
    TDM_JN_BLOCK,    /* name, body */
    TDM_JN_SCOPE,    /* body in a scope of its own: {% generation %} */
    TDM_JN_BREAK, TDM_JN_CONTINUE
} tdm_jnode_kind;

typedef struct tdm_jnodes { tdm_jnode **at; int64_t count, room; } tdm_jnodes;

/* The arguments of a call, a filter or a test, in order: positional, then keywords, then *dyn and **dyn. */
typedef struct tdm_jcallargs {
    tdm_jnodes items;            /* positional values, then keyword values */
    const tdm_jstr **names;      /* [items.count]: NULL for a positional one */
    tdm_jnode *dyn_list, *dyn_dict;
} tdm_jcallargs;

typedef struct tdm_jnames { const tdm_jstr **at; int64_t count; } tdm_jnames;

struct tdm_jnode {
    tdm_jnode_kind kind;
    tdm_jtoken_kind op;
    int line;
    bool flag;
    bool uses_caller, uses_varargs, uses_kwargs; /* MACRO: the names its body mentions */
    const tdm_jstr *name, *attr;
    tdm_jval value;
    tdm_jnode *a, *b, *c, *target;
    tdm_jnodes items;       /* MACRO: parameter names as NAME nodes, a default in their `a` */
    uint8_t *ops;           /* COMPARE: token kinds; NAME for `in`, DATA for `not in` */
    tdm_jcallargs *args;
    tdm_jnodes body, alternative;
    tdm_jnames hidden, hidden_else; /* names that are undefined at the start of the body's scope, and of the alternative's (FOR) */
    const void *found;      /* FILTER, TEST: the entry of the table, NULL when there is none (a fault when it is reached) */
};

/* ---- one run: parsing or rendering ----------------------------------------------------------------------------------------- */

typedef struct tdm_jchunk { struct tdm_jchunk *next; size_t used, room; } tdm_jchunk;
typedef struct tdm_jbuf { char *data; size_t len, room; } tdm_jbuf; /* grows in the arena */

struct tdm_jrun {
    jmp_buf jump;
    tdm_error *err;
    tdm_status status;
    const char *name;    /* of the template */
    int line;            /* of the node at hand */
    tdm_jchunk *chunks;
    size_t bytes, bytes_max;
    int64_t steps;
    int depth;
    tdm_jbuf *out;       /* where output goes now: the rendering, or the block being captured */
    tdm_jscope *globals;
    bool has_clock;
    int64_t clock[6];    /* year, month, day, hour, minute, second */
};

_Noreturn void tdm_jrun_fail(tdm_jrun *r, const char *hint, const char *fmt, ...) TDM_PRINTF(3, 4);
_Noreturn void tdm_jrun_out_of_memory(tdm_jrun *r);
void *tdm_jrun_alloc(tdm_jrun *r, size_t bytes); /* zeroed; does not return when it cannot */
void tdm_jrun_release(tdm_jrun *r);
/* Counts work; n: nodes, or bytes / 64 for what touches long strings. */
void tdm_jrun_charge(tdm_jrun *r, int64_t n);
void tdm_jrun_enter(tdm_jrun *r); /* one evaluation deeper */
static inline void tdm_jrun_leave(tdm_jrun *r) { r->depth--; }

/* chat_value.c */
const tdm_jstr *tdm_jstr_new(tdm_jrun *r, const char *data, size_t len);       /* copies */
const tdm_jstr *tdm_jstr_lend(tdm_jrun *r, const char *data, size_t len);      /* data outlives the run */
tdm_jval tdm_jv_text(tdm_jrun *r, const char *text);                           /* text: a literal */
bool tdm_jstr_eq(const tdm_jstr *a, const tdm_jstr *b);
bool tdm_jstr_is(const tdm_jstr *a, const char *text);
int tdm_jstr_cmp(const tdm_jstr *a, const tdm_jstr *b); /* by code point, as UTF-8 orders */
tdm_jlist *tdm_jlist_new(tdm_jrun *r, int64_t room);
void tdm_jlist_push(tdm_jrun *r, tdm_jlist *l, tdm_jval v);
tdm_jval tdm_jv_iter(tdm_jrun *r, const tdm_jlist *l, const char *type);
tdm_jdict *tdm_jdict_new(tdm_jrun *r);
tdm_jval *tdm_jdict_find(tdm_jrun *r, const tdm_jdict *d, tdm_jval key);       /* NULL: not there */
tdm_jval *tdm_jdict_find_str(tdm_jrun *r, const tdm_jdict *d, const tdm_jstr *key);
void tdm_jdict_set(tdm_jrun *r, tdm_jdict *d, tdm_jval key, tdm_jval value);   /* fails on an unhashable key */
tdm_jval tdm_jv_undefined(tdm_jrun *r, const char *fmt, ...) TDM_PRINTF(2, 3);
bool tdm_jval_true(tdm_jrun *r, tdm_jval v);
bool tdm_jval_eq(tdm_jrun *r, tdm_jval a, tdm_jval b);
/* -1, 0, 1, or 2 for unordered (NaN); fails on types without an order. op is what the message names: "<". */
int tdm_jval_cmp(tdm_jrun *r, tdm_jval a, tdm_jval b, const char *op);
const char *tdm_jval_type(tdm_jval v); /* Python's type name */
static inline bool tdm_jval_is_int(tdm_jval v) { return v.kind == TDM_J_INT || v.kind == TDM_J_BOOL; }
static inline bool tdm_jval_is_number(tdm_jval v) { return tdm_jval_is_int(v) || v.kind == TDM_J_FLOAT; }
static inline int64_t tdm_jval_int(tdm_jval v) { return v.kind == TDM_J_BOOL ? (int64_t)v.u.b : v.u.i; }
static inline double tdm_jval_double(tdm_jval v) { return v.kind == TDM_J_FLOAT ? v.u.f : (double)tdm_jval_int(v); }
/* What Python's iter() walks through; an ITER is empty afterwards. Fails on what cannot be iterated. */
tdm_jlist tdm_jval_iterate(tdm_jrun *r, tdm_jval v);
bool tdm_jval_iterable(tdm_jval v);
int64_t tdm_jval_len(tdm_jrun *r, tdm_jval v); /* fails on what has no len() */
bool tdm_jval_has_len(tdm_jval v);
bool tdm_jval_contains(tdm_jrun *r, tdm_jval item, tdm_jval container);
/* Stable. keys [count] decide, items follow. */
void tdm_jval_sort(tdm_jrun *r, tdm_jval *items, tdm_jval *keys, int64_t count, bool reverse);

/* chat_unicode.c: UTF-8 that is known to be valid. */
size_t tdm_utf8_len(const char *p);                       /* bytes of the character at p */
uint32_t tdm_utf8_at(const char *p);
size_t tdm_utf8_put(char out[4], uint32_t c);
int64_t tdm_utf8_count(const char *p, size_t len);        /* characters */
size_t tdm_utf8_offset(const char *p, size_t len, int64_t chars); /* bytes of the first chars */
bool tdm_unicode_space(uint32_t c);                       /* Python's str.isspace */
bool tdm_unicode_line_end(uint32_t c);                    /* where str.splitlines splits */
bool tdm_unicode_word(uint32_t c);                        /* \w */
bool tdm_unicode_printable(uint32_t c);
bool tdm_unicode_alpha(uint32_t c);
bool tdm_unicode_decimal(uint32_t c);
bool tdm_unicode_digit(uint32_t c);
bool tdm_unicode_numeric(uint32_t c);
bool tdm_unicode_upper(uint32_t c);
bool tdm_unicode_lower(uint32_t c);
bool tdm_unicode_title(uint32_t c);
typedef enum tdm_jcase { TDM_JCASE_UPPER, TDM_JCASE_LOWER, TDM_JCASE_TITLE, TDM_JCASE_CAPITALIZE, TDM_JCASE_SWAP, TDM_JCASE_FOLD } tdm_jcase;
const tdm_jstr *tdm_jstr_case(tdm_jrun *r, const tdm_jstr *s, tdm_jcase how);

/* chat_text.c: values as text. */
void tdm_jbuf_add(tdm_jrun *r, tdm_jbuf *b, const char *data, size_t len);
void tdm_jbuf_text(tdm_jrun *r, tdm_jbuf *b, const char *text);
void tdm_jbuf_str(tdm_jrun *r, tdm_jbuf *b, tdm_jval v);  /* str(v) */
void tdm_jbuf_repr(tdm_jrun *r, tdm_jbuf *b, tdm_jval v); /* repr(v) */
const tdm_jstr *tdm_jbuf_done(tdm_jrun *r, tdm_jbuf *b);
const tdm_jstr *tdm_jval_str(tdm_jrun *r, tdm_jval v);
const char *tdm_jval_repr_c(tdm_jrun *r, tdm_jval v);     /* for messages: NUL-terminated, at most 80 bytes */
const char *tdm_jstr_c(tdm_jrun *r, const tdm_jstr *s);   /* for messages, likewise */
size_t tdm_float_repr(char out[32], double f);            /* Python's repr(float) */
bool tdm_float_parse(tdm_jrun *r, const tdm_jstr *s, double *f); /* Python's float(str) */
bool tdm_int_parse(tdm_jrun *r, const tdm_jstr *s, int base, int64_t *i); /* Python's int(str, base); past 64 bits fails the run */
const tdm_jstr *tdm_jstr_escape(tdm_jrun *r, const tdm_jstr *s); /* markupsafe.escape, as markup */
tdm_jval tdm_jfilter_tojson(tdm_jrun *r, tdm_jval self, const tdm_jargs *args);
/* chat_format.c: "..." % value and str.format */
tdm_jval tdm_jformat_percent(tdm_jrun *r, const tdm_jstr *format, tdm_jval value);
tdm_jval tdm_jformat_braces(tdm_jrun *r, const tdm_jstr *format, const tdm_jargs *args);

/* chat_lex.c, chat_parse.c, chat_parse_expr.c. p->run is the run whose arena the template lives in. */
tdm_jtokens tdm_jlex(tdm_jrun *r, const char *text, size_t len);
typedef struct tdm_jparser {
    tdm_jrun *run;
    tdm_jtokens tokens;
    int64_t pos;
    int nesting;
    int loops;              /* loops around, inside the current function */
    int loops_all;          /* loops around, outside of it too */
    bool soft;              /* inside `if`: an unknown filter is a fault only when it is reached */
    tdm_jnode *macro;       /* innermost macro being parsed */
    tdm_jdict blocks;       /* names seen */
} tdm_jparser;
tdm_jnode *tdm_jparse(tdm_jrun *r, tdm_jtokens tokens); /* a SCOPE with the whole template */
void tdm_jscope_resolve(tdm_jrun *r, tdm_jnode *root); /* chat_scope.c: fills in `hidden` */
tdm_jnode *tdm_jparse_node(tdm_jparser *p, tdm_jnode_kind kind, int line);
void tdm_jnodes_push(tdm_jparser *p, tdm_jnodes *list, tdm_jnode *n);
const tdm_jtoken *tdm_jparse_look(const tdm_jparser *p, int64_t ahead);
const tdm_jtoken *tdm_jparse_next(tdm_jparser *p); /* the current one, then steps past it */
bool tdm_jparse_is_name(const tdm_jparser *p, const char *name);
bool tdm_jparse_skip(tdm_jparser *p, tdm_jtoken_kind kind);
bool tdm_jparse_skip_name(tdm_jparser *p, const char *name);
const tdm_jtoken *tdm_jparse_expect(tdm_jparser *p, tdm_jtoken_kind kind);
void tdm_jparse_expect_name(tdm_jparser *p, const char *name);
_Noreturn void tdm_jparse_unexpected(tdm_jparser *p, const char *wanted);
void tdm_jparse_enter(tdm_jparser *p);
tdm_jnode *tdm_jparse_expr(tdm_jparser *p, bool with_cond);
tdm_jnode *tdm_jparse_primary(tdm_jparser *p, bool with_namespace);
/* end_name: a name that ends the tuple ("in", "recursive"), or NULL. */
typedef struct tdm_jtuple_how { bool simplified, no_cond, parens, with_namespace; const char *end_name; } tdm_jtuple_how;
tdm_jnode *tdm_jparse_tuple(tdm_jparser *p, tdm_jtuple_how how);
tdm_jnode *tdm_jparse_filters(tdm_jparser *p, tdm_jnode *input, bool inline_first);

/* chat_eval.c, chat_expr.c, chat_call.c */
typedef enum tdm_jflow { TDM_JF_NEXT, TDM_JF_BREAK, TDM_JF_CONTINUE } tdm_jflow;
tdm_jflow tdm_jexec(tdm_jrun *r, const tdm_jnodes *body, tdm_jscope *scope);
const tdm_jstr *tdm_jexec_capture(tdm_jrun *r, const tdm_jnodes *body, tdm_jscope *scope, tdm_jflow *flow);
tdm_jflow tdm_jexec_for(tdm_jrun *r, const tdm_jnode *n, tdm_jval over, int64_t depth0, tdm_jscope *scope);
void tdm_jassign(tdm_jrun *r, const tdm_jnode *target, tdm_jval v, tdm_jscope *scope);
tdm_jscope *tdm_jscope_new(tdm_jrun *r, tdm_jscope *parent, const tdm_jnames *hidden); /* hidden may be NULL */
void tdm_jscope_hide(tdm_jrun *r, tdm_jscope *s, const tdm_jnames *hidden);
tdm_jval tdm_jeval(tdm_jrun *r, const tdm_jnode *n, tdm_jscope *scope);
tdm_jval tdm_jbinary(tdm_jrun *r, tdm_jtoken_kind op, tdm_jval a, tdm_jval b);
/* input: what a filter chain without one starts from. */
tdm_jval tdm_jeval_filter(tdm_jrun *r, const tdm_jnode *n, tdm_jval input, tdm_jscope *scope);
tdm_jargs tdm_jeval_args(tdm_jrun *r, const tdm_jcallargs *args, tdm_jscope *scope);
tdm_jval tdm_jcall(tdm_jrun *r, tdm_jval callee, const tdm_jargs *args);
tdm_jval tdm_jcall_macro(tdm_jrun *r, const tdm_jmacro *m, const tdm_jargs *args);
tdm_jval tdm_jget_attr(tdm_jrun *r, tdm_jval v, const tdm_jstr *name); /* v.name */
tdm_jval tdm_jown_attr(tdm_jrun *r, tdm_jval v, const tdm_jstr *name); /* getattr(v, name) alone; MISSING when there is none */
tdm_jval tdm_jget_item(tdm_jrun *r, tdm_jval v, tdm_jval key);         /* v[key] */
tdm_jval tdm_jget_slice(tdm_jrun *r, tdm_jval v, tdm_jval start, tdm_jval stop, tdm_jval step);
/* Puts positional and keyword arguments where `names` (separated by spaces) says; MISSING where none was given.
 * `required` of them must be there. Names after "/"-prefix are positional only: "/ sep maxsplit" refuses keywords. */
void tdm_jargs_bind(tdm_jrun *r, const tdm_jargs *args, const char *what, const char *names, int required, tdm_jval *out);

/* chat_functions.c, chat_methods.c, chat_filters*.c, chat_tests.c: tables, found by name. */
const tdm_jnamed *tdm_jfilter_find(const tdm_jstr *name);
const tdm_jnamed *tdm_jtest_find(const tdm_jstr *name);
const tdm_jnamed *tdm_jmethod_find(tdm_jkind kind, const tdm_jstr *name, bool *refused);
const tdm_jnamed *tdm_jtable_find(const tdm_jnamed *table, size_t count, const tdm_jstr *name);
const tdm_jnamed *tdm_jfilter_seq_find(const tdm_jstr *name); /* the part of the filters in chat_filters_seq.c */
void tdm_jfunctions_add(tdm_jrun *r, tdm_jscope *globals);
tdm_jval tdm_jstr_split_lines(tdm_jrun *r, const tdm_jstr *s, bool keep_ends);
const tdm_jstr *tdm_jstr_strip(tdm_jrun *r, const tdm_jstr *s, const tdm_jstr *chars, int sides); /* 1 left, 2 right; chars NULL: space */
const tdm_jstr *tdm_jstr_replace(tdm_jrun *r, const tdm_jstr *s, const tdm_jstr *from, const tdm_jstr *to, int64_t max);
tdm_jval tdm_jloop_attr(tdm_jrun *r, tdm_jloop *l, const tdm_jstr *name); /* MISSING: no such */
const tdm_jnamed *tdm_jobject_method_find(tdm_jkind kind, const tdm_jstr *name); /* of loop and cyclers, in chat_functions.c */
const tdm_jnamed *tdm_jstr_method_find(const tdm_jstr *name); /* chat_methods_str.c; its `call` may be NULL: not available */
bool tdm_jstr_is_case(const tdm_jstr *s, bool (*wanted)(uint32_t)); /* str.islower, str.isupper */
/* s with the markup flag of like, when it has it. */
tdm_jval tdm_jv_like(tdm_jrun *r, const tdm_jstr *s, const tdm_jstr *like);
tdm_jval tdm_jstr_center(tdm_jrun *r, const tdm_jstr *s, int64_t width, const char *fill, int sides); /* 1 pads left, 2 right, 3 both */

#endif
