// y = X W with W's rows along k: the backward. Codes become bf16(code * scale) on their way into shared memory.
#include "kernels/cuda/gemm.cuh"

// A block: 64 tokens by 128 columns, 32 of k at a time in two buffers; 4 x 2 warps of 32 columns by 32 tokens.
enum { COLS = 128, TOKENS = 64, DEPTH = 32, THREADS = 256, W_PITCH = COLS + 8, X_PITCH = DEPTH + 8, OUT_PITCH = COLS + 4 };

struct stage {
    uint16_t w[DEPTH][W_PITCH], x[TOKENS][X_PITCH];
};
union shared_memory {
    stage stages[2];
    float out[TOKENS][OUT_PITCH];
};

// One of the two products.
struct product {
    const void *x, *w;
    int64_t x_stride, w_stride, rows, cols, depth;
    bool x_vector, w_vector;
    const float *ws; // of codes
    int64_t ws_stride;
    tdm_scheme scheme;
};

TDM_DEVICE float scale_at(const product &p, int64_t k, int64_t n0)
{
    if (p.scheme == TDM_SCHEME_FP8_TENSOR) return __ldg(p.ws);
    if (p.scheme == TDM_SCHEME_FP8_CHANNEL) return __ldg(p.ws + k * p.ws_stride);
    return __ldg(p.ws + k / TDM_FP8_BLOCK * p.ws_stride + n0 / TDM_FP8_BLOCK);
}

// What a thread fetches of a stage, raw.
template <bool CODES> struct fetched {
    static constexpr int PER = CODES ? 16 : 8, UNITS = COLS / PER, LOADS = DEPTH * UNITS / THREADS;
    uint4 w[LOADS], x;
    float scale;
};

template <bool CODES> TDM_DEVICE void fetch(fetched<CODES> &f, const product &p, int64_t n0, int64_t t0, int64_t k0)
{
    using F = fetched<CODES>;
#pragma unroll
    for (int i = 0; i < F::LOADS; i++) {
        const int unit = i * THREADS + (int)threadIdx.x;
        const int64_t k = k0 + unit / F::UNITS, n = n0 + unit % F::UNITS * F::PER;
        const int64_t valid = k < p.depth ? p.cols - n : 0;
        f.w[i] = make_uint4(0, 0, 0, 0);
        if (valid > 0) f.w[i] = tdm_load16<CODES ? 1 : 2>((const char *)p.w + (k * p.w_stride + n) * (CODES ? 1 : 2), valid, p.w_vector);
        if constexpr (CODES) f.scale = valid > 0 ? scale_at(p, k, n0) : 1.0f;
    }
    const int64_t t = t0 + threadIdx.x / 4, k = k0 + threadIdx.x % 4 * 8;
    f.x = make_uint4(0, 0, 0, 0);
    if (t < p.rows && k < p.depth) f.x = tdm_load16<2>((const char *)p.x + (t * p.x_stride + k) * 2, p.depth - k, p.x_vector);
}

TDM_DEVICE uint4 dequant(uint32_t low, uint32_t high, float scale)
{
    const uint32_t two[4] = {low & 0xffffu, low >> 16, high & 0xffffu, high >> 16};
    uint32_t out[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 v = tdm_codes_f32(two[i]);
        out[i] = tdm_pack_bf16(__fmul_rn(v.x, scale), __fmul_rn(v.y, scale));
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

template <bool CODES> TDM_DEVICE void put(stage &s, const fetched<CODES> &f)
{
    using F = fetched<CODES>;
#pragma unroll
    for (int i = 0; i < F::LOADS; i++) {
        const int unit = i * THREADS + (int)threadIdx.x;
        uint4 *to = (uint4 *)&s.w[unit / F::UNITS][unit % F::UNITS * F::PER];
        if constexpr (CODES) {
            to[0] = dequant(f.w[i].x, f.w[i].y, f.scale);
            to[1] = dequant(f.w[i].z, f.w[i].w, f.scale);
        } else {
            to[0] = f.w[i];
        }
    }
    *(uint4 *)&s.x[threadIdx.x / 4][threadIdx.x % 4 * 8] = f.x;
}

template <bool TRANSPOSED> TDM_DEVICE void load_matrices(uint32_t (&out)[4], const void *row)
{
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(tdm_smem(row)) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(tdm_smem(row)) : "memory");
}

typedef float accumulators[2][4][4]; // [16 columns][8 tokens][of the instruction]

TDM_DEVICE void multiply(accumulators &acc, const stage &s, int row_n, int row_t)
{
    const int lane = threadIdx.x % 32, of = lane / 8, row = lane % 8; // the lane names a row of matrix `of`
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
        uint32_t a[2][4], b[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) load_matrices<true>(a[m], &s.w[k + of / 2 * 8 + row][row_n + m * 16 + of % 2 * 8]);
#pragma unroll
        for (int n = 0; n < 2; n++) load_matrices<false>(b[n], &s.x[row_t + n * 16 + of / 2 * 8 + row][k + of % 2 * 8]);
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int m = 0; m < 2; m++) tdm_mma<false>(acc[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
}

// Where a thread's block and warp stand: the tile in the result, the warp in the tile.
struct spot {
    int64_t n0, t0;
    int row_n, row_t;
};

template <bool CODES> TDM_DEVICE void run_product(accumulators &acc, shared_memory &z, const product &p, spot of)
{
    fetched<CODES> f;
    fetch<CODES>(f, p, of.n0, of.t0, 0);
    __syncthreads();
    put<CODES>(z.stages[0], f);
    __syncthreads();
    int at = 0;
    for (int64_t k = 0; k < p.depth; k += DEPTH, at ^= 1) {
        const bool more = k + DEPTH < p.depth;
        if (more) fetch<CODES>(f, p, of.n0, of.t0, k + DEPTH);
        multiply(acc, z.stages[at], of.row_n, of.row_t);
        if (more) put<CODES>(z.stages[at ^ 1], f);
        __syncthreads();
    }
}

template <class F> TDM_DEVICE void store_tile(const accumulators &v, shared_memory &z, const tdm_gemm &g, spot of, F store)
{
    const int row = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    __syncthreads();
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) z.out[of.row_t + n * 8 + c * 2 + i % 2][of.row_n + m * 16 + row + i / 2 * 8] = v[m][n][i];
    __syncthreads();
    for (int i = threadIdx.x; i < COLS * TOKENS; i += THREADS) {
        const int t = i / COLS, n = i % COLS;
        if (of.t0 + t < g.rows && of.n0 + n < g.cols) store(of.t0 + t, of.n0 + n, z.out[t][n]);
    }
}

TDM_DEVICE void clear(accumulators &v)
{
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) v[m][n][i] = 0.0f;
}

template <bool CODES> TDM_DEVICE void run_tile(shared_memory &z, const tdm_gemm &g)
{
    const int warp = threadIdx.x / 32;
    const spot of = {(int64_t)blockIdx.x * COLS, (int64_t)blockIdx.y * TOKENS, warp % 4 * 32, warp / 4 * 32};
    const product first = {g.x, g.w, g.x_stride, g.w_stride, g.rows, g.cols, g.depth, g.x_vector, g.w_vector, g.ws, g.ws_stride, g.scheme};
    const product other = {g.x2,        g.w2,        g.x2_stride, g.w2_stride, g.rows, g.cols,
                           g.depth2,    g.x2_vector, g.w2_vector, nullptr,     0,      TDM_SCHEME_BF16};
    accumulators acc, second;
    clear(acc);
    clear(second);
    run_product<CODES>(acc, z, first, of);
    if (g.depth2) run_product<false>(second, z, other, of);
    if (g.depth2 && g.side)
        store_tile(second, z, g, of, [&](int64_t t, int64_t n, float v) { g.side[t * g.side_stride + n] = __fmul_rn(v, g.alpha); });
    const bool join = g.depth2 && !g.side;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                acc[m][n][i] = __fmul_rn(acc[m][n][i], g.x_scale);
                if (join) acc[m][n][i] = __fadd_rn(acc[m][n][i], __fmul_rn(second[m][n][i], g.alpha));
            }
    store_tile(acc, z, g, of, [&](int64_t t, int64_t n, float v) { tdm_gemm_store(g, t, n, v); });
}

template <bool CODES> static __global__ void __launch_bounds__(THREADS) gemm_nn(const __grid_constant__ tdm_gemm g)
{
    __shared__ __align__(128) shared_memory z;
    run_tile<CODES>(z, g);
}

template <bool CODES> static __global__ void __launch_bounds__(THREADS) gemm_nn_experts(const __grid_constant__ tdm_gemm g, const __grid_constant__ tdm_gemm_experts e)
{
    __shared__ __align__(128) shared_memory z;
    __shared__ tdm_gemm own;
    if (tdm_gemm_of_expert(own, g, e, blockIdx.z, (int64_t)blockIdx.y * TOKENS)) run_tile<CODES>(z, own);
}

tdm_status tdm_gemm_nn(tdm_stream *s, const tdm_gemm &g, tdm_error *err)
{
    if (g.rows == 0 || g.cols == 0) return TDM_OK;
    TDM_ASSERT(g.depth > 0 && !g.x_codes && tdm_ceil_div(g.rows, TOKENS) <= 65535);
    const dim3 grid((unsigned)tdm_ceil_div(g.cols, COLS), (unsigned)tdm_ceil_div(g.rows, TOKENS));
    if (g.w_codes) gemm_nn<true><<<grid, THREADS, 0, s->cuda>>>(g);
    else gemm_nn<false><<<grid, THREADS, 0, s->cuda>>>(g);
    return tdm_cuda_launched(err, "gemm_nn", g.rows, g.cols);
}

tdm_status tdm_gemm_nn_experts(tdm_stream *s, const tdm_gemm &g, const tdm_gemm_experts &e, tdm_error *err)
{
    if (e.rows_most == 0 || g.cols == 0) return TDM_OK;
    TDM_ASSERT(g.depth > 0 && !g.x_codes && !g.side && tdm_ceil_div(e.rows_most, TOKENS) <= 65535 && e.count <= 65535);
    const dim3 grid((unsigned)tdm_ceil_div(g.cols, COLS), (unsigned)tdm_ceil_div(e.rows_most, TOKENS), (unsigned)e.count);
    if (g.w_codes) gemm_nn_experts<true><<<grid, THREADS, 0, s->cuda>>>(g, e);
    else gemm_nn_experts<false><<<grid, THREADS, 0, s->cuda>>>(g, e);
    return tdm_cuda_launched(err, "gemm_nn_experts", e.rows_most, g.cols);
}
