/* Backward through the layers: dequantized weights for dx, gradients for the adapter alone. */
#include "memory/arch/arch.h"
#include "train/trainer_internal.h"

typedef struct context {
    tdm_trainer *t;
    const tdm_run *run;
    tdm_optimizer *opt;
    int64_t layer;
    tdm_layer_acts *a;
    int64_t tokens;
} context;

static tdm_view rows(const context *c, tdm_view v) { return v.data ? tdm_view_rows(v, 0, c->tokens) : v; }
static tdm_cview read(const context *c, tdm_view v) { return tdm_view_const(rows(c, v)); }
static tdm_view narrow(const context *c, tdm_view v, int64_t cols) { return tdm_view_make(v.data, v.dtype, c->tokens, cols); }

/* Gradients of one projection: dx (absent: not wanted) from dy, and the adapter's from the input x. */
static tdm_status project_back(const context *c, tdm_proj p, tdm_cview dy, tdm_cview x, tdm_view dx, bool accumulate, tdm_error *err)
{
    const tdm_model *m = c->t->m;
    const tdm_adapter *ad = c->run->adapter;
    const int64_t offset = c->layer * ad->layer_count;
    tdm_status st = TDM_OK;
    tdm_linear_backward l = {.dx = dx, .accumulate = accumulate, .dy = dy, .x = x, .w = &tdm_weights_layer(m->w, c->layer)->proj[p]};
    const bool target = ad->offset_a[p] >= 0, dropout = target && c->run->dropout.p > 0.0f;
    if (!target && !dx.data) return TDM_OK;
    if (target) {
        const int64_t r = ad->spec.rank;
        l.lora_a = tdm_adapter_a(ad, c->layer, p);
        l.lora_b = tdm_adapter_b(ad, c->layer, p);
        l.lora_scale = ad->scale;
        l.q_start = c->run->batch->q_start;
        l.sequences = c->run->batch->sequences;
        l.h = tdm_view_const(narrow(c, c->a->h[p], r)); /* other adapters may be of a larger rank */
        l.lora_dh = narrow(c, c->t->back.dh, r);
        l.grad_a = tdm_view_make(c->opt->grad + offset + ad->offset_a[p], TDM_DTYPE_F32, r, ad->k[p]);
        l.grad_b = tdm_view_make(c->opt->grad + offset + ad->offset_b[p], TDM_DTYPE_F32, ad->n[p], r);
        if (dropout) {
            TDM_TRY(st, tdm_forward_dropped(c->run, c->layer, p, x, &l.x, err), done);
            if (dx.data) l.lora_dx = narrow(c, c->t->back.lora_dx, ad->k[p]);
        }
    }
    TDM_TRY(st, m->be->linear_backward(m->s, &l, err), done);
    if (dropout && dx.data)
        TDM_TRY(st,
                m->be->dropout_backward(m->s, dx, tdm_view_const(l.lora_dx), c->run->dropout.p, c->run->dropout.seed,
                                        (uint32_t)(c->layer * TDM_PROJ_COUNT + p), c->run->dropout.token, err),
                done);
done:
    return st;
}

/* dy of o_proj or down_proj, bf16, from the gradient of the residual stream: rounded, and back through the norm of its output. */
static tdm_status part_back(const context *c, tdm_cview norm, tdm_view out, tdm_view rstd, tdm_error *err)
{
    const tdm_model *m = c->t->m;
    const tdm_view dy = rows(c, c->t->back.dy);
    const tdm_cview dx = read(c, c->t->back.dx);
    if (!norm.data) return m->be->convert(m->s, dy, dx, err);
    return m->be->rms_norm_add_backward(m->s, dy, dx, read(c, out), norm, read(c, rstd), err);
}

/* Gradient of xn, the normalized input of the FFN, into dxn. */
static tdm_status dense_back(const context *c, tdm_cview xn, tdm_view dxn, tdm_error *err)
{
    tdm_trainer *t = c->t;
    const tdm_model *m = t->m;
    const tdm_layer_weights *lw = tdm_weights_layer(m->w, c->layer);
    const tdm_backward_buffers *b = &t->back;
    tdm_status st = TDM_OK;
    const tdm_view dy = rows(c, b->dy), dact = narrow(c, b->dwide, m->c->ffn), act = tdm_ffn_view(m->c, c->layer, t->scratch.act, c->tokens);
    const tdm_view gate = tdm_ffn_view(m->c, c->layer, c->a->gate, c->tokens), up = tdm_ffn_view(m->c, c->layer, c->a->up, c->tokens);

    TDM_TRY(st, m->be->swiglu(m->s, m->c->glu, act, tdm_view_const(gate), tdm_view_const(up), NULL, err), done);
    TDM_TRY(st, part_back(c, lw->norm_ffn_out, c->a->ffn_out, c->a->rstd_ffn_out, err), done);
    TDM_TRY(st, project_back(c, TDM_PROJ_DOWN, tdm_view_const(dy), tdm_view_const(act), dact, false, err), done);
    TDM_TRY(st, m->be->swiglu_backward(m->s, m->c->glu, gate, up, tdm_view_const(dact), tdm_view_const(gate), tdm_view_const(up), err), done);
    const tdm_view dgate = m->c->arch->fused ? tdm_whole(gate, c->tokens, 2 * m->c->ffn) : gate;
    TDM_TRY(st, project_back(c, TDM_PROJ_GATE, tdm_view_const(dgate), xn, dxn, false, err), done);
    if (!m->c->arch->fused) TDM_TRY(st, project_back(c, TDM_PROJ_UP, tdm_view_const(up), xn, dxn, true, err), done);
done:
    return st;
}

static tdm_status ffn_back(const context *c, tdm_error *err)
{
    tdm_trainer *t = c->t;
    const tdm_model *m = t->m;
    const tdm_layer_weights *lw = tdm_weights_layer(m->w, c->layer);
    tdm_status st = TDM_OK;
    const tdm_view dx = rows(c, t->back.dx), dxn = rows(c, t->back.dxn), xn = rows(c, t->scratch.xn);

    /* silu(gate) * up and the normalized input are made again rather than kept: the same bits, for a fraction of the bytes */
    TDM_TRY(st, m->be->rms_norm(m->s, xn, (tdm_view){0}, read(c, c->a->x_mid), lw->norm_ffn, m->c->norm_eps, NULL, err), done);
    if (m->c->sparse[c->layer])
        TDM_TRY(st, tdm_experts_backward(t, c->run, c->opt, c->layer, c->a, tdm_view_const(xn), dxn, err), done);
    else
        TDM_TRY(st, dense_back(c, tdm_view_const(xn), dxn, err), done);
    TDM_TRY(st, m->be->rms_norm_backward(m->s, dx, tdm_view_const(dxn), read(c, c->a->x_mid), lw->norm_ffn, read(c, c->a->rstd_ffn), err), done);
done:
    return st;
}

static tdm_status rotate_back(const context *c, tdm_view dx, tdm_view pre, tdm_cview norm, int64_t heads, tdm_error *err)
{
    const tdm_model *m = c->t->m;
    const bool sliding = m->c->sliding[c->layer];
    const tdm_rope_backward a = {.dx = dx, .cos = m->rope_cos[sliding], .sin = m->rope_sin[sliding], .norm_w = norm, .pre = read(c, pre),
                                 .position = c->run->batch->position, .heads = heads, .head_dim = m->c->head_dim, .eps = m->c->norm_eps};
    return m->be->rope_backward(m->s, &a, err);
}

static tdm_status qkv_back(const context *c, tdm_view xn, tdm_view dxn, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_backward_buffers *b = &c->t->back;
    const int64_t all = tdm_weights_layer(c->t->m->w, c->layer)->proj[TDM_PROJ_Q].codes.rows;
    if (c->t->m->c->arch->fused)
        return project_back(c, TDM_PROJ_Q, tdm_view_const(tdm_whole(b->dq, c->tokens, all)), tdm_view_const(xn), dxn, false, err);
    TDM_TRY(st, project_back(c, TDM_PROJ_Q, read(c, b->dq), tdm_view_const(xn), dxn, false, err), done);
    TDM_TRY(st, project_back(c, TDM_PROJ_K, read(c, b->dk), tdm_view_const(xn), dxn, true, err), done);
    TDM_TRY(st, project_back(c, TDM_PROJ_V, read(c, b->dv), tdm_view_const(xn), dxn, true, err), done);
done:
    return st;
}

static tdm_status attention_back(const context *c, tdm_error *err)
{
    tdm_trainer *t = c->t;
    const tdm_model *m = t->m;
    const tdm_model_config *cfg = m->c;
    const tdm_layer_weights *lw = tdm_weights_layer(m->w, c->layer);
    const tdm_backward_buffers *b = &t->back;
    tdm_status st = TDM_OK;
    const tdm_view dx = rows(c, b->dx), dy = rows(c, b->dy), d_o = narrow(c, b->dwide, cfg->heads * cfg->head_dim);
    const tdm_view dq = rows(c, b->dq), dk = rows(c, b->dk), dv = rows(c, b->dv), xn = rows(c, t->scratch.xn);
    /* nothing below the first layer is trained, so its input needs no gradient */
    const bool first = c->layer == 0;
    const tdm_view dxn = first ? (tdm_view){0} : rows(c, b->dxn);

    TDM_TRY(st, part_back(c, lw->norm_attn_out, c->a->attn_out, c->a->rstd_attn_out, err), done);
    TDM_TRY(st, project_back(c, TDM_PROJ_O, tdm_view_const(dy), read(c, c->a->o), d_o, false, err), done);
    const tdm_attention_backward at = {.dq = dq, .dk = dk, .dv = dv, .do_ = tdm_view_const(d_o), .o = read(c, c->a->o), .q = read(c, c->a->q),
                                       .lse = read(c, c->a->lse), .kv = &c->a->kv, .batch = c->run->batch, .heads = cfg->heads,
                                       .window = tdm_layer_window(cfg, c->layer), .scale = tdm_attention_scale(cfg)};
    TDM_TRY(st, m->be->attention_backward(m->s, &at, err), done);
    TDM_TRY(st, rotate_back(c, dq, c->a->q_pre, lw->norm_q, cfg->heads, err), done);
    TDM_TRY(st, rotate_back(c, dk, c->a->k_pre, lw->norm_k, cfg->kv_heads, err), done);
    TDM_TRY(st, m->be->rms_norm(m->s, xn, (tdm_view){0}, read(c, c->a->x_in), lw->norm_attn, cfg->norm_eps, NULL, err), done);
    TDM_TRY(st, qkv_back(c, xn, dxn, err), done);
    if (first) goto done;
    TDM_TRY(st, m->be->rms_norm_backward(m->s, dx, tdm_view_const(dxn), read(c, c->a->x_in), lw->norm_attn, read(c, c->a->rstd_attn), err), done);
done:
    return st;
}

tdm_status tdm_backward_layers(tdm_trainer *t, const tdm_run *run, tdm_optimizer *opt, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t l = t->m->c->layers - 1; l >= 0; l--) {
        context c = {.t = t, .run = run, .opt = opt, .layer = l, .a = &t->acts[t->spec.checkpointing ? 0 : l], .tokens = t->batch.tokens};
        if (t->spec.checkpointing) {
            c.a->x_in = t->x[l];
            TDM_TRY(st, tdm_offload_recompute(t, l, err), done);
            /* the layer's output is written again over itself: the next layer's input is no longer needed */
            TDM_TRY(st, tdm_forward_layer(run, l, c.a, t->x[l + 1], err), done);
            TDM_TRY(st, tdm_offload_backward(t, l, err), done);
        }
        TDM_TRY(st, ffn_back(&c, err), done);
        TDM_TRY(st, attention_back(&c, err), done);
    }
done:
    return st;
}
