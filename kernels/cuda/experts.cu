// linear_experts and its backward: as linear.cu and linear_backward.cu, with the rows of all experts in one launch. How many rows an expert has is
// known on the device alone, so launches are for as many as it could have, and blocks without rows end at once.
#include "kernels/cuda/gemm.cuh"

// The second product: x2 with a matrix of the adapter, `step` elements before the next expert's.
static void set_second(tdm_gemm *g, tdm_gemm_experts *e, tdm_view x2, tdm_cview w2, int64_t depth, float alpha, int64_t step)
{
    g->x2 = (const uint16_t *)x2.data;
    g->w2 = (const uint16_t *)w2.data;
    g->x2_stride = x2.stride;
    g->w2_stride = w2.stride;
    g->x2_vector = tdm_gemm_vector(x2.data, x2.stride, 2);
    g->w2_vector = tdm_gemm_vector(w2.data, w2.stride, 2) && step % 8 == 0;
    g->depth2 = depth;
    g->alpha = alpha;
    e->w2_step = step;
}

static tdm_gemm_experts experts_of(const tdm_routes *r)
{
    tdm_gemm_experts e = {};
    e.start = r->start;
    e.count = r->experts;
    e.rows_most = r->tokens;
    e.rows_mean = tdm_ceil_div(r->tokens * r->used, r->experts);
    return e;
}

// Matrices of all experts, alike and at equal distances.
static void set_weights(tdm_gemm *g, tdm_gemm_experts *e, const tdm_weight *w)
{
    g->scheme = w->scheme;
    g->ws = (const float *)w->scale.data;
    g->ws_stride = w->scale.stride;
    if (e->count < 2) return;
    e->w_step = (const char *)w[1].codes.data - (const char *)w[0].codes.data;
    if (g->ws) e->ws_step = (const float *)w[1].scale.data - (const float *)w[0].scale.data;
    TDM_ASSERT((const char *)w[e->count - 1].codes.data == (const char *)w[0].codes.data + (e->count - 1) * e->w_step);
    g->w_vector = g->w_vector && e->w_step % 16 == 0;
}

// A matrix of the adapter as the first operand.
static void set_adapter(tdm_gemm *g, tdm_gemm_experts *e, int64_t step)
{
    g->scheme = TDM_SCHEME_BF16;
    e->w_step = step * 2;
    g->w_vector = g->w_vector && step % 8 == 0;
}

tdm_status tdm_cuda_linear_experts(tdm_stream *s, const tdm_linear_experts *a, tdm_error *err)
{
    const tdm_linear *l = &a->of;
    const tdm_weight *w = l->w;
    tdm_status st = TDM_OK;
    TDM_ASSERT(l->x.rows == a->routes->tokens * a->routes->used && !w->bias.data && !l->lora_x.data);
    tdm_gemm g = {};
    tdm_gemm_experts e = experts_of(a->routes);
    if (l->lora_a.data) {
        tdm_gemm_operands(&g, l->x, l->lora_a, true);
        tdm_gemm_result(&g, l->lora_h, false);
        set_adapter(&g, &e, a->lora_step);
        TDM_TRY(st, tdm_gemm_nt_experts(s, g, e, err), end);
    }
    g = {};
    e = experts_of(a->routes);
    tdm_gemm_operands(&g, w->act == TDM_ACT_NONE ? l->x : l->xq, w->codes, true);
    tdm_gemm_result(&g, l->y, l->accumulate);
    set_weights(&g, &e, w);
    if (w->act == TDM_ACT_DYNAMIC) g.xs = (const float *)l->xs.data, g.xs_stride = l->xs.stride;
    if (l->lora_a.data) set_second(&g, &e, l->lora_h, l->lora_b, l->lora_a.rows, l->lora_scale, a->lora_step);
    st = tdm_gemm_nt_experts(s, g, e, err);
end:
    return st;
}

tdm_status tdm_cuda_linear_experts_backward(tdm_stream *s, const tdm_linear_experts_backward *a, tdm_error *err)
{
    const tdm_linear_backward *l = &a->of;
    tdm_status st = TDM_OK;
    TDM_ASSERT(l->dy.rows == a->routes->tokens * a->routes->used && !l->lora_dx.data);
    tdm_gemm g = {};
    tdm_gemm_experts e = experts_of(a->routes);
    if (l->lora_a.data) { // dh = bf16(lora_scale * dy B)
        tdm_gemm_operands(&g, l->dy, l->lora_b, false);
        tdm_gemm_result(&g, l->lora_dh, false);
        set_adapter(&g, &e, a->lora_step);
        g.x_scale = l->lora_scale;
        TDM_TRY(st, tdm_gemm_nn_experts(s, g, e, err), end);
    }
    if (l->dx.data) {
        g = {};
        e = experts_of(a->routes);
        tdm_gemm_operands(&g, l->dy, l->w->codes, false);
        tdm_gemm_result(&g, l->dx, l->accumulate);
        set_weights(&g, &e, l->w);
        if (l->lora_a.data) set_second(&g, &e, l->lora_dh, l->lora_a, l->lora_a.rows, 1.0f, a->lora_step);
        TDM_TRY(st, tdm_gemm_nn_experts(s, g, e, err), end);
    }
    st = tdm_linear_experts_grads(s, a, err);
end:
    return st;
}
