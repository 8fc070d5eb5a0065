#include "runtime/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "memory/gguf.h"
#include "runtime/text/tokenizer_impl.h"
#include "runtime/text/unicode.h"

static tdm_status open_gguf(tdm_tokenizer *t, const char *path, const tdm_gguf *gguf, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_gguf *own = NULL;
    if (!gguf) TDM_TRY(st, tdm_gguf_open(&own, path, err), done);
    st = tdm_tokenizer_load_gguf(t, gguf ? gguf : own, err);
done:
    tdm_gguf_close(own);
    return st;
}

tdm_status tdm_tokenizer_open(tdm_tokenizer **out, const char *path, const tdm_gguf *gguf, tdm_error *err)
{
    tdm_status st = TDM_OK;
    size_t len = strlen(path);
    tdm_tokenizer *t = NULL;
    *out = NULL;
    TDM_TRY(st, tdm_tokenizer_new(&t, path, err), done);
    if (gguf || (len >= 5 && strcmp(path + len - 5, ".gguf") == 0)) {
        TDM_TRY(st, open_gguf(t, path, gguf, err), done);
    } else {
        TDM_TRY(st, tdm_tokenizer_load_folder(t, path, err), done);
    }
    *out = t;
    t = NULL;
done:
    tdm_tokenizer_close(t);
    return st;
}

tdm_status tdm_tokenizer_new(tdm_tokenizer **out, const char *name, tdm_error *err)
{
    tdm_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return TDM_FAIL(err, TDM_ERR_OTHER, name, "free host memory", "out of memory for a tokenizer");
    t->bos = t->eos = t->bpe.unk = -1;
    t->name = tdm_copy(name, strlen(name), err);
    if (!t->name) {
        free(t);
        return TDM_ERR_OTHER;
    }
    *out = t;
    return TDM_OK;
}

tdm_status tdm_tokenizer_finish(tdm_tokenizer *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    t->bpe.raw = t->pre_count > 0 && t->pre[t->pre_count - 1].kind == TDM_PRE_BYTE_LEVEL;
    for (int i = 0; i + 1 < t->pre_count; i++) t->pre[i].mapped = t->pre[i].kind == TDM_PRE_BYTE_LEVEL;
    TDM_TRY(st, tdm_bpe_finish(t, err), done);
    st = tdm_added_finish(t, err);
done:
    return st;
}

void tdm_tokenizer_close(tdm_tokenizer *t)
{
    if (!t) return;
    for (int i = 0; i < TDM_STEPS_MAX; i++) {
        tdm_pattern_fini(&t->norm[i].pattern);
        free(t->norm[i].content);
        tdm_pattern_fini(&t->pre[i].pattern);
        tdm_pattern_fini(&t->dec[i].pattern);
        free(t->dec[i].content);
    }
    tdm_bpe_fini(&t->bpe);
    tdm_text_free(&t->bytes);
    free(t->tokens);
    free(t->strings.slots);
    free(t->added_map.slots);
    free(t->added);
    free(t->plain.nodes);
    free(t->normalized.nodes);
    tdm_ids_free(&t->before);
    tdm_ids_free(&t->after);
    for (size_t i = 0; i < TDM_COUNT(t->special_text); i++) free(t->special_text[i]);
    free(t->chat_template);
    free(t->name);
    free(t);
}

int32_t tdm_tokenizer_vocab(const tdm_tokenizer *t) { return t->vocab; }
int32_t tdm_tokenizer_bos(const tdm_tokenizer *t) { return t->bos; }
int32_t tdm_tokenizer_eos(const tdm_tokenizer *t) { return t->eos; }
const char *tdm_tokenizer_chat_template(const tdm_tokenizer *t) { return t->chat_template; }

const char *const tdm_special_names[TDM_SPECIAL_COUNT] = {"bos_token", "eos_token", "pad_token", "unk_token"};

const char *tdm_tokenizer_special_text(const tdm_tokenizer *t, const char *which)
{
    for (size_t i = 0; i < TDM_SPECIAL_COUNT; i++)
        if (strcmp(which, tdm_special_names[i]) == 0) return t->special_text[i] ? t->special_text[i] : "";
    return "";
}

void tdm_encoder_fini(tdm_encoder *e)
{
    tdm_matcher_fini(&e->match);
    for (size_t i = 0; i < TDM_COUNT(e->normal); i++) tdm_text_free(&e->normal[i]);
    for (size_t i = 0; i < TDM_STEPS_MAX; i++) {
        tdm_text_free(&e->step[i]);
        tdm_text_free(&e->mapped[i]);
    }
    free(e->symbols);
    free(e->long_words);
}

typedef tdm_status piece_fn(tdm_encoder *e, const char *s, size_t len, bool first);

/* May the match stand alone, as single_word asks? */
static bool alone(const char *s, size_t len, const tdm_hit *hit)
{
    size_t n;
    bool before = hit->start > 0 && tdm_code_in(&tdm_codes_word, tdm_utf8_last(s, hit->start, &n));
    return !before && !(hit->end < len && tdm_code_in(&tdm_codes_word, tdm_utf8_get(s + hit->end, &n)));
}

/* Cuts out the added tokens; what stands between goes on to `rest`. first: s starts the whole text. */
static tdm_status cut_added(tdm_encoder *e, const tdm_trie *trie, const char *s, size_t len, bool first, piece_fn *rest)
{
    tdm_status st = TDM_OK;
    tdm_hit hit;
    size_t done_to = 0;
    for (size_t from = 0, n; tdm_trie_find(trie, s, len, from, &hit); from = hit.end) {
        const tdm_added *a = &e->t->added[hit.added];
        size_t start = hit.start, stop = hit.end;
        if (a->single_word && !alone(s, len, &hit)) continue;
        if (a->lstrip) {
            while (start > done_to && tdm_is_space(tdm_utf8_last(s, start, &n))) start -= n;
            if (start < done_to) start = done_to;
        }
        if (a->rstrip)
            while (stop < len && tdm_is_space(tdm_utf8_get(s + stop, &n))) stop += n;
        if (start >= stop) continue; /* the token before took all of it as white space */
        if (done_to < start) TDM_TRY(st, rest(e, s + done_to, start - done_to, first && done_to == 0), done);
        TDM_TRY(st, tdm_ids_push(e->ids, a->id, e->err), done);
        done_to = stop;
    }
    if (done_to < len) st = rest(e, s + done_to, len - done_to, first && done_to == 0);
done:
    return st;
}

static tdm_status plain_piece(tdm_encoder *e, const char *s, size_t len, bool first)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_normalize(e, &s, &len), done);
    st = cut_added(e, &e->t->normalized, s, len, first && !e->head_lost, tdm_pretokenize);
done:
    return st;
}

tdm_status tdm_tokenizer_encode(const tdm_tokenizer *t, const char *text, size_t len, bool add_special, tdm_ids *ids, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_encoder e = {.t = t, .ids = ids, .err = err};
    tdm_text valid = {0};
    if (tdm_utf8_valid(text, len) != len) {
        TDM_TRY(st, tdm_utf8_lossy(text, len, &valid, err), done);
        text = valid.data;
        len = valid.len;
    }
    for (int64_t i = 0; add_special && i < t->before.count; i++) TDM_TRY(st, tdm_ids_push(ids, t->before.data[i], err), done);
    TDM_TRY(st, cut_added(&e, &t->plain, text, len, true, plain_piece), done);
    for (int64_t i = 0; add_special && i < t->after.count; i++) TDM_TRY(st, tdm_ids_push(ids, t->after.data[i], err), done);
done:
    tdm_text_free(&valid);
    tdm_encoder_fini(&e);
    return st;
}
