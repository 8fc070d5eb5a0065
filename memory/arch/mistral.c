/* Mistral 7B to Small: Llama with a window, and heads that need not add up to the model's width. llama.cpp calls it llama.
 * Source: transformers, models/mistral. */
#include "memory/arch/arch.h"

const tdm_arch tdm_arch_mistral = {
    .model_type = "mistral",
    .class_name = "MistralForCausalLM",
    .context = 4096 * 32,
    .rope_theta = 10000,
    .norm_eps = 1e-6,
    .window = 4096,
    .kv_heads_needed = true,
    .activation = "hidden_act",
    .activations = {"silu", "swish"},
    .windows = TDM_WINDOW_ALL,
    .norm_attn = "input_layernorm",
    .norm_ffn = "post_attention_layernorm",
};
