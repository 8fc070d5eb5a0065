/* How the weights are kept: rules across the keys of `model` that say so, and what the weight store is told. */
#include "runtime/recipe/schema.h"

#include "memory/module_patterns.h"

#define REFUSE(key, hint, ...) TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(r, (key), (char[TDM_RECIPE_WHERE]){0}), (hint), __VA_ARGS__)

/* ROLL's rule: blocks are of e4m3, dynamic and 128 x 128, all of it or an error. */
static tdm_status check_block(const tdm_recipe *r, tdm_error *err)
{
    const tdm_numbers *b = &r->model.weight_block_size;
    if (b->count == 0) return TDM_OK;
    if (r->model.weights != TDM_SCHEME_FP8_BLOCK)
        return REFUSE("model.weight_block_size", "use model.weights: fp8_block, or remove it", "model.weight_block_size is of fp8_block alone");
    if (b->count != 2 || b->items[0] != TDM_FP8_BLOCK || b->items[1] != TDM_FP8_BLOCK)
        return REFUSE("model.weight_block_size", "use [128, 128], the blocks that checkpoints and kernels have", "model.weight_block_size is not [128, 128]");
    return TDM_OK;
}

static tdm_status check_pow2(const tdm_recipe *r, const char *key, bool value, tdm_error *err)
{
    if (!r->model.pow2_scale || value || !tdm_recipe_given(r, key)) return TDM_OK;
    return REFUSE(key, "remove model.pow2_scale, and set each of the two", "model.pow2_scale is for weights and activations, and %s says no", key);
}

/* A module that is to be FP8 and is named in keep_bf16 by the person, not by the default. */
static tdm_status check_kept(const tdm_recipe *r, const char *key, tdm_precision precision, const char *module, tdm_error *err)
{
    if (precision != TDM_PRECISION_FP8 || !tdm_recipe_given(r, "model.keep_bf16")) return TDM_OK;
    for (const char *const *name = r->model.keep_bf16.items; *name; name++) {
        bool hit;
        const tdm_status st = tdm_module_named(*name, module, tdm_recipe_where(r, "model.keep_bf16", (char[TDM_RECIPE_WHERE]){0}), &hit, err);
        if (st != TDM_OK) return st;
        if (hit)
            return REFUSE(key, "remove it, or take the name out of model.keep_bf16", "%s: fp8, and model.keep_bf16 keeps \"%.64s\"", key, *name);
    }
    return TDM_OK;
}

/* The resolved recipe says every key, and has to mean the same. */
static void settle(tdm_recipe_model *m, bool keep_given)
{
    static const char *const none[] = {NULL};
    if (m->pow2_scale) m->pow2_weight_scales = m->pow2_activation_scales = true;
    if (m->lm_head == TDM_PRECISION_FP8 && !keep_given) m->keep_bf16 = (tdm_strings){none, 0};
}

tdm_status tdm_recipe_settle_fp8(tdm_recipe *r, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_recipe_model *m = &r->model;
    if (m->fmt == TDM_FP8_E5M2)
        return REFUSE("model.fmt", "use model.fmt: e4m3",
                      "model.fmt: e5m2 is not supported: its range is of no use to values with scales, and it has half of e4m3's precision");
    if (m->activations == TDM_ACT_STATIC && (m->weights == TDM_SCHEME_FP8_CHANNEL || m->weights == TDM_SCHEME_FP8_BLOCK))
        return REFUSE("model.activations", "use model.weights: fp8_tensor, or activations: dynamic",
                      "model.activations: static needs one scale for each tensor, and model.weights has more");
    if (m->activation_scales[0] && r->memory.kv_dtype != TDM_DTYPE_E4M3 && (m->activations != TDM_ACT_STATIC || m->weights != TDM_SCHEME_FP8_TENSOR))
        return REFUSE("model.activation_scales", "use model.weights: fp8_tensor and activations: static, or memory.kv: fp8, or remove it",
                      "model.activation_scales is of static activations and of an FP8 KV cache, and the recipe has neither");
    TDM_TRY(st, check_block(r, err), done);
    TDM_TRY(st, check_pow2(r, "model.pow2_weight_scales", m->pow2_weight_scales, err), done);
    TDM_TRY(st, check_pow2(r, "model.pow2_activation_scales", m->pow2_activation_scales, err), done);
    TDM_TRY(st, check_kept(r, "model.lm_head", m->lm_head, "lm_head", err), done);
    TDM_TRY(st, check_kept(r, "model.embedding", m->embedding, "model.embed_tokens", err), done);
    settle(m, tdm_recipe_given(r, "model.keep_bf16"));
done:
    return st;
}

tdm_weights_options tdm_recipe_weights(const tdm_recipe *r)
{
    const tdm_recipe_model *m = &r->model;
    return (tdm_weights_options){.scheme = m->weights,
                                 .scheme_given = tdm_recipe_given(r, "model.weights"),
                                 .act = m->activations,
                                 .pow2_weights = m->pow2_weight_scales,
                                 .pow2_acts = m->pow2_activation_scales,
                                 .activation_scales = m->activation_scales[0] ? m->activation_scales : NULL,
                                 .fp8_head = m->lm_head == TDM_PRECISION_FP8,
                                 .fp8_embedding = m->embedding == TDM_PRECISION_FP8,
                                 .first_layers_bf16 = m->first_layers_bf16,
                                 .last_layers_bf16 = m->last_layers_bf16,
                                 .keep_bf16 = m->keep_bf16.items};
}
