/* The value head and its backward. A value is summed over 16 lanes in four accumulators, as rms_norm's squares are; the head's gradient is
 * summed token after token, so neither depends on how tokens are divided among calls. */
#include "kernels/cpu/ops_cpu.h"
#include "kernels/cpu/lanes.h"

static void value_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_value *a = ctx;
    const float *w = a->w.data;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const uint16_t *x = tdm_crow_bf16(a->x, t);
        vf acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        for (int64_t c = 0, k = 0; c < a->x.cols; c += VF, k = (k + 1) & 3) {
            const int64_t n = tdm_min_i64(VF, a->x.cols - c);
            acc[k] = vf_fma(vf_load_bf16_n(x + c, n), vf_load_n(w + c, n), acc[k]);
        }
        a->y[t] = vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3])));
    }
}

tdm_status TDM_CPU(value)(tdm_stream *s, const tdm_value *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->x.dtype == TDM_DTYPE_BF16 && a->w.dtype == TDM_DTYPE_F32 && a->w.rows == 1 && a->w.cols == a->x.cols);
    tdm_cpu_parallel(s, a->x.rows, tdm_max_i64(1, 16384 / tdm_max_i64(a->x.cols, 1)), value_rows, (void *)(uintptr_t)a);
    return TDM_OK;
}

/* Columns [first, last) in vectors. */
static void value_backward_cols(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_value_backward *a = ctx;
    const float *w = a->w.data;
    float *grad = a->grad_w.data;
    (void)thread;
    for (int64_t c = first * VF; c < tdm_min_i64(last * VF, a->x.cols); c += VF) {
        const int64_t n = tdm_min_i64(VF, a->x.cols - c);
        const vf wc = vf_load_n(w + c, n);
        vf sum = vf_load_n(grad + c, n);
        for (int64_t t = 0; t < a->x.rows; t++) {
            const vf dy = vf_set(a->dy[t]);
            vf_store_n(tdm_row_f32(a->dx, t) + c, vf_mul(dy, wc), n);
            sum = vf_fma(dy, vf_load_bf16_n(tdm_crow_bf16(a->x, t) + c, n), sum);
        }
        vf_store_n(grad + c, sum, n);
    }
}

tdm_status TDM_CPU(value_backward)(tdm_stream *s, const tdm_value_backward *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->x.dtype == TDM_DTYPE_BF16 && a->w.dtype == TDM_DTYPE_F32 && a->dx.dtype == TDM_DTYPE_F32 && a->grad_w.dtype == TDM_DTYPE_F32);
    TDM_ASSERT(a->dx.rows == a->x.rows && a->dx.cols == a->x.cols && a->w.cols == a->x.cols && a->grad_w.cols == a->x.cols);
    tdm_cpu_parallel(s, tdm_ceil_div(a->x.cols, VF), tdm_max_i64(1, 1024 / tdm_max_i64(a->x.rows, 1)), value_backward_cols, (void *)(uintptr_t)a);
    return TDM_OK;
}
