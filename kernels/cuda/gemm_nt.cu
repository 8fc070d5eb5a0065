// y = X W^T, both with rows along k: the forward. See gemm.cuh for the order of summation.
#include "kernels/cuda/gemm_tile.cuh"

// total = the slices' sums in order.
template <class C> TDM_DEVICE void first_product(float (&total)[C::MT][C::NT][4], const tdm_gemm &g, char *shared, spot at)
{
    const int tiles = (int)((g.depth + DEPTH - 1) / DEPTH);
    const int begin = g.partial ? (int)blockIdx.z * g.slice_tiles : 0;
    const int end = g.partial ? min(begin + g.slice_tiles, tiles) : tiles;
    const auto load = [&](int tile) {
        char *stage = shared + (tile - begin) % C::STAGES * C::STAGE;
        load_tile<C::WC, C::BN, 2, C::THREADS>(stage, g.w, g.w_stride, g.w_vector, at.n0, g.cols, (int64_t)tile * DEPTH, g.depth);
        load_tile<C::XC, C::BT, 2, C::THREADS>(stage + C::W_BYTES, g.x, g.x_stride, g.x_vector, at.t0, g.rows, (int64_t)tile * DEPTH,
                                               g.depth);
    };
    float acc[C::MT][C::NT][4], slice[C::MT][C::NT][4];
    fill<C>(acc, 0.0f);
    fill<C>(slice, NOTHING);
#pragma unroll
    for (int i = 0; i < C::STAGES - 1; i++) {
        if (begin + i < end) load(begin + i);
        tdm_cp_commit();
    }
    int slice_end = begin + g.slice_tiles;
    for (int tile = begin; tile < end; tile++) {
        float ws = 1.0f, xs[C::NT][2];
        if constexpr (C::BLOCK) { // a tile's weights lie in one block; asked for early, needed after the product
            ws = __ldg(g.ws + at.n0 / TDM_FP8_BLOCK * g.ws_stride + tile);
#pragma unroll
            for (int n = 0; n < C::NT; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) xs[n][i] = tdm_x_scale(g, at.t0 + at.row_t + n * 8 + threadIdx.x % 4 * 2 + i, tile);
        }
        tdm_cp_wait<C::STAGES - 2>();
        __syncthreads();
        if (tile + C::STAGES - 1 < end) load(tile + C::STAGES - 1);
        tdm_cp_commit();
        const char *stage = shared + (tile - begin) % C::STAGES * C::STAGE;
#pragma unroll
        for (int chunk = 0; chunk < 2; chunk++) multiply<C, C::XC, C::WC>(acc, stage + C::W_BYTES, stage, chunk, at.row_n, at.row_t);
        if constexpr (C::BLOCK) {
#pragma unroll
            for (int m = 0; m < C::MT; m++)
#pragma unroll
                for (int n = 0; n < C::NT; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        slice[m][n][i] = __fadd_rn(slice[m][n][i], __fmul_rn(acc[m][n][i], __fmul_rn(xs[n][i % 2], ws)));
            fill<C>(acc, 0.0f);
        }
        if (tile + 1 < slice_end && tile + 1 < end) continue;
        slice_end += g.slice_tiles;
        if constexpr (C::BLOCK) {
            add<C>(total, slice);
            fill<C>(slice, NOTHING);
        } else {
            add<C>(total, acc);
            fill<C>(acc, 0.0f);
        }
    }
    tdm_cp_wait<0>();
}

template <class C>
TDM_DEVICE void finish_tile(float (&total)[C::MT][C::NT][4], const float (&second)[C::MT][C::NT][4], const tdm_gemm &g, char *shared, spot at)
{
    const int row = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < C::MT; m++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int n = 0; n < C::NT; n++) {
                const int64_t of_n = at.n0 + at.row_n + m * 16 + row + i / 2 * 8, of_t = at.t0 + at.row_t + n * 8 + c * 2 + i % 2;
                if (of_n < g.cols && of_t < g.rows) total[m][n][i] = tdm_gemm_finish(g, of_t, of_n, total[m][n][i], second[m][n][i]);
            }
    store_tile<C>(total, g, shared, at, [&](int64_t t, int64_t n, float v) { tdm_gemm_store(g, t, n, v); });
}

template <class C> static __global__ void __launch_bounds__(C::THREADS, 1) gemm_nt(const __grid_constant__ tdm_gemm g)
{
    extern __shared__ __align__(128) char shared[];
    const int warp = threadIdx.x / 32;
    const spot at = {(int64_t)blockIdx.x * C::BN, (int64_t)blockIdx.y * C::BT, warp % C::WARPS_N * C::MT * 16,
                     warp / C::WARPS_N * C::NT * 8};
    const bool whole = !g.partial;
    float total[C::MT][C::NT][4], second[C::MT][C::NT][4];
    fill<C>(total, NOTHING);
    fill<C>(second, 0.0f);
    first_product<C>(total, g, shared, at);
    if (g.depth2 && (whole || blockIdx.z == 0)) second_product<C>(second, g, shared, at);
    if (!whole) {
        const auto plane = [&](int64_t z) {
            return [&g, z](int64_t t, int64_t n, float v) { g.partial[(z * g.rows + t) * g.cols + n] = v; };
        };
        store_tile<C>(total, g, shared, at, plane(blockIdx.z));
        if (g.depth2 && blockIdx.z == 0) store_tile<C>(second, g, shared, at, plane(g.slices));
        return;
    }
    finish_tile<C>(total, second, g, shared, at);
}

// An expert's product: a block runs all slices, in order, so a row has the bits it has in gemm_nt.
template <class C>
static __global__ void __launch_bounds__(C::THREADS, 1) gemm_nt_experts(const __grid_constant__ tdm_gemm g, const __grid_constant__ tdm_gemm_experts e)
{
    extern __shared__ __align__(128) char shared[];
    __shared__ tdm_gemm own;
    const int warp = threadIdx.x / 32;
    const spot at = {(int64_t)blockIdx.x * C::BN, (int64_t)blockIdx.y * C::BT, warp % C::WARPS_N * C::MT * 16, warp / C::WARPS_N * C::NT * 8};
    if (!tdm_gemm_of_expert(own, g, e, blockIdx.z, at.t0)) return;
    float total[C::MT][C::NT][4], second[C::MT][C::NT][4];
    fill<C>(total, NOTHING);
    fill<C>(second, 0.0f);
    first_product<C>(total, own, shared, at);
    if (own.depth2) second_product<C>(second, own, shared, at);
    finish_tile<C>(total, second, own, shared, at);
}

// The slices of blocks that ran one each, summed in order.
static __global__ void __launch_bounds__(256) gemm_nt_reduce(const __grid_constant__ tdm_gemm g)
{
    const int64_t n = (int64_t)blockIdx.x * 256 + threadIdx.x, t = blockIdx.y, plane = g.rows * g.cols;
    if (n >= g.cols) return;
    const float *at = g.partial + t * g.cols + n;
    float sum = NOTHING;
#pragma unroll 8
    for (int z = 0; z < g.slices; z++) sum = __fadd_rn(sum, at[z * plane]);
    tdm_gemm_store(g, t, n, tdm_gemm_finish(g, t, n, sum, g.depth2 ? at[g.slices * plane] : 0.0f));
}

// ---- Host --------------------------------------------------------------------------------------------------------------------

void tdm_gemm_nt_plan(int64_t depth, int *slices, int *slice_tiles)
{
    const int64_t tiles = tdm_max_i64(tdm_ceil_div(depth, DEPTH), 1);
    *slice_tiles = (int)tdm_ceil_div(tiles, TDM_GEMM_SLICES_MOST);
    *slices = (int)tdm_ceil_div(tiles, *slice_tiles);
}

// A block a slice where rows and panels are too few to fill the card without.
enum { ROWS_BY_SLICE = 64, COLS_BY_SLICE = 8192 };
static bool by_slice(int64_t rows, int64_t cols) { return rows <= ROWS_BY_SLICE && cols <= COLS_BY_SLICE; }

size_t tdm_gemm_nt_scratch(int64_t rows, int64_t cols, int64_t depth)
{
    int slices, slice_tiles;
    tdm_gemm_nt_plan(depth, &slices, &slice_tiles);
    if (slices == 1 || !by_slice(rows, cols)) return 0;
    return (size_t)(slices + 1) * (size_t)rows * (size_t)cols * sizeof(float);
}

size_t tdm_gemm_nt_scratch_most(int64_t rows)
{
    return (size_t)(TDM_GEMM_SLICES_MOST + 1) * (size_t)tdm_min_i64(rows, ROWS_BY_SLICE) * COLS_BY_SLICE * sizeof(float);
}

template <class C> static tdm_status launch(tdm_stream *s, const tdm_gemm &g, tdm_error *err)
{
    static const cudaError_t allowed = cudaFuncSetAttribute(gemm_nt<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::SHARED);
    const tdm_status st = tdm_cuda_check(allowed, err, "cudaFuncSetAttribute(gemm_nt)");
    if (st != TDM_OK) return st;
    const dim3 grid((unsigned)tdm_ceil_div(g.cols, C::BN), (unsigned)tdm_ceil_div(g.rows, C::BT), g.partial ? (unsigned)g.slices : 1u);
    gemm_nt<C><<<grid, C::THREADS, C::SHARED, s->cuda>>>(g);
    if (g.partial) gemm_nt_reduce<<<dim3((unsigned)tdm_ceil_div(g.cols, 256), (unsigned)g.rows), 256, 0, s->cuda>>>(g);
    return tdm_cuda_launched(err, "gemm_nt", g.rows, g.cols);
}

template <bool XC, bool WC, bool BLOCK> static tdm_status by_rows(tdm_stream *s, const tdm_gemm &g, tdm_error *err)
{
    if (g.rows <= 8) return launch<config<XC, WC, BLOCK, 64, 8, 4, 1>>(s, g, err);
    if (g.rows <= 16) return launch<config<XC, WC, BLOCK, 64, 16, 4, 1>>(s, g, err);
    if (g.rows <= 32) return launch<config<XC, WC, BLOCK, 64, 32, 4, 1>>(s, g, err);
    // Large tiles read less; small ones are more, for few columns.
    if (tdm_ceil_div(g.cols, 128) * tdm_ceil_div(g.rows, 64) < s->sms || g.rows <= 64)
        return launch<config<XC, WC, BLOCK, 64, 64, 4, 2>>(s, g, err);
    return launch<config<XC, WC, BLOCK, 128, 64, 4, 2>>(s, g, err);
}

tdm_status tdm_gemm_nt(tdm_stream *s, tdm_gemm g, float *scratch, tdm_error *err)
{
    if (g.rows == 0 || g.cols == 0) return TDM_OK;
    TDM_ASSERT(g.depth > 0 && !(g.x_codes && !g.w_codes) && tdm_ceil_div(g.rows, 64) <= 65535);
    const bool block = g.scheme == TDM_SCHEME_FP8_BLOCK;
    tdm_gemm_nt_plan(g.depth, &g.slices, &g.slice_tiles);
    if (g.rows > ROWS_BY_SLICE) {
        // An adapter's rank is narrow: then reading x is all there is to do.
        if (!g.w_codes && g.cols <= 64) return launch<config<false, false, false, 16, 128, 1, 4>>(s, g, err);
        if (tdm_gemm_nt_wide_ready(s, g)) return tdm_gemm_nt_wide(s, g, err);
    }
    if (g.slices > 1 && by_slice(g.rows, g.cols)) g.partial = scratch;
    if (!g.w_codes) return by_rows<false, false, false>(s, g, err);
    if (!g.x_codes) return block ? by_rows<false, true, true>(s, g, err) : by_rows<false, true, false>(s, g, err);
    return block ? by_rows<true, true, true>(s, g, err) : by_rows<true, true, false>(s, g, err);
}

// ---- Experts ---------------------------------------------------------------------------------------------------------------------

template <class C> static tdm_status launch_experts(tdm_stream *s, const tdm_gemm &g, const tdm_gemm_experts &e, tdm_error *err)
{
    static const cudaError_t allowed = cudaFuncSetAttribute(gemm_nt_experts<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::SHARED);
    const tdm_status st = tdm_cuda_check(allowed, err, "cudaFuncSetAttribute(gemm_nt_experts)");
    if (st != TDM_OK) return st;
    const dim3 grid((unsigned)tdm_ceil_div(g.cols, C::BN), (unsigned)tdm_ceil_div(e.rows_most, C::BT), (unsigned)e.count);
    gemm_nt_experts<C><<<grid, C::THREADS, C::SHARED, s->cuda>>>(g, e);
    return tdm_cuda_launched(err, "gemm_nt_experts", e.rows_most, g.cols);
}

template <bool XC, bool WC, bool BLOCK> static tdm_status experts_by_rows(tdm_stream *s, const tdm_gemm &g, const tdm_gemm_experts &e, tdm_error *err)
{
    if (e.rows_mean <= 8) return launch_experts<config<XC, WC, BLOCK, 64, 8, 4, 1>>(s, g, e, err);
    if (e.rows_mean <= 32) return launch_experts<config<XC, WC, BLOCK, 64, 32, 4, 1>>(s, g, e, err);
    return launch_experts<config<XC, WC, BLOCK, 128, 64, 4, 2>>(s, g, e, err);
}

tdm_status tdm_gemm_nt_experts(tdm_stream *s, const tdm_gemm &of, const tdm_gemm_experts &e, tdm_error *err)
{
    tdm_gemm g = of;
    if (e.rows_most == 0 || g.cols == 0) return TDM_OK;
    TDM_ASSERT(g.depth > 0 && !(g.x_codes && !g.w_codes) && tdm_ceil_div(e.rows_most, 8) <= 65535 && e.count <= 65535);
    TDM_ASSERT(g.scheme == TDM_SCHEME_FP8_BLOCK || g.scheme == TDM_SCHEME_BF16);
    tdm_gemm_nt_plan(g.depth, &g.slices, &g.slice_tiles);
    if (!g.w_codes) return experts_by_rows<false, false, false>(s, g, e, err);
    if (!g.x_codes) return experts_by_rows<false, true, true>(s, g, e, err);
    return experts_by_rows<true, true, true>(s, g, e, err);
}
