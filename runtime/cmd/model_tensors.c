#include "runtime/cmd/model_tensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/arch/arch.h"

static tdm_st_dtype st_dtype(tdm_dtype d)
{
    TDM_ASSERT(d == TDM_DTYPE_F32 || d == TDM_DTYPE_BF16 || d == TDM_DTYPE_E4M3);
    return d == TDM_DTYPE_F32 ? TDM_ST_F32 : d == TDM_DTYPE_BF16 ? TDM_ST_BF16 : TDM_ST_E4M3;
}

/* One tensor [rows, cols], or [cols] of rank 1. */
static tdm_st_entry *add(tdm_model_tensors *t, const char *module, const char *part, tdm_cview v, int rank)
{
    tdm_st_entry *e = &t->entry[t->count];
    TDM_ASSERT_EQ(v.stride, v.cols);
    snprintf(t->name[t->count], sizeof *t->name, "%s.%s", module, part);
    *e = (tdm_st_entry){.name = t->name[t->count],
                        .dtype = st_dtype(v.dtype),
                        .rank = rank,
                        .shape = {rank == 2 ? v.rows : v.cols, v.cols},
                        .data = v.data};
    t->of[t->count++] = (tdm_model_tensor){NULL, -1, TDM_PROJ_COUNT, 0};
    return e;
}

/* An f32 norm holds 1 + w. What it is of w in BF16 comes back: the difference is exact where w is not far below f32's last place of 1, and
 * there any w makes the same sum. */
static void add_vector(tdm_model_tensors *t, const char *module, tdm_cview v)
{
    if (!v.data) return;
    if (v.dtype == TDM_DTYPE_F32) {
        uint16_t *w = t->norms + t->norm_values;
        for (int64_t i = 0; i < v.cols; i++) w[i] = tdm_f32_to_bf16(((const float *)v.data)[i] - 1.0f);
        t->norm_values += v.cols;
        v = (tdm_cview){w, TDM_DTYPE_BF16, 1, v.cols, v.cols};
    }
    add(t, module, "weight", v, 1);
}

static void add_projection(tdm_model_tensors *t, const tdm_model_config *c, const tdm_weight *w, int64_t layer, tdm_proj proj,
                           int64_t expert, const char *scale_name)
{
    char module[TDM_TENSOR_NAME_BYTES];
    if (w->codes.rows == 0) return;
    tdm_expert_name(c, module, layer, expert, proj);
    tdm_cview codes = w->codes;
    if (!scale_name) codes = (tdm_cview){NULL, TDM_DTYPE_BF16, w->codes.rows, w->codes.cols, w->codes.cols};
    const int64_t at = t->count;
    add(t, module, "weight", codes, 2);
    t->of[at] = (tdm_model_tensor){w, layer, proj, expert};
    if (w->bias.data) add(t, module, "bias", w->bias, 1);
    if (!scale_name || w->scheme == TDM_SCHEME_BF16) return;
    add(t, module, scale_name, w->scale, w->scheme == TDM_SCHEME_FP8_TENSOR ? 1 : 2);
    if (w->act != TDM_ACT_STATIC) return;
    float *scale = &t->input_scale[layer][proj];
    *scale = w->input_scale;
    add(t, module, "input_scale", (tdm_cview){scale, TDM_DTYPE_F32, 1, 1, 1}, 1);
}

/* The embedding or the head: what is FP8 is made BF16 again by the caller, as merged projections are. */
static void add_rows(tdm_model_tensors *t, const char *module, const tdm_weight *w)
{
    const bool bf16 = w->scheme == TDM_SCHEME_BF16;
    add(t, module, "weight", bf16 ? w->codes : (tdm_cview){NULL, TDM_DTYPE_BF16, w->codes.rows, w->codes.cols, w->codes.cols}, 2);
    if (!bf16) t->of[t->count - 1].w = w;
}

static void add_layer(tdm_model_tensors *t, const tdm_model_config *c, const tdm_layer_weights *l, int64_t i, const char *scale_name)
{
    char module[TDM_TENSOR_NAME_BYTES];
    int64_t cols;
    for (int p = 0; p < TDM_PROJ_COUNT; p++)
        for (int64_t e = 0; e < tdm_proj_modules(c, i, (tdm_proj)p); e++)
            add_projection(t, c, tdm_layer_matrix(l, (tdm_proj)p, e), i, (tdm_proj)p, e, scale_name);
    if (c->sparse[i]) {
        tdm_router_name(module, i);
        add(t, module, "weight", l->router.codes, 2);
    }
    for (int n = 0; n < TDM_NORM_COUNT; n++)
        if (tdm_norm_name(c, module, i, (tdm_norm)n, &cols)) add_vector(t, module, *tdm_layer_norm((tdm_layer_weights *)(uintptr_t)l, (tdm_norm)n));
}

/* Names and shapes as compressed-tensors has them. */
static void add_kv_scales(tdm_model_tensors *t, const tdm_layer_weights *l, int64_t i)
{
    static const char *const names[] = {"k_scale", "v_scale"};
    char module[TDM_TENSOR_NAME_BYTES];
    snprintf(module, sizeof module, "model.layers.%" PRId64 ".self_attn", i);
    t->kv_scale[i][0] = l->k_scale;
    t->kv_scale[i][1] = l->v_scale;
    for (int n = 0; n < 2; n++) add(t, module, names[n], (tdm_cview){&t->kv_scale[i][n], TDM_DTYPE_F32, 1, 1, 1}, 1);
}

tdm_status tdm_model_tensors_make(tdm_model_tensors *t, const tdm_weights *w, const char *scale_name, bool kv, tdm_error *err)
{
    const tdm_model_config *c = tdm_weights_config(w);
    const size_t most = (size_t)(c->layers * (4 * TDM_PROJ_COUNT + TDM_NORM_COUNT + 2 + 12 * c->experts + 1)) + 3;
    *t = (tdm_model_tensors){.entry = calloc(most, sizeof *t->entry),
                             .of = calloc(most, sizeof *t->of),
                             .name = calloc(most, sizeof *t->name),
                             .input_scale = calloc((size_t)c->layers, sizeof *t->input_scale),
                             .kv_scale = calloc((size_t)c->layers, sizeof *t->kv_scale)};
    if (c->arch->norm_one) t->norms = calloc((size_t)(c->layers * (4 * c->width + 2 * c->head_dim) + c->width), sizeof *t->norms);
    if (!t->entry || !t->of || !t->name || !t->input_scale || !t->kv_scale || (c->arch->norm_one && !t->norms)) {
        tdm_model_tensors_free(t);
        return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the names of %zu tensors",
                        most);
    }
    add_rows(t, "model.embed_tokens", tdm_weights_embedding(w));
    for (int64_t i = 0; i < c->layers; i++) add_layer(t, c, tdm_weights_layer(w, i), i, scale_name);
    for (int64_t i = 0; kv && i < c->layers; i++) add_kv_scales(t, tdm_weights_layer(w, i), i);
    add_vector(t, "model.norm", tdm_weights_final_norm(w));
    if (!c->tied_head) add_rows(t, "lm_head", tdm_weights_head(w));
    TDM_ASSERT(t->count <= (int64_t)most);
    return TDM_OK;
}

void tdm_model_tensors_free(tdm_model_tensors *t)
{
    free(t->entry);
    free(t->of);
    free(t->name);
    free(t->input_scale);
    free(t->kv_scale);
    free(t->norms);
    *t = (tdm_model_tensors){0};
}
