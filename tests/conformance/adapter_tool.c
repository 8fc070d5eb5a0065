/* adapter_tool MODEL_DIR FROM TO [head]: opens a PEFT adapter (with a head) and saves it again, for check_peft.py. Only config.json of the model is read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/model_config.h"
#include "train/peft.h"

int main(int argc, char **argv)
{
    tdm_error err = {0};
    tdm_model_config model;
    tdm_peft *p = NULL;
    int64_t count;
    const bool head = argc == 5 && strcmp(argv[4], "head") == 0;
    if (argc < 4 || (argc > 4 && !head) || tdm_model_config_read(&model, argv[1], &err) != TDM_OK) {
        fprintf(stderr, "adapter_tool MODEL_DIR FROM TO [head] %s\n", err.what);
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
