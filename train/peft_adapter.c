/* Between an adapter's folder and the engine's flat array. */
#include <inttypes.h>
#include <string.h>

#include "train/peft.h"

int64_t tdm_peft_from_adapter(const tdm_adapter *a, const float *master, tdm_peft_pair *pairs)
{
    int64_t count = 0;
    for (int64_t layer = 0; layer < a->layers; layer++) {
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            if (!a->spec.target[p]) continue;
            tdm_peft_pair *pair = &pairs[count++];
            *pair = (tdm_peft_pair){.layer = layer, .proj = (tdm_proj)p};
            int64_t r = a->spec.rank, at = layer * a->layer_count;
            if (master) {
                pair->a = (tdm_cview){master + at + a->offset_a[p], TDM_DTYPE_F32, r, a->k[p], a->k[p]};
                pair->b = (tdm_cview){master + at + a->offset_b[p], TDM_DTYPE_F32, a->n[p], r, r};
            } else {
                pair->a = tdm_adapter_a(a, layer, (tdm_proj)p);
                pair->b = tdm_adapter_b(a, layer, (tdm_proj)p);
            }
        }
    }
    return count;
}

tdm_adapter_spec tdm_peft_spec(const tdm_peft *p)
{
    const tdm_peft_config *c = tdm_peft_config_of(p);
    tdm_adapter_spec spec = {.rank = c->rank, .alpha = (float)c->alpha, .rslora = c->rslora};
    memcpy(spec.target, c->targets, sizeof spec.target);
    return spec;
}

static void to_f32(float *out, tdm_cview v)
{
    for (int64_t i = 0; i < v.rows * v.cols; i++) {
        uint32_t u = 0;
        if (v.dtype == TDM_DTYPE_F32) memcpy(&u, (const char *)v.data + 4 * i, 4);
        else memcpy((char *)&u + 2, (const char *)v.data + 2 * i, 2); /* little-endian: bf16 is the upper half */
        memcpy(&out[i], &u, 4);
    }
}

tdm_status tdm_peft_to_master(const tdm_peft *p, const tdm_adapter *a, float *master, tdm_error *err)
{
    const tdm_peft_config *c = tdm_peft_config_of(p);
    int64_t count;
    const tdm_peft_pair *pairs = tdm_peft_pairs(p, &count);
    if (c->rank != a->spec.rank)
        return TDM_FAIL(err, TDM_ERR_INPUT, "adapter_config.json", "set adapter.rank to the file's", "the adapter has r = %" PRId64 ", the recipe %" PRId64,
                        c->rank, a->spec.rank);
    for (int64_t layer = 0; layer < a->layers; layer++)
        for (int t = 0; t < TDM_PROJ_COUNT; t++)
            if (a->spec.target[t]) memset(master + layer * a->layer_count + a->offset_b[t], 0, (size_t)(a->n[t] * a->spec.rank) * sizeof *master);
    for (int64_t i = 0; i < count; i++) {
        tdm_proj proj = pairs[i].proj;
        if (!a->spec.target[proj] || pairs[i].layer >= a->layers)
            return TDM_FAIL(err, TDM_ERR_INPUT, "adapter_config.json", "add it to adapter.targets", "the adapter has %s in layer %" PRId64 ", the recipe does not",
                            tdm_peft_proj_paths[proj], pairs[i].layer);
        float *layer = master + pairs[i].layer * a->layer_count;
        TDM_ASSERT(pairs[i].a.cols == a->k[proj] && pairs[i].b.rows == a->n[proj]);
        to_f32(layer + a->offset_a[proj], pairs[i].a);
        to_f32(layer + a->offset_b[proj], pairs[i].b);
    }
    return TDM_OK;
}
