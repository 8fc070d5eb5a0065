// quantize_act: bf16 activations to e4m3 codes and scales, a block a row.
#include "kernels/cuda/quantize.cuh"

enum { THREADS = 256, ROW_MOST = 47 * 1024 }; // ROW_MOST: shared memory that a block has without asking

TDM_DEVICE const uint16_t *row_of(const tdm_quantize &q) { return q.x + blockIdx.x * q.x_stride; }

static __global__ void __launch_bounds__(THREADS) by_row(const tdm_quantize q) { tdm_quantize_row<THREADS, false>(q, blockIdx.x, row_of(q)); }
static __global__ void __launch_bounds__(THREADS) by_block(const tdm_quantize q) { tdm_quantize_blocks<THREADS, false>(q, blockIdx.x, row_of(q)); }

// A row with a NaN has no say in the scale of the call; its NaNs stay.
static __global__ void __launch_bounds__(THREADS) call_amax(const tdm_quantize q)
{
    const uint32_t most = tdm_quantize_amax<THREADS, false>(q, row_of(q));
    if (threadIdx.x == 0 && most <= 0x7f80u) atomicMax(q.amax, most);
}

static __global__ void __launch_bounds__(THREADS) by_call(const tdm_quantize q)
{
    float scale = q.one;
    if (q.amax) {
        scale = tdm_scale_of_magnitude(*q.amax, q.pow2);
        if (blockIdx.x == 0 && threadIdx.x == 0) q.scale[0] = scale;
    }
    tdm_quantize_round<THREADS, false>(q, blockIdx.x, row_of(q), scale);
}

void tdm_quantize_check(const tdm_quantize_act *a)
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

tdm_quantize tdm_quantize_of(const tdm_quantize_act *a)
{
    tdm_quantize q = {};
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
    return q;
}

tdm_quantize_fusion tdm_quantize_fuse(const tdm_quantize_act *a, tdm_cview y)
{
    tdm_quantize_fusion f = {};
    if (!a) return f;
    tdm_quantize_check(a);
    TDM_ASSERT(a->x.data == y.data && a->x.rows == y.rows && a->x.cols == y.cols && a->x.stride == y.stride);
    f.bytes = (size_t)tdm_ceil_div(y.cols, 8) * 16;
    f.later = f.bytes > ROW_MOST || (a->act == TDM_ACT_DYNAMIC && a->scheme == TDM_SCHEME_FP8_TENSOR);
    if (f.later) {
        f.bytes = 0;
        return f;
    }
    f.q = tdm_quantize_of(a);
    f.kind = a->act == TDM_ACT_STATIC               ? TDM_QUANTIZE_STATIC
             : a->scheme == TDM_SCHEME_FP8_CHANNEL ? TDM_QUANTIZE_ROW
                                                   : TDM_QUANTIZE_BLOCK;
    return f;
}

tdm_status tdm_cuda_quantize_act(tdm_stream *s, const tdm_quantize_act *a, tdm_error *err)
{
    tdm_quantize_check(a);
    const int64_t rows = a->x.rows;
    if (rows == 0) return TDM_OK;
    tdm_quantize q = tdm_quantize_of(a);
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
