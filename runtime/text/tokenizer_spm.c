/* SentencePiece's BPE in a GGUF (tokenizer.ggml.model "llama"): tokens and their scores instead of merges. Of two neighbours that make a
 * token together, those whose token has the best score are joined first, so every split of a token into two tokens is a merge, ranked by
 * score. Source: google/sentencepiece, src/bpe_model.cc; ggml-org/llama.cpp, src/llama-vocab.cpp (llm_tokenizer_spm); transformers,
 * integrations/ggml.py and convert_slow_tokenizer.py (generate_merges) for the order of merges of one token. */
#include <stdlib.h>
#include <string.h>

#include "memory/gguf.h"
#include "runtime/text/tokenizer_impl.h"

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */
enum { TYPE_NORMAL = 1, MARK_BYTES = sizeof space_mark - 1 };

typedef struct split {
    double score;
    int32_t left, right, id;
    uint32_t left_bytes;
} split;

/* Best score first; of one token the longest left part first. */
static int by_score(const void *a, const void *b)
{
    const split *x = a, *y = b;
    if (x->score > y->score || x->score < y->score) return x->score > y->score ? -1 : 1;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return (x->left_bytes < y->left_bytes) - (x->left_bytes > y->left_bytes);
}

typedef struct splits {
    split *of; /* owned */
    int64_t count, room;
} splits;

static tdm_status add_split(tdm_tokenizer *t, splits *s, split one, tdm_error *err)
{
    if (s->count == s->room) {
        const int64_t room = s->room ? 2 * s->room : 4096;
        split *more = realloc(s->of, (size_t)room * sizeof *more);
        if (!more) return TDM_FAIL(err, TDM_ERR_OTHER, t->name, "free host memory", "out of memory for the tokenizer's merges");
        s->of = more;
        s->room = room;
    }
    s->of[s->count++] = one;
    return TDM_OK;
}

static bool starts_a_character(char c) { return ((unsigned char)c & 0xc0) != 0x80; }

static tdm_status split_token(tdm_tokenizer *t, splits *s, int32_t id, tdm_str text, double score, tdm_error *err)
{
    for (size_t at = 1; at < text.len; at++) {
        if (!starts_a_character(text.data[at])) continue;
        const int32_t left = tdm_map_find(t, &t->strings, text.data, at), right = tdm_map_find(t, &t->strings, text.data + at, text.len - at);
        if (left < 0 || right < 0) continue;
        const tdm_status st = add_split(t, s, (split){score, left, right, id, (uint32_t)at}, err);
        if (st != TDM_OK) return st;
    }
    return TDM_OK;
}

tdm_status tdm_spm_merges(tdm_tokenizer *t, const tdm_gguf *g, tdm_error *err)
{
    tdm_status st = TDM_OK;
    splits s = {0};
    const int64_t count = tdm_gguf_array_count(g, "tokenizer.ggml.tokens");
    for (int64_t id = 0; id < count; id++) {
        int64_t type = TYPE_NORMAL;
        double score;
        tdm_str text;
        (void)tdm_gguf_array_int(g, "tokenizer.ggml.token_type", id, &type);
        if (type != TYPE_NORMAL || !tdm_gguf_array_str(g, "tokenizer.ggml.tokens", id, &text)) continue;
        if (!tdm_gguf_array_float(g, "tokenizer.ggml.scores", id, &score)) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is the file damaged?", "tokenizer.ggml.scores[%lld] is not a number", (long long)id);
            goto done;
        }
        TDM_TRY(st, split_token(t, &s, (int32_t)id, text, score, err), done);
    }
    if (s.count > 0) qsort(s.of, (size_t)s.count, sizeof *s.of, by_score);
    TDM_TRY(st, tdm_bpe_reserve(t, s.count, err), done);
    for (int64_t i = 0; i < s.count; i++) tdm_bpe_add(t, s.of[i].left, s.of[i].right, s.of[i].id, (uint32_t)i);
done:
    free(s.of);
    return st;
}

/* Spaces are marks, and a text begins with one where the model was trained so; bytes stand for characters that no token has. */
tdm_status tdm_spm_steps(tdm_tokenizer *t, const tdm_gguf *g, tdm_error *err)
{
    tdm_status st = TDM_OK;
    bool prefix = true;
    int64_t unknown;
    (void)tdm_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix);
    t->bpe.byte_fallback = t->bpe.fuse_unk = true;
    if (tdm_gguf_int(g, "tokenizer.ggml.unknown_token_id", &unknown) && unknown >= 0 && unknown < t->vocab) t->bpe.unk = (int32_t)unknown;
    if (prefix) {
        tdm_norm *n = &t->norm[t->norm_count++];
        n->kind = TDM_NORM_PREPEND;
        n->content_len = MARK_BYTES;
        if (!(n->content = tdm_copy(space_mark, MARK_BYTES, err))) return TDM_ERR_OTHER;
    }
    tdm_norm *n = &t->norm[t->norm_count++];
    n->kind = TDM_NORM_REPLACE;
    n->content_len = MARK_BYTES;
    if (!(n->content = tdm_copy(space_mark, MARK_BYTES, err))) return TDM_ERR_OTHER;
    TDM_TRY(st, tdm_pattern_literal(&n->pattern, " ", 1, t->name, err), done);
    tdm_dec *d = &t->dec[t->dec_count++];
    d->kind = TDM_DEC_REPLACE;
    d->content_len = 1;
    if (!(d->content = tdm_copy(" ", 1, err))) return TDM_ERR_OTHER;
    TDM_TRY(st, tdm_pattern_literal(&d->pattern, space_mark, MARK_BYTES, t->name, err), done);
    t->dec[t->dec_count++].kind = TDM_DEC_BYTE_FALLBACK;
    t->dec[t->dec_count++].kind = TDM_DEC_FUSE;
    if (prefix) t->dec[t->dec_count++] = (tdm_dec){.kind = TDM_DEC_STRIP, .c = ' ', .start = 1};
    t->has_decoder = true;
done:
    return st;
}
