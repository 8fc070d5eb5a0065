/* Qwen3-MoE: Qwen3 whose FFN is a mixture of experts, in all layers but those config.json names. Source: transformers, models/qwen3_moe. */
#include "memory/arch/arch.h"
#include "memory/gguf.h"

#include <inttypes.h>

#define BAD(f, ...) TDM_FAIL((f)->err, TDM_ERR_INPUT, (f)->where, "is config.json damaged?", __VA_ARGS__)

static tdm_status read_sparse(tdm_model_config *c, const tdm_json_fields *f)
{
    const json_t *list = tdm_json_get(f->object, "mlp_only_layers");
    int64_t step = 1;
    tdm_status st = tdm_json_int(f, "decoder_sparse_step", false, 1, TDM_LAYERS_MAX, &step);
    if (st != TDM_OK) return st;
    for (int64_t l = 0; l < c->layers; l++) c->sparse[l] = (l + 1) % step == 0;
    if (list && !json_is_array(list)) return BAD(f, "mlp_only_layers is not a list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v)) return BAD(f, "mlp_only_layers holds something that is not an integer");
        if (json_integer_value(v) >= 0 && json_integer_value(v) < c->layers) c->sparse[json_integer_value(v)] = false;
    }
    return TDM_OK;
}

static tdm_status read(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    /* num_local_experts is what newer versions of transformers save it as */
    TDM_TRY(st, tdm_json_int(f, "num_local_experts", false, 1, TDM_EXPERTS_MAX, &c->experts), done);
    TDM_TRY(st, tdm_json_int(f, "num_experts", c->experts == 0, 1, TDM_EXPERTS_MAX, &c->experts), done);
    TDM_TRY(st, tdm_json_int(f, "moe_intermediate_size", true, 1, 1 << 22, &c->expert_ffn), done);
    TDM_TRY(st, tdm_json_int(f, "num_experts_per_tok", true, 1, TDM_EXPERTS_USED_MAX, &c->experts_used), done);
    TDM_TRY(st, tdm_json_bool(f, "norm_topk_prob", &c->norm_topk), done);
    if (c->experts_used > c->experts)
        return BAD(f, "num_experts_per_tok is %" PRId64 ", there are %" PRId64 " experts", c->experts_used, c->experts);
    TDM_TRY(st, read_sparse(c, f), done);
done:
    return st;
}

/* llama.cpp has experts in every layer, and their weights add up to 1. */
static tdm_status read_gguf(tdm_model_config *c, const tdm_gguf *g, const char *where, tdm_error *err)
{
    const struct { const char *key; int64_t *to, most; } keys[] = {{"qwen3moe.expert_count", &c->experts, TDM_EXPERTS_MAX},
                                                                   {"qwen3moe.expert_used_count", &c->experts_used, TDM_EXPERTS_USED_MAX},
                                                                   {"qwen3moe.expert_feed_forward_length", &c->expert_ffn, 1 << 22}};
    for (size_t i = 0; i < TDM_COUNT(keys); i++)
        if (!tdm_gguf_int(g, keys[i].key, keys[i].to) || *keys[i].to < 1 || *keys[i].to > keys[i].most)
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "is the file damaged?", "%s is missing, or not from 1 to %" PRId64, keys[i].key, keys[i].most);
    if (c->experts_used > c->experts)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "is the file damaged?", "a token takes %" PRId64 " experts, there are %" PRId64, c->experts_used, c->experts);
    c->norm_topk = true;
    for (int64_t l = 0; l < c->layers; l++) c->sparse[l] = true;
    return TDM_OK;
}

const tdm_arch tdm_arch_qwen3_moe = {
    .model_type = "qwen3_moe",
    .class_name = "Qwen3MoeForCausalLM",
    .gguf = "qwen3moe",
    .context = 32768,
    .rope_theta = 10000,
    .norm_eps = 1e-6,
    .window = 4096,
    .kv_heads_needed = true,
    .attention_bias = true,
    .activation = "hidden_act",
    .activations = {"silu", "swish"},
    .windows = TDM_WINDOW_UPPER,
    .qk_norm = true,
    .experts = true,
    .norm_attn = "input_layernorm",
    .norm_ffn = "post_attention_layernorm",
    .read = read,
    .read_gguf = read_gguf,
};
