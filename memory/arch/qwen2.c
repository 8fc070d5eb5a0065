/* Qwen2 and Qwen2.5: biases on q, k and v, which config.json does not mention. Source: transformers, models/qwen2. */
#include "memory/arch/arch.h"

const tdm_arch tdm_arch_qwen2 = {
    .model_type = "qwen2",
    .class_name = "Qwen2ForCausalLM",
    .gguf = "qwen2",
    .context = 32768,
    .rope_theta = 10000,
    .norm_eps = 1e-6,
    .window = 4096,
    .kv_heads_needed = true,
    .activation = "hidden_act",
    .activations = {"silu", "swish"},
    .windows = TDM_WINDOW_UPPER,
    .qkv_bias = true,
    .norm_attn = "input_layernorm",
    .norm_ffn = "post_attention_layernorm",
};
