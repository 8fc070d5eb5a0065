/* What sets one family of models apart from the others, as facts. A family is one file of this folder; docs/architectures.md says how to
 * add one. What the facts cannot say is read by the family's own function. */
#ifndef TANDEM_MEMORY_ARCH_ARCH_H
#define TANDEM_MEMORY_ARCH_ARCH_H

#include "memory/json_read.h"
#include "memory/model_config.h"

/* What config.json says about sliding windows where it does not name every layer (layer_types). */
typedef enum tdm_arch_window {
    TDM_WINDOW_NONE,   /* no layer has one */
    TDM_WINDOW_ALL,    /* sliding_window: every layer */
    TDM_WINDOW_UPPER,  /* use_sliding_window, and max_window_layers: the layers from that one on */
    TDM_WINDOW_PATTERN /* sliding_window_pattern N: all but each N-th */
} tdm_arch_window;

struct tdm_arch {
    const char *model_type; /* of config.json */
    const char *class_name; /* in transformers, for a config.json that we write */
    const char *gguf;       /* general.architecture */
    /* Where config.json has no such key; what transformers' config class has. */
    int64_t context, head_dim; /* head_dim 0: hidden_size / num_attention_heads */
    double rope_theta, norm_eps;
    int64_t window;            /* 0: none */
    bool tied, kv_heads_needed;
    /* Keys that mean something in this family. */
    bool attention_bias, mlp_bias, partial_rotary, longrope;
    const char *activation; /* key of the FFN's activation */
    const char *activations[3]; /* what it may say; NULL-terminated */
    tdm_arch_window windows;
    int64_t window_pattern;
    double rope_local_theta; /* layers with a window turn by a base of their own; 0: by that of the others */
    /* What is computed. */
    tdm_glu glu;
    bool qkv_bias, qk_norm;
    bool experts;      /* FFNs are mixtures of experts, but for layers that config.json names */
    bool fused;        /* qkv_proj and gate_up_proj are one matrix each, and one module to an adapter */
    bool norm_one;     /* norms multiply with 1 + w; a GGUF holds that sum */
    bool scaled_embed; /* rows of the embedding times sqrt(D), which is rounded to BF16 */
    /* Norms of a layer: before attention, of its output, before the FFN, of its output; NULL: none. */
    const char *norm_attn, *norm_attn_out, *norm_ffn, *norm_ffn_out;
    bool gguf_interleaved; /* llama.cpp's converter interleaves the halves of each query and key head */
    /* Keys that no other family has, after all others were read; NULL: none. */
    tdm_status (*read)(tdm_model_config *c, const tdm_json_fields *f);
    tdm_status (*read_gguf)(tdm_model_config *c, const tdm_gguf *g, const char *where, tdm_error *err);
};

extern const tdm_arch tdm_arch_llama, tdm_arch_qwen2, tdm_arch_qwen3, tdm_arch_qwen3_moe, tdm_arch_mistral, tdm_arch_gemma3, tdm_arch_phi3;

/* NULL: not one of ours. */
const tdm_arch *tdm_arch_of_type(const char *model_type);
const tdm_arch *tdm_arch_of_gguf(const char *name, size_t bytes);

/* A checkpoint of several towers, of which ours is the one that reads and writes text: its config is text_config, its tensors stand under
 * model.language_model. (or language_model.model., as files before transformers 4.52 have it). */
typedef struct tdm_arch_towers {
    const char *model_type, *text_type;
    const tdm_arch *text;
} tdm_arch_towers;
const tdm_arch_towers *tdm_arch_towers_of(const char *model_type); /* NULL: not such a checkpoint */
/* The name that a model of the text tower alone would have for `stored`; false: a tensor of another tower. */
bool tdm_arch_tower_name(const char *stored, char *out, size_t out_bytes);

#endif
