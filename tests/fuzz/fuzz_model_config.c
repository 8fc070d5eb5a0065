/* Any text as config.json: an error, or facts that hang together; its quantization_config likewise. */
#include "memory/fp8_checkpoint.h"
#include "memory/model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void read_fp8(const char *text, size_t bytes)
{
    tdm_error err = {0};
    tdm_fp8_checkpoint *q = NULL;
    tdm_fp8_module m;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(root) && tdm_fp8_checkpoint_read(&q, root, "fuzz", &err) == TDM_OK && q)
        (void)tdm_fp8_checkpoint_module(q, "model.layers.11.mlp.gate_proj", &m, &err);
    tdm_fp8_checkpoint_free(q);
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *text = (const char *)data;
    tdm_error err = {0};
    tdm_model_config c;
    if (bytes > 65536) return 0;
    if (tdm_model_config_parse(&c, text, bytes, text, bytes, "fuzz", &err) == TDM_OK) {
        float inv_freq[TDM_HEAD_DIM_MAX / 2];
        TDM_ASSERT(c.layers > 0 && c.heads % c.kv_heads == 0 && c.head_dim % 2 == 0 && c.head_dim <= TDM_HEAD_DIM_MAX);
        tdm_rope_inv_freq(&c, inv_freq);
    } else {
        TDM_ASSERT(err.what[0]);
    }
    read_fp8(text, bytes);
    return 0;
}
