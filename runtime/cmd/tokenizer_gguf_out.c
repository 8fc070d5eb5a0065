/* tokenizer.json from GGUF metadata, for byte-level BPE.
 * Source: ggml-org/llama.cpp, src/llama-vocab.cpp (what each tokenizer.ggml.pre means: regular expressions, add_bos,
 * ignore_merges) and gguf-py/gguf/constants.py (TokenType); huggingface/tokenizers for the file. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/cmd/gguf_out.h"
#include "runtime/cmd/tokenizer_out.h"

enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, SPLITS_MAX = 4 };

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define LLAMA3(digits)                                                                                                 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                               \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* The pre-tokenizers known here, as runtime/text/tokenizer_gguf.c reads them; the first one also stands for a file that
 * names none. */
static const struct pre {
    const char *name;
    const char *split[SPLITS_MAX];
    bool digits, gpt2_regex; /* single digits apart; ByteLevel's own expression */
    bool nfc, ignore_merges, add_bos;
} known[] = {
    {.name = "default", .split = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.name = "gpt-2", .gpt2_regex = true},
    {.name = "phi-2", .gpt2_regex = true},
    {.name = "smollm", .digits = true, .gpt2_regex = true},
    {.name = "starcoder", .digits = true, .gpt2_regex = true},
    {.name = "refact", .digits = true, .gpt2_regex = true},
    {.name = "command-r", .digits = true, .gpt2_regex = true},
    {.name = "llama-bpe", .split = {LLAMA3("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true},
    {.name = "llama3", .split = {LLAMA3("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true},
    {.name = "llama-v3", .split = {LLAMA3("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true},
    {.name = "qwen2", .split = {LLAMA3("\\p{N}")}, .nfc = true},
    {.name = "deepseek-r1-qwen", .split = {LLAMA3("\\p{N}")}, .nfc = true},
};

typedef struct source {
    const tdm_gguf *g;
    const struct pre *pre;
    int64_t count; /* tokens */
    const char *where;
    tdm_error *err;
} source;

#define REFUSE(s, ...)                                                                                                 \
    TDM_FAIL((s)->err, TDM_ERR_INPUT, (s)->where, "give --tokenizer FOLDER of the original model", __VA_ARGS__)
#define NO_MEMORY(s) TDM_FAIL((s)->err, TDM_ERR_OTHER, (s)->where, NULL, "out of memory for the tokenizer")

static bool str_is(tdm_str s, const char *text) { return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0; }

static tdm_status open_source(source *s)
{
    tdm_str model = {"nothing", 7}, pre = {known[0].name, strlen(known[0].name)};
    tdm_gguf_str(s->g, "tokenizer.ggml.model", &model);
    tdm_gguf_str(s->g, "tokenizer.ggml.pre", &pre);
    if (!str_is(model, "gpt2"))
        return REFUSE(s, "a tokenizer of kind %.*s cannot be written as tokenizer.json",
                      (int)tdm_min_i64((int64_t)model.len, 64), model.data);
    for (size_t i = 0; i < TDM_COUNT(known); i++)
        if (str_is(pre, known[i].name)) s->pre = &known[i];
    if (!s->pre)
        return REFUSE(s, "the pre-tokenizer %.*s is not known", (int)tdm_min_i64((int64_t)pre.len, 64), pre.data);
    s->count = tdm_gguf_array_count(s->g, "tokenizer.ggml.tokens");
    if (s->count < 1 || s->count > INT32_MAX) return REFUSE(s, "tokenizer.ggml.tokens is missing");
    return TDM_OK;
}

static int64_t type_of(const source *s, int64_t id)
{
    int64_t type = TYPE_NORMAL;
    tdm_gguf_array_int(s->g, "tokenizer.ggml.token_type", id, &type);
    return type;
}

static tdm_status token_text(const source *s, int64_t id, tdm_str *out)
{
    if (!tdm_gguf_array_str(s->g, "tokenizer.ggml.tokens", id, out))
        return REFUSE(s, "tokenizer.ggml.tokens is not a list of texts");
    if (out->len == 0 || memchr(out->data, 0, out->len))
        return REFUSE(s, "token %" PRId64 " is empty or holds a zero byte", id);
    return TDM_OK;
}

static json_t *added_token(int64_t id, tdm_str text, bool special)
{
    return json_pack("{s:I,s:s%,s:b,s:b,s:b,s:b,s:b}", "id", (json_int_t)id, "content", text.data, text.len,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", special);
}

/* Ids a model has room for but the tokenizer does not use are left out. */
static tdm_status fill_vocab(const source *s, json_t *vocab, json_t *added)
{
    tdm_status st = TDM_OK;
    for (int64_t id = 0; id < s->count; id++) {
        tdm_str text;
        const int64_t type = type_of(s, id);
        if (type == TYPE_UNUSED) continue;
        TDM_TRY(st, token_text(s, id, &text), done);
        if (json_object_getn(vocab, text.data, text.len)) {
            st = REFUSE(s, "token %" PRId64 " has the text of another", id);
            goto done;
        }
        if (json_object_setn_new(vocab, text.data, text.len, json_integer(id)) != 0) {
            st = REFUSE(s, "token %" PRId64 " is not UTF-8", id);
            goto done;
        }
        const bool special = type == TYPE_CONTROL;
        if (!special && type != TYPE_USER) continue;
        if (json_array_append_new(added, added_token(id, text, special)) != 0) {
            st = NO_MEMORY(s);
            goto done;
        }
    }
done:
    return st;
}

static tdm_status fill_merges(const source *s, json_t *merges)
{
    const int64_t count = tdm_gguf_array_count(s->g, "tokenizer.ggml.merges");
    for (int64_t i = 0; i < count; i++) {
        tdm_str m;
        if (!tdm_gguf_array_str(s->g, "tokenizer.ggml.merges", i, &m))
            return REFUSE(s, "tokenizer.ggml.merges is not a list of texts");
        if (json_array_append_new(merges, json_stringn(m.data, m.len)) != 0)
            return REFUSE(s, "merge %" PRId64 " is not UTF-8", i);
    }
    return count < 0 ? REFUSE(s, "tokenizer.ggml.merges is missing") : TDM_OK;
}

static json_t *pre_tokenizer(const struct pre *p)
{
    json_t *steps = json_array();
    for (int i = 0; i < SPLITS_MAX && p->split[i]; i++)
        json_array_append_new(steps, json_pack("{s:s,s:{s:s},s:s,s:b}", "type", "Split", "pattern", "Regex",
                                               p->split[i], "behavior", "Isolated", "invert", 0));
    if (p->digits) json_array_append_new(steps, json_pack("{s:s,s:b}", "type", "Digits", "individual_digits", 1));
    json_array_append_new(steps, json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                                           "trim_offsets", 1, "use_regex", p->gpt2_regex));
    return json_pack("{s:s,s:o}", "type", "Sequence", "pretokenizers", steps);
}

static const char *word(const json_t *step, const char *key)
{
    const char *text = json_string_value(json_object_get(step, key));
    return text ? text : "";
}

/* Whether two steps cut a text alike. */
static bool same_step(const json_t *a, const json_t *b)
{
    const char *type = word(a, "type");
    if (strcmp(type, word(b, "type")) != 0) return false;
    if (strcmp(type, "ByteLevel") == 0)
        return json_is_false(json_object_get(a, "use_regex")) == json_is_false(json_object_get(b, "use_regex")) &&
               json_is_true(json_object_get(a, "add_prefix_space")) == json_is_true(json_object_get(b, "add_prefix_space"));
    if (strcmp(type, "Digits") == 0) return json_is_true(json_object_get(a, "individual_digits")) == json_is_true(json_object_get(b, "individual_digits"));
    return strcmp(type, "Split") == 0 && json_equal(json_object_get(a, "pattern"), json_object_get(b, "pattern")) &&
           strcmp(word(a, "behavior"), word(b, "behavior")) == 0 && json_is_true(json_object_get(a, "invert")) == json_is_true(json_object_get(b, "invert"));
}

static bool same_steps(const json_t *given, const json_t *ours)
{
    const json_t *list = json_object_get(given, "pretokenizers"), *want = json_object_get(ours, "pretokenizers");
    if (!list) return json_array_size(want) == 1 && same_step(given, json_array_get(want, 0));
    bool same = json_array_size(list) == json_array_size(want);
    for (size_t i = 0; same && i < json_array_size(list); i++) same = same_step(json_array_get(list, i), json_array_get(want, i));
    return same;
}

const char *tdm_tokenizer_pre_name(const json_t *tokenizer)
{
    const char *name = NULL;
    const bool nfc = strcmp(word(json_object_get(tokenizer, "normalizer"), "type"), "NFC") == 0;
    for (size_t i = 0; !name && i < TDM_COUNT(known); i++) {
        json_t *ours = pre_tokenizer(&known[i]); /* owned here */
        if (known[i].nfc == nfc && same_steps(json_object_get(tokenizer, "pre_tokenizer"), ours)) name = known[i].name;
        json_decref(ours);
    }
    return name;
}

/* The text of the token that `key` numbers; false: none. */
static bool special_text(const source *s, const char *key, int64_t *id, tdm_str *text)
{
    return tdm_gguf_int(s->g, key, id) && *id >= 0 && *id < s->count &&
           tdm_gguf_array_str(s->g, "tokenizer.ggml.tokens", *id, text) && text->len > 0;
}

static void template_piece(json_t *single, json_t *pair, json_t *tokens, int64_t id, tdm_str text, bool second)
{
    json_t *name = json_stringn(text.data, text.len);
    if (!name) return;
    if (single) json_array_append_new(single, json_pack("{s:{s:O,s:i}}", "SpecialToken", "id", name, "type_id", 0));
    json_array_append_new(pair, json_pack("{s:{s:O,s:i}}", "SpecialToken", "id", name, "type_id", second ? 1 : 0));
    json_object_setn_new(tokens, text.data, text.len,
                         json_pack("{s:O,s:[I],s:[O]}", "id", name, "ids", (json_int_t)id, "tokens", name));
    json_decref(name);
}

static json_t *sequence_piece(const char *which, int type)
{
    return json_pack("{s:{s:s,s:i}}", "Sequence", "id", which, "type_id", type);
}

static json_t *byte_level(void)
{
    return json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 0, "use_regex",
                     1);
}

/* What is put around a plain text: bos and eos where the file asks for them. */
static json_t *post_processor(const source *s)
{
    bool add_bos = s->pre->add_bos, add_eos = false;
    int64_t bos, eos;
    tdm_str bos_text, eos_text;
    tdm_gguf_bool(s->g, "tokenizer.ggml.add_bos_token", &add_bos);
    tdm_gguf_bool(s->g, "tokenizer.ggml.add_eos_token", &add_eos);
    add_bos = add_bos && special_text(s, "tokenizer.ggml.bos_token_id", &bos, &bos_text);
    add_eos = add_eos && special_text(s, "tokenizer.ggml.eos_token_id", &eos, &eos_text);
    if (!add_bos && !add_eos) return byte_level();
    json_t *single = json_array(), *pair = json_array(), *tokens = json_object();
    if (add_bos) template_piece(single, pair, tokens, bos, bos_text, false);
    json_array_append_new(single, sequence_piece("A", 0));
    json_array_append_new(pair, sequence_piece("A", 0));
    if (add_eos) template_piece(single, pair, tokens, eos, eos_text, false);
    if (add_bos) template_piece(NULL, pair, tokens, bos, bos_text, true);
    json_array_append_new(pair, sequence_piece("B", 1));
    if (add_eos) template_piece(NULL, pair, tokens, eos, eos_text, true);
    return json_pack("{s:s,s:[o,{s:s,s:o,s:o,s:o}]}", "type", "Sequence", "processors", byte_level(), "type",
                     "TemplateProcessing", "single", single, "pair", pair, "special_tokens", tokens);
}

static json_t *config_json(const source *s)
{
    static const struct {
        const char *key, *name;
    } special[] = {{"tokenizer.ggml.bos_token_id", "bos_token"},
                   {"tokenizer.ggml.eos_token_id", "eos_token"},
                   {"tokenizer.ggml.unknown_token_id", "unk_token"},
                   {"tokenizer.ggml.padding_token_id", "pad_token"}};
    json_t *config =
        json_pack("{s:s,s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", 0);
    tdm_str text;
    int64_t id;
    for (size_t i = 0; config && i < TDM_COUNT(special); i++)
        if (special_text(s, special[i].key, &id, &text))
            json_object_set_new(config, special[i].name, json_stringn(text.data, text.len));
    if (config && tdm_gguf_str(s->g, "tokenizer.chat_template", &text))
        json_object_set_new(config, "chat_template", json_stringn(text.data, text.len));
    return config;
}

tdm_status tdm_tokenizer_json(const tdm_gguf *g, const char *where, json_t **tokenizer, json_t **config, tdm_error *err)
{
    tdm_status st = TDM_OK;
    source s = {.g = g, .where = where, .err = err};
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array(); /* owned here */
    *tokenizer = *config = NULL;
    TDM_TRY(st, open_source(&s), done);
    TDM_TRY(st, fill_vocab(&s, vocab, added), done);
    TDM_TRY(st, fill_merges(&s, merges), done);
    json_t *normalizer = s.pre->nfc ? json_pack("{s:s}", "type", "NFC") : json_null();
    *tokenizer =
        json_pack("{s:s,s:n,s:n,s:O,s:o,s:o,s:o,s:{s:s,s:b,s:b,s:b},s:{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:b,s:O,s:O}}",
                  "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer", normalizer,
                  "pre_tokenizer", pre_tokenizer(s.pre), "post_processor", post_processor(&s), "decoder", "type",
                  "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE",
                  "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                  "byte_fallback", 0, "ignore_merges", s.pre->ignore_merges, "vocab", vocab, "merges", merges);
    *config = config_json(&s);
    if (!*tokenizer || !*config) st = NO_MEMORY(&s);
done:
    json_decref(added);
    json_decref(merges);
    json_decref(vocab);
    return st;
}
