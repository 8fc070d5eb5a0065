/* quantization_config. Source: compressed-tensors, quantization/quant_config.py and quant_args.py; transformers,
 * utils/quantization_config.py (FineGrainedFP8Config); vLLM, model_executor/layers/quantization/fp8.py
 * (Fp8Config.from_config). */
#include "runtime/cmd/model_config_out.h"

#include <inttypes.h>

#include "memory/fp8_checkpoint.h"
#include "runtime/cmd/model_tensors.h"

tdm_status tdm_fp8_layout_of(const tdm_weights *w, const char *where, tdm_fp8_layout *out, tdm_error *err)
{
    *out = (tdm_fp8_layout){.scheme = TDM_SCHEME_BF16, .act = TDM_ACT_NONE};
    for (int64_t i = 0; i < tdm_weights_config(w)->layers; i++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            /* experts of a layer are alike */
            const tdm_weight *m = tdm_layer_matrix(tdm_weights_layer(w, i), (tdm_proj)p, 0);
            const int64_t modules = tdm_proj_modules(tdm_weights_config(w), i, (tdm_proj)p);
            if (m->codes.rows == 0) continue;
            if (m->scheme == TDM_SCHEME_BF16) {
                out->kept += modules;
                continue;
            }
            if (out->quantized == 0) {
                out->scheme = m->scheme;
                out->act = m->act;
            }
            out->quantized += modules;
            if (m->scheme == out->scheme && m->act == out->act) continue;
            char module[TDM_TENSOR_NAME_BYTES];
            tdm_expert_name(tdm_weights_config(w), module, i, 0, (tdm_proj)p);
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "start from the unquantized model",
                            "%s is quantized otherwise than the modules before it", module);
        }
    return TDM_OK;
}

tdm_status tdm_fp8_format_check(tdm_fp8_format format, const tdm_fp8_layout *l, tdm_error *err)
{
    const char *hint = "use --format compressed-tensors";
    if (format == TDM_FP8_FORMAT_COMPRESSED || l->scheme == TDM_SCHEME_BF16) return TDM_OK;
    if (l->scheme == TDM_SCHEME_FP8_CHANNEL)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line: --format", hint,
                        "format fp8 has one scale, or one per block, and the weights have one per row");
    if (l->act == TDM_ACT_NONE)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line: --format", hint, "format fp8 always quantizes activations");
    return TDM_OK;
}

/* Names of the modules that stayed BF16; both methods are told of the head as well. */
static json_t *kept_modules(const tdm_weights *w)
{
    char module[TDM_TENSOR_NAME_BYTES];
    json_t *list = json_array();
    const tdm_model_config *c = tdm_weights_config(w);
    bool made = list && json_array_append_new(list, json_string("lm_head")) == 0;
    for (int64_t i = 0; made && i < c->layers; i++) {
        for (int p = 0; made && p < TDM_PROJ_COUNT; p++)
            for (int64_t e = 0; made && e < tdm_proj_modules(c, i, (tdm_proj)p); e++) {
                const tdm_weight *m = tdm_layer_matrix(tdm_weights_layer(w, i), (tdm_proj)p, e);
                if (m->codes.rows == 0 || m->scheme != TDM_SCHEME_BF16) continue;
                tdm_expert_name(c, module, i, e, (tdm_proj)p);
                made = json_array_append_new(list, json_string(module)) == 0;
            }
        if (!made || !c->sparse[i]) continue;
        tdm_router_name(module, i);
        made = json_array_append_new(list, json_string(module)) == 0;
    }
    if (made) return list;
    json_decref(list);
    return NULL;
}

static json_t *float8(const char *strategy, bool dynamic)
{
    return json_pack("{s:i,s:s,s:b,s:s,s:b,s:n,s:n}", "num_bits", 8, "type", "float", "symmetric", 1, "strategy",
                     strategy, "dynamic", dynamic, "group_size", "block_structure");
}

static json_t *compressed_weights(tdm_scheme scheme)
{
    static const char *const strategies[] = {NULL, "tensor", "channel", "block"};
    json_t *w = float8(strategies[scheme], false);
    if (w && scheme == TDM_SCHEME_FP8_BLOCK)
        json_object_set_new(w, "block_structure", json_pack("[i,i]", TDM_FP8_BLOCK, TDM_FP8_BLOCK));
    if (w) json_object_set_new(w, "observer", json_string("minmax"));
    return w;
}

static json_t *compressed_activations(const tdm_fp8_layout *l)
{
    static const char *const strategies[] = {NULL, "tensor", "token", "group"};
    if (l->act == TDM_ACT_NONE) return json_null();
    if (l->act == TDM_ACT_STATIC) return float8("tensor", false);
    json_t *a = float8(strategies[l->scheme], true);
    if (a && l->scheme == TDM_SCHEME_FP8_BLOCK) json_object_set_new(a, "group_size", json_integer(TDM_FP8_BLOCK));
    return a;
}

static json_t *compressed(const tdm_fp8_layout *l, json_t *kept, bool kv)
{
    return json_pack("{s:s,s:s,s:s,s:n,s:o,s:o,s:{s:{s:[s],s:o,s:o,s:n,s:s}}}", "quant_method", "compressed-tensors",
                     "format", "float-quantized", "quantization_status", "compressed", "global_compression_ratio",
                     "kv_cache_scheme", kv ? float8("tensor", false) : json_null(), "ignore", kept, "config_groups", "group_0", "targets", "Linear", "weights",
                     compressed_weights(l->scheme), "input_activations", compressed_activations(l),
                     "output_activations", "format", "float-quantized");
}

/* Both names of the list: vLLM has read ignored_layers for longer. weight_block_size null is said, because transformers
 * would assume 128 x 128. */
static json_t *fine_grained(const tdm_fp8_layout *l, json_t *kept)
{
    json_t *block = l->scheme == TDM_SCHEME_FP8_BLOCK ? json_pack("[i,i]", TDM_FP8_BLOCK, TDM_FP8_BLOCK) : json_null();
    return json_pack("{s:s,s:s,s:s,s:o,s:O,s:o}", "quant_method", "fp8", "fmt", "e4m3", "activation_scheme",
                     l->act == TDM_ACT_STATIC ? "static" : "dynamic", "weight_block_size", block,
                     "modules_to_not_convert", kept, "ignored_layers", kept);
}

json_t *tdm_quantization_json(const tdm_weights *w, const tdm_fp8_layout *l, tdm_fp8_format format, bool kv)
{
    json_t *kept = kept_modules(w);
    TDM_ASSERT(l->scheme != TDM_SCHEME_BF16);
    if (!kept) return NULL;
    return format == TDM_FP8_FORMAT_COMPRESSED ? compressed(l, kept, kv) : fine_grained(l, kept);
}
