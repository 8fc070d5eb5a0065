/* The tokenizer in a GGUF's metadata (ggml-org/ggml: docs/gguf.md, "Tokenizer"). The file names its pre-tokenizer instead of
 * describing it; what the names mean is ggml-org/llama.cpp's src/llama-vocab.cpp. */
#include <stdio.h>
#include <string.h>

#include "memory/gguf.h"
#include "runtime/text/tokenizer_impl.h"

#define WORDS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
static const char llama3[] = CONTRACTIONS WORDS "|\\p{N}{1,3}" REST;
static const char qwen2[] = CONTRACTIONS WORDS "|\\p{N}" REST;

typedef enum family { GPT2, DIGITS_GPT2, LLAMA3, QWEN2, PLAIN, SPM } family;

static const struct { const char *name; family family; } families[] = {
    {"gpt-2", GPT2}, {"phi-2", GPT2},
    {"smollm", DIGITS_GPT2}, {"starcoder", DIGITS_GPT2}, {"refact", DIGITS_GPT2}, {"command-r", DIGITS_GPT2},
    {"llama-bpe", LLAMA3}, {"llama3", LLAMA3}, {"llama-v3", LLAMA3},
    {"qwen2", QWEN2}, {"deepseek-r1-qwen", QWEN2},
    {"default", PLAIN},
};

static tdm_status add_split(tdm_tokenizer *t, const char *pattern, tdm_error *err)
{
    tdm_pre *p = &t->pre[t->pre_count++];
    p->kind = TDM_PRE_SPLIT;
    p->behavior = TDM_SPLIT_ISOLATED;
    return tdm_pattern_regex(&p->pattern, pattern, strlen(pattern), t->name, err);
}

static tdm_status add_bytes(tdm_tokenizer *t, bool split, tdm_error *err)
{
    tdm_pre *p = &t->pre[t->pre_count++];
    p->kind = TDM_PRE_BYTE_LEVEL;
    p->split = split;
    return split ? tdm_pattern_regex(&p->pattern, tdm_gpt2_pattern, strlen(tdm_gpt2_pattern), t->name, err) : TDM_OK;
}

static tdm_status set_steps(tdm_tokenizer *t, family f, tdm_error *err)
{
    static const char *const plain[] = {
        "[\\p{P}\\$\\+<=>\\^~\\|]+", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)", "\\p{N}+", "[0-9][0-9][0-9]",
    };
    tdm_status st = TDM_OK;
    TDM_ASSERT(f != SPM);
    t->dec[t->dec_count++].kind = TDM_DEC_BYTE_LEVEL;
    t->has_decoder = true;
    switch (f) {
    case SPM: break;
    case GPT2: break;
    case DIGITS_GPT2: t->pre[t->pre_count++] = (tdm_pre){.kind = TDM_PRE_DIGITS, .behavior = TDM_SPLIT_ISOLATED}; break;
    case LLAMA3:
        t->bpe.ignore_merges = true;
        TDM_TRY(st, add_split(t, llama3, err), done);
        break;
    case QWEN2:
        t->norm[t->norm_count++].kind = TDM_NORM_NFC; /* as the model's own tokenizer.json has it */
        TDM_TRY(st, add_split(t, qwen2, err), done);
        break;
    case PLAIN:
        for (size_t i = 0; i < TDM_COUNT(plain); i++) TDM_TRY(st, add_split(t, plain[i], err), done);
        break;
    }
    st = add_bytes(t, f == GPT2 || f == DIGITS_GPT2, err);
done:
    return st;
}

static tdm_status find_family(tdm_tokenizer *t, const tdm_gguf *g, family *out, tdm_error *err)
{
    tdm_str model = {0}, pre = {"default", 7};
    if (!tdm_gguf_str(g, "tokenizer.ggml.model", &model))
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is it a language model?", "no tokenizer.ggml.model in the metadata");
    if (model.len == 5 && memcmp(model.data, "llama", 5) == 0) {
        *out = SPM;
        return TDM_OK;
    }
    if (model.len != 4 || memcmp(model.data, "gpt2", 4) != 0)
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "only BPE (\"gpt2\", and SentencePiece's \"llama\") is supported in a GGUF", "tokenizer.ggml.model \"%.*s\"",
                        (int)(model.len < 64 ? model.len : 64), model.data);
    (void)tdm_gguf_str(g, "tokenizer.ggml.pre", &pre);
    for (size_t i = 0; i < TDM_COUNT(families); i++) {
        if (strlen(families[i].name) != pre.len || memcmp(families[i].name, pre.data, pre.len) != 0) continue;
        *out = families[i].family;
        return TDM_OK;
    }
    return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "use the model's folder with its tokenizer.json", "tokenizer.ggml.pre \"%.*s\" is not known",
                    (int)(pre.len < 64 ? pre.len : 64), pre.data);
}

static tdm_status load_tokens(tdm_tokenizer *t, const tdm_gguf *g, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t count = tdm_gguf_array_count(g, "tokenizer.ggml.tokens");
    if (count <= 0 || count > TDM_TOKEN_IDS_MAX)
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is the file damaged?", "tokenizer.ggml.tokens has %lld entries", (long long)count);
    for (int64_t i = 0; i < count; i++) {
        tdm_str s;
        if (!tdm_gguf_array_str(g, "tokenizer.ggml.tokens", i, &s)) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is the file damaged?", "tokenizer.ggml.tokens[%lld] is not a string", (long long)i);
            goto done;
        }
        TDM_TRY(st, tdm_vocab_add(t, s.data, s.len, i, err), done);
    }
done:
    return st;
}

/* token_type: 3 control, 4 user-defined. */
static tdm_status load_added(tdm_tokenizer *t, const tdm_gguf *g, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t count = tdm_gguf_array_count(g, "tokenizer.ggml.tokens");
    for (int64_t i = 0; i < count; i++) {
        int64_t type;
        tdm_str s;
        if (!tdm_gguf_array_int(g, "tokenizer.ggml.token_type", i, &type) || (type != 3 && type != 4)) continue;
        if (tdm_gguf_array_str(g, "tokenizer.ggml.tokens", i, &s))
            TDM_TRY(st, tdm_added_add(t, s.data, s.len, (tdm_added){.special = type == 3}, err), done);
    }
done:
    return st;
}

static tdm_status load_merges(tdm_tokenizer *t, const tdm_gguf *g, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_text joined = {0};
    const int64_t count = tdm_gguf_array_count(g, "tokenizer.ggml.merges");
    if (count < 0) return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is the file damaged?", "no tokenizer.ggml.merges in the metadata");
    TDM_TRY(st, tdm_bpe_reserve(t, count, err), done);
    for (int64_t i = 0; i < count; i++) {
        tdm_str s = {0};
        const char *space = tdm_gguf_array_str(g, "tokenizer.ggml.merges", i, &s) && s.len > 1 ? memchr(s.data + 1, ' ', s.len - 1) : NULL;
        if (!space) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is the file damaged?", "tokenizer.ggml.merges[%lld] is not a pair of tokens", (long long)i);
            goto done;
        }
        const size_t left = (size_t)(space - s.data);
        const char *const side[2] = {s.data, space + 1};
        const size_t len[2] = {left, s.len - left - 1};
        TDM_TRY(st, tdm_bpe_merge_texts(t, side, len, (uint32_t)i, &joined, err), done);
    }
done:
    tdm_text_free(&joined);
    return st;
}

static tdm_status load_special(tdm_tokenizer *t, const tdm_gguf *g, family f, tdm_error *err)
{
    static const char *const keys[TDM_SPECIAL_COUNT] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                                        "tokenizer.ggml.padding_token_id", "tokenizer.ggml.unknown_token_id"};
    tdm_status st = TDM_OK;
    bool add_bos = f == LLAMA3 || f == SPM, add_eos = false;
    for (size_t i = 0; i < TDM_SPECIAL_COUNT; i++) {
        int64_t id;
        if (!tdm_gguf_int(g, keys[i], &id)) continue;
        if (id < 0 || id >= t->vocab) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is the file damaged?", "%s is %lld, the vocabulary has %d tokens", keys[i],
                          (long long)id, t->vocab);
            goto done;
        }
        if (i == 0) t->bos = (int32_t)id;
        if (i == 1) t->eos = (int32_t)id;
        t->special_text[i] = tdm_copy(tdm_span_ptr(t, t->tokens[id].text), t->tokens[id].text.len, err);
        if (!t->special_text[i]) return TDM_ERR_OTHER;
    }
    (void)tdm_gguf_bool(g, "tokenizer.ggml.add_bos_token", &add_bos);
    (void)tdm_gguf_bool(g, "tokenizer.ggml.add_eos_token", &add_eos);
    if (add_bos && t->bos >= 0) TDM_TRY(st, tdm_ids_push(&t->before, t->bos, err), done);
    if (add_eos && t->eos >= 0) st = tdm_ids_push(&t->after, t->eos, err);
done:
    return st;
}

tdm_status tdm_tokenizer_load_gguf(tdm_tokenizer *t, const tdm_gguf *g, tdm_error *err)
{
    tdm_status st = TDM_OK;
    family f = GPT2;
    tdm_str template;
    TDM_TRY(st, find_family(t, g, &f, err), done);
    if (f != SPM) TDM_TRY(st, set_steps(t, f, err), done);
    TDM_TRY(st, load_tokens(t, g, err), done);
    if (f == SPM) TDM_TRY(st, tdm_spm_steps(t, g, err), done);
    TDM_TRY(st, f == SPM ? tdm_spm_merges(t, g, err) : load_merges(t, g, err), done);
    TDM_TRY(st, load_added(t, g, err), done);
    TDM_TRY(st, load_special(t, g, f, err), done);
    if (tdm_gguf_str(g, "tokenizer.chat_template", &template)) {
        t->chat_template = tdm_copy(template.data, template.len, err);
        if (!t->chat_template) {
            st = TDM_ERR_OTHER;
            goto done;
        }
    }
    st = tdm_tokenizer_finish(t, err);
done:
    return st;
}
