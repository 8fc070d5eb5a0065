#include "memory/weights_plan.h"
#include "memory/arch/arch.h"
#include "memory/fp8_checkpoint.h"
#include "memory/module_patterns.h"
#include "memory/weights_source.h"

#include "kernels/parallel.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

static const char embedding_module[] = "model.embed_tokens", head_module[] = "lm_head";

/* The next `bytes` of the region. Dimensions are bounded where the config is read, so sums stay far inside size_t. */
static size_t reserve(tdm_weights_plan *p, size_t bytes)
{
    const size_t at = p->bytes;
    p->bytes += tdm_align_up(bytes, ALIGN);
    return at;
}

static tdm_cview shape_of(tdm_dtype dtype, int64_t rows, int64_t cols)
{
    return (tdm_cview){NULL, dtype, rows, cols, cols};
}

static size_t view_bytes(const tdm_cview *v) { return (size_t)v->rows * (size_t)v->cols * tdm_dtype_bytes(v->dtype); }

static void shape_scale(tdm_weight *w, int64_t n, int64_t k)
{
    switch (w->scheme) {
    case TDM_SCHEME_BF16: return;
    case TDM_SCHEME_FP8_TENSOR: w->scale = shape_of(TDM_DTYPE_F32, 1, 1); return;
    case TDM_SCHEME_FP8_CHANNEL: w->scale = shape_of(TDM_DTYPE_F32, n, 1); return;
    case TDM_SCHEME_FP8_BLOCK:
        w->scale = shape_of(TDM_DTYPE_F32, tdm_ceil_div(n, TDM_FP8_BLOCK), tdm_ceil_div(k, TDM_FP8_BLOCK));
        return;
    }
}

static tdm_status plan_vector(tdm_weights_plan *p, tdm_cview *v, const char *name, int64_t cols, tdm_error *err)
{
    tdm_vector_plan *plan = &p->vectors[p->vector_count++];
    plan->v = v;
    *v = shape_of(p->w->config.arch->norm_one ? TDM_DTYPE_F32 : TDM_DTYPE_BF16, 1, cols);
    plan->one = v->dtype == TDM_DTYPE_F32 && !tdm_model_file_gguf(p->file);
    plan->at = reserve(p, view_bytes(v));
    return tdm_weights_source(p, name, 0, cols, &plan->t, err);
}

/* from: what its values are; NULL: the module's own tensor. */
static tdm_status plan_matrix_of(tdm_weights_plan *p, tdm_weight *w, const tdm_tensor *from, const char *module, int64_t layer, int64_t n,
                                 int64_t k, bool bias, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char name[256];
    tdm_matrix_plan *m = &p->matrices[p->matrix_count++];
    m->w = w;
    snprintf(name, sizeof name, "%s.weight", module);
    m->weight = from;
    if (!from) TDM_TRY(st, tdm_weights_source(p, name, n, k, &m->weight, err), done);
    TDM_TRY(st, tdm_weights_scheme(p, m, module, layer, err), done);
    w->codes = shape_of(w->scheme == TDM_SCHEME_BF16 ? TDM_DTYPE_BF16 : TDM_DTYPE_E4M3, n, k);
    shape_scale(w, n, k);
    if (!bias) goto done;
    snprintf(name, sizeof name, "%s.bias", module);
    TDM_TRY(st, tdm_weights_source(p, name, 0, n, &m->bias, err), done);
    w->bias = shape_of(TDM_DTYPE_BF16, 1, n);
done:
    return st;
}

static tdm_status plan_matrix(tdm_weights_plan *p, tdm_weight *w, const char *module, int64_t layer, int64_t n,
                              int64_t k, bool bias, tdm_error *err)
{
    return plan_matrix_of(p, w, NULL, module, layer, n, k, bias, err);
}

/* Room for the last `count` matrices planned: all codes, then all scales, then all biases. */
static void reserve_group(tdm_weights_plan *p, int count)
{
    tdm_matrix_plan *m = p->matrices + p->matrix_count - count;
    for (int i = 0; i < count; i++) m[i].codes_at = reserve(p, view_bytes(&m[i].w->codes));
    for (int i = 0; i < count; i++) m[i].scale_at = reserve(p, view_bytes(&m[i].w->scale));
    for (int i = 0; i < count; i++) m[i].bias_at = reserve(p, view_bytes(&m[i].w->bias));
}

static tdm_status plan_projections(tdm_weights_plan *p, int64_t layer, tdm_proj first, int count, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model_config *c = &p->w->config;
    char module[TDM_MODULE_BYTES];
    int planned = 0;
    for (int i = 0; i < count; i++) {
        const tdm_proj proj = (tdm_proj)((int)first + i);
        int64_t n, k;
        tdm_layer_proj_shape(c, layer, proj, &n, &k);
        if (n == 0) continue;
        tdm_module_name(c, module, layer, proj);
        TDM_TRY(st, plan_matrix(p, &p->w->layers[layer].proj[proj], module, layer, n, k, tdm_proj_bias(c, proj), err), done);
        planned++;
    }
    reserve_group(p, planned);
done:
    return st;
}

/* Of the expert its part of a tensor that holds all of them: gate_up_proj [E, 2 F, D], gate above up, and down_proj [E, D, F], or in a GGUF one
 * for each projection. Absent: it is not stored so. */
static tdm_status slice_expert(tdm_weights_plan *p, int64_t layer, int64_t expert, tdm_proj proj, const tdm_tensor **out, tdm_error *err)
{
    char name[TDM_MODULE_BYTES], where[512];
    const tdm_model_config *c = &p->w->config;
    const bool both = proj != TDM_PROJ_DOWN && !tdm_model_file_gguf(p->file);
    int64_t n, k;
    size_t row;
    *out = NULL;
    snprintf(name, sizeof name, "model.layers.%" PRId64 ".mlp.experts.%s%s", layer, both ? "gate_up_proj" : tdm_proj_names[proj],
             tdm_model_file_gguf(p->file) ? ".weight" : "");
    const tdm_tensor *t = tdm_model_file_find(p->file, name);
    if (!t) return TDM_OK;
    tdm_layer_proj_shape(c, layer, proj, &n, &k);
    const int64_t rows = both ? 2 * n : n;
    tdm_tensor_where(t, where, sizeof where);
    if (t->rank != 3 || t->shape[0] != c->experts || t->shape[1] != rows || t->shape[2] != k)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "is the config of another model?", "the shape is not [%" PRId64 ", %" PRId64 ", %" PRId64 "]",
                        c->experts, rows, k);
    if (!tdm_elem_is_float(t->elem))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "use a checkpoint that names each expert, or the unquantized model", "all experts' %s in one tensor", t->type);
    p->used[t - tdm_model_file_at(p->file, 0)] = true;
    (void)tdm_tensor_row(t, 0, &row);
    tdm_tensor *slice = &p->slices[p->slice_count++];
    *slice = *t;
    slice->rank = 2;
    slice->shape[0] = n;
    slice->shape[1] = k;
    slice->bytes = (size_t)n * row;
    slice->data = t->data + (size_t)(expert * rows + (both && proj == TDM_PROJ_UP ? n : 0)) * row;
    *out = slice;
    return TDM_OK;
}

static tdm_status no_static_scales(const char *path, tdm_error *err)
{
    return TDM_FAIL(err, TDM_ERR_RECIPE, path, "use model.activations: dynamic", "static activation scales of a mixture of experts are not supported");
}

/* One scale for each tensor or row cannot serve experts of unlike sizes; one for each block does. */
static tdm_status check_expert(const tdm_weights_plan *p, const tdm_weight *w, const tdm_weight *first, const char *module, tdm_error *err)
{
    const char *path = tdm_model_file_path(p->file);
    if (w->scheme == TDM_SCHEME_FP8_TENSOR || w->scheme == TDM_SCHEME_FP8_CHANNEL)
        return TDM_FAIL(err, TDM_ERR_RECIPE, path, "use model.weights: fp8_block, or bf16", "%s weights of a mixture of experts are not supported: its FP8 is by blocks",
                        tdm_scheme_text(w->scheme));
    if (w->act == TDM_ACT_STATIC)
        return no_static_scales(path, err);
    if (w->scheme != first->scheme)
        return TDM_FAIL(err, TDM_ERR_RECIPE, path, "keep all experts of a layer in BF16, or none", "%s is %s, other experts of its layer are %s", module,
                        tdm_scheme_text(w->scheme), tdm_scheme_text(first->scheme));
    return TDM_OK;
}

static tdm_status plan_experts(tdm_weights_plan *p, int64_t layer, tdm_proj proj, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model_config *c = &p->w->config;
    tdm_weight *experts = p->w->layers[layer].experts[proj];
    char module[TDM_MODULE_BYTES];
    int64_t n, k;
    tdm_layer_proj_shape(c, layer, proj, &n, &k);
    for (int64_t e = 0; e < c->experts; e++) {
        const tdm_tensor *slice;
        tdm_expert_name(c, module, layer, e, proj);
        TDM_TRY(st, slice_expert(p, layer, e, proj, &slice, err), done);
        TDM_TRY(st, plan_matrix_of(p, &experts[e], slice, module, layer, n, k, false, err), done);
        TDM_TRY(st, check_expert(p, &experts[e], experts, module, err), done);
    }
    reserve_group(p, (int)c->experts);
done:
    return st;
}

static tdm_status plan_mixture(tdm_weights_plan *p, int64_t layer, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model_config *c = &p->w->config;
    char module[TDM_MODULE_BYTES];
    if (p->options->act == TDM_ACT_STATIC) return no_static_scales(tdm_model_file_path(p->file), err);
    tdm_router_name(module, layer);
    TDM_TRY(st, plan_matrix(p, &p->w->layers[layer].router, module, -1, c->experts, c->width, false, err), done);
    reserve_group(p, 1);
    for (int proj = TDM_PROJ_GATE; proj <= TDM_PROJ_DOWN; proj++) TDM_TRY(st, plan_experts(p, layer, (tdm_proj)proj, err), done);
done:
    return st;
}

static tdm_status plan_ffn(tdm_weights_plan *p, int64_t layer, tdm_error *err)
{
    if (p->w->config.sparse[layer]) return plan_mixture(p, layer, err);
    const tdm_status st = plan_projections(p, layer, TDM_PROJ_GATE, 2, err);
    return st == TDM_OK ? plan_projections(p, layer, TDM_PROJ_DOWN, 1, err) : st;
}

static tdm_status plan_norm(tdm_weights_plan *p, int64_t layer, tdm_norm norm, tdm_error *err)
{
    char module[TDM_MODULE_BYTES], name[TDM_MODULE_BYTES + 8];
    int64_t cols;
    if (!tdm_norm_name(&p->w->config, module, layer, norm, &cols)) return TDM_OK;
    snprintf(name, sizeof name, "%s.weight", module);
    return plan_vector(p, tdm_layer_norm(&p->w->layers[layer], norm), name, cols, err);
}

static tdm_status plan_layer(tdm_weights_plan *p, int64_t i, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, plan_norm(p, i, TDM_NORM_ATTN, err), done);
    TDM_TRY(st, plan_projections(p, i, TDM_PROJ_Q, 3, err), done);
    TDM_TRY(st, plan_norm(p, i, TDM_NORM_Q, err), done);
    TDM_TRY(st, plan_norm(p, i, TDM_NORM_K, err), done);
    TDM_TRY(st, plan_projections(p, i, TDM_PROJ_O, 1, err), done);
    TDM_TRY(st, plan_norm(p, i, TDM_NORM_ATTN_OUT, err), done);
    TDM_TRY(st, plan_norm(p, i, TDM_NORM_FFN, err), done);
    TDM_TRY(st, plan_ffn(p, i, err), done);
    TDM_TRY(st, plan_norm(p, i, TDM_NORM_FFN_OUT, err), done);
done:
    return st;
}

/* Matrices of all mixtures, with their routers. */
static int64_t expert_matrices(const tdm_model_config *c)
{
    int64_t count = 0;
    for (int64_t l = 0; l < c->layers; l++) count += c->sparse[l] ? 3 * c->experts + 1 : 0;
    return count;
}

/* Each layer's places in w->experts. */
static void hand_out_experts(tdm_weights *w)
{
    tdm_weight *next = w->experts;
    for (int64_t l = 0; l < w->config.layers; l++)
        for (int p = TDM_PROJ_GATE; w->config.sparse[l] && p <= TDM_PROJ_DOWN; p++, next += w->config.experts) w->layers[l].experts[p] = next;
}

static tdm_status start(tdm_weights_plan *p, const tdm_model_file *f, const tdm_weights_options *o, tdm_error *err)
{
    const tdm_model_config *c = tdm_model_file_config(f);
    *p = (tdm_weights_plan){.file = f, .options = o};
    p->w = calloc(1, sizeof *p->w);
    const size_t experts = (size_t)expert_matrices(c);
    p->matrices = calloc((size_t)c->layers * TDM_PROJ_COUNT + experts + 2, sizeof *p->matrices);
    p->slices = calloc(experts + 1, sizeof *p->slices);
    p->vectors = calloc((size_t)c->layers * TDM_NORM_COUNT + 1, sizeof *p->vectors);
    p->used = calloc((size_t)tdm_model_file_count(f) + 1, sizeof *p->used);
    if (p->w) p->w->layers = calloc((size_t)c->layers, sizeof *p->w->layers);
    if (p->w) p->w->experts = calloc(experts + 1, sizeof *p->w->experts);
    if (!p->w || !p->w->layers || !p->w->experts || !p->slices || !p->matrices || !p->vectors || !p->used)
        return TDM_FAIL(err, TDM_ERR_OTHER, tdm_model_file_path(f), NULL, "out of memory for the tensor table");
    p->w->config = *c;
    hand_out_experts(p->w);
    p->kv_scale = calloc((size_t)c->layers * 2, sizeof *p->kv_scale);
    if (!p->kv_scale) return TDM_FAIL(err, TDM_ERR_OTHER, tdm_model_file_path(f), NULL, "out of memory for the tensor table");
    return o->activation_scales ? tdm_activation_scales_read(&p->calibrated, c, o->activation_scales, err) : TDM_OK;
}

tdm_status tdm_weights_plan_make(tdm_weights_plan *p, const tdm_model_file *f, const tdm_weights_options *o,
                                 tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_ASSERT(o->first_layers_bf16 >= 0 && o->last_layers_bf16 >= 0);
    TDM_ASSERT(!o->embedding_on_host || !tdm_model_file_config(f)->tied_head);
    TDM_TRY(st, start(p, f, o, err), done);
    const tdm_model_config *c = &p->w->config;
    TDM_TRY(st, plan_matrix(p, &p->w->embedding, embedding_module, -1, c->vocab, c->width, false, err), done);
    reserve_group(p, 1);
    if (o->embedding_on_host) p->host_bytes = p->bytes;
    for (int64_t i = 0; i < c->layers; i++) TDM_TRY(st, plan_layer(p, i, err), done);
    TDM_TRY(st, plan_vector(p, &p->w->final_norm, "model.norm.weight", c->width, err), done);
    if (!c->tied_head) {
        TDM_TRY(st, plan_matrix(p, &p->w->head, head_module, -1, c->vocab, c->width, false, err), done);
        reserve_group(p, 1);
    }
    TDM_TRY(st, tdm_weights_kv_scales(p, err), done);
    TDM_TRY(st, tdm_weights_check_extra(p, err), done);
done:
    return st;
}

void tdm_weights_plan_free(tdm_weights_plan *p)
{
    tdm_weights_close(p->w);
    free(p->matrices);
    free(p->vectors);
    free(p->used);
    free(p->slices);
    free(p->kv_scale);
    tdm_activation_scales_free(&p->calibrated);
    *p = (tdm_weights_plan){0};
}

void tdm_weights_plan_place(tdm_weights_plan *p, const tdm_region *where)
{
    unsigned char *region = where->base;
    for (int64_t i = 0; i < p->matrix_count; i++) {
        tdm_matrix_plan *m = &p->matrices[i];
        m->w->codes.data = region + m->codes_at;
        if (m->w->scheme != TDM_SCHEME_BF16) m->w->scale.data = region + m->scale_at;
        if (m->bias) m->w->bias.data = region + m->bias_at;
    }
    for (int64_t i = 0; i < p->vector_count; i++) p->vectors[i].v->data = region + p->vectors[i].at;
    p->w->region = *where;
    p->w->bytes = p->bytes;
    p->w->threads = tdm_threads(p->options->threads);
}

/* ---- What options can mean --------------------------------------------------------------------------------------------------- */

/* A tied head has no weight of its own and is a module all the same. */
static tdm_status names_a_module(const tdm_model_config *c, const char *text, const char *where, bool *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char module[TDM_MODULE_BYTES];
    int64_t n, k;
    TDM_TRY(st, tdm_module_named(text, embedding_module, where, out, err), done);
    if (!*out) TDM_TRY(st, tdm_module_named(text, head_module, where, out, err), done);
    for (int64_t l = 0; l < c->layers && !*out; l++)
        for (int p = 0; p < TDM_PROJ_COUNT && !*out; p++) {
            tdm_layer_proj_shape(c, l, (tdm_proj)p, &n, &k);
            for (int64_t e = 0; n > 0 && e < tdm_proj_modules(c, l, (tdm_proj)p) && !*out; e++) {
                tdm_expert_name(c, module, l, e, (tdm_proj)p);
                TDM_TRY(st, tdm_module_named(text, module, where, out, err), done);
            }
        }
done:
    return st;
}

static tdm_status check_layers(const tdm_model_config *c, int64_t kept, const char *which, const char *where, tdm_error *err)
{
    char hint[64];
    if (kept <= c->layers) return TDM_OK;
    snprintf(hint, sizeof hint, "give %" PRId64 " or less", c->layers);
    return TDM_FAIL(err, TDM_ERR_RECIPE, where, hint, "the %s %" PRId64 " layers are to stay BF16, the model has %" PRId64, which, kept, c->layers);
}

tdm_status tdm_weights_check_options(const tdm_model_config *c, const tdm_weights_options *o, const tdm_weights_where *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, check_layers(c, o->first_layers_bf16, "first", where->first_layers_bf16, err), done);
    TDM_TRY(st, check_layers(c, o->last_layers_bf16, "last", where->last_layers_bf16, err), done);
    if (c->tied_head && o->fp8_head != o->fp8_embedding) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, where->fp8_head, "set model.lm_head and model.embedding to the same",
                      "this model's head is its embedding, and %s alone is to be FP8", o->fp8_head ? "model.lm_head" : "model.embedding");
        goto done;
    }
    for (const char *const *name = o->keep_bf16; name && *name; name++) {
        bool hit;
        TDM_TRY(st, names_a_module(c, *name, where->keep_bf16, &hit, err), done);
        if (hit) continue;
        st = TDM_FAIL(err, TDM_ERR_RECIPE, where->keep_bf16, "modules are called lm_head, or model.layers.0.mlp.down_proj; give a part of such a name, or re: and an expression",
                      "no module of this model has \"%.64s\" in its name", *name);
        goto done;
    }
done:
    return st;
}
