/* Pre-tokenizers (huggingface/tokenizers: src/pre_tokenizers). The reference runs one step over all pieces, then the next; here
 * each piece goes through all steps before the one after it, which gives the same words in the same order without lists. */
#include <string.h>

#include "runtime/text/tokenizer_impl.h"
#include "runtime/text/unicode.h"

static tdm_status run(tdm_encoder *e, int step, const char *s, size_t len, bool first);

/* Folds matches and the text between them into pieces (src/tokenizer/normalizer.rs: split). */
typedef struct cutter {
    tdm_encoder *e;
    int step;
    const char *s;
    bool first, invert;
    tdm_behavior behavior;
    bool open, open_match; /* a piece waits for what follows */
    size_t start, end;     /* of that piece */
} cutter;

static tdm_status map_bytes(tdm_encoder *e, int step, const char *s, size_t len, bool first);

static tdm_status emit(cutter *c, size_t start, size_t end)
{
    if (end <= start) return TDM_OK;
    if (c->e->t->pre[c->step].mapped) return map_bytes(c->e, c->step, c->s + start, end - start, c->first && start == 0);
    return run(c->e, c->step + 1, c->s + start, end - start, c->first && start == 0);
}

static tdm_status close_piece(cutter *c)
{
    bool open = c->open;
    c->open = false;
    return open ? emit(c, c->start, c->end) : TDM_OK;
}

static tdm_status item(cutter *c, size_t start, size_t end, bool match)
{
    tdm_status st = TDM_OK;
    bool joins = false;
    match = match != c->invert;
    switch (c->behavior) {
    case TDM_SPLIT_ISOLATED: return emit(c, start, end);
    case TDM_SPLIT_REMOVED: return match ? TDM_OK : emit(c, start, end);
    case TDM_SPLIT_CONTIGUOUS: joins = match == c->open_match; break;
    case TDM_SPLIT_WITH_PREVIOUS: joins = match && !c->open_match; break;
    case TDM_SPLIT_WITH_NEXT: joins = !match && c->open_match; break;
    }
    if (!(c->open && joins)) {
        TDM_TRY(st, close_piece(c), done);
        c->open = true;
        c->start = start;
    }
    c->open_match = match;
    c->end = end;
done:
    return st;
}

static tdm_status cut_by_pattern(cutter *c, const tdm_pattern *p, size_t len)
{
    tdm_status st = TDM_OK;
    size_t from = 0, last = SIZE_MAX, start, end, done_to = 0;
    int found;
    while ((found = tdm_pattern_next(p, &c->e->match, c->s, len, &from, &last, &start, &end, c->e->err)) > 0) {
        if (done_to != start) TDM_TRY(st, item(c, done_to, start, false), done);
        TDM_TRY(st, item(c, start, end, true), done);
        done_to = end;
    }
    if (found < 0) return c->e->err && c->e->err->status ? c->e->err->status : TDM_ERR_INPUT;
    if (done_to != len) TDM_TRY(st, item(c, done_to, len, false), done);
    st = close_piece(c);
done:
    return st;
}

static bool delimits(const tdm_pre *p, uint32_t ch)
{
    switch (p->kind) {
    case TDM_PRE_DIGITS: return ch < 0x80 ? ch >= '0' && ch <= '9' : tdm_code_in(&tdm_codes_numeric, ch);
    case TDM_PRE_PUNCTUATION: return tdm_code_in(&tdm_codes_punctuation, ch);
    case TDM_PRE_SPACE: return tdm_is_space(ch);
    default: return ch == p->c; /* CHAR, METASPACE */
    }
}

static tdm_status cut_by_character(cutter *c, const tdm_pre *p, size_t len)
{
    tdm_status st = TDM_OK;
    size_t done_to = 0;
    for (size_t at = 0, n; at < len; at += n) {
        if (!delimits(p, tdm_utf8_get(c->s + at, &n))) continue;
        if (done_to < at) TDM_TRY(st, item(c, done_to, at, false), done);
        TDM_TRY(st, item(c, at, at + n, true), done);
        done_to = at + n;
    }
    if (done_to < len) TDM_TRY(st, item(c, done_to, len, false), done);
    st = close_piece(c);
done:
    return st;
}

/* Runs of word characters and runs of others; white space is left out. */
static tdm_status cut_words(cutter *c, size_t len)
{
    tdm_status st = TDM_OK;
    size_t start = 0;
    int kind = -1; /* 0 space, 1 word, 2 other */
    for (size_t at = 0, n = 0; at <= len; at += n) {
        int now = -1;
        if (at < len) {
            uint32_t ch = tdm_utf8_get(c->s + at, &n);
            now = tdm_is_space(ch) ? 0 : tdm_code_in(&tdm_codes_word, ch) ? 1 : 2;
        }
        if (now != kind) {
            if (kind > 0) TDM_TRY(st, emit(c, start, at), done);
            start = at;
            kind = now;
        }
        if (at == len) break;
    }
done:
    return st;
}

/* A step that rewrites its text does so in its own buffer, which lives until the piece is done. */
static tdm_status metaspace(tdm_encoder *e, const tdm_pre *p, int step, const char **s, size_t *len, bool first)
{
    tdm_status st = TDM_OK;
    tdm_text *out = &e->step[step];
    char mark[4];
    size_t mark_len = tdm_utf8_write(mark, p->c);
    bool marked = **s == ' ' || (*len >= mark_len && memcmp(*s, mark, mark_len) == 0);
    out->len = 0;
    if (!marked && (p->prepend == TDM_PREPEND_ALWAYS || (p->prepend == TDM_PREPEND_FIRST && first)))
        TDM_TRY(st, tdm_text_append(out, mark, mark_len, e->err), done);
    for (const char *at = *s, *end = *s + *len; at < end;) {
        const char *space = memchr(at, ' ', (size_t)(end - at));
        TDM_TRY(st, tdm_text_append(out, at, (size_t)((space ? space : end) - at), e->err), done);
        if (space) TDM_TRY(st, tdm_text_append(out, mark, mark_len, e->err), done);
        at = space ? space + 1 : end;
    }
    *s = out->data;
    *len = out->len;
done:
    return st;
}

static tdm_status prefix_space(tdm_encoder *e, int step, const char **s, size_t *len)
{
    tdm_status st = TDM_OK;
    tdm_text *out = &e->step[step];
    if (**s == ' ') return st;
    out->len = 0;
    TDM_TRY(st, tdm_text_append(out, " ", 1, e->err), done);
    TDM_TRY(st, tdm_text_append(out, *s, *len, e->err), done);
    *s = out->data;
    *len = out->len;
done:
    return st;
}

/* The characters of the bytes, for the steps after a ByteLevel that is not the last. */
static tdm_status map_bytes(tdm_encoder *e, int step, const char *s, size_t len, bool first)
{
    tdm_status st = TDM_OK;
    tdm_text *out = &e->mapped[step];
    out->len = 0;
    for (size_t i = 0; i < len; i++) {
        char utf8[4];
        TDM_TRY(st, tdm_text_append(out, utf8, tdm_utf8_write(utf8, tdm_byte_char((uint8_t)s[i])), e->err), done);
    }
    st = run(e, step + 1, out->data, out->len, first);
done:
    return st;
}

static tdm_status run(tdm_encoder *e, int step, const char *s, size_t len, bool first)
{
    if (step == e->t->pre_count) return tdm_bpe_word(e, s, len);
    tdm_status st = TDM_OK;
    const tdm_pre *p = &e->t->pre[step];
    cutter c = {.e = e, .step = step, .first = first, .invert = p->invert, .behavior = p->behavior};
    if (p->kind == TDM_PRE_METASPACE) TDM_TRY(st, metaspace(e, p, step, &s, &len, first), done);
    if (p->kind == TDM_PRE_BYTE_LEVEL && p->prefix_space) TDM_TRY(st, prefix_space(e, step, &s, &len), done);
    c.s = s;
    switch (p->kind) {
    case TDM_PRE_SPLIT: return cut_by_pattern(&c, &p->pattern, len);
    case TDM_PRE_BYTE_LEVEL: return p->split ? cut_by_pattern(&c, &p->pattern, len) : emit(&c, 0, len);
    case TDM_PRE_METASPACE: return p->split ? cut_by_character(&c, p, len) : emit(&c, 0, len);
    case TDM_PRE_WORDS: return cut_words(&c, len);
    default: return cut_by_character(&c, p, len);
    }
done:
    return st;
}

tdm_status tdm_pretokenize(tdm_encoder *e, const char *s, size_t len, bool first) 
{
    return len ? run(e, 0, s, len, first) : TDM_OK;
}
