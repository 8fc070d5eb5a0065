/* attention_backward: one task takes one KV head of one sequence, so that dk and dv are summed in one order: head after head of
 * its group, query tile after query tile. Probabilities come back from lse. With P = exp(scale S - lse) and D = rowsum(dO o):
 *   dV = P^T dO     dS = P (dO V^T - D)     dQ = scale dS K     dK = scale dS^T Q
 * The five products run over bf16 pairs summed in f32, as flash attention does on a GPU: dO, P and dS are rounded to bf16 once.
 * D is taken from the rounded dO, so that the rows of dS still sum to zero. Source: Dao 2023, arXiv:2307.08691, algorithm 2. */
#include "kernels/cpu/dp.h"
#include "kernels/cpu/kv.h"
#include "kernels/cpu/ops_cpu.h"

enum { TILE = 32 /* queries and keys */, VECS_MOST = 64 };

typedef struct backward_job {
    const tdm_attention_backward *a;
    const tdm_stream *s;
    int64_t group, longest;
    size_t slice;
} backward_job;

/* A thread's scratch; n: the sequence's length rounded up to TILE, D: the head's width rounded up to 16, d: Dh / 2. */
typedef struct scratch {
    uint32_t *k_rows, *v_rows;  /* [n, d] pairs along the head */
    uint32_t *k_pairs;          /* [n / 2, D] pairs of neighbouring positions */
    float *dk, *dv;             /* [n, D] */
    uint16_t *chunk;
    uint16_t *rows;             /* [TILE, D] a tile of q or dO */
    uint32_t *q_lanes, *do_lanes; /* [d, TILE] pairs along the head, queries side by side */
    uint32_t *q_pairs, *do_pairs; /* [TILE / 2, D] pairs of neighbouring queries */
    float *lse, *delta;         /* [TILE] */
    float *st, *dpt;            /* [TILE keys, TILE queries] scores, then dO V^T */
    uint32_t *pt, *dst;         /* [TILE keys, TILE / 2] bf16 pairs of neighbouring queries */
    uint32_t *ds_pairs;         /* [TILE / 2 pairs of keys, TILE queries] */
    float *dq;                  /* [TILE, D] */
} scratch;

static void *take(char *base, size_t *at, int64_t count, size_t size)
{
    void *p = base ? base + *at : NULL;
    *at += tdm_align_up((size_t)count * size, 64);
    return p;
}

static size_t scratch_layout(scratch *w, char *base, int64_t head_dim, int64_t longest)
{
    const int64_t n = (int64_t)tdm_align_up((size_t)longest, TILE), padded = kv_padded(head_dim), half = head_dim / 2;
    size_t at = 0;
    scratch l;
    l.k_rows = take(base, &at, n * half, 4);
    l.v_rows = take(base, &at, n * half, 4);
    l.k_pairs = take(base, &at, n / 2 * padded, 4);
    l.dk = take(base, &at, n * padded, 4);
    l.dv = take(base, &at, n * padded, 4);
    l.chunk = take(base, &at, (int64_t)kv_chunk_bytes(head_dim), 1);
    l.rows = take(base, &at, TILE * padded, 2);
    l.q_lanes = take(base, &at, half * TILE, 4);
    l.do_lanes = take(base, &at, half * TILE, 4);
    l.q_pairs = take(base, &at, TILE / 2 * padded, 4);
    l.do_pairs = take(base, &at, TILE / 2 * padded, 4);
    l.lse = take(base, &at, TILE, 4);
    l.delta = take(base, &at, TILE, 4);
    l.st = take(base, &at, TILE * TILE, 4);
    l.dpt = take(base, &at, TILE * TILE, 4);
    l.pt = take(base, &at, TILE * TILE / 2, 4);
    l.dst = take(base, &at, TILE * TILE / 2, 4);
    l.ds_pairs = take(base, &at, TILE / 2 * TILE, 4);
    l.dq = take(base, &at, TILE * padded, 4);
    if (w) *w = l;
    return at;
}

size_t TDM_CPU(attention_backward_workspace_bytes)(const tdm_limits *limits, int threads)
{
    return tdm_cpu_scratch_bytes(0, scratch_layout(NULL, NULL, limits->head_dim, limits->context), threads);
}

/* Head g of a sequence out of its pages: keys and values as rows of pairs, keys also as pairs of positions. Past n all is zero. */
static void gather_keys(const backward_job *j, scratch *w, const int32_t *pages, int64_t n, int64_t g)
{
    const tdm_kv_pages *kv = j->a->kv;
    const int64_t half = kv->head_dim / 2, padded = kv_padded(kv->head_dim), n_pad = (int64_t)tdm_align_up((size_t)n, TILE);
    memset(w->k_rows, 0, (size_t)(n_pad * half) * 4);
    memset(w->v_rows, 0, (size_t)(n_pad * half) * 4);
    for (int64_t p = 0; p < n; p++) {
        const void *page;
        if (p % KV_PAGE == 0) {
            kv_chunk(&page, kv, pages + p / KV_PAGE, 1, g, false, w->chunk);
            const uint32_t *keys = page;
            const int64_t m = tdm_min_i64(KV_PAGE, n - p);
            for (int64_t i = 0; i < m; i++)
                for (int64_t d = 0; d < half; d++) w->k_rows[(p + i) * half + d] = keys[d * KV_PAGE + i];
            kv_chunk(&page, kv, pages + p / KV_PAGE, 1, g, true, w->chunk);
            for (int64_t i = 0; i < m; i++)
                memcpy(w->v_rows + (p + i) * half, (const uint16_t *)page + i * padded, (size_t)half * 4);
        }
    }
    for (int64_t p = 0; p < n_pad; p += 2) {
        const uint32_t *even = w->k_rows + p * half, *odd = even + half;
        uint32_t *out = w->k_pairs + p / 2 * padded;
        for (int64_t d = 0; d < half; d++) {
            out[2 * d] = (even[d] & 0xffffu) | odd[d] << 16;
            out[2 * d + 1] = even[d] >> 16 | (odd[d] & 0xffff0000u);
        }
        for (int64_t d = 2 * half; d < padded; d++) out[d] = 0;
    }
}

/* w->rows to the two shapes the products read. */
static void arrange(const scratch *w, uint32_t *lanes, uint32_t *pairs, int64_t half, int64_t padded)
{
    for (int64_t i = 0; i < TILE; i++)
        for (int64_t d = 0; d < half; d++) memcpy(lanes + d * TILE + i, w->rows + i * padded + 2 * d, 4);
    for (int64_t i = 0; i < TILE; i += 2)
        for (int64_t d = 0; d < padded; d += VF) {
            const vu even = vu_load_u16(w->rows + i * padded + d), odd = vu_load_u16(w->rows + (i + 1) * padded + d);
            vu_store(pairs + i / 2 * padded + d, vu_or(even, vu_shl(odd, 16)));
        }
}

/* Queries [i0, i0 + m) of one head: q, dO, lse and D. A query past the sequence has q = dO = 0 and lse = +inf, hence P = 0. */
static void gather_queries(const backward_job *j, scratch *w, int64_t row, int64_t m, int64_t head)
{
    const tdm_attention_backward *a = j->a;
    const int64_t dh = a->kv->head_dim, half = dh / 2, padded = kv_padded(dh);
    memset(w->rows, 0, (size_t)(TILE * padded) * 2);
    for (int64_t i = 0; i < m; i++) memcpy(w->rows + i * padded, tdm_crow_bf16(a->q, row + i) + head * dh, (size_t)dh * 2);
    arrange(w, w->q_lanes, w->q_pairs, half, padded);
    for (int64_t i = 0; i < TILE; i++) {
        w->lse[i] = i < m ? tdm_crow_f32(a->lse, row + i)[head] : __builtin_inff();
        vf dot = vf_zero();
        for (int64_t d = 0; i < m && d < dh; d += VF) {
            const int64_t n = tdm_min_i64(VF, dh - d);
            vf_store_bf16_n(w->rows + i * padded + d, vf_load_n(tdm_crow_f32(a->do_, row + i) + head * dh + d, n), n);
            dot = vf_fma(vf_load_bf16_n(w->rows + i * padded + d, n), vf_load_bf16_n(tdm_crow_bf16(a->o, row + i) + head * dh + d, n), dot);
        }
        w->delta[i] = vf_sum(dot);
        if (i >= m) memset(w->rows + i * padded, 0, (size_t)padded * 2);
    }
    arrange(w, w->do_lanes, w->do_pairs, half, padded);
}

/* P and dS of one key row, 16 queries; keys j > i and outside the window have neither. */
typedef struct cell { vf p, ds; } cell;
static inline cell tile_cell(const backward_job *j, const scratch *w, int64_t key, int64_t lane, int64_t j0, int64_t i0, bool whole)
{
    const tdm_kv_pages *kv = j->a->kv;
    const bool fp8 = kv->dtype == TDM_DTYPE_E4M3;
    const vf scale = vf_set(fp8 ? j->a->scale * kv->k_scale : j->a->scale);
    vf p = vf_exp(vf_sub(vf_mul(vf_load(w->st + key * TILE + lane), scale), vf_load(w->lse + lane)));
    if (!whole) {
        const vu i = vu_add(vu_lane(), vu_set((uint32_t)(i0 + lane))), jj = vu_set((uint32_t)(j0 + key));
        vu in = vu_lt(jj, vu_add(i, vu_set(1)));
        if (j->a->window > 0) in = vu_and(in, vu_lt(vu_sub(i, jj), vu_set((uint32_t)tdm_min_i64(j->a->window, INT32_MAX))));
        p = vf_keep(in, p);
    }
    vf dp = vf_load(w->dpt + key * TILE + lane);
    if (fp8) dp = vf_mul(dp, vf_set(kv->v_scale));
    vf ds = vf_mul(p, vf_sub(dp, vf_load(w->delta + lane)));
    return (cell){p, ds};
}

static void tile_cells(const backward_job *j, scratch *w, int64_t j0, int64_t i0, bool whole)
{
    for (int64_t key = 0; key < TILE; key += 2)
        for (int64_t lane = 0; lane < TILE; lane += VF) {
            const cell a = tile_cell(j, w, key, lane, j0, i0, whole), b = tile_cell(j, w, key + 1, lane, j0, i0, whole);
            uint16_t *pt = (uint16_t *)w->pt + key * TILE + lane, *dst = (uint16_t *)w->dst + key * TILE + lane;
            const vu low = vf_to_bf16(a.ds), high = vf_to_bf16(b.ds);
            vf_store_bf16(pt, a.p);
            vf_store_bf16(pt + TILE, b.p);
            vu_store_u16(dst, low);
            vu_store_u16(dst + TILE, high);
            vu_store(w->ds_pairs + key / 2 * TILE + lane, vu_or(low, vu_shl(high, 16)));
        }
}

/* c += a b, b's column blocks side by side. */
static void product(float *c, int64_t c_row, bool accumulate, const uint32_t *a, int64_t a_row, int64_t a_k, const uint32_t *b, int64_t b_k,
                    int64_t k, int64_t vecs)
{
    const void *column[VECS_MOST];
    for (int64_t v = 0; v < vecs; v++) column[v] = b + v * VF;
    const dp_args g = {.c = c, .c_row = c_row, .accumulate = accumulate, .a = a, .a_row = a_row, .a_k = a_k, .b = column, .b_k = b_k, .k = k};
    dp_product(&g, TILE, vecs);
}

static void store_scaled(uint16_t *out, const float *x, float scale, int64_t n)
{
    for (int64_t d = 0; d < n; d += VF)
        vf_store_bf16_n(out + d, vf_mul(vf_load(x + d), vf_set(scale)), tdm_min_i64(VF, n - d));
}

static void query_tile(const backward_job *j, scratch *w, int64_t first, int64_t n, int64_t i0, int64_t head)
{
    const tdm_attention_backward *a = j->a;
    const int64_t dh = a->kv->head_dim, half = dh / 2, padded = kv_padded(dh), vecs = padded / VF;
    const int64_t m = tdm_min_i64(TILE, n - i0);
    const int64_t from = a->window > 0 ? tdm_max_i64(0, i0 - a->window + 1) / TILE * TILE : 0;
    gather_queries(j, w, first + i0, m, head);
    memset(w->dq, 0, (size_t)(TILE * padded) * sizeof *w->dq);
    for (int64_t j0 = from; j0 < i0 + m; j0 += TILE) {
        const bool whole = j0 + TILE <= i0 + 1 && m == TILE && (a->window <= 0 || i0 + TILE - 1 - j0 < a->window);
        product(w->st, TILE, false, w->k_rows + j0 * half, half, 1, w->q_lanes, TILE, half, TILE / VF);
        product(w->dpt, TILE, false, w->v_rows + j0 * half, half, 1, w->do_lanes, TILE, half, TILE / VF);
        tile_cells(j, w, j0, i0, whole);
        product(w->dv + j0 * padded, padded, true, w->pt, TILE / 2, 1, w->do_pairs, padded, TILE / 2, vecs);
        product(w->dk + j0 * padded, padded, true, w->dst, TILE / 2, 1, w->q_pairs, padded, TILE / 2, vecs);
        product(w->dq, padded, true, w->ds_pairs, 1, TILE, w->k_pairs + j0 / 2 * padded, padded, TILE / 2, vecs);
    }
    const float scale = a->kv->dtype == TDM_DTYPE_BF16 ? a->scale : a->scale * a->kv->k_scale;
    for (int64_t i = 0; i < m; i++) store_scaled(tdm_row_bf16(a->dq, first + i0 + i) + head * dh, w->dq + i * padded, scale, dh);
}

static void backward_tasks(void *ctx, int64_t begin, int64_t end, int thread)
{
    const backward_job *j = ctx;
    const tdm_attention_backward *a = j->a;
    const int64_t kv_heads = a->kv->kv_heads, dh = a->kv->head_dim, padded = kv_padded(dh);
    scratch w;
    scratch_layout(&w, tdm_cpu_scratch_slice(j->s, 0, j->slice, thread), dh, j->longest);
    for (int64_t task = begin; task < end; task++) {
        const int64_t b = task / kv_heads, g = task % kv_heads;
        const int64_t first = a->batch->q_start[b], n = a->batch->q_start[b + 1] - first;
        if (n == 0) continue;
        const size_t rows = tdm_align_up((size_t)n, TILE);
        gather_keys(j, &w, a->batch->pages + b * a->batch->pages_stride, n, g);
        memset(w.dk, 0, rows * (size_t)padded * sizeof *w.dk);
        memset(w.dv, 0, rows * (size_t)padded * sizeof *w.dv);
        for (int64_t h = g * j->group; h < (g + 1) * j->group; h++)
            for (int64_t i0 = 0; i0 < n; i0 += TILE) query_tile(j, &w, first, n, i0, h);
        for (int64_t i = 0; i < n; i++) {
            store_scaled(tdm_row_bf16(a->dk, first + i) + g * dh, w.dk + i * padded, a->scale, dh);
            store_scaled(tdm_row_bf16(a->dv, first + i) + g * dh, w.dv + i * padded, 1.0f, dh);
        }
    }
}

tdm_status TDM_CPU(attention_backward)(tdm_stream *s, const tdm_attention_backward *a, tdm_error *err)
{
    (void)err;
    const tdm_kv_pages *kv = a->kv;
    const int64_t T = a->batch->tokens, wide = a->heads * kv->head_dim, narrow = kv->kv_heads * kv->head_dim;
    TDM_ASSERT(a->heads % kv->kv_heads == 0 && kv->head_dim % 2 == 0 && kv_padded(kv->head_dim) <= VECS_MOST * VF);
    TDM_ASSERT(a->dq.dtype == TDM_DTYPE_BF16 && a->dk.dtype == TDM_DTYPE_BF16 && a->dv.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->do_.dtype == TDM_DTYPE_F32 && a->o.dtype == TDM_DTYPE_BF16 && a->q.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->dq.rows == T && a->dk.rows == T && a->dv.rows == T && a->do_.rows == T && a->o.rows == T && a->q.rows == T);
    TDM_ASSERT(a->dq.cols == wide && a->do_.cols == wide && a->o.cols == wide && a->q.cols == wide);
    TDM_ASSERT(a->dk.cols == narrow && a->dv.cols == narrow);
    TDM_ASSERT(a->lse.data && a->lse.dtype == TDM_DTYPE_F32 && a->lse.rows == T && a->lse.cols == a->heads);
    backward_job job = {.a = a, .s = s, .group = a->heads / kv->kv_heads};
    for (int64_t b = 0; b < a->batch->sequences; b++) {
        const int64_t n = a->batch->q_start[b + 1] - a->batch->q_start[b];
        TDM_ASSERT_EQ(n, a->batch->kv_len[b]);
        for (int64_t i = 0; i < n; i++) TDM_ASSERT_EQ(a->batch->position[a->batch->q_start[b] + i], i);
        job.longest = tdm_max_i64(job.longest, n);
    }
    job.slice = scratch_layout(NULL, NULL, kv->head_dim, job.longest);
    tdm_cpu_parallel(s, a->batch->sequences * kv->kv_heads, 1, backward_tasks, &job);
    return TDM_OK;
}
