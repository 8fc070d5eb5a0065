/* A mixture of experts: the router sends each token to some experts, their rows are gathered expert by expert, and what comes back is added,
 * weighted, to the residual stream. */
#include "infer/model.h"

tdm_routes tdm_layer_routes(const tdm_run *r, int64_t layer, const tdm_layer_acts *a)
{
    tdm_routes routes = a->routes;
    routes.tokens = r->batch->tokens;
    if (r->routes) routes.expert = r->routes + layer * routes.tokens * routes.used;
    return routes;
}

/* x quantized as `w` wants it; projections that want it alike share it. */
typedef struct quantized {
    const tdm_weight *of; /* NULL: nothing is quantized yet */
    tdm_cview codes, scales;
} quantized;

static tdm_status quantize(const tdm_run *r, const tdm_weight *w, tdm_cview x, quantized *q, tdm_error *err)
{
    if (q->of && q->of->scheme == w->scheme && q->of->act == w->act && q->of->pow2 == w->pow2) return TDM_OK;
    *q = (quantized){.of = w};
    if (w->act == TDM_ACT_NONE) return TDM_OK;
    TDM_ASSERT(w->scheme == TDM_SCHEME_FP8_BLOCK && w->act == TDM_ACT_DYNAMIC);
    const tdm_view codes = tdm_view_make(r->scratch.codes.data, TDM_DTYPE_E4M3, x.rows, x.cols);
    const tdm_view scales = tdm_view_make(r->scratch.scales.data, TDM_DTYPE_F32, x.rows, tdm_ceil_div(x.cols, TDM_FP8_BLOCK));
    q->codes = tdm_view_const(codes);
    q->scales = tdm_view_const(scales);
    const tdm_quantize_act call = {.codes = codes, .scale = scales, .x = x, .scheme = w->scheme, .act = w->act, .pow2 = w->pow2};
    return r->m->be->quantize_act(r->m->s, &call, err);
}

static tdm_status project(const tdm_run *r, int64_t layer, tdm_layer_acts *a, const tdm_routes *routes, tdm_proj p, tdm_cview x, quantized *q, tdm_view y,
                          tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_weight *w = tdm_weights_layer(r->m->w, layer)->experts[p];
    TDM_TRY(st, quantize(r, w, x, q, err), done);
    tdm_linear_experts l = {.of = {.y = y, .x = x, .xq = q->codes, .xs = q->scales, .w = w}, .routes = routes};
    if (r->adapter && r->adapter->offset_a[p] >= 0) {
        l.of.lora_a = tdm_adapter_a(r->adapter, layer, p);
        l.of.lora_b = tdm_adapter_b(r->adapter, layer, p);
        l.of.lora_h = tdm_view_make(a->h[p].data, TDM_DTYPE_BF16, x.rows, r->adapter->spec.rank);
        l.of.lora_scale = r->adapter->scale;
        l.lora_step = r->adapter->step[p];
    }
    TDM_TRY(st, r->m->be->linear_experts(r->m->s, &l, err), done);
done:
    return st;
}

tdm_status tdm_forward_experts(const tdm_run *r, int64_t layer, tdm_layer_acts *a, tdm_cview xn, tdm_cview x, tdm_view out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = r->m;
    const tdm_model_config *c = m->c;
    const int64_t t = r->batch->tokens, n = t * c->experts_used;
    const tdm_routes routes = tdm_layer_routes(r, layer, a);
    const tdm_view logits = tdm_view_rows(a->router, 0, t), rows = tdm_view_rows(r->scratch.rows, 0, n), made = tdm_view_rows(a->expert_out, 0, n);
    const tdm_view gate = tdm_ffn_view(c, layer, a->gate, t), up = tdm_ffn_view(c, layer, a->up, t), act = tdm_ffn_view(c, layer, r->scratch.act, t);
    const tdm_linear router = {.y = logits, .x = xn, .w = &tdm_weights_layer(m->w, layer)->router};
    const tdm_route route = {.logits = tdm_view_const(logits), .normalize = c->norm_topk, .given = r->replay, .routes = &routes};
    const tdm_combine combine = {.y = out, .r = x, .x = tdm_view_const(made), .weighted = true, .routes = &routes};
    quantized of_rows = {0}, of_act = {0};

    TDM_TRY(st, m->be->linear(m->s, &router, err), done);
    TDM_TRY(st, m->be->route(m->s, &route, err), done);
    TDM_TRY(st, m->be->gather_rows(m->s, rows, xn, routes.token, err), done);
    TDM_TRY(st, project(r, layer, a, &routes, TDM_PROJ_GATE, tdm_view_const(rows), &of_rows, gate, err), done);
    TDM_TRY(st, project(r, layer, a, &routes, TDM_PROJ_UP, tdm_view_const(rows), &of_rows, up, err), done);
    TDM_TRY(st, m->be->swiglu(m->s, c->glu, act, tdm_view_const(gate), tdm_view_const(up), NULL, err), done);
    TDM_TRY(st, project(r, layer, a, &routes, TDM_PROJ_DOWN, tdm_view_const(act), &of_act, made, err), done);
    TDM_TRY(st, m->be->combine(m->s, &combine, err), done);
done:
    return st;
}
