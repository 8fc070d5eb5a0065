/* Any bytes as a safetensors file: an error, or tensors that lie inside them. */
#include "memory/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    tdm_error err = {0};
    tdm_safetensors *f;
    if (tdm_safetensors_parse(&f, data, bytes, "fuzz", &err) != TDM_OK) {
        TDM_ASSERT(!f && err.what[0]);
        return 0;
    }
    for (int64_t i = 0; i < tdm_safetensors_count(f); i++) {
        const tdm_st_tensor *t = tdm_safetensors_at(f, i);
        const uint8_t *p = t->data;
        TDM_ASSERT(tdm_safetensors_find(f, t->name) == t);
        TDM_ASSERT(p >= data && t->bytes <= (size_t)(data + bytes - p));
    }
    (void)tdm_safetensors_metadata(f, "format");
    tdm_safetensors_close(f);
    return 0;
}
