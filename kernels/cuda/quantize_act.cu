// quantize_act: bf16 activations to e4m3 codes and scales, a block a row.
#include "kernels/cuda/gemm.cuh"

enum { THREADS = 256, WARPS = THREADS / 32 };

struct quantize {
    const uint16_t *x;
    uint8_t *codes;
    float *scale;
    int64_t cols, x_stride, codes_stride, scale_stride;
    uint32_t *amax; // of the whole call, as bits
    float one;      // static: the scale
    bool pow2, vector;
};

// Magnitudes of bf16 compare as integers, NaN above all.
TDM_DEVICE uint32_t magnitude(uint4 v)
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) most = max(most, max(w[i] & 0x7fffu, w[i] >> 16 & 0x7fffu));
    return most;
}

// Of magnitude bits: a NaN leaves the scale at 1 (the NaN's own code is NaN), an infinity is its own scale.
TDM_DEVICE float scale_of(uint32_t most, bool pow2)
{
    if (most > 0x7f80u) return 1.0f;
    const float amax = tdm_bf16((uint16_t)most);
    return most == 0x7f80u ? amax : tdm_scale_of(amax, pow2);
}

TDM_DEVICE uint4 load8(const quantize &q, int64_t t, int64_t k)
{
    return tdm_load16<2>((const char *)(q.x + t * q.x_stride + k), q.cols - k, q.vector);
}

TDM_DEVICE void store8(const quantize &q, int64_t t, int64_t k, uint4 v, float scale)
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
    uint32_t c[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float x = tdm_bf16((uint16_t)(w[i / 2] >> 16 * (i % 2)));
        c[i / 4] |= (uint32_t)tdm_to_e4m3(__fdiv_rn(x, scale)) << 8 * (i % 4);
    }
    uint8_t *out = q.codes + t * q.codes_stride + k;
    if (q.vector && k + 8 <= q.cols) {
        *(uint2 *)out = make_uint2(c[0], c[1]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (k + i < q.cols) out[i] = (uint8_t)(c[i / 4] >> 8 * (i % 4));
}

// The largest magnitude of the row, known to every thread.
TDM_DEVICE uint32_t row_amax(const quantize &q, int64_t t)
{
    __shared__ uint32_t of_warp[WARPS];
    uint32_t most = 0;
    for (int64_t k = threadIdx.x * 8; k < q.cols; k += THREADS * 8) most = max(most, magnitude(load8(q, t, k)));
    most = __reduce_max_sync(0xffffffffu, most);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = most;
    __syncthreads();
    for (int i = 0; i < WARPS; i++) most = max(most, of_warp[i]);
    return most;
}

TDM_DEVICE void round_row(const quantize &q, int64_t t, float scale)
{
    for (int64_t k = threadIdx.x * 8; k < q.cols; k += THREADS * 8) store8(q, t, k, load8(q, t, k), scale);
}

static __global__ void __launch_bounds__(THREADS) by_row(quantize q)
{
    const int64_t t = blockIdx.x;
    const float scale = scale_of(row_amax(q, t), q.pow2);
    if (threadIdx.x == 0) q.scale[t * q.scale_stride] = scale;
    round_row(q, t, scale);
}

// 16 lanes take a block of 128 columns, 8 each.
static __global__ void __launch_bounds__(THREADS) by_block(quantize q)
{
    const int64_t t = blockIdx.x, rounded = (q.cols + 127) / 128 * 128;
    for (int64_t base = 0; base < rounded; base += THREADS * 8) {
        const int64_t k = base + threadIdx.x * 8;
        const uint4 v = k < q.cols ? load8(q, t, k) : make_uint4(0, 0, 0, 0);
        uint32_t most = magnitude(v);
        for (int o = 8; o > 0; o >>= 1) most = max(most, __shfl_xor_sync(0xffffffffu, most, o));
        const float scale = scale_of(most, q.pow2);
        if (k >= q.cols) continue; // whole rounds of the loop: every lane comes to the shuffle
        if (k % 128 == 0) q.scale[t * q.scale_stride + k / 128] = scale;
        store8(q, t, k, v, scale);
    }
}

// A row with a NaN has no say in the scale of the call; its NaNs stay.
static __global__ void __launch_bounds__(THREADS) call_amax(quantize q)
{
    const uint32_t most = row_amax(q, blockIdx.x);
    if (threadIdx.x == 0 && most <= 0x7f80u) atomicMax(q.amax, most);
}

static __global__ void __launch_bounds__(THREADS) by_call(quantize q)
{
    float scale = q.one;
    if (q.amax) {
        scale = scale_of(*q.amax, q.pow2);
        if (blockIdx.x == 0 && threadIdx.x == 0) q.scale[0] = scale;
    }
    round_row(q, blockIdx.x, scale);
}

static void check(const tdm_quantize_act *a)
{
    TDM_ASSERT(a->act != TDM_ACT_NONE && a->scheme != TDM_SCHEME_BF16);
    TDM_ASSERT(a->x.dtype == TDM_DTYPE_BF16 && a->codes.dtype == TDM_DTYPE_E4M3);
    TDM_ASSERT_EQ(a->codes.rows, a->x.rows);
    TDM_ASSERT_EQ(a->codes.cols, a->x.cols);
    if (a->act == TDM_ACT_STATIC) return;
    TDM_ASSERT(a->scale.dtype == TDM_DTYPE_F32);
    TDM_ASSERT_EQ(a->scale.rows, a->scheme == TDM_SCHEME_FP8_TENSOR ? 1 : a->x.rows);
    TDM_ASSERT_EQ(a->scale.cols, a->scheme == TDM_SCHEME_FP8_BLOCK ? tdm_ceil_div(a->x.cols, TDM_FP8_BLOCK) : 1);
}

tdm_status tdm_cuda_quantize_act(tdm_stream *s, const tdm_quantize_act *a, tdm_error *err)
{
    check(a);
    const int64_t rows = a->x.rows;
    if (rows == 0) return TDM_OK;
    quantize q = {};
    q.x = (const uint16_t *)a->x.data;
    q.codes = (uint8_t *)a->codes.data;
    q.scale = (float *)a->scale.data;
    q.cols = a->x.cols;
    q.x_stride = a->x.stride;
    q.codes_stride = a->codes.stride;
    q.scale_stride = a->scale.stride;
    q.one = a->input_scale;
    q.pow2 = a->pow2;
    q.vector = tdm_gemm_vector(a->x.data, a->x.stride, 2) && (uintptr_t)a->codes.data % 8 == 0 && a->codes.stride % 8 == 0;
    const unsigned blocks = (unsigned)rows;
    if (a->act == TDM_ACT_STATIC) {
        by_call<<<blocks, THREADS, 0, s->cuda>>>(q);
    } else if (a->scheme == TDM_SCHEME_FP8_TENSOR) {
        q.amax = (uint32_t *)tdm_cuda_scratch(s, sizeof *q.amax);
        const tdm_status st = TDM_CUDA(cudaMemsetAsync(q.amax, 0, sizeof *q.amax, s->cuda));
        if (st != TDM_OK) return st;
        call_amax<<<blocks, THREADS, 0, s->cuda>>>(q);
        by_call<<<blocks, THREADS, 0, s->cuda>>>(q);
    } else if (a->scheme == TDM_SCHEME_FP8_CHANNEL) {
        by_row<<<blocks, THREADS, 0, s->cuda>>>(q);
    } else {
        by_block<<<blocks, THREADS, 0, s->cuda>>>(q);
    }
    return tdm_cuda_launched(err, "quantize_act", rows, a->x.cols);
}
