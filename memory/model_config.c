/* config.json. Source: transformers, models/.../configuration_*.py for the fields and their defaults. */
#include "memory/model_config_read.h"
#include "memory/fs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REFUSE(f, ...) TDM_FAIL((f)->err, TDM_ERR_INPUT, (f)->where, "use a model without it", __VA_ARGS__)

/* The family of `f`; of a checkpoint of several towers that of its text, whose config *f then is. */
static tdm_status read_arch(tdm_model_config *c, tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    const char *type = NULL;
    TDM_TRY(st, tdm_json_str(f, "model_type", &type), done);
    if (!type)
        return TDM_FAIL(f->err, TDM_ERR_INPUT, f->where, "is this a transformers model?", "model_type is missing");
    const tdm_arch_towers *towers = tdm_arch_towers_of(type);
    c->towers = towers != NULL;
    c->arch = towers ? towers->text : tdm_arch_of_type(type);
    if (!c->arch)
        return TDM_FAIL(f->err, TDM_ERR_INPUT, f->where, "docs/architectures.md lists the models that are", "model_type %.64s is not supported",
                        type);
    snprintf(c->model_type, sizeof c->model_type, "%s", c->arch->model_type);
    if (!towers) goto done;
    const json_t *text = tdm_json_get(f->object, "text_config");
    if (!json_is_object(text)) return REFUSE(f, "text_config of a %s model is missing", type);
    f->object = text;
    type = towers->text_type;
    TDM_TRY(st, tdm_json_str(f, "model_type", &type), done);
    if (strcmp(type, towers->text_type) != 0)
        return REFUSE(f, "text_config of model_type %.64s is not supported, only %s", type, towers->text_type);
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
                         c->arch->kv_heads_needed && !json_object_get(f->object, "num_key_value_heads"), 1,
                         TDM_HEADS_MAX, &c->kv_heads),
            done);
    c->head_dim = c->arch->head_dim ? c->arch->head_dim : c->width / c->heads;
    if (!c->arch->head_dim && !tdm_json_get(f->object, "head_dim") && c->width % c->heads != 0)
        return TDM_FAIL(f->err, TDM_ERR_INPUT, f->where, "is config.json damaged?",
                        "hidden_size %" PRId64 " is not a multiple of %" PRId64 " heads", c->width, c->heads);
    TDM_TRY(st, tdm_json_int(f, "head_dim", false, 1, TDM_HEAD_DIM_MAX, &c->head_dim), done);
    c->context = c->arch->context;
    TDM_TRY(st, tdm_json_int(f, "max_position_embeddings", false, 1, TDM_CONTEXT_MAX, &c->context), done);
done:
    return st;
}

static tdm_status read_features(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    const tdm_arch *a = c->arch;
    double eps = a->norm_eps;
    const char *act = a->activations[0];
    bool bias = false, known = false;
    TDM_TRY(st, tdm_json_real(f, "rms_norm_eps", false, 1e-30, 1, &eps), done);
    c->norm_eps = (float)eps;
    TDM_TRY(st, tdm_json_str(f, a->activation, &act), done);
    for (const char *const *name = a->activations; *name; name++) known |= strcmp(act, *name) == 0;
    if (!known) return REFUSE(f, "%s %.64s is not supported, only %s", a->activation, act, a->activations[0]);
    c->glu = a->glu;
    if (a->attention_bias) TDM_TRY(st, tdm_json_bool(f, "attention_bias", &bias), done);
    if (a->mlp_bias) TDM_TRY(st, tdm_json_bool(f, "mlp_bias", &c->mlp_bias), done);
    c->o_bias = bias;
    c->qkv_bias = bias || a->qkv_bias;
    c->qk_norm = a->qk_norm;
done:
    return st;
}

/* Of a checkpoint of several towers the outer config decides. */
static tdm_status read_tied(tdm_model_config *c, const tdm_json_fields *outer, const tdm_json_fields *f)
{
    c->tied_head = c->arch->tied;
    const tdm_status st = tdm_json_bool(f, "tie_word_embeddings", &c->tied_head);
    return st == TDM_OK ? tdm_json_bool(outer, "tie_word_embeddings", &c->tied_head) : st;
}

/* Features some configs of these model types switch on and none of our kernels compute. */
static tdm_status refuse_others(const tdm_model_config *c, const tdm_json_fields *f)
{
    static const char *const experts[] = {"num_experts", "num_local_experts", "n_routed_experts",
                                          "moe_intermediate_size"};
    static const char *const flags[] = {"use_mrope", "use_qk_norm", "use_dual_chunk_attention"};
    tdm_status st = TDM_OK;
    for (size_t i = 0; !c->arch->experts && i < TDM_COUNT(experts); i++) {
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

static tdm_status read_special(tdm_model_config *c, const tdm_json_fields *outer, const tdm_json_fields *f, const json_t *generation)
{
    tdm_status st = TDM_OK;
    int64_t bos = -1;
    TDM_TRY(st, tdm_json_int(f, "bos_token_id", false, -1, INT32_MAX, &bos), done);
    if (c->towers) TDM_TRY(st, tdm_json_int(outer, "bos_token_id", false, -1, INT32_MAX, &bos), done);
    c->bos = bos < c->vocab ? (int32_t)bos : -1;
    TDM_TRY(st, read_eos(c, f->object, f->where, f->err), done);
    if (c->towers) TDM_TRY(st, read_eos(c, outer->object, f->where, f->err), done);
    TDM_TRY(st, read_eos(c, generation, "generation_config.json", f->err), done);
done:
    return st;
}

bool tdm_has_dense_ffn(const tdm_model_config *c)
{
    for (int64_t l = 0; l < c->layers; l++)
        if (!c->sparse[l]) return true;
    return false;
}

int64_t tdm_ffn_columns(const tdm_model_config *c)
{
    return tdm_max_i64(tdm_has_dense_ffn(c) ? c->ffn : 0, c->experts_used * c->expert_ffn);
}

tdm_status tdm_model_config_from_json(tdm_model_config *c, const json_t *config, const json_t *generation,
                                      const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_json_fields outer = {config, where, err};
    tdm_json_fields f = outer;
    *c = (tdm_model_config){.bos = -1};
    TDM_TRY(st, read_arch(c, &f), done);
    TDM_TRY(st, refuse_others(c, &f), done);
    TDM_TRY(st, read_shape(c, &f), done);
    TDM_TRY(st, tdm_model_config_check(c, where, err), done);
    TDM_TRY(st, read_features(c, &f), done);
    TDM_TRY(st, read_tied(c, &outer, &f), done);
    TDM_TRY(st, tdm_model_config_rope(c, &f), done);
    TDM_TRY(st, tdm_model_config_window(c, &f), done);
    if (c->arch->read) TDM_TRY(st, c->arch->read(c, &f), done);
    TDM_TRY(st, read_special(c, &outer, &f, generation), done);
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
