/* The rotary embedding as config.json says it. Old files: rope_theta beside rope_scaling (or null). transformers 5: one object,
 * rope_parameters, with both, or one such object for each type of layer. */
#include "memory/model_config_read.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define REFUSE(f, ...) TDM_FAIL((f)->err, TDM_ERR_INPUT, (f)->where, "use a model without it", __VA_ARGS__)

static tdm_status read_llama3(tdm_model_config *c, const tdm_json_fields *g)
{
    tdm_status st = TDM_OK;
    c->rope = TDM_ROPE_LLAMA3;
    c->rope_original_context = c->context;
    TDM_TRY(st, tdm_json_real(g, "low_freq_factor", true, 1e-3, 1e6, &c->rope_low_freq), done);
    TDM_TRY(st, tdm_json_real(g, "high_freq_factor", true, 1e-3, 1e6, &c->rope_high_freq), done);
    TDM_TRY(st, tdm_json_int(g, "original_max_position_embeddings", false, 1, TDM_CONTEXT_MAX, &c->rope_original_context), done);
    if (c->rope_high_freq <= c->rope_low_freq)
        return REFUSE(g, "high_freq_factor %g is not above low_freq_factor %g", c->rope_high_freq, c->rope_low_freq);
    TDM_TRY(st, tdm_json_real(g, "factor", true, 1e-3, 1e6, &c->rope_factor), done);
done:
    return st;
}

static tdm_status read_factors(const tdm_model_config *c, const tdm_json_fields *g, const char *key, float *out)
{
    const json_t *list = tdm_json_get(g->object, key);
    const int64_t count = tdm_rope_dim(c) / 2;
    if (!json_is_array(list) || (int64_t)json_array_size(list) != count)
        return REFUSE(g, "%s is not a list of %" PRId64 " numbers", key, count);
    for (int64_t i = 0; i < count; i++) {
        out[i] = (float)json_number_value(json_array_get(list, (size_t)i));
        if (!(out[i] > 0 && isfinite(out[i]))) return REFUSE(g, "%s: number %" PRId64 " is not above 0", key, i);
    }
    return TDM_OK;
}

/* `scaling` and the config beside it, where Phi keeps original_max_position_embeddings. */
static tdm_status read_long(tdm_model_config *c, const tdm_json_fields *f, const tdm_json_fields *g)
{
    tdm_status st = TDM_OK;
    double attention = 0, factor = 0;
    c->rope = TDM_ROPE_LONG;
    c->rope_original_context = c->context;
    TDM_TRY(st, tdm_json_int(f, "original_max_position_embeddings", false, 2, TDM_CONTEXT_MAX, &c->rope_original_context), done);
    TDM_TRY(st, tdm_json_int(g, "original_max_position_embeddings", false, 2, TDM_CONTEXT_MAX, &c->rope_original_context), done);
    TDM_TRY(st, read_factors(c, g, "short_factor", c->rope_factors), done);
    TDM_TRY(st, read_factors(c, g, "long_factor", c->rope_long_factors), done);
    TDM_TRY(st, tdm_json_real(g, "attention_factor", false, 1e-3, 1e3, &attention), done);
    TDM_TRY(st, tdm_json_real(g, "factor", false, 1e-3, 1e6, &factor), done);
    tdm_rope_set_attention(c, attention, factor);
done:
    return st;
}

static tdm_status read_scaling(tdm_model_config *c, const tdm_json_fields *f, const tdm_json_fields *g, const char *key)
{
    tdm_status st = TDM_OK;
    const char *type = NULL, *old_type = NULL;
    TDM_TRY(st, tdm_json_str(g, "type", &old_type), done);
    TDM_TRY(st, tdm_json_str(g, "rope_type", &type), done);
    if (!type) type = old_type ? old_type : "default";
    if (strcmp(type, "default") == 0 || (c->towers && strcmp(type, "mrope") == 0)) goto done;
    if (strcmp(type, "llama3") == 0) return read_llama3(c, g);
    if (c->arch->longrope && (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0 || strcmp(type, "yarn") == 0))
        return read_long(c, f, g);
    if (strcmp(type, "linear") != 0)
        return REFUSE(f, "%s of type %.64s is not supported, only linear and llama3", key, type);
    c->rope = TDM_ROPE_LINEAR;
    TDM_TRY(st, tdm_json_real(g, "factor", true, 1e-3, 1e6, &c->rope_factor), done);
done:
    return st;
}

static tdm_status read_partial(tdm_model_config *c, const tdm_json_fields *f, const tdm_json_fields *g)
{
    tdm_status st = TDM_OK;
    double partial = 1;
    TDM_TRY(st, tdm_json_real(f, "partial_rotary_factor", false, 0, 1, &partial), done);
    if (g->object) TDM_TRY(st, tdm_json_real(g, "partial_rotary_factor", false, 0, 1, &partial), done);
    if (partial >= 1) goto done;
    c->rope_dim = (int64_t)((double)c->head_dim * partial);
    if (!c->arch->partial_rotary || c->rope_dim < 4 || c->rope_dim % 4 != 0)
        return REFUSE(f, "partial_rotary_factor %g is not supported", partial);
done:
    return st;
}

/* rope_parameters of both kinds of layers; *main is then what those without a window have. */
static tdm_status read_kinds(tdm_model_config *c, const tdm_json_fields *f, const char *key, const json_t **main)
{
    tdm_status st = TDM_OK;
    const char *k, *type = "default";
    json_t *given;
    bool kinds = false;
    json_object_foreach((json_t *)(uintptr_t)*main, k, given)
    {
        if (!json_is_object(given)) continue;
        const bool known = strcmp(k, "full_attention") == 0 || strcmp(k, "sliding_attention") == 0;
        if (!known || c->arch->rope_local_theta <= 0)
            return REFUSE(f, "%s differs between layers (%.64s), which is not supported", key, k);
        kinds = true;
    }
    if (!kinds) goto done;
    const tdm_json_fields local = {tdm_json_get(*main, "sliding_attention"), f->where, f->err};
    *main = tdm_json_get(*main, "full_attention");
    if (!local.object) goto done;
    TDM_TRY(st, tdm_json_real(&local, "rope_theta", false, 1, 1e15, &c->rope_local_theta), done);
    TDM_TRY(st, tdm_json_str(&local, "rope_type", &type), done);
    if (strcmp(type, "default") != 0) return REFUSE(f, "%s of type %.64s for layers with a window is not supported", key, type);
done:
    return st;
}

void tdm_rope_set_attention(tdm_model_config *c, double attention, double factor)
{
    if (factor <= 0) factor = (double)c->context / (double)c->rope_original_context;
    if (attention <= 0) attention = factor <= 1 ? 1 : sqrt(1 + log(factor) / log((double)c->rope_original_context));
    c->rope_attention = (float)attention;
}

tdm_status tdm_model_config_rope(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    const json_t *scaling = tdm_json_get(f->object, "rope_scaling");
    const char *key = scaling ? "rope_scaling" : "rope_parameters";
    if (!scaling) scaling = tdm_json_get(f->object, "rope_parameters");
    if (scaling && !json_is_object(scaling)) return REFUSE(f, "%s is not an object", key);

    c->rope_theta = c->arch->rope_theta;
    c->rope_local_theta = c->arch->rope_local_theta;
    TDM_TRY(st, tdm_json_real(f, "rope_theta", false, 1, 1e15, &c->rope_theta), done);
    if (c->rope_local_theta > 0) TDM_TRY(st, tdm_json_real(f, "rope_local_base_freq", false, 1, 1e15, &c->rope_local_theta), done);
    if (scaling) TDM_TRY(st, read_kinds(c, f, key, &scaling), done);
    const tdm_json_fields g = {scaling, f->where, f->err};
    TDM_TRY(st, read_partial(c, f, &g), done);
    if (!scaling) goto done;
    TDM_TRY(st, tdm_json_real(&g, "rope_theta", false, 1, 1e15, &c->rope_theta), done);
    TDM_TRY(st, read_scaling(c, f, &g, key), done);
done:
    return st;
}
