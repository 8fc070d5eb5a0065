/* tokenizer.json (huggingface/tokenizers): the model, the added tokens and the post-processor; tokenizer_steps.c has the rest.
 * `truncation` and `padding` are left out on purpose: transformers sets them with every call. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/fs.h"
#include "memory/json_read.h"
#include "runtime/text/tokenizer_impl.h"

static const char damaged[] = "is the file damaged?";

static tdm_status load_vocab(tdm_tokenizer *t, const json_t *model, tdm_error *err)
{
    const json_t *vocab = tdm_json_get(model, "vocab");
    const char *key;
    json_t *id;
    if (!json_is_object(vocab)) return TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "model.vocab is not an object");
    json_object_foreach((json_t *)(uintptr_t)vocab, key, id) {
        if (!json_is_integer(id)) return TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "the id of token \"%.64s\" is not an integer", key);
        tdm_status st = tdm_vocab_add(t, key, strlen(key), json_integer_value(id), err);
        if (st != TDM_OK) return st;
    }
    return TDM_OK;
}

/* "left right", or the pair [left, right]. */
static bool merge_sides(const json_t *m, const char *side[2], size_t len[2])
{
    if (json_is_string(m)) {
        side[0] = json_string_value(m);
        const char *space = memchr(side[0], ' ', json_string_length(m));
        if (!space) return false;
        len[0] = (size_t)(space - side[0]);
        side[1] = space + 1;
        len[1] = json_string_length(m) - len[0] - 1;
        return memchr(side[1], ' ', len[1]) == NULL;
    }
    if (json_array_size(m) != 2) return false;
    for (size_t i = 0; i < 2; i++) {
        const json_t *s = json_array_get(m, i);
        if (!json_is_string(s)) return false;
        side[i] = json_string_value(s);
        len[i] = json_string_length(s);
    }
    return true;
}

static tdm_status load_merges(tdm_tokenizer *t, const json_t *model, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const json_t *merges = tdm_json_get(model, "merges");
    tdm_text joined = {0};
    if (!json_is_array(merges)) return TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "model.merges is not a list");
    const size_t count = json_array_size(merges);
    TDM_TRY(st, tdm_bpe_reserve(t, (int64_t)count, err), done);
    for (size_t i = 0; i < count; i++) {
        const char *side[2];
        size_t len[2];
        if (!merge_sides(json_array_get(merges, i), side, len)) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "model.merges[%zu] is not a pair of tokens", i);
            goto done;
        }
        TDM_TRY(st, tdm_bpe_merge_texts(t, side, len, (uint32_t)i, &joined, err), done);
    }
done:
    tdm_text_free(&joined);
    return st;
}

/* An affix that is there and not empty. */
static tdm_status refuse_affix(const tdm_tokenizer *t, const json_t *model, const char *key, tdm_error *err)
{
    const json_t *v = tdm_json_get(model, key);
    if (!v || (json_is_string(v) && json_string_length(v) == 0)) return TDM_OK;
    return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "this kind of BPE is not supported", "model.%s is set", key);
}

static tdm_status load_model(tdm_tokenizer *t, const json_t *root, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const json_t *model = tdm_json_get(root, "model");
    const char *type = json_string_value(tdm_json_get(model, "type"));
    const tdm_json_fields f = {model, t->name, err};
    const char *unk = NULL;
    if (!json_is_object(model)) return TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "model is not an object");
    if (type && strcmp(type, "BPE") != 0)
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "only BPE is supported", "tokenizer model \"%.64s\"", type);
    TDM_TRY(st, refuse_affix(t, model, "continuing_subword_prefix", err), done);
    TDM_TRY(st, refuse_affix(t, model, "end_of_word_suffix", err), done);
    const json_t *dropout = tdm_json_get(model, "dropout");
    if (dropout && json_number_value(dropout) != 0.0)
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "set it to null", "model.dropout makes the tokenizer random");
    TDM_TRY(st, load_vocab(t, model, err), done);
    TDM_TRY(st, load_merges(t, model, err), done);
    TDM_TRY(st, tdm_json_bool(&f, "byte_fallback", &t->bpe.byte_fallback), done);
    TDM_TRY(st, tdm_json_bool(&f, "fuse_unk", &t->bpe.fuse_unk), done);
    TDM_TRY(st, tdm_json_bool(&f, "ignore_merges", &t->bpe.ignore_merges), done);
    TDM_TRY(st, tdm_json_str(&f, "unk_token", &unk), done);
    if (unk) {
        t->bpe.unk = tdm_map_find(t, &t->strings, unk, strlen(unk));
        if (t->bpe.unk < 0)
            return TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "model.unk_token \"%.64s\" is not in the vocabulary", unk);
    }
done:
    return st;
}

static tdm_status load_added(tdm_tokenizer *t, const json_t *root, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const json_t *list = tdm_json_get(root, "added_tokens");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *a = json_array_get(list, i), *content = tdm_json_get(a, "content");
        const tdm_json_fields f = {a, t->name, err};
        if (!json_is_string(content)) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "added_tokens[%zu] has no content", i);
            goto done;
        }
        tdm_added flags = {0};
        TDM_TRY(st, tdm_json_bool(&f, "special", &flags.special), done);
        flags.normalized = !flags.special;
        TDM_TRY(st, tdm_json_bool(&f, "lstrip", &flags.lstrip), done);
        TDM_TRY(st, tdm_json_bool(&f, "rstrip", &flags.rstrip), done);
        TDM_TRY(st, tdm_json_bool(&f, "single_word", &flags.single_word), done);
        TDM_TRY(st, tdm_json_bool(&f, "normalized", &flags.normalized), done);
        TDM_TRY(st, tdm_added_add(t, json_string_value(content), json_string_length(content), flags, err), done);
    }
done:
    return st;
}

static tdm_status put_ids(tdm_tokenizer *t, const json_t *ids, tdm_ids *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= TDM_TOKEN_IDS_MAX) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "the post-processor names a token that is no id");
            goto done;
        }
        TDM_TRY(st, tdm_ids_push(out, (int32_t)value, err), done);
    }
done:
    return st;
}

/* A later processor works around what the earlier ones added. */
static tdm_status wrap(tdm_tokenizer *t, const tdm_ids *before, const tdm_ids *after, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_ids all = {0};
    for (int64_t i = 0; i < before->count; i++) TDM_TRY(st, tdm_ids_push(&all, before->data[i], err), done);
    for (int64_t i = 0; i < t->before.count; i++) TDM_TRY(st, tdm_ids_push(&all, t->before.data[i], err), done);
    for (int64_t i = 0; i < after->count; i++) TDM_TRY(st, tdm_ids_push(&t->after, after->data[i], err), done);
    tdm_ids swap = t->before;
    t->before = all;
    all = swap;
done:
    tdm_ids_free(&all);
    return st;
}

static tdm_status load_template(tdm_tokenizer *t, const json_t *p, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const json_t *single = tdm_json_get(p, "single"), *tokens = tdm_json_get(p, "special_tokens");
    tdm_ids before = {0}, after = {0};
    bool text = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i), *special = tdm_json_get(piece, "SpecialToken");
        const char *sequence = json_string_value(tdm_json_get(tdm_json_get(piece, "Sequence"), "id"));
        const char *id = json_string_value(tdm_json_get(special, "id"));
        if (sequence && strcmp(sequence, "A") == 0 && !text) {
            text = true;
        } else if (id && json_is_array(tdm_json_get(tdm_json_get(tokens, id), "ids"))) {
            TDM_TRY(st, put_ids(t, tdm_json_get(tdm_json_get(tokens, id), "ids"), text ? &after : &before, err), done);
        } else {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, "TemplateProcessing with one sequence A and known special tokens is supported",
                          "post_processor.single[%zu] is something else", i);
            goto done;
        }
    }
    if (!text) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "post_processor.single has no sequence A");
        goto done;
    }
    st = wrap(t, &before, &after, err);
done:
    tdm_ids_free(&before);
    tdm_ids_free(&after);
    return st;
}

/* BertProcessing and RobertaProcessing: cls, the text, sep; each a pair [text, id]. */
static tdm_status load_cls_sep(tdm_tokenizer *t, const json_t *p, tdm_error *err)
{
    const json_t *cls = json_array_get(tdm_json_get(p, "cls"), 1), *sep = json_array_get(tdm_json_get(p, "sep"), 1);
    const json_int_t first = json_integer_value(cls), last = json_integer_value(sep);
    if (!json_is_integer(cls) || !json_is_integer(sep) || first < 0 || last < 0 || first >= TDM_TOKEN_IDS_MAX || last >= TDM_TOKEN_IDS_MAX)
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "post_processor.cls or .sep is not a token with its id");
    int32_t id[2] = {(int32_t)first, (int32_t)last};
    const tdm_ids before = {&id[0], 1, 1}, after = {&id[1], 1, 1};
    return wrap(t, &before, &after, err);
}

static tdm_status load_post(tdm_tokenizer *t, const json_t *p, int depth, tdm_error *err)
{
    if (!p) return TDM_OK;
    const char *type = json_string_value(tdm_json_get(p, "type"));
    const json_t *list = tdm_json_get(p, "processors");
    tdm_status st = TDM_OK;
    if (!type) return TDM_FAIL(err, TDM_ERR_INPUT, t->name, damaged, "a post-processor has no type");
    if (strcmp(type, "ByteLevel") == 0) return TDM_OK; /* offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return load_template(t, p, err);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) return load_cls_sep(t, p, err);
    if (strcmp(type, "Sequence") != 0 || depth > 4 || !json_is_array(list))
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "this tokenizer is not supported", "post-processor \"%.64s\"", type);
    for (size_t i = 0; i < json_array_size(list); i++) TDM_TRY(st, load_post(t, json_array_get(list, i), depth + 1, err), done);
done:
    return st;
}

tdm_status tdm_tokenizer_load_json(tdm_tokenizer *t, const char *data, size_t len, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_error_t at;
    json_t *root = json_loadb(data, len, JSON_ALLOW_NUL, &at);
    if (!root || !json_is_object(root)) {
        char where[512];
        snprintf(where, sizeof where, "%s:%d:%d", t->name, root ? 1 : at.line, root ? 1 : at.column);
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, damaged, "not a JSON object: %s", root ? "another value" : at.text);
        goto done;
    }
    TDM_TRY(st, load_model(t, root, err), done);
    TDM_TRY(st, tdm_steps_load(t, root, err), done);
    TDM_TRY(st, load_added(t, root, err), done);
    TDM_TRY(st, load_post(t, tdm_json_get(root, "post_processor"), 0, err), done);
    st = tdm_tokenizer_finish(t, err);
done:
    json_decref(root);
    return st;
}
