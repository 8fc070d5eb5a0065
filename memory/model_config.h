/* The facts of a model, read from config.json or GGUF metadata. An architecture or a feature we do not compute is refused by name. */
#ifndef TANDEM_MEMORY_MODEL_CONFIG_H
#define TANDEM_MEMORY_MODEL_CONFIG_H

#include "kernels/ops.h"

typedef enum tdm_arch { TDM_ARCH_LLAMA, TDM_ARCH_QWEN2, TDM_ARCH_QWEN3, TDM_ARCH_MISTRAL } tdm_arch;
typedef enum tdm_rope_kind {
    TDM_ROPE_PLAIN,
    TDM_ROPE_LINEAR,
    TDM_ROPE_LLAMA3,
    TDM_ROPE_FACTORS /* GGUF: llama.cpp stores llama3's scaling as one divisor per frequency */
} tdm_rope_kind;
enum { TDM_HEAD_DIM_MAX = 512 };

typedef struct tdm_model_config {
    tdm_arch arch;
    char model_type[32];              /* "llama", "qwen2", "qwen3", "mistral" as config.json names it */
    int64_t layers, width, ffn, heads, kv_heads, head_dim, vocab, context; /* L, D, F, H, Hkv, Dh, V, max_position_embeddings */
    float norm_eps;
    double rope_theta;
    tdm_rope_kind rope;
    double rope_factor, rope_low_freq, rope_high_freq; /* linear and llama3 */
    int64_t rope_original_context;
    float rope_factors[TDM_HEAD_DIM_MAX / 2];          /* TDM_ROPE_FACTORS: inv_freq[i] is divided by rope_factors[i] */
    bool qkv_bias, qk_norm, tied_head; /* Qwen2; Qwen3; lm_head is the embedding */
    bool o_bias, mlp_bias;             /* llama's attention_bias also puts one on o_proj; mlp_bias */
    int64_t window;                    /* sliding window in positions; 0: none */
    int64_t window_first_layer;        /* Qwen2's max_window_layers: layers from this one on have the window; 0 otherwise */
    int32_t bos, eos[8];               /* -1: none; eos: from generation_config.json too, or tokenizer.ggml.eos_token_id */
    int eos_count;
} tdm_model_config;

/* Reads folder/config.json and, where it exists, folder/generation_config.json. A missing field gets the default transformers has for the
 * model type, a field out of range or a feature that is not computed is TDM_ERR_INPUT and named. */
tdm_status tdm_model_config_read(tdm_model_config *c, const char *folder, tdm_error *err);
/* The same from texts; generation NULL: none. `where` names the config in errors. */
tdm_status tdm_model_config_parse(tdm_model_config *c, const char *config, size_t config_bytes, const char *generation,
                                  size_t generation_bytes, const char *where, tdm_error *err);
/* From GGUF metadata and the names of its tensors. */
struct tdm_gguf;
tdm_status tdm_model_config_from_gguf(tdm_model_config *c, const struct tdm_gguf *g, const char *where, tdm_error *err);

/* inv_freq[i], i < head_dim / 2, in f32 as transformers computes them (modeling_rope_utils.py). */
void tdm_rope_inv_freq(const tdm_model_config *c, float *inv_freq);

#endif
