// linear: quantized or bf16 weights, the adapter's part and the bias in one product.
#include "kernels/cuda/blaslt.cuh"
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/gemm_thin.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/linear_check.h"

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
    tdm_gemm_operands(&g, a->lora_x.data ? a->lora_x : a->x, a->lora_a, true);
    tdm_gemm_result(&g, a->lora_h, false);
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
    tdm_gemm_operands(&g, w->act == TDM_ACT_NONE ? a->x : a->xq, w->codes, true);
    tdm_gemm_result(&g, a->y, a->accumulate);
    set_scales(&g, a);
    g.bias = (const uint16_t *)w->bias.data;
    if (a->lora_a.data) TDM_TRY(st, run_adapter(s, a, &g, scratch, err), end);
    st = tdm_gemm_nt(s, g, scratch, err);
end:
    return st;
}

// ---- Several of one x ----------------------------------------------------------------------------------------------------------

static tdm_cview adapter_x(const tdm_linear *a) { return a->lora_x.data ? a->lora_x : a->x; }

// gemm_thin takes it.
static bool is_thin(const tdm_stream *s, const tdm_linear *a)
{
    const int64_t t = a->x.rows;
    if (!tdm_cuda_overlaps(s) || t > TDM_THIN_ROWS_MOST || a->w->codes.rows > TDM_THIN_COLS_MOST) return false;
    return s->exact || !s->blas || t < TDM_BLAS_ROWS_LEAST;
}

// gemm_thin takes them in one launch.
static bool go_together(const tdm_linear *a, const tdm_linear *b)
{
    const tdm_weight *v = a->w, *w = b->w;
    const tdm_cview xa = adapter_x(a), xb = adapter_x(b);
    return a->x.data == b->x.data && a->x.rows == b->x.rows && a->x.stride == b->x.stride && a->xq.data == b->xq.data &&
           a->xs.data == b->xs.data && v->codes.cols == w->codes.cols && v->scheme == w->scheme && v->act == w->act &&
           (v->act != TDM_ACT_STATIC || v->input_scale == w->input_scale) && xa.data == xb.data && xa.stride == xb.stride;
}

static void set_part(tdm_thin_part *p, const tdm_linear *a)
{
    const tdm_weight *w = a->w;
    p->w = w->codes.data;
    p->w_stride = w->codes.stride;
    p->cols = w->codes.rows;
    p->w_vector = tdm_gemm_vector(w->codes.data, w->codes.stride, w->scheme == TDM_SCHEME_BF16 ? 2 : 1);
    if (w->scheme != TDM_SCHEME_BF16) {
        p->ws = (const float *)w->scale.data;
        p->ws_stride = w->scale.stride;
    }
    p->bias = (const uint16_t *)w->bias.data;
    p->y = a->y.data;
    p->y_stride = a->y.stride;
    p->y_f32 = a->y.dtype == TDM_DTYPE_F32;
    p->accumulate = a->accumulate;
    if (!a->lora_a.data) return;
    p->a = (const uint16_t *)a->lora_a.data;
    p->b = (const uint16_t *)a->lora_b.data;
    p->h = (uint16_t *)a->lora_h.data;
    p->a_stride = a->lora_a.stride;
    p->b_stride = a->lora_b.stride;
    p->h_stride = a->lora_h.stride;
    p->alpha = a->lora_scale;
    p->rank = (int)a->lora_a.rows;
    p->b_vector = tdm_gemm_vector(a->lora_b.data, a->lora_b.stride, 2);
}

static tdm_status run_thin(tdm_stream *s, const tdm_linear *list, int count, tdm_error *err)
{
    const tdm_weight *w = list->w;
    tdm_thin g = {};
    tdm_gemm shared = {}; // x and its scales are told as for gemm_nt
    tdm_gemm_operands(&shared, w->act == TDM_ACT_NONE ? list->x : list->xq, w->codes, true);
    set_scales(&shared, list);
    const tdm_cview xa = adapter_x(list);
    g.rows = shared.rows;
    g.depth = shared.depth;
    g.x = shared.x;
    g.x_stride = shared.x_stride;
    g.xa = (const uint16_t *)xa.data;
    g.xa_stride = xa.stride;
    g.xs = shared.xs;
    g.xs_stride = shared.xs_stride;
    g.x_scale = shared.x_scale;
    g.scheme = shared.scheme;
    g.x_codes = shared.x_codes;
    g.w_codes = shared.w_codes;
    g.x_vector = shared.x_vector;
    g.xa_vector = tdm_gemm_vector(xa.data, xa.stride, 2);
    g.a_vector = true;
    g.parts = count;
    for (int i = 0; i < count; i++) {
        set_part(&g.part[i], &list[i]);
        if (g.part[i].rank) g.a_vector = g.a_vector && tdm_gemm_vector(list[i].lora_a.data, list[i].lora_a.stride, 2);
    }
    return tdm_gemm_thin(s, g, err);
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
    if (is_thin(s, a)) return run_thin(s, a, 1, err);
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
    for (int i = 0, n; st == TDM_OK && i < count; i += n) {
        n = 1;
        if (list[i].x.rows == 0 || !is_thin(s, &list[i])) {
            st = tdm_cuda_linear(s, &list[i], err);
            continue;
        }
        while (i + n < count && n < TDM_THIN_PARTS && is_thin(s, &list[i + n]) && go_together(&list[i], &list[i + n])) n++;
        for (int j = i; j < i + n; j++) tdm_linear_check(&list[j]);
        st = run_thin(s, &list[i], n, err);
    }
    return st;
}

size_t tdm_cuda_linear_workspace_bytes(const tdm_limits *limits)
{
    const size_t slices = tdm_gemm_nt_scratch_most(tdm_max_i64(tdm_max_i64(limits->tokens, limits->head_rows), 1));
    const size_t fast = tdm_blas_workspace_bytes(limits->width);
    return slices > fast ? slices : fast;
}
