// y = X W^T, both with rows along k: the forward. See gemm.cuh for the order of summation.
//
// A stage of the pipeline is 128 of k, as two chunks of 64: [chunk][row][64 elements]. The instruction sums over k in any order, so
// thread c of a row takes the 16 elements 16c.. of a chunk and feeds them to four steps: step s multiplies elements 16c + 4s .. + 3
// of both operands. Loads from shared memory are then 16 bytes wide for codes and bf16 alike, and free of conflicts.
#include "kernels/cuda/gemm.cuh"

enum { DEPTH = 128, CHUNK = 64, SHARED_MOST = 96 * 1024, STAGES_MOST = 4 };

// XC, WC: e4m3 codes. BN x BT: weights by tokens of a block; WARPS_N x WARPS_T warps share it.
template <bool XC_, bool WC_, bool BLOCK_, int BN_, int BT_, int WARPS_N_, int WARPS_T_> struct config {
    static constexpr bool XC = XC_, WC = WC_, BLOCK = BLOCK_, F16 = XC_ && WC_;
    static constexpr int BN = BN_, BT = BT_, WARPS_N = WARPS_N_, WARPS_T = WARPS_T_;
    static constexpr int THREADS = WARPS_N * WARPS_T * 32;
    static constexpr int MT = BN / WARPS_N / 16, NT = BT / WARPS_T / 8; // instructions of a warp along weights, tokens
    static constexpr int W_BYTES = BN * DEPTH * (WC ? 1 : 2), X_BYTES = BT * DEPTH * (XC ? 1 : 2), STAGE = W_BYTES + X_BYTES;
    static constexpr int STAGES = SHARED_MOST / STAGE < STAGES_MOST ? SHARED_MOST / STAGE : STAGES_MOST;
    static constexpr int PITCH = BN + 4; // of the f32 tile that is stored
    static constexpr int PIPE = STAGES * STAGE, TILE = PITCH * BT * 4;
    static constexpr int SHARED = PIPE > TILE ? PIPE : TILE;
    static_assert(STAGES >= 2 && (BN + BT) * CHUNK * 2 <= PIPE, "the second product's chunk fits");
};

// Where 16 bytes number `unit` of a chunk's row stand. Rows of bf16 are 128 bytes; odd ones have neighbours exchanged, so that two
// rows read at every other unit fall into different banks.
template <bool CODES, int ROWS> TDM_DEVICE int place(int chunk, int row, int unit)
{
    return (chunk * ROWS + row) * CHUNK * (CODES ? 1 : 2) + (CODES ? unit : unit ^ (row & 1)) * 16;
}

// CHUNKS * 64 columns from k0 on of ROWS rows from `first` on, zeros around them.
template <bool CODES, int ROWS, int CHUNKS, int THREADS>
TDM_DEVICE void load_tile(char *tile, const void *data, int64_t stride, bool vector, int64_t first, int64_t rows, int64_t k0,
                          int64_t depth)
{
    constexpr int BYTES = CODES ? 1 : 2, PER = 16 / BYTES, UNITS = CHUNK / PER, ALL = ROWS * CHUNKS * UNITS;
#pragma unroll
    for (int base = 0; base < ALL; base += THREADS) {
        const int i = base + (int)threadIdx.x, row = i / (CHUNKS * UNITS), unit = i % (CHUNKS * UNITS);
        if (ALL % THREADS != 0 && i >= ALL) break;
        const int64_t k = k0 + unit * PER;
        const int64_t valid = first + row < rows && k < depth ? (depth - k < PER ? depth - k : PER) : 0;
        const char *from = (const char *)data + (valid ? ((first + row) * stride + k) * BYTES : 0);
        char *to = tile + place<CODES, ROWS>(unit / UNITS, row, unit % UNITS);
        if (vector) tdm_cp_async(to, from, (int)valid * BYTES);
        else *(uint4 *)to = tdm_load16<BYTES>(from, valid, false);
    }
}

// 16 elements of a row as they lie in shared memory, read 16 bytes at a time.
template <bool CODES> struct raw {
    uint4 v[CODES ? 1 : 2];
};
template <bool CODES, int ROWS> TDM_DEVICE void read_row(raw<CODES> &r, const char *tile, int chunk, int row, int c)
{
#pragma unroll
    for (int i = 0; i < (CODES ? 1 : 2); i++) r.v[i] = *(const uint4 *)(tile + place<CODES, ROWS>(chunk, row, CODES ? c : 2 * c + i));
}
// The operands of steps 2 * half, 2 * half + 1: two registers a step.
template <bool CODES, bool F16> TDM_DEVICE void operands(uint32_t (&out)[4], const raw<CODES> &r, int half)
{
    if constexpr (!CODES) {
        out[0] = r.v[half].x, out[1] = r.v[half].y, out[2] = r.v[half].z, out[3] = r.v[half].w;
    } else {
        const uint32_t low = half ? r.v[0].z : r.v[0].x, high = half ? r.v[0].w : r.v[0].y;
        const uint32_t two[4] = {low & 0xffffu, low >> 16, high & 0xffffu, high >> 16};
#pragma unroll
        for (int i = 0; i < 4; i++) out[i] = F16 ? tdm_codes_f16(two[i]) : tdm_codes_bf16(two[i]);
    }
}

// acc += the product over one chunk.
template <class C, bool XC, bool WC>
TDM_DEVICE void multiply(float (&acc)[C::MT][C::NT][4], const char *x, const char *w, int chunk, int row_n, int row_t)
{
    constexpr bool F16 = XC && WC;
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    uint32_t a[C::MT][2][2][4]; // [16 weights][rows g, g + 8][half]
#pragma unroll
    for (int m = 0; m < C::MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            raw<WC> r;
            read_row<WC, C::BN>(r, w, chunk, row_n + m * 16 + i * 8 + g, c);
#pragma unroll
            for (int half = 0; half < 2; half++) operands<WC, F16>(a[m][i][half], r, half);
        }
#pragma unroll
    for (int n = 0; n < C::NT; n++) {
        raw<XC> r;
        read_row<XC, C::BT>(r, x, chunk, row_t + n * 8 + g, c);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t b[4];
            operands<XC, F16>(b, r, half);
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int m = 0; m < C::MT; m++) {
                    const uint32_t(&top)[4] = a[m][0][half], (&bottom)[4] = a[m][1][half];
                    const uint32_t of_step[4] = {top[2 * s], bottom[2 * s], top[2 * s + 1], bottom[2 * s + 1]};
                    tdm_mma<F16>(acc[m][n], of_step, b[2 * s], b[2 * s + 1]);
                }
        }
    }
}

template <class C> TDM_DEVICE void fill(float (&v)[C::MT][C::NT][4], float with)
{
#pragma unroll
    for (int m = 0; m < C::MT; m++)
#pragma unroll
        for (int n = 0; n < C::NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) v[m][n][i] = with;
}
template <class C> TDM_DEVICE void add(float (&to)[C::MT][C::NT][4], const float (&v)[C::MT][C::NT][4])
{
#pragma unroll
    for (int m = 0; m < C::MT; m++)
#pragma unroll
        for (int n = 0; n < C::NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) to[m][n][i] = __fadd_rn(to[m][n][i], v[m][n][i]);
}

TDM_DEVICE float x_scale(const tdm_gemm &g, int64_t t, int64_t block)
{
    if (!g.xs) return g.x_scale;
    return t < g.rows ? __ldg(g.xs + t * g.xs_stride + block) : 0.0f;
}
// Of tensor and channel scales.
TDM_DEVICE float w_scale(const tdm_gemm &g, int64_t n)
{
    if (!g.ws) return 1.0f;
    return g.scheme == TDM_SCHEME_FP8_TENSOR ? __ldg(g.ws) : __ldg(g.ws + n * g.ws_stride);
}

// What the sum becomes: scaled (a block's sum is already), bias and the second product added.
TDM_DEVICE float finish(const tdm_gemm &g, int64_t t, int64_t n, float sum, float second)
{
    if (g.scheme != TDM_SCHEME_FP8_BLOCK) sum = __fmul_rn(sum, __fmul_rn(x_scale(g, t, 0), w_scale(g, n)));
    if (g.bias) sum = __fadd_rn(sum, tdm_bf16(__ldg(g.bias + n)));
    if (g.depth2) sum = __fadd_rn(sum, __fmul_rn(second, g.alpha));
    return sum;
}

// Where a thread's block and warp stand: the tile in the result, the warp in the tile.
struct spot {
    int64_t n0, t0;
    int row_n, row_t;
};

// Adding anything to -0 leaves it as it is.
static constexpr float NOTHING = -0.0f;

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
                for (int i = 0; i < 2; i++) xs[n][i] = x_scale(g, at.t0 + at.row_t + n * 8 + threadIdx.x % 4 * 2 + i, tile);
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

// acc = X2 W2^T, chunk by chunk through the front of the shared memory.
template <class C> TDM_DEVICE void second_product(float (&acc)[C::MT][C::NT][4], const tdm_gemm &g, char *shared, spot at)
{
    char *x = shared + C::BN * CHUNK * 2;
    for (int64_t k = 0; k < g.depth2; k += CHUNK) {
        __syncthreads();
        load_tile<false, C::BN, 1, C::THREADS>(shared, g.w2, g.w2_stride, g.w2_vector, at.n0, g.cols, k, g.depth2);
        load_tile<false, C::BT, 1, C::THREADS>(x, g.x2, g.x2_stride, g.x2_vector, at.t0, g.rows, k, g.depth2);
        tdm_cp_commit();
        tdm_cp_wait<0>();
        __syncthreads();
        multiply<C, false, false>(acc, x, shared, 0, at.row_n, at.row_t);
    }
}

// The block's tile through shared memory, so that a row's elements are stored side by side.
template <class C, class F>
TDM_DEVICE void store_tile(const float (&v)[C::MT][C::NT][4], const tdm_gemm &g, char *shared, spot at, F store)
{
    float *tile = (float *)shared;
    const int row = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    __syncthreads();
#pragma unroll
    for (int m = 0; m < C::MT; m++)
#pragma unroll
        for (int n = 0; n < C::NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int t = at.row_t + n * 8 + c * 2 + i % 2, of_n = at.row_n + m * 16 + row + i / 2 * 8;
                tile[t * C::PITCH + of_n] = v[m][n][i];
            }
    __syncthreads();
    for (int i = threadIdx.x; i < C::BN * C::BT; i += C::THREADS) {
        const int t = i / C::BN, n = i % C::BN;
        if (at.t0 + t < g.rows && at.n0 + n < g.cols) store(at.t0 + t, at.n0 + n, tile[t * C::PITCH + n]);
    }
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
    const int row = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < C::MT; m++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int n = 0; n < C::NT; n++) {
                const int64_t of_n = at.n0 + at.row_n + m * 16 + row + i / 2 * 8, of_t = at.t0 + at.row_t + n * 8 + c * 2 + i % 2;
                if (of_n < g.cols && of_t < g.rows) total[m][n][i] = finish(g, of_t, of_n, total[m][n][i], second[m][n][i]);
            }
    store_tile<C>(total, g, shared, at, [&](int64_t t, int64_t n, float v) { tdm_gemm_store(g, t, n, v); });
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
    tdm_gemm_store(g, t, n, finish(g, t, n, sum, g.depth2 ? at[g.slices * plane] : 0.0f));
}

// ---- Host --------------------------------------------------------------------------------------------------------------------

// By (N, K) alone: enough slices that one row's product has a few blocks for every multiprocessor of a large card.
static void plan(int64_t cols, int64_t depth, int *slices, int *slice_tiles)
{
    const int64_t tiles = tdm_max_i64(tdm_ceil_div(depth, DEPTH), 1), panels = tdm_ceil_div(cols, 64);
    const int64_t want = tdm_max_i64(tdm_min_i64(tdm_min_i64(tdm_ceil_div(264, panels), tiles / 2), 32), 1);
    *slice_tiles = (int)tdm_ceil_div(tiles, want);
    *slices = (int)tdm_ceil_div(tiles, *slice_tiles);
}

enum { ROWS_BY_SLICE = 64 }; // more rows than this fill the card without a block a slice

size_t tdm_gemm_nt_scratch(int64_t rows, int64_t cols, int64_t depth)
{
    int slices, slice_tiles;
    plan(cols, depth, &slices, &slice_tiles);
    if (slices == 1) return 0;
    return (size_t)(slices + 1) * (size_t)tdm_min_i64(rows, ROWS_BY_SLICE) * (size_t)cols * sizeof(float);
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
    if (g.rows <= 64) return launch<config<XC, WC, BLOCK, 64, 64, 4, 2>>(s, g, err);
    return launch<config<XC, WC, BLOCK, 128, 64, 4, 2>>(s, g, err);
}

tdm_status tdm_gemm_nt(tdm_stream *s, tdm_gemm g, float *scratch, tdm_error *err)
{
    if (g.rows == 0 || g.cols == 0) return TDM_OK;
    TDM_ASSERT(g.depth > 0 && !(g.x_codes && !g.w_codes) && tdm_ceil_div(g.rows, 64) <= 65535);
    const bool block = g.scheme == TDM_SCHEME_FP8_BLOCK;
    plan(g.cols, g.depth, &g.slices, &g.slice_tiles);
    if (g.slices > 1 && g.rows <= ROWS_BY_SLICE) g.partial = scratch;
    if (!g.w_codes) return by_rows<false, false, false>(s, g, err);
    if (!g.x_codes) return block ? by_rows<false, true, true>(s, g, err) : by_rows<false, true, false>(s, g, err);
    return block ? by_rows<true, true, true>(s, g, err) : by_rows<true, true, false>(s, g, err);
}
