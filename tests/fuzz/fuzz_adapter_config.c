/* adapter_config.json: an accepted one is within its bounds, and what is written from it is accepted and says the same. */
#include <stdlib.h>
#include <string.h>

#include "train/peft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tdm_peft_config c = {0}, again = {0};
    bool resolve, some;
    tdm_error err = {0};
    if (tdm_peft_config_parse(&c, &resolve, &some, (const char *)data, size, "adapter_config.json", &err) != TDM_OK) {
        if (err.what[0] == 0) abort();
        return 0;
    }
    if (c.rank < 1 || c.rank > TDM_PEFT_MAX_RANK || !(c.dropout >= 0 && c.dropout <= 1)) abort();
    json_t *o = tdm_peft_config_json(&c);
    char *text = o ? json_dumps(o, JSON_REAL_PRECISION(17)) : NULL;
    if (!text) abort();
    if (!resolve) {
        if (tdm_peft_config_parse(&again, &resolve, &some, text, strlen(text), "adapter_config.json", &err) != TDM_OK) abort();
        if (again.rank != c.rank || again.alpha != c.alpha || again.rslora != c.rslora || memcmp(again.targets, c.targets, sizeof c.targets) != 0 ||
            strcmp(again.base_model, c.base_model) != 0)
            abort();
    }
    free(text);
    json_decref(o);
    return 0;
}
