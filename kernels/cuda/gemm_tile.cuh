// A block's tile of y = X W^T: how operands stand in shared memory and meet in the tensor core's instruction, for all kernels of the
// forward's products. What decides a sum's order is here and in tdm_gemm_nt_plan.
//
// A stage of the pipeline is 128 of k, as two chunks of 64: [chunk][row][64 elements]. The instruction sums over k in any order, so
// thread c of a row takes the 16 elements 16c.. of a chunk and feeds them to four steps: step s multiplies elements 16c + 4s .. + 3
// of both operands. Loads from shared memory are then 16 bytes wide for codes and bf16 alike, and free of conflicts.
#pragma once

#include "kernels/cuda/gemm.cuh"

enum { DEPTH = 128, CHUNK = 64, STAGES_MOST = 4 };

// XC, WC: e4m3 codes. BN x BT: weights by tokens of a block; WARPS_N x WARPS_T warps share it. MOST: bytes the pipeline may take.
template <bool XC_, bool WC_, bool BLOCK_, int BN_, int BT_, int WARPS_N_, int WARPS_T_, int MOST = 96 * 1024> struct config {
    static constexpr bool XC = XC_, WC = WC_, BLOCK = BLOCK_, F16 = XC_ && WC_;
    static constexpr int BN = BN_, BT = BT_, WARPS_N = WARPS_N_, WARPS_T = WARPS_T_;
    static constexpr int THREADS = WARPS_N * WARPS_T * 32;
    static constexpr int MT = BN / WARPS_N / 16, NT = BT / WARPS_T / 8; // instructions of a warp along weights, tokens
    static constexpr int W_BYTES = BN * DEPTH * (WC ? 1 : 2), X_BYTES = BT * DEPTH * (XC ? 1 : 2), STAGE = W_BYTES + X_BYTES;
    static constexpr int STAGES = MOST / STAGE < STAGES_MOST ? MOST / STAGE : STAGES_MOST;
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

// CHUNKS * 64 columns from k0 on of ROWS rows from `first` on, out of `rows`; zeros around them.
template <bool CODES, int ROWS, int CHUNKS, int THREADS>
TDM_DEVICE void load_tile(char *tile, const void *data, int64_t stride, bool vector, int64_t first, int64_t rows, int64_t k0,
                          int64_t depth)
{
    constexpr int BYTES = CODES ? 1 : 2, PER = 16 / BYTES, UNITS = CHUNK / PER, ALL = ROWS * CHUNKS * UNITS;
#pragma unroll
    for (int base = 0; base < ALL; base += THREADS) {
        const int i = base + (int)threadIdx.x, row = i / (CHUNKS * UNITS), unit = i % (CHUNKS * UNITS);
        if (ALL % THREADS != 0 && i >= ALL) break;
        const int k = (int)k0 + unit * PER;
        const int valid = first + row < rows && k < (int)depth ? min((int)depth - k, PER) : 0;
        const char *at = (const char *)data + (valid ? ((first + row) * stride + k) * BYTES : 0); // copies of no bytes name an address too
        char *to = tile + place<CODES, ROWS>(unit / UNITS, row, unit % UNITS);
        if (vector) tdm_cp_async(to, at, valid * BYTES);
        else *(uint4 *)to = tdm_load16<BYTES>(at, valid, false);
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
        if constexpr (F16) {
            tdm_codes_f16(out[0], out[1], low);
            tdm_codes_f16(out[2], out[3], high);
            return;
        }
        const uint32_t two[4] = {low & 0xffffu, low >> 16, high & 0xffffu, high >> 16};
#pragma unroll
        for (int i = 0; i < 4; i++) out[i] = tdm_codes_bf16(two[i]);
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

// Adding anything to -0 leaves it as it is.
static constexpr float NOTHING = -0.0f;

// Of tensor and channel scales.
TDM_DEVICE float w_scale(const float *ws, int64_t stride, tdm_scheme scheme, int64_t n)
{
    if (!ws) return 1.0f;
    return scheme == TDM_SCHEME_FP8_TENSOR ? __ldg(ws) : __ldg(ws + n * stride);
}
TDM_DEVICE float tdm_x_scale(const tdm_gemm &g, int64_t t, int64_t block)
{
    if (!g.xs) return g.x_scale;
    return t < g.rows ? __ldg(g.xs + t * g.xs_stride + block) : 0.0f;
}
// What the sum becomes: scaled (a block's sum is already), bias and the second product added.
TDM_DEVICE float tdm_gemm_finish(const tdm_gemm &g, int64_t t, int64_t n, float sum, float second)
{
    if (g.scheme != TDM_SCHEME_FP8_BLOCK) sum = __fmul_rn(sum, __fmul_rn(tdm_x_scale(g, t, 0), w_scale(g.ws, g.ws_stride, g.scheme, n)));
    if (g.bias) sum = __fadd_rn(sum, tdm_bf16(__ldg(g.bias + n)));
    if (g.depth2) sum = __fadd_rn(sum, __fmul_rn(second, g.alpha));
    return sum;
}

// Where a thread's block and warp stand: the tile in the result, the warp in the tile.
struct spot {
    int64_t n0, t0;
    int row_n, row_t;
};

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
