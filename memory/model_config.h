/* The facts of a model, read from config.json or GGUF metadata. An architecture or a feature we do not compute is refused by name. */
#ifndef TANDEM_MEMORY_MODEL_CONFIG_H
#define TANDEM_MEMORY_MODEL_CONFIG_H

#include "kernels/ops.h"

typedef struct tdm_arch tdm_arch; /* memory/arch/arch.h */
typedef struct tdm_gguf tdm_gguf;
typedef enum tdm_rope_kind {
    TDM_ROPE_PLAIN,
    TDM_ROPE_LINEAR,
    TDM_ROPE_LLAMA3,
    TDM_ROPE_FACTORS, /* GGUF: llama.cpp stores llama3's scaling as one divisor per frequency */
    TDM_ROPE_LONG     /* Phi: one list of divisors up to rope_original_context, another beyond it */
} tdm_rope_kind;
enum { TDM_HEAD_DIM_MAX = 512, TDM_LAYERS_MAX = 4096 };

typedef struct tdm_model_config {
    const tdm_arch *arch;
    char model_type[32];              /* "llama", "gemma3_text": as the config of the model of text names it */
    bool towers;                      /* one tower of several in its checkpoint: modules stand under model.language_model. */
    int64_t layers, width, ffn, heads, kv_heads, head_dim, vocab, context; /* L, D, F, H, Hkv, Dh, V, max_position_embeddings */
    float norm_eps;
    float attention_scale;            /* of scores; 0: 1 / sqrt(Dh) */
    double rope_theta, rope_local_theta; /* local: of layers with a window, without scaling; 0: as the others */
    tdm_rope_kind rope;
    int64_t rope_dim;                 /* dimensions of a head that turn, the first ones; 0: all */
    double rope_factor, rope_low_freq, rope_high_freq; /* linear and llama3 */
    int64_t rope_original_context;
    float rope_attention;             /* TDM_ROPE_LONG: cosines and sines are multiplied by it */
    float rope_factors[TDM_HEAD_DIM_MAX / 2];          /* TDM_ROPE_FACTORS, TDM_ROPE_LONG: inv_freq[i] is divided by rope_factors[i] */
    float rope_long_factors[TDM_HEAD_DIM_MAX / 2];     /* TDM_ROPE_LONG: where a run's longest sequence is beyond rope_original_context */
    bool qkv_bias, qk_norm, tied_head; /* Qwen2; Qwen3; lm_head is the embedding */
    bool o_bias, mlp_bias;             /* llama's attention_bias also puts one on o_proj; mlp_bias */
    tdm_glu glu;
    int64_t window;                    /* of the layers that have one, in positions; 0: none has */
    bool sliding[TDM_LAYERS_MAX];      /* layers with a window */
    int64_t experts, experts_used, expert_ffn; /* of layers whose FFN is a mixture: how many, how many a token takes, F of one; 0: no layer's is */
    bool norm_topk;                    /* weights of the experts a token takes add up to 1 */
    bool sparse[TDM_LAYERS_MAX];       /* layers whose FFN is a mixture of experts */
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
tdm_status tdm_model_config_from_gguf(tdm_model_config *c, const tdm_gguf *g, const char *where, tdm_error *err);

/* Some layer's FFN is not a mixture of experts: ffn is its width. */
bool tdm_has_dense_ffn(const tdm_model_config *c);
/* Columns that a token's FFN activations take at most: those of all the experts it takes, one after the other. */
int64_t tdm_ffn_columns(const tdm_model_config *c);

/* Dimensions of a head that turn. */
int64_t tdm_rope_dim(const tdm_model_config *c);
/* inv_freq[i], i < tdm_rope_dim / 2, in f32 as transformers computes them (modeling_rope_utils.py), of layers without a window and sequences
 * that are not beyond rope_original_context. */
void tdm_rope_inv_freq(const tdm_model_config *c, float *inv_freq);
/* The same of a run whose longest sequence has `positions`, and of layers with a window. */
void tdm_rope_inv_freq_of(const tdm_model_config *c, bool sliding, int64_t positions, float *inv_freq);

#endif
