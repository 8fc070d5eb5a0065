#include "infer/adapter.h"

#include <math.h>

#include "kernels/philox.h"
#include "memory/arch/arch.h"

const char *tdm_adapter_targets(const tdm_model_config *c, bool target[TDM_PROJ_COUNT])
{
    const char *split = NULL;
    if (!c->arch->fused) return NULL;
    if (target[TDM_PROJ_Q] != target[TDM_PROJ_K] || target[TDM_PROJ_Q] != target[TDM_PROJ_V]) split = "qkv_proj";
    if (target[TDM_PROJ_GATE] != target[TDM_PROJ_UP]) split = "gate_up_proj";
    target[TDM_PROJ_K] = target[TDM_PROJ_V] = target[TDM_PROJ_UP] = false;
    return split;
}

bool tdm_adapter_ffn_differs(const tdm_model_config *c, const bool target[TDM_PROJ_COUNT])
{
    return c->experts > 0 && tdm_has_dense_ffn(c) && (target[TDM_PROJ_GATE] || target[TDM_PROJ_UP] || target[TDM_PROJ_DOWN]);
}

void tdm_adapter_init(tdm_adapter *a, const tdm_adapter_spec *spec, const tdm_model_config *c)
{
    *a = (tdm_adapter){.spec = *spec, .layers = c->layers};
    (void)tdm_adapter_targets(c, a->spec.target);
    TDM_ASSERT(!tdm_adapter_ffn_differs(c, a->spec.target));
    a->scale = spec->rslora ? spec->alpha / sqrtf((float)spec->rank) : spec->alpha / (float)spec->rank;
    int64_t at = 0;
    for (int p = 0; p < TDM_PROJ_COUNT; p++) {
        a->offset_a[p] = a->offset_b[p] = -1;
        tdm_proj_shape(c, (tdm_proj)p, &a->n[p], &a->k[p]);
        if (!a->spec.target[p]) continue;
        a->modules[p] = tdm_proj_modules(c, 0, (tdm_proj)p);
        a->step[p] = spec->rank * (a->n[p] + a->k[p]);
        a->offset_a[p] = at;
        a->offset_b[p] = at + spec->rank * a->k[p];
        at += a->modules[p] * a->step[p];
    }
    a->layer_count = at;
    a->head_first = at * c->layers;
    a->head_count = spec->head ? c->width : 0;
    a->count = a->head_first + a->head_count;
}

static tdm_cview at(const tdm_adapter *a, int64_t layer, int64_t offset, int64_t rows, int64_t cols)
{
    if (offset < 0) return (tdm_cview){0};
    return (tdm_cview){a->param + layer * a->layer_count + offset, TDM_DTYPE_BF16, rows, cols, cols};
}

tdm_cview tdm_adapter_a(const tdm_adapter *a, int64_t layer, tdm_proj p) { return at(a, layer, a->offset_a[p], a->spec.rank, a->k[p]); }
tdm_cview tdm_adapter_b(const tdm_adapter *a, int64_t layer, tdm_proj p) { return at(a, layer, a->offset_b[p], a->n[p], a->spec.rank); }

tdm_cview tdm_adapter_expert(const tdm_adapter *a, tdm_cview first, tdm_proj p, int64_t expert)
{
    if (first.data) first.data = (const uint16_t *)first.data + expert * a->step[p];
    return first;
}

tdm_cview tdm_adapter_head(const tdm_adapter *a)
{
    TDM_ASSERT(a->head && a->head_count > 0);
    return (tdm_cview){a->head, TDM_DTYPE_F32, 1, a->head_count, a->head_count};
}

void tdm_adapter_init_params(const tdm_adapter *a, uint64_t seed, float *master)
{
    for (int64_t layer = 0; layer < a->layers; layer++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++)
            for (int64_t e = 0; a->offset_a[p] >= 0 && e < a->modules[p]; e++) {
                const float bound = 1.0f / sqrtf((float)a->k[p]);
                const uint32_t module = (uint32_t)(p + e * TDM_PROJ_COUNT);
                float *m = master + layer * a->layer_count + e * a->step[p];
                for (int64_t i = 0; i < a->spec.rank * a->k[p]; i++) {
                    const tdm_philox4 r = tdm_philox(seed, (uint32_t)i, (uint32_t)layer, module, 0x4c6f5241u /* "LoRA": apart from sampling */);
                    m[a->offset_a[p] + i] = (2.0f * tdm_uniform(r.v[0]) - 1.0f) * bound;
                }
                for (int64_t i = 0; i < a->spec.rank * a->n[p]; i++) m[a->offset_b[p] + i] = 0.0f;
            }
    for (int64_t i = 0; i < a->head_count; i++) master[a->head_first + i] = 0.0f;
}
