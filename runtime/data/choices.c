#include "runtime/data/choices.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

typedef struct reader {
    tdm_choices *c;
    const json_t *row;
    const char *where;
    tdm_error *err;
} reader;

#define BAD(r, hint, ...) TDM_FAIL((r)->err, TDM_ERR_INPUT, (r)->where, hint, __VA_ARGS__)

static tdm_status no_memory(const reader *r) { return TDM_FAIL(r->err, TDM_ERR_OTHER, r->where, "free host memory", "out of memory for a question"); }

static tdm_status text_of(const reader *r, const char *column, const char **out)
{
    const json_t *v = json_object_get(r->row, column);
    *out = json_string_value(v);
    if (*out) return TDM_OK;
    return BAD(r, "is it the data set that --task names?", v ? "the column %s is not a text" : "the row has no column %s", column);
}

static tdm_status print(const reader *r, char **out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int n = vasprintf(out, format, args);
    va_end(args);
    if (n >= 0) return TDM_OK;
    *out = NULL;
    return no_memory(r);
}

static tdm_status add(const reader *r, const char *text)
{
    tdm_choices *c = r->c;
    if (c->count == TDM_CHOICES_MAX) return BAD(r, "leave such rows out", "more than %d choices", TDM_CHOICES_MAX);
    c->text[c->count] = strdup(text);
    return c->text[c->count++] ? TDM_OK : no_memory(r);
}

static tdm_status add_all(const reader *r, const json_t *list)
{
    tdm_status st = TDM_OK;
    size_t i;
    json_t *v;
    if (!json_is_array(list)) return BAD(r, "is it the data set that --task names?", "the row has no list of choices");
    json_array_foreach((json_t *)(uintptr_t)list, i, v)
    {
        if (!json_is_string(v)) return BAD(r, "choices are texts", "choice %zu is not a text", i);
        TDM_TRY(st, add(r, json_string_value(v)), done);
    }
done:
    return st;
}

/* An index, as a number or as the text of one (HellaSwag). */
static tdm_status index_of(const reader *r, const char *column)
{
    const json_t *v = json_object_get(r->row, column);
    const char *text = json_string_value(v);
    char *end = NULL;
    r->c->gold = -1;
    if (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) < TDM_CHOICES_MAX) r->c->gold = (int)json_integer_value(v);
    if (json_is_boolean(v)) r->c->gold = json_is_true(v);
    if (text && *text) {
        const long n = strtol(text, &end, 10);
        if (*end == 0 && n >= 0 && n < TDM_CHOICES_MAX) r->c->gold = (int)n;
    }
    if (r->c->gold >= 0) return TDM_OK;
    return BAD(r, "the number of the right choice, from 0", v ? "the column %s is not the number of a choice" : "the row has no column %s", column);
}

static tdm_status read_plain(const reader *r)
{
    tdm_status st = TDM_OK;
    const char *text;
    TDM_TRY(st, text_of(r, json_object_get(r->row, "query") ? "query" : "context", &text), done);
    TDM_TRY(st, print(r, &r->c->context, "%s", text), done);
    TDM_TRY(st, add_all(r, json_object_get(r->row, "choices")), done);
    TDM_TRY(st, index_of(r, "gold"), done);
done:
    return st;
}

/* ARC, OpenBookQA: choices are {"text": [...], "label": ["A", ...]}, and the answer is a label. */
static tdm_status read_labelled(const reader *r)
{
    tdm_status st = TDM_OK;
    const char *key;
    const json_t *choices = json_object_get(r->row, "choices"), *labels = json_object_get(choices, "label");
    TDM_TRY(st, add_all(r, json_object_get(choices, "text")), done);
    TDM_TRY(st, text_of(r, "answerKey", &key), done);
    while (isspace((unsigned char)*key)) key++;
    r->c->gold = -1;
    for (size_t i = json_array_size(labels); i-- > 0;)
        if (json_is_string(json_array_get(labels, i)) && strcmp(json_string_value(json_array_get(labels, i)), key) == 0) r->c->gold = (int)i;
    if (r->c->gold < 0) st = BAD(r, "is the row complete?", "no choice is labelled \"%.32s\"", key);
done:
    return st;
}

/* The question stands in `column`, between two texts of the prompt. */
static tdm_status read_question(const reader *r, const char *column, const char *before, const char *after)
{
    tdm_status st = TDM_OK;
    const char *question;
    TDM_TRY(st, text_of(r, column, &question), done);
    TDM_TRY(st, print(r, &r->c->context, "%s%s%s", before, question, after), done);
    TDM_TRY(st, read_labelled(r), done);
done:
    return st;
}

static tdm_status read_arc(const reader *r) { return read_question(r, "question", "Question: ", "\nAnswer:"); }

static tdm_status read_openbookqa(const reader *r) { return read_question(r, "question_stem", "", ""); }

static tdm_status read_piqa(const reader *r)
{
    tdm_status st = TDM_OK;
    static const char *const columns[] = {"sol1", "sol2"};
    const char *text;
    TDM_TRY(st, text_of(r, "goal", &text), done);
    TDM_TRY(st, print(r, &r->c->context, "Question: %s\nAnswer:", text), done);
    for (int i = 0; i < 2; i++) {
        TDM_TRY(st, text_of(r, columns[i], &text), done);
        TDM_TRY(st, add(r, text), done);
    }
    TDM_TRY(st, index_of(r, "label"), done);
done:
    return st;
}

static tdm_status read_boolq(const reader *r)
{
    tdm_status st = TDM_OK;
    const char *passage, *question;
    TDM_TRY(st, text_of(r, "passage", &passage), done);
    TDM_TRY(st, text_of(r, "question", &question), done);
    TDM_TRY(st, print(r, &r->c->context, "%s\nQuestion: %s?\nAnswer:", passage, question), done);
    TDM_TRY(st, add(r, "no"), done);
    TDM_TRY(st, add(r, "yes"), done);
    TDM_TRY(st, index_of(r, json_object_get(r->row, "label") ? "label" : "answer"), done);
done:
    return st;
}

/* WikiHow's marks go, in place, as HellaSwag's authors have it: " [title]" becomes ". ", other brackets vanish, two spaces become one, once. */
static void clean(char *text)
{
    static const char title[] = " [title]";
    char *from = text, *to = text;
    while (isspace((unsigned char)*from)) from++;
    size_t n = strlen(from);
    while (n > 0 && isspace((unsigned char)from[n - 1])) n--;
    memmove(text, from, n);
    text[n] = 0;
    for (from = to = text; *from;) {
        if (strncmp(from, title, sizeof title - 1) == 0) {
            *to++ = '.';
            *to++ = ' ';
            from += sizeof title - 1;
        } else
            *to++ = *from++;
    }
    *to = 0;
    for (from = to = text; *from;) {
        const char *end = *from == '[' ? strpbrk(from, "]\n") : NULL; /* the expression's dot does not match a line's end */
        if (end && *end == ']') from += end - from + 1;
        else *to++ = *from++;
    }
    *to = 0;
    for (from = to = text; *from; from += from[0] == ' ' && from[1] == ' ' ? 2 : 1) *to++ = *from;
    *to = 0;
}

/* str.capitalize, of letters whose other case is one letter. *out is malloc'd. */
static tdm_status capitalized(const reader *r, const char *text, char **out)
{
    const size_t n = strlen(text);
    utf8proc_uint8_t *to = malloc(4 * n + 1); /* cases may differ in bytes */
    *out = (char *)to;
    if (!to) return no_memory(r);
    for (size_t at = 0; at < n;) {
        utf8proc_int32_t c;
        const utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(n - at), &c);
        to += utf8proc_encode_char(at == 0 ? utf8proc_totitle(c) : utf8proc_tolower(c), to); /* JSON's texts are UTF-8 */
        at += (size_t)used;
    }
    *to = 0;
    return TDM_OK;
}

static tdm_status read_hellaswag(const reader *r)
{
    tdm_status st = TDM_OK;
    const char *label, *a, *b;
    char *second = NULL; /* owned here */
    TDM_TRY(st, text_of(r, "activity_label", &label), done);
    TDM_TRY(st, text_of(r, "ctx_a", &a), done);
    TDM_TRY(st, text_of(r, "ctx_b", &b), done);
    TDM_TRY(st, capitalized(r, b, &second), done);
    TDM_TRY(st, print(r, &r->c->context, "%s: %s %s", label, a, second), done);
    clean(r->c->context);
    TDM_TRY(st, add_all(r, json_object_get(r->row, "endings")), done);
    for (int i = 0; i < r->c->count; i++) clean(r->c->text[i]);
    TDM_TRY(st, index_of(r, "label"), done);
done:
    free(second);
    return st;
}

const char *const tdm_choices_tasks[] = {"arc_challenge", "arc_easy", "boolq", "choices", "hellaswag", "openbookqa", "piqa", NULL};
static tdm_status (*const readers[])(const reader *) = {read_arc, read_arc, read_boolq, read_plain, read_hellaswag, read_openbookqa, read_piqa};

static int task_of(const char *name)
{
    int i = 0;
    while (tdm_choices_tasks[i] && strcmp(tdm_choices_tasks[i], name) != 0) i++;
    return tdm_choices_tasks[i] ? i : -1;
}

bool tdm_choices_known(const char *task) { return task_of(task) >= 0; }

tdm_status tdm_choices_read(tdm_choices *c, const char *task, const json_t *row, const char *where, tdm_error *err)
{
    *c = (tdm_choices){0};
    const reader r = {c, row, where, err};
    tdm_status st = readers[task_of(task)](&r);
    if (st == TDM_OK && c->count < 2) st = BAD(&r, "a question has two choices or more", "%d choices", c->count);
    if (st == TDM_OK && c->gold >= c->count) st = BAD(&r, "the number of the right choice, from 0", "gold is %d, and there are %d choices", c->gold, c->count);
    if (st != TDM_OK) tdm_choices_free(c);
    return st;
}

void tdm_choices_free(tdm_choices *c)
{
    free(c->context);
    for (int i = 0; i < c->count; i++) free(c->text[i]);
    *c = (tdm_choices){0};
}
