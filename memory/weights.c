#include "memory/weights.h"
#include "memory/weights_load.h"
#include "memory/weights_plan.h"
#include "memory/weights_random.h"

#include <stdlib.h>

tdm_status tdm_weights_bytes(const tdm_model_file *f, const tdm_weights_options *o, size_t *bytes, tdm_error *err)
{
    tdm_weights_plan plan;
    const tdm_status st = tdm_weights_plan_make(&plan, f, o, err);
    *bytes = st == TDM_OK ? plan.bytes - plan.host_bytes : 0;
    tdm_weights_plan_free(&plan);
    return st;
}

size_t tdm_weights_host_bytes(const tdm_model_file *f, const tdm_weights_options *o)
{
    const tdm_model_config *c = tdm_model_file_config(f);
    const size_t n = (size_t)(c->vocab * c->width);
    if (!o->embedding_on_host) return 0;
    if (!o->fp8_embedding) return tdm_align_up(n * sizeof(uint16_t), 64);
    return tdm_align_up(n, 64) + tdm_align_up((size_t)c->vocab * sizeof(float), 64);
}

static tdm_status fill(const tdm_weights_plan *p, const tdm_region *region, tdm_error *err)
{
    return tdm_model_file_random(p->file) ? tdm_weights_draw(p, region, err) : tdm_weights_load(p, region, err);
}

/* The first matrix, in host memory of its own. */
static tdm_status fill_embedding(const tdm_weights_plan *p, const tdm_backend *be, tdm_error *err)
{
    tdm_weights_plan embedding = *p;
    embedding.matrix_count = 1;
    embedding.vector_count = 0;
    TDM_ASSERT_EQ(p->host_bytes, tdm_weights_host_bytes(p->file, p->options));
    const tdm_status st = be->host_open(&p->w->host, p->host_bytes, err);
    if (st != TDM_OK) return st;
    p->w->host_bytes = p->host_bytes;
    p->w->embedding.codes.data = p->w->host;
    if (p->w->embedding.scheme != TDM_SCHEME_BF16) p->w->embedding.scale.data = (char *)p->w->host + p->matrices[0].scale_at;
    return fill(&embedding, &(tdm_region){p->w->host, p->host_bytes, NULL, NULL}, err);
}

/* All of the plan, or what comes after the embedding. */
static tdm_status fill_all(const tdm_weights_plan *p, const tdm_region *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_weights_plan rest = *p;
    if (p->host_bytes == 0) return fill(p, region, err);
    rest.matrices++;
    rest.matrix_count--;
    TDM_TRY(st, fill_embedding(p, region->be, err), done);
    TDM_TRY(st, fill(&rest, region, err), done);
done:
    return st;
}

tdm_status tdm_weights_open(tdm_weights **w, const tdm_model_file *f, const tdm_weights_options *o, const tdm_region *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_weights_plan plan;

    *w = NULL;
    TDM_ASSERT((uintptr_t)region->base % 64 == 0);
    TDM_TRY(st, tdm_weights_plan_make(&plan, f, o, err), done);
    if (plan.bytes - plan.host_bytes > region->bytes) {
        st = TDM_FAIL(err, TDM_ERR_BUDGET, tdm_model_file_path(f),
                      "raise memory.budget, or use an FP8 scheme for model.weights",
                      "the weights need %zu bytes, their region has %zu", plan.bytes - plan.host_bytes, region->bytes);
        goto done;
    }
    /* Offsets are those of the whole buffer: the region passes for one that begins with the part that lies on the host. */
    tdm_region whole = *region;
    whole.base = (void *)((uintptr_t)region->base - plan.host_bytes);
    whole.bytes += plan.host_bytes;
    tdm_weights_plan_place(&plan, &whole);
    TDM_TRY(st, fill_all(&plan, &whole, err), done);
    *w = plan.w;
    plan.w = NULL;
done:
    tdm_weights_plan_free(&plan);
    return st;
}

void tdm_weights_close(tdm_weights *w)
{
    if (!w) return;
    if (w->host) w->region.be->host_close(w->host, w->host_bytes);
    free(w->layers);
    free(w->experts);
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

bool tdm_weights_kv_scaled(const tdm_weights *w) { return w->kv_scaled; }
tdm_cview tdm_weights_final_norm(const tdm_weights *w) { return w->final_norm; }
