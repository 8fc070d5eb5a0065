/* linear: quantized or bf16 weights, the adapter's part and the bias in one product. */
#include "kernels/cpu/linear.h"
#include "kernels/cpu/ops_cpu.h"
#include "kernels/linear_check.h"

/* h = bf16(x A^T) for these rows, and h again as elements. */
static tdm_gemm_rows run_adapter(const tdm_stream *s, const tdm_linear_scratch *z, tdm_gemm_rows x, tdm_cview lora_a, tdm_view h)
{
    const tdm_gemm g = {.rows = h.rows,
                        .cols = lora_a.rows,
                        .depth = lora_a.cols,
                        .a = x,
                        .p = {.m = lora_a, .transposed = true},
                        .x_scale = 1.0f,
                        .y = h};
    TDM_CPU(gemm)(s, z->shared, &g);
    return TDM_CPU(gemm_expand)(s, tdm_view_const(h), z->h);
}

static void set_scales(tdm_gemm *g, const tdm_linear *a, int64_t first)
{
    const tdm_weight *w = a->w;
    g->w = w->scheme == TDM_SCHEME_BF16 ? NULL : w;
    g->x_scale = w->act == TDM_ACT_STATIC ? w->input_scale : 1.0f;
    if (w->act != TDM_ACT_DYNAMIC) return;
    g->xs_stride = w->scheme == TDM_SCHEME_FP8_TENSOR ? 0 : a->xs.stride;
    g->xs = (const float *)a->xs.data + first * g->xs_stride;
}

static void run_rows(tdm_stream *s, const tdm_linear *a, const tdm_linear_scratch *z, int64_t first, int64_t count)
{
    const tdm_weight *w = a->w;
    const tdm_cview x = tdm_cview_rows(a->x, first, count);
    tdm_gemm g = {.rows = count,
                  .cols = w->codes.rows,
                  .depth = w->codes.cols,
                  .p = {.m = w->codes, .transposed = true},
                  .bias = w->bias.data,
                  .y = tdm_view_rows(a->y, first, count),
                  .accumulate = a->accumulate};
    if (a->lora_a.data) {
        const tdm_cview in = a->lora_x.data ? tdm_cview_rows(a->lora_x, first, count) : x;
        const tdm_gemm_rows rows = TDM_CPU(gemm_expand)(s, in, z->a);
        g.a2 = run_adapter(s, z, rows, a->lora_a, tdm_view_rows(a->lora_h, first, count));
        g.p2 = (tdm_gemm_source){.m = a->lora_b, .transposed = true};
        g.depth2 = a->lora_a.rows;
        g.alpha = a->lora_scale;
    }
    g.a = TDM_CPU(gemm_expand)(s, w->act == TDM_ACT_NONE ? x : tdm_cview_rows(a->xq, first, count), z->a);
    set_scales(&g, a, first);
    TDM_CPU(gemm)(s, z->shared, &g);
}

tdm_status TDM_CPU(linear)(tdm_stream *s, const tdm_linear *a, tdm_error *err)
{
    (void)err;
    tdm_linear_check(a);
    const int64_t t = a->x.rows;
    const bool lora = a->lora_a.data != NULL;
    const bool in_place = a->w->act == TDM_ACT_NONE && TDM_CPU(gemm_in_place)(a->x);
    const bool h_in_place = !lora || TDM_CPU(gemm_in_place)(tdm_view_const(a->lora_h));
    const tdm_linear_scratch z = tdm_linear_scratch_get(s, in_place ? 0 : a->x.cols, h_in_place ? 0 : a->lora_h.cols, t);
    for (int64_t first = 0; first < t; first += z.rows) run_rows(s, a, &z, first, tdm_min_i64(z.rows, t - first));
    return TDM_OK;
}

tdm_status TDM_CPU(linear_group)(tdm_stream *s, const tdm_linear *list, int count, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int i = 0; st == TDM_OK && i < count; i++) st = TDM_CPU(linear)(s, &list[i], err);
    return st;
}

static size_t largest(size_t a, size_t b) { return a > b ? a : b; }

/* Inner layers have rows of any length up to the width; rows as long as the vocabulary come to the head's backward alone. */
static size_t shared_most(const tdm_limits *limits)
{
    const int64_t chunk = TDM_GEMM_CHUNK_ROWS, narrow = tdm_min_i64(limits->width, TDM_LINEAR_WIDE);
    const tdm_cview head = {NULL, TDM_DTYPE_BF16, 0, limits->vocab, limits->vocab};
    const int64_t vocab = TDM_CPU(gemm_in_place)(head) ? 0 : limits->vocab;
    const size_t inner = largest(tdm_linear_shared_bytes(narrow, limits->rank, chunk),
                                 tdm_linear_shared_bytes(limits->width, limits->rank, chunk));
    return largest(inner, tdm_linear_shared_bytes(vocab, limits->rank, chunk));
}

size_t TDM_CPU(linear_workspace_bytes)(const tdm_limits *limits, int threads)
{
    const size_t slice = largest(TDM_CPU(gemm_slice_bytes)(), TDM_CPU(grad_slice_bytes)());
    const size_t amax = (size_t)limits->tokens * sizeof(float); /* quantize_act, one scale for the call */
    return largest(tdm_cpu_scratch_bytes(shared_most(limits), slice, threads), tdm_align_up(amax, 64));
}
