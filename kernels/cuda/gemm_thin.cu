// y = X W^T of few rows: decode. Bound by reading the weights, so everything here serves to have reads under way: they begin before
// the kernel in front has ended, and go on while a unit is being finished.
//
// A block has eight warps and a multiprocessor for itself. A warp runs one slice of K (gemm_tile.cuh) for 16 MT columns and up to 64 rows,
// with a pipeline of its own. A unit is the columns by the rows: at its end the slices' sums are left in shared memory, in the order the
// instruction has them; every warp adds those of a share of the fragments (16 columns by 8 rows), in order, and finishes it.
//
// The adapters' h = bf16(x A^T) is made alike, by the blocks that have the fewest units and before those; all wait for h only to finish
// a unit. There are no more blocks than multiprocessors, so that none waits for one that has no room.
#include <atomic>

#include "kernels/cuda/gemm_thin.cuh"
#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/launch.cuh"

enum { WARPS = TDM_GEMM_SLICES_MOST, THREADS = WARPS * 32 };
// Shared memory of a block: of server cards, and from sm_120 on of consumers'.
enum { SHARED_SERVER = 227 * 1024, SHARED_CONSUMER = 99 * 1024 };
#if __CUDA_ARCH__ >= 1200
enum { SHARED = SHARED_CONSUMER };
#else
enum { SHARED = SHARED_SERVER };
#endif

// MT: 16 columns of a unit; NT: 8 rows. Bytes: of a chunk of W and of x for a warp; of a stage of all; of the sums that are left.
template <bool XC_, bool WC_, bool BLOCK_, int MT_, int NT_> struct shape {
    static constexpr bool XC = XC_, WC = WC_, BLOCK = BLOCK_;
    static constexpr int MT = MT_, NT = NT_, BN = MT * 16, BT = NT * 8;
    static constexpr int W_BYTES = BN * CHUNK * (WC ? 1 : 2), X_BYTES = BT * CHUNK * (XC ? 1 : 2), STAGE = W_BYTES + X_BYTES;
    static constexpr int PLANE = WARPS * BN * BT * 4, SHARE = (MT * NT + WARPS - 1) / WARPS; // fragments that a warp finishes
    // Stages that fit beside the sums; below 2 the shape is of no use.
    __host__ __device__ static constexpr int stages(int shared)
    {
        return (shared - PLANE) / (WARPS * STAGE) < 8 ? (shared - PLANE) / (WARPS * STAGE) : 8;
    }
};

#if __CUDA_ARCH__ >= 900
// ---- A warp's sums -----------------------------------------------------------------------------------------------------------

// 16 bytes, and of weights the line they stand in on its way to the second-level cache: the next chunk has the rest.
template <bool LINE> TDM_DEVICE void copy_16(char *to, const char *from)
{
    if constexpr (LINE) asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(tdm_smem(to)), "l"(from) : "memory");
    else asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(tdm_smem(to)), "l"(from) : "memory");
}

// What a lane loads of rows: 16 bytes of a chunk's every EACH-th. Rows past the last read the last one again, as what they give is
// never stored.
template <bool CODES> struct lane_rows {
    static constexpr int BYTES = CODES ? 1 : 2, PER = 16 / BYTES, UNITS = CHUNK / PER, EACH = 32 / UNITS;
    const char *at; // where the first begins
    uint32_t pitch; // bytes
    int last;       // counted from the first; may be below 0

    __device__ __forceinline__ void open(const void *data, int64_t stride, int64_t first, int64_t all)
    {
        const int64_t row = first + (int)threadIdx.x % 32 / UNITS;
        pitch = (uint32_t)(stride * BYTES);
        at = (const char *)data + row * pitch;
        last = (int)(min(all - row, (int64_t)1 << 20)) - 1;
    }
    // ROWS rows from k0 on, zeros past the depth.
    template <int ROWS, bool LINE> __device__ __forceinline__ void load(char *tile, bool vector, int k0, int depth) const
    {
        const int lane = (int)threadIdx.x % 32, unit = lane % UNITS, k = k0 + unit * PER;
        char *to = tile + place<CODES, ROWS>(0, lane / UNITS, unit); // EACH is even: so are all rows of a lane
        if (vector && k0 + CHUNK <= depth) {
#pragma unroll
            for (int base = 0; base < ROWS; base += EACH)
                copy_16<LINE>(to + base * CHUNK * BYTES, at + (int64_t)min(base, last) * pitch + k * BYTES);
        } else {
            const int valid = max(0, min(depth - k, PER));
#pragma unroll 1
            for (int base = 0; base < ROWS; base += EACH)
                *(uint4 *)(to + base * CHUNK * BYTES) = tdm_load16<BYTES>(at + (int64_t)min(base, last) * pitch + k * BYTES, valid, false);
        }
    }
};

// acc += the product over one chunk. An instruction waits for the one before it on the same sums, so some groups of 8 rows take turns.
template <class S> TDM_DEVICE void multiply_chunk(float (&acc)[S::MT][S::NT][4], const char *x, const char *w)
{
    constexpr bool F16 = S::XC && S::WC;
    constexpr int MOST = S::MT > 2 ? 2 : 4, TURNS = S::NT < MOST ? S::NT : MOST;
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    uint32_t a[S::MT][2][2][4]; // [16 weights][rows g, g + 8][half]
#pragma unroll
    for (int m = 0; m < S::MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            raw<S::WC> r;
            read_row<S::WC, S::BN>(r, w, 0, m * 16 + i * 8 + g, c);
#pragma unroll
            for (int half = 0; half < 2; half++) operands<S::WC, F16>(a[m][i][half], r, half);
        }
#pragma unroll
    for (int first = 0; first < S::NT; first += TURNS) {
        raw<S::XC> r[TURNS];
#pragma unroll
        for (int n = 0; n < TURNS; n++) read_row<S::XC, S::BT>(r[n], x, 0, (first + n) * 8 + g, c);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t b[TURNS][4];
#pragma unroll
            for (int n = 0; n < TURNS; n++) operands<S::XC, F16>(b[n], r[n], half);
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int n = 0; n < TURNS; n++)
#pragma unroll
                    for (int m = 0; m < S::MT; m++) {
                        const uint32_t(&top)[4] = a[m][0][half], (&bottom)[4] = a[m][1][half];
                        const uint32_t of_step[4] = {top[2 * s], bottom[2 * s], top[2 * s + 1], bottom[2 * s + 1]};
                        tdm_mma<F16>(acc[m][first + n], of_step, b[n][2 * s], b[n][2 * s + 1]);
                    }
        }
    }
}

template <class S> TDM_DEVICE void leave_sums(float4 *plane, const float (&v)[S::MT][S::NT][4])
{
    float4 *at = plane + (int)threadIdx.x / 32 * S::MT * S::NT * 32 + (int)threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < S::MT; m++)
#pragma unroll
        for (int n = 0; n < S::NT; n++) at[(m * S::NT + n) * 32] = make_float4(v[m][n][0], v[m][n][1], v[m][n][2], v[m][n][3]);
}
// Of fragment m * NT + n: the slices' sums, added in order.
template <class S> TDM_DEVICE float4 sum_slices(const float4 *plane, int fragment, int slices)
{
    const float4 *at = plane + fragment * 32 + (int)threadIdx.x % 32;
    float4 sum = make_float4(NOTHING, NOTHING, NOTHING, NOTHING), part[WARPS];
#pragma unroll
    for (int z = 0; z < WARPS; z++)
        if (z < slices) part[z] = at[z * S::MT * S::NT * 32];
#pragma unroll
    for (int z = 0; z < WARPS; z++)
        if (z < slices) {
            sum.x = __fadd_rn(sum.x, part[z].x);
            sum.y = __fadd_rn(sum.y, part[z].y);
            sum.z = __fadd_rn(sum.z, part[z].z);
            sum.w = __fadd_rn(sum.w, part[z].w);
        }
    return sum;
}

// Chunks of a warp's slice, unit after unit: what is loaded next, and where.
struct cursor {
    int unit, chunk, stage;
};

// Runs units first, first + stride, ...: the pipeline does not stop in between. The job says what is multiplied (seek_w and load_w,
// which may run before the previous kernel has ended, seek_x and load_x) and what becomes of fragments first, first + WARPS ..:
// prepare before their sums are there, finish after.
template <class S, class J> TDM_DEVICE void run_units(J &job, const tdm_thin &g, char *shared, int first, int stride, int units)
{
    constexpr int STAGES = S::stages(SHARED) < 2 ? 2 : S::stages(SHARED);
    float4 *plane = (float4 *)shared;
    const int warp = (int)threadIdx.x / 32, begin = warp * g.slice_tiles, count = max(0, min(g.slice_tiles, g.tiles - begin));
    const int chunks = count * (DEPTH / CHUNK);
    char *const ring = shared + S::PLANE + warp * STAGES * S::STAGE;
    const auto load_w = [&](const cursor &c) {
        if (c.unit >= units) return;
        if (c.chunk == 0) job.seek_w(c.unit);
        job.load_w(ring + c.stage * S::STAGE + S::X_BYTES, begin * DEPTH + c.chunk * CHUNK);
    };
    const auto load_x = [&](const cursor &c) {
        if (c.unit >= units) return;
        if (c.chunk == 0) job.seek_x(c.unit);
        job.load_x(ring + c.stage * S::STAGE, begin * DEPTH + c.chunk * CHUNK);
    };
    const auto next = [&](cursor &c) {
        if (++c.chunk == chunks) c.chunk = 0, c.unit += stride;
        if (++c.stage == STAGES) c.stage = 0;
    };
    cursor ahead = {first, 0, 0}, w_ahead = ahead;
    if (chunks > 0) {
#pragma unroll 1
        for (int i = 1; i < STAGES; i++, next(w_ahead)) load_w(w_ahead);
    }
    tdm_wait_for_previous();
    if (chunks > 0) {
#pragma unroll 1
        for (int i = 1; i < STAGES; i++, next(ahead)) {
            load_x(ahead);
            tdm_cp_commit();
        }
    }
    int stage = 0;
#pragma unroll 1
    for (int u = first; u < units; u += stride) {
        float acc[S::MT][S::NT][4], slice_sum[S::MT][S::NT][4];
        fill<S>(acc, 0.0f);
        if constexpr (S::BLOCK) fill<S>(slice_sum, NOTHING);
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; chunk++) {
            float ws = 1.0f, xs[S::NT][2];
            if constexpr (S::BLOCK)
                if (chunk % 2 == 1) job.block_scales(ws, xs, u, begin + chunk / 2); // asked for early, needed after the product
            tdm_cp_wait<STAGES - 2>();
            __syncwarp();
            load_w(ahead);
            load_x(ahead);
            tdm_cp_commit();
            next(ahead);
            const char *x = ring + stage * S::STAGE;
            multiply_chunk<S>(acc, x, x + S::X_BYTES);
            if (++stage == STAGES) stage = 0;
            if constexpr (S::BLOCK) {
                if (chunk % 2 == 0) continue;
#pragma unroll
                for (int m = 0; m < S::MT; m++)
#pragma unroll
                    for (int n = 0; n < S::NT; n++)
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            slice_sum[m][n][e] = __fadd_rn(slice_sum[m][n][e], __fmul_rn(acc[m][n][e], __fmul_rn(xs[n][e % 2], ws)));
                fill<S>(acc, 0.0f);
            }
        }
        if (u > first) __syncthreads(); // the sums of the unit before have been read
        if constexpr (S::BLOCK) leave_sums<S>(plane, slice_sum);
        else leave_sums<S>(plane, acc);
        job.prepare(u, warp);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < S::SHARE; i++) {
            const int fragment = warp + i * WARPS;
            if (fragment < S::MT * S::NT) job.finish(i, sum_slices<S>(plane, fragment, g.slices));
        }
    }
}

// ---- h -----------------------------------------------------------------------------------------------------------------------

// The part whose rows of A (or panels of columns) number `i` belongs to.
TDM_DEVICE int part_of(const tdm_thin &g, int i, bool by_panel)
{
    int p = 0;
#pragma unroll
    for (int q = 1; q < TDM_THIN_PARTS; q++)
        if (q < g.parts && i >= (by_panel ? g.part[q].panel : g.part[q].row)) p = q;
    return p;
}

// A unit: up to BN rows of all A's, up to BT rows of x, by one block.
template <class S> struct adapter_job {
    const tdm_thin &g;
    lane_rows<false> x;
    int first; // row of A's of the unit that is being loaded
    int row[S::SHARE], t[S::SHARE]; // this lane's, of a fragment being finished

    __device__ __forceinline__ int first_a(int unit) const { return unit / g.a_row_tiles * S::BN; }
    __device__ __forceinline__ int first_row(int unit) const { return unit % g.a_row_tiles * S::BT; }
    __device__ __forceinline__ void seek_w(int unit) { first = first_a(unit); }
    __device__ __forceinline__ void load_w(char *to, int k0) const
    {
        constexpr int EACH = lane_rows<false>::EACH;
#pragma unroll
        for (int base = 0; base < S::BN; base += EACH) { // a tile may hold rows of several A's
            const int r = min(first + base + (int)threadIdx.x % 32 / (32 / EACH), g.a_rows - 1);
            const tdm_thin_part &p = g.part[part_of(g, r, false)];
            const lane_rows<false> rows = {(const char *)(p.a + (r - p.row) * p.a_stride), 0, 0};
            rows.template load<EACH, true>(to + base * CHUNK * 2, g.a_vector, k0, (int)g.depth);
        }
    }
    __device__ __forceinline__ void seek_x(int unit) { x.open(g.xa, g.xa_stride, first_row(unit), g.rows); }
    __device__ __forceinline__ void load_x(char *to, int k0) const
    {
        x.template load<S::BT, false>(to, g.xa_vector, k0, (int)g.depth);
    }
    __device__ __forceinline__ void prepare(int unit, int fragment)
    {
#pragma unroll
        for (int i = 0; i < S::SHARE; i++, fragment += WARPS) {
            row[i] = first_a(unit) + fragment / S::NT * 16 + threadIdx.x % 32 / 4;
            t[i] = first_row(unit) + fragment % S::NT * 8 + threadIdx.x % 4 * 2;
        }
    }
    __device__ __forceinline__ void finish(int i, float4 sum) const
    {
        const float v[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = row[i] + e / 2 * 8;
            if (r >= g.a_rows || t[i] + e % 2 >= g.rows) continue;
            const tdm_thin_part &p = g.part[part_of(g, r, false)];
            p.h[(t[i] + e % 2) * p.h_stride + r - p.row] = tdm_to_bf16(v[e]);
        }
    }
};

// ---- y -----------------------------------------------------------------------------------------------------------------------

TDM_DEVICE unsigned load_acquire(const unsigned *at)
{
    unsigned v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}
// Eight of h, which other blocks of this launch have written: past the caches that are not kept alike.
TDM_DEVICE uint4 load_h(const uint16_t *at, int valid)
{
    if (valid >= 8 && (uintptr_t)at % 16 == 0) return __ldcg((const uint4 *)at);
    uint32_t v[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < valid) v[i / 2] |= (uint32_t)__ldcg(at + i) << 16 * (i % 2);
    return make_uint4(v[0], v[1], v[2], v[3]);
}

// A unit: a panel of a part's columns, up to BT rows, by one block.
template <class S> struct weight_job {
    const tdm_thin &g;
    lane_rows<S::WC> w;
    lane_rows<S::XC> x;
    bool w_vector;
    int part; // of the unit being finished
    bool h_there;
    struct fragment { // of that unit. n, t: this lane's first column and row; a column past the last: there is no such fragment
        int n, t;
        float scale[4], bias[2], before[4], second[4];
    } mine[S::SHARE];

    __device__ __forceinline__ int first_row(int unit) const { return unit % g.row_tiles * S::BT; }
    // Of the part that has the unit.
    __device__ __forceinline__ int first_col(const tdm_thin_part &of, int unit) const { return (unit / g.row_tiles - of.panel) * S::BN; }
    __device__ __forceinline__ void seek_w(int unit)
    {
        const tdm_thin_part &p = g.part[part_of(g, unit / g.row_tiles, true)];
        w.open(p.w, p.w_stride, first_col(p, unit), p.cols);
        w_vector = p.w_vector;
        // What the unit's end needs of the adapter and would wait for then.
        for (int n = first_col(p, unit) + (int)threadIdx.x; p.rank && n < min(first_col(p, unit) + S::BN, (int)p.cols); n += THREADS)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(p.b + n * p.b_stride));
    }
    __device__ __forceinline__ void load_w(char *to, int k0) const { w.template load<S::BN, true>(to, w_vector, k0, (int)g.depth); }
    __device__ __forceinline__ void seek_x(int unit) { x.open(g.x, g.x_stride, first_row(unit), g.rows); }
    __device__ __forceinline__ void load_x(char *to, int k0) const { x.template load<S::BT, false>(to, g.x_vector, k0, (int)g.depth); }
    __device__ __forceinline__ float x_scale(int row, int block) const
    {
        if (!g.xs) return g.x_scale;
        return row < g.rows ? g.xs[row * g.xs_stride + block] : 0.0f;
    }
    // A warp's columns lie in one block of 128, and so does a tile of K.
    __device__ __forceinline__ void block_scales(float &ws, float (&xs)[S::NT][2], int unit, int tile) const
    {
        const tdm_thin_part &q = g.part[part_of(g, unit / g.row_tiles, true)];
        const int col = first_col(q, unit);
        ws = col < q.cols ? __ldg(q.ws + (int64_t)(col / TDM_FP8_BLOCK) * q.ws_stride + tile) : 0.0f;
#pragma unroll
        for (int i = 0; i < S::NT; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) xs[i][e] = x_scale(first_row(unit) + i * 8 + threadIdx.x % 4 * 2 + e, tile);
    }

    __device__ __forceinline__ uint4 load_b(int col, int k) const
    {
        const tdm_thin_part &p = g.part[part];
        const int valid = col < p.cols ? p.rank - k : 0;
        if (valid <= 0) return make_uint4(0, 0, 0, 0);
        return tdm_load16<2>((const char *)(p.b + col * p.b_stride + k), valid, p.b_vector);
    }
    __device__ __forceinline__ void prepare(int unit, int fragment)
    {
        part = part_of(g, unit / g.row_tiles, true);
        const tdm_thin_part &p = g.part[part];
        const int lane = threadIdx.x % 32, col = first_col(p, unit) + lane / 4, row = first_row(unit) + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < S::SHARE; i++, fragment += WARPS) {
            auto &f = mine[i];
            f.n = fragment < S::MT * S::NT ? col + fragment / S::NT * 16 : (int)p.cols;
            f.t = row + fragment % S::NT * 8;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int n = f.n + j * 8;
                const bool in = n < p.cols;
                const float ws = in ? w_scale(p.ws, p.ws_stride, g.scheme, n) : 1.0f;
                f.bias[j] = in && p.bias ? tdm_bf16(__ldg(p.bias + n)) : 0.0f;
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    if constexpr (!S::BLOCK) f.scale[2 * j + e] = __fmul_rn(x_scale(f.t + e, 0), ws);
                    f.before[2 * j + e] = 0.0f;
                    if (p.accumulate && in && f.t + e < g.rows) f.before[2 * j + e] = ((const float *)p.y)[(f.t + e) * p.y_stride + n];
                }
            }
        }
        if (p.rank && (int)threadIdx.x / 32 < S::MT * S::NT) adapter();
    }
    __device__ __forceinline__ void wait_for_h()
    {
        if (h_there) return;
        if (threadIdx.x % 32 == 0)
            while (load_acquire(g.counters) < (unsigned)g.a_blocks) {}
        __syncwarp();
        h_there = true;
    }
    // second = h B^T of the fragments, in the order of gemm_nt's second product.
    __device__ __forceinline__ void adapter()
    {
        const tdm_thin_part &p = g.part[part];
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < S::SHARE; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) mine[i].second[e] = 0.0f;
#pragma unroll 1
        for (int k0 = 0; k0 < p.rank; k0 += CHUNK) {
            uint4 b[S::SHARE][2][2]; // [half][rows n, n + 8]: asked for before h is waited for
#pragma unroll
            for (int i = 0; i < S::SHARE; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) b[i][j / 2][j % 2] = load_b(mine[i].n + j % 2 * 8, k0 + lane % 4 * 16 + j / 2 * 8);
            wait_for_h();
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int i = 0; i < S::SHARE; i++) {
                    const int t = mine[i].t - lane % 4 * 2 + lane / 4, k = k0 + lane % 4 * 16 + half * 8;
                    const uint4 h = load_h(p.h + t * p.h_stride + k, t < g.rows ? p.rank - k : 0), top = b[i][half][0], bottom = b[i][half][1];
                    const uint32_t low[4] = {top.x, bottom.x, top.y, bottom.y}, high[4] = {top.z, bottom.z, top.w, bottom.w};
                    tdm_mma<false>(mine[i].second, low, h.x, h.y);
                    tdm_mma<false>(mine[i].second, high, h.z, h.w);
                }
        }
    }
    __device__ __forceinline__ void finish(int i, float4 sum)
    {
        const tdm_thin_part &p = g.part[part];
        const auto &f = mine[i];
        float v[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int col = f.n + e / 2 * 8, row = f.t + e % 2;
            if constexpr (!S::BLOCK) v[e] = __fmul_rn(v[e], f.scale[e]);
            if (p.bias) v[e] = __fadd_rn(v[e], f.bias[e / 2]);
            if (p.rank) v[e] = __fadd_rn(v[e], __fmul_rn(f.second[e], p.alpha));
            if (col >= p.cols || row >= g.rows) continue;
            if (!p.y_f32) ((uint16_t *)p.y)[row * p.y_stride + col] = tdm_to_bf16(v[e]);
            else ((float *)p.y)[row * p.y_stride + col] = p.accumulate ? __fadd_rn(f.before[e], v[e]) : v[e];
        }
    }
};
#endif // from sm_90 on; never launched elsewhere

template <class M, class A> static __global__ void __launch_bounds__(THREADS, 1) thin_kernel(const __grid_constant__ tdm_thin g)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) char shared[];
    tdm_let_next_begin();
    const int block = (int)blockIdx.x, blocks = (int)gridDim.x, from_last = blocks - 1 - block;
    if (from_last < g.a_units) {
        adapter_job<A> job{g};
        run_units<A>(job, g, shared, from_last, blocks, g.a_units);
        tdm_cp_wait<0>();
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(g.counters, 1u);
        }
    }
    weight_job<M> job{g};
    job.h_there = false;
    run_units<M>(job, g, shared, block, blocks, g.units);
    // The last block to be through leaves the counters as they were found.
    if (g.a_units && threadIdx.x == 0 && atomicAdd(g.counters + 1, 1u) == (unsigned)blocks - 1) {
        atomicExch(g.counters + 1, 0u);
        atomicExch(g.counters, 0u);
    }
#endif
}

// ---- Host --------------------------------------------------------------------------------------------------------------------

static int shared_of(const tdm_stream *s) { return s->path == TDM_CUDA_SM120 ? SHARED_CONSUMER : SHARED_SERVER; }

// What a block takes to read its share, by MT, in bytes of weights at full speed (x comes from the second-level cache, about twice as
// fast): MT is where this is least.
template <class S> static int64_t price_of(const tdm_stream *s, const tdm_thin &g)
{
    if (S::stages(shared_of(s)) < 2) return INT64_MAX;
    const int64_t row_tiles = tdm_ceil_div(g.rows, S::BT);
    int64_t units = 0;
    for (int i = 0; i < g.parts; i++) units += tdm_ceil_div(g.part[i].cols, S::BN) * row_tiles;
    return tdm_ceil_div(units, s->sms) * (2 * S::W_BYTES + S::X_BYTES);
}

template <class M> static tdm_status launch(tdm_stream *s, tdm_thin g, tdm_error *err)
{
    typedef shape<false, false, false, 1, M::NT == 1 ? 1 : 2> A;
    static const cudaError_t allowed = cudaFuncSetAttribute(thin_kernel<M, A>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_of(s));
    const tdm_status st = tdm_cuda_check(allowed, err, "shared memory of gemm_thin");
    if (st != TDM_OK) return st;
    g.tiles = (int)tdm_max_i64(tdm_ceil_div(g.depth, DEPTH), 1);
    tdm_gemm_nt_plan(g.depth, &g.slices, &g.slice_tiles);
    g.row_tiles = (int)tdm_ceil_div(g.rows, M::BT);
    g.a_row_tiles = (int)tdm_ceil_div(g.rows, A::BT);
    int panels = 0;
    g.a_rows = 0;
    for (int i = 0; i < g.parts; i++) {
        g.part[i].panel = panels;
        g.part[i].row = g.a_rows;
        panels += (int)tdm_ceil_div(g.part[i].cols, M::BN);
        g.a_rows += g.part[i].rank;
    }
    g.units = panels * g.row_tiles;
    g.a_units = (int)tdm_ceil_div(g.a_rows, A::BN) * g.a_row_tiles;
    g.a_blocks = (int)tdm_min_i64(g.a_units, tdm_min_i64(g.units + g.a_units, s->sms));
    g.counters = s->counters;
    const int shared = shared_of(s), own = M::PLANE + M::stages(shared) * WARPS * M::STAGE, adapter = A::PLANE + A::stages(shared) * WARPS * A::STAGE;
    const size_t bytes = (size_t)(g.a_blocks && adapter > own ? adapter : own);
    const cudaError_t code = tdm_cuda_launch(s, thin_kernel<M, A>, dim3((unsigned)tdm_min_i64(g.units + g.a_units, s->sms)), THREADS, bytes, g);
    if (code != cudaSuccess) return tdm_cuda_check(code, err, "gemm_thin");
    return tdm_cuda_launched(err, "gemm_thin", g.rows, g.part[0].cols);
}

template <bool XC, bool WC, bool BLOCK, int NT> static tdm_status by_columns(tdm_stream *s, const tdm_thin &g, tdm_error *err)
{
    // Registers: 48 columns by 64 rows are too many. Blocks of scales: 48 columns are no whole part of one, and there are second sums.
    constexpr bool TWO = !BLOCK || NT < 8, THREE = XC && !BLOCK && NT < 8;
    const int64_t one = price_of<shape<XC, WC, BLOCK, 1, NT>>(s, g);
    int64_t two = INT64_MAX;
    if constexpr (TWO) two = price_of<shape<XC, WC, BLOCK, 2, NT>>(s, g);
    if constexpr (THREE) {
        const int64_t three = price_of<shape<XC, WC, BLOCK, 3, NT>>(s, g);
        if (three < one && three < two) return launch<shape<XC, WC, BLOCK, 3, NT>>(s, g, err);
    }
    if constexpr (TWO) {
        if (two < one) return launch<shape<XC, WC, BLOCK, 2, NT>>(s, g, err);
    }
    return launch<shape<XC, WC, BLOCK, 1, NT>>(s, g, err);
}
template <bool XC, bool WC, bool BLOCK> static tdm_status by_rows(tdm_stream *s, const tdm_thin &g, tdm_error *err)
{
    if (g.rows <= 8) return by_columns<XC, WC, BLOCK, 1>(s, g, err);
    if (g.rows <= 16) return by_columns<XC, WC, BLOCK, 2>(s, g, err);
    if (g.rows > 32 && shape<XC, WC, BLOCK, 1, 8>::stages(shared_of(s)) >= 2) return by_columns<XC, WC, BLOCK, 8>(s, g, err);
    return by_columns<XC, WC, BLOCK, 4>(s, g, err);
}

tdm_status tdm_gemm_thin(tdm_stream *s, tdm_thin g, tdm_error *err)
{
    TDM_ASSERT(tdm_cuda_overlaps(s) && g.rows > 0 && g.depth > 0 && g.parts > 0 && g.parts <= TDM_THIN_PARTS);
    TDM_ASSERT(!(g.x_codes && !g.w_codes));
    const bool block = g.scheme == TDM_SCHEME_FP8_BLOCK;
    if (g.x_codes) return block ? by_rows<true, true, true>(s, g, err) : by_rows<true, true, false>(s, g, err);
    if (!g.w_codes) return by_rows<false, false, false>(s, g, err);
    return block ? by_rows<false, true, true>(s, g, err) : by_rows<false, true, false>(s, g, err);
}

// ---- Counters ----------------------------------------------------------------------------------------------------------------

// A stream's operations run one after the other, so one pair a stream is enough; they stand outside the workspace, as they must be 0
// when an operation begins.
enum { STREAMS_MOST = 64, PAIR = 32 };
static __device__ unsigned counters[STREAMS_MOST * PAIR];
static std::atomic<uint64_t> taken{0};

tdm_status tdm_thin_open(tdm_stream *s, tdm_error *err)
{
    void *base = NULL;
    const tdm_status st = TDM_CUDA(cudaGetSymbolAddress(&base, counters));
    if (st != TDM_OK) return st;
    uint64_t mask = taken.load();
    do {
        if (mask == ~0ull)
            return TDM_FAIL(err, TDM_ERR_OTHER, "device", "close some", "more than %d streams are open", (int)STREAMS_MOST);
        s->slot = __builtin_ctzll(~mask);
    } while (!taken.compare_exchange_weak(mask, mask | 1ull << s->slot));
    s->counters = (unsigned *)base + s->slot * PAIR;
    return TDM_OK;
}

void tdm_thin_close(tdm_stream *s)
{
    if (s->counters) taken &= ~(1ull << s->slot);
}
