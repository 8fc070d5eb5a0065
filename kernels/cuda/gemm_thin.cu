// y = X W^T of few rows: decode. Bound by reading the weights, so everything here serves to have reads under way: they begin before
// the kernel in front has ended, and go on while a panel is being finished.
//
// A cluster of blocks takes a panel of columns and up to 64 rows at a time; each of its blocks runs one slice of K (gemm_tile.cuh) and
// leaves the sums in its shared memory, in the order the instruction has them. Then every block adds the slices' sums of a share of the
// panel, in order, and finishes it.
//
// The first clusters make the adapters' h = bf16(x A^T) alike and count themselves ready; the others do their main product first and
// wait for h only to finish. Blocks wait for blocks of lower index alone, which the card places first, so they cannot wait forever.
#include <atomic>

#include "kernels/cuda/gemm_thin.cuh"
#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/launch.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, SHARED_MOST = 112 * 1024 }; // two blocks a multiprocessor

// PLANE: a block's sums of a panel. What it leaves of SHARED_MOST is the pipeline's.
template <bool XC, bool WC, bool BLOCK, int BN, int BT, int WARPS_N>
struct shape : config<XC, WC, BLOCK, BN, BT, WARPS_N, WARPS / WARPS_N, SHARED_MOST - BN * BT * 4> {
    typedef config<XC, WC, BLOCK, BN, BT, WARPS_N, WARPS / WARPS_N, SHARED_MOST - BN * BT * 4> base;
    static constexpr int PLANE = BN * BT * 4, BYTES = base::STAGES * base::STAGE + PLANE, FRAGMENTS = BN / 16 * BT / 8;
    static_assert(base::THREADS == THREADS && BYTES <= SHARED_MOST, "a block of its size");
};

// ---- Clusters ----------------------------------------------------------------------------------------------------------------

#if __CUDA_ARCH__ >= 900
TDM_DEVICE int cluster_blocks() { uint32_t n; asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(n)); return (int)n; }
TDM_DEVICE int cluster_rank() { uint32_t r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return (int)r; }
// What was written before arriving is seen after waiting, by all of the cluster.
TDM_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
TDM_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
TDM_DEVICE float4 load_from(uint32_t address, int rank) // address in shared memory, of block `rank`
{
    uint32_t there;
    float4 v;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(there) : "memory");
    return v;
}
#else // never launched there
TDM_DEVICE int cluster_blocks() { return 1; }
TDM_DEVICE int cluster_rank() { return 0; }
TDM_DEVICE void cluster_arrive() {}
TDM_DEVICE void cluster_wait() {}
TDM_DEVICE float4 load_from(uint32_t, int) { return make_float4(0, 0, 0, 0); }
#endif

// ---- A block's sums ----------------------------------------------------------------------------------------------------------

// The tiles of K this block runs.
struct slice_of {
    int begin, count;
};
TDM_DEVICE slice_of my_slice(const tdm_thin &g)
{
    const int begin = cluster_rank() * g.slice_tiles;
    return {begin, max(0, min(g.slice_tiles, g.tiles - begin))};
}

template <class S> TDM_DEVICE void leave_sums(float4 *plane, const float (&v)[S::MT][S::NT][4])
{
    float4 *at = plane + (threadIdx.x / 32 * S::MT * S::NT) * 32 + threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < S::MT; m++)
#pragma unroll
        for (int n = 0; n < S::NT; n++) at[(m * S::NT + n) * 32] = make_float4(v[m][n][0], v[m][n][1], v[m][n][2], v[m][n][3]);
}
// A fragment of 16 columns by 8 rows: where it stands in its panel.
template <class S> TDM_DEVICE int fragment_col(int f)
{
    return f / (S::MT * S::NT) % S::WARPS_N * S::MT * 16 + f / S::NT % S::MT * 16;
}
template <class S> TDM_DEVICE int fragment_row(int f) { return f / (S::MT * S::NT) / S::WARPS_N * S::NT * 8 + f % S::NT * 8; }
TDM_DEVICE float4 sum_slices(const float4 *plane, int f, int slices)
{
    const uint32_t at = tdm_smem(plane + f * 32 + threadIdx.x % 32);
    float4 sum = make_float4(NOTHING, NOTHING, NOTHING, NOTHING);
#pragma unroll 1
    for (int first = 0; first < slices; first += 4) {
        float4 part[4];
#pragma unroll
        for (int z = 0; z < 4; z++)
            if (first + z < slices) part[z] = load_from(at, first + z);
#pragma unroll
        for (int z = 0; z < 4; z++)
            if (first + z < slices) {
                sum.x = __fadd_rn(sum.x, part[z].x);
                sum.y = __fadd_rn(sum.y, part[z].y);
                sum.z = __fadd_rn(sum.z, part[z].z);
                sum.w = __fadd_rn(sum.w, part[z].w);
            }
    }
    return sum;
}

// Runs this block's slice of units first, first + stride, ...: the pipeline does not stop in between. The job says what is multiplied
// (load_w, which may run before the previous kernel has ended, and load_x) and what becomes of a fragment (prepare before its sum is
// there, finish after).
template <class S, class J> TDM_DEVICE void run_units(J &job, const tdm_thin &g, char *shared, int first, int stride, int units)
{
    float4 *plane = (float4 *)(shared + S::STAGES * S::STAGE);
    const int warp = threadIdx.x / 32, blocks = cluster_blocks(), rank = cluster_rank();
    const int row_n = (S::WARPS_T == 1 ? warp : warp % S::WARPS_N) * S::MT * 16, row_t = S::WARPS_T == 1 ? 0 : warp / S::WARPS_N * S::NT * 8;
    const slice_of mine = my_slice(g);
    const int rounds = (units - first + stride - 1) / stride, all = rounds * mine.count;
    const auto stage_of = [&](int i) { return shared + i % S::STAGES * S::STAGE; };
    const auto load_w = [&](int i) {
        job.load_w(stage_of(i), first + i / mine.count * stride, (mine.begin + i % mine.count) * DEPTH);
    };
    const auto load_x = [&](int i) {
        job.load_x(stage_of(i) + S::W_BYTES, first + i / mine.count * stride, (mine.begin + i % mine.count) * DEPTH);
    };
#pragma unroll 1
    for (int i = 0; i < S::STAGES - 1; i++)
        if (i < all) load_w(i);
    tdm_wait_for_previous();
#pragma unroll 1
    for (int i = 0; i < S::STAGES - 1; i++) {
        if (i < all) load_x(i);
        tdm_cp_commit();
    }
    int i = 0;
#pragma unroll 1
    for (int u = first; u < units; u += stride) {
        float acc[S::MT][S::NT][4], slice[S::MT][S::NT][4];
        fill<S>(acc, 0.0f);
        if constexpr (S::BLOCK) fill<S>(slice, NOTHING);
#pragma unroll 1
        for (int tile = mine.begin; tile < mine.begin + mine.count; tile++, i++) {
            float ws = 1.0f, xs[S::NT][2];
            if constexpr (S::BLOCK) job.block_scales(ws, xs, u, row_t, tile); // asked for early, needed after the product
            tdm_cp_wait<S::STAGES - 2>();
            __syncthreads();
            if (i + S::STAGES - 1 < all) {
                load_w(i + S::STAGES - 1);
                load_x(i + S::STAGES - 1);
            }
            tdm_cp_commit();
            const char *stage = stage_of(i);
#pragma unroll 1
            for (int chunk = 0; chunk < 2; chunk++) multiply<S, S::XC, S::WC>(acc, stage + S::W_BYTES, stage, chunk, row_n, row_t);
            if constexpr (S::BLOCK) {
#pragma unroll
                for (int m = 0; m < S::MT; m++)
#pragma unroll
                    for (int n = 0; n < S::NT; n++)
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            slice[m][n][e] = __fadd_rn(slice[m][n][e], __fmul_rn(acc[m][n][e], __fmul_rn(xs[n][e % 2], ws)));
                fill<S>(acc, 0.0f);
            }
        }
        int f = warp * blocks + rank;
        if (u > first) cluster_wait(); // the sums of the unit before have been read
        if constexpr (S::BLOCK) leave_sums<S>(plane, slice);
        else leave_sums<S>(plane, acc);
        cluster_arrive();
        if (f < S::FRAGMENTS) job.prepare(u, fragment_col<S>(f), fragment_row<S>(f));
        cluster_wait();
#pragma unroll 1
        while (f < S::FRAGMENTS) {
            job.finish(sum_slices(plane, f, g.slices));
            f += WARPS * blocks;
            if (f < S::FRAGMENTS) job.prepare(u, fragment_col<S>(f), fragment_row<S>(f));
        }
        cluster_arrive();
    }
    cluster_wait(); // no block ends while its sums are read
}

// ---- h -----------------------------------------------------------------------------------------------------------------------

// The part whose rows of A (or panels of columns) number `i` belongs to.
TDM_DEVICE const tdm_thin_part &part_of(const tdm_thin &g, int i, bool by_panel)
{
    int p = 0;
#pragma unroll
    for (int q = 1; q < TDM_THIN_PARTS; q++)
        if (q < g.parts && i >= (by_panel ? g.part[q].panel : g.part[q].row)) p = q;
    return g.part[p];
}

// A unit: up to BN rows of all A's, up to BT rows of x.
template <class S> struct adapter_job {
    const tdm_thin &g;
    int row, t;

    __device__ __forceinline__ void load_w(char *to, int unit, int k0) const
    {
        const int first = unit / g.row_tiles * S::BN;
        const auto from = [&](int i) -> const char * {
            if (first + i >= g.a_rows) return NULL;
            const tdm_thin_part &p = part_of(g, first + i, false);
            return (const char *)(p.a + (first + i - p.row) * p.a_stride);
        };
        load_rows<false, S::BN, 2, THREADS>(to, from, g.xa, g.a_vector, k0, (int)g.depth);
    }
    __device__ __forceinline__ void load_x(char *to, int unit, int k0) const
    {
        load_tile<false, S::BT, 2, THREADS>(to, g.xa, g.xa_stride, g.xa_vector, (int64_t)(unit % g.row_tiles) * S::BT, g.rows, k0, g.depth);
    }
    __device__ __forceinline__ void prepare(int unit, int col, int first_row)
    {
        row = unit / g.row_tiles * S::BN + col + threadIdx.x % 32 / 4;
        t = unit % g.row_tiles * S::BT + first_row + threadIdx.x % 4 * 2;
    }
    __device__ __forceinline__ void finish(float4 sum) const
    {
        const float v[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = row + e / 2 * 8;
            if (r >= g.a_rows || t + e % 2 >= g.rows) continue;
            const tdm_thin_part &p = part_of(g, r, false);
            p.h[(t + e % 2) * p.h_stride + r - p.row] = tdm_to_bf16(v[e]);
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

// A unit: a panel of a part's columns, up to BT rows.
template <class S> struct weight_job {
    const tdm_thin &g;
    // of the fragment at hand
    const tdm_thin_part *p;
    int n, t, t_h; // this lane's first column and row; the row of h it reads
    float scale[4], bias[2], before[4];

    __device__ __forceinline__ int first_row(int unit) const { return unit % g.row_tiles * S::BT; }
    __device__ __forceinline__ void load_w(char *to, int unit, int k0) const
    {
        const int panel = unit / g.row_tiles;
        const tdm_thin_part &q = part_of(g, panel, true);
        load_tile<S::WC, S::BN, 2, THREADS>(to, q.w, q.w_stride, q.w_vector, (int64_t)(panel - q.panel) * S::BN, q.cols, k0, g.depth);
    }
    __device__ __forceinline__ void load_x(char *to, int unit, int k0) const
    {
        load_tile<S::XC, S::BT, 2, THREADS>(to, g.x, g.x_stride, g.x_vector, first_row(unit), g.rows, k0, g.depth);
    }
    __device__ __forceinline__ float x_scale(int row, int block) const
    {
        if (!g.xs) return g.x_scale;
        return row < g.rows ? g.xs[row * g.xs_stride + block] : 0.0f;
    }
    // A tile's weights lie in one block.
    __device__ __forceinline__ void block_scales(float &ws, float (&xs)[S::NT][2], int unit, int row_t, int tile) const
    {
        const int panel = unit / g.row_tiles;
        const tdm_thin_part &q = part_of(g, panel, true);
        ws = __ldg(q.ws + (int64_t)(panel - q.panel) * S::BN / TDM_FP8_BLOCK * q.ws_stride + tile);
#pragma unroll
        for (int i = 0; i < S::NT; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) xs[i][e] = x_scale(first_row(unit) + row_t + i * 8 + threadIdx.x % 4 * 2 + e, tile);
    }

    __device__ __forceinline__ uint4 load_b(int col, int k) const
    {
        const int valid = col < p->cols ? p->rank - k : 0;
        if (valid <= 0) return make_uint4(0, 0, 0, 0);
        return tdm_load16<2>((const char *)(p->b + col * p->b_stride + k), valid, p->b_vector);
    }
    __device__ __forceinline__ void prepare(int unit, int col, int row)
    {
        const int panel = unit / g.row_tiles, lane = threadIdx.x % 32;
        p = &part_of(g, panel, true);
        n = (panel - p->panel) * S::BN + col + lane / 4;
        t = first_row(unit) + row + lane % 4 * 2;
        t_h = first_row(unit) + row + lane / 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const bool in = n + i * 8 < p->cols;
            const float ws = in ? w_scale(p->ws, p->ws_stride, g.scheme, n + i * 8) : 1.0f;
            bias[i] = in && p->bias ? tdm_bf16(__ldg(p->bias + n + i * 8)) : 0.0f;
#pragma unroll
            for (int e = 0; e < 2; e++) {
                if constexpr (!S::BLOCK) scale[2 * i + e] = __fmul_rn(x_scale(t + e, 0), ws);
                before[2 * i + e] = 0.0f;
                if (p->accumulate && in && t + e < g.rows) before[2 * i + e] = ((const float *)p->y)[(t + e) * p->y_stride + n + i * 8];
            }
        }
    }
    // second = h B^T of the fragment, in the order of gemm_nt's second product.
    __device__ __forceinline__ void adapter(float (&second)[4])
    {
        const int lane = threadIdx.x % 32;
        if (lane == 0)
            while (load_acquire(g.counters) < (unsigned)g.a_clusters) {} // h is there
        __syncwarp();
#pragma unroll
        for (int e = 0; e < 4; e++) second[e] = 0.0f;
#pragma unroll 1
        for (int k0 = 0; k0 < p->rank; k0 += CHUNK)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int k = k0 + lane % 4 * 16 + half * 8;
                const uint4 top = load_b(n, k), bottom = load_b(n + 8, k);
                const uint4 h = load_h(p->h + t_h * p->h_stride + k, t_h < g.rows ? p->rank - k : 0);
                const uint32_t low[4] = {top.x, bottom.x, top.y, bottom.y}, high[4] = {top.z, bottom.z, top.w, bottom.w};
                tdm_mma<false>(second, low, h.x, h.y);
                tdm_mma<false>(second, high, h.z, h.w);
            }
    }
    __device__ __forceinline__ void finish(float4 sum)
    {
        float v[4] = {sum.x, sum.y, sum.z, sum.w}, second[4];
        if (p->rank) adapter(second);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int col = n + e / 2 * 8, row = t + e % 2;
            if constexpr (!S::BLOCK) v[e] = __fmul_rn(v[e], scale[e]);
            if (p->bias) v[e] = __fadd_rn(v[e], bias[e / 2]);
            if (p->rank) v[e] = __fadd_rn(v[e], __fmul_rn(second[e], p->alpha));
            if (col >= p->cols || row >= g.rows) continue;
            if (!p->y_f32) ((uint16_t *)p->y)[row * p->y_stride + col] = tdm_to_bf16(v[e]);
            else ((float *)p->y)[row * p->y_stride + col] = p->accumulate ? __fadd_rn(before[e], v[e]) : v[e];
        }
    }
};

template <class M, class A> static __global__ void __launch_bounds__(THREADS, 2) thin_kernel(const __grid_constant__ tdm_thin g)
{
    extern __shared__ __align__(128) char shared[];
    const int blocks = cluster_blocks(), cluster = (int)blockIdx.x / blocks;
    tdm_let_next_begin();
    if (cluster < g.a_clusters) {
        adapter_job<A> job = {g};
        run_units<A>(job, g, shared, cluster, g.a_clusters, g.a_clusters); // one unit
        if (blockIdx.x % blocks == 0 && threadIdx.x == 0) {
            __threadfence();
            atomicAdd(g.counters, 1u);
        }
        return;
    }
    weight_job<M> job = {g};
    run_units<M>(job, g, shared, cluster - g.a_clusters, g.clusters, g.units);
    // The last block to be through leaves the counters as they were found.
    if (g.a_clusters && threadIdx.x == 0 && atomicAdd(g.counters + 1, 1u) == (unsigned)(g.clusters * blocks) - 1) {
        atomicExch(g.counters + 1, 0u);
        atomicExch(g.counters, 0u);
    }
}

// ---- Host --------------------------------------------------------------------------------------------------------------------

static void count_units(tdm_thin *g, int columns, int rows, int a_rows)
{
    g->tiles = (int)tdm_max_i64(tdm_ceil_div(g->depth, DEPTH), 1);
    tdm_gemm_nt_plan(g->depth, &g->slices, &g->slice_tiles);
    g->row_tiles = (int)tdm_ceil_div(g->rows, rows);
    g->panels = g->a_rows = 0;
    for (int i = 0; i < g->parts; i++) {
        g->part[i].panel = g->panels;
        g->part[i].row = g->a_rows;
        g->panels += (int)tdm_ceil_div(g->part[i].cols, columns);
        g->a_rows += g->part[i].rank;
    }
    g->units = g->panels * g->row_tiles;
    g->a_clusters = (int)tdm_ceil_div(g->a_rows, a_rows) * g->row_tiles;
}

// Clusters of each size (1, 2, 4, 8 blocks) that the card holds at once.
struct room {
    cudaError_t code;
    int clusters[4];
};
template <class K> static room room_of(K kernel, int bytes)
{
    room r = {cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), {}};
    for (int i = 0; i < 4 && r.code == cudaSuccess; i++) {
        cudaLaunchAttribute cluster = {};
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = 1u << i;
        cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(64u << i);
        config.blockDim = dim3(THREADS);
        config.dynamicSmemBytes = (size_t)bytes;
        config.attrs = &cluster;
        config.numAttrs = 1;
        r.code = cudaOccupancyMaxActiveClusters(&r.clusters[i], kernel, &config);
    }
    return r;
}

template <class M> static tdm_status launch(tdm_stream *s, tdm_thin g, tdm_error *err)
{
    constexpr int A_ROWS = M::BT < 16 ? 16 : M::BT;
    typedef shape<false, false, false, 64, A_ROWS, 4> A;
    constexpr int BYTES = M::BYTES > A::BYTES ? M::BYTES : A::BYTES;
    static const room have = room_of(thin_kernel<M, A>, BYTES);
    const tdm_status st = tdm_cuda_check(have.code, err, "clusters of gemm_thin");
    if (st != TDM_OK) return st;
    count_units(&g, M::BN, M::BT, A::BN);
    int size = 0;
    while (1 << size < g.slices) size++;
    // Rounds of equal length: as many clusters as the card holds, or fewer where the last round would be short.
    const int64_t most = tdm_max_i64(have.clusters[size] - g.a_clusters, 1), rounds = tdm_ceil_div(g.units, most);
    g.clusters = (int)tdm_ceil_div(g.units, rounds);
    g.counters = s->counters;
    const unsigned blocks = (unsigned)(g.a_clusters + g.clusters) << size;
    const cudaError_t code = tdm_cuda_launch(s, thin_kernel<M, A>, dim3(blocks), THREADS, BYTES, 1u << size, g);
    if (code != cudaSuccess) return tdm_cuda_check(code, err, "gemm_thin");
    return tdm_cuda_launched(err, "gemm_thin", g.rows, g.part[0].cols);
}

// One of the two operands at least is wide where bf16 is in play: half the columns then.
template <bool WC, bool BLOCK> static tdm_status by_rows_bf16(tdm_stream *s, const tdm_thin &g, tdm_error *err)
{
    if (g.rows <= 16) return launch<shape<false, WC, BLOCK, 64, 16, 4>>(s, g, err);
    if constexpr (!BLOCK) {
        if (g.rows > 32) return launch<shape<false, WC, false, 64, 64, 4>>(s, g, err);
    }
    return launch<shape<false, WC, BLOCK, 64, 32, 4>>(s, g, err);
}
template <bool BLOCK> static tdm_status by_rows(tdm_stream *s, const tdm_thin &g, tdm_error *err)
{
    if (g.rows <= 8) return launch<shape<true, true, BLOCK, 128, 8, 8>>(s, g, err);
    if (g.rows <= 16) return launch<shape<true, true, BLOCK, 128, 16, 8>>(s, g, err);
    if constexpr (!BLOCK) { // whose second sums take the registers
        if (g.rows > 32) return launch<shape<true, true, false, 128, 64, 8>>(s, g, err);
    }
    return launch<shape<true, true, BLOCK, 128, 32, 8>>(s, g, err);
}

tdm_status tdm_gemm_thin(tdm_stream *s, tdm_thin g, tdm_error *err)
{
    TDM_ASSERT(tdm_cuda_overlaps(s) && g.rows > 0 && g.depth > 0 && g.parts > 0 && g.parts <= TDM_THIN_PARTS);
    TDM_ASSERT(!(g.x_codes && !g.w_codes));
    const bool block = g.scheme == TDM_SCHEME_FP8_BLOCK;
    if (g.x_codes) return block ? by_rows<true>(s, g, err) : by_rows<false>(s, g, err);
    if (!g.w_codes) return by_rows_bf16<false, false>(s, g, err);
    return block ? by_rows_bf16<true, true>(s, g, err) : by_rows_bf16<true, false>(s, g, err);
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
