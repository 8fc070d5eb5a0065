/* Normalizers (huggingface/tokenizers: src/normalizers). Unicode forms are utf8proc's, held to the reference's Unicode version:
 * a character that is inert there is passed through as a starter (unicode.h: opaque). */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/text/tokenizer_impl.h"
#include "runtime/text/unicode.h"

enum { DECOMPOSED_MAX = 32 }; /* the longest decomposition of one character has 18 */

typedef struct codes { utf8proc_int32_t *data; size_t count, room; } codes;

static tdm_status codes_put(codes *c, const utf8proc_int32_t *s, size_t n, tdm_error *err)
{
    if (c->room - c->count < n + 1) { /* one to spare: utf8proc writes a terminator */
        size_t room = c->room * 2 + n + 256;
        utf8proc_int32_t *grown = realloc(c->data, room * sizeof *grown);
        if (!grown) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, NULL, "out of host memory");
        c->data = grown;
        c->room = room;
    }
    memcpy(c->data + c->count, s, n * sizeof *s);
    c->count += n;
    return TDM_OK;
}

static int class_of(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

/* Stable order of combining marks by class. Counting, because a hostile text has a million of them in a row. */
static tdm_status sort_marks(utf8proc_int32_t *marks, size_t n, tdm_error *err)
{
    if (n <= 16) {
        for (size_t i = 1; i < n; i++)
            for (size_t j = i; j > 0 && class_of(marks[j - 1]) > class_of(marks[j]); j--) {
                utf8proc_int32_t swap = marks[j];
                marks[j] = marks[j - 1];
                marks[j - 1] = swap;
            }
        return TDM_OK;
    }
    size_t start[257] = {0};
    utf8proc_int32_t *sorted = malloc(n * sizeof *sorted);
    if (!sorted) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, NULL, "out of host memory");
    for (size_t i = 0; i < n; i++) start[class_of(marks[i]) + 1]++;
    for (int i = 1; i < 257; i++) start[i] += start[i - 1];
    for (size_t i = 0; i < n; i++) sorted[start[class_of(marks[i])]++] = marks[i];
    memcpy(marks, sorted, n * sizeof *sorted);
    free(sorted);
    return TDM_OK;
}

static tdm_status order(codes *c, tdm_error *err)
{
    for (size_t i = 0; i < c->count;) {
        size_t end = i;
        while (end < c->count && class_of(c->data[end]) != 0) end++;
        if (end - i > 1) {
            tdm_status st = sort_marks(c->data + i, end - i, err);
            if (st != TDM_OK) return st;
        }
        i = end > i ? end : i + 1;
    }
    return TDM_OK;
}

/* The collected characters, in the form asked for, as UTF-8. */
static tdm_status put_form(codes *c, int options, tdm_text *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (c->count == 0) return st;
    TDM_TRY(st, order(c, err), done);
    utf8proc_ssize_t n = (utf8proc_ssize_t)c->count;
    if (options & UTF8PROC_COMPOSE) n = utf8proc_normalize_utf32(c->data, n, (utf8proc_option_t)options);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        char utf8[4];
        TDM_TRY(st, tdm_text_append(out, utf8, tdm_utf8_write(utf8, (uint32_t)c->data[i]), err), done);
    }
    c->count = 0;
done:
    return st;
}

static tdm_status unicode_form(tdm_norm_kind kind, const char *s, size_t len, tdm_text *out, tdm_error *err)
{
    static const int options_of[] = {
        [TDM_NORM_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [TDM_NORM_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [TDM_NORM_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [TDM_NORM_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    bool compatible = kind == TDM_NORM_NFKC || kind == TDM_NORM_NFKD;
    const tdm_code_set *opaque = compatible ? &tdm_codes_opaque_compatible : &tdm_codes_opaque;
    tdm_status st = TDM_OK;
    codes c = {0};
    for (size_t at = 0, n; at < len; at += n) {
        uint32_t ch = tdm_utf8_get(s + at, &n);
        if (ch < 0x80) { /* a starter that decomposes to itself; what came before is complete up to it, bar the composition */
            utf8proc_int32_t one = (utf8proc_int32_t)ch;
            TDM_TRY(st, put_form(&c, options_of[kind], out, err), done);
            TDM_TRY(st, codes_put(&c, &one, 1, err), done);
            continue;
        }
        if (ch >= 0x300 && (ch == 0x11a7 || tdm_code_in(opaque, ch))) { /* utf8proc drops U+11A7 after a Hangul syllable */
            TDM_TRY(st, put_form(&c, options_of[kind], out, err), done);
            TDM_TRY(st, tdm_text_append(out, s + at, n, err), done);
            continue;
        }
        utf8proc_int32_t parts[DECOMPOSED_MAX];
        utf8proc_ssize_t got = utf8proc_decompose_char((utf8proc_int32_t)ch, parts, DECOMPOSED_MAX,
                                                       (utf8proc_option_t)(options_of[kind] | UTF8PROC_DECOMPOSE), NULL);
        if (got < 0 || got > DECOMPOSED_MAX) {
            st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, NULL, "cannot normalize U+%04X: %s", ch, utf8proc_errmsg(got));
            goto done;
        }
        TDM_TRY(st, codes_put(&c, parts, (size_t)got, err), done);
    }
    st = put_form(&c, options_of[kind], out, err);
done:
    free(c.data);
    return st;
}

/* Nothing below U+0300 changes under NFC, nothing of ASCII under any form. */
static bool already(tdm_norm_kind kind, const char *s, size_t len)
{
    unsigned char limit = kind == TDM_NORM_NFC ? 0xcc : 0x80;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] >= limit) return false;
    return true;
}

static tdm_status replace(tdm_encoder *e, const tdm_norm *n, const char *s, size_t len, tdm_text *out)
{
    tdm_status st = TDM_OK;
    size_t from = 0, last = SIZE_MAX, start, end, done_to = 0;
    int found = 0;
    while (len > 0 && (found = tdm_pattern_next(&n->pattern, &e->match, s, len, &from, &last, &start, &end, e->err)) > 0) {
        e->head_lost |= start == 0 && end > 0 && n->content_len == 0;
        TDM_TRY(st, tdm_text_append(out, s + done_to, start - done_to, e->err), done);
        TDM_TRY(st, tdm_text_append(out, n->content, n->content_len, e->err), done);
        done_to = end;
    }
    if (found < 0) return e->err && e->err->status ? e->err->status : TDM_ERR_INPUT;
    st = tdm_text_append(out, s + done_to, len - done_to, e->err);
done:
    return st;
}

static tdm_status by_character(tdm_encoder *e, const tdm_norm *norm, const char *s, size_t len, tdm_text *out)
{
    tdm_status st = TDM_OK;
    tdm_error *err = e->err;
    for (size_t at = 0, n; at < len; at += n) {
        uint32_t c = tdm_utf8_get(s + at, &n);
        char utf8[4];
        if (norm->kind == TDM_NORM_STRIP_ACCENTS) {
            if (tdm_code_in(&tdm_codes_mark, c)) {
                e->head_lost |= at == 0;
                continue;
            }
            TDM_TRY(st, tdm_text_append(out, s + at, n, err), done);
        } else if (norm->kind == TDM_NORM_BYTES) {
            for (size_t i = 0; i < n; i++)
                TDM_TRY(st, tdm_text_append(out, utf8, tdm_utf8_write(utf8, tdm_byte_char((uint8_t)s[at + i])), err), done);
        } else if (c == 0x130) { /* the one capital whose lower case is two characters */
            TDM_TRY(st, tdm_text_append(out, "i\xcc\x87", 3, err), done);
        } else {
            TDM_TRY(st, tdm_text_append(out, utf8, tdm_utf8_write(utf8, tdm_lower(c)), err), done);
        }
    }
done:
    return st;
}

static void strip(const tdm_norm *norm, const char **s, size_t *len)
{
    size_t n;
    while (norm->left && *len > 0 && tdm_is_space(tdm_utf8_get(*s, &n))) {
        *s += n;
        *len -= n;
    }
    while (norm->right && *len > 0 && tdm_is_space(tdm_utf8_last(*s, *len, &n))) *len -= n;
}

static tdm_status one(tdm_encoder *e, const tdm_norm *norm, const char *s, size_t len, tdm_text *out)
{
    switch (norm->kind) {
    case TDM_NORM_NFC: case TDM_NORM_NFD: case TDM_NORM_NFKC: case TDM_NORM_NFKD:
        return unicode_form(norm->kind, s, len, out, e->err);
    case TDM_NORM_REPLACE: return replace(e, norm, s, len, out);
    case TDM_NORM_PREPEND: {
        tdm_status st = tdm_text_append(out, norm->content, norm->content_len, e->err);
        return st == TDM_OK ? tdm_text_append(out, s, len, e->err) : st;
    }
    default: return by_character(e, norm, s, len, out);
    }
}

tdm_status tdm_normalize(tdm_encoder *e, const char **s, size_t *len)
{
    tdm_status st = TDM_OK;
    e->head_lost = false;
    for (int i = 0; i < e->t->norm_count && *len > 0; i++) {
        const tdm_norm *norm = &e->t->norm[i];
        if (norm->kind == TDM_NORM_STRIP) {
            const char *head = *s;
            strip(norm, s, len);
            e->head_lost |= *s != head;
            continue;
        }
        if (norm->kind <= TDM_NORM_NFKD && already(norm->kind, *s, *len)) continue;
        tdm_text *out = *s >= e->normal[0].data && e->normal[0].data && *s < e->normal[0].data + e->normal[0].room ? &e->normal[1]
                                                                                                               : &e->normal[0];
        out->len = 0;
        TDM_TRY(st, one(e, norm, *s, *len, out), done);
        *s = out->data ? out->data : "";
        *len = out->len;
    }
done:
    return st;
}
