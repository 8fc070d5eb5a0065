// The value head and its backward. Forward: a warp a token, whose lanes take the same columns whatever T is. Backward: a thread a column, which
// adds token after token, so that the head's gradient does not depend on how tokens are divided among calls; what is read is read once.
#include "kernels/cuda/common.cuh"

enum { WARPS = 8, COLUMNS = 64 };

static __global__ void __launch_bounds__(32 * WARPS) value_rows(float *y, tdm_cview x, const float *w)
{
    const int64_t t = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (t >= x.rows) return;
    const uint16_t *row = (const uint16_t *)x.data + t * x.stride;
    float sum = 0.0f;
    for (int64_t c = threadIdx.x % 32; c < x.cols; c += 32) sum = __fmaf_rn(tdm_bf16(row[c]), w[c], sum);
    sum = tdm_warp_sum(sum);
    if (threadIdx.x % 32 == 0) y[t] = sum;
}

static __global__ void __launch_bounds__(COLUMNS) value_backward_cols(tdm_view dx, float *grad, const float *dy, tdm_cview x, const float *w)
{
    const int64_t c = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    if (c >= x.cols) return;
    const float wc = w[c];
    float sum = grad[c];
    for (int64_t t = 0; t < x.rows; t++) {
        const float d = dy[t];
        ((float *)dx.data)[t * dx.stride + c] = __fmul_rn(d, wc);
        sum = __fmaf_rn(d, tdm_bf16(((const uint16_t *)x.data)[t * x.stride + c]), sum);
    }
    grad[c] = sum;
}

tdm_status tdm_cuda_value(tdm_stream *s, const tdm_value *a, tdm_error *err)
{
    TDM_ASSERT(a->x.dtype == TDM_DTYPE_BF16 && a->w.dtype == TDM_DTYPE_F32 && a->w.rows == 1 && a->w.cols == a->x.cols);
    if (a->x.rows == 0) return TDM_OK;
    value_rows<<<(unsigned)tdm_ceil_div(a->x.rows, WARPS), 32 * WARPS, 0, s->cuda>>>(a->y, a->x, (const float *)a->w.data);
    return tdm_cuda_launched(err, "value", a->x.rows, a->x.cols);
}

tdm_status tdm_cuda_value_backward(tdm_stream *s, const tdm_value_backward *a, tdm_error *err)
{
    TDM_ASSERT(a->x.dtype == TDM_DTYPE_BF16 && a->w.dtype == TDM_DTYPE_F32 && a->dx.dtype == TDM_DTYPE_F32 && a->grad_w.dtype == TDM_DTYPE_F32);
    TDM_ASSERT(a->dx.rows == a->x.rows && a->dx.cols == a->x.cols && a->w.cols == a->x.cols && a->grad_w.cols == a->x.cols);
    if (a->x.rows == 0 || a->x.cols == 0) return TDM_OK;
    value_backward_cols<<<(unsigned)tdm_ceil_div(a->x.cols, COLUMNS), COLUMNS, 0, s->cuda>>>(a->dx, (float *)a->grad_w.data, a->dy, a->x,
                                                                                            (const float *)a->w.data);
    return tdm_cuda_launched(err, "value_backward", a->x.rows, a->x.cols);
}
