/* Backward through a mixture of experts: into its input, through the experts and through the weights the router gave them. Which experts were
 * chosen has no gradient, and the router is not trained. */
#include "train/trainer_internal.h"

typedef struct context {
    const tdm_trainer *t;
    const tdm_run *run;
    tdm_optimizer *opt;
    int64_t layer;
    tdm_layer_acts *a;
    tdm_routes routes;
} context;

/* dx (absent: not wanted) from dy, and the adapter's gradients from the input x; by rows of experts. */
static tdm_status project_back(const context *c, tdm_proj p, tdm_cview dy, tdm_cview x, tdm_view dx, bool accumulate, tdm_error *err)
{
    const tdm_model *m = c->t->m;
    const tdm_adapter *ad = c->run->adapter;
    tdm_linear_experts_backward l = {.of = {.dx = dx, .accumulate = accumulate, .dy = dy, .x = x, .w = tdm_weights_layer(m->w, c->layer)->experts[p]},
                                     .routes = &c->routes};
    if (ad->offset_a[p] >= 0) {
        const int64_t r = ad->spec.rank;
        float *grad = c->opt->grad + c->layer * ad->layer_count;
        TDM_ASSERT(c->run->dropout.p <= 0.0f);
        l.of.lora_a = tdm_adapter_a(ad, c->layer, p);
        l.of.lora_b = tdm_adapter_b(ad, c->layer, p);
        l.of.lora_scale = ad->scale;
        l.of.q_start = c->run->batch->q_start;
        l.of.sequences = c->run->batch->sequences;
        l.of.h = tdm_view_const(tdm_view_make(c->a->h[p].data, TDM_DTYPE_BF16, x.rows, r));
        l.of.lora_dh = tdm_view_make(c->t->back.dh.data, TDM_DTYPE_BF16, x.rows, r);
        l.of.grad_a = tdm_view_make(grad + ad->offset_a[p], TDM_DTYPE_F32, r, ad->k[p]);
        l.of.grad_b = tdm_view_make(grad + ad->offset_b[p], TDM_DTYPE_F32, ad->n[p], r);
        l.lora_step = ad->step[p];
    }
    return m->be->linear_experts_backward(m->s, &l, err);
}

/* From the weights' gradient to the router's input: added to dxn. */
static tdm_status route_back(const context *c, tdm_view dxn, tdm_error *err)
{
    const tdm_model *m = c->t->m;
    const int64_t t = c->routes.tokens;
    const tdm_view dlogits = tdm_view_rows(c->t->back.dlogits, 0, t);
    const tdm_route_backward a = {.dlogits = dlogits, .logits = tdm_view_const(tdm_view_rows(c->a->router, 0, t)),
                                  .dweight = tdm_view_const(tdm_view_rows(c->t->back.dweight, 0, t)), .normalize = m->c->norm_topk, .routes = &c->routes};
    const tdm_linear_backward l = {.dx = dxn, .accumulate = true, .dy = tdm_view_const(dlogits), .w = &tdm_weights_layer(m->w, c->layer)->router};
    const tdm_status st = m->be->route_backward(m->s, &a, err);
    return st == TDM_OK ? m->be->linear_backward(m->s, &l, err) : st;
}

tdm_status tdm_experts_backward(const tdm_trainer *t, const tdm_run *run, tdm_optimizer *opt, int64_t layer, tdm_layer_acts *a, tdm_cview xn, tdm_view dxn,
                                tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    const tdm_model_config *cfg = m->c;
    const context c = {.t = t, .run = run, .opt = opt, .layer = layer, .a = a, .routes = tdm_layer_routes(run, layer, a)};
    const int64_t tokens = run->batch->tokens, n = tokens * cfg->experts_used;
    const tdm_view rows = tdm_view_rows(t->scratch.rows, 0, n), act = tdm_ffn_view(cfg, layer, t->scratch.act, tokens);
    const tdm_view gate = tdm_ffn_view(cfg, layer, a->gate, tokens), up = tdm_ffn_view(cfg, layer, a->up, tokens);
    const tdm_view dmade = tdm_view_rows(t->back.dmade, 0, n), drows = tdm_view_rows(t->back.drows, 0, n);
    const tdm_view dact = tdm_view_make(t->back.dwide.data, TDM_DTYPE_F32, n, cfg->expert_ffn);
    const tdm_combine_backward parts = {.dx = dmade, .dweight = tdm_view_rows(t->back.dweight, 0, tokens), .dy = tdm_view_const(tdm_view_rows(t->back.dx, 0, tokens)),
                                        .x = tdm_view_const(tdm_view_rows(a->expert_out, 0, n)), .routes = &c.routes};
    const tdm_combine sum = {.y = dxn, .x = tdm_view_const(drows), .routes = &c.routes};

    /* silu(gate) * up and the experts' rows are made again rather than kept: the same bits */
    TDM_TRY(st, m->be->swiglu(m->s, cfg->glu, act, tdm_view_const(gate), tdm_view_const(up), NULL, err), done);
    TDM_TRY(st, m->be->gather_rows(m->s, rows, xn, c.routes.token, err), done);
    TDM_TRY(st, m->be->combine_backward(m->s, &parts, err), done);
    TDM_TRY(st, project_back(&c, TDM_PROJ_DOWN, tdm_view_const(dmade), tdm_view_const(act), dact, false, err), done);
    TDM_TRY(st, m->be->swiglu_backward(m->s, cfg->glu, gate, up, tdm_view_const(dact), tdm_view_const(gate), tdm_view_const(up), err), done);
    TDM_TRY(st, project_back(&c, TDM_PROJ_GATE, tdm_view_const(gate), tdm_view_const(rows), drows, false, err), done);
    TDM_TRY(st, project_back(&c, TDM_PROJ_UP, tdm_view_const(up), tdm_view_const(rows), drows, true, err), done);
    TDM_TRY(st, m->be->combine(m->s, &sum, err), done);
    TDM_TRY(st, route_back(&c, dxn, err), done);
done:
    return st;
}
