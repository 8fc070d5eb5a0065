#include "runtime/run/language.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_eos(tdm_language *l, int32_t id)
{
    for (int i = 0; i < l->eos_count; i++)
        if (l->eos[i] == id) return;
    if (id >= 0 && l->eos_count < (int)TDM_COUNT(l->eos)) l->eos[l->eos_count++] = id;
}

tdm_status tdm_language_open(tdm_language *l, const tdm_model_file *f, tdm_error *err)
{
    tdm_status st = TDM_OK;
    memset(l, 0, sizeof *l);
    const tdm_model_config *c = tdm_model_file_config(f);
    snprintf(l->path, sizeof l->path, "%s", tdm_model_file_path(f));
    TDM_TRY(st, tdm_tokenizer_open(&l->tokenizer, l->path, tdm_model_file_gguf(f), err), done);
    if (tdm_tokenizer_vocab(l->tokenizer) > c->vocab) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, l->path, "is the tokenizer of another model?", "the tokenizer has %d ids, the model %lld",
                      tdm_tokenizer_vocab(l->tokenizer), (long long)c->vocab);
        goto done;
    }
    const char *template = tdm_tokenizer_chat_template(l->tokenizer);
    if (template) TDM_TRY(st, tdm_chat_open(&l->chat, template, l->path, err), done);
    for (int i = 0; i < c->eos_count; i++) add_eos(l, c->eos[i]);
    add_eos(l, tdm_tokenizer_eos(l->tokenizer));
done:
    return st;
}

void tdm_language_close(tdm_language *l)
{
    if (l->chat) tdm_chat_close(l->chat);
    if (l->tokenizer) tdm_tokenizer_close(l->tokenizer);
    memset(l, 0, sizeof *l);
}

tdm_status tdm_language_chat_ids(const tdm_language *l, const json_t *vars, tdm_text *text, tdm_ids *ids, tdm_error *err)
{
    static const char *const special[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
    tdm_status st = TDM_OK;
    json_t *all = NULL;
    const size_t from = text->len;
    if (!l->chat)
        return TDM_FAIL(err, TDM_ERR_INPUT, l->path, "give plain prompts instead of messages", "the model has no chat template");
    all = json_copy((json_t *)(uintptr_t)vars);
    for (size_t i = 0; all && i < TDM_COUNT(special); i++) {
        const char *t = tdm_tokenizer_special_text(l->tokenizer, special[i]);
        if (t[0] && !json_object_get(all, special[i]) && json_object_set_new(all, special[i], json_string(t)) != 0) {
            json_decref(all);
            all = NULL;
        }
    }
    if (!all) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the messages");
        goto done;
    }
    TDM_TRY(st, tdm_chat_render(l->chat, all, text, err), done);
    TDM_TRY(st, tdm_tokenizer_encode(l->tokenizer, text->data + from, text->len - from, false, ids, err), done);
done:
    json_decref(all);
    return st;
}

tdm_status tdm_language_text(const tdm_language *l, const int32_t *ids, int64_t count, tdm_text *text, tdm_error *err)
{
    return tdm_tokenizer_decode(l->tokenizer, ids, count, true, text, err);
}

void tdm_stops_init(tdm_stops *s, const tdm_language *l, const char *const *strings)
{
    *s = (tdm_stops){.l = l, .strings = strings};
    for (int64_t i = 0; strings && strings[i]; i++)
        if (strlen(strings[i]) > s->longest) s->longest = strlen(strings[i]);
}

void tdm_stops_fini(tdm_stops *s) { tdm_text_free(&s->tail); }

bool tdm_stops_hit(void *stops, const tdm_sequence *seq)
{
    tdm_stops *s = stops;
    tdm_error ignored = {0};
    /* a token is at least a byte of text, special ones aside: this many tokens hold any stop string that ends now */
    const int64_t tail = tdm_min_i64(seq->count - seq->turn, (int64_t)s->longest + 8);
    s->tail.len = 0;
    if (tdm_tokenizer_decode(s->l->tokenizer, seq->tokens + seq->count - tail, tail, false, &s->tail, &ignored) != TDM_OK) return false;
    for (int64_t i = 0; s->strings[i]; i++)
        if (s->tail.len >= strlen(s->strings[i]) && memmem(s->tail.data, s->tail.len, s->strings[i], strlen(s->strings[i]))) return true;
    return false;
}
