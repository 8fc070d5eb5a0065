#include "runtime/cmd/magnitudes.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BINS = 32768, INFINITE = 0x7f80 };

static int64_t *bins_of(const tdm_magnitudes *g, int64_t layer, tdm_proj site) { return g->count + (layer * TDM_PROJ_COUNT + site) * BINS; }

static size_t count_bytes(const tdm_model_config *c) { return (size_t)c->layers * TDM_PROJ_COUNT * BINS * sizeof(int64_t); }
static size_t rows_bytes(const tdm_model_config *c, int64_t tokens) { return (size_t)(tokens * tdm_proj_widest(c)) * sizeof(uint16_t); }

size_t tdm_magnitudes_bytes(const tdm_model_config *c, int64_t tokens) { return count_bytes(c) + rows_bytes(c, tokens); }

/* Rows with what lies between them, in one copy. */
static tdm_status fetch(const tdm_magnitudes *g, tdm_cview *x, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = g->m;
    if (!m->be->device) return m->be->stream_sync(m->s, err);
    const int64_t n = (x->rows - 1) * x->stride + x->cols;
    TDM_TRY(st, m->be->download(m->s, g->rows, x->data, (size_t)n * sizeof *g->rows, err), done);
    TDM_TRY(st, m->be->stream_sync(m->s, err), done);
    x->data = g->rows;
done:
    return st;
}

static tdm_status see(void *ctx, int64_t layer, tdm_proj site, tdm_cview x, tdm_error *err)
{
    const tdm_magnitudes *g = ctx;
    int64_t *bins = bins_of(g, layer, site);
    const tdm_status st = x.rows > 0 ? fetch(g, &x, err) : TDM_OK;
    if (st != TDM_OK) return st;
    for (int64_t t = 0; t < x.rows; t++) {
        const uint16_t *row = (const uint16_t *)x.data + t * x.stride;
        for (int64_t k = 0; k < x.cols; k++) bins[row[k] & 0x7fff]++;
    }
    return TDM_OK;
}

tdm_status tdm_magnitudes_open(tdm_magnitudes *g, const tdm_model *m, int64_t tokens, tdm_error *err)
{
    *g = (tdm_magnitudes){.observer = {see, g}, .m = m, .count = calloc(1, count_bytes(m->c)), .rows = m->be->device ? malloc(rows_bytes(m->c, tokens)) : NULL};
    if (g->count && (g->rows || !m->be->device)) return TDM_OK;
    tdm_magnitudes_close(g);
    return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for counts of magnitudes");
}

void tdm_magnitudes_close(tdm_magnitudes *g)
{
    free(g->count);
    free(g->rows);
    *g = (tdm_magnitudes){0};
}

/* *out 0: no value was seen. */
static tdm_status level(const tdm_magnitudes *g, int64_t layer, tdm_proj site, double percentile, const char *where, double *out, tdm_error *err)
{
    const int64_t *bins = bins_of(g, layer, site);
    int64_t all = 0, below = 0;
    int bin = 0;
    for (int i = 0; i < BINS; i++) all += bins[i];
    for (int i = INFINITE; i < BINS; i++)
        if (bins[i] > 0)
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "is the model sound?", "layer %" PRId64 " computes values that are not finite from this text", layer);
    *out = 0;
    if (all == 0) return TDM_OK;
    const double wanted = ceil((double)all * (percentile / 100.0));
    for (; (double)(below + bins[bin]) < wanted; bin++) below += bins[bin];
    *out = bin > 0 ? (double)tdm_bf16_to_f32((uint16_t)bin) : 1.0;
    return TDM_OK;
}

/* The place that is looked at for a projection: those that share an input have the first one's. */
static tdm_proj site_of(tdm_proj p)
{
    return p <= TDM_PROJ_V ? TDM_PROJ_Q : p == TDM_PROJ_UP ? TDM_PROJ_GATE : p;
}

static tdm_status add_layer(const tdm_magnitudes *g, int64_t layer, double percentile, const char *where, json_t *modules, json_t *kv, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char name[TDM_MODULE_BYTES];
    double value[2];
    bool made = true;
    for (int p = 0; p < TDM_PROJ_COUNT; p++) {
        if (!tdm_proj_path(g->m->c, (tdm_proj)p)) continue;
        TDM_TRY(st, level(g, layer, site_of((tdm_proj)p), percentile, where, &value[0], err), done);
        tdm_module_name(g->m->c, name, layer, (tdm_proj)p);
        made = made && json_object_set_new(modules, name, json_real(value[0])) == 0;
    }
    for (int i = 0; i < 2; i++) TDM_TRY(st, level(g, layer, i ? TDM_PROJ_V : TDM_PROJ_K, percentile, where, &value[i], err), done);
    snprintf(name, sizeof name, "model.layers.%" PRId64 ".self_attn", layer);
    made = made && json_object_set_new(kv, name, json_pack("[f,f]", value[0], value[1])) == 0;
    if (!made) st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the scales");
done:
    return st;
}

tdm_status tdm_magnitudes_json(const tdm_magnitudes *g, double percentile, const char *where, json_t **modules, json_t **kv, tdm_error *err)
{
    tdm_status st = TDM_OK;
    *modules = json_object();
    *kv = json_object();
    for (int64_t l = 0; l < g->m->c->layers; l++) TDM_TRY(st, add_layer(g, l, percentile, where, *modules, *kv, err), done);
done:
    return st;
}
