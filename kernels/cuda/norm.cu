// rms_norm and its backward: a block a row. A thread sums the same columns whatever the row's alignment (four neighbours every 1024),
// so the order of a sum depends on D alone.
#include "kernels/cuda/common.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, STEP = 4 * THREADS };

static __device__ float block_sum(float v)
{
    __shared__ float part[WARPS];
    v = tdm_warp_sum(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = part[0];
    for (int w = 1; w < WARPS; w++) sum = __fadd_rn(sum, part[w]);
    return sum;
}

// Four neighbours; `whole`: all are there and 16-byte aligned. Those past n are 0.
static __device__ __forceinline__ float4 load4(const float *x, int n, bool whole)
{
    if (whole) return *(const float4 *)x;
    return make_float4(x[0], n > 1 ? x[1] : 0.0f, n > 2 ? x[2] : 0.0f, n > 3 ? x[3] : 0.0f);
}
static __device__ __forceinline__ void store4(float *y, float4 v, int n, bool whole)
{
    if (whole) {
        *(float4 *)y = v;
        return;
    }
    y[0] = v.x;
    if (n > 1) y[1] = v.y;
    if (n > 2) y[2] = v.z;
    if (n > 3) y[3] = v.w;
}
static __device__ __forceinline__ float4 load4_bf16(const uint16_t *x, int n, bool whole)
{
    if (whole) {
        const ushort4 u = *(const ushort4 *)x;
        return make_float4(tdm_bf16(u.x), tdm_bf16(u.y), tdm_bf16(u.z), tdm_bf16(u.w));
    }
    return make_float4(tdm_bf16(x[0]), n > 1 ? tdm_bf16(x[1]) : 0.0f, n > 2 ? tdm_bf16(x[2]) : 0.0f, n > 3 ? tdm_bf16(x[3]) : 0.0f);
}
static __device__ __forceinline__ void store4_bf16(uint16_t *y, float4 v, int n, bool whole)
{
    const ushort4 u = make_ushort4(tdm_to_bf16(v.x), tdm_to_bf16(v.y), tdm_to_bf16(v.z), tdm_to_bf16(v.w));
    if (whole) {
        *(ushort4 *)y = u;
        return;
    }
    y[0] = u.x;
    if (n > 1) y[1] = u.y;
    if (n > 2) y[2] = u.z;
    if (n > 3) y[3] = u.w;
}
static __device__ __forceinline__ float4 mul4(float4 a, float4 b)
{
    return make_float4(__fmul_rn(a.x, b.x), __fmul_rn(a.y, b.y), __fmul_rn(a.z, b.z), __fmul_rn(a.w, b.w));
}

// `aligned`: every row begins at 16 bytes (f32) or 8 (bf16).
static __global__ void __launch_bounds__(THREADS) norm_rows(tdm_view y, tdm_view rstd, tdm_cview x, const uint16_t *w, float eps, bool aligned)
{
    const int64_t t = blockIdx.x;
    const int cols = (int)x.cols;
    const float *in = (const float *)x.data + t * x.stride;
    uint16_t *out = (uint16_t *)y.data + t * y.stride;
    float sum = 0.0f;
    for (int c = 4 * threadIdx.x; c < cols; c += STEP) {
        const float4 v = load4(in + c, cols - c, aligned && c + 4 <= cols);
        sum = __fmaf_rn(v.x, v.x, sum);
        sum = __fmaf_rn(v.y, v.y, sum);
        sum = __fmaf_rn(v.z, v.z, sum);
        sum = __fmaf_rn(v.w, v.w, sum);
    }
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(block_sum(sum), (float)cols), eps)));
    for (int c = 4 * threadIdx.x; c < cols; c += STEP) {
        const bool whole = aligned && c + 4 <= cols;
        const float4 v = mul4(load4(in + c, cols - c, whole), make_float4(scale, scale, scale, scale));
        store4_bf16(out + c, mul4(v, load4_bf16(w + c, cols - c, whole)), cols - c, whole);
    }
    if (rstd.data && threadIdx.x == 0) ((float *)rstd.data)[t * rstd.stride] = scale;
}

// With g = w dy and xhat = x rstd: dx += rstd (g - xhat mean(g xhat)).
static __global__ void __launch_bounds__(THREADS) norm_backward_rows(tdm_view dx, tdm_cview dy, tdm_cview x, const uint16_t *w, tdm_cview rstd,
                                                                     bool aligned)
{
    const int64_t t = blockIdx.x;
    const int cols = (int)x.cols;
    const float *in = (const float *)x.data + t * x.stride, *up = (const float *)dy.data + t * dy.stride;
    float *out = (float *)dx.data + t * dx.stride;
    const float scale = ((const float *)rstd.data)[t * rstd.stride];
    float sum = 0.0f;
    for (int c = 4 * threadIdx.x; c < cols; c += STEP) {
        const bool whole = aligned && c + 4 <= cols;
        const float4 v = load4(in + c, cols - c, whole);
        const float4 g = mul4(load4_bf16(w + c, cols - c, whole), load4(up + c, cols - c, whole));
        sum = __fmaf_rn(g.x, v.x, sum);
        sum = __fmaf_rn(g.y, v.y, sum);
        sum = __fmaf_rn(g.z, v.z, sum);
        sum = __fmaf_rn(g.w, v.w, sum);
    }
    const float mean = __fdiv_rn(__fmul_rn(block_sum(sum), scale), (float)cols);
    const float back = __fmul_rn(__fmul_rn(-mean, scale), scale);
    for (int c = 4 * threadIdx.x; c < cols; c += STEP) {
        const bool whole = aligned && c + 4 <= cols;
        const float4 v = load4(in + c, cols - c, whole);
        const float4 g = mul4(load4_bf16(w + c, cols - c, whole), load4(up + c, cols - c, whole));
        float4 d = load4(out + c, cols - c, whole);
        d.x = __fadd_rn(d.x, __fmaf_rn(v.x, back, __fmul_rn(g.x, scale)));
        d.y = __fadd_rn(d.y, __fmaf_rn(v.y, back, __fmul_rn(g.y, scale)));
        d.z = __fadd_rn(d.z, __fmaf_rn(v.z, back, __fmul_rn(g.z, scale)));
        d.w = __fadd_rn(d.w, __fmaf_rn(v.w, back, __fmul_rn(g.w, scale)));
        store4(out + c, d, cols - c, whole);
    }
}

static bool rows_align(const void *data, int64_t stride, size_t element) { return (uintptr_t)data % (4 * element) == 0 && stride % 4 == 0; }

tdm_status tdm_cuda_rms_norm(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview x, tdm_cview w, float eps, tdm_error *err)
{
    TDM_ASSERT(x.dtype == TDM_DTYPE_F32 && y.dtype == TDM_DTYPE_BF16 && w.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(y.rows == x.rows && y.cols == x.cols && w.cols == x.cols && (!rstd.data || rstd.rows == x.rows));
    if (x.rows == 0) return TDM_OK;
    const bool aligned = rows_align(x.data, x.stride, 4) && rows_align(y.data, y.stride, 2) && (uintptr_t)w.data % 8 == 0;
    norm_rows<<<(unsigned)x.rows, THREADS, 0, s->cuda>>>(y, rstd, x, (const uint16_t *)w.data, eps, aligned);
    return tdm_cuda_launched(err, "rms_norm", x.rows, x.cols);
}

tdm_status tdm_cuda_rms_norm_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd, tdm_error *err)
{
    TDM_ASSERT(x.dtype == TDM_DTYPE_F32 && dx.dtype == TDM_DTYPE_F32 && dy.dtype == TDM_DTYPE_F32 && w.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(dx.rows == x.rows && dy.rows == x.rows && rstd.rows == x.rows && dx.cols == x.cols && dy.cols == x.cols &&
               w.cols == x.cols && rstd.data);
    if (x.rows == 0) return TDM_OK;
    const bool aligned = rows_align(x.data, x.stride, 4) && rows_align(dx.data, dx.stride, 4) && rows_align(dy.data, dy.stride, 4) &&
                         (uintptr_t)w.data % 8 == 0;
    norm_backward_rows<<<(unsigned)x.rows, THREADS, 0, s->cuda>>>(dx, dy, x, (const uint16_t *)w.data, rstd, aligned);
    return tdm_cuda_launched(err, "rms_norm_backward", x.rows, x.cols);
}
