// quantize_act of a row, for its own kernels (quantize_act.cu) and for those that make the row: a block takes a row and finds it at
// `x`, in the device's memory or in its shared one.
#pragma once

#include "kernels/cuda/gemm.cuh"

// The struct is a kernel's argument: plain values, device pointers.
struct tdm_quantize {
    const uint16_t *x;
    uint8_t *codes;
    float *scale;
    int64_t cols, x_stride, codes_stride, scale_stride;
    uint32_t *amax; // of the whole call, as bits
    float one;      // static: the scale
    bool pow2, vector;
};

// How a block quantizes the row it made. PLAIN: not at all.
enum tdm_quantize_kind { TDM_QUANTIZE_PLAIN, TDM_QUANTIZE_STATIC, TDM_QUANTIZE_ROW, TDM_QUANTIZE_BLOCK };

void tdm_quantize_check(const tdm_quantize_act *a);
tdm_quantize tdm_quantize_of(const tdm_quantize_act *a);

// What an operation that makes y a row a block does about its quantization `a` (NULL: none).
struct tdm_quantize_fusion {
    tdm_quantize q;
    tdm_quantize_kind kind;
    size_t bytes; // of shared memory, for the row
    bool later;   // one scale for the whole call is not a row's to find: quantize_act runs afterwards
};
tdm_quantize_fusion tdm_quantize_fuse(const tdm_quantize_act *a, tdm_cview y);

// Magnitudes of bf16 compare as integers, NaN above all.
TDM_DEVICE uint32_t tdm_magnitude(uint4 v)
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) most = max(most, max(w[i] & 0x7fffu, w[i] >> 16 & 0x7fffu));
    return most;
}

// Of magnitude bits: a NaN leaves the scale at 1 (the NaN's own code is NaN), an infinity is its own scale.
TDM_DEVICE float tdm_scale_of_magnitude(uint32_t most, bool pow2)
{
    if (most > 0x7f80u) return 1.0f;
    const float amax = tdm_bf16((uint16_t)most);
    return most == 0x7f80u ? amax : tdm_scale_of(amax, pow2);
}

// 8 neighbours of a row; those past its end are 0.
template <bool SHARED> TDM_DEVICE uint4 tdm_quantize_load(const tdm_quantize &q, const uint16_t *x, int64_t k)
{
    if constexpr (SHARED) return *(const uint4 *)(x + k); // padded with zeros
    else return tdm_load16<2>((const char *)(x + k), q.cols - k, q.vector);
}

TDM_DEVICE void tdm_quantize_store(const tdm_quantize &q, int64_t t, int64_t k, uint4 v, float scale)
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
template <int THREADS, bool SHARED> TDM_DEVICE uint32_t tdm_quantize_amax(const tdm_quantize &q, const uint16_t *x)
{
    __shared__ uint32_t of_warp[THREADS / 32];
    uint32_t most = 0;
    for (int64_t k = threadIdx.x * 8; k < q.cols; k += THREADS * 8) most = max(most, tdm_magnitude(tdm_quantize_load<SHARED>(q, x, k)));
    most = __reduce_max_sync(0xffffffffu, most);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = most;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++) most = max(most, of_warp[i]);
    return most;
}

template <int THREADS, bool SHARED> TDM_DEVICE void tdm_quantize_round(const tdm_quantize &q, int64_t t, const uint16_t *x, float scale)
{
    for (int64_t k = threadIdx.x * 8; k < q.cols; k += THREADS * 8) tdm_quantize_store(q, t, k, tdm_quantize_load<SHARED>(q, x, k), scale);
}

template <int THREADS, bool SHARED> TDM_DEVICE void tdm_quantize_row(const tdm_quantize &q, int64_t t, const uint16_t *x)
{
    const float scale = tdm_scale_of_magnitude(tdm_quantize_amax<THREADS, SHARED>(q, x), q.pow2);
    if (threadIdx.x == 0) q.scale[t * q.scale_stride] = scale;
    tdm_quantize_round<THREADS, SHARED>(q, t, x, scale);
}

// 16 lanes take a block of 128 columns, 8 each.
template <int THREADS, bool SHARED> TDM_DEVICE void tdm_quantize_blocks(const tdm_quantize &q, int64_t t, const uint16_t *x)
{
    const int64_t rounded = (q.cols + 127) / 128 * 128;
    for (int64_t base = 0; base < rounded; base += THREADS * 8) {
        const int64_t k = base + threadIdx.x * 8;
        const uint4 v = k < q.cols ? tdm_quantize_load<SHARED>(q, x, k) : make_uint4(0, 0, 0, 0);
        uint32_t most = tdm_magnitude(v);
        for (int o = 8; o > 0; o >>= 1) most = max(most, __shfl_xor_sync(0xffffffffu, most, o));
        const float scale = tdm_scale_of_magnitude(most, q.pow2);
        if (k >= q.cols) continue; // whole rounds of the loop: every lane comes to the shuffle
        if (k % 128 == 0) q.scale[t * q.scale_stride + k / 128] = scale;
        tdm_quantize_store(q, t, k, v, scale);
    }
}

// Row t, which this block has put into `row` (shared memory, 16-byte aligned, zeros up to a multiple of 8).
template <int THREADS> TDM_DEVICE void tdm_quantize_made(const tdm_quantize &q, tdm_quantize_kind kind, int64_t t, const uint16_t *row)
{
    __syncthreads();
    if (kind == TDM_QUANTIZE_ROW) tdm_quantize_row<THREADS, true>(q, t, row);
    else if (kind == TDM_QUANTIZE_BLOCK) tdm_quantize_blocks<THREADS, true>(q, t, row);
    else tdm_quantize_round<THREADS, true>(q, t, row, q.one);
}
