// The matrix products under linear and linear_backward, on mma.sync m16n8k16 with f32 sums; runs on every card from sm_80 on.
//
// A product's bits depend on its own row of x and on K alone. K is cut into at most 8 slices (so that few rows still fill the card);
// within a slice an output is one chain over k in order, and the slices' sums are added in order, whether one block runs them all or
// a block each. Weights stand in the 16-wide operand of the instruction and tokens in the 8-wide one, so
// a tile may hold any number of tokens.
#pragma once

#include "kernels/cuda/common.cuh"

// out = scale * (X P) + bias + alpha * (X2 P2), then stored: y = out, or y += out. `side` present: alpha * (X2 P2) goes there
// alone, overwritten. The struct is a kernel's argument: plain values, device pointers.
struct tdm_gemm {
    int64_t rows, cols, depth; // of X P: T, N, K
    const void *x;             // [rows, depth] bf16, or e4m3 codes
    const void *w;             // nt: [cols, depth], P = W^T; nn: [depth, cols], P = W
    int64_t x_stride, w_stride;
    bool x_codes, w_codes;     // e4m3, else bf16
    bool x_vector, w_vector;   // every row begins at 16 bytes

    const uint16_t *x2, *w2;   // the second product, bf16, laid out alike
    int64_t x2_stride, w2_stride, depth2; // depth2 0: none
    bool x2_vector, w2_vector;
    float alpha;

    const float *xs;           // scale of row t and block b of k: xs[t * xs_stride + b], NULL: x_scale for all
    int64_t xs_stride;
    float x_scale;
    const float *ws;           // by scheme; NULL: 1
    int64_t ws_stride;
    tdm_scheme scheme;

    const uint16_t *bias;      // [cols] or NULL
    void *y;
    int64_t y_stride;
    bool y_f32, accumulate;
    float *side;
    int64_t side_stride;

    int slices, slice_tiles;   // of k, in tiles of 128; set by tdm_gemm_nt
    float *partial;            // [slices + 1, rows, cols]: a block a slice; NULL: a block runs them all
};

// Products of experts: rows start[e] to start[e + 1] of the gemm's are those of matrix e. Steps lead from one matrix to the next.
struct tdm_gemm_experts {
    const int32_t *start;      // [count + 1]
    int64_t count, rows_most, rows_mean; // rows_most: no expert has more; rows_mean chooses the tile, never a bit
    int64_t w_step;            // bytes
    int64_t ws_step, w2_step;  // elements
};
tdm_status tdm_gemm_nt_experts(tdm_stream *s, const tdm_gemm &g, const tdm_gemm_experts &e, tdm_error *err);
tdm_status tdm_gemm_nn_experts(tdm_stream *s, const tdm_gemm &g, const tdm_gemm_experts &e, tdm_error *err);
tdm_status tdm_linear_experts_grads(tdm_stream *s, const tdm_linear_experts_backward *a, tdm_error *err);

// y = X W^T and so on; `scratch` of at least tdm_gemm_nt_scratch(rows, cols, depth) bytes.
tdm_status tdm_gemm_nt(tdm_stream *s, tdm_gemm g, float *scratch, tdm_error *err);
size_t tdm_gemm_nt_scratch(int64_t rows, int64_t cols, int64_t depth);
// The most of it for any shape of at most so many rows.
size_t tdm_gemm_nt_scratch_most(int64_t rows);
// How K is cut: `slices` of `slice_tiles` times 128 (the last may be shorter). All kernels of the forward keep to it.
enum { TDM_GEMM_SLICES_MOST = 8 };
void tdm_gemm_nt_plan(int64_t depth, int *slices, int *slice_tiles);
// The same on Hopper's warpgroup products with the same bits, for more rows than a block of gemm_nt takes; tdm_gemm_nt comes here by
// itself. Only after ready.
bool tdm_gemm_nt_wide_ready(const tdm_stream *s, const tdm_gemm &g);
tdm_status tdm_gemm_nt_wide(tdm_stream *s, const tdm_gemm &g, tdm_error *err);
// y = X W; codes are read as bf16(code * scale), and no scale but x_scale multiplies the sum.
tdm_status tdm_gemm_nn(tdm_stream *s, const tdm_gemm &g, tdm_error *err);
// The same on Hopper's warpgroup products, for any number of rows: another order of sums, so a shape takes one or the other. `w` gives
// the codes' scales. Only after ready, which asks nothing but shapes, strides and the workspace.
bool tdm_gemm_nn_wide_ready(const tdm_stream *s, const tdm_gemm &g);
tdm_status tdm_gemm_nn_wide(tdm_stream *s, const tdm_gemm &g, const tdm_weight *w, tdm_error *err);
// out [rows, cols] bf16, dense = bf16(code * scale) of rows [first, first + rows), columns [col, col + cols) of an FP8 weight whose rows
// begin at 16 bytes; col and cols are multiples of 16.
tdm_status tdm_dequantize(tdm_stream *s, const tdm_weight *w, int64_t first, int64_t rows, int64_t col, int64_t cols, void *out, tdm_error *err);
// grad_a and grad_b of a linear_backward whose lora_dh is there; linear_grad.cu.
tdm_status tdm_linear_grads(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err);

// Rows may be read 16 bytes at a time.
static inline bool tdm_gemm_vector(const void *data, int64_t stride, int64_t bytes)
{
    return (uintptr_t)data % 16 == 0 && stride * bytes % 16 == 0;
}

// The gemm of one expert, in the block's shared memory (all its threads call); false: none of its rows is at t0 or beyond.
static __device__ bool tdm_gemm_of_expert(tdm_gemm &own, const tdm_gemm &g, const tdm_gemm_experts &e, int64_t expert, int64_t t0)
{
    const int64_t first = __ldg(e.start + expert), rows = __ldg(e.start + expert + 1) - first;
    if (t0 >= rows) return false;
    if (threadIdx.x == 0) {
        own = g;
        own.rows = rows;
        own.x = (const char *)g.x + first * g.x_stride * (g.x_codes ? 1 : 2);
        own.w = (const char *)g.w + expert * e.w_step;
        if (g.xs) own.xs = g.xs + first * g.xs_stride;
        if (g.ws) own.ws = g.ws + expert * e.ws_step;
        if (g.depth2) {
            own.x2 = g.x2 + first * g.x2_stride;
            own.w2 = g.w2 + expert * e.w2_step;
        }
        own.y = (char *)g.y + first * g.y_stride * (g.y_f32 ? 4 : 2);
    }
    __syncthreads();
    return true;
}

// X and W of a product, by_rows: P = W^T, else P = W; nothing is scaled.
static inline void tdm_gemm_operands(tdm_gemm *g, tdm_cview x, tdm_cview w, bool by_rows)
{
    g->rows = x.rows;
    g->cols = by_rows ? w.rows : w.cols;
    g->depth = by_rows ? w.cols : w.rows;
    g->x = x.data;
    g->w = w.data;
    g->x_stride = x.stride;
    g->w_stride = w.stride;
    g->x_codes = x.dtype == TDM_DTYPE_E4M3;
    g->w_codes = w.dtype == TDM_DTYPE_E4M3;
    g->x_vector = tdm_gemm_vector(x.data, x.stride, g->x_codes ? 1 : 2);
    g->w_vector = tdm_gemm_vector(w.data, w.stride, g->w_codes ? 1 : 2);
    g->x_scale = 1.0f;
}
static inline void tdm_gemm_result(tdm_gemm *g, tdm_view y, bool accumulate)
{
    g->y = y.data;
    g->y_stride = y.stride;
    g->y_f32 = y.dtype == TDM_DTYPE_F32;
    g->accumulate = accumulate;
}

// ---- What the kernels share -------------------------------------------------------------------------------------------------

TDM_DEVICE uint32_t tdm_smem(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
// 16 bytes, of which the last 16 - bytes become 0 and are not read.
TDM_DEVICE void tdm_cp_async(void *dst, const void *src, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(tdm_smem(dst)), "l"(src), "r"(bytes) : "memory");
}
TDM_DEVICE void tdm_cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> TDM_DEVICE void tdm_cp_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

// acc += A B with A [16, 16] row, B [16, 8] column; bf16, or f16 where both operands were e4m3.
template <bool F16> TDM_DEVICE void tdm_mma(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    if constexpr (F16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two codes (the lower 16 bits) as two halves or two bf16; both are exact.
TDM_DEVICE uint32_t tdm_codes_f16(uint32_t two)
{
    const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two, __NV_E4M3);
    return (uint32_t)h.x | (uint32_t)h.y << 16;
}
// Four codes as two pairs of halves, without masks in between.
TDM_DEVICE void tdm_codes_f16(uint32_t &low, uint32_t &high, uint32_t four)
{
#if __CUDA_ARCH__ >= 890
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h;}" : "=r"(low), "=r"(high) : "r"(four));
#else
    low = tdm_codes_f16(four & 0xffffu);
    high = tdm_codes_f16(four >> 16);
#endif
}
TDM_DEVICE float2 tdm_codes_f32(uint32_t two)
{
    return __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two, __NV_E4M3)));
}
TDM_DEVICE uint32_t tdm_pack_bf16(float low, float high)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return (uint32_t)__bfloat16_as_ushort(v.x) | (uint32_t)__bfloat16_as_ushort(v.y) << 16;
}
TDM_DEVICE uint32_t tdm_codes_bf16(uint32_t two)
{
    const float2 f = tdm_codes_f32(two);
    return tdm_pack_bf16(f.x, f.y);
}

// 16 bytes of a row of BYTES-wide elements at `from`, `valid` of them (the others are 0); one load where `vector` allows it.
template <int BYTES> TDM_DEVICE uint4 tdm_load16(const char *from, int64_t valid, bool vector)
{
    if (valid >= 16 / BYTES && vector) return __ldg((const uint4 *)from);
    uint32_t v[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 16 / BYTES; i++) {
        if (i >= valid) continue;
        if constexpr (BYTES == 1) v[i / 4] |= (uint32_t)((const uint8_t *)from)[i] << 8 * (i % 4);
        else v[i / 2] |= (uint32_t)((const uint16_t *)from)[i] << 16 * (i % 2);
    }
    return make_uint4(v[0], v[1], v[2], v[3]);
}

// One element of the result is finished and stored.
TDM_DEVICE void tdm_gemm_store(const tdm_gemm &g, int64_t t, int64_t n, float v)
{
    if (!g.y_f32) {
        ((uint16_t *)g.y)[t * g.y_stride + n] = tdm_to_bf16(v);
        return;
    }
    float *y = (float *)g.y + t * g.y_stride + n;
    *y = g.accumulate ? __fadd_rn(*y, v) : v;
}
