/* One forward over a ragged batch. */
#include "infer/engine_internal.h"

static tdm_view cut(char *memory, size_t *at, tdm_dtype dtype, int64_t rows, int64_t cols)
{
    tdm_view v = tdm_view_make(memory ? memory + *at : NULL, dtype, rows, cols);
    *at += tdm_align_up((size_t)(rows * cols) * tdm_dtype_bytes(dtype), 64);
    return v;
}

size_t tdm_engine_buffers_lay(tdm_engine_buffers *b, const tdm_model_config *c, const tdm_engine_spec *spec, char *memory)
{
    size_t at = 0;
    const tdm_acts_spec acts = {.tokens = spec->batch_tokens, .rank = spec->rank, .tape = false};
    b->x = cut(memory, &at, TDM_DTYPE_F32, spec->batch_tokens, c->width);
    tdm_layer_acts_cut(&b->acts, c, &acts, memory ? memory + at : NULL);
    at += tdm_layer_acts_bytes(c, &acts);
    tdm_scratch_cut(&b->scratch, c, spec->batch_tokens, false, memory ? memory + at : NULL);
    at += tdm_scratch_bytes(c, spec->batch_tokens, false);
    b->rows = cut(memory, &at, TDM_DTYPE_F32, spec->head_rows, c->width);
    b->rows_xn = cut(memory, &at, TDM_DTYPE_BF16, spec->head_rows, c->width);
    b->rows_codes = cut(memory, &at, TDM_DTYPE_E4M3, spec->head_rows, c->width);
    b->rows_scales = cut(memory, &at, TDM_DTYPE_F32, spec->head_rows, tdm_ceil_div(c->width, TDM_FP8_BLOCK));
    b->logits = cut(memory, &at, TDM_DTYPE_F32, spec->head_rows, c->vocab);
    return at;
}

void tdm_engine_batch(tdm_engine *e, tdm_slot_tokens_fn *tokens_of)
{
    int64_t t = 0, q_most = 0, kv_most = 0;
    for (int64_t b = 0; b < e->running; b++) {
        const tdm_slot *s = &e->slot[b];
        const int32_t *tokens = tokens_of(e, s);
        e->q_start[b] = (int32_t)t;
        e->kv_len[b] = (int32_t)(s->cached + s->take);
        for (int64_t i = 0; i < s->take; i++, t++) {
            e->ids[t] = tokens[s->cached + i];
            e->position[t] = (int32_t)(s->cached + i);
        }
        q_most = tdm_max_i64(q_most, s->take);
        kv_most = tdm_max_i64(kv_most, s->cached + s->take);
        for (int64_t i = 0; i < s->pages; i++) e->pages[b * e->pages_per_sequence + i] = s->page[i];
    }
    e->q_start[e->running] = (int32_t)t;
    e->batch = (tdm_batch){.tokens = t,
                           .sequences = e->running,
                           .q_start = tdm_engine_twin(e, e->q_start),
                           .kv_len = tdm_engine_twin(e, e->kv_len),
                           .position = tdm_engine_twin(e, e->position),
                           .pages = tdm_engine_twin(e, e->pages),
                           .pages_stride = e->pages_per_sequence,
                           .q_most = q_most,
                           .kv_most = kv_most};
}

tdm_status tdm_engine_push(const tdm_engine *e, tdm_error *err)
{
    return tdm_mirror_push(&e->mirror, e->m->s, e->ids, e->pushed_bytes, err);
}

tdm_status tdm_engine_forward(tdm_engine *e, const tdm_adapter *adapter, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_run run = {.m = e->m, .adapter = adapter, .batch = &e->batch, .scratch = e->buf.scratch,
                         .routes = e->spec.routes ? tdm_engine_twin(e, e->routes) : NULL};
    const tdm_view x = tdm_view_rows(e->buf.x, 0, e->batch.tokens);
    TDM_TRY(st, tdm_forward_embed(&run, x, tdm_engine_twin(e, e->ids), err), done);
    e->buf.acts.x_in = x;
    for (int64_t l = 0; l < e->m->c->layers; l++) {
        e->buf.acts.kv = tdm_kv_layer(&e->kv, l);
        TDM_TRY(st, tdm_forward_layer(&run, l, &e->buf.acts, x, err), done);
    }
    e->stats.forwards++;
done:
    return st;
}

tdm_status tdm_engine_logits(tdm_engine *e, const int32_t *rows, int64_t count, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_view picked = tdm_view_rows(e->buf.rows, 0, count);
    TDM_TRY(st, e->m->be->gather_rows(e->m->s, picked, tdm_view_const(tdm_view_rows(e->buf.x, 0, e->batch.tokens)), rows, err), done);
    TDM_TRY(st,
            tdm_forward_head(e->m, tdm_view_const(picked), e->buf.rows_xn, (tdm_view){0}, e->buf.rows_codes, e->buf.rows_scales,
                             e->buf.logits, err),
            done);
done:
    return st;
}

void tdm_slot_release(tdm_engine *e, tdm_slot *slot)
{
    for (int64_t i = 0; i < slot->pages; i++) tdm_kv_release(&e->kv, slot->page[i]);
    slot->pages = 0;
    slot->cached = 0;
}
