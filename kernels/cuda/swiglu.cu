// swiglu: y = silu(gate) * up, element by element, and its backward.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/math.cuh"

enum { THREADS = 256, COLS = 4 * THREADS, TILES_MOST = 65535 };

// 1 / (1 + e^-g): 0 and 1 at the ends, as e^-g grows to infinity and shrinks to 0.
static __device__ __forceinline__ float sigmoid(float g) { return __fdiv_rn(1.0f, __fadd_rn(1.0f, tdm_exp(-g))); }

static __global__ void __launch_bounds__(THREADS) swiglu_tiles(tdm_view y, tdm_cview gate, tdm_cview up)
{
    const int64_t t = blockIdx.x, last = min(y.cols, (int64_t)(blockIdx.y + 1) * COLS);
    const uint16_t *g_row = (const uint16_t *)gate.data + t * gate.stride, *u_row = (const uint16_t *)up.data + t * up.stride;
    uint16_t *out = (uint16_t *)y.data + t * y.stride;
    for (int64_t c = (int64_t)blockIdx.y * COLS + threadIdx.x; c < last; c += THREADS) {
        const float g = tdm_bf16(g_row[c]);
        out[c] = tdm_to_bf16(__fmul_rn(__fmul_rn(g, sigmoid(g)), tdm_bf16(u_row[c])));
    }
}

// With s = sigmoid(gate): dup = dy gate s, dgate = dy up s (1 + gate (1 - s)).
static __global__ void __launch_bounds__(THREADS) swiglu_backward_tiles(tdm_view dgate, tdm_view dup, tdm_cview dy, tdm_cview gate, tdm_cview up)
{
    const int64_t t = blockIdx.x, last = min(dy.cols, (int64_t)(blockIdx.y + 1) * COLS);
    const uint16_t *g_row = (const uint16_t *)gate.data + t * gate.stride, *u_row = (const uint16_t *)up.data + t * up.stride;
    const float *d_row = (const float *)dy.data + t * dy.stride;
    uint16_t *dg_row = (uint16_t *)dgate.data + t * dgate.stride, *du_row = (uint16_t *)dup.data + t * dup.stride;
    for (int64_t c = (int64_t)blockIdx.y * COLS + threadIdx.x; c < last; c += THREADS) {
        const float g = tdm_bf16(g_row[c]), u = tdm_bf16(u_row[c]), d = d_row[c];
        const float sg = sigmoid(g), slope = __fmul_rn(sg, __fmaf_rn(g, __fadd_rn(1.0f, -sg), 1.0f));
        du_row[c] = tdm_to_bf16(__fmul_rn(d, __fmul_rn(g, sg))); // both inputs are read: dgate, dup may lie on them
        dg_row[c] = tdm_to_bf16(__fmul_rn(__fmul_rn(d, u), slope));
    }
}

static dim3 tiles(int64_t rows, int64_t cols)
{
    TDM_ASSERT(tdm_ceil_div(cols, COLS) <= TILES_MOST);
    return dim3((unsigned)rows, (unsigned)tdm_ceil_div(cols, COLS));
}

tdm_status tdm_cuda_swiglu(tdm_stream *s, tdm_view y, tdm_cview gate, tdm_cview up, tdm_error *err)
{
    TDM_ASSERT(y.dtype == TDM_DTYPE_BF16 && gate.dtype == TDM_DTYPE_BF16 && up.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(gate.rows == y.rows && up.rows == y.rows && gate.cols == y.cols && up.cols == y.cols);
    if (y.rows == 0 || y.cols == 0) return TDM_OK;
    swiglu_tiles<<<tiles(y.rows, y.cols), THREADS, 0, s->cuda>>>(y, gate, up);
    return tdm_cuda_launched(err, "swiglu", y.rows, y.cols);
}

tdm_status tdm_cuda_swiglu_backward(tdm_stream *s, tdm_view dgate, tdm_view dup, tdm_cview dy, tdm_cview gate, tdm_cview up, tdm_error *err)
{
    TDM_ASSERT(dgate.dtype == TDM_DTYPE_BF16 && dup.dtype == TDM_DTYPE_BF16 && dy.dtype == TDM_DTYPE_F32);
    TDM_ASSERT(gate.dtype == TDM_DTYPE_BF16 && up.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(dgate.rows == dy.rows && dup.rows == dy.rows && gate.rows == dy.rows && up.rows == dy.rows);
    TDM_ASSERT(dgate.cols == dy.cols && dup.cols == dy.cols && gate.cols == dy.cols && up.cols == dy.cols);
    if (dy.rows == 0 || dy.cols == 0) return TDM_OK;
    swiglu_backward_tiles<<<tiles(dy.rows, dy.cols), THREADS, 0, s->cuda>>>(dgate, dup, dy, gate, up);
    return tdm_cuda_launched(err, "swiglu_backward", dy.rows, dy.cols);
}
