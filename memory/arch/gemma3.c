/* Gemma 3: five layers of six look back a window's length and turn by a base of their own; norms before and after attention and FFN, which
 * multiply with 1 + w; the gate is a GELU; rows of the embedding are scaled. Source: transformers, models/gemma3; ggml-org/llama.cpp,
 * src/llama-model.cpp (LLM_ARCH_GEMMA3). */
#include "memory/arch/arch.h"
#include "memory/gguf.h"

#include <math.h>

#define REFUSE(...) TDM_FAIL(f->err, TDM_ERR_INPUT, f->where, "use a model without it", __VA_ARGS__)

static tdm_status read(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    static const char *const caps[] = {"final_logit_softcapping", "attn_logit_softcapping"};
    double scalar = 256;
    bool both_ways = false;
    for (size_t i = 0; i < TDM_COUNT(caps); i++)
        if (tdm_json_get(f->object, caps[i])) return REFUSE("%s is not supported", caps[i]);
    TDM_TRY(st, tdm_json_bool(f, "use_bidirectional_attention", &both_ways), done);
    if (both_ways) return REFUSE("use_bidirectional_attention is not supported");
    TDM_TRY(st, tdm_json_real(f, "query_pre_attn_scalar", false, 1e-6, 1e6, &scalar), done);
    c->attention_scale = (float)pow(scalar, -0.5);
done:
    return st;
}

/* llama.cpp knows the 27B, whose queries are scaled by another width than their own, by its number of layers. */
static tdm_status read_gguf(tdm_model_config *c, const tdm_gguf *g, const char *where, tdm_error *err)
{
    (void)g, (void)where, (void)err;
    c->attention_scale = (float)pow((double)(c->layers == 62 ? c->width / c->heads : c->head_dim), -0.5);
    return TDM_OK;
}

const tdm_arch tdm_arch_gemma3 = {
    .model_type = "gemma3_text",
    .class_name = "Gemma3ForCausalLM",
    .gguf = "gemma3",
    .context = 131072,
    .head_dim = 256,
    .rope_theta = 1000000,
    .norm_eps = 1e-6,
    .window = 4096,
    .tied = true,
    .kv_heads_needed = true,
    .attention_bias = true,
    .activation = "hidden_activation",
    .activations = {"gelu_pytorch_tanh"},
    .windows = TDM_WINDOW_PATTERN,
    .window_pattern = 6,
    .rope_local_theta = 10000,
    .glu = TDM_GLU_GELU_TANH,
    .qk_norm = true,
    .norm_one = true,
    .scaled_embed = true,
    .norm_attn = "input_layernorm",
    .norm_attn_out = "post_attention_layernorm",
    .norm_ffn = "pre_feedforward_layernorm",
    .norm_ffn_out = "post_feedforward_layernorm",
    .read = read,
    .read_gguf = read_gguf,
};
