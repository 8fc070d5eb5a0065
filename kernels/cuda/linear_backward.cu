// linear_backward: dx through the dequantized weight and the adapter, and the adapter's gradients.
#include "kernels/cuda/blaslt.cuh"
#include "kernels/cuda/gemm.cuh"
#include "kernels/linear_check.h"

// Whether cuBLASLt may run a product of this call's rows.
static bool fast(const tdm_stream *s, const tdm_linear_backward *a)
{
    return s->blas && !s->exact && a->dy.rows >= TDM_BLAS_ROWS_LEAST;
}

static tdm_blas_product blas_of(tdm_view y, bool accumulate, float alpha)
{
    tdm_blas_product p = {};
    p.rows = y.rows, p.cols = y.cols;
    p.y = y.data, p.y_stride = y.stride;
    p.y_f32 = y.dtype == TDM_DTYPE_F32;
    p.alpha = alpha;
    p.beta = accumulate ? 1.0f : 0.0f;
    return p;
}

static tdm_status run_gemm(tdm_stream *s, const tdm_gemm &g, const tdm_weight *w, tdm_error *err)
{
    return tdm_gemm_nn_wide_ready(s, g) ? tdm_gemm_nn_wide(s, g, w, err) : tdm_gemm_nn(s, g, err);
}

// y = alpha * x w, or y += ...
static tdm_status run_product(tdm_stream *s, const tdm_linear_backward *a, tdm_view y, bool accumulate, tdm_cview x, tdm_cview w,
                              float alpha, tdm_error *err)
{
    if (fast(s, a)) {
        tdm_blas_product p = blas_of(y, accumulate, alpha);
        p.depth = x.cols;
        p.x = x.data, p.x_stride = x.stride;
        p.w = w.data, p.w_stride = w.stride;
        if (tdm_blas_ready(s, p)) return tdm_blas_run(s, p, err);
    }
    tdm_gemm g = {};
    tdm_gemm_operands(&g, x, w, false);
    tdm_gemm_result(&g, y, accumulate);
    g.x_scale = alpha;
    return run_gemm(s, g, NULL, err);
}

// dh = bf16(lora_scale * dy B)
static tdm_status run_adapter(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err)
{
    return run_product(s, a, a->lora_dh, false, a->dy, a->lora_b, a->lora_scale, err);
}

// dh A alone: the input's gradient stops here, the dropout's does not.
static tdm_status run_side(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err)
{
    return run_product(s, a, a->lora_dx, false, tdm_view_const(a->lora_dh), a->lora_a, 1.0f, err);
}

static tdm_status run_dx(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err)
{
    const tdm_weight *w = a->w;
    bool done = false;
    const tdm_status st = tdm_dx_fast(s, a, &done, err);
    if (st != TDM_OK) return st;
    if (done) {
        if (!a->lora_a.data) return TDM_OK;
        if (a->lora_dx.data) return run_side(s, a, err);
        return run_product(s, a, a->dx, true, tdm_view_const(a->lora_dh), a->lora_a, 1.0f, err);
    }
    tdm_gemm g = {};
    tdm_gemm_operands(&g, a->dy, w->codes, false);
    tdm_gemm_result(&g, a->dx, a->accumulate);
    g.scheme = w->scheme;
    g.ws = (const float *)w->scale.data;
    g.ws_stride = w->scale.stride;
    if (!a->lora_a.data) return run_gemm(s, g, w, err);
    g.x2 = (const uint16_t *)a->lora_dh.data;
    g.w2 = (const uint16_t *)a->lora_a.data;
    g.x2_stride = a->lora_dh.stride;
    g.w2_stride = a->lora_a.stride;
    g.x2_vector = tdm_gemm_vector(a->lora_dh.data, a->lora_dh.stride, 2);
    g.w2_vector = tdm_gemm_vector(a->lora_a.data, a->lora_a.stride, 2);
    g.depth2 = a->lora_a.rows;
    g.alpha = 1.0f;
    if (a->lora_dx.data) {
        g.side = (float *)a->lora_dx.data;
        g.side_stride = a->lora_dx.stride;
    }
    return run_gemm(s, g, w, err);
}

tdm_status tdm_cuda_linear_backward(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err)
{
    tdm_linear_backward_check(a);
    tdm_status st = TDM_OK;
    if (a->dy.rows == 0) return TDM_OK;
    if (a->lora_a.data) TDM_TRY(st, run_adapter(s, a, err), end);
    if (a->dx.data)
        TDM_TRY(st, run_dx(s, a, err), end);
    else if (a->lora_dx.data)
        TDM_TRY(st, run_side(s, a, err), end);
    st = tdm_linear_grads(s, a, err);
end:
    return st;
}
