/* config.json. Source: transformers, models/{llama,qwen2,qwen3,mistral}/configuration_*.py for the fields and their
 * defaults. */
#include "memory/model_config.h"
#include "memory/fs.h"
#include "memory/json_read.h"
#include "memory/model_config_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    tdm_arch arch;
} model_types[] = {
    {"llama", TDM_ARCH_LLAMA}, {"qwen2", TDM_ARCH_QWEN2}, {"qwen3", TDM_ARCH_QWEN3}, {"mistral", TDM_ARCH_MISTRAL}};

#define REFUSE(f, ...) TDM_FAIL((f)->err, TDM_ERR_INPUT, (f)->where, "use a model without it", __VA_ARGS__)

static tdm_status read_arch(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    const char *type = NULL;
    TDM_TRY(st, tdm_json_str(f, "model_type", &type), done);
    if (!type)
        return TDM_FAIL(f->err, TDM_ERR_INPUT, f->where, "is this a transformers model?", "model_type is missing");
    for (size_t i = 0; i < TDM_COUNT(model_types); i++) {
        if (strcmp(type, model_types[i].name) != 0) continue;
        c->arch = model_types[i].arch;
        snprintf(c->model_type, sizeof c->model_type, "%s", type);
        return TDM_OK;
    }
    return TDM_FAIL(f->err, TDM_ERR_INPUT, f->where, "use a model of type llama, qwen2, qwen3 or mistral",
                    "model_type %.64s is not supported", type);
done:
    return st;
}

static tdm_status read_shape(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_json_int(f, "num_hidden_layers", true, 1, TDM_LAYERS_MAX, &c->layers), done);
    TDM_TRY(st, tdm_json_int(f, "hidden_size", true, 1, TDM_WIDTH_MAX, &c->width), done);
    TDM_TRY(st, tdm_json_int(f, "intermediate_size", true, 1, TDM_FFN_MAX, &c->ffn), done);
    TDM_TRY(st, tdm_json_int(f, "num_attention_heads", true, 1, TDM_HEADS_MAX, &c->heads), done);
    TDM_TRY(st, tdm_json_int(f, "vocab_size", true, 1, TDM_VOCAB_MAX, &c->vocab), done);
    c->kv_heads = c->heads; /* where the key is null; the other types' class defaults fit only their own first model */
    TDM_TRY(st,
            tdm_json_int(f, "num_key_value_heads",
                         c->arch != TDM_ARCH_LLAMA && !json_object_get(f->object, "num_key_value_heads"), 1,
                         TDM_HEADS_MAX, &c->kv_heads),
            done);
    c->head_dim = c->arch == TDM_ARCH_QWEN3 ? 128 : c->width / c->heads;
    if (c->arch != TDM_ARCH_QWEN3 && !tdm_json_get(f->object, "head_dim") && c->width % c->heads != 0)
        return TDM_FAIL(f->err, TDM_ERR_INPUT, f->where, "is config.json damaged?",
                        "hidden_size %" PRId64 " is not a multiple of %" PRId64 " heads", c->width, c->heads);
    TDM_TRY(st, tdm_json_int(f, "head_dim", false, 1, TDM_HEAD_DIM_MAX, &c->head_dim), done);
    c->context = c->arch == TDM_ARCH_LLAMA ? 2048 : c->arch == TDM_ARCH_MISTRAL ? 4096 * 32 : 32768;
    TDM_TRY(st, tdm_json_int(f, "max_position_embeddings", false, 1, TDM_CONTEXT_MAX, &c->context), done);
done:
    return st;
}

static tdm_status read_features(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    double eps = 1e-6;
    const char *act = "silu";
    bool bias = false;
    TDM_TRY(st, tdm_json_real(f, "rms_norm_eps", false, 1e-30, 1, &eps), done);
    c->norm_eps = (float)eps;
    TDM_TRY(st, tdm_json_str(f, "hidden_act", &act), done);
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return REFUSE(f, "hidden_act %.64s is not supported, only silu", act);
    TDM_TRY(st, tdm_json_bool(f, "tie_word_embeddings", &c->tied_head), done);
    if (c->arch == TDM_ARCH_LLAMA || c->arch == TDM_ARCH_QWEN3)
        TDM_TRY(st, tdm_json_bool(f, "attention_bias", &bias), done);
    if (c->arch == TDM_ARCH_LLAMA) TDM_TRY(st, tdm_json_bool(f, "mlp_bias", &c->mlp_bias), done);
    c->o_bias = bias;
    c->qkv_bias = bias || c->arch == TDM_ARCH_QWEN2; /* Qwen2 has it without saying so */
    c->qk_norm = c->arch == TDM_ARCH_QWEN3;
done:
    return st;
}

/* Features some configs of these model types switch on and none of our kernels compute. */
static tdm_status refuse_others(const tdm_json_fields *f)
{
    static const char *const experts[] = {"num_experts", "num_local_experts", "n_routed_experts",
                                          "moe_intermediate_size"};
    static const char *const flags[] = {"use_mrope", "use_qk_norm", "use_dual_chunk_attention"};
    tdm_status st = TDM_OK;
    for (size_t i = 0; i < TDM_COUNT(experts); i++) {
        int64_t n = 0;
        TDM_TRY(st, tdm_json_int(f, experts[i], false, 0, INT64_MAX, &n), done);
        if (n > 0) return REFUSE(f, "a mixture of experts (%s: %" PRId64 ") is not supported", experts[i], n);
    }
    for (size_t i = 0; i < TDM_COUNT(flags); i++) {
        bool on = false;
        TDM_TRY(st, tdm_json_bool(f, flags[i], &on), done);
        if (on) return REFUSE(f, "%s is not supported", flags[i]);
    }
    if (tdm_json_get(f->object, "dual_chunk_attention_config"))
        return REFUSE(f, "dual_chunk_attention_config is not supported");
done:
    return st;
}

/* Old files: rope_theta beside rope_scaling (or null). transformers 5: one object, rope_parameters, with both. */
static tdm_status read_rope(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    const json_t *scaling = tdm_json_get(f->object, "rope_scaling"), *given;
    const char *type = NULL, *old_type = NULL, *key = scaling ? "rope_scaling" : "rope_parameters", *k;
    double partial = 1;
    if (!scaling) scaling = tdm_json_get(f->object, "rope_parameters");
    if (scaling && !json_is_object(scaling)) return REFUSE(f, "%s is not an object", key);
    const tdm_json_fields g = {scaling, f->where, f->err};

    c->rope_theta = 10000;
    TDM_TRY(st, tdm_json_real(f, "rope_theta", false, 1, 1e15, &c->rope_theta), done);
    TDM_TRY(st, tdm_json_real(f, "partial_rotary_factor", false, 0, 1, &partial), done);
    if (scaling) {
        json_object_foreach((json_t *)(uintptr_t)scaling, k, given) if (json_is_object(given)) return REFUSE(
            f, "%s differs between layers (%.64s), which is not supported", key, k);
        TDM_TRY(st, tdm_json_real(&g, "rope_theta", false, 1, 1e15, &c->rope_theta), done);
        TDM_TRY(st, tdm_json_real(&g, "partial_rotary_factor", false, 0, 1, &partial), done);
        TDM_TRY(st, tdm_json_str(&g, "type", &old_type), done);
        TDM_TRY(st, tdm_json_str(&g, "rope_type", &type), done);
    }
    if (partial < 1) return REFUSE(f, "partial_rotary_factor %g is not supported", partial);
    if (!type) type = old_type ? old_type : "default";
    if (strcmp(type, "default") == 0) goto done;
    if (strcmp(type, "linear") == 0) {
        c->rope = TDM_ROPE_LINEAR;
    } else if (strcmp(type, "llama3") == 0) {
        c->rope = TDM_ROPE_LLAMA3;
        c->rope_original_context = c->context;
        TDM_TRY(st, tdm_json_real(&g, "low_freq_factor", true, 1e-3, 1e6, &c->rope_low_freq), done);
        TDM_TRY(st, tdm_json_real(&g, "high_freq_factor", true, 1e-3, 1e6, &c->rope_high_freq), done);
        TDM_TRY(
            st,
            tdm_json_int(&g, "original_max_position_embeddings", false, 1, TDM_CONTEXT_MAX, &c->rope_original_context),
            done);
        if (c->rope_high_freq <= c->rope_low_freq)
            return REFUSE(f, "high_freq_factor %g is not above low_freq_factor %g", c->rope_high_freq,
                          c->rope_low_freq);
    } else {
        return REFUSE(f, "%s of type %.64s is not supported, only linear and llama3", key, type);
    }
    TDM_TRY(st, tdm_json_real(&g, "factor", true, 1e-3, 1e6, &c->rope_factor), done);
done:
    return st;
}

/* layer_types says layer by layer what the fields beside it say in general; they must agree. */
static tdm_status check_layer_types(const tdm_model_config *c, const tdm_json_fields *f)
{
    const json_t *types = tdm_json_get(f->object, "layer_types");
    if (!types) return TDM_OK;
    if (!json_is_array(types) || (int64_t)json_array_size(types) != c->layers)
        return REFUSE(f, "layer_types does not name every layer");
    for (int64_t i = 0; i < c->layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        const bool sliding = c->window > 0 && i >= c->window_first_layer;
        if (!type || strcmp(type, sliding ? "sliding_attention" : "full_attention") != 0)
            return REFUSE(
                f, "layer_types: layer %" PRId64 " is \"%.64s\", sliding windows below full layers are not supported",
                i, type ? type : "?");
    }
    return TDM_OK;
}

/* The first layer with a window as Qwen's layer_types tells it, if that is a run to the last layer. */
static int64_t first_sliding(const json_t *types, int64_t layers)
{
    for (int64_t i = 0; i < layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        if (type && strcmp(type, "sliding_attention") == 0) return i;
    }
    return layers;
}

static tdm_status read_window(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    bool use = false;
    int64_t first = 28;
    const json_t *types = tdm_json_get(f->object, "layer_types");
    if (c->arch == TDM_ARCH_LLAMA) return check_layer_types(c, f);
    if (c->arch == TDM_ARCH_MISTRAL) {
        if (!json_object_get(f->object, "sliding_window"))
            c->window = 4096; /* MistralConfig's default; null means none */
        TDM_TRY(st, tdm_json_int(f, "sliding_window", false, 1, TDM_CONTEXT_MAX, &c->window), done);
        return check_layer_types(c, f);
    }
    TDM_TRY(st, tdm_json_bool(f, "use_sliding_window", &use), done);
    if (!use) {
        if (types && first_sliding(types, c->layers) < c->layers)
            return REFUSE(f, "layer_types has sliding layers, use_sliding_window is false");
        return check_layer_types(c, f);
    }
    if (!json_object_get(f->object, "sliding_window")) c->window = 4096;
    TDM_TRY(st, tdm_json_int(f, "sliding_window", false, 1, TDM_CONTEXT_MAX, &c->window), done);
    TDM_TRY(st, tdm_json_int(f, "max_window_layers", false, 0, INT64_MAX, &first), done);
    c->window_first_layer = types && json_is_array(types) ? first_sliding(types, c->layers) : first;
    if (c->window_first_layer >= c->layers || c->window == 0) c->window = c->window_first_layer = 0;
    return check_layer_types(c, f);
done:
    return st;
}

static tdm_status read_eos(tdm_model_config *c, const json_t *object, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const json_t *v = object ? tdm_json_get(object, "eos_token_id") : NULL;
    if (!v) return TDM_OK;
    if (json_is_integer(v)) return tdm_model_config_add_eos(c, json_integer_value(v), where, err);
    if (!json_is_array(v))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "repair the file", "eos_token_id is neither an integer nor a list");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *id = json_array_get(v, i);
        if (!json_is_integer(id))
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "repair the file",
                            "eos_token_id holds something that is not an integer");
        TDM_TRY(st, tdm_model_config_add_eos(c, json_integer_value(id), where, err), done);
    }
done:
    return st;
}

static tdm_status read_special(tdm_model_config *c, const tdm_json_fields *f, const json_t *generation)
{
    tdm_status st = TDM_OK;
    int64_t bos = -1;
    TDM_TRY(st, tdm_json_int(f, "bos_token_id", false, -1, INT32_MAX, &bos), done);
    c->bos = bos < c->vocab ? (int32_t)bos : -1;
    TDM_TRY(st, read_eos(c, f->object, f->where, f->err), done);
    TDM_TRY(st, read_eos(c, generation, "generation_config.json", f->err), done);
done:
    return st;
}

tdm_status tdm_model_config_from_json(tdm_model_config *c, const json_t *config, const json_t *generation,
                                      const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_json_fields f = {config, where, err};
    *c = (tdm_model_config){.bos = -1};
    TDM_TRY(st, read_arch(c, &f), done);
    TDM_TRY(st, refuse_others(&f), done);
    TDM_TRY(st, read_shape(c, &f), done);
    TDM_TRY(st, read_features(c, &f), done);
    TDM_TRY(st, read_rope(c, &f), done);
    TDM_TRY(st, read_window(c, &f), done);
    TDM_TRY(st, read_special(c, &f, generation), done);
    TDM_TRY(st, tdm_model_config_check(c, where, err), done);
done:
    return st;
}

tdm_status tdm_model_config_parse(tdm_model_config *c, const char *config, size_t config_bytes, const char *generation,
                                  size_t generation_bytes, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *root = NULL, *extra = NULL; /* owned here */
    TDM_TRY(st, tdm_json_parse(&root, config, config_bytes, where, err), done);
    if (generation)
        TDM_TRY(st, tdm_json_parse(&extra, generation, generation_bytes, "generation_config.json", err), done);
    TDM_TRY(st, tdm_model_config_from_json(c, root, extra, where, err), done);
done:
    json_decref(extra);
    json_decref(root);
    return st;
}

tdm_status tdm_model_config_read(tdm_model_config *c, const char *folder, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *root = NULL, *extra = NULL; /* owned here */
    char path[4096];

    snprintf(path, sizeof path, "%s/generation_config.json", folder);
    if (tdm_fs_is_file(path)) TDM_TRY(st, tdm_json_open(&extra, path, err), done);
    snprintf(path, sizeof path, "%s/config.json", folder);
    TDM_TRY(st, tdm_json_open(&root, path, err), done);
    TDM_TRY(st, tdm_model_config_from_json(c, root, extra, path, err), done);
done:
    json_decref(extra);
    json_decref(root);
    return st;
}
