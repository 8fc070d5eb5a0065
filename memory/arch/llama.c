/* Llama 1 to 3.3 and what shares its code: SmolLM2, TinyLlama. Source: transformers, models/llama. */
#include "memory/arch/arch.h"

const tdm_arch tdm_arch_llama = {
    .model_type = "llama",
    .class_name = "LlamaForCausalLM",
    .gguf = "llama",
    .context = 2048,
    .rope_theta = 10000,
    .norm_eps = 1e-6,
    .attention_bias = true,
    .mlp_bias = true,
    .activation = "hidden_act",
    .activations = {"silu", "swish"},
    .norm_attn = "input_layernorm",
    .norm_ffn = "post_attention_layernorm",
    .gguf_interleaved = true,
};
