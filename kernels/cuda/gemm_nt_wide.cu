// y = X W^T on Hopper's warpgroup products, for many rows: the bits of gemm_nt and gemm_thin, which cut k into the same groups of 16 and
// the same slices. Weights go through registers, where codes become what the instruction takes; x is written out once before, in the
// order in which gemm_tile.cuh feeds the elements of a chunk to its steps.
#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/wgmma.cuh"

enum { ROWS = 128 /* weights of a block */, THREADS = 256 };

// ---- x in the order of the steps ------------------------------------------------------------------------------------------------

struct expand {
    const void *x; // [rows, depth] bf16 or codes
    char *out;     // [rows / BT rounded up][depth / CHUNK] tiles [BT, CHUNK] of bf16, or f16 of codes, as the product wants them in shared memory
    int64_t rows, depth, stride;
};

// Slots 2c, 2c + 1, 2c + 8, 2c + 9 of step s hold elements 16c + 4s .. + 3 of the chunk: those thread c of a row has for it. Rows that
// are not there are 0.
template <bool CODES, bool F16, int BT> static __global__ void __launch_bounds__(THREADS) expand_x(const __grid_constant__ expand e)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, steps = e.depth / 16, row = i / steps, step = i % steps;
    if (row >= (e.rows + BT - 1) / BT * BT) return;
    const int64_t at = row * e.stride + step / 4 * CHUNK + step % 4 * 4;
    uint32_t low[4] = {0, 0, 0, 0}, high[4] = {0, 0, 0, 0};
#pragma unroll
    for (int c = 0; c < 4 && row < e.rows; c++) {
        if constexpr (CODES) {
            const uint32_t four = __ldg((const uint32_t *)((const uint8_t *)e.x + at + 16 * c));
            low[c] = F16 ? tdm_codes_f16(four & 0xffffu) : tdm_codes_bf16(four & 0xffffu);
            high[c] = F16 ? tdm_codes_f16(four >> 16) : tdm_codes_bf16(four >> 16);
        } else {
            const uint2 four = __ldg((const uint2 *)((const uint16_t *)e.x + at + 16 * c));
            low[c] = four.x;
            high[c] = four.y;
        }
    }
    char *tile = e.out + (row / BT * (e.depth / CHUNK) + step / 4) * (BT * TDM_ROW_BYTES);
    const int of = (int)(row % BT), unit = (int)(step % 4) * 2;
    *(uint4 *)(tile + tdm_swizzled(of, unit)) = make_uint4(low[0], low[1], low[2], low[3]);
    *(uint4 *)(tile + tdm_swizzled(of, unit + 1)) = make_uint4(high[0], high[1], high[2], high[3]);
}

// ---- The product ----------------------------------------------------------------------------------------------------------------

// WC: W is codes. F16: both were. BLOCK: their scales come in blocks. BT: tokens of a block.
template <bool WC_, bool F16_, bool BLOCK_> struct shape {
    static constexpr bool WC = WC_, F16 = F16_, BLOCK = BLOCK_;
    static constexpr int BT = BLOCK ? 64 : 128, STAGES = 6, PARTS = BT / 2;
    static constexpr int W_BYTES = ROWS * CHUNK * (WC ? 1 : 2), X_BYTES = BT * TDM_ROW_BYTES, STAGE = X_BYTES + W_BYTES;
    using tile = config<false, false, false, ROWS, BT, 8, 1, 192 * 1024>; // the second product and the store
    static constexpr int SHARED = (STAGES * STAGE > tile::SHARED ? STAGES * STAGE : tile::SHARED) + 1024; // aligned by hand
};

#if TDM_WGMMA
template <class S> using sums = float[S::PARTS];
typedef uint32_t fragments[4][4]; // [step][register]

template <class S> TDM_DEVICE void set(sums<S> &v, float with)
{
#pragma unroll
    for (int i = 0; i < S::PARTS; i++) v[i] = with;
}
template <class S> TDM_DEVICE void plus(sums<S> &to, const sums<S> &v)
{
#pragma unroll
    for (int i = 0; i < S::PARTS; i++) to[i] = __fadd_rn(to[i], v[i]);
}

// This warp's 16 rows of a chunk of W.
template <class S> TDM_DEVICE void read_weights(fragments &f, const char *w)
{
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    raw<S::WC> top, bottom;
    read_row<S::WC, ROWS>(top, w, 0, row, c);
    read_row<S::WC, ROWS>(bottom, w, 0, row + 8, c);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t t[4], b[4];
        operands<S::WC, S::F16>(t, top, half);
        operands<S::WC, S::F16>(b, bottom, half);
#pragma unroll
        for (int s = 0; s < 2; s++) {
            uint32_t(&of)[4] = f[half * 2 + s];
            of[0] = t[2 * s], of[1] = b[2 * s], of[2] = t[2 * s + 1], of[3] = b[2 * s + 1];
        }
    }
}

// One chunk of both operands: x as its tile lies in memory, by one thread; W in the layout of gemm_tile.cuh.
template <class S> TDM_DEVICE void fetch_chunk(char *stage, uint64_t *barrier, const tdm_gemm &g, int chunk, int64_t n0)
{
    constexpr int BYTES = S::WC ? 1 : 2, UNITS = CHUNK * BYTES / 16, STEP = THREADS / UNITS;
    if (threadIdx.x == 0) {
        const int64_t tile = (int64_t)blockIdx.y * (g.depth / CHUNK) + chunk;
        tdm_bulk_copy(stage, (const char *)g.x + tile * S::X_BYTES, S::X_BYTES, barrier);
    }
    const int row = threadIdx.x / UNITS, unit = threadIdx.x % UNITS, rows = (int)min((long long)(g.cols - n0), (long long)ROWS);
    const char *w = (const char *)g.w, *from = w + ((n0 + row) * g.w_stride + chunk * CHUNK) * BYTES + unit * 16;
    char *to = stage + S::X_BYTES + place<S::WC, ROWS>(0, row, unit); // STEP rows further the neighbours stand alike
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        const bool in = row + i * STEP < rows;
        tdm_cp_async(to + i * STEP * CHUNK * BYTES, in ? from + i * STEP * g.w_stride * BYTES : w, in ? 16 : 0);
    }
}

// total = the slices' sums in order. x_scale and w_scale: of BLOCK, for the thread's tokens and this block's weights.
template <class S> TDM_DEVICE void first_product(sums<S> &total, const tdm_gemm &g, char *shared, uint64_t *barrier, int64_t n0, int64_t t0)
{
    const int chunks = (int)(g.depth / CHUNK), slice = 2 * g.slice_tiles;
    sums<S> acc;
    float part[S::BLOCK ? S::PARTS : 1];
    fragments even, odd;
    set<S>(acc, 0.0f);
    if constexpr (S::BLOCK) set<S>(part, NOTHING);
    const auto stage = [&](int chunk) { return shared + chunk % S::STAGES * S::STAGE; };
    const auto fetch = [&](int chunk) {
        if (chunk < chunks) fetch_chunk<S>(stage(chunk), &barrier[chunk % S::STAGES], g, chunk, n0);
        tdm_cp_commit();
    };
    const auto wait_x = [&](int chunk) { tdm_barrier_wait(&barrier[chunk % S::STAGES], chunk / S::STAGES & 1); };
    const auto step = [&](int chunk, fragments &now, fragments &next) {
        const bool tile_ends = chunk % 2 == 1 || chunk + 1 == chunks, slice_ends = (chunk + 1) % slice == 0 || chunk + 1 == chunks;
        float scale[S::BLOCK ? S::BT / 4 : 1];
        wait_x(chunk);
        tdm_wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; s++) tdm_wgmma_rs<S::BT, S::F16>(acc, now[s], tdm_wgmma_operand(stage(chunk) + s * 32, 16));
        tdm_wgmma_commit();
        tdm_wgmma_wait<1>();
        tdm_cp_wait<S::STAGES - 3>();
        __syncthreads(); // W of chunk + 1 is there, and every warpgroup is done with chunk - 1
        fetch(chunk + S::STAGES - 1);
        if (chunk + 1 < chunks) read_weights<S>(next, stage(chunk + 1) + S::X_BYTES);
        if constexpr (S::BLOCK) {
            if (!tile_ends) return;
            const float ws = __ldg(g.ws + n0 / TDM_FP8_BLOCK * g.ws_stride + chunk / 2);
#pragma unroll
            for (int i = 0; i < S::BT / 4; i++) {
                const int64_t t = t0 + i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2;
                scale[i] = __fmul_rn(tdm_x_scale(g, t, chunk / 2), ws);
            }
            tdm_wgmma_wait<0>();
            tdm_wgmma_hold(acc);
#pragma unroll
            for (int i = 0; i < S::PARTS; i++) part[i] = __fadd_rn(part[i], __fmul_rn(acc[i], scale[i / 4 * 2 + i % 2]));
            set<S>(acc, 0.0f);
            tdm_wgmma_hold(acc);
            if (!slice_ends) return;
            plus<S>(total, part);
            set<S>(part, NOTHING);
        } else {
            (void)scale;
            if (!slice_ends) return;
            tdm_wgmma_wait<0>();
            tdm_wgmma_hold(acc);
            plus<S>(total, acc);
            set<S>(acc, 0.0f);
            tdm_wgmma_hold(acc);
        }
    };
#pragma unroll
    for (int i = 0; i < S::STAGES - 1; i++) fetch(i);
    tdm_cp_wait<S::STAGES - 2>();
    __syncthreads();
    read_weights<S>(even, shared + S::X_BYTES);
    tdm_wgmma_hold(acc);
    for (int chunk = 0; chunk < chunks; chunk += 2) {
        step(chunk, even, odd);
        if (chunk + 1 < chunks) step(chunk + 1, odd, even);
    }
    tdm_wgmma_wait<0>();
    tdm_cp_wait<0>();
}
TDM_DEVICE float4 add4(float4 a, float4 b) { return make_float4(__fadd_rn(a.x, b.x), __fadd_rn(a.y, b.y), __fadd_rn(a.z, b.z), __fadd_rn(a.w, b.w)); }

// tdm_gemm_finish of the block's sums, through shared memory, so that a row's elements are stored side by side.
template <class S> TDM_DEVICE void finish_tile(const sums<S> &total, const float (&second)[S::PARTS / 4][4], const tdm_gemm &g, float *tile, spot at)
{
    constexpr int PITCH = ROWS + 4, PER = 8, UNITS = ROWS / PER;
    __shared__ float xs[S::BT];
    const int row = at.row_n + threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    float ws[2], bias[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int64_t n = at.n0 + row + 8 * i;
        ws[i] = n < g.cols && !S::BLOCK ? w_scale(g.ws, g.ws_stride, g.scheme, n) : 1.0f;
        bias[i] = n < g.cols && g.bias ? tdm_bf16(__ldg(g.bias + n)) : 0.0f;
    }
    if (threadIdx.x < S::BT) xs[threadIdx.x] = S::BLOCK ? 1.0f : tdm_x_scale(g, at.t0 + threadIdx.x, 0);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < S::PARTS; i++) {
        const int t = i / 4 * 8 + c * 2 + i % 2, of = i % 4 / 2;
        float sum = total[i];
        if constexpr (!S::BLOCK) sum = __fmul_rn(sum, __fmul_rn(xs[t], ws[of]));
        if (g.bias) sum = __fadd_rn(sum, bias[of]);
        if (g.depth2) sum = __fadd_rn(sum, __fmul_rn(second[i / 4][i % 4], g.alpha));
        tile[t * PITCH + row + 8 * of] = sum;
    }
    __syncthreads();
    const int64_t bytes = g.y_f32 ? 4 : 2;
    const bool vector = (uint64_t)g.y % 16 == 0 && g.y_stride * bytes % 16 == 0;
    for (int i = threadIdx.x; i < S::BT * UNITS; i += THREADS) {
        const int t = i / UNITS, n = i % UNITS * PER;
        const int64_t of_t = at.t0 + t, of_n = at.n0 + n;
        if (of_t >= g.rows || of_n >= g.cols) continue;
        const float *from = tile + t * PITCH + n;
        if (!vector || of_n + PER > g.cols) {
            for (int k = 0; k < PER && of_n + k < g.cols; k++) tdm_gemm_store(g, of_t, of_n + k, from[k]);
            continue;
        }
        const float4 low = *(const float4 *)from, high = *(const float4 *)(from + 4);
        char *y = (char *)g.y + (of_t * g.y_stride + of_n) * bytes;
        if (!g.y_f32) {
            *(uint4 *)y = make_uint4(tdm_pack_bf16(low.x, low.y), tdm_pack_bf16(low.z, low.w), tdm_pack_bf16(high.x, high.y), tdm_pack_bf16(high.z, high.w));
            continue;
        }
        float4 *out = (float4 *)y;
        out[0] = g.accumulate ? add4(out[0], low) : low;
        out[1] = g.accumulate ? add4(out[1], high) : high;
    }
}
#endif

template <class S> static __global__ void __launch_bounds__(THREADS, 1) gemm_nt_wide(const __grid_constant__ tdm_gemm g)
{
#if TDM_WGMMA
    extern __shared__ char raw_shared[];
    __shared__ uint64_t barrier[S::STAGES];
    using C = typename S::tile;
    char *shared = raw_shared + (1024 - tdm_smem(raw_shared) % 1024) % 1024;
    const spot at = {(int64_t)blockIdx.x * ROWS, (int64_t)blockIdx.y * S::BT, (int)threadIdx.x / 32 * 16, 0};
    float total[S::PARTS], second[1][S::PARTS / 4][4];
    set<S>(total, NOTHING);
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::STAGES; i++) tdm_barrier_open(&barrier[i]);
        tdm_barriers_opened();
    }
    __syncthreads();
    first_product<S>(total, g, shared, barrier, at.n0, at.t0);
    fill<C>(second, 0.0f);
    if (g.depth2) second_product<C>(second, g, shared, at);
    finish_tile<S>(total, second[0], g, (float *)shared, at);
#endif
}

// ---- Host --------------------------------------------------------------------------------------------------------------------

template <class S> static tdm_status launch(tdm_stream *s, const tdm_gemm &g, tdm_error *err)
{
    static const cudaError_t allowed = cudaFuncSetAttribute(gemm_nt_wide<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED);
    const tdm_status st = tdm_cuda_check(allowed, err, "cudaFuncSetAttribute(gemm_nt_wide)");
    if (st != TDM_OK) return st;
    const dim3 grid((unsigned)tdm_ceil_div(g.cols, ROWS), (unsigned)tdm_ceil_div(g.rows, S::BT));
    gemm_nt_wide<S><<<grid, THREADS, S::SHARED, s->cuda>>>(g);
    return tdm_cuda_launched(err, "gemm_nt_wide", g.rows, g.cols);
}

template <int BT> static tdm_status run_expand(tdm_stream *s, const tdm_gemm &g, tdm_error *err)
{
    const expand e = {g.x, s->workspace, g.rows, g.depth, g.x_stride};
    const unsigned blocks = (unsigned)tdm_ceil_div(tdm_ceil_div(g.rows, BT) * BT * (g.depth / 16), THREADS);
    if (!g.x_codes) expand_x<false, false, BT><<<blocks, THREADS, 0, s->cuda>>>(e);
    else expand_x<true, true, BT><<<blocks, THREADS, 0, s->cuda>>>(e);
    return tdm_cuda_launched(err, "expand_x", g.rows, g.depth);
}

// Rows of x that the workspace holds, whole tiles of them.
static int64_t panel_rows(const tdm_stream *s, const tdm_gemm &g) { return (int64_t)(s->workspace_bytes / ((size_t)g.depth * 2)) / 128 * 128; }

bool tdm_gemm_nt_wide_ready(const tdm_stream *s, const tdm_gemm &g)
{
    return s->path == TDM_CUDA_SM90 && g.depth % CHUNK == 0 && g.x_vector && g.w_vector && panel_rows(s, g) > 0 && g.rows <= 65535 * 64ll;
}

tdm_status tdm_gemm_nt_wide(tdm_stream *s, const tdm_gemm &of, tdm_error *err)
{
    const int64_t panel = panel_rows(s, of);
    tdm_status st = TDM_OK;
    for (int64_t first = 0; st == TDM_OK && first < of.rows; first += panel) {
        tdm_gemm g = of;
        g.rows = tdm_min_i64(panel, of.rows - first);
        g.x = (const char *)of.x + first * of.x_stride * (of.x_codes ? 1 : 2);
        if (of.x2) g.x2 = of.x2 + first * of.x2_stride;
        if (of.xs) g.xs = of.xs + first * of.xs_stride;
        g.y = (char *)of.y + first * of.y_stride * (of.y_f32 ? 4 : 2);
        const bool block = g.scheme == TDM_SCHEME_FP8_BLOCK;
        TDM_TRY(st, block ? run_expand<64>(s, g, err) : run_expand<128>(s, g, err), done);
        g.x = s->workspace;
        if (!g.w_codes) st = launch<shape<false, false, false>>(s, g, err);
        else if (!g.x_codes) st = block ? launch<shape<true, false, true>>(s, g, err) : launch<shape<true, false, false>>(s, g, err);
        else st = block ? launch<shape<true, true, true>>(s, g, err) : launch<shape<true, true, false>>(s, g, err);
    }
done:
    return st;
}
