/* attention over the paged cache.
 *
 * A query row goes through its keys in order of absolute position: scores as chains over the head's pairs, the softmax over lanes
 * that are position mod 16, values as one chain over positions. Nothing of this depends on where the row came from, so a prefill
 * chunk of any size, a decode and a training batch leave the same bits. Rows that share keys (the heads of a group, neighbouring
 * tokens) are taken together only to load each key once. */
#include "kernels/cpu/dp.h"
#include "kernels/cpu/kv.h"
#include "kernels/cpu/ops_cpu.h"

enum { TILE_ROWS = 24 };

typedef struct attention_job {
    const tdm_attention *a;
    const tdm_stream *s;
    int64_t group, tile; /* query heads of a KV head; tokens taken together */
    size_t slice;
    int64_t span; /* longest row of scores */
} attention_job;

/* A thread's scratch. */
typedef struct scratch {
    uint32_t *q;     /* [rows, Dh / 2] pairs */
    float *o;        /* [rows, padded Dh] */
    uint16_t *chunk; /* widened keys or values */
    float *score;    /* [rows, span] */
} scratch;

static int64_t rows_most(int64_t group) { return tdm_max_i64(TILE_ROWS, group); }

static size_t scratch_layout(scratch *w, char *base, int64_t rows, int64_t head_dim, int64_t span)
{
    size_t at = 0;
    const size_t q = at, o = at += tdm_align_up((size_t)(rows * head_dim) * 2, 64);
    const size_t chunk = at += (size_t)(rows * kv_padded(head_dim)) * sizeof(float);
    const size_t score = at += kv_chunk_bytes(head_dim);
    at += (size_t)(rows * span) * sizeof(float);
    if (w) *w = (scratch){(uint32_t *)(void *)(base + q), (float *)(void *)(base + o), (uint16_t *)(void *)(base + chunk), (float *)(void *)(base + score)};
    return at;
}

size_t TDM_CPU(attention_workspace_bytes)(const tdm_limits *limits, int threads)
{
    const int64_t span = (int64_t)tdm_align_up((size_t)limits->context, KV_PAGE);
    return tdm_cpu_scratch_bytes(0, scratch_layout(NULL, NULL, rows_most(limits->heads), limits->head_dim, span), threads);
}

/* Scores in place to exp(score - max), zero outside [lo, hi); returns ln of their sum + max and the sum. */
static float softmax_row(float *s, int64_t cols, int64_t lo, int64_t hi, float scale, float *sum)
{
    const int64_t from = lo / VF * VF, to = tdm_min_i64(cols, (hi + VF - 1) / VF * VF);
    const vf factor = vf_set(scale), none = vf_set(-__builtin_inff());
    const vu lane = vu_lane();
    vf most = none;
    for (int64_t c = from; c < to; c += VF) {
        vf v = vf_mul(vf_load(s + c), factor);
        if (c < lo || c + VF > hi) {
            const vu at = vu_add(lane, vu_set((uint32_t)c));
            const vu in = vu_and(vu_lt(at, vu_set((uint32_t)hi)), vu_lt(vu_set((uint32_t)lo), vu_add(at, vu_set(1))));
            v = vf_select(in, v, none);
        }
        vf_store(s + c, v);
        most = vf_max(v, most);
    }
    const float m = vf_highest(most);
    const vf high = vf_set(m);
    vf total = vf_zero();
    for (int64_t c = from; c < to; c += VF) {
        const vf e = vf_exp(vf_sub(vf_load(s + c), high));
        vf_store(s + c, e);
        total = vf_add(total, e);
    }
    memset(s, 0, (size_t)from * sizeof *s);
    memset(s + to, 0, (size_t)(cols - to) * sizeof *s);
    *sum = vf_sum(total);
    return m + vf_log1(*sum);
}

typedef struct value_args {
    float *o;
    const float *p;
    int64_t o_row, p_row, v_row; /* elements from one row to the next */
    const void *const *v;        /* the chunk's pages */
    int64_t from, to;            /* positions of the chunk */
} value_args;

/* o[r] += sum over positions of p[r, j] v[j]: one chain over j for each element. */
VF_INLINE void value_tile(const int rows, const int vecs, const value_args *g, int64_t r0, int64_t d0)
{
    vf acc[24];
    float *o = g->o + r0 * g->o_row + d0;
    const float *p = g->p + r0 * g->p_row;
    const int64_t p_row = g->p_row;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) acc[r * vecs + v] = vf_load(o + r * g->o_row + v * VF);
    for (int64_t j = g->from; j < g->to; j++) {
        const uint16_t *value = (const uint16_t *)g->v[j / KV_PAGE] + j % KV_PAGE * g->v_row + d0;
        vf column[4];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) column[v] = vf_load_bf16(value + v * VF);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const vf weight = vf_set(p[r * p_row + j]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) acc[r * vecs + v] = vf_fma(weight, column[v], acc[r * vecs + v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) vf_store(o + r * g->o_row + v * VF, acc[r * vecs + v]);
}

VF_INLINE void value_columns(const int vecs, const int most, const value_args *g, int64_t rows, int64_t d0)
{
    int64_t r = 0;
    for (; r + most <= rows; r += most) value_tile(most, vecs, g, r, d0);
    if (most > 4 && r + 4 <= rows) {
        value_tile(4, vecs, g, r, d0);
        r += 4;
    }
    switch (rows - r) {
    case 3: value_tile(3, vecs, g, r, d0); break;
    case 2: value_tile(2, vecs, g, r, d0); break;
    case 1: value_tile(1, vecs, g, r, d0); break;
    default: break;
    }
}

static void value_product(const value_args *g, int64_t rows)
{
    int64_t d = 0;
#if defined(TDM_ISA_avx512)
    for (; d + 4 * VF <= g->v_row; d += 4 * VF) value_columns(4, 6, g, rows, d);
    if (d + 2 * VF <= g->v_row) {
        value_columns(2, 6, g, rows, d);
        d += 2 * VF;
    }
#endif
    for (; d < g->v_row; d += VF) value_columns(1, DP_ROWS, g, rows, d);
}

/* The keys the row at position p sees. */
static inline int64_t first_key(const tdm_attention *a, int64_t p) { return a->window > 0 ? tdm_max_i64(0, p - a->window + 1) : 0; }

static void gather_queries(const attention_job *j, scratch *w, int64_t first, int64_t tokens, int64_t g)
{
    const int64_t dh = j->a->kv->head_dim, bytes = j->group * dh * 2;
    for (int64_t t = 0; t < tokens; t++)
        memcpy((char *)w->q + t * bytes, tdm_crow_bf16(j->a->q, first + t) + g * j->group * dh, (size_t)bytes);
}

static void store_row(const attention_job *j, const float *o, float factor, int64_t token, int64_t head)
{
    const int64_t dh = j->a->kv->head_dim;
    uint16_t *out = tdm_row_bf16(j->a->o, token) + head * dh;
    for (int64_t d = 0; d < dh; d += VF)
        vf_store_bf16_n(out + d, vf_mul(vf_load(o + d), vf_set(factor)), tdm_min_i64(VF, dh - d));
}

/* Rows [first, first + tokens) of sequence b, the query heads of KV head g. */
static void attend(const attention_job *j, scratch *w, int64_t b, int64_t first, int64_t tokens, int64_t g)
{
    const tdm_attention *a = j->a;
    const tdm_kv_pages *kv = a->kv;
    const int32_t *pages = a->batch->pages + b * a->batch->pages_stride, *position = a->batch->position + first;
    const int64_t rows = tokens * j->group, padded = kv_padded(kv->head_dim);
    int64_t lo = INT64_MAX, hi = 0;
    for (int64_t t = 0; t < tokens; t++) {
        lo = tdm_min_i64(lo, first_key(a, position[t]));
        hi = tdm_max_i64(hi, (int64_t)position[t] + 1);
    }
    const int64_t page0 = lo / KV_PAGE, count = tdm_ceil_div(hi, KV_PAGE) - page0, cols = count * KV_PAGE;
    TDM_ASSERT(cols <= j->span && hi <= a->batch->kv_len[b]);
    gather_queries(j, w, first, tokens, g);

    const void *chunk[KV_CHUNK];
    for (int64_t i = 0; i < count; i += KV_CHUNK) {
        const int64_t n = tdm_min_i64(KV_CHUNK, count - i);
        kv_chunk(chunk, kv, pages + page0 + i, n, g, false, w->chunk);
        const dp_args scores = {.c = w->score + i * KV_PAGE, .c_row = cols, .a = w->q, .a_row = kv->head_dim / 2, .a_k = 1,
                                .b = chunk, .b_k = KV_PAGE, .k = kv->head_dim / 2};
        dp_product(&scores, rows, n);
    }
    float factor[TILE_ROWS > 1024 ? TILE_ROWS : 1024];
    TDM_ASSERT(rows <= (int64_t)TDM_COUNT(factor));
    const float scale = kv->dtype == TDM_DTYPE_BF16 ? a->scale : a->scale * kv->k_scale;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t p = position[r / j->group], t = first + r / j->group, head = g * j->group + r % j->group;
        float sum;
        const float lse = softmax_row(w->score + r * cols, cols, first_key(a, p) - page0 * KV_PAGE, p + 1 - page0 * KV_PAGE, scale, &sum);
        if (a->lse.data) tdm_row_f32(a->lse, t)[head] = lse;
        factor[r] = (kv->dtype == TDM_DTYPE_BF16 ? 1.0f : kv->v_scale) / sum;
    }
    memset(w->o, 0, (size_t)(rows * padded) * sizeof *w->o);
    for (int64_t i = 0; i < count; i += KV_CHUNK) {
        const int64_t n = tdm_min_i64(KV_CHUNK, count - i), base = (page0 + i) * KV_PAGE;
        kv_chunk(chunk, kv, pages + page0 + i, n, g, true, w->chunk);
        const value_args values = {.o = w->o, .p = w->score + i * KV_PAGE, .o_row = padded, .p_row = cols, .v_row = padded,
                                   .v = chunk, .from = tdm_max_i64(0, lo - base), .to = tdm_min_i64(n * KV_PAGE, hi - base)};
        value_product(&values, rows);
    }
    for (int64_t r = 0; r < rows; r++)
        store_row(j, w->o + r * padded, factor[r], first + r / j->group, g * j->group + r % j->group);
}

/* Item: a tile of tokens of the whole call and a KV head; a tile may lie across sequences (decodes do). */
static void attention_tiles(void *ctx, int64_t first, int64_t last, int thread)
{
    const attention_job *j = ctx;
    const tdm_batch *batch = j->a->batch;
    const int64_t kv_heads = j->a->kv->kv_heads;
    scratch w;
    scratch_layout(&w, tdm_cpu_scratch_slice(j->s, 0, j->slice, thread), rows_most(j->group), j->a->kv->head_dim, j->span);
    for (int64_t item = first; item < last; item++) {
        int64_t t = item / kv_heads * j->tile, b = 0;
        const int64_t end = tdm_min_i64(t + j->tile, batch->tokens);
        for (int64_t high = batch->sequences; high - b > 1;) { /* the last sequence that begins at or before t */
            const int64_t mid = (b + high) / 2;
            if (batch->q_start[mid] <= t) b = mid;
            else high = mid;
        }
        for (; t < end; b++) {
            const int64_t stop = tdm_min_i64(end, batch->q_start[b + 1]);
            if (stop > t) attend(j, &w, b, t, stop - t, item % kv_heads);
            t = tdm_max_i64(t, stop);
        }
    }
}

tdm_status TDM_CPU(attention)(tdm_stream *s, const tdm_attention *a, tdm_error *err)
{
    const tdm_kv_pages *kv = a->kv;
    TDM_ASSERT(a->q.dtype == TDM_DTYPE_BF16 && a->o.dtype == TDM_DTYPE_BF16 && a->heads % kv->kv_heads == 0 && kv->head_dim % 2 == 0);
    TDM_ASSERT(a->q.rows == a->batch->tokens && a->o.rows == a->batch->tokens);
    TDM_ASSERT(a->q.cols == a->heads * kv->head_dim && a->o.cols == a->q.cols);
    TDM_ASSERT(!a->lse.data || (a->lse.dtype == TDM_DTYPE_F32 && a->lse.rows == a->batch->tokens && a->lse.cols == a->heads));
    attention_job job = {.a = a, .s = s, .group = a->heads / kv->kv_heads};
    job.tile = tdm_max_i64(1, TILE_ROWS / job.group);
    for (int64_t b = 0; b < a->batch->sequences; b++) job.span = tdm_max_i64(job.span, a->batch->kv_len[b]);
    job.span = (int64_t)tdm_align_up((size_t)job.span, KV_PAGE);
    job.slice = scratch_layout(NULL, NULL, rows_most(job.group), kv->head_dim, job.span);
    tdm_cpu_parallel(s, tdm_ceil_div(a->batch->tokens, job.tile) * kv->kv_heads, 1, attention_tiles, &job);
    return a->quantize ? TDM_CPU(quantize_act)(s, a->quantize, err) : TDM_OK;
}
