// attention over the paged cache.
//
// A row (one query head of one token) walks its keys in tiles of a page, aligned at multiples of 64 positions, in ascending order, with
// an online softmax: scores in f32 on the tensor core, probabilities rounded to bf16 for the product with the values, sums in f32. At
// every multiple of 512 positions the running (m, l, o) is put away and begun anew; the parts are merged in ascending order by
// merge_factors. Tiles and parts that a row does not see change nothing, to the bit. So a row's result depends on its query and its keys
// alone, and two kernels may share the work as they like:
//   rows    a block takes 16 rows a warp (tokens x heads of a KV head) through all their keys, merging as it goes: prefill, training
//   parts   a block takes up to 16 rows (the heads of a KV head) through one part; the warps share the tile's keys, then its columns.
//           Parts lie in the workspace until a second kernel merges them: decode. A part that neighbouring sequences have in the same
//           pages, being their group's prompt, is read once for as many of them as make 16 rows
#include <math_constants.h>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize.cuh"

enum { PART = 512, PART_TILES = PART / ATTN_TILE, PART_THREADS = 128, MERGE_WARPS = 8 };
static const size_t PARTS_BYTES = (size_t)64 << 20; // the workspace that parts may take where the batch wants more: then in several launches

struct attention_args {
    kv_layout kv;
    attention_batch batch;
    const uint16_t *q;
    uint16_t *o;
    float *lse; // or NULL
    int64_t q_stride, o_stride, lse_stride;
    int group, window;
    float factor, v_scale; // factor: scale * k_scale * log2(e)
    // parts
    float *part_o, *part_ml; // [slots, width], [slots, 2]
    int first, parts, rows, tiles, kv_heads, width; // first sequence; parts of a tile of rows; rows a tile, tiles a KV head; slot's width
    int share; // sequences that a block may take together
};

// ---- One row's arithmetic -----------------------------------------------------------------------------------------------------------

TDM_DEVICE float finite_or_zero(float m) { return m == -CUDART_INF_F ? 0.0f : m; }

// The running softmax over a tile's scores s [16, 64] of this lane's two rows. m in units of log2; l is this lane's share of the sum.
// s becomes the probabilities; fix is what the sums so far must be multiplied by.
TDM_DEVICE void softmax_tile(float (&s)[8][4], float (&m)[2], float (&l)[2], float (&fix)[2], float factor)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most = s[0][2 * r];
#pragma unroll
        for (int n = 0; n < 8; n++) most = fmaxf(most, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        const float next = fmaxf(m[r], most * factor), ref = finite_or_zero(next);
        fix[r] = exp2_of(m[r] - ref);
        m[r] = next;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                s[n][2 * r + i] = exp2_of(fmaf(s[n][2 * r + i], factor, -ref));
                sum += s[n][2 * r + i];
            }
        l[r] = fmaf(l[r], fix[r], sum);
    }
}
// Scores of keys the row at p does not see: none. base: the tile's first position.
TDM_DEVICE void mask_tile(float (&s)[8][4], const int (&p)[2], int window, int base)
{
    const int c = base + (int)(threadIdx.x & 3) * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int lo = first_key(p[r], window);
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int j = c + n * 8 + i;
                if (j < lo || j > p[r]) s[n][2 * r + i] = -CUDART_INF_F;
            }
    }
}
template <int N> TDM_DEVICE void fix_rows(float (&o)[N][4], const float (&fix)[2])
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) o[n][i] *= fix[i / 2];
}
// A part's sum out of the lanes' shares.
TDM_DEVICE float lanes_sum(float l)
{
    l += __shfl_xor_sync(0xffffffffu, l, 1);
    l += __shfl_xor_sync(0xffffffffu, l, 2);
    return l;
}

// Merging a part (m, l, o) into a total (M, L, O): O = O a + o b, the same for L. Either may be empty (m = -inf): then the other stays as it is.
struct merge_factors {
    float a, b;
    bool keep, take; // the part is empty; the total is
};
TDM_DEVICE merge_factors merge_begin(float &M, float m)
{
    merge_factors f;
    f.keep = m == -CUDART_INF_F;
    f.take = M == -CUDART_INF_F;
    const float next = fmaxf(M, m), ref = finite_or_zero(next);
    f.a = exp2_of(M - ref);
    f.b = exp2_of(m - ref);
    M = next;
    return f;
}
TDM_DEVICE float merge(const merge_factors &f, float total, float part)
{
    return f.keep ? total : f.take ? part : fmaf(total, f.a, part * f.b);
}
TDM_DEVICE float lse_of(float M, float L) { return (M + log2f(L)) * ATTN_LN2; }

// ---- rows ---------------------------------------------------------------------------------------------------------------------------

template <int DHP, bool FP8, int WARPS, int STAGES> struct rows_shape {
    static constexpr int OUT = DHP <= 128 ? DHP : 128, SHARES = DHP / OUT;     // columns of o a block makes
    static constexpr int THREADS = WARPS * 32, TOTAL = OUT / 2 * THREADS * 4; // bytes: every lane's part of O
    typedef kv_walk<DHP, FP8, STAGES, THREADS> walk;
    static constexpr int BYTES = TOTAL + walk::BYTES;
};

template <int DHP, bool FP8, int WARPS, int STAGES> __global__ void __launch_bounds__(WARPS * 32) attention_rows_kernel(const attention_args a)
{
    typedef rows_shape<DHP, FP8, WARPS, STAGES> shape;
    constexpr int N = shape::OUT / 8;
    extern __shared__ __align__(16) char shared[];
    const int b = (int)blockIdx.z, g = (int)blockIdx.y / shape::SHARES, column = (int)blockIdx.y % shape::SHARES * shape::OUT;
    const int start = a.batch.q_start[b], rows = (a.batch.q_start[b + 1] - start) * a.group, row0 = (int)blockIdx.x * WARPS * 16;
    if (row0 >= rows) return;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x / 32;
    const int32_t *position = a.batch.position + start;
    // Positions ascend within a sequence, so the first and the last row say which keys are seen.
    const int kv_len = a.batch.kv_len[b];
    const int from = first_key(position[row0 / a.group], a.window) / ATTN_TILE;
    const int to = position[(min(row0 + WARPS * 16, rows) - 1) / a.group] / ATTN_TILE + 1;

    const int warp0 = row0 + warp * 16, warp_rows = min(16, rows - warp0);
    int p[2], low = 0, lowest = 0, highest = -1; // positions of this lane's rows; keys that all rows of the warp see; keys that any sees
    const uint16_t *q[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int i = warp0 + lane / 4 + r * 8;
        p[r] = i < rows ? position[i / a.group] : -1;
        q[r] = i < rows ? a.q + (start + i / a.group) * a.q_stride + (int64_t)(g * a.group + i % a.group) * a.kv.head_dim : NULL;
    }
    int all = -1;
    if (warp_rows > 0) {
        const int p0 = position[warp0 / a.group], p1 = position[(warp0 + warp_rows - 1) / a.group];
        lowest = first_key(p0, a.window);
        low = first_key(p1, a.window);
        highest = p1;
        all = warp_rows == 16 ? p0 : -1;
    }
    row_pieces<DHP> query;
    query.open(q[0], q[1], a.kv.head_dim);

    float *total = (float *)shared + threadIdx.x; // [OUT / 2] of this lane, THREADS apart
    float o[N][4] = {}, m[2] = {-CUDART_INF_F, -CUDART_INF_F}, l[2] = {0.0f, 0.0f};
    float M[2] = {-CUDART_INF_F, -CUDART_INF_F}, L[2] = {0.0f, 0.0f};
    bool merged = false;
    const auto put_away = [&]() {
        merge_factors f[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            f[r] = merge_begin(M[r], m[r]);
            L[r] = merge(f[r], L[r], lanes_sum(l[r]));
            m[r] = -CUDART_INF_F;
            l[r] = 0.0f;
        }
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float *at = total + (n * 4 + i) * shape::THREADS;
                *at = merge(f[i / 2], merged ? *at : 0.0f, o[n][i]);
                o[n][i] = 0.0f;
            }
        merged = true;
    };

    typename shape::walk walk;
    walk.shared = shared + shape::TOTAL;
    walk.kv = a.kv;
    walk.pages = a.batch.pages + b * a.batch.pages_stride;
    walk.head = g;
    walk.kv_len = kv_len;
    walk.run(from, to, [&](int tile, const uint16_t *keys, const uint16_t *values) {
        const int base = tile * ATTN_TILE;
        if (tile % PART_TILES == 0 && tile > from) put_away();
        if (base > highest || base + ATTN_TILE <= lowest) return;
        float s[8][4], fix[2];
        uint32_t probabilities[4][4];
        product_rows<DHP, 8>(s, query, keys);
        if (base + ATTN_TILE - 1 > all || base < low) mask_tile(s, p, a.window, base);
        softmax_tile(s, m, l, fix, a.factor);
        fix_rows<N>(o, fix);
        pack_rows<8>(probabilities, s);
        product_columns<DHP, N, 2>(o, probabilities, values + column);
    });
    if (merged) {
        put_away();
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[n][i] = total[(n * 4 + i) * shape::THREADS];
    } else {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            M[r] = m[r];
            L[r] = lanes_sum(l[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int i = warp0 + lane / 4 + r * 8;
        if (i >= rows) continue;
        const int head = g * a.group + i % a.group, c = column + (lane & 3) * 2;
        const int64_t t = start + i / a.group;
        const float factor = a.v_scale / L[r];
        uint16_t *out = a.o + t * a.o_stride + (int64_t)head * a.kv.head_dim;
#pragma unroll
        for (int n = 0; n < N; n++)
            if (c + n * 8 < a.kv.head_dim) *(uint32_t *)(out + c + n * 8) = pack_bf16(o[n][2 * r] * factor, o[n][2 * r + 1] * factor);
        if (a.lse && column == 0 && (lane & 3) == 0) a.lse[t * a.lse_stride + head] = lse_of(M[r], L[r]);
    }
}

// ---- parts --------------------------------------------------------------------------------------------------------------------------

// A tile of up to 16 rows of one sequence and KV head, and the parts its keys lie in.
struct part_rows {
    int start, row0, rows; // the sequence's first token, the tile's first row, its rows
    int from, to;          // keys [from, to)
    int part0, parts;
};
TDM_DEVICE part_rows part_rows_of(const attention_args &a, int b, int tile)
{
    part_rows r;
    r.start = a.batch.q_start[b];
    r.row0 = tile * a.rows;
    r.rows = min(a.rows, (a.batch.q_start[b + 1] - r.start) * a.group - r.row0);
    r.from = r.to = r.part0 = r.parts = 0;
    if (r.rows <= 0) return r;
    r.from = first_key(a.batch.position[r.start + r.row0 / a.group], a.window);
    r.to = a.batch.position[r.start + (r.row0 + r.rows - 1) / a.group] + 1;
    r.part0 = r.from / PART;
    r.parts = (r.to - 1) / PART - r.part0 + 1;
    return r;
}
TDM_DEVICE int64_t part_slot(const attention_args &a, int b, int g, int tile, int part)
{
    return ((((int64_t)b * a.kv_heads + g) * a.tiles + tile) * a.parts + part) * a.rows;
}

// Sequences x and y decode a token each, and part `part` stands whole in front of it, in the same pages: a group's prompt.
TDM_DEVICE bool part_is_shared(const attention_args &a, int x, int y, int part)
{
    const int lane = (int)threadIdx.x & 31;
    const auto whole = [&](int b) {
        const int start = a.batch.q_start[b];
        return a.batch.q_start[b + 1] == start + 1 && a.batch.position[start] >= (part + 1) * PART;
    };
    if (!whole(x) || !whole(y)) return false;
    const int32_t *pages = a.batch.pages + part * PART_TILES + lane;
    const bool same = lane >= PART_TILES || pages[x * a.batch.pages_stride] == pages[y * a.batch.pages_stride];
    return __all_sync(0xffffffffu, same);
}
// How many sequences from b on this block takes through a part, so that its keys and values are read once for all; 0: one before b has it.
TDM_DEVICE int part_sequences(const attention_args &a, int b, int part)
{
    const int most = a.share, end = a.first + (int)gridDim.z;
    if (most < 2) return 1;
    if (b > a.first && b % most != 0 && part_is_shared(a, b - 1, b, part)) return 0;
    int n = 1;
    while (b + n < end && (b + n) % most != 0 && part_is_shared(a, b + n - 1, b + n, part)) n++;
    return n;
}

template <int DHP, bool FP8, int STAGES> struct parts_shape {
    static constexpr int SCORE_ROW = ATTN_TILE + 8, SCORES = 16 * SCORE_ROW * 4;
    typedef kv_walk<DHP, FP8, STAGES, PART_THREADS> walk;
    static constexpr int BYTES = SCORES + walk::BYTES;
};

template <int DHP, bool FP8, int STAGES> __global__ void __launch_bounds__(PART_THREADS, 3) attention_parts_kernel(const attention_args a)
{
    typedef parts_shape<DHP, FP8, STAGES> shape;
    constexpr int N = DHP / 32; // a warp's columns, in eights
    extern __shared__ __align__(16) char shared[];
    const int part = (int)blockIdx.x, g = (int)blockIdx.y % a.kv_heads, tile_of_rows = (int)blockIdx.y / a.kv_heads, b = a.first + (int)blockIdx.z;
    tdm_let_next_begin();
    tdm_wait_for_previous();
    const part_rows rows = part_rows_of(a, b, tile_of_rows);
    if (part >= rows.parts) return;
    const int sequences = part_sequences(a, b, part), all = sequences * rows.rows; // rows of several sequences are a token's each
    if (sequences == 0) return;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x / 32;
    int p[2];
    const uint16_t *q[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int i = lane / 4 + r * 8, row = rows.row0 + i, token = rows.start + row / a.group;
        p[r] = i < all ? a.batch.position[token] : -1;
        q[r] = i < all ? a.q + token * a.q_stride + (int64_t)(g * a.group + row % a.group) * a.kv.head_dim : NULL;
    }
    row_pieces<DHP> query;
    query.open(q[0], q[1], a.kv.head_dim);

    const int begin = max(rows.from, (rows.part0 + part) * PART), end = min(rows.to, (rows.part0 + part + 1) * PART);
    float o[N][4] = {}, m[2] = {-CUDART_INF_F, -CUDART_INF_F}, l[2] = {0.0f, 0.0f};
    float *scores = (float *)shared; // [16, SCORE_ROW]
    typename shape::walk walk;
    walk.shared = shared + shape::SCORES;
    walk.kv = a.kv;
    walk.pages = a.batch.pages + b * a.batch.pages_stride;
    walk.head = g;
    walk.kv_len = a.batch.kv_len[b];
    walk.run(begin / ATTN_TILE, (end + ATTN_TILE - 1) / ATTN_TILE, [&](int tile, const uint16_t *keys, const uint16_t *values) {
        float mine[2][4], s[8][4], fix[2];
        uint32_t probabilities[4][4];
        float *at = scores + lane / 4 * shape::SCORE_ROW + (lane & 3) * 2;
        product_rows<DHP, 2>(mine, query, keys + warp * 16 * tile_shape<DHP>::ROW);
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                *(float2 *)(at + r * 8 * shape::SCORE_ROW + warp * 16 + n * 8) = make_float2(mine[n][2 * r], mine[n][2 * r + 1]);
        __syncthreads();
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float2 v = *(const float2 *)(at + r * 8 * shape::SCORE_ROW + n * 8);
                s[n][2 * r] = v.x;
                s[n][2 * r + 1] = v.y;
            }
        mask_tile(s, p, a.window, tile * ATTN_TILE);
        softmax_tile(s, m, l, fix, a.factor);
        fix_rows<N>(o, fix);
        pack_rows<8>(probabilities, s);
        product_columns<DHP, N, 2>(o, probabilities, values + warp * (DHP / 4));
    });

#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int i = lane / 4 + r * 8, row = rows.row0 + i, column = warp * (DHP / 4) + (lane & 3) * 2;
        const float L = lanes_sum(l[r]);
        if (i >= all) continue;
        if (rows.parts == 1) { // nothing to merge
            const int head = g * a.group + row % a.group;
            const int64_t t = rows.start + row / a.group;
            const float factor = a.v_scale / L;
            uint16_t *out = a.o + t * a.o_stride + (int64_t)head * a.kv.head_dim;
#pragma unroll
            for (int n = 0; n < N; n++)
                if (column + n * 8 < a.kv.head_dim)
                    *(uint32_t *)(out + column + n * 8) = pack_bf16(o[n][2 * r] * factor, o[n][2 * r + 1] * factor);
            if (a.lse && warp == 0 && (lane & 3) == 0) a.lse[t * a.lse_stride + head] = lse_of(m[r], L);
        } else {
            const int sequence = (int)blockIdx.z + (sequences > 1 ? i / a.rows : 0);
            const int64_t slot = part_slot(a, sequence, g, tile_of_rows, part) + (sequences > 1 ? i % a.rows : i);
#pragma unroll
            for (int n = 0; n < N; n++)
                if (column + n * 8 < a.kv.head_dim) *(float2 *)(a.part_o + slot * a.width + column + n * 8) = make_float2(o[n][2 * r], o[n][2 * r + 1]);
            if (warp == 0 && (lane & 3) == 0) *(float2 *)(a.part_ml + slot * 2) = make_float2(m[r], L);
        }
    }
}

// A row of o out of its parts, by a warp: what lane l has of columns n * 64 + 2l.
TDM_DEVICE void merge_row(const attention_args &a, const part_rows &rows, int sequence, int g, int tile, int i, uint32_t (&out)[4])
{
    const int lane = (int)threadIdx.x & 31;
    float M = -CUDART_INF_F, L = 0.0f, O[4][2] = {};
    for (int part = 0; part < rows.parts; part++) {
        const int64_t slot = part_slot(a, sequence, g, tile, part) + i;
        const float2 ml = *(const float2 *)(a.part_ml + slot * 2);
        const merge_factors f = merge_begin(M, ml.x);
        L = merge(f, L, ml.y);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const int c = n * 64 + lane * 2;
            if (c >= a.kv.head_dim) continue;
            const float2 o = *(const float2 *)(a.part_o + slot * a.width + c);
            O[n][0] = merge(f, O[n][0], o.x);
            O[n][1] = merge(f, O[n][1], o.y);
        }
    }
    const int row = rows.row0 + i, head = g * a.group + row % a.group;
    const int64_t t = rows.start + row / a.group;
    const float factor = a.v_scale / L;
#pragma unroll
    for (int n = 0; n < 4; n++) out[n] = pack_bf16(O[n][0] * factor, O[n][1] * factor);
    if (a.lse && lane == 0) a.lse[t * a.lse_stride + head] = lse_of(M, L);
}

// A warp takes one row. Grid: [rows / MERGE_WARPS, KV heads x tiles, sequences].
__global__ void __launch_bounds__(MERGE_WARPS * 32) attention_merge_kernel(const __grid_constant__ attention_args a)
{
    const int g = (int)blockIdx.y % a.kv_heads, tile = (int)blockIdx.y / a.kv_heads, i = (int)blockIdx.x * MERGE_WARPS + (int)threadIdx.x / 32;
    tdm_let_next_begin();
    tdm_wait_for_previous();
    const part_rows rows = part_rows_of(a, a.first + (int)blockIdx.z, tile);
    if (i >= rows.rows || rows.parts < 2) return;
    uint32_t o[4];
    merge_row(a, rows, (int)blockIdx.z, g, tile, i, o);
    const int row = rows.row0 + i;
    uint16_t *out = a.o + (rows.start + row / a.group) * a.o_stride + (int64_t)(g * a.group + row % a.group) * a.kv.head_dim;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        const int c = n * 64 + (int)(threadIdx.x & 31) * 2;
        if (c < a.kv.head_dim) *(uint32_t *)(out + c) = o[n];
    }
}

// Decode: a block takes the token of a sequence, merges its rows where there is anything to merge, and quantizes it. Grid: [sequences].
__global__ void __launch_bounds__(MERGE_WARPS * 32) attention_finish_kernel(const __grid_constant__ attention_args a, const tdm_quantize q,
                                                                            tdm_quantize_kind kind)
{
    extern __shared__ __align__(16) uint16_t token[]; // [heads * head_dim]
    const int sequence = (int)blockIdx.x, lane = (int)threadIdx.x & 31;
    tdm_let_next_begin();
    tdm_wait_for_previous();
    const int start = a.batch.q_start[a.first + sequence];
    if (a.batch.q_start[a.first + sequence + 1] == start) return; // no row in this call
    for (int head = (int)threadIdx.x / 32; head < a.kv_heads * a.group; head += MERGE_WARPS) {
        const int g = head / a.group, tile = head % a.group / a.rows, i = head % a.group % a.rows;
        const part_rows rows = part_rows_of(a, a.first + sequence, tile);
        uint16_t *out = a.o + start * a.o_stride + (int64_t)head * a.kv.head_dim;
        uint32_t o[4];
        if (rows.parts >= 2) merge_row(a, rows, sequence, g, tile, i, o);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const int c = n * 64 + lane * 2;
            if (c >= a.kv.head_dim) continue;
            if (rows.parts >= 2) *(uint32_t *)(out + c) = o[n];
            else o[n] = *(const uint32_t *)(out + c);
            *(uint32_t *)(token + head * a.kv.head_dim + c) = o[n];
        }
    }
    tdm_quantize_made<MERGE_WARPS * 32>(q, kind, start, token);
}

// ---- Launches -----------------------------------------------------------------------------------------------------------------------

static int64_t part_bytes(int64_t head_dim) { return (head_dim + 2) * (int64_t)sizeof(float); }

// Backward: dO in bf16, and two floats a row (attention_backward.cu). Forward: parts; a tile of rows may be half empty.
size_t tdm_cuda_attention_workspace_bytes(const tdm_limits *limits)
{
    const int64_t wide = (int64_t)tdm_align_up((size_t)limits->head_dim, 8), tokens = tdm_max_i64(limits->tokens, 1);
    const size_t backward = (size_t)(tokens * limits->heads * (wide * 2 + 8)) + 512;
    const size_t token = (size_t)(2 * limits->heads * tdm_ceil_div(tdm_max_i64(limits->context, 1), PART) * part_bytes(wide));
    size_t parts = (size_t)tokens * token;
    const size_t most = PARTS_BYTES > 16 * token ? PARTS_BYTES : 16 * token; // one sequence of parts has 16 tokens at most
    if (parts > most) parts = most;
    return tdm_align_up(backward > parts ? backward : parts, 256) + 256;
}

template <int DHP, bool FP8, int WARPS, int STAGES>
static tdm_status rows_launch(tdm_stream *s, const tdm_attention *a, const attention_args *args, tdm_error *err)
{
    const auto kernel = attention_rows_kernel<DHP, FP8, WARPS, STAGES>;
    const int bytes = rows_shape<DHP, FP8, WARPS, STAGES>::BYTES;
    const tdm_status st = TDM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    if (st != TDM_OK) return st;
    const dim3 grid((unsigned)tdm_ceil_div(a->batch->q_most * args->group, WARPS * 16),
                    (unsigned)a->kv->kv_heads * rows_shape<DHP, FP8, WARPS, STAGES>::SHARES, (unsigned)a->batch->sequences);
    kernel<<<grid, WARPS * 32, bytes, s->cuda>>>(*args);
    return tdm_cuda_launched(err, "attention", a->batch->tokens, a->q.cols);
}

template <int DHP, bool FP8, int STAGES>
static tdm_status parts_launch(tdm_stream *s, const tdm_attention *a, attention_args args, const tdm_quantize_fusion *fusion, tdm_error *err)
{
    const auto kernel = attention_parts_kernel<DHP, FP8, STAGES>;
    const int bytes = parts_shape<DHP, FP8, STAGES>::BYTES;
    tdm_status st = TDM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const tdm_batch *batch = a->batch;
    const int64_t rows = batch->q_most * args.group;
    args.rows = (int)tdm_min_i64(16, rows);
    args.tiles = (int)tdm_ceil_div(rows, args.rows);
    args.kv_heads = (int)a->kv->kv_heads;
    args.width = args.kv.head_dim;
    args.share = batch->q_most == 1 && args.window == 0 && args.tiles == 1 ? 16 / args.rows : 1;
    args.parts = (int)tdm_ceil_div(batch->kv_most, PART);
    if (args.window > 0) args.parts = (int)tdm_min_i64(args.parts, ((int64_t)args.window + batch->q_most - 2) / PART + 2);
    const int64_t slots = (int64_t)args.kv_heads * args.tiles * args.parts * args.rows; // of one sequence
    int64_t chunk = batch->sequences;
    if (args.parts > 1) {
        chunk = tdm_min_i64(chunk, (int64_t)s->workspace_bytes / (slots * part_bytes(args.width)));
        TDM_ASSERT(chunk > 0);
        args.part_ml = (float *)tdm_cuda_scratch(s, (size_t)(chunk * slots * part_bytes(args.width)));
        args.part_o = args.part_ml + chunk * slots * 2;
    }
    chunk = tdm_min_i64(chunk, 65535);
    const unsigned heads = (unsigned)(args.kv_heads * args.tiles);
    for (int64_t b = 0; st == TDM_OK && b < batch->sequences; b += chunk) {
        const unsigned sequences = (unsigned)tdm_min_i64(chunk, batch->sequences - b);
        args.first = (int)b;
        st = TDM_CUDA(tdm_cuda_launch(s, kernel, dim3((unsigned)args.parts, heads, sequences), PART_THREADS, (size_t)bytes, args));
        if (st == TDM_OK && fusion->kind != TDM_QUANTIZE_PLAIN)
            st = TDM_CUDA(tdm_cuda_launch(s, attention_finish_kernel, dim3(sequences), MERGE_WARPS * 32, fusion->bytes, args, fusion->q, fusion->kind));
        else if (st == TDM_OK && args.parts > 1)
            st = TDM_CUDA(tdm_cuda_launch(s, attention_merge_kernel, dim3((unsigned)tdm_ceil_div(args.rows, MERGE_WARPS), heads, sequences),
                                          MERGE_WARPS * 32, 0, args));
        if (st == TDM_OK) st = tdm_cuda_launched(err, "attention", batch->tokens, a->q.cols);
    }
    return st;
}

static bool by_parts(const tdm_attention *a) { return a->batch->q_most == 1 || a->batch->q_most * (a->heads / a->kv->kv_heads) <= 16; }

template <int DHP, bool FP8>
static tdm_status width_launch(tdm_stream *s, const tdm_attention *a, const attention_args *args, const tdm_quantize_fusion *fusion, tdm_error *err)
{
    constexpr bool wide = DHP > 128;
    if (by_parts(a)) return parts_launch<DHP, FP8, wide ? 1 : 2>(s, a, *args, fusion, err);
    if constexpr (!wide) {
        int most = 0;
        const tdm_status st = attention_shared_most(&most, err);
        if (st != TDM_OK) return st;
        if (rows_shape<DHP, FP8, 8, 2>::BYTES <= most) return rows_launch<DHP, FP8, 8, 2>(s, a, args, err);
    }
    return rows_launch<DHP, FP8, 4, 1>(s, a, args, err);
}

static tdm_status run(tdm_stream *s, const tdm_attention *a, const attention_args *r, const tdm_quantize_fusion *fusion, tdm_error *err)
{
    const bool fp8 = a->kv->dtype == TDM_DTYPE_E4M3;
    const int64_t dh = a->kv->head_dim;
    if (dh <= 64) return fp8 ? width_launch<64, true>(s, a, r, fusion, err) : width_launch<64, false>(s, a, r, fusion, err);
    if (dh <= 96) return fp8 ? width_launch<96, true>(s, a, r, fusion, err) : width_launch<96, false>(s, a, r, fusion, err);
    if (dh <= 128) return fp8 ? width_launch<128, true>(s, a, r, fusion, err) : width_launch<128, false>(s, a, r, fusion, err);
    return fp8 ? width_launch<256, true>(s, a, r, fusion, err) : width_launch<256, false>(s, a, r, fusion, err);
}

tdm_status tdm_cuda_attention(tdm_stream *s, const tdm_attention *a, tdm_error *err)
{
    const tdm_kv_pages *kv = a->kv;
    const tdm_batch *batch = a->batch;
    TDM_ASSERT(a->q.dtype == TDM_DTYPE_BF16 && a->o.dtype == TDM_DTYPE_BF16 && a->heads % kv->kv_heads == 0);
    TDM_ASSERT(a->q.rows == batch->tokens && a->o.rows == batch->tokens);
    TDM_ASSERT(a->q.cols == a->heads * kv->head_dim && a->o.cols == a->q.cols && a->scale > 0.0f);
    TDM_ASSERT(!a->lse.data || (a->lse.dtype == TDM_DTYPE_F32 && a->lse.rows == batch->tokens && a->lse.cols == a->heads));
    if (batch->tokens == 0) return TDM_OK;
    TDM_ASSERT(batch->q_most > 0 && batch->kv_most > 0 && batch->sequences <= 65535);
    TDM_ASSERT((uintptr_t)a->q.data % 4 == 0 && (uintptr_t)a->o.data % 4 == 0 && a->q.stride % 2 == 0 && a->o.stride % 2 == 0);
    attention_args r = {};
    r.kv = kv_layout_of(kv);
    r.batch = attention_batch_of(batch);
    r.q = (const uint16_t *)a->q.data;
    r.o = (uint16_t *)a->o.data;
    r.lse = (float *)a->lse.data;
    r.q_stride = a->q.stride;
    r.o_stride = a->o.stride;
    r.lse_stride = a->lse.stride;
    r.group = (int)(a->heads / kv->kv_heads);
    r.window = attention_window(a->window);
    const bool fp8 = kv->dtype == TDM_DTYPE_E4M3;
    r.factor = (fp8 ? a->scale * kv->k_scale : a->scale) * ATTN_LOG2E;
    r.v_scale = fp8 ? kv->v_scale : 1.0f;
    // A block of decode's second kernel holds the whole of a token; elsewhere o is quantized afterwards.
    tdm_quantize_fusion fusion = tdm_quantize_fuse(a->quantize, tdm_view_const(a->o));
    const bool fused = fusion.kind != TDM_QUANTIZE_PLAIN && a->batch->q_most == 1;
    if (!fused) fusion.kind = TDM_QUANTIZE_PLAIN;
    const tdm_status st = run(s, a, &r, &fusion, err);
    return st == TDM_OK && a->quantize && !fused ? tdm_cuda_quantize_act(s, a->quantize, err) : st;
}
