/* Layer inputs in host memory: with layers computed again in backward, an input is read once in forward and once in backward, so between
 * the two it may be elsewhere. Two inputs lie in the train layout, layer l's in place l % 2; copies run beside the layers.
 *   forward   input l leaves while layer l runs; layer l + 1, which writes over its place, waits for that
 *   backward  input l - 1 comes once layer l is computed again (which writes where it will lie), while layer l's backward runs */
#include "train/trainer_internal.h"

static tdm_view held(const tdm_trainer *t, int64_t layer) { return tdm_view_rows(t->x[layer], 0, t->batch.tokens); }
static size_t bytes_of(tdm_view v) { return (size_t)(v.rows * v.cols) * tdm_dtype_bytes(v.dtype); }
static void *kept(const tdm_trainer *t, int64_t layer) { return t->inputs + (size_t)layer * t->input_bytes; }

/* The last layer's input is still in its place when backward begins. */
static int64_t last(const tdm_trainer *t) { return t->m->c->layers - 1; }

tdm_status tdm_offload_forward(const tdm_trainer *t, int64_t layer, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_view x = held(t, layer);
    if (!t->inputs) return TDM_OK;
    if (layer < last(t)) TDM_TRY(st, t->m->be->side_out(t->m->s, (int)(layer % 2), kept(t, layer), x.data, bytes_of(x), err), done);
    if (layer > 0) TDM_TRY(st, t->m->be->side_join(t->m->s, (int)((layer - 1) % 2), err), done);
done:
    return st;
}

tdm_status tdm_offload_recompute(const tdm_trainer *t, int64_t layer, tdm_error *err)
{
    if (!t->inputs || layer == last(t)) return TDM_OK;
    return t->m->be->side_join(t->m->s, (int)(layer % 2), err);
}

tdm_status tdm_offload_backward(const tdm_trainer *t, int64_t layer, tdm_error *err)
{
    if (!t->inputs || layer == 0) return TDM_OK;
    const tdm_view x = held(t, layer - 1);
    return t->m->be->side_in(t->m->s, (int)((layer - 1) % 2), x.data, kept(t, layer - 1), bytes_of(x), err);
}
