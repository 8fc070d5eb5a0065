// attention_backward, without atomics: every sum runs in an order fixed by the sequence alone. With P = exp(scale S - lse) and
// D = rowsum(dO o):
//   dV = P^T dO     dS = P (dO V^T - D)     dQ = scale dS K     dK = scale dS^T Q
// First dO is rounded to bf16 and D taken from the rounded (so that the rows of dS still sum to zero). Then one kernel takes 64 keys of
// a KV head through the queries that see them, head after head of the group and tile after tile; another takes 64 queries of a head
// through their keys. P and dS are rounded to bf16 once, sums are f32. Source: Dao 2023, arXiv:2307.08691, algorithm 2.
#include "kernels/cuda/attention.cuh"

enum { THREADS = 128, QUERIES = 32 /* of a step of the first kernel */, PREPARE_WARPS = 4 };

struct backward_args {
    kv_layout kv;
    attention_batch batch;
    uint16_t *dq, *dk, *dv;
    const uint16_t *q, *o;
    const float *do_, *lse;
    int64_t dq_stride, dk_stride, dv_stride, q_stride, o_stride, do_stride, lse_stride, tokens;
    uint16_t *do16; // [T, H * Dh]
    float2 *row;    // [H, T] lse in units of log2, and D
    int heads, group, window;
    float scale, factor, v_scale, dq_scale; // factor: scale * k_scale * log2(e)
};

// A warp takes one head of one token.
__global__ void __launch_bounds__(PREPARE_WARPS * 32) prepare_kernel(const backward_args a)
{
    const int64_t item = (int64_t)blockIdx.x * PREPARE_WARPS + threadIdx.x / 32;
    if (item >= a.tokens * a.heads) return;
    const int lane = (int)threadIdx.x & 31, head = (int)(item % a.heads), dh = a.kv.head_dim;
    const int64_t t = item / a.heads;
    const float *do_ = a.do_ + t * a.do_stride + (int64_t)head * dh;
    const uint16_t *o = a.o + t * a.o_stride + (int64_t)head * dh;
    uint16_t *do16 = a.do16 + item * dh;
    float sum = 0.0f;
    for (int c = lane * 2; c < dh; c += 64) {
        const float2 f = *(const float2 *)(do_ + c);
        const uint32_t rounded = pack_bf16(f.x, f.y), out = *(const uint32_t *)(o + c);
        *(uint32_t *)(do16 + c) = rounded;
        sum = fmaf(tdm_bf16((uint16_t)rounded), tdm_bf16((uint16_t)out), sum);
        sum = fmaf(tdm_bf16((uint16_t)(rounded >> 16)), tdm_bf16((uint16_t)(out >> 16)), sum);
    }
    sum = tdm_warp_sum(sum);
    if (lane == 0) a.row[head * a.tokens + t] = make_float2(a.lse[t * a.lse_stride + head] * ATTN_LOG2E, sum);
}

// Query i sees key j.
TDM_DEVICE bool sees(int i, int j, int window) { return j <= i && (window == 0 || i - j < window); }

// A score and dO V^T to P and dS; neither where the key is not seen.
TDM_DEVICE void backward_cell(float &s, float &dp, bool seen, float2 row, float factor, float v_scale)
{
    const float p = seen ? exp2_of(fmaf(s, factor, -row.x)) : 0.0f;
    dp = seen ? p * fmaf(dp, v_scale, -row.y) : 0.0f;
    s = p;
}

// ---- dK, dV -------------------------------------------------------------------------------------------------------------------------

template <int DHP> struct keys_shape {
    static constexpr int STAGES = DHP <= 128 ? 2 : 1, OUT = DHP <= 128 ? DHP : 64, PARTS = DHP / OUT; // columns of dK, dV a block makes
    static constexpr int TILE = tile_shape<DHP>::BYTES, STEP = QUERIES * tile_shape<DHP>::ROW * 2;
    static constexpr bool ROWS = STAGES == 2; // (lse, D) of a step's queries come through shared memory too
    static constexpr int BYTES = 2 * TILE + STAGES * 2 * STEP + (ROWS ? STAGES * QUERIES * 8 : 0);
};

template <int DHP, bool FP8> __global__ void __launch_bounds__(THREADS) keys_kernel(const backward_args a)
{
    typedef keys_shape<DHP> shape;
    constexpr int N = shape::OUT / 8;
    extern __shared__ __align__(16) char shared[];
    const int b = (int)blockIdx.z, g = (int)blockIdx.y / shape::PARTS, column = (int)blockIdx.y % shape::PARTS * shape::OUT;
    const int start = a.batch.q_start[b], n = a.batch.q_start[b + 1] - start, j0 = (int)blockIdx.x * ATTN_TILE, dh = a.kv.head_dim;
    if (j0 >= n) return;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x / 32;
    uint16_t *keys = (uint16_t *)shared, *values = (uint16_t *)(shared + shape::TILE);
    const char *page = kv_head(a.kv, a.batch.pages[b * a.batch.pages_stride + blockIdx.x], g);
    if (FP8) {
        tile_widen<DHP, THREADS>(keys, page, a.kv.row_bytes, a.kv.row_bytes, n - j0);
        tile_widen<DHP, THREADS>(values, page + a.kv.values_at, a.kv.row_bytes, a.kv.row_bytes, n - j0);
    } else {
        tile_copy<DHP, ATTN_TILE, THREADS>(keys, page, a.kv.row_bytes, n - j0, dh);
        tile_copy<DHP, ATTN_TILE, THREADS>(values, page + a.kv.values_at, a.kv.row_bytes, n - j0, dh);
    }
    // Steps: the heads of the group one after the other, each over queries [first, last) in steps of QUERIES.
    const int last = a.window > 0 ? (int)min((int64_t)n, (int64_t)j0 + ATTN_TILE - 1 + a.window) : n;
    const int each = (last - j0 + QUERIES - 1) / QUERIES, steps = each * a.group;
    const auto tile_at = [&](int stage, int which) { return (uint16_t *)(shared + 2 * shape::TILE + (stage * 2 + which) * shape::STEP); };
    const auto row_at = [&](int stage) { return (float2 *)(shared + 2 * shape::TILE + shape::STAGES * 2 * shape::STEP) + stage * QUERIES; };
    const auto fetch = [&](int step, int stage) {
        const int head = g * a.group + step / each, i0 = j0 + step % each * QUERIES;
        const int64_t t = start + i0;
        tile_copy<DHP, QUERIES, THREADS>(tile_at(stage, 0), (const char *)(a.q + t * a.q_stride + (int64_t)head * dh), a.q_stride * 2, n - i0, dh);
        tile_copy<DHP, QUERIES, THREADS>(tile_at(stage, 1), (const char *)(a.do16 + (t * a.heads + head) * dh), (int64_t)a.heads * dh * 2, n - i0, dh);
        if (shape::ROWS && threadIdx.x < QUERIES) {
            const bool in = i0 + (int)threadIdx.x < n;
            copy_async_8(row_at(stage) + threadIdx.x, a.row + head * a.tokens + t + (in ? threadIdx.x : 0), in);
        }
        copy_commit();
    };

    float dk[N][4] = {}, dv[N][4] = {};
    const int j = j0 + warp * 16 + lane / 4; // this lane's keys: j and j + 8
    int stage = 0;
    fetch(0, 0);
    for (int step = 0; step < steps; step++) {
        const int head = g * a.group + step / each, i0 = j0 + step % each * QUERIES;
        copy_wait();
        __syncthreads(); // the step's tiles are there, and everyone is done with those before
        if (shape::STAGES == 2 && step + 1 < steps) fetch(step + 1, stage ^ 1);
        const uint16_t *q = tile_at(stage, 0), *do16 = tile_at(stage, 1);
        if (i0 + QUERIES > j0 + warp * 16) { // else all its queries stand before the warp's keys
            float s[4][4], dp[4][4];
            uint32_t left[2][4];
            const auto row_of = [&](int c, int e) {
                const int at = c * 8 + (lane & 3) * 2 + e;
                if (shape::ROWS) return row_at(stage)[at];
                return i0 + at < n ? a.row[head * a.tokens + start + i0 + at] : make_float2(0.0f, 0.0f);
            };
            product_tiles<DHP, 4>(s, keys + warp * 16 * tile_shape<DHP>::ROW, q);
#pragma unroll
            for (int c = 0; c < 4; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int i = i0 + c * 8 + (lane & 3) * 2 + e % 2;
                    s[c][e] = i < n && sees(i, j + e / 2 * 8, a.window) ? exp2_of(fmaf(s[c][e], a.factor, -row_of(c, e % 2).x)) : 0.0f;
                }
            pack_rows<4>(left, s);
            product_columns<DHP, N, 1>(dv, left, do16 + column);
            __syncwarp(); // keeps the two halves apart: mixed, they need more registers than there are
            product_tiles<DHP, 4>(dp, values + warp * 16 * tile_shape<DHP>::ROW, do16);
#pragma unroll
            for (int c = 0; c < 4; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) dp[c][e] = s[c][e] * fmaf(dp[c][e], a.v_scale, -row_of(c, e % 2).y);
            pack_rows<4>(left, dp);
            product_columns<DHP, N, 1>(dk, left, q + column);
        }
        if (shape::STAGES == 1) {
            __syncthreads();
            if (step + 1 < steps) fetch(step + 1, 0);
        } else {
            stage ^= 1;
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (j + r * 8 >= n) continue;
        const int64_t t = start + j + r * 8;
        uint16_t *out_k = a.dk + t * a.dk_stride + (int64_t)g * dh, *out_v = a.dv + t * a.dv_stride + (int64_t)g * dh;
#pragma unroll
        for (int c = 0; c < N; c++) {
            const int col = column + c * 8 + (lane & 3) * 2;
            if (col >= dh) continue;
            *(uint32_t *)(out_k + col) = pack_bf16(dk[c][2 * r] * a.scale, dk[c][2 * r + 1] * a.scale);
            *(uint32_t *)(out_v + col) = pack_bf16(dv[c][2 * r], dv[c][2 * r + 1]);
        }
    }
}

// ---- dQ -----------------------------------------------------------------------------------------------------------------------------

template <int DHP, bool FP8> struct queries_shape {
    static constexpr int OUT = DHP <= 128 ? DHP : 128, PARTS = DHP / OUT; // columns of dQ a block makes
    typedef kv_walk<DHP, FP8, DHP <= 128 ? 2 : 1, THREADS> walk;
};

template <int DHP, bool FP8> __global__ void __launch_bounds__(THREADS) queries_kernel(const backward_args a)
{
    typedef queries_shape<DHP, FP8> shape;
    constexpr int N = shape::OUT / 8;
    extern __shared__ __align__(16) char shared[];
    const int b = (int)blockIdx.z, head = (int)blockIdx.y / shape::PARTS, column = (int)blockIdx.y % shape::PARTS * shape::OUT;
    const int start = a.batch.q_start[b], n = a.batch.q_start[b + 1] - start, dh = a.kv.head_dim;
    const int i0 = (int)(gridDim.x - 1 - blockIdx.x) * ATTN_TILE; // the longest first
    if (i0 >= n) return;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x / 32, i = i0 + warp * 16 + lane / 4; // this lane's queries: i and i + 8
    const uint16_t *q[2], *do16[2];
    float2 row[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int64_t t = start + i + r * 8;
        const bool in = i + r * 8 < n;
        q[r] = in ? a.q + t * a.q_stride + (int64_t)head * dh : NULL;
        do16[r] = in ? a.do16 + (t * a.heads + head) * dh : NULL;
        row[r] = in ? a.row[head * a.tokens + t] : make_float2(0.0f, 0.0f);
    }
    row_pieces<DHP> query, gradient;
    query.open(q[0], q[1], dh);
    gradient.open(do16[0], do16[1], dh);
    float dq[N][4] = {};
    typename shape::walk walk;
    walk.shared = shared;
    walk.kv = a.kv;
    walk.pages = a.batch.pages + b * a.batch.pages_stride;
    walk.head = head / a.group;
    walk.kv_len = n;
    walk.run(first_key(i0, a.window) / ATTN_TILE, (min(i0 + ATTN_TILE, n) - 1) / ATTN_TILE + 1, [&](int tile, const uint16_t *keys, const uint16_t *values) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int base = tile * ATTN_TILE + half * 32, at = half * 32 * tile_shape<DHP>::ROW;
            if (base > i0 + warp * 16 + 15) continue; // all its keys stand after the warp's queries
            float s[4][4], dp[4][4];
            uint32_t left[2][4];
            product_rows<DHP, 4>(s, query, keys + at);
            product_rows<DHP, 4>(dp, gradient, values + at);
#pragma unroll
            for (int c = 0; c < 4; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int j = base + c * 8 + (lane & 3) * 2 + e % 2, mine = i + e / 2 * 8;
                    backward_cell(s[c][e], dp[c][e], mine < n && sees(mine, j, a.window), row[e / 2], a.factor, a.v_scale);
                }
            pack_rows<4>(left, dp);
            product_columns<DHP, N, 1>(dq, left, keys + at + column);
        }
    });
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (i + r * 8 >= n) continue;
        uint16_t *out = a.dq + (start + i + r * 8) * a.dq_stride + (int64_t)head * dh;
#pragma unroll
        for (int c = 0; c < N; c++) {
            const int col = column + c * 8 + (lane & 3) * 2;
            if (col < dh) *(uint32_t *)(out + col) = pack_bf16(dq[c][2 * r] * a.dq_scale, dq[c][2 * r + 1] * a.dq_scale);
        }
    }
}

// ---- Launches -----------------------------------------------------------------------------------------------------------------------

template <int DHP, bool FP8>
static tdm_status backward_launch(tdm_stream *s, const tdm_attention_backward *a, const backward_args *args, tdm_error *err)
{
    const tdm_batch *batch = a->batch;
    const auto keys = keys_kernel<DHP, FP8>;
    const auto queries = queries_kernel<DHP, FP8>;
    const int keys_bytes = keys_shape<DHP>::BYTES, queries_bytes = queries_shape<DHP, FP8>::walk::BYTES;
    tdm_status st = TDM_CUDA(cudaFuncSetAttribute(keys, cudaFuncAttributeMaxDynamicSharedMemorySize, keys_bytes));
    if (st == TDM_OK) st = TDM_CUDA(cudaFuncSetAttribute(queries, cudaFuncAttributeMaxDynamicSharedMemorySize, queries_bytes));
    if (st != TDM_OK) return st;
    const unsigned tiles = (unsigned)tdm_ceil_div(batch->q_most, ATTN_TILE), sequences = (unsigned)batch->sequences;
    prepare_kernel<<<(unsigned)tdm_ceil_div(batch->tokens * a->heads, PREPARE_WARPS), PREPARE_WARPS * 32, 0, s->cuda>>>(*args);
    keys<<<dim3(tiles, (unsigned)a->kv->kv_heads * keys_shape<DHP>::PARTS, sequences), THREADS, keys_bytes, s->cuda>>>(*args);
    queries<<<dim3(tiles, (unsigned)a->heads * queries_shape<DHP, FP8>::PARTS, sequences), THREADS, queries_bytes, s->cuda>>>(*args);
    return tdm_cuda_launched(err, "attention_backward", batch->tokens, a->q.cols);
}

tdm_status tdm_cuda_attention_backward(tdm_stream *s, const tdm_attention_backward *a, tdm_error *err)
{
    const tdm_kv_pages *kv = a->kv;
    const tdm_batch *batch = a->batch;
    const int64_t T = batch->tokens, wide = a->heads * kv->head_dim, narrow = kv->kv_heads * kv->head_dim;
    TDM_ASSERT(a->heads % kv->kv_heads == 0);
    TDM_ASSERT(a->dq.dtype == TDM_DTYPE_BF16 && a->dk.dtype == TDM_DTYPE_BF16 && a->dv.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->do_.dtype == TDM_DTYPE_F32 && a->o.dtype == TDM_DTYPE_BF16 && a->q.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->dq.rows == T && a->dk.rows == T && a->dv.rows == T && a->do_.rows == T && a->o.rows == T && a->q.rows == T);
    TDM_ASSERT(a->dq.cols == wide && a->do_.cols == wide && a->o.cols == wide && a->q.cols == wide);
    TDM_ASSERT(a->dk.cols == narrow && a->dv.cols == narrow);
    if (T == 0) return TDM_OK;
    TDM_ASSERT(a->lse.data && a->lse.dtype == TDM_DTYPE_F32 && a->lse.rows == T && a->lse.cols == a->heads);
    TDM_ASSERT((uintptr_t)a->q.data % 16 == 0 && a->q.stride % 8 == 0 && (uintptr_t)a->do_.data % 8 == 0 && a->do_.stride % 2 == 0);
    TDM_ASSERT((uintptr_t)a->o.data % 4 == 0 && a->o.stride % 2 == 0 && (uintptr_t)a->dq.data % 4 == 0 && a->dq.stride % 2 == 0);
    TDM_ASSERT((uintptr_t)a->dk.data % 4 == 0 && a->dk.stride % 2 == 0 && (uintptr_t)a->dv.data % 4 == 0 && a->dv.stride % 2 == 0);
    TDM_ASSERT(batch->q_most > 0 && batch->sequences <= 65535 && a->heads <= 65535);
    const bool fp8 = kv->dtype == TDM_DTYPE_E4M3;
    backward_args r = {};
    r.kv = kv_layout_of(kv);
    r.batch = attention_batch_of(batch);
    r.dq = (uint16_t *)a->dq.data;
    r.dk = (uint16_t *)a->dk.data;
    r.dv = (uint16_t *)a->dv.data;
    r.q = (const uint16_t *)a->q.data;
    r.o = (const uint16_t *)a->o.data;
    r.do_ = (const float *)a->do_.data;
    r.lse = (const float *)a->lse.data;
    r.dq_stride = a->dq.stride;
    r.dk_stride = a->dk.stride;
    r.dv_stride = a->dv.stride;
    r.q_stride = a->q.stride;
    r.o_stride = a->o.stride;
    r.do_stride = a->do_.stride;
    r.lse_stride = a->lse.stride;
    r.tokens = T;
    const size_t rows_bytes = tdm_align_up((size_t)(T * a->heads) * sizeof(float2), 256);
    r.row = (float2 *)tdm_cuda_scratch(s, rows_bytes + (size_t)(T * wide) * 2);
    r.do16 = (uint16_t *)((char *)r.row + rows_bytes);
    r.heads = (int)a->heads;
    r.group = (int)(a->heads / kv->kv_heads);
    r.window = attention_window(a->window);
    r.scale = a->scale;
    r.factor = (fp8 ? a->scale * kv->k_scale : a->scale) * ATTN_LOG2E;
    r.v_scale = fp8 ? kv->v_scale : 1.0f;
    r.dq_scale = fp8 ? a->scale * kv->k_scale : a->scale;
    const int64_t dh = kv->head_dim;
    if (dh <= 64) return fp8 ? backward_launch<64, true>(s, a, &r, err) : backward_launch<64, false>(s, a, &r, err);
    if (dh <= 96) return fp8 ? backward_launch<96, true>(s, a, &r, err) : backward_launch<96, false>(s, a, &r, err);
    if (dh <= 128) return fp8 ? backward_launch<128, true>(s, a, &r, err) : backward_launch<128, false>(s, a, &r, err);
    return fp8 ? backward_launch<256, true>(s, a, &r, err) : backward_launch<256, false>(s, a, &r, err);
}
