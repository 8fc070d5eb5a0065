/* What a layer of a family is made of, and how transformers names it. */
#include "memory/arch/arch.h"
#include "memory/weights.h"

#include <inttypes.h>
#include <stdio.h>

const char *const tdm_proj_names[TDM_PROJ_COUNT] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                    "gate_proj", "up_proj", "down_proj"};

static void shape_of(const tdm_model_config *c, int64_t ffn, tdm_proj p, int64_t *n, int64_t *k)
{
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const bool fused = c->arch->fused;
    *k = p == TDM_PROJ_O ? q : p == TDM_PROJ_DOWN ? ffn : c->width;
    switch (p) {
    case TDM_PROJ_Q: *n = fused ? q + 2 * kv : q; return;
    case TDM_PROJ_K:
    case TDM_PROJ_V: *n = fused ? 0 : kv; return;
    case TDM_PROJ_O:
    case TDM_PROJ_DOWN: *n = c->width; return;
    case TDM_PROJ_GATE: *n = fused ? 2 * ffn : ffn; return;
    case TDM_PROJ_UP: *n = fused ? 0 : ffn; return;
    case TDM_PROJ_COUNT: break;
    }
    TDM_ASSERT(false && "one of the seven projections");
}

void tdm_proj_shape(const tdm_model_config *c, tdm_proj p, int64_t *n, int64_t *k) { shape_of(c, c->experts ? c->expert_ffn : c->ffn, p, n, k); }

void tdm_layer_proj_shape(const tdm_model_config *c, int64_t layer, tdm_proj p, int64_t *n, int64_t *k)
{
    shape_of(c, c->sparse[layer] ? c->expert_ffn : c->ffn, p, n, k);
}

int64_t tdm_proj_modules(const tdm_model_config *c, int64_t layer, tdm_proj p) { return p >= TDM_PROJ_GATE && c->sparse[layer] ? c->experts : 1; }

int64_t tdm_proj_widest(const tdm_model_config *c)
{
    int64_t most = 0, n, k;
    for (int64_t l = 0; l < c->layers; l++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            tdm_layer_proj_shape(c, l, (tdm_proj)p, &n, &k);
            most = tdm_max_i64(most, tdm_max_i64(n, k));
        }
    return most;
}

bool tdm_proj_bias(const tdm_model_config *c, tdm_proj p)
{
    return p <= TDM_PROJ_V ? c->qkv_bias : p == TDM_PROJ_O ? c->o_bias : c->mlp_bias;
}

const char *tdm_proj_path_of(bool fused, tdm_proj p)
{
    static const char *const paths[2][TDM_PROJ_COUNT] = {
        {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
        {"self_attn.qkv_proj", NULL, NULL, "self_attn.o_proj", "mlp.gate_up_proj", NULL, "mlp.down_proj"}};
    return paths[fused][p];
}

const char *tdm_proj_path(const tdm_model_config *c, tdm_proj p) { return tdm_proj_path_of(c->arch->fused, p); }

void tdm_module_name(const tdm_model_config *c, char out[TDM_MODULE_BYTES], int64_t layer, tdm_proj p)
{
    TDM_ASSERT(tdm_proj_path(c, p));
    snprintf(out, TDM_MODULE_BYTES, "model.layers.%" PRId64 ".%s", layer, tdm_proj_path(c, p));
}

void tdm_expert_name(const tdm_model_config *c, char out[TDM_MODULE_BYTES], int64_t layer, int64_t expert, tdm_proj p)
{
    if (p < TDM_PROJ_GATE || !c->sparse[layer]) {
        tdm_module_name(c, out, layer, p);
        return;
    }
    snprintf(out, TDM_MODULE_BYTES, "model.layers.%" PRId64 ".mlp.experts.%" PRId64 ".%s", layer, expert, tdm_proj_names[p]);
}

void tdm_router_name(char out[TDM_MODULE_BYTES], int64_t layer) { snprintf(out, TDM_MODULE_BYTES, "model.layers.%" PRId64 ".mlp.gate", layer); }

bool tdm_norm_name(const tdm_model_config *c, char out[TDM_MODULE_BYTES], int64_t layer, tdm_norm n, int64_t *cols)
{
    const tdm_arch *a = c->arch;
    const char *const names[TDM_NORM_COUNT] = {a->norm_attn,
                                               a->norm_attn_out,
                                               a->norm_ffn,
                                               a->norm_ffn_out,
                                               c->qk_norm ? "self_attn.q_norm" : NULL,
                                               c->qk_norm ? "self_attn.k_norm" : NULL};
    *cols = n >= TDM_NORM_Q ? c->head_dim : c->width;
    if (names[n]) snprintf(out, TDM_MODULE_BYTES, "model.layers.%" PRId64 ".%s", layer, names[n]);
    return names[n] != NULL;
}

tdm_cview *tdm_layer_norm(tdm_layer_weights *l, tdm_norm n)
{
    tdm_cview *const norms[TDM_NORM_COUNT] = {&l->norm_attn, &l->norm_attn_out, &l->norm_ffn, &l->norm_ffn_out, &l->norm_q, &l->norm_k};
    return norms[n];
}
