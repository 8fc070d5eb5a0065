// linear: quantized or bf16 weights, the adapter's part and the bias in one product.
#include "kernels/cuda/blaslt.cuh"
#include "kernels/cuda/gemm.cuh"
#include "kernels/linear_check.h"

static void set_operands(tdm_gemm *g, tdm_cview x, tdm_cview w)
{
    g->rows = x.rows;
    g->cols = w.rows;
    g->depth = w.cols;
    g->x = x.data;
    g->w = w.data;
    g->x_stride = x.stride;
    g->w_stride = w.stride;
    g->x_codes = x.dtype == TDM_DTYPE_E4M3;
    g->w_codes = w.dtype == TDM_DTYPE_E4M3;
    g->x_vector = tdm_gemm_vector(x.data, x.stride, g->x_codes ? 1 : 2);
    g->w_vector = tdm_gemm_vector(w.data, w.stride, g->w_codes ? 1 : 2);
    g->x_scale = 1.0f;
}

static void set_result(tdm_gemm *g, tdm_view y, bool accumulate)
{
    g->y = y.data;
    g->y_stride = y.stride;
    g->y_f32 = y.dtype == TDM_DTYPE_F32;
    g->accumulate = accumulate;
}

static void set_scales(tdm_gemm *g, const tdm_linear *a)
{
    const tdm_weight *w = a->w;
    g->scheme = w->scheme;
    if (w->scheme != TDM_SCHEME_BF16) {
        g->ws = (const float *)w->scale.data;
        g->ws_stride = w->scale.stride;
    }
    if (w->act == TDM_ACT_STATIC) g->x_scale = w->input_scale;
    if (w->act != TDM_ACT_DYNAMIC) return;
    g->xs = (const float *)a->xs.data;
    g->xs_stride = w->scheme == TDM_SCHEME_FP8_TENSOR ? 0 : a->xs.stride;
}

// h = bf16(x A^T), then x2 = h and w2 = B of the product itself.
static tdm_status run_adapter(tdm_stream *s, const tdm_linear *a, tdm_gemm *of, float *scratch, tdm_error *err)
{
    tdm_gemm g = {};
    set_operands(&g, a->lora_x.data ? a->lora_x : a->x, a->lora_a);
    set_result(&g, a->lora_h, false);
    of->x2 = (const uint16_t *)a->lora_h.data;
    of->w2 = (const uint16_t *)a->lora_b.data;
    of->x2_stride = a->lora_h.stride;
    of->w2_stride = a->lora_b.stride;
    of->x2_vector = tdm_gemm_vector(a->lora_h.data, a->lora_h.stride, 2);
    of->w2_vector = tdm_gemm_vector(a->lora_b.data, a->lora_b.stride, 2);
    of->depth2 = a->lora_a.rows;
    of->alpha = a->lora_scale;
    return tdm_gemm_nt(s, g, scratch, err);
}

static tdm_status run_own(tdm_stream *s, const tdm_linear *a, tdm_error *err)
{
    const tdm_weight *w = a->w;
    const int64_t t = a->x.rows;
    tdm_status st = TDM_OK;
    const size_t own = tdm_gemm_nt_scratch(t, w->codes.rows, w->codes.cols);
    const size_t adapter = a->lora_a.data ? tdm_gemm_nt_scratch(t, a->lora_a.rows, w->codes.cols) : 0;
    float *scratch = (float *)tdm_cuda_scratch(s, own > adapter ? own : adapter);
    tdm_gemm g = {};
    set_operands(&g, w->act == TDM_ACT_NONE ? a->x : a->xq, w->codes);
    set_result(&g, a->y, a->accumulate);
    set_scales(&g, a);
    g.bias = (const uint16_t *)w->bias.data;
    if (a->lora_a.data) TDM_TRY(st, run_adapter(s, a, &g, scratch, err), end);
    st = tdm_gemm_nt(s, g, scratch, err);
end:
    return st;
}

// Rows [first, first + count) of a call.
static tdm_linear rows_of(const tdm_linear *a, int64_t first, int64_t count)
{
    tdm_linear part = *a;
    part.y = tdm_view_rows(a->y, first, count);
    part.x = tdm_cview_rows(a->x, first, count);
    if (a->xq.data) part.xq = tdm_cview_rows(a->xq, first, count);
    if (a->xs.data && a->xs.rows == a->x.rows) part.xs = tdm_cview_rows(a->xs, first, count);
    if (a->lora_x.data) part.lora_x = tdm_cview_rows(a->lora_x, first, count);
    if (a->lora_h.data) part.lora_h = tdm_view_rows(a->lora_h, first, count);
    return part;
}

tdm_status tdm_cuda_linear(tdm_stream *s, const tdm_linear *a, tdm_error *err)
{
    tdm_linear_check(a);
    const int64_t t = a->x.rows;
    if (t == 0) return TDM_OK;
    // The library takes block scales of a multiple of 8 rows alone; the few that are left are ours.
    const bool block = a->w->scheme == TDM_SCHEME_FP8_BLOCK && a->w->act != TDM_ACT_NONE;
    const int64_t first = block ? t / 8 * 8 : t;
    bool done = false;
    if (first > 0) {
        const tdm_linear part = rows_of(a, 0, first);
        const tdm_status st = tdm_linear_fast(s, &part, &done, err);
        if (st != TDM_OK || (done && first == t)) return st;
    }
    if (!done) return run_own(s, a, err);
    const tdm_linear part = rows_of(a, first, t - first);
    return run_own(s, &part, err);
}

tdm_status tdm_cuda_linear_group(tdm_stream *s, const tdm_linear *list, int count, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int i = 0; st == TDM_OK && i < count; i++) st = tdm_cuda_linear(s, &list[i], err);
    return st;
}

// The slices' sums: slices are more than one only while their panels are few, so the product of both is bounded whatever N is.
size_t tdm_cuda_linear_workspace_bytes(const tdm_limits *limits)
{
    const int64_t rows = tdm_min_i64(tdm_max_i64(limits->tokens, limits->head_rows), 64);
    const int64_t most = (2 * 264 + 2 * 264) * 64; // (slices + 1) * N with N at most 264 panels of 64 and slices at most 264 / panels + 1
    const size_t slices = (size_t)tdm_max_i64(rows, 1) * (size_t)most * sizeof(float), fast = tdm_blas_workspace_bytes(limits->width);
    return slices > fast ? slices : fast;
}
