#include "runtime/cmd/tokenizer_out.h"

#include "runtime/text/tokenizer.h"

/* What transformers and vLLM look for beside the weights. */
static const char *const files[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",     "tokenizer.model",       "chat_template.jinja",     "chat_template.json"};

static tdm_status copy_all(const tdm_model_out *o, const char *from, bool *any, tdm_error *err)
{
    tdm_status st = TDM_OK;
    *any = false;
    for (size_t i = 0; i < TDM_COUNT(files); i++) {
        bool copied;
        TDM_TRY(st, tdm_model_out_copy(o, from, files[i], &copied, err), done);
        if (i == 0) *any = copied;
    }
done:
    return st;
}

tdm_status tdm_tokenizer_write(const tdm_model_out *o, const tdm_model_file *f, const char *folder, tdm_error *err)
{
    tdm_status st = TDM_OK;
    bool any;
    json_t *tokenizer = NULL, *config = NULL; /* owned here */
    tdm_tokenizer *opened = NULL;             /* owned here */
    const tdm_gguf *g = tdm_model_file_gguf(f);
    if (folder) {
        TDM_TRY(st, copy_all(o, folder, &any, err), done);
        if (!any)
            st = TDM_FAIL(err, TDM_ERR_RECIPE, folder, "name the folder of the original model",
                          "the folder has no tokenizer.json");
    } else if (!g) {
        st = copy_all(o, tdm_model_file_path(f), &any, err);
    } else {
        TDM_TRY(st, tdm_tokenizer_json(g, tdm_model_file_path(f), &tokenizer, &config, err), done);
        TDM_TRY(st, tdm_model_out_json(o, "tokenizer.json", tokenizer, err), done);
        TDM_TRY(st, tdm_model_out_json(o, "tokenizer_config.json", config, err), done);
        TDM_TRY(st, tdm_tokenizer_open(&opened, o->tmp, NULL, err),
                done); /* a damaged GGUF shows here, not in another program */
    }
done:
    tdm_tokenizer_close(opened);
    json_decref(config);
    json_decref(tokenizer);
    return st;
}
