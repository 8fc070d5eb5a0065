/* adapter_tool MODEL_DIR FROM TO [head]: opens a PEFT adapter (with a head) and saves it again, for check_peft.py. Only config.json of the model is read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/fs.h"
#include "memory/model_config.h"
#include "train/peft.h"

/* The shapes alone, without weights beside them: what tdm_peft_open needs of a model. */
static bool read_config(const char *dir, tdm_model_config *c)
{
    char path[TDM_PATH_BYTES];
    if (tdm_fs_join(path, dir, "config.json", NULL) != TDM_OK) return false;
    json_t *o = json_load_file(path, 0, NULL);
    *c = (tdm_model_config){0};
    c->layers = json_integer_value(json_object_get(o, "num_hidden_layers"));
    c->width = json_integer_value(json_object_get(o, "hidden_size"));
    c->ffn = json_integer_value(json_object_get(o, "intermediate_size"));
    c->heads = json_integer_value(json_object_get(o, "num_attention_heads"));
    c->kv_heads = json_integer_value(json_object_get(o, "num_key_value_heads"));
    c->head_dim = json_integer_value(json_object_get(o, "head_dim"));
    json_decref(o);
    if (c->head_dim == 0 && c->heads > 0) c->head_dim = c->width / c->heads;
    return c->layers > 0 && c->heads > 0;
}

int main(int argc, char **argv)
{
    tdm_error err = {0};
    tdm_model_config model;
    tdm_peft *p = NULL;
    int64_t count;
    const bool head = argc == 5 && strcmp(argv[4], "head") == 0;
    if (argc < 4 || (argc > 4 && !head) || !read_config(argv[1], &model)) {
        fputs("adapter_tool MODEL_DIR FROM TO [head]\n", stderr);
        return TDM_ERR_RECIPE;
    }
    tdm_status st = head ? tdm_peft_open_head(&p, argv[2], &model, &err) : tdm_peft_open(&p, argv[2], &model, &err);
    if (st == TDM_OK) {
        const tdm_peft_pair *pairs = tdm_peft_pairs(p, &count);
        st = tdm_peft_save(argv[3], tdm_peft_config_of(p), pairs, count, tdm_peft_head(p), &err);
    }
    if (st != TDM_OK) tdm_error_print(&err);
    tdm_peft_close(p);
    return (int)st;
}
