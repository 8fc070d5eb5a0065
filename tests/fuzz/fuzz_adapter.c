/* adapter_config.json, a zero byte, adapter_model.safetensors: an error, or pairs of finite matrices of the model's shapes. */
#include <math.h>

#include "fuzz_files.h"
#include "train/peft.h"

static const char model_config[] =
    "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":32,\"hidden_size\":8,\"intermediate_size\":16,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,\"max_position_embeddings\":64,"
    "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"tie_word_embeddings\":true,\"hidden_act\":\"silu\"}";

static void check(tdm_cview v, int64_t rows, int64_t cols)
{
    if (v.rows != rows || v.cols != cols || v.stride < cols || (v.dtype != TDM_DTYPE_F32 && v.dtype != TDM_DTYPE_BF16)) abort();
    for (int64_t i = 0; i < rows * cols; i++) {
        float f = 0;
        uint16_t half;
        if (v.dtype == TDM_DTYPE_F32) memcpy(&f, (const char *)v.data + 4 * i, 4);
        else {
            memcpy(&half, (const char *)v.data + 2 * i, 2);
            const uint32_t bits = (uint32_t)half << 16;
            memcpy(&f, &bits, 4);
        }
        if (!isfinite(f)) abort();
    }
}

static void leave(void)
{
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", ""};
    fuzz_folder_remove(names, 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tdm_model_config model;
    fuzz_piece rest = {(const char *)data, size}, config = fuzz_next(&rest);
    tdm_error err = {0};
    tdm_peft *p = NULL;
    if (!model.layers) {
        if (tdm_model_config_parse(&model, model_config, sizeof model_config - 1, NULL, 0, "fuzz", &err) != TDM_OK) abort();
        atexit(leave);
    }
    fuzz_put("adapter_config.json", config);
    fuzz_put("adapter_model.safetensors", rest);
    if (tdm_peft_open(&p, fuzz_folder(), &model, &err) == TDM_OK || (err = (tdm_error){0}, tdm_peft_open_head(&p, fuzz_folder(), &model, &err)) == TDM_OK) {
        int64_t count = 0, n, k;
        const tdm_peft_pair *pairs = tdm_peft_pairs(p, &count);
        const int64_t rank = tdm_peft_config_of(p)->rank;
        if (tdm_peft_head(p).data) check(tdm_peft_head(p), 1, model.width);
        if (count < 1 || !isfinite(tdm_peft_scaling(tdm_peft_config_of(p)))) abort();
        for (int64_t i = 0; i < count; i++) {
            tdm_proj_shape(&model, pairs[i].proj, &n, &k);
            check(pairs[i].a, rank, k);
            check(pairs[i].b, n, rank);
        }
    } else if (err.what[0] == 0 || p) abort();
    tdm_peft_close(p);
    return 0;
}
