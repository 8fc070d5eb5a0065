// y = X W on Hopper's warpgroup products, for X and W in bf16: dx of the backward, and the adapter's dh. One chain an element over the
// depth in order (the second product's after the first's), so a row's bits depend on the row and on W's shape alone. Where the depth is
// that of a vocabulary it is cut into SLICES chains, summed in order, so that a few rows fill the card.
#include "kernels/cuda/wgmma.cuh"

enum { TOKENS = 128, STEP = 64, THREADS = 256, SLICES = 8, SLICED_DEPTH = 32768 };

// 256 columns read the least, and take a multiprocessor alone.
template <int BN> struct wide {
    static constexpr int STAGES = BN == 256 ? 4 : 3, BLOCKS = BN == 256 ? 1 : 2;
    static constexpr int X_BYTES = TOKENS * TDM_ROW_BYTES, W_BYTES = STEP * BN * 2, STAGE = X_BYTES + W_BYTES;
    static constexpr int SHARED = STAGES * STAGE + 1024; // the base is aligned by hand
};

#if TDM_WGMMA
// One step of 64 of one of the products, zeros around it. A thread's 16 bytes stand at the same
// columns in all its rows.
template <int BN> TDM_DEVICE void load(char *stage, const tdm_gemm &g, bool second, int k0, int64_t t0, int64_t n0)
{
    constexpr int UNITS = BN / 8;
    const int depth = (int)(second ? g.depth2 : g.depth), id = threadIdx.x;
    {
        const int64_t stride = second ? g.x2_stride : g.x_stride;
        const int row = id / 8, unit = id % 8, valid = max(0, min(depth - (k0 + unit * 8), 8)) * 2, rows = (int)min((long long)(g.rows - t0), (long long)TOKENS);
        const uint16_t *x = (const uint16_t *)(second ? g.x2 : g.x), *from = x + (t0 + row) * stride + k0 + unit * 8;
        char *to = stage + tdm_swizzled(row, unit); // 32 rows further the swizzle is the same
#pragma unroll
        for (int i = 0; i < TOKENS / 32; i++) {
            const bool in = row + i * 32 < rows && valid > 0;
            tdm_cp_async(to + i * 32 * TDM_ROW_BYTES, in ? from + i * 32 * stride : x, in ? valid : 0);
        }
    }
    const int64_t stride = second ? g.w2_stride : g.w_stride;
    const int row = id / UNITS, unit = id % UNITS, valid = (int)max(0ll, min((long long)(g.cols - n0) - unit * 8, 8ll)) * 2;
    const uint16_t *w = (const uint16_t *)(second ? g.w2 : g.w), *from = w + (k0 + row) * stride + n0 + unit * 8;
    char *to = stage + wide<BN>::X_BYTES + unit / 8 * STEP * TDM_ROW_BYTES;
#pragma unroll
    for (int i = 0; i < STEP * UNITS / THREADS; i++) {
        const int r = row + i * (THREADS / UNITS);
        const bool in = k0 + r < depth && valid > 0;
        tdm_cp_async(to + tdm_swizzled(r, unit % 8), in ? from + i * (THREADS / UNITS) * stride : w, in ? valid : 0);
    }
}
#endif

template <int BN> static __global__ void __launch_bounds__(THREADS, wide<BN>::BLOCKS) gemm_nn_wide(const __grid_constant__ tdm_gemm g)
{
#if TDM_WGMMA
    constexpr int STAGES = wide<BN>::STAGES;
    extern __shared__ char raw[];
    char *shared = raw + (1024 - tdm_smem(raw) % 1024) % 1024;
    const int group = threadIdx.x / 128;
    const int64_t n0 = (int64_t)blockIdx.x * BN, t0 = (int64_t)blockIdx.y * TOKENS;
    const int firsts = (int)((g.depth + STEP - 1) / STEP), seconds = (int)((g.depth2 + STEP - 1) / STEP);
    const int begin = (int)blockIdx.z * g.slice_tiles, end = min(begin + g.slice_tiles, firsts) + seconds; // seconds: only unsliced
    const auto fetch = [&](int tile) {
        const bool second = tile >= firsts;
        load<BN>(shared + (tile - begin) % STAGES * wide<BN>::STAGE, g, second, (second ? tile - firsts : tile) * STEP, t0, n0);
    };
    float acc[BN / 2];
#pragma unroll
    for (int i = 0; i < BN / 2; i++) acc[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < STAGES - 2; i++) {
        if (begin + i < end) fetch(begin + i);
        tdm_cp_commit();
    }
    tdm_wgmma_hold(acc);
    for (int tile = begin; tile < end; tile++) {
        tdm_cp_wait<STAGES - 3>();
        tdm_wgmma_see_shared();
        __syncthreads(); // every warpgroup is done with the products of tile - 2, too
        const char *x = shared + (tile - begin) % STAGES * wide<BN>::STAGE, *w = x + wide<BN>::X_BYTES;
        tdm_wgmma_fence();
#pragma unroll
        for (int k = 0; k < STEP / 16; k++)
            tdm_wgmma_ss_turned(acc, tdm_wgmma_operand(x + group * 64 * TDM_ROW_BYTES + k * 32, 16),
                                tdm_wgmma_operand(w + k * 16 * TDM_ROW_BYTES, STEP * TDM_ROW_BYTES));
        tdm_wgmma_commit();
        if (tile + STAGES - 2 < end) fetch(tile + STAGES - 2); // over what tile - 2 read
        tdm_cp_commit();
        tdm_wgmma_wait<1>();
    }
    tdm_wgmma_wait<0>();
    tdm_wgmma_hold(acc);
    tdm_cp_wait<0>();
    const int64_t t = t0 + group * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
    float *out = g.partial ? g.partial + (int64_t)blockIdx.z * g.rows * g.cols : (float *)g.y;
    const int64_t stride = g.partial ? g.cols : g.y_stride;
    const bool pairs = (g.partial || g.y_f32) && (uint64_t)out % 8 == 0 && stride % 2 == 0, add = !g.partial && g.accumulate;
    const float scale = g.partial ? 1.0f : g.x_scale;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t row = t + half * 8;
        if (row >= g.rows) continue;
#pragma unroll
        for (int j = 0; j < BN / 8; j++) {
            const int64_t n = n0 + j * 8 + threadIdx.x % 4 * 2;
            float2 v = make_float2(__fmul_rn(acc[4 * j + 2 * half], scale), __fmul_rn(acc[4 * j + 2 * half + 1], scale));
            float2 *to = (float2 *)(out + row * stride + n);
            if (pairs && n + 1 < g.cols) {
                if (add) v = make_float2(__fadd_rn(to->x, v.x), __fadd_rn(to->y, v.y));
                *to = v;
                continue;
            }
            for (int i = 0; i < 2; i++) {
                if (n + i >= g.cols) continue;
                if (g.partial) out[row * stride + n + i] = i ? v.y : v.x;
                else tdm_gemm_store(g, row, n + i, i ? v.y : v.x);
            }
        }
    }
#endif
}

// The slices' sums in order.
static __global__ void __launch_bounds__(THREADS) gemm_nn_reduce(const __grid_constant__ tdm_gemm g)
{
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x, t = blockIdx.y, plane = g.rows * g.cols;
    if (n >= g.cols) return;
    const float *at = g.partial + t * g.cols + n;
    float sum = at[0];
    for (int z = 1; z < g.slices; z++) sum = __fadd_rn(sum, at[z * plane]);
    tdm_gemm_store(g, t, n, __fmul_rn(sum, g.x_scale));
}

// ---- Host --------------------------------------------------------------------------------------------------------------------

template <int BN> static tdm_status launch(tdm_stream *s, const tdm_gemm &g, tdm_error *err)
{
    static const cudaError_t allowed = cudaFuncSetAttribute(gemm_nn_wide<BN>, cudaFuncAttributeMaxDynamicSharedMemorySize, wide<BN>::SHARED);
    const tdm_status st = tdm_cuda_check(allowed, err, "cudaFuncSetAttribute(gemm_nn_wide)");
    if (st != TDM_OK) return st;
    const dim3 grid((unsigned)tdm_ceil_div(g.cols, BN), (unsigned)tdm_ceil_div(g.rows, TOKENS), (unsigned)g.slices);
    gemm_nn_wide<BN><<<grid, THREADS, wide<BN>::SHARED, s->cuda>>>(g);
    if (g.partial) gemm_nn_reduce<<<dim3((unsigned)tdm_ceil_div(g.cols, THREADS), (unsigned)g.rows), THREADS, 0, s->cuda>>>(g);
    return tdm_cuda_launched(err, "gemm_nn_wide", g.rows, g.cols);
}

// Rows [first, first + rows) and columns [col, col + cols) of a product.
static tdm_gemm part_of(const tdm_gemm &g, int64_t first, int64_t rows, int64_t col, int64_t cols)
{
    tdm_gemm p = g;
    p.rows = rows;
    p.cols = cols;
    p.x = (const uint16_t *)g.x + first * g.x_stride;
    p.w = (const uint16_t *)g.w + col;
    if (g.x2) p.x2 = g.x2 + first * g.x2_stride, p.w2 = g.w2 + col;
    p.y = (char *)g.y + (first * g.y_stride + col) * (g.y_f32 ? 4 : 2);
    return p;
}

static tdm_status run(tdm_stream *s, const tdm_gemm &g, tdm_error *err)
{
    if (g.cols <= 64) return launch<64>(s, g, err);
    // Where the large tiles are too few for the card, twice as many of half the size.
    const int64_t large = tdm_ceil_div(g.cols, 256) * tdm_ceil_div(g.rows, TOKENS) * g.slices;
    return large < s->sms ? launch<128>(s, g, err) : launch<256>(s, g, err);
}

// As many rows at a time as the planes of their slices have room for.
static tdm_status run_sliced(tdm_stream *s, tdm_gemm g, char *room, size_t bytes, tdm_error *err)
{
    const int64_t rows = tdm_min_i64((int64_t)(bytes / ((size_t)(SLICES * g.cols) * sizeof(float))), g.rows), all = g.rows;
    tdm_status st = TDM_OK;
    g.slices = SLICES;
    g.slice_tiles = (int)tdm_ceil_div(tdm_ceil_div(g.depth, STEP), SLICES);
    g.partial = (float *)room;
    for (int64_t first = 0; st == TDM_OK && first < all; first += rows)
        st = run(s, part_of(g, first, tdm_min_i64(rows, all - first), 0, g.cols), err);
    return st;
}

enum { PANEL = 256 };

// Columns of W that fit the workspace as bf16 beside the planes of at least one tile of rows; 0: too few.
static int64_t panel_cols(const tdm_stream *s, const tdm_gemm &g, bool sliced)
{
    const size_t planes = sliced ? (size_t)SLICES * TOKENS * sizeof(float) : 0;
    const int64_t all = tdm_align_up((size_t)g.cols, PANEL);
    if (!g.w_codes) return !sliced || planes * (size_t)g.cols <= s->workspace_bytes ? all : 0;
    return tdm_min_i64((int64_t)(s->workspace_bytes / ((size_t)g.depth * 2 + planes)) / PANEL * PANEL, all);
}

bool tdm_gemm_nn_wide_ready(const tdm_stream *s, const tdm_gemm &g)
{
    const bool sliced = g.depth >= SLICED_DEPTH;
    if (s->path != TDM_CUDA_SM90 || g.side || !g.x_vector || !g.w_vector || g.cols < 8) return false;
    if (g.depth2 && (g.alpha != 1.0f || g.x_scale != 1.0f || sliced || !g.x2_vector || !g.w2_vector)) return false;
    if (g.w_codes && g.cols % 16 != 0) return false;
    return tdm_ceil_div(g.rows, TOKENS) <= 65535 && panel_cols(s, g, sliced) > 0;
}

tdm_status tdm_gemm_nn_wide(tdm_stream *s, const tdm_gemm &of, const tdm_weight *w, tdm_error *err)
{
    const bool sliced = of.depth >= SLICED_DEPTH;
    const int64_t panel = panel_cols(s, of, sliced);
    tdm_status st = TDM_OK;
    tdm_gemm g = of;
    g.slices = 1;
    g.slice_tiles = (int)tdm_ceil_div(g.depth, STEP);
    g.partial = NULL;
    for (int64_t col = 0; st == TDM_OK && col < of.cols; col += panel) {
        const int64_t cols = tdm_min_i64(panel, of.cols - col);
        tdm_gemm p = part_of(g, 0, g.rows, col, cols);
        size_t used = 0;
        if (of.w_codes) {
            used = tdm_align_up((size_t)(of.depth * cols) * 2, 256);
            TDM_TRY(st, tdm_dequantize(s, w, 0, of.depth, col, cols, s->workspace, err), done);
            p.w = s->workspace;
            p.w_stride = cols;
            p.w_codes = false;
        }
        st = sliced ? run_sliced(s, p, s->workspace + used, s->workspace_bytes - used, err) : run(s, p, err);
    }
done:
    return st;
}
