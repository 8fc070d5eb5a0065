#include "memory/weights.h"
#include "memory/weights_load.h"
#include "memory/weights_plan.h"
#include "memory/weights_random.h"

#include <stdlib.h>

tdm_status tdm_weights_bytes(const tdm_model_file *f, const tdm_weights_options *o, size_t *bytes, tdm_error *err)
{
    tdm_weights_plan plan;
    const tdm_status st = tdm_weights_plan_make(&plan, f, o, err);
    *bytes = st == TDM_OK ? plan.bytes : 0;
    tdm_weights_plan_free(&plan);
    return st;
}

tdm_status tdm_weights_open(tdm_weights **w, const tdm_model_file *f, const tdm_weights_options *o, const tdm_region *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_weights_plan plan;

    *w = NULL;
    TDM_ASSERT((uintptr_t)region->base % 64 == 0);
    TDM_TRY(st, tdm_weights_plan_make(&plan, f, o, err), done);
    if (plan.bytes > region->bytes) {
        st = TDM_FAIL(err, TDM_ERR_BUDGET, tdm_model_file_path(f),
                      "raise memory.budget, or use an FP8 scheme for model.weights",
                      "the weights need %zu bytes, their region has %zu", plan.bytes, region->bytes);
        goto done;
    }
    tdm_weights_plan_place(&plan, region);
    TDM_TRY(st, tdm_model_file_random(f) ? tdm_weights_draw(&plan, region, err) : tdm_weights_load(&plan, region, err), done);
    *w = plan.w;
    plan.w = NULL;
done:
    tdm_weights_plan_free(&plan);
    return st;
}

void tdm_weights_close(tdm_weights *w)
{
    if (!w) return;
    free(w->layers);
    free(w);
}

const tdm_model_config *tdm_weights_config(const tdm_weights *w) { return &w->config; }

const tdm_layer_weights *tdm_weights_layer(const tdm_weights *w, int64_t layer)
{
    TDM_ASSERT(layer >= 0 && layer < w->config.layers);
    return &w->layers[layer];
}

const tdm_weight *tdm_weights_embedding(const tdm_weights *w) { return &w->embedding; }
const tdm_weight *tdm_weights_head(const tdm_weights *w) { return w->config.tied_head ? &w->embedding : &w->head; }
bool tdm_weights_batch_dependent(const tdm_weights *w)
{
    for (int64_t l = 0; l < tdm_weights_config(w)->layers; l++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            const tdm_weight *m = &tdm_weights_layer(w, l)->proj[p];
            if (m->scheme == TDM_SCHEME_FP8_TENSOR && m->act == TDM_ACT_DYNAMIC) return true;
        }
    return false;
}

tdm_cview tdm_weights_final_norm(const tdm_weights *w) { return w->final_norm; }

enum { HASH_CHUNK = 1 << 20 };
#define HASH_START UINT64_C(0xcbf29ce484222325)

static uint64_t fnv(uint64_t h, const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

tdm_status tdm_weights_hash(const tdm_weights *w, uint64_t *hash, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_region *r = &w->region;
    const bool host = tdm_region_is_host(r);
    unsigned char *chunk = host ? NULL : malloc(HASH_CHUNK); /* owned here */
    if (!host && !chunk) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for hashing the weights");
    *hash = HASH_START;
    for (size_t at = 0; at < w->bytes; at += HASH_CHUNK) {
        const size_t n = w->bytes - at < HASH_CHUNK ? w->bytes - at : HASH_CHUNK;
        const unsigned char *p = (const unsigned char *)r->base + at;
        if (!host) {
            TDM_TRY(st, r->be->download(r->s, chunk, p, n, err), done);
            TDM_TRY(st, r->be->stream_sync(r->s, err), done);
            p = chunk;
        }
        const uint64_t part = fnv(HASH_START, p, n);
        *hash = fnv(*hash, (const unsigned char *)&part, sizeof part);
    }
done:
    free(chunk);
    return st;
}
