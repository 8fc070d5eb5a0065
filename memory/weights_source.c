#include "memory/weights_source.h"
#include "memory/fp8_checkpoint.h"
#include "memory/module_patterns.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const tdm_tensor *take(tdm_weights_plan *p, const char *name)
{
    const tdm_tensor *t = tdm_model_file_find(p->file, name);
    if (t) p->used[t - tdm_model_file_at(p->file, 0)] = true;
    return t;
}

static tdm_status bad_shape(const tdm_tensor *t, const int64_t *want, int rank, tdm_error *err)
{
    char where[512], have[128], need[128];
    tdm_tensor_where(t, where, sizeof where);
    tdm_shape_text(t->shape, t->rank, have, sizeof have);
    tdm_shape_text(want, rank, need, sizeof need);
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "is the config of another model?", "shape %s, the config implies %s",
                    have, need);
}

tdm_status tdm_weights_source(tdm_weights_plan *p, const char *name, int64_t rows, int64_t cols, const tdm_tensor **out,
                              tdm_error *err)
{
    const int64_t want[2] = {rows > 0 ? rows : cols, cols};
    const int rank = rows > 0 ? 2 : 1;
    const tdm_tensor *t = take(p, name);
    char where[512];
    *out = t;
    if (!t)
        return TDM_FAIL(err, TDM_ERR_INPUT, tdm_model_file_path(p->file),
                        "is the download complete, and the config of this model?", "tensor %s is missing", name);
    if (t->rank != rank || memcmp(t->shape, want, (size_t)rank * sizeof *want) != 0)
        return bad_shape(t, want, rank, err);
    if (tdm_elem_is_float(t->elem) || (t->elem == TDM_ELEM_E4M3 && rank == 2)) return TDM_OK;
    tdm_tensor_where(t, where, sizeof where);
    return TDM_FAIL(err, TDM_ERR_INPUT, where,
                    "use a file with F32, F16, BF16, FP8 e4m3, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K",
                    "type %s is not supported", t->type);
}

static tdm_status matches_any(const char *const *list, const char *module, bool *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    *out = false;
    for (; list && *list && !*out; list++) TDM_TRY(st, tdm_module_named(*list, module, "model.keep_bf16", out, err), done);
done:
    return st;
}

/* The head and the embedding, where the recipe asks for it. Their scale is a row's, for one row is looked up. */
static bool quantized_apart(const tdm_weights_plan *p, const tdm_matrix_plan *m)
{
    const tdm_weights_options *o = p->options;
    const bool embedding = m->w == &p->w->embedding;
    return embedding ? o->fp8_embedding || (o->fp8_head && p->w->config.tied_head) : m->w == &p->w->head && o->fp8_head;
}

/* The head and the embedding stay BF16 unless named by themselves; the recipe adds first and last layers and modules by name. */
static tdm_status stays_bf16(const tdm_weights_plan *p, const char *module, int64_t layer, bool *out, tdm_error *err)
{
    const tdm_weights_options *o = p->options;
    *out = layer < 0 || layer < o->first_layers_bf16 || layer >= p->w->config.layers - o->last_layers_bf16;
    return *out ? TDM_OK : matches_any(o->keep_bf16, module, out, err);
}

/* The scale that `tandem calibrate` found for a module. */
static tdm_status calibrated_scale(tdm_weights_plan *p, tdm_matrix_plan *m, const char *module, int64_t layer, tdm_error *err)
{
    char where[512];
    if (!p->calibrated.input) {
        tdm_tensor_where(m->weight, where, sizeof where);
        return TDM_FAIL(err, TDM_ERR_RECIPE, where, "use model.activations: dynamic, a calibrated checkpoint, or tandem calibrate and model.activation_scales",
                        "static activation scales, which only a calibrated FP8 checkpoint has");
    }
    const float amax = p->calibrated.input[layer][m->w - p->w->layers[layer].proj];
    if (amax == 0.0f) return TDM_FAIL(err, TDM_ERR_INPUT, p->calibrated.path, "is the calibration of another model?", "it has no %s", module);
    m->w->input_scale = tdm_fp8_scale(amax, p->options->pow2_acts);
    return TDM_OK;
}

static tdm_status scheme_of_float(tdm_weights_plan *p, tdm_matrix_plan *m, const char *module, int64_t layer,
                                  tdm_error *err)
{
    const tdm_weights_options *o = p->options;
    char where[512];
    tdm_tensor_where(m->weight, where, sizeof where);
    if (m->weight->elem == TDM_ELEM_E4M3)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "is quantization_config missing in config.json?",
                        "FP8 codes in a checkpoint that does not say it is FP8");
    m->stored = TDM_SCHEME_BF16;
    if (quantized_apart(p, m)) {
        m->w->scheme = TDM_SCHEME_FP8_CHANNEL;
        m->w->act = TDM_ACT_NONE;
        m->w->pow2 = o->pow2_acts;
        return TDM_OK;
    }
    bool kept;
    const tdm_status named = stays_bf16(p, module, layer, &kept, err);
    if (named != TDM_OK) return named;
    m->w->scheme = kept ? TDM_SCHEME_BF16 : o->scheme;
    m->w->act = m->w->scheme == TDM_SCHEME_BF16 ? TDM_ACT_NONE : o->act;
    if (m->w->act == TDM_ACT_STATIC) {
        const tdm_status st = calibrated_scale(p, m, module, layer, err);
        if (st != TDM_OK) return st;
    }
    m->w->pow2 = o->pow2_acts && m->w->scheme != TDM_SCHEME_BF16;
    return TDM_OK;
}

/* NAME or its alias; a scale is at most a matrix and holds floats. */
static tdm_status take_scale(tdm_weights_plan *p, const char *module, const char *name, const char *alias,
                             const tdm_tensor **out, tdm_error *err)
{
    char full[256], where[512];
    snprintf(full, sizeof full, "%s.%s", module, name);
    *out = take(p, full);
    if (!*out) {
        snprintf(full, sizeof full, "%s.%s", module, alias);
        *out = take(p, full);
    }
    if (!*out)
        return TDM_FAIL(err, TDM_ERR_INPUT, tdm_model_file_path(p->file), "is the download complete?",
                        "tensor %s.%s is missing", module, name);
    if (tdm_elem_is_float((*out)->elem)) return TDM_OK;
    tdm_tensor_where(*out, where, sizeof where);
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "use a checkpoint with scales in F32 or BF16",
                    "scales of type %s are not supported", (*out)->type);
}

static tdm_status check_scale_shape(const tdm_tensor *t, tdm_scheme stored, int64_t rows, int64_t cols, tdm_error *err)
{
    int64_t want[2] = {1, 1};
    if (stored == TDM_SCHEME_FP8_CHANNEL) want[0] = rows;
    if (stored == TDM_SCHEME_FP8_BLOCK) {
        want[0] = tdm_ceil_div(rows, TDM_FP8_BLOCK);
        want[1] = tdm_ceil_div(cols, TDM_FP8_BLOCK);
    }
    if (t->rank == 2 && t->shape[0] == want[0] && t->shape[1] == want[1]) return TDM_OK;
    if (t->rank == 1 && want[1] == 1 && t->shape[0] == want[0] && stored != TDM_SCHEME_FP8_BLOCK) return TDM_OK;
    if (t->rank == 0 && stored == TDM_SCHEME_FP8_TENSOR) return TDM_OK;
    return bad_shape(t, want, 2, err);
}

static tdm_status scheme_of_fp8(tdm_weights_plan *p, tdm_matrix_plan *m, const char *module, int64_t layer,
                                const tdm_fp8_module *how, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_weights_options *o = p->options;
    const tdm_tensor *t = m->weight;
    bool kept;
    char where[512];
    tdm_tensor_where(t, where, sizeof where);
    if (o->scheme_given && o->scheme != how->scheme && o->scheme != how->stored)
        return TDM_FAIL(err, TDM_ERR_RECIPE, where, "leave model.weights out, or use the unquantized model",
                        "the recipe asks for %s, the checkpoint is stored as %s", tdm_scheme_text(o->scheme),
                        tdm_scheme_text(how->stored));
    TDM_TRY(st, stays_bf16(p, module, layer, &kept, err), done);
    if (kept)
        return TDM_FAIL(
            err, TDM_ERR_RECIPE, where,
            "leave the module out of keep_bf16, first_layers_bf16 and last_layers_bf16, or use the unquantized model",
            "the recipe keeps %s in BF16, the checkpoint is stored as %s", module, tdm_scheme_text(how->stored));
    if (p->calibrated.input && o->act == TDM_ACT_STATIC)
        return TDM_FAIL(err, TDM_ERR_RECIPE, p->calibrated.path, "leave model.activation_scales out, or use the unquantized model",
                        "activation scales of a file are for weights that are quantized here, the checkpoint is stored as %s", tdm_scheme_text(how->stored));
    if (o->act == TDM_ACT_STATIC && how->act != TDM_ACT_STATIC)
        return TDM_FAIL(err, TDM_ERR_RECIPE, where, "use model.activations: dynamic",
                        "the recipe asks for static activation scales, the checkpoint has none");
    m->stored = how->stored;
    m->w->scheme = how->scheme;
    m->w->act = o->act == TDM_ACT_NONE ? TDM_ACT_NONE : how->act; /* BF16 activations suit any weight */
    m->w->pow2 = o->pow2_acts;
    TDM_TRY(st, take_scale(p, module, "weight_scale", "weight_scale_inv", &m->scale, err), done);
    TDM_TRY(st, check_scale_shape(m->scale, m->stored, t->shape[0], t->shape[1], err), done);
    if (how->act == TDM_ACT_STATIC) {
        TDM_TRY(st, take_scale(p, module, "input_scale", "activation_scale", &m->input_scale, err), done);
        TDM_TRY(st, check_scale_shape(m->input_scale, TDM_SCHEME_FP8_TENSOR, 1, 1, err), done);
    }
done:
    return st;
}

tdm_status tdm_weights_scheme(tdm_weights_plan *p, tdm_matrix_plan *m, const char *module, int64_t layer,
                              tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_fp8_module how = {0};
    char where[512];
    const tdm_fp8_checkpoint *q = tdm_model_file_fp8(p->file);
    if (!q || (quantized_apart(p, m) && m->weight->elem != TDM_ELEM_E4M3)) return scheme_of_float(p, m, module, layer, err);
    if (layer >= 0) {
        /* quantization_config names modules as the file does */
        snprintf(where, sizeof where, "%.*s", (int)(strlen(m->weight->stored) - strlen(".weight")), m->weight->stored);
        TDM_TRY(st, tdm_fp8_checkpoint_module(q, where, &how, err), done);
    }
    const bool codes = m->weight->elem == TDM_ELEM_E4M3;
    if (how.quantized && codes) return scheme_of_fp8(p, m, module, layer, &how, err);
    if (how.quantized || codes) {
        tdm_tensor_where(m->weight, where, sizeof where);
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "do config.json and the weights belong together?",
                        "stored as %s, quantization_config says it is %s", m->weight->type,
                        how.quantized ? "FP8" : "not FP8");
    }
    m->stored = m->w->scheme =
        TDM_SCHEME_BF16; /* the checkpoint's author left it out; the recipe's scheme is for the others */
    m->w->act = TDM_ACT_NONE;
done:
    return st;
}

static bool ends_with(const char *s, const char *suffix)
{
    const size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* The scales of a layer's keys and values: of the file of `tandem calibrate`, else of an FP8 checkpoint, under the name compressed-tensors has
 * for them or had before 0.6. They are read whatever the cache is: a BF16 one does not use them. */
tdm_status tdm_weights_kv_scales(tdm_weights_plan *p, tdm_error *err)
{
    static const char *const names[][2] = {{"self_attn.k_scale", "self_attn.v_scale"}, {"self_attn.k_proj.output_scale", "self_attn.v_proj.output_scale"}};
    tdm_status st = TDM_OK;
    const tdm_fp8_checkpoint *q = tdm_model_file_fp8(p->file);
    p->w->kv_scaled = true;
    for (int64_t i = 0; i < 2 * p->w->config.layers; i++) {
        tdm_layer_weights *layer = &p->w->layers[i / 2];
        float *scale = i % 2 ? &layer->v_scale : &layer->k_scale;
        *scale = 1.0f;
        if (p->calibrated.kv && p->calibrated.kv[i / 2][i % 2] > 0) {
            *scale = tdm_fp8_scale(p->calibrated.kv[i / 2][i % 2], false);
            continue;
        }
        for (size_t n = 0; q && tdm_fp8_checkpoint_kv(q) && n < TDM_COUNT(names) && !p->kv_scale[i]; n++) {
            char full[128];
            snprintf(full, sizeof full, "model.layers.%" PRId64 ".%s", i / 2, names[n][i % 2]);
            p->kv_scale[i] = take(p, full);
        }
        if (p->kv_scale[i]) TDM_TRY(st, check_scale_shape(p->kv_scale[i], TDM_SCHEME_FP8_TENSOR, 1, 1, err), done);
        p->w->kv_scaled &= p->kv_scale[i] != NULL;
    }
done:
    return st;
}

/* Names transformers skips as well: frequencies recomputed from the config; scales of a KV cache in a format that ours does not have. */
static bool is_harmless(const tdm_weights_plan *p, const char *name)
{
    static const char *const kv[] = {".self_attn.k_scale", ".self_attn.v_scale", ".self_attn.q_scale",
                                     ".k_proj.output_scale", ".v_proj.output_scale"};
    if (ends_with(name, ".rotary_emb.inv_freq")) return true;
    if (!tdm_model_file_fp8(p->file)) return false;
    for (size_t i = 0; i < TDM_COUNT(kv); i++)
        if (ends_with(name, kv[i])) return true;
    return false;
}

tdm_status tdm_weights_check_extra(tdm_weights_plan *p, tdm_error *err)
{
    char where[512];
    const tdm_model_config *c = &p->w->config;
    if (c->tied_head && tdm_model_file_find(p->file, "lm_head.weight")) {
        tdm_status st = tdm_weights_source(p, "lm_head.weight", c->vocab, c->width, &p->tied_copy, err);
        if (st != TDM_OK) return st;
    }
    for (int64_t i = 0; i < tdm_model_file_count(p->file); i++) {
        const tdm_tensor *t = tdm_model_file_at(p->file, i);
        if (p->used[i] || is_harmless(p, t->name)) continue;
        tdm_tensor_where(t, where, sizeof where);
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "is the config of another model? Nothing is dropped silently",
                        "a tensor that a %s model of this config does not have", c->model_type);
    }
    return TDM_OK;
}
