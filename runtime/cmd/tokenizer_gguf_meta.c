/* tokenizer.ggml.* of a folder with a byte-level BPE. Source: ggml-org/llama.cpp, gguf-py/gguf/vocab.py and constants.py (TokenType). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/fs.h"
#include "memory/json_read.h"
#include "runtime/cmd/gguf_out.h"
#include "runtime/text/tokenizer.h"

enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5 };

typedef struct token {
    const char *text; /* borrowed of the JSON; NULL: no token has the id */
    size_t len;
    int type;
} token;

typedef struct reader {
    const json_t *json; /* tokenizer.json */
    const char *where;
    token *token;       /* owned; [vocab] */
    int64_t vocab;
    tdm_error *err;
} reader;

#define REFUSE(r, ...) TDM_FAIL((r)->err, TDM_ERR_INPUT, (r)->where, "export --what merged, and convert the folder with llama.cpp", __VA_ARGS__)

static tdm_status set(reader *r, const char *text, size_t len, const json_t *id, int type)
{
    const int64_t i = json_is_integer(id) ? json_integer_value(id) : -1;
    if (i < 0 || i >= r->vocab) return REFUSE(r, "token %.64s has an id outside the model's vocabulary", text);
    r->token[i] = (token){text, len, type};
    return TDM_OK;
}

static tdm_status read_tokens(reader *r, const json_t *model)
{
    tdm_status st = TDM_OK;
    const char *text;
    json_t *value;
    size_t i;
    r->token = calloc((size_t)r->vocab, sizeof *r->token);
    if (!r->token) return TDM_FAIL(r->err, TDM_ERR_OTHER, r->where, "free host memory", "out of memory for the tokens");
    json_object_foreach(json_object_get(model, "vocab"), text, value) TDM_TRY(st, set(r, text, strlen(text), value, TYPE_NORMAL), done);
    json_array_foreach(json_object_get(r->json, "added_tokens"), i, value)
    {
        const json_t *content = json_object_get(value, "content");
        if (!json_is_string(content)) return REFUSE(r, "added token %zu has no content", i);
        TDM_TRY(st,
                set(r, json_string_value(content), json_string_length(content), json_object_get(value, "id"),
                    json_is_true(json_object_get(value, "special")) ? TYPE_CONTROL : TYPE_USER),
                done);
    }
done:
    return st;
}

static void put_tokens(tdm_gguf_head *h, const reader *r)
{
    char unused[32];
    tdm_gguf_put_strs(h, "tokenizer.ggml.tokens", r->vocab);
    for (int64_t i = 0; i < r->vocab; i++) {
        const token *t = &r->token[i];
        snprintf(unused, sizeof unused, "[PAD%" PRId64 "]", i);
        tdm_gguf_add_str(h, t->text ? t->text : unused, t->text ? t->len : strlen(unused));
    }
    tdm_gguf_put_i32s(h, "tokenizer.ggml.token_type", r->vocab);
    for (int64_t i = 0; i < r->vocab; i++) tdm_gguf_add_i32(h, r->token[i].text ? r->token[i].type : TYPE_UNUSED);
}

/* "a b", or ["a", "b"] as newer files have it. */
static tdm_status put_merges(tdm_gguf_head *h, const reader *r, const json_t *merges)
{
    size_t i;
    json_t *m;
    tdm_gguf_put_strs(h, "tokenizer.ggml.merges", (int64_t)json_array_size(merges));
    json_array_foreach((json_t *)(uintptr_t)merges, i, m)
    {
        const char *left = json_string_value(json_array_get(m, 0)), *right = json_string_value(json_array_get(m, 1));
        char *joined = NULL;
        if (json_is_string(m)) {
            tdm_gguf_add_str(h, json_string_value(m), json_string_length(m));
            continue;
        }
        if (!left || !right) return REFUSE(r, "merge %zu is not a pair of tokens", i);
        const int n = asprintf(&joined, "%s %s", left, right);
        if (n < 0) return TDM_FAIL(r->err, TDM_ERR_OTHER, r->where, "free host memory", "out of memory for the merges");
        tdm_gguf_add_str(h, joined, (size_t)n);
        free(joined);
    }
    return TDM_OK;
}

static void put_id(tdm_gguf_head *h, const reader *r, const char *key, const char *text)
{
    for (int64_t i = 0; *text && i < r->vocab; i++)
        if (r->token[i].text && strcmp(r->token[i].text, text) == 0) {
            tdm_gguf_put_u32(h, key, (uint32_t)i);
            return;
        }
}

/* What stands before a text is seen by encoding one. */
static tdm_status put_special(tdm_gguf_head *h, const reader *r, const tdm_tokenizer *t, const tdm_model_config *c)
{
    tdm_status st = TDM_OK;
    tdm_ids ids = {0}; /* owned here */
    const int32_t bos = tdm_tokenizer_bos(t), eos = tdm_tokenizer_eos(t) >= 0 ? tdm_tokenizer_eos(t) : c->eos_count > 0 ? c->eos[0] : -1;
    const char *template = tdm_tokenizer_chat_template(t);
    TDM_TRY(st, tdm_tokenizer_encode(t, "a", 1, true, &ids, r->err), done);
    if (bos >= 0) tdm_gguf_put_u32(h, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    if (eos >= 0) tdm_gguf_put_u32(h, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    for (int i = 0; i < c->eos_count; i++)
        if (c->eos[i] != eos) {
            tdm_gguf_put_u32(h, "tokenizer.ggml.eot_token_id", (uint32_t)c->eos[i]);
            break;
        }
    put_id(h, r, "tokenizer.ggml.unknown_token_id", tdm_tokenizer_special_text(t, "unk_token"));
    put_id(h, r, "tokenizer.ggml.padding_token_id", tdm_tokenizer_special_text(t, "pad_token"));
    tdm_gguf_put_bool(h, "tokenizer.ggml.add_bos_token", bos >= 0 && ids.count > 1 && ids.data[0] == bos);
    tdm_gguf_put_bool(h, "tokenizer.ggml.add_eos_token", eos >= 0 && ids.count > 1 && ids.data[ids.count - 1] == eos);
    if (template) tdm_gguf_put_str(h, "tokenizer.chat_template", template, strlen(template));
done:
    tdm_ids_free(&ids);
    return st;
}

tdm_status tdm_gguf_put_tokenizer(tdm_gguf_head *h, const char *folder, const tdm_model_config *c, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES];
    json_t *json = NULL;      /* owned here */
    tdm_tokenizer *t = NULL; /* owned here */
    reader r = {.vocab = c->vocab, .err = err, .where = path};
    TDM_TRY(st, tdm_fs_join(path, folder, "tokenizer.json", err), done);
    TDM_TRY(st, tdm_json_open(&json, path, err), done);
    r.json = json;
    const json_t *model = json_object_get(json, "model"), *type = json_object_get(model, "type");
    const char *pre = tdm_tokenizer_pre_name(json);
    if (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0 || json_is_true(json_object_get(model, "byte_fallback"))) {
        st = REFUSE(&r, "only a byte-level BPE tokenizer is written as GGUF");
        goto done;
    }
    if (!pre) {
        st = REFUSE(&r, "llama.cpp has no name for what this tokenizer does before merging");
        goto done;
    }
    tdm_gguf_put_str(h, "tokenizer.ggml.model", "gpt2", 4);
    tdm_gguf_put_str(h, "tokenizer.ggml.pre", pre, strlen(pre));
    TDM_TRY(st, read_tokens(&r, model), done);
    put_tokens(h, &r);
    TDM_TRY(st, put_merges(h, &r, json_object_get(model, "merges")), done);
    TDM_TRY(st, tdm_tokenizer_open(&t, folder, NULL, err), done);
    TDM_TRY(st, put_special(h, &r, t, c), done);
done:
    free(r.token);
    tdm_tokenizer_close(t);
    json_decref(json);
    return st;
}
