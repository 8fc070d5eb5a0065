// What forward and backward of attention share: the tensor core's pieces, tiles of a page in shared memory, the batch.
// A tile of keys is a page: 64 positions. In shared memory a row is DHP bf16 (the head's width rounded up, the rest zero) and 16 bytes
// of padding, which keeps ldmatrix free of bank conflicts.
#pragma once

#include "kernels/cuda/kv.cuh"

#define ATTN_MEMBER __device__ __forceinline__

constexpr int ATTN_TILE = TDM_CUDA_KV_PAGE;
constexpr float ATTN_LOG2E = 1.44269504f, ATTN_LN2 = 0.693147181f;

struct attention_batch {
    const int32_t *q_start, *kv_len, *position, *pages;
    int64_t pages_stride;
};

static inline attention_batch attention_batch_of(const tdm_batch *b)
{
    attention_batch r;
    r.q_start = b->q_start;
    r.kv_len = b->kv_len;
    r.position = b->position;
    r.pages = b->pages;
    r.pages_stride = b->pages_stride;
    return r;
}

// The first key that the row at position p sees; window 0: no window.
TDM_DEVICE int first_key(int p, int window) { return window > 0 ? max(0, p - window + 1) : 0; }
static inline int attention_window(int64_t window) { return window > 0 ? (int)tdm_min_i64(window, INT32_MAX) : 0; }

// 2^x; exactly 1 at 0 and 0 at -inf.
TDM_DEVICE float exp2_of(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
TDM_DEVICE uint32_t pack_bf16(float low, float high)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&v;
}

// c [16, 8] += a [16, 16] b [16, 8]. Lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next of c.
TDM_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
TDM_DEVICE uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
TDM_DEVICE void load_matrices(uint32_t (&r)[4], const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
TDM_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
// 16 bytes into shared memory, zeros where !in (src is not read then, but must be an address).
TDM_DEVICE void copy_async(void *to, const void *src, bool in)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(src), "r"(in ? 16 : 0) : "memory");
}
TDM_DEVICE void copy_async_8(void *to, const void *src, bool in)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(to)), "l"(src), "r"(in ? 8 : 0) : "memory");
}
TDM_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
TDM_DEVICE void copy_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

template <int DHP> struct tile_shape {
    static constexpr int ROW = DHP + 8;               // elements
    static constexpr int BYTES = ATTN_TILE * ROW * 2; // 64 rows
    static constexpr int CODES = ATTN_TILE * DHP;     // bytes of 64 rows of e4m3 codes
};

// ROWS rows of bf16 into a tile: `valid` of them are there, head_dim wide, `row_bytes` apart; zeros elsewhere.
// (The loop stays a loop: unrolled, its addresses would take the registers that the sums need.)
template <int DHP, int ROWS, int THREADS>
TDM_DEVICE void tile_copy(uint16_t *tile, const char *src, int64_t row_bytes, int valid, int head_dim)
{
    constexpr int UNITS = DHP / 8;
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < ROWS * UNITS; i += THREADS) {
        const int r = i / UNITS, u = i % UNITS;
        const bool in = r < valid && u * 8 < head_dim;
        copy_async(tile + r * tile_shape<DHP>::ROW + u * 8, in ? src + r * row_bytes + u * 16 : src, in);
    }
}
// The same for codes, DHP bytes a row, not yet widened.
template <int DHP, int THREADS> TDM_DEVICE void codes_copy(char *codes, const char *src, int row_bytes, int valid)
{
    constexpr int UNITS = DHP / 16;
    for (int i = (int)threadIdx.x; i < ATTN_TILE * UNITS; i += THREADS) {
        const int r = i / UNITS, u = i % UNITS;
        const bool in = r < valid && u * 16 < row_bytes;
        copy_async(codes + r * DHP + u * 16, in ? src + r * row_bytes + u * 16 : src, in);
    }
}

// Two codes as a pair of bf16: exact.
TDM_DEVICE uint32_t widen_pair(uint32_t codes)
{
    const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)codes, __NV_E4M3);
    const float2 f = __half22float2(__half2(h));
    return pack_bf16(f.x, f.y);
}
TDM_DEVICE void widen_store(uint16_t *to, uint4 codes)
{
    const uint32_t c[4] = {codes.x, codes.y, codes.z, codes.w};
    uint32_t out[8];
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = widen_pair(c[i / 2] >> (16 * (i % 2)) & 0xffffu);
    *(uint4 *)to = make_uint4(out[0], out[1], out[2], out[3]);
    *(uint4 *)(to + 8) = make_uint4(out[4], out[5], out[6], out[7]);
}
// A tile out of codes that lie in shared memory (rows of DHP bytes) or in a page.
template <int DHP, int THREADS> TDM_DEVICE void tile_widen(uint16_t *tile, const char *codes, int code_row, int row_bytes, int valid)
{
    constexpr int UNITS = DHP / 16;
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < ATTN_TILE * UNITS; i += THREADS) {
        const int r = i / UNITS, u = i % UNITS;
        uint4 c = make_uint4(0, 0, 0, 0);
        if (r < valid && u * 16 < row_bytes) c = *(const uint4 *)(codes + r * code_row + u * 16);
        widen_store(tile + r * tile_shape<DHP>::ROW + u * 16, c);
    }
}

// The keys and values of one head, tile after tile, through shared memory; STAGES 2: the next tile is fetched while one is worked on.
// Positions at and past kv_len are zeros: what a page holds there is nobody's, and 0 * NaN would not be 0.
template <int DHP, bool FP8, int STAGES, int THREADS> struct kv_walk {
    static constexpr int TILE = tile_shape<DHP>::BYTES, CODES = tile_shape<DHP>::CODES;
    static constexpr int BYTES = FP8 ? 2 * TILE + (STAGES == 2 ? 4 * CODES : 0) : STAGES * 2 * TILE;

    char *shared;
    kv_layout kv;
    const int32_t *pages;
    int head, kv_len;

    ATTN_MEMBER const char *page_of(int tile) const { return kv_head(kv, pages[tile], head); }
    ATTN_MEMBER uint16_t *tile_at(int stage, int which) const { return (uint16_t *)(shared + (FP8 ? which : stage * 2 + which) * TILE); }
    ATTN_MEMBER char *codes_at(int stage, int which) const { return shared + 2 * TILE + (stage * 2 + which) * CODES; }

    ATTN_MEMBER void fetch(int tile, int stage) const
    {
        const char *src = page_of(tile);
        const int valid = min(ATTN_TILE, kv_len - tile * ATTN_TILE);
        if (FP8) {
            codes_copy<DHP, THREADS>(codes_at(stage, 0), src, kv.row_bytes, valid);
            codes_copy<DHP, THREADS>(codes_at(stage, 1), src + kv.values_at, kv.row_bytes, valid);
        } else {
            tile_copy<DHP, ATTN_TILE, THREADS>(tile_at(stage, 0), src, kv.row_bytes, valid, kv.head_dim);
            tile_copy<DHP, ATTN_TILE, THREADS>(tile_at(stage, 1), src + kv.values_at, kv.row_bytes, valid, kv.head_dim);
        }
        copy_commit();
    }
    ATTN_MEMBER void widen_page(int tile) const // straight from the page
    {
        const char *src = page_of(tile);
        const int valid = min(ATTN_TILE, kv_len - tile * ATTN_TILE);
        tile_widen<DHP, THREADS>(tile_at(0, 0), src, kv.row_bytes, kv.row_bytes, valid);
        tile_widen<DHP, THREADS>(tile_at(0, 1), src + kv.values_at, kv.row_bytes, kv.row_bytes, valid);
    }

    // body(tile, keys, values) for tiles [first, last); every thread of the block takes part.
    template <typename body_fn> ATTN_MEMBER void run(int first, int last, body_fn &&body) const
    {
        if (first >= last) return;
        if (FP8 && STAGES == 1) {
            for (int tile = first; tile < last; tile++) {
                __syncthreads();
                widen_page(tile);
                __syncthreads();
                body(tile, tile_at(0, 0), tile_at(0, 1));
            }
            return;
        }
        fetch(first, 0);
        int stage = 0;
        for (int tile = first; tile < last; tile++) {
            copy_wait();
            __syncthreads(); // the tile is there, and everyone is done with the one before
            if (FP8) {
                tile_widen<DHP, THREADS>(tile_at(0, 0), codes_at(stage, 0), DHP, DHP, ATTN_TILE);
                tile_widen<DHP, THREADS>(tile_at(0, 1), codes_at(stage, 1), DHP, DHP, ATTN_TILE);
            }
            if (STAGES == 2 && tile + 1 < last) fetch(tile + 1, stage ^ 1);
            if (FP8) __syncthreads();
            body(tile, (const uint16_t *)tile_at(stage, 0), (const uint16_t *)tile_at(stage, 1));
            if (STAGES == 1) {
                __syncthreads();
                if (tile + 1 < last) fetch(tile + 1, 0);
            } else {
                stage ^= 1;
            }
        }
    }
};

// 16 rows of a product's left side that lie in global memory, as the tensor core wants them: held in registers where the head is
// narrow enough, else read again each time. A row that is not there is zeros.
template <int DHP> struct row_pieces {
    static constexpr bool HELD = DHP <= 128;
    const uint16_t *row[2]; // this lane's: l / 4 and l / 4 + 8; NULL: absent
    int head_dim;
    uint32_t held[HELD ? DHP / 16 : 1][4];

    ATTN_MEMBER void read(int step, uint32_t (&a)[4]) const
    {
        const int c = step * 16 + (int)(threadIdx.x & 3) * 2;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int col = c + (i / 2) * 8;
            const uint16_t *from = row[i & 1];
            a[i] = from && col < head_dim ? *(const uint32_t *)(from + col) : 0u;
        }
    }
    ATTN_MEMBER void open(const uint16_t *low, const uint16_t *high, int width)
    {
        row[0] = low;
        row[1] = high;
        head_dim = width;
        if (HELD) {
#pragma unroll
            for (int step = 0; step < DHP / 16; step++) read(step, held[HELD ? step : 0]);
        }
    }
    ATTN_MEMBER void get(int step, uint32_t (&a)[4]) const
    {
        if (HELD) {
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = held[HELD ? step : 0][i];
        } else {
            read(step, a);
        }
    }
};

// s [16, 8 N] = rows x (8 N rows of a tile)^T
template <int DHP, int N> TDM_DEVICE void product_rows(float (&s)[N][4], const row_pieces<DHP> &rows, const uint16_t *tile)
{
    const int lane = (int)threadIdx.x & 31;
    const uint16_t *at = tile + (lane & 7) * tile_shape<DHP>::ROW + (lane >> 3) * 8;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = 0.0f;
#pragma unroll (row_pieces<DHP>::HELD ? DHP / 32 : 1)
    for (int k = 0; k < DHP / 32; k++) {
        uint32_t a0[4], a1[4];
        rows.get(2 * k, a0);
        rows.get(2 * k + 1, a1);
#pragma unroll
        for (int n = 0; n < N; n++) {
            uint32_t b[4];
            load_matrices(b, at + n * 8 * tile_shape<DHP>::ROW + k * 32);
            mma_bf16(s[n], a0, b[0], b[1]);
            mma_bf16(s[n], a1, b[2], b[3]);
        }
    }
}

// The same with the left side's 16 rows in a tile too.
template <int DHP, int N> TDM_DEVICE void product_tiles(float (&s)[N][4], const uint16_t *rows, const uint16_t *tile)
{
    const int lane = (int)threadIdx.x & 31;
    const uint16_t *left = rows + (lane & 15) * tile_shape<DHP>::ROW + (lane >> 4) * 8;
    const uint16_t *at = tile + (lane & 7) * tile_shape<DHP>::ROW + (lane >> 3) * 8;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = 0.0f;
#pragma unroll 2
    for (int k = 0; k < DHP / 32; k++) {
        uint32_t a0[4], a1[4];
        load_matrices(a0, left + k * 32);
        load_matrices(a1, left + k * 32 + 16);
#pragma unroll
        for (int n = 0; n < N; n++) {
            uint32_t b[4];
            load_matrices(b, at + n * 8 * tile_shape<DHP>::ROW + k * 32);
            mma_bf16(s[n], a0, b[0], b[1]);
            mma_bf16(s[n], a1, b[2], b[3]);
        }
    }
}

// o [16, 8 N] += p [16, 32 K] x (32 K rows of a tile), columns from where `tile` points
template <int DHP, int N, int K> TDM_DEVICE void product_columns(float (&o)[N][4], const uint32_t (&p)[2 * K][4], const uint16_t *tile)
{
    const int lane = (int)threadIdx.x & 31;
    const uint16_t *at = tile + lane * tile_shape<DHP>::ROW;
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int n = 0; n < N; n++) {
            uint32_t b[4];
            load_matrices_transposed(b, at + k * 32 * tile_shape<DHP>::ROW + n * 8);
            mma_bf16(o[n], p[2 * k], b[0], b[1]);
            mma_bf16(o[n], p[2 * k + 1], b[2], b[3]);
        }
}

// Neighbouring columns of a product's result as the left side of the next: [16, 8 N] f32 to bf16.
template <int N> TDM_DEVICE void pack_rows(uint32_t (&p)[N / 2][4], const float (&s)[N][4])
{
#pragma unroll
    for (int k = 0; k < N / 2; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) p[k][i] = pack_bf16(s[2 * k + i / 2][(i & 1) * 2], s[2 * k + i / 2][(i & 1) * 2 + 1]);
}

// The shared memory that a block may have.
static inline tdm_status attention_shared_most(int *bytes, tdm_error *err)
{
    int device = 0;
    tdm_status st = TDM_CUDA(cudaGetDevice(&device));
    if (st == TDM_OK) st = TDM_CUDA(cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return st;
}
