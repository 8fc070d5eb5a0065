/* Opening and rendering a chat template: the run's arena and limits, the variables as values, the clock. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/text/chat_internal.h"

struct tdm_chat {
    tdm_jrun run; /* owns the parsed template */
    char *name;
    tdm_jnode *root;
};

/* ---- a run ----------------------------------------------------------------------------------------------------------------- */

void tdm_jrun_fail(tdm_jrun *r, const char *hint, const char *fmt, ...)
{
    char what[sizeof(r->err->what)], where[sizeof(r->err->where)];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    snprintf(where, sizeof(where), "%s:%d", r->name, r->line);
    r->status = TDM_FAIL(r->err, TDM_ERR_INPUT, where, hint, "%s", what);
    longjmp(r->jump, 1);
}

void tdm_jrun_out_of_memory(tdm_jrun *r)
{
    r->status = TDM_FAIL(r->err, TDM_ERR_OTHER, r->name, "free some memory", "out of host memory in a chat template");
    longjmp(r->jump, 1);
}

void *tdm_jrun_alloc(tdm_jrun *r, size_t bytes)
{
    const size_t align = _Alignof(max_align_t), head = tdm_align_up(sizeof(tdm_jchunk), align), least = 64 << 10;
    if (bytes > r->bytes_max) tdm_jrun_fail(r, NULL, "the template needs more than %zu MiB of memory", r->bytes_max >> 20);
    bytes = tdm_align_up(bytes ? bytes : 1, align);
    tdm_jchunk *c = r->chunks;
    if (!c || c->room - c->used < bytes) {
        const size_t room = bytes > least / 4 ? bytes : least;
        if (r->bytes + room > r->bytes_max) tdm_jrun_fail(r, NULL, "the template needs more than %zu MiB of memory", r->bytes_max >> 20);
        tdm_jchunk *fresh = calloc(1, head + room);
        if (!fresh) tdm_jrun_out_of_memory(r);
        fresh->room = room;
        r->bytes += room;
        if (c && room == bytes) { /* one big object: the chunk in use stays the first */
            fresh->next = c->next;
            c->next = fresh;
        } else {
            fresh->next = c;
            r->chunks = fresh;
        }
        c = fresh;
    }
    void *p = (char *)c + head + c->used;
    c->used += bytes;
    return p;
}

void tdm_jrun_release(tdm_jrun *r)
{
    while (r->chunks) {
        tdm_jchunk *next = r->chunks->next;
        free(r->chunks);
        r->chunks = next;
    }
    r->bytes = 0;
}

void tdm_jrun_charge(tdm_jrun *r, int64_t n)
{
    r->steps += n;
    if (r->steps > TDM_CHAT_MAX_STEPS)
        tdm_jrun_fail(r, "does a loop of it not end?", "the template takes more than %d steps", TDM_CHAT_MAX_STEPS);
}

void tdm_jrun_enter(tdm_jrun *r)
{
    if (++r->depth > TDM_CHAT_MAX_DEPTH)
        tdm_jrun_fail(r, "does a macro call itself without an end?", "the template evaluates more than %d deep", TDM_CHAT_MAX_DEPTH);
    tdm_jrun_charge(r, 1);
}

/* ---- variables ------------------------------------------------------------------------------------------------------------- */

static tdm_jval from_json(tdm_jrun *r, const json_t *j, int depth)
{
    if (depth > TDM_CHAT_MAX_DATA_DEPTH) tdm_jrun_fail(r, NULL, "the variables nest more than %d deep", TDM_CHAT_MAX_DATA_DEPTH);
    switch (json_typeof(j)) {
    case JSON_TRUE: return tdm_jv_bool(true);
    case JSON_FALSE: return tdm_jv_bool(false);
    case JSON_INTEGER: return tdm_jv_int(json_integer_value(j));
    case JSON_REAL: return tdm_jv_float(json_real_value(j));
    case JSON_STRING: return tdm_jv_str(tdm_jstr_lend(r, json_string_value(j), json_string_length(j)));
    case JSON_ARRAY: {
        tdm_jlist *l = tdm_jlist_new(r, (int64_t)json_array_size(j));
        for (size_t i = 0; i < json_array_size(j); i++) tdm_jlist_push(r, l, from_json(r, json_array_get(j, i), depth + 1));
        return tdm_jv_list(l);
    }
    case JSON_OBJECT: {
        tdm_jdict *d = tdm_jdict_new(r);
        /* jansson's iterator functions take a json_t they do not change */
        json_t *object = (json_t *)(uintptr_t)j;
        for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
            const tdm_jstr *key = tdm_jstr_new(r, json_object_iter_key(it), json_object_iter_key_len(it));
            tdm_jdict_set(r, d, tdm_jv_str(key), from_json(r, json_object_iter_value(it), depth + 1));
        }
        return tdm_jv_dict(d);
    }
    default: return tdm_jv_none();
    }
}

/* "2026-01-31", with "T12:34:56" or " 12:34:56" after it or without. */
static void read_clock(tdm_jrun *r, tdm_jval date)
{
    static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int y = 0, mon = 0, d = 0, h = 0, min = 0, s = 0, end = 0;
    char t = 'T';
    if (date.kind != TDM_J_STR) return;
    const char *text = tdm_jstr_c(r, date.u.s);
    const int got = sscanf(text, "%4d-%2d-%2d%c%2d:%2d:%2d%n", &y, &mon, &d, &t, &h, &min, &s, &end);
    const bool whole = (got == 3 && strlen(text) == 10) || (got == 7 && end == (int)strlen(text) && (t == 'T' || t == ' '));
    const bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    if (!whole || y < 1 || mon < 1 || mon > 12 || d < 1 || d > days[mon - 1] || (mon == 2 && d == 29 && !leap) || h < 0 || h > 23 ||
        min < 0 || min > 59 || s < 0 || s > 59)
        tdm_jrun_fail(r, "write it as \"2026-01-31\" or \"2026-01-31T12:34:56\"", "the variable date is not a date: \"%s\"", text);
    const int64_t clock[6] = {y, mon, d, h, min, s};
    memcpy(r->clock, clock, sizeof(clock));
    r->has_clock = true;
}

/* As render_jinja_template has it: what a message's reasoning is called is copied to "reasoning_content", and to "thinking" when there
 * is none. */
static void alias_reasoning(tdm_jrun *r, tdm_jval message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    if (message.kind != TDM_J_DICT) return;
    for (size_t i = 0; i < TDM_COUNT(names); i++) {
        const tdm_jval *found = tdm_jdict_find(r, message.u.dict, tdm_jv_text(r, names[i]));
        if (!found || found->kind == TDM_J_NONE) continue;
        const tdm_jval reasoning = *found;
        tdm_jdict *d = tdm_jdict_new(r); /* "thinking" comes first when it is new */
        tdm_jdict_set(r, d, tdm_jv_text(r, "thinking"), reasoning);
        for (int64_t k = 0; k < message.u.dict->count; k++) tdm_jdict_set(r, d, message.u.dict->at[k].key, message.u.dict->at[k].value);
        tdm_jdict_set(r, d, tdm_jv_text(r, "reasoning_content"), reasoning);
        *message.u.dict = *d;
        return;
    }
}

/* What apply_chat_template always passes. */
static void set_defaults(tdm_jrun *r)
{
    tdm_jdict *vars = &r->globals->vars;
    tdm_jdict_set(r, vars, tdm_jv_text(r, "tools"), tdm_jv_none());
    tdm_jdict_set(r, vars, tdm_jv_text(r, "documents"), tdm_jv_none());
    tdm_jdict_set(r, vars, tdm_jv_text(r, "add_generation_prompt"), tdm_jv_bool(false));
}

/* ---- the interface --------------------------------------------------------------------------------------------------------- */

static bool valid_utf8(const char *text)
{
    json_t *s = json_string(text); /* refuses what is not UTF-8 */
    json_decref(s);
    return s != NULL;
}

static tdm_status parse(tdm_chat *c, const char *text, size_t len)
{
    if (setjmp(c->run.jump)) return c->run.status;
    c->root = tdm_jparse(&c->run, tdm_jlex(&c->run, text, len));
    return TDM_OK;
}

tdm_status tdm_chat_open(tdm_chat **out, const char *template_text, const char *name, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_chat *c = NULL;
    const size_t len = strlen(template_text);
    *out = NULL;
    if (len > TDM_CHAT_MAX_TEMPLATE_BYTES)
        return TDM_FAIL(err, TDM_ERR_INPUT, name, NULL, "the chat template has %zu bytes, at most %u are read", len, TDM_CHAT_MAX_TEMPLATE_BYTES);
    if (!valid_utf8(template_text)) return TDM_FAIL(err, TDM_ERR_INPUT, name, NULL, "the chat template is not UTF-8 text");
    c = calloc(1, sizeof(*c));
    if (!c || !(c->name = strdup(name))) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, name, "free some memory", "out of host memory for the chat template");
        goto fail;
    }
    c->run.name = c->name;
    c->run.line = 1;
    c->run.err = err;
    c->run.bytes_max = TDM_CHAT_MAX_PARSE_BYTES;
    TDM_TRY(st, parse(c, template_text, len), fail);
    c->run.err = NULL;
    *out = c;
    return TDM_OK;
fail:
    tdm_chat_close(c);
    return st;
}

void tdm_chat_close(tdm_chat *c)
{
    if (!c) return;
    tdm_jrun_release(&c->run);
    free(c->name);
    free(c);
}

static tdm_status render(const tdm_chat *c, const json_t *vars, tdm_jrun *r, tdm_jbuf *text)
{
    if (setjmp(r->jump)) return r->status;
    r->out = text;
    r->globals = tdm_jscope_new(r, NULL, NULL);
    const tdm_jval given = from_json(r, vars, 0);
    const tdm_jval *date = tdm_jdict_find(r, given.u.dict, tdm_jv_text(r, "date"));
    if (date) read_clock(r, *date);
    const tdm_jval *messages = tdm_jdict_find(r, given.u.dict, tdm_jv_text(r, "messages"));
    for (int64_t i = 0; messages && messages->kind == TDM_J_LIST && i < messages->u.list->count; i++) alias_reasoning(r, messages->u.list->at[i]);
    tdm_jfunctions_add(r, r->globals);
    set_defaults(r);
    for (int64_t i = 0; i < given.u.dict->count; i++)
        tdm_jdict_set(r, &r->globals->vars, given.u.dict->at[i].key, given.u.dict->at[i].value);
    tdm_jscope_hide(r, r->globals, &c->root->hidden);
    tdm_jexec(r, &c->root->body, r->globals);
    return TDM_OK;
}

tdm_status tdm_chat_render(const tdm_chat *c, const json_t *vars, tdm_text *out, tdm_error *err)
{
    tdm_jrun r = {.err = err, .name = c->name, .line = 1, .bytes_max = TDM_CHAT_MAX_MEMORY_BYTES};
    tdm_jbuf text = {0};
    if (!json_is_object(vars)) return TDM_FAIL(err, TDM_ERR_INPUT, c->name, NULL, "the variables of a chat template are not a JSON object");
    tdm_status st = render(c, vars, &r, &text);
    if (st == TDM_OK) st = tdm_text_append(out, text.data ? text.data : "", text.len, err);
    tdm_jrun_release(&r);
    return st;
}
