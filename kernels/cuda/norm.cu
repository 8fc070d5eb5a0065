// rms_norm, rms_norm_add and their backwards: a block a row. A thread sums the same columns whatever the row's alignment (four neighbours every 1024),
// so the order of a sum depends on D alone.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, STEP = 4 * THREADS, HELD = 4 }; // HELD: fours of a row that a thread keeps in registers

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
// Of a row of f32, or of bf16 where `half`.
static __device__ __forceinline__ float4 load4_of(const void *x, bool half, int c, int n, bool whole)
{
    return half ? load4_bf16((const uint16_t *)x + c, n, whole) : load4((const float *)x + c, n, whole);
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

// `aligned`: every row begins at 16 bytes (f32) or 8 (bf16). Where y is quantized too the block keeps its row in shared memory.
static __global__ void __launch_bounds__(THREADS) norm_rows(tdm_view y, tdm_view rstd, tdm_cview x, const void *w, bool half, float eps,
                                                            bool aligned, tdm_quantize q, tdm_quantize_kind kind)
{
    extern __shared__ __align__(16) uint16_t row[];
    const int64_t t = blockIdx.x;
    const int cols = (int)x.cols;
    const float *in = (const float *)x.data + t * x.stride;
    uint16_t *out = (uint16_t *)y.data + t * y.stride;
    const auto whole = [&](int c) { return aligned && c + 4 <= cols; };
    float4 held[HELD], weight[HELD];
    tdm_let_next_begin();
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int c = 4 * threadIdx.x + i * STEP;
        if (c < cols) weight[i] = load4_of(w, half, c, cols - c, whole(c));
    }
    tdm_wait_for_previous();
    float sum = 0.0f;
    const auto add = [&](float4 v) {
        sum = __fmaf_rn(v.x, v.x, sum);
        sum = __fmaf_rn(v.y, v.y, sum);
        sum = __fmaf_rn(v.z, v.z, sum);
        sum = __fmaf_rn(v.w, v.w, sum);
    };
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int c = 4 * threadIdx.x + i * STEP;
        if (c < cols) held[i] = load4(in + c, cols - c, whole(c));
    }
#pragma unroll
    for (int i = 0; i < HELD; i++)
        if (4 * threadIdx.x + i * STEP < cols) add(held[i]);
    for (int c = 4 * threadIdx.x + HELD * STEP; c < cols; c += STEP) add(load4(in + c, cols - c, whole(c)));
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(block_sum(sum), (float)cols), eps)));
    const auto put = [&](int c, float4 v, float4 of_w) {
        v = mul4(mul4(v, make_float4(scale, scale, scale, scale)), of_w);
        store4_bf16(out + c, v, cols - c, whole(c));
        if (kind == TDM_QUANTIZE_PLAIN) return;
        *(ushort4 *)(row + c) = make_ushort4(tdm_to_bf16(v.x), c + 1 < cols ? tdm_to_bf16(v.y) : 0, c + 2 < cols ? tdm_to_bf16(v.z) : 0,
                                             c + 3 < cols ? tdm_to_bf16(v.w) : 0);
        if (c % 8 == 0 && c + 4 >= cols) *(ushort4 *)(row + c + 4) = make_ushort4(0, 0, 0, 0); // up to a multiple of 8
    };
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int c = 4 * threadIdx.x + i * STEP;
        if (c < cols) put(c, held[i], weight[i]);
    }
    for (int c = 4 * threadIdx.x + HELD * STEP; c < cols; c += STEP)
        put(c, load4(in + c, cols - c, whole(c)), load4_of(w, half, c, cols - c, whole(c)));
    if (rstd.data && threadIdx.x == 0) ((float *)rstd.data)[t * rstd.stride] = scale;
    if (kind != TDM_QUANTIZE_PLAIN) tdm_quantize_made<THREADS>(q, kind, t, row);
}

// With g = w dy and xhat = x rstd: rstd (g - xhat mean(g xhat)), added to f32 where `add`, else stored as bf16; x is f32, or bf16 where
// not `add`.
template <bool ADD>
static __global__ void __launch_bounds__(THREADS) norm_backward_rows(tdm_view dx, tdm_cview dy, tdm_cview x, const void *w, bool half, tdm_cview rstd,
                                                                     bool aligned)
{
    const int64_t t = blockIdx.x;
    const int cols = (int)x.cols;
    const char *in = (const char *)x.data + t * x.stride * (ADD ? 4 : 2);
    const float *up = (const float *)dy.data + t * dy.stride;
    const float scale = ((const float *)rstd.data)[t * rstd.stride];
    float sum = 0.0f;
    for (int c = 4 * threadIdx.x; c < cols; c += STEP) {
        const bool whole = aligned && c + 4 <= cols;
        const float4 v = load4_of(in, !ADD, c, cols - c, whole);
        const float4 g = mul4(load4_of(w, half, c, cols - c, whole), load4(up + c, cols - c, whole));
        sum = __fmaf_rn(g.x, v.x, sum);
        sum = __fmaf_rn(g.y, v.y, sum);
        sum = __fmaf_rn(g.z, v.z, sum);
        sum = __fmaf_rn(g.w, v.w, sum);
    }
    const float mean = __fdiv_rn(__fmul_rn(block_sum(sum), scale), (float)cols);
    const float back = __fmul_rn(__fmul_rn(-mean, scale), scale);
    for (int c = 4 * threadIdx.x; c < cols; c += STEP) {
        const bool whole = aligned && c + 4 <= cols;
        const float4 v = load4_of(in, !ADD, c, cols - c, whole);
        const float4 g = mul4(load4_of(w, half, c, cols - c, whole), load4(up + c, cols - c, whole));
        float4 d = make_float4(__fmaf_rn(v.x, back, __fmul_rn(g.x, scale)), __fmaf_rn(v.y, back, __fmul_rn(g.y, scale)),
                               __fmaf_rn(v.z, back, __fmul_rn(g.z, scale)), __fmaf_rn(v.w, back, __fmul_rn(g.w, scale)));
        if (!ADD) {
            store4_bf16((uint16_t *)dx.data + t * dx.stride + c, d, cols - c, whole);
            continue;
        }
        float *out = (float *)dx.data + t * dx.stride + c;
        const float4 had = load4(out, cols - c, whole);
        d = make_float4(__fadd_rn(had.x, d.x), __fadd_rn(had.y, d.y), __fadd_rn(had.z, d.z), __fadd_rn(had.w, d.w));
        store4(out, d, cols - c, whole);
    }
}

static __global__ void __launch_bounds__(THREADS) norm_add_rows(tdm_view y, tdm_view rstd, tdm_cview r, tdm_cview x, const void *w, bool half, float eps,
                                                                bool aligned)
{
    const int64_t t = blockIdx.x;
    const int cols = (int)x.cols;
    const uint16_t *in = (const uint16_t *)x.data + t * x.stride;
    const float *before = (const float *)r.data + t * r.stride;
    float *out = (float *)y.data + t * y.stride;
    float sum = 0.0f;
    for (int c = 4 * threadIdx.x; c < cols; c += STEP) {
        const float4 v = load4_bf16(in + c, cols - c, aligned && c + 4 <= cols);
        sum = __fmaf_rn(v.x, v.x, sum);
        sum = __fmaf_rn(v.y, v.y, sum);
        sum = __fmaf_rn(v.z, v.z, sum);
        sum = __fmaf_rn(v.w, v.w, sum);
    }
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(block_sum(sum), (float)cols), eps)));
    for (int c = 4 * threadIdx.x; c < cols; c += STEP) {
        const bool whole = aligned && c + 4 <= cols;
        const float4 v = mul4(mul4(load4_bf16(in + c, cols - c, whole), make_float4(scale, scale, scale, scale)), load4_of(w, half, c, cols - c, whole));
        const float4 had = load4(before + c, cols - c, whole);
        store4(out + c, make_float4(__fadd_rn(had.x, v.x), __fadd_rn(had.y, v.y), __fadd_rn(had.z, v.z), __fadd_rn(had.w, v.w)), cols - c, whole);
    }
    if (rstd.data && threadIdx.x == 0) ((float *)rstd.data)[t * rstd.stride] = scale;
}

static bool is_weight(tdm_cview w, int64_t cols) { return (w.dtype == TDM_DTYPE_BF16 || w.dtype == TDM_DTYPE_F32) && w.cols == cols; }
static bool is_half(tdm_cview w) { return w.dtype == TDM_DTYPE_BF16; }
static bool rows_align(const void *data, int64_t stride, size_t element) { return (uintptr_t)data % (4 * element) == 0 && stride % 4 == 0; }
static bool weight_aligns(tdm_cview w) { return (uintptr_t)w.data % (is_half(w) ? 8 : 16) == 0; }

tdm_status tdm_cuda_rms_norm(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview x, tdm_cview w, float eps, const tdm_quantize_act *q,
                             tdm_error *err)
{
    TDM_ASSERT(x.dtype == TDM_DTYPE_F32 && y.dtype == TDM_DTYPE_BF16 && is_weight(w, x.cols));
    TDM_ASSERT(y.rows == x.rows && y.cols == x.cols && (!rstd.data || rstd.rows == x.rows));
    if (x.rows == 0) return TDM_OK;
    const bool aligned = rows_align(x.data, x.stride, 4) && rows_align(y.data, y.stride, 2) && weight_aligns(w);
    const tdm_quantize_fusion f = tdm_quantize_fuse(q, tdm_view_const(y));
    tdm_status st = TDM_CUDA(tdm_cuda_launch(s, norm_rows, dim3((unsigned)x.rows), THREADS, f.bytes, y, rstd, x, (const void *)w.data, is_half(w),
                                             eps, aligned, f.q, f.kind));
    if (st == TDM_OK) st = tdm_cuda_launched(err, "rms_norm", x.rows, x.cols);
    return st == TDM_OK && f.later ? tdm_cuda_quantize_act(s, q, err) : st;
}

tdm_status tdm_cuda_rms_norm_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd, tdm_error *err)
{
    TDM_ASSERT(x.dtype == TDM_DTYPE_F32 && dx.dtype == TDM_DTYPE_F32 && dy.dtype == TDM_DTYPE_F32 && is_weight(w, x.cols));
    TDM_ASSERT(dx.rows == x.rows && dy.rows == x.rows && rstd.rows == x.rows && dx.cols == x.cols && dy.cols == x.cols && rstd.data);
    if (x.rows == 0) return TDM_OK;
    const bool aligned = rows_align(x.data, x.stride, 4) && rows_align(dx.data, dx.stride, 4) && rows_align(dy.data, dy.stride, 4) && weight_aligns(w);
    norm_backward_rows<true><<<(unsigned)x.rows, THREADS, 0, s->cuda>>>(dx, dy, x, w.data, is_half(w), rstd, aligned);
    return tdm_cuda_launched(err, "rms_norm_backward", x.rows, x.cols);
}

tdm_status tdm_cuda_rms_norm_add(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview r, tdm_cview x, tdm_cview w, float eps, tdm_error *err)
{
    TDM_ASSERT(x.dtype == TDM_DTYPE_BF16 && y.dtype == TDM_DTYPE_F32 && r.dtype == TDM_DTYPE_F32 && is_weight(w, x.cols));
    TDM_ASSERT(y.rows == x.rows && y.cols == x.cols && r.rows == x.rows && r.cols == x.cols && (!rstd.data || rstd.rows == x.rows));
    if (x.rows == 0) return TDM_OK;
    const bool aligned = rows_align(x.data, x.stride, 2) && rows_align(y.data, y.stride, 4) && rows_align(r.data, r.stride, 4) && weight_aligns(w);
    norm_add_rows<<<(unsigned)x.rows, THREADS, 0, s->cuda>>>(y, rstd, r, x, w.data, is_half(w), eps, aligned);
    return tdm_cuda_launched(err, "rms_norm_add", x.rows, x.cols);
}

tdm_status tdm_cuda_rms_norm_add_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd, tdm_error *err)
{
    TDM_ASSERT(x.dtype == TDM_DTYPE_BF16 && dx.dtype == TDM_DTYPE_BF16 && dy.dtype == TDM_DTYPE_F32 && is_weight(w, x.cols));
    TDM_ASSERT(dx.rows == x.rows && dy.rows == x.rows && rstd.rows == x.rows && dx.cols == x.cols && dy.cols == x.cols && rstd.data);
    if (x.rows == 0) return TDM_OK;
    const bool aligned = rows_align(x.data, x.stride, 2) && rows_align(dx.data, dx.stride, 2) && rows_align(dy.data, dy.stride, 4) && weight_aligns(w);
    norm_backward_rows<false><<<(unsigned)x.rows, THREADS, 0, s->cuda>>>(dx, dy, x, w.data, is_half(w), rstd, aligned);
    return tdm_cuda_launched(err, "rms_norm_add_backward", x.rows, x.cols);
}
