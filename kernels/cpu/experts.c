/* Products with each expert's matrix, one expert after the other: a row has the bits that linear gives it. */
#include "kernels/cpu/ops_cpu.h"

static tdm_view rows_of(tdm_view v, int64_t first, int64_t count) { return v.data ? tdm_view_rows(v, first, count) : v; }
static tdm_cview crows_of(tdm_cview v, int64_t first, int64_t count) { return v.data ? tdm_cview_rows(v, first, count) : v; }

static tdm_cview step(tdm_cview v, int64_t elements)
{
    if (v.data) v.data = (const char *)v.data + (size_t)elements * tdm_dtype_bytes(v.dtype);
    return v;
}

static tdm_view step_out(tdm_view v, int64_t elements)
{
    if (v.data) v.data = (char *)v.data + (size_t)elements * tdm_dtype_bytes(v.dtype);
    return v;
}

tdm_status TDM_CPU(linear_experts)(tdm_stream *s, const tdm_linear_experts *a, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int32_t *start = a->routes->start;
    TDM_ASSERT_EQ(a->of.x.rows, a->routes->tokens * a->routes->used);
    for (int64_t e = 0; st == TDM_OK && e < a->routes->experts; e++) {
        const int64_t first = start[e], count = start[e + 1] - first;
        tdm_linear l = a->of;
        if (count == 0) continue;
        l.w = a->of.w + e;
        l.y = rows_of(l.y, first, count);
        l.x = crows_of(l.x, first, count);
        l.xq = crows_of(l.xq, first, count);
        l.xs = crows_of(l.xs, first, count);
        l.lora_a = step(l.lora_a, e * a->lora_step);
        l.lora_b = step(l.lora_b, e * a->lora_step);
        l.lora_h = rows_of(l.lora_h, first, count);
        st = TDM_CPU(linear)(s, &l, err);
    }
    return st;
}

/* An expert's rows stand in the order of their tokens, and linear_backward sums them in that order: sequence by sequence. */
tdm_status TDM_CPU(linear_experts_backward)(tdm_stream *s, const tdm_linear_experts_backward *a, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int32_t *start = a->routes->start;
    TDM_ASSERT(!a->of.lora_dx.data);
    for (int64_t e = 0; st == TDM_OK && e < a->routes->experts; e++) {
        const int64_t first = start[e], count = start[e + 1] - first;
        tdm_linear_backward l = a->of;
        if (count == 0) continue;
        l.w = a->of.w + e;
        l.dx = rows_of(l.dx, first, count);
        l.dy = crows_of(l.dy, first, count);
        l.x = crows_of(l.x, first, count);
        l.h = crows_of(l.h, first, count);
        l.lora_a = step(l.lora_a, e * a->lora_step);
        l.lora_b = step(l.lora_b, e * a->lora_step);
        l.lora_dh = rows_of(l.lora_dh, first, count);
        l.grad_a = step_out(l.grad_a, e * a->lora_step);
        l.grad_b = step_out(l.grad_b, e * a->lora_step);
        l.q_start = NULL; /* of tokens that are not sorted */
        l.sequences = 0;
        st = TDM_CPU(linear_backward)(s, &l, err);
    }
    return st;
}
