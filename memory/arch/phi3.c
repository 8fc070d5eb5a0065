/* Phi-3 and Phi-4-mini: q, k, v and gate, up are one matrix each; a part of each head turns; frequencies are divided by one list of factors
 * up to the length the model was trained for and by another beyond it. Source: transformers, models/phi3. */
#include "memory/arch/arch.h"

const tdm_arch tdm_arch_phi3 = {
    .model_type = "phi3",
    .class_name = "Phi3ForCausalLM",
    .gguf = "phi3",
    .context = 4096,
    .rope_theta = 10000,
    .norm_eps = 1e-5,
    .partial_rotary = true,
    .longrope = true,
    .activation = "hidden_act",
    .activations = {"silu", "swish"},
    .windows = TDM_WINDOW_ALL,
    .fused = true,
    .norm_attn = "input_layernorm",
    .norm_ffn = "post_attention_layernorm",
};
