#include "runtime/run/example.h"

#include <string.h>

void tdm_example_free(tdm_example *x)
{
    tdm_ids_free(&x->ids);
    tdm_ids_free(&x->part);
    tdm_text_free(&x->text);
}

tdm_status tdm_example_chat(tdm_example *x, json_t *messages, size_t count, bool generation_prompt, tdm_ids *ids, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *some = json_array(), *vars = NULL;
    for (size_t i = 0; some && i < count; i++) json_array_append(some, json_array_get(messages, i));
    if (some) vars = json_pack("{s:O,s:b}", "messages", some, "add_generation_prompt", generation_prompt);
    if (!vars) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, x->where, "free host memory", "out of memory for an example");
        goto done;
    }
    x->text.len = 0;
    ids->count = 0;
    TDM_TRY(st, tdm_language_chat_ids(x->l, vars, &x->text, ids, err), done);
done:
    json_decref(some);
    json_decref(vars);
    return st;
}

tdm_status tdm_example_text(tdm_example *x, const json_t *prompt, const json_t *completion, tdm_ids *ids, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char *eos = tdm_tokenizer_special_text(x->l->tokenizer, "eos_token");
    const size_t eos_len = strlen(eos), n = json_string_length(completion);
    ids->count = 0;
    x->text.len = 0;
    if (prompt) TDM_TRY(st, tdm_text_append(&x->text, json_string_value(prompt), json_string_length(prompt), err), done);
    if (completion) {
        TDM_TRY(st, tdm_text_append(&x->text, json_string_value(completion), n, err), done);
        if (n < eos_len || memcmp(json_string_value(completion) + n - eos_len, eos, eos_len) != 0)
            TDM_TRY(st, tdm_text_append(&x->text, eos, eos_len, err), done);
    }
    TDM_TRY(st, tdm_tokenizer_encode(x->l->tokenizer, x->text.data, x->text.len, true, ids, err), done);
done:
    return st;
}
