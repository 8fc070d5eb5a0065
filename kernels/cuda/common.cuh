// What every CUDA operation shares: the stream, checked calls and launches, number formats.
#pragma once

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/cuda/ops_cuda.h"

// Which family of kernels runs; the best for the card, or $TANDEM_CUDA_PATH.
enum tdm_cuda_path { TDM_CUDA_SM80, TDM_CUDA_SM89, TDM_CUDA_SM90, TDM_CUDA_SM120 };

//   created    stream_open            released  stream_close
//   workspace  device memory lent by the caller until close; nothing in it survives an operation
//   threads    one at a time
struct tdm_stream {
    cudaStream_t cuda;
    cublasLtHandle_t lt;
    char *workspace; // 256-byte aligned
    size_t workspace_bytes;
    tdm_cuda_path path;
    int sms;         // multiprocessors
    bool exact;
    struct tdm_blas *blas; // NULL: only our own kernels run
    cudaStream_t side;     // copies beside the stream; NULL until the first
    cudaEvent_t given, copied[TDM_SIDE_SLOTS]; // where a copy begins; where each slot's ends
    unsigned *counters;    // of gemm_thin; 0 whenever an operation begins
    int slot;              // which they are
};

// "what: the driver's words" as an error; TDM_OK where code is cudaSuccess.
tdm_status tdm_cuda_check(cudaError_t code, tdm_error *err, const char *what);
// After a launch: cudaGetLastError, with the operation's name and shape.
tdm_status tdm_cuda_launched(tdm_error *err, const char *op, long long rows, long long cols);
#define TDM_CUDA(call) tdm_cuda_check((call), err, #call)

// The whole workspace, after checking that `bytes` fit: less than workspace_bytes() said is our own bug.
static inline void *tdm_cuda_scratch(const tdm_stream *s, size_t bytes)
{
    TDM_ASSERT(bytes <= s->workspace_bytes);
    return s->workspace;
}

#define TDM_DEVICE static __device__ __forceinline__

TDM_DEVICE float tdm_bf16(uint16_t b) { return __uint_as_float((uint32_t)b << 16); }
TDM_DEVICE uint16_t tdm_to_bf16(float f) { return __bfloat16_as_ushort(__float2bfloat16_rn(f)); }
// Exact: every e4m3 value is a half.
TDM_DEVICE float tdm_e4m3(uint8_t c)
{
    const __half_raw h = __nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)c, __NV_E4M3);
    return __half2float(__half(h));
}
// Nearest even, saturating to +-448; NaN to NaN.
TDM_DEVICE uint8_t tdm_to_e4m3(float f) { return (uint8_t)__nv_cvt_float_to_fp8(f, __NV_SATFINITE, __NV_E4M3); }
// amax / 448, 1 where amax is 0, rounded up to a power of two when pow2: tdm_fp8_scale on the device.
TDM_DEVICE float tdm_scale_of(float amax, bool pow2)
{
    if (amax == 0.0f) return 1.0f;
    float s = __fdiv_rn(amax, 448.0f);
    if (s == 0.0f) s = __uint_as_float(1u); // the smallest there is: never zero
    if (!pow2) return s;
    int e;
    const float m = frexpf(s, &e); // s = m * 2^e, m in [0.5, 1)
    return ldexpf(1.0f, m == 0.5f ? e - 1 : e);
}

// Reductions whose order is fixed by the width alone: xor-shuffle tree.
TDM_DEVICE float tdm_warp_sum(float v)
{
    for (int o = 16; o > 0; o >>= 1) v = __fadd_rn(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
TDM_DEVICE float tdm_warp_max(float v)
{
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
