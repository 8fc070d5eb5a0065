/* Qwen3: each head of q and k is normalized. Source: transformers, models/qwen3. */
#include "memory/arch/arch.h"

const tdm_arch tdm_arch_qwen3 = {
    .model_type = "qwen3",
    .class_name = "Qwen3ForCausalLM",
    .gguf = "qwen3",
    .context = 32768,
    .head_dim = 128,
    .rope_theta = 10000,
    .norm_eps = 1e-6,
    .window = 4096,
    .kv_heads_needed = true,
    .attention_bias = true,
    .activation = "hidden_act",
    .activations = {"silu", "swish"},
    .windows = TDM_WINDOW_UPPER,
    .qk_norm = true,
    .norm_attn = "input_layernorm",
    .norm_ffn = "post_attention_layernorm",
};
