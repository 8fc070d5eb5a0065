/* Ids to text: the tokens' texts pass through the decoders one after the other (huggingface/tokenizers: src/decoders). */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_impl.h"
#include "runtime/text/unicode.h"

/* A list of strings: the i-th ends at ends[i], and starts where the one before it ends. */
typedef struct pieces { tdm_text text; size_t *ends; size_t count, room; } pieces;

typedef struct decoding { pieces in, out; tdm_text scratch; tdm_matcher match; tdm_error *err; } decoding;

static void pieces_fini(pieces *p)
{
    tdm_text_free(&p->text);
    free(p->ends);
}

/* What was appended to the text since the last piece becomes one. */
static tdm_status end_piece(pieces *p, tdm_error *err)
{
    if (p->count == p->room) {
        size_t room = p->room ? p->room * 2 : 256;
        size_t *grown = realloc(p->ends, room * sizeof *grown);
        if (!grown) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for %zu tokens", room);
        p->ends = grown;
        p->room = room;
    }
    p->ends[p->count++] = p->text.len;
    return TDM_OK;
}

static tdm_status put_piece(pieces *p, const char *s, size_t len, tdm_error *err)
{
    tdm_status st = tdm_text_append(&p->text, s, len, err);
    return st == TDM_OK ? end_piece(p, err) : st;
}

/* A token of bytes' characters gives those bytes, any other its own; all of them are one text. */
static tdm_status byte_level(decoding *d)
{
    tdm_status st = TDM_OK;
    tdm_text *bytes = &d->scratch;
    const pieces *in = &d->in;
    bytes->len = 0;
    for (size_t i = 0, start = 0; i < in->count; start = in->ends[i++]) {
        const char *s = in->text.data + start;
        size_t len = in->ends[i] - start, before = bytes->len;
        for (size_t at = 0, n; at < len; at += n) {
            int byte = tdm_char_byte(tdm_utf8_get(s + at, &n));
            char c = (char)byte;
            if (byte < 0) {
                bytes->len = before;
                TDM_TRY(st, tdm_text_append(bytes, s, len, d->err), done);
                break;
            }
            TDM_TRY(st, tdm_text_append(bytes, &c, 1, d->err), done);
        }
    }
    TDM_TRY(st, tdm_utf8_lossy(bytes->data, bytes->len, &d->out.text, d->err), done);
    st = end_piece(&d->out, d->err);
done:
    return st;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of "<0xAB>", or -1. */
static int byte_token(const char *s, size_t len)
{
    if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int high = s[3] == '+' ? 0 : hex_digit(s[3]), low = hex_digit(s[4]); /* Rust's parser takes a plus sign */
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of byte tokens is one text when it is UTF-8, and a replacement character a byte when it is not. */
static tdm_status flush_bytes(decoding *d)
{
    tdm_status st = TDM_OK;
    tdm_text *bytes = &d->scratch;
    if (bytes->len == 0) return st;
    if (tdm_utf8_valid(bytes->data, bytes->len) == bytes->len) {
        st = put_piece(&d->out, bytes->data, bytes->len, d->err);
    } else {
        for (size_t i = 0; i < bytes->len; i++) TDM_TRY(st, put_piece(&d->out, "\xef\xbf\xbd", 3, d->err), done);
    }
    bytes->len = 0;
done:
    return st;
}

static tdm_status byte_fallback(decoding *d)
{
    tdm_status st = TDM_OK;
    const pieces *in = &d->in;
    d->scratch.len = 0;
    for (size_t i = 0, start = 0; i < in->count; start = in->ends[i++]) {
        const char *s = in->text.data + start;
        int byte = byte_token(s, in->ends[i] - start);
        char c = (char)byte;
        if (byte >= 0) {
            TDM_TRY(st, tdm_text_append(&d->scratch, &c, 1, d->err), done);
            continue;
        }
        TDM_TRY(st, flush_bytes(d), done);
        TDM_TRY(st, put_piece(&d->out, s, in->ends[i] - start, d->err), done);
    }
    st = flush_bytes(d);
done:
    return st;
}

static tdm_status replace(decoding *d, const tdm_dec *dec, const char *s, size_t len)
{
    tdm_status st = TDM_OK;
    size_t from = 0, last = SIZE_MAX, start, end, done_to = 0;
    int found = 0;
    if (len == 0) return end_piece(&d->out, d->err); /* the reference finds nothing in nothing */
    while ((found = tdm_pattern_next(&dec->pattern, &d->match, s, len, &from, &last, &start, &end, d->err)) > 0) {
        TDM_TRY(st, tdm_text_append(&d->out.text, s + done_to, start - done_to, d->err), done);
        TDM_TRY(st, tdm_text_append(&d->out.text, dec->content, dec->content_len, d->err), done);
        done_to = end;
    }
    if (found < 0) return d->err && d->err->status ? d->err->status : TDM_ERR_INPUT;
    st = put_piece(&d->out, s + done_to, len - done_to, d->err);
done:
    return st;
}

static tdm_status strip(decoding *d, const tdm_dec *dec, const char *s, size_t len)
{
    size_t n;
    for (size_t i = 0; i < dec->start && len > 0 && tdm_utf8_get(s, &n) == dec->c; i++, s += n, len -= n) continue;
    for (size_t i = 0; i < dec->stop && len > 0 && tdm_utf8_last(s, len, &n) == dec->c; i++) len -= n;
    return put_piece(&d->out, s, len, d->err);
}

static tdm_status metaspace(decoding *d, const tdm_dec *dec, const char *s, size_t len, bool first)
{
    tdm_status st = TDM_OK;
    for (size_t at = 0, n; at < len; at += n) {
        bool space = tdm_utf8_get(s + at, &n) == dec->c;
        if (!space) TDM_TRY(st, tdm_text_append(&d->out.text, s + at, n, d->err), done);
        else if (!first || !dec->prefix) TDM_TRY(st, tdm_text_append(&d->out.text, " ", 1, d->err), done);
    }
    st = end_piece(&d->out, d->err);
done:
    return st;
}

static tdm_status apply(decoding *d, const tdm_dec *dec)
{
    tdm_status st = TDM_OK;
    const pieces *in = &d->in;
    if (dec->kind == TDM_DEC_BYTE_LEVEL) return byte_level(d);
    if (dec->kind == TDM_DEC_BYTE_FALLBACK) return byte_fallback(d);
    if (dec->kind == TDM_DEC_FUSE) return put_piece(&d->out, in->text.data, in->text.len, d->err);
    for (size_t i = 0, start = 0; i < in->count && st == TDM_OK; start = in->ends[i++]) {
        const char *s = in->text.data + start;
        size_t len = in->ends[i] - start;
        if (dec->kind == TDM_DEC_REPLACE) st = replace(d, dec, s, len);
        else if (dec->kind == TDM_DEC_STRIP) st = strip(d, dec, s, len);
        else st = metaspace(d, dec, s, len, i == 0);
    }
    return st;
}

tdm_status tdm_tokenizer_decode(const tdm_tokenizer *t, const int32_t *ids, int64_t count, bool skip_special, tdm_text *text,
                                tdm_error *err)
{
    tdm_status st = TDM_OK;
    decoding d = {.err = err};
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, "ids start at 0", "cannot decode id %d", ids[i]);
            goto done;
        }
        if (ids[i] >= t->vocab || !t->tokens[ids[i]].exists || (skip_special && t->tokens[ids[i]].special)) continue;
        tdm_span token = t->tokens[ids[i]].text;
        if (!t->has_decoder && d.in.count) TDM_TRY(st, tdm_text_append(&d.in.text, " ", 1, err), done);
        TDM_TRY(st, put_piece(&d.in, tdm_span_ptr(t, token), token.len, err), done);
    }
    TDM_TRY(st, tdm_text_append(&d.in.text, "", 0, err), done); /* a pointer even when there is nothing */
    for (int i = 0; i < t->dec_count; i++) {
        d.out.count = d.out.text.len = 0;
        TDM_TRY(st, apply(&d, &t->dec[i]), done);
        TDM_TRY(st, tdm_text_append(&d.out.text, "", 0, err), done);
        pieces swap = d.in;
        d.in = d.out;
        d.out = swap;
    }
    st = tdm_text_append(text, d.in.text.data, d.in.text.len, err);
done:
    pieces_fini(&d.in);
    pieces_fini(&d.out);
    tdm_text_free(&d.scratch);
    tdm_matcher_fini(&d.match);
    return st;
}
