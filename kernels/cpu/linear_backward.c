/* linear_backward: dx through the dequantized weight and the adapter, and the adapter's gradients. */
#include "kernels/cpu/linear.h"
#include "kernels/cpu/ops_cpu.h"
#include "kernels/linear_check.h"

/* dh = bf16(lora_scale * dy B) for these rows, and dh again as elements. */
static tdm_gemm_rows run_adapter(const tdm_stream *s, const tdm_linear_scratch *z, const tdm_linear_backward *a, tdm_gemm_rows dy,
                                 tdm_view dh)
{
    const tdm_gemm g = {.rows = dh.rows,
                        .cols = a->lora_b.cols,
                        .depth = a->lora_b.rows,
                        .a = dy,
                        .p = {.m = a->lora_b},
                        .x_scale = a->lora_scale,
                        .y = dh};
    TDM_CPU(gemm)(s, z->shared, &g);
    return TDM_CPU(gemm_expand)(s, tdm_view_const(dh), z->h);
}

/* dh A alone: the input's gradient stops here, the dropout's does not. */
static void run_side(const tdm_stream *s, const tdm_linear_scratch *z, const tdm_linear_backward *a, tdm_gemm_rows dh, tdm_view side)
{
    const tdm_gemm g = {.rows = side.rows,
                        .cols = side.cols,
                        .depth = a->lora_a.rows,
                        .a = dh,
                        .p = {.m = a->lora_a},
                        .x_scale = 1.0f,
                        .y = side};
    TDM_CPU(gemm)(s, z->shared, &g);
}

static void run_rows(const tdm_stream *s, const tdm_linear_backward *a, const tdm_linear_scratch *z, int64_t first, int64_t count)
{
    const bool lora = a->lora_a.data != NULL;
    tdm_gemm g = {.rows = count, .cols = a->w->codes.cols, .depth = a->w->codes.rows, .x_scale = 1.0f, .accumulate = a->accumulate};
    g.p = (tdm_gemm_source){.m = a->w->codes, .dequant = a->w};
    g.a = TDM_CPU(gemm_expand)(s, tdm_cview_rows(a->dy, first, count), z->a);
    if (lora) {
        g.a2 = run_adapter(s, z, a, g.a, tdm_view_rows(a->lora_dh, first, count));
        g.p2 = (tdm_gemm_source){.m = a->lora_a};
        g.depth2 = a->lora_a.rows;
        g.alpha = 1.0f;
        if (a->lora_dx.data) g.side = tdm_view_rows(a->lora_dx, first, count);
    }
    if (a->dx.data) {
        g.y = tdm_view_rows(a->dx, first, count);
        TDM_CPU(gemm)(s, z->shared, &g);
    } else if (g.side.data) {
        run_side(s, z, a, g.a2, g.side);
    }
}

tdm_status TDM_CPU(linear_backward)(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err)
{
    (void)err;
    tdm_linear_backward_check(a);
    const int64_t t = a->dy.rows;
    const bool h_in_place = !a->lora_a.data || TDM_CPU(gemm_in_place)(tdm_view_const(a->lora_dh));
    const tdm_linear_scratch z = tdm_linear_scratch_get(s, TDM_CPU(gemm_in_place)(a->dy) ? 0 : a->dy.cols,
                                                        h_in_place ? 0 : a->lora_dh.cols, t);
    if (a->dx.data || a->lora_a.data)
        for (int64_t first = 0; first < t; first += z.rows) run_rows(s, a, &z, first, tdm_min_i64(z.rows, t - first));
    if (a->grad_b.data) TDM_CPU(grad_add)(s, a->grad_b, a->dy, a->h, a->lora_scale);
    if (a->grad_a.data) TDM_CPU(grad_add)(s, a->grad_a, tdm_view_const(a->lora_dh), a->x, 1.0f);
    return TDM_OK;
}
