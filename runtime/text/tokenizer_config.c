/* What lies beside tokenizer.json in a model folder: tokenizer_config.json (special tokens, chat template), special_tokens_map.json
 * of older models, chat_template.jinja of newer ones. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "memory/fs.h"
#include "memory/json_read.h"
#include "runtime/text/tokenizer_impl.h"
#include "runtime/text/unicode.h"

enum { JSON_BYTES_MAX = 1 << 30, TEMPLATE_BYTES_MAX = 1 << 24 };

/* "<s>", or {"content": "<s>", ...}. */
static const json_t *token_text(const json_t *config, const char *key)
{
    const json_t *v = tdm_json_get(config, key);
    if (json_is_object(v)) v = tdm_json_get(v, "content");
    return json_is_string(v) ? v : NULL;
}

static tdm_status load_special(tdm_tokenizer *t, const json_t *config, tdm_error *err)
{
    for (size_t i = 0; i < TDM_SPECIAL_COUNT; i++) {
        const json_t *text = token_text(config, tdm_special_names[i]);
        if (!text || t->special_text[i]) continue;
        t->special_text[i] = tdm_copy(json_string_value(text), json_string_length(text), err);
        if (!t->special_text[i]) return TDM_ERR_OTHER;
    }
    return TDM_OK;
}

/* A string, or a list of {"name", "template"} of which "default" is the one. */
static tdm_status load_template(tdm_tokenizer *t, const json_t *config, tdm_error *err)
{
    const json_t *text = tdm_json_get(config, "chat_template");
    for (size_t i = 0; json_is_array(tdm_json_get(config, "chat_template")) && i < json_array_size(tdm_json_get(config, "chat_template")); i++) {
        const json_t *named = json_array_get(tdm_json_get(config, "chat_template"), i);
        const char *name = json_string_value(tdm_json_get(named, "name"));
        if (name && strcmp(name, "default") == 0) text = tdm_json_get(named, "template");
    }
    if (!json_is_string(text) || t->chat_template) return TDM_OK;
    t->chat_template = tdm_copy(json_string_value(text), json_string_length(text), err);
    return t->chat_template ? TDM_OK : TDM_ERR_OTHER;
}

static tdm_status load_jinja(tdm_tokenizer *t, const char *folder, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES], *data = NULL;
    size_t bytes = 0;
    TDM_TRY(st, tdm_fs_join(path, folder, "chat_template.jinja", err), done);
    if (!tdm_fs_is_file(path)) return TDM_OK;
    TDM_TRY(st, tdm_fs_read(path, TEMPLATE_BYTES_MAX, &data, &bytes, err), done);
    if (tdm_utf8_valid(data, bytes) != bytes) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, path, "is the file damaged?", "not UTF-8 text");
        goto done;
    }
    t->chat_template = data;
    data = NULL;
done:
    free(data);
    return st;
}

static tdm_status load_file(tdm_tokenizer *t, const char *folder, const char *name, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES], *data = NULL;
    size_t bytes = 0;
    json_error_t at;
    json_t *config = NULL;
    TDM_TRY(st, tdm_fs_join(path, folder, name, err), done);
    if (!tdm_fs_is_file(path)) return TDM_OK;
    TDM_TRY(st, tdm_fs_read(path, JSON_BYTES_MAX, &data, &bytes, err), done);
    config = json_loadb(data, bytes, JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &at); /* model_max_length may be 1e30, digit by digit */
    if (!json_is_object(config)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, path, "is the file damaged?", "line %d, not a JSON object: %s", config ? 1 : at.line,
                      config ? "another value" : at.text);
        goto done;
    }
    TDM_TRY(st, load_special(t, config, err), done);
    st = load_template(t, config, err);
done:
    json_decref(config);
    free(data);
    return st;
}

tdm_status tdm_tokenizer_load_config(tdm_tokenizer *t, const char *folder, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, load_jinja(t, folder, err), done);
    TDM_TRY(st, load_file(t, folder, "tokenizer_config.json", err), done);
    TDM_TRY(st, load_file(t, folder, "special_tokens_map.json", err), done);
    if (t->special_text[0]) t->bos = tdm_token_id(t, t->special_text[0], strlen(t->special_text[0]));
    if (t->special_text[1]) t->eos = tdm_token_id(t, t->special_text[1], strlen(t->special_text[1]));
done:
    return st;
}

tdm_status tdm_tokenizer_load_folder(tdm_tokenizer *t, const char *folder, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES], *data = NULL;
    size_t bytes = 0;
    TDM_TRY(st, tdm_fs_join(path, folder, "tokenizer.json", err), done);
    if (!tdm_fs_is_file(path)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, path, "a model folder holds a tokenizer.json", "no tokenizer");
        goto done;
    }
    free(t->name);
    t->name = tdm_copy(path, strlen(path), err);
    if (!t->name) {
        st = TDM_ERR_OTHER;
        goto done;
    }
    TDM_TRY(st, tdm_fs_read(path, JSON_BYTES_MAX, &data, &bytes, err), done);
    TDM_TRY(st, tdm_tokenizer_load_json(t, data, bytes, err), done);
    st = tdm_tokenizer_load_config(t, folder, err);
done:
    free(data);
    return st;
}
