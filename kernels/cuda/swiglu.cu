// swiglu: y = act(gate) * up, element by element, and its backward.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/quantize.cuh"

enum { THREADS = 256, COLS = 4 * THREADS, TILES_MOST = 65535, ROW_THREADS = 512 };

// 1 / (1 + e^-g): 0 and 1 at the ends, as e^-g grows to infinity and shrinks to 0.
static __device__ __forceinline__ float sigmoid(float g) { return __fdiv_rn(1.0f, __fadd_rn(1.0f, tdm_exp(-g))); }

// z of act(g) = g sigmoid(z), and dz / dg.
static __device__ __forceinline__ float inner(tdm_glu act, float g)
{
    if (act == TDM_GLU_SILU) return g;
    return __fmul_rn(__fmul_rn(g, TDM_GELU_FACTOR), __fmaf_rn(__fmul_rn(g, g), TDM_GELU_CUBE, 1.0f));
}
static __device__ __forceinline__ float inner_slope(tdm_glu act, float g)
{
    if (act == TDM_GLU_SILU) return 1.0f;
    return __fmul_rn(TDM_GELU_FACTOR, __fmaf_rn(__fmul_rn(g, g), 3.0f * TDM_GELU_CUBE, 1.0f));
}

static __device__ __forceinline__ uint16_t act_times(tdm_glu act, uint16_t gate, uint16_t up)
{
    const float g = tdm_bf16(gate);
    return tdm_to_bf16(__fmul_rn(__fmul_rn(g, sigmoid(inner(act, g))), tdm_bf16(up)));
}

static __global__ void __launch_bounds__(THREADS) swiglu_tiles(tdm_glu act, tdm_view y, tdm_cview gate, tdm_cview up)
{
    const int64_t t = blockIdx.x, last = min(y.cols, (int64_t)(blockIdx.y + 1) * COLS);
    const uint16_t *g_row = (const uint16_t *)gate.data + t * gate.stride, *u_row = (const uint16_t *)up.data + t * up.stride;
    uint16_t *out = (uint16_t *)y.data + t * y.stride;
    tdm_let_next_begin();
    tdm_wait_for_previous();
    for (int64_t c = (int64_t)blockIdx.y * COLS + threadIdx.x; c < last; c += THREADS) out[c] = act_times(act, g_row[c], u_row[c]);
}

// Eight of a row that begins at 16 bytes if `vector`; those past n are 0.
static __device__ __forceinline__ uint4 load8(const uint16_t *x, int n, bool vector)
{
    if (vector && n >= 8) return *(const uint4 *)x;
    uint32_t v[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n) v[i / 2] |= (uint32_t)x[i] << 16 * (i % 2);
    return make_uint4(v[0], v[1], v[2], v[3]);
}

// A block a row, which it also quantizes.
static __global__ void __launch_bounds__(ROW_THREADS) swiglu_rows(tdm_glu act, tdm_view y, tdm_cview gate, tdm_cview up, bool vector,
                                                                  tdm_quantize q, tdm_quantize_kind kind)
{
    extern __shared__ __align__(16) uint16_t row[];
    const int64_t t = blockIdx.x;
    const int cols = (int)y.cols;
    const uint16_t *g_row = (const uint16_t *)gate.data + t * gate.stride, *u_row = (const uint16_t *)up.data + t * up.stride;
    uint16_t *out = (uint16_t *)y.data + t * y.stride;
    tdm_let_next_begin();
    tdm_wait_for_previous();
    for (int c = 8 * threadIdx.x; c < cols; c += 8 * ROW_THREADS) {
        const uint4 g = load8(g_row + c, cols - c, vector), u = load8(u_row + c, cols - c, vector);
        const uint32_t gs[4] = {g.x, g.y, g.z, g.w}, us[4] = {u.x, u.y, u.z, u.w};
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = (uint32_t)act_times(act, (uint16_t)gs[i], (uint16_t)us[i]) | (uint32_t)act_times(act, (uint16_t)(gs[i] >> 16), (uint16_t)(us[i] >> 16)) << 16;
        *(uint4 *)(row + c) = make_uint4(v[0], v[1], v[2], v[3]);
        if (vector && c + 8 <= cols) {
            *(uint4 *)(out + c) = make_uint4(v[0], v[1], v[2], v[3]);
            continue;
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (c + i < cols) out[c + i] = (uint16_t)(v[i / 2] >> 16 * (i % 2));
    }
    tdm_quantize_made<ROW_THREADS>(q, kind, t, row);
}

// With s = sigmoid(z): dup = dy gate s, dgate = dy up s (1 + gate (1 - s) z').
static __global__ void __launch_bounds__(THREADS) swiglu_backward_tiles(tdm_glu act, tdm_view dgate, tdm_view dup, tdm_cview dy, tdm_cview gate,
                                                                        tdm_cview up)
{
    const int64_t t = blockIdx.x, last = min(dy.cols, (int64_t)(blockIdx.y + 1) * COLS);
    const uint16_t *g_row = (const uint16_t *)gate.data + t * gate.stride, *u_row = (const uint16_t *)up.data + t * up.stride;
    const float *d_row = (const float *)dy.data + t * dy.stride;
    uint16_t *dg_row = (uint16_t *)dgate.data + t * dgate.stride, *du_row = (uint16_t *)dup.data + t * dup.stride;
    for (int64_t c = (int64_t)blockIdx.y * COLS + threadIdx.x; c < last; c += THREADS) {
        const float g = tdm_bf16(g_row[c]), u = tdm_bf16(u_row[c]), d = d_row[c];
        const float sg = sigmoid(inner(act, g)), turn = __fmul_rn(g, inner_slope(act, g));
        const float slope = __fmul_rn(sg, __fmaf_rn(turn, __fadd_rn(1.0f, -sg), 1.0f));
        du_row[c] = tdm_to_bf16(__fmul_rn(d, __fmul_rn(g, sg))); // both inputs are read: dgate, dup may lie on them
        dg_row[c] = tdm_to_bf16(__fmul_rn(__fmul_rn(d, u), slope));
    }
}

static dim3 tiles(int64_t rows, int64_t cols)
{
    TDM_ASSERT(tdm_ceil_div(cols, COLS) <= TILES_MOST);
    return dim3((unsigned)rows, (unsigned)tdm_ceil_div(cols, COLS));
}

tdm_status tdm_cuda_swiglu(tdm_stream *s, tdm_glu act, tdm_view y, tdm_cview gate, tdm_cview up, const tdm_quantize_act *q, tdm_error *err)
{
    TDM_ASSERT(y.dtype == TDM_DTYPE_BF16 && gate.dtype == TDM_DTYPE_BF16 && up.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(gate.rows == y.rows && up.rows == y.rows && gate.cols == y.cols && up.cols == y.cols);
    if (y.rows == 0 || y.cols == 0) return TDM_OK;
    const tdm_quantize_fusion f = tdm_quantize_fuse(q, tdm_view_const(y));
    tdm_status st;
    if (f.kind == TDM_QUANTIZE_PLAIN) {
        const dim3 grid = tiles(y.rows, y.cols);
        st = TDM_CUDA(tdm_cuda_launch(s, swiglu_tiles, grid, THREADS, 0, act, y, gate, up));
    } else {
        const bool vector = tdm_gemm_vector(y.data, y.stride, 2) && tdm_gemm_vector(gate.data, gate.stride, 2) && tdm_gemm_vector(up.data, up.stride, 2);
        st = TDM_CUDA(tdm_cuda_launch(s, swiglu_rows, dim3((unsigned)y.rows), ROW_THREADS, f.bytes, act, y, gate, up, vector, f.q, f.kind));
    }
    if (st == TDM_OK) st = tdm_cuda_launched(err, "swiglu", y.rows, y.cols);
    return st == TDM_OK && f.later ? tdm_cuda_quantize_act(s, q, err) : st;
}

tdm_status tdm_cuda_swiglu_backward(tdm_stream *s, tdm_glu act, tdm_view dgate, tdm_view dup, tdm_cview dy, tdm_cview gate, tdm_cview up, tdm_error *err)
{
    TDM_ASSERT(dgate.dtype == TDM_DTYPE_BF16 && dup.dtype == TDM_DTYPE_BF16 && dy.dtype == TDM_DTYPE_F32);
    TDM_ASSERT(gate.dtype == TDM_DTYPE_BF16 && up.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(dgate.rows == dy.rows && dup.rows == dy.rows && gate.rows == dy.rows && up.rows == dy.rows);
    TDM_ASSERT(dgate.cols == dy.cols && dup.cols == dy.cols && gate.cols == dy.cols && up.cols == dy.cols);
    if (dy.rows == 0 || dy.cols == 0) return TDM_OK;
    swiglu_backward_tiles<<<tiles(dy.rows, dy.cols), THREADS, 0, s->cuda>>>(act, dgate, dup, dy, gate, up);
    return tdm_cuda_launched(err, "swiglu_backward", dy.rows, dy.cols);
}
