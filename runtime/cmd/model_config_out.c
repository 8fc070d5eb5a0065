/* config.json. Source: transformers, models/.../configuration_*.py. */
#include "runtime/cmd/model_config_out.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/arch/arch.h"
#include "memory/gguf.h"
#include "memory/json_read.h"

/* A float as a person wrote it: 1e-05 instead of 9.9999997473787516e-06. */
static double shortest(float x)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (memcmp(&(float){strtof(text, NULL)}, &x, sizeof x) == 0) break;
    }
    return strtod(text, NULL);
}

/* llama.cpp keeps Llama 3's scaling as one divisor per frequency; config.json wants the four numbers it was made from.
 * The factor is the largest divisor; the other three are those of the models Meta published. */
static bool find_llama3(const tdm_model_config *c, tdm_model_config *found)
{
    float inv[TDM_HEAD_DIM_MAX / 2], plain[TDM_HEAD_DIM_MAX / 2];
    float factor = 1;
    *found = *c;
    found->rope = TDM_ROPE_PLAIN;
    tdm_rope_inv_freq(found, plain);
    for (int64_t i = 0; i < c->head_dim / 2; i++) factor = c->rope_factors[i] > factor ? c->rope_factors[i] : factor;
    found->rope = TDM_ROPE_LLAMA3;
    found->rope_factor = (double)factor;
    found->rope_low_freq = 1;
    found->rope_high_freq = 4;
    for (found->rope_original_context = 1024; found->rope_original_context <= c->context;
         found->rope_original_context *= 2) {
        bool same = true;
        tdm_rope_inv_freq(found, inv);
        for (int64_t i = 0; same && i < c->head_dim / 2; i++)
            same = fabsf(plain[i] / inv[i] - c->rope_factors[i]) <= 1e-5f * c->rope_factors[i];
        if (same) return true;
    }
    return false;
}

static json_t *factors_json(const float *factors, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) json_array_append_new(list, json_real(shortest(factors[i])));
    return list;
}

static void long_json(const tdm_model_config *c, json_t *config)
{
    const int64_t count = tdm_rope_dim(c) / 2;
    json_object_set_new(config, "original_max_position_embeddings", json_integer(c->rope_original_context));
    json_object_set_new(config, "rope_scaling",
                        json_pack("{s:s,s:o,s:o}", "type", "longrope", "short_factor", factors_json(c->rope_factors, count), "long_factor",
                                  factors_json(c->rope_long_factors, count)));
}

static tdm_status rope_json(const tdm_model_config *given, const char *where, json_t *config, tdm_error *err)
{
    tdm_model_config found;
    const tdm_model_config *c = given;
    json_object_set_new(config, "rope_theta", json_real(c->rope_theta));
    if (c->rope_local_theta > 0) json_object_set_new(config, "rope_local_base_freq", json_real(c->rope_local_theta));
    if (c->rope_dim > 0) json_object_set_new(config, "partial_rotary_factor", json_real((double)c->rope_dim / (double)c->head_dim));
    if (c->rope == TDM_ROPE_PLAIN) return TDM_OK;
    if (c->rope == TDM_ROPE_LONG) {
        long_json(c, config);
        return TDM_OK;
    }
    if (c->rope == TDM_ROPE_FACTORS) {
        if (!find_llama3(given, &found))
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "start from the model's safetensors",
                            "rotary factors that no rope_scaling of config.json gives");
        c = &found;
    }
    json_t *scaling =
        json_pack("{s:s,s:f}", "rope_type", c->rope == TDM_ROPE_LINEAR ? "linear" : "llama3", "factor", c->rope_factor);
    if (scaling && c->rope == TDM_ROPE_LLAMA3) {
        json_object_set_new(scaling, "low_freq_factor", json_real(c->rope_low_freq));
        json_object_set_new(scaling, "high_freq_factor", json_real(c->rope_high_freq));
        json_object_set_new(scaling, "original_max_position_embeddings", json_integer(c->rope_original_context));
    }
    json_object_set_new(config, "rope_scaling", scaling);
    return TDM_OK;
}

static json_t *eos_json(const tdm_model_config *c)
{
    if (c->eos_count == 1) return json_integer(c->eos[0]);
    json_t *list = json_array();
    for (int i = 0; i < c->eos_count; i++) json_array_append_new(list, json_integer(c->eos[i]));
    return list;
}

static void special_json(const tdm_model_config *c, json_t *config)
{
    if (c->bos >= 0) json_object_set_new(config, "bos_token_id", json_integer(c->bos));
    if (c->eos_count > 0) json_object_set_new(config, "eos_token_id", eos_json(c));
}

/* llama with a window is what llama.cpp calls Mistral. Biases are all or none but in Qwen2. */
static tdm_status kind_of(const tdm_model_config *c, const char *where, const tdm_arch **arch, tdm_error *err)
{
    const tdm_arch *a = c->arch == &tdm_arch_llama && c->window > 0 ? &tdm_arch_mistral : c->arch;
    const bool qkv_only = c->qkv_bias && !c->o_bias;
    if (a == &tdm_arch_llama && qkv_only && !c->mlp_bias) a = &tdm_arch_qwen2; /* the same computation */
    const bool said = a->qkv_bias         ? qkv_only && !c->mlp_bias && c->head_dim * c->heads == c->width
                      : a->attention_bias ? c->qkv_bias == c->o_bias && (a->mlp_bias || !c->mlp_bias)
                                          : !c->qkv_bias && !c->o_bias && !c->mlp_bias;
    *arch = a;
    if (said) return TDM_OK;
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "start from the model's safetensors",
                    "biases that no config.json of a %s model describes", c->model_type);
}

static void window_json(const tdm_model_config *c, const tdm_arch *arch, json_t *config)
{
    if (arch->windows == TDM_WINDOW_ALL || arch->windows == TDM_WINDOW_PATTERN)
        json_object_set_new(config, "sliding_window", c->window > 0 ? json_integer(c->window) : json_null());
    if (arch->windows != TDM_WINDOW_PATTERN) return;
    json_t *types = json_array();
    for (int64_t i = 0; i < c->layers; i++) json_array_append_new(types, json_string(c->sliding[i] ? "sliding_attention" : "full_attention"));
    json_object_set_new(config, "layer_types", types);
}

tdm_status tdm_model_config_json(const tdm_model_config *c, const char *where, json_t **out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_arch *arch;
    *out = NULL;
    TDM_TRY(st, kind_of(c, where, &arch, err), done);
    *out = json_pack("{s:[s],s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:b,s:f,s:b}", "architectures",
                     arch->class_name, "model_type", arch->model_type, "torch_dtype", "bfloat16", arch->activation, arch->activations[0],
                     "hidden_size", (json_int_t)c->width, "intermediate_size", (json_int_t)c->ffn, "num_hidden_layers",
                     (json_int_t)c->layers, "num_attention_heads", (json_int_t)c->heads, "num_key_value_heads",
                     (json_int_t)c->kv_heads, "head_dim", (json_int_t)c->head_dim, "vocab_size", (json_int_t)c->vocab,
                     "max_position_embeddings", (json_int_t)c->context, "rms_norm_eps", shortest(c->norm_eps),
                     "tie_word_embeddings", c->tied_head, "initializer_range", 0.02, "use_cache", 1);
    if (!*out) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory for config.json");
        goto done;
    }
    if (arch->attention_bias) json_object_set_new(*out, "attention_bias", json_boolean(c->qkv_bias));
    if (c->experts > 0) {
        json_object_set_new(*out, "num_experts", json_integer(c->experts));
        json_object_set_new(*out, "num_experts_per_tok", json_integer(c->experts_used));
        json_object_set_new(*out, "moe_intermediate_size", json_integer(c->expert_ffn));
        json_object_set_new(*out, "norm_topk_prob", json_boolean(c->norm_topk));
    }
    if (arch->mlp_bias) json_object_set_new(*out, "mlp_bias", json_boolean(c->mlp_bias));
    if (c->attention_scale > 0) {
        const double scalar = 1 / ((double)c->attention_scale * (double)c->attention_scale);
        json_object_set_new(*out, "query_pre_attn_scalar", json_integer((json_int_t)llround(scalar)));
    }
    window_json(c, arch, *out);
    TDM_TRY(st, rope_json(c, where, *out, err), done);
    special_json(c, *out);
done:
    if (st != TDM_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return st;
}

static tdm_status write_generation(const tdm_model_out *o, const tdm_model_config *c, const tdm_gguf *g, tdm_error *err)
{
    json_t *generation = json_object(); /* owned here */
    int64_t pad;
    tdm_status st = TDM_OK;
    special_json(c, generation);
    if (tdm_gguf_int(g, "tokenizer.ggml.padding_token_id", &pad) && pad >= 0 && pad < c->vocab)
        json_object_set_new(generation, "pad_token_id", json_integer(pad));
    if (json_object_size(generation) > 0) st = tdm_model_out_json(o, "generation_config.json", generation, err);
    json_decref(generation);
    return st;
}

/* Of a checkpoint of several towers the config of its text, as that of a model of its own. */
static tdm_status only_text(const tdm_model_config *c, json_t **config, const char *where, tdm_error *err)
{
    json_t *text = json_deep_copy(json_object_get(*config, "text_config"));
    const char *const rope[] = {"rope_scaling", "rope_parameters"}, *const mrope[] = {"mrope_section", "mrope_interleaved"};
    json_decref(*config);
    *config = text;
    if (!text || json_object_set_new(text, "architectures", json_pack("[s]", c->arch->class_name)) != 0 ||
        json_object_set_new(text, "model_type", json_string(c->arch->model_type)) != 0)
        return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory for config.json");
    json_object_set_new(text, "tie_word_embeddings", json_boolean(c->tied_head));
    special_json(c, text);
    for (size_t i = 0; i < TDM_COUNT(rope); i++)
        for (size_t k = 0; k < TDM_COUNT(mrope); k++)
            if (json_is_object(json_object_get(text, rope[i]))) json_object_del(json_object_get(text, rope[i]), mrope[k]);
    return TDM_OK;
}

static tdm_status source_config(const tdm_model_file *f, json_t **config, tdm_error *err)
{
    char path[TDM_PATH_BYTES];
    if (tdm_model_file_gguf(f))
        return tdm_model_config_json(tdm_model_file_config(f), tdm_model_file_path(f), config, err);
    tdm_status st = tdm_fs_join(path, tdm_model_file_path(f), "config.json", err);
    if (st == TDM_OK) st = tdm_json_open(config, path, err);
    return st == TDM_OK && tdm_model_file_config(f)->towers ? only_text(tdm_model_file_config(f), config, path, err) : st;
}

tdm_status tdm_model_config_write(const tdm_model_out *o, const tdm_model_file *f, const json_t *quantization,
                                  bool bf16, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *config = NULL; /* owned here */
    TDM_TRY(st, source_config(f, &config, err), done);
    json_object_del(config, "quantization_config");
    json_object_del(config, "compression_config");
    if (bf16)
        json_object_set_new(config, json_object_get(config, "dtype") ? "dtype" : "torch_dtype",
                            json_string("bfloat16"));
    if (quantization && json_object_set(config, "quantization_config", (json_t *)(uintptr_t)quantization) != 0) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, o->path, NULL, "out of memory for config.json");
        goto done;
    }
    TDM_TRY(st, tdm_model_out_json(o, "config.json", config, err), done);
    const tdm_gguf *g = tdm_model_file_gguf(f);
    st = g ? write_generation(o, tdm_model_file_config(f), g, err)
           : tdm_model_out_copy(o, tdm_model_file_path(f), "generation_config.json", NULL, err);
done:
    json_decref(config);
    return st;
}
