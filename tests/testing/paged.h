/* Sequences in a paged cache with shuffled pages, for the tests of attention and its backward. Header-only, beside ops_case.h. */
#ifndef TANDEM_TESTS_PAGED_H
#define TANDEM_TESTS_PAGED_H

#include "testing/ops_case.h"

enum { PAGED_SEQUENCES = 8, PAGED_POSITIONS = 1024 };

/* What stands in the cache and who asks: k, v hold every position of every sequence, one sequence after the other; q the rows asked
 * for, row i of sequence b at position kv_len - rows + i. */
typedef struct paged_case {
    int64_t heads, kv_heads, dh, window, sequences;
    tdm_dtype dtype;
    float k_scale, v_scale, scale;
    int64_t rows[PAGED_SEQUENCES], len[PAGED_SEQUENCES];
    tdm_cview q, k, v;
    void *own[3];
} paged_case;

static inline int64_t paged_rows(const paged_case *c)
{
    int64_t n = 0;
    for (int64_t b = 0; b < c->sequences; b++) n += c->rows[b];
    return n;
}

static inline paged_case paged_golden(const char *name)
{
    const int32_t *shape = test_golden(goldens, "%s/shape", name).data;
    const float *scales = test_golden(goldens, "%s/scales", name).data;
    paged_case c = {.heads = shape[0], .kv_heads = shape[1], .dh = shape[2], .window = shape[3], .sequences = shape[4],
                    .dtype = scales[0] > 0 ? TDM_DTYPE_E4M3 : TDM_DTYPE_BF16, .k_scale = scales[0], .v_scale = scales[1],
                    .scale = 1.0f / sqrtf((float)shape[2]), .q = test_golden(goldens, "%s/q", name), .k = test_golden(goldens, "%s/k", name),
                    .v = test_golden(goldens, "%s/v", name)};
    for (int64_t b = 0; b < c.sequences; b++) {
        c.rows[b] = shape[6 + 2 * b];
        c.len[b] = shape[7 + 2 * b];
    }
    return c;
}

/* Whole sequences of noise. */
static inline paged_case paged_random(int64_t heads, int64_t kv_heads, int64_t dh, int64_t window, tdm_dtype dtype, int64_t sequences, const int64_t *len)
{
    paged_case c = {.heads = heads, .kv_heads = kv_heads, .dh = dh, .window = window, .sequences = sequences, .dtype = dtype,
                    .k_scale = 0.004f, .v_scale = 0.003f, .scale = 3.0f / sqrtf((float)dh)};
    int64_t total = 0;
    for (int64_t b = 0; b < sequences; b++) total += c.rows[b] = c.len[b] = len[b];
    const tdm_view q = test_random_aligned(total, heads * dh, TDM_DTYPE_BF16, 2, 31), k = test_random_aligned(total, kv_heads * dh, TDM_DTYPE_BF16, 1, 32);
    const tdm_view v = test_random_aligned(total, kv_heads * dh, TDM_DTYPE_BF16, 1, 33);
    c.q = tdm_view_const(q);
    c.k = tdm_view_const(k);
    c.v = tdm_view_const(v);
    c.own[0] = q.data;
    c.own[1] = k.data;
    c.own[2] = v.data;
    return c;
}
static inline void paged_free(paged_case *c)
{
    for (int i = 0; i < 3; i++) free(c->own[i]);
}

/* A cache in a backend's memory, filled. */
typedef struct paged_cache {
    test_stream s;
    tdm_kv_pages kv;
    int64_t stride;
    int32_t table[4096];
} paged_cache;

/* Rows [first[b], first[b] + rows[b]) of each sequence as a batch; its arrays are lent until close. */
typedef struct paged_call {
    int32_t q_start[PAGED_SEQUENCES + 1], kv_len[PAGED_SEQUENCES], position[PAGED_POSITIONS];
    tdm_batch batch;
} paged_call;
static inline void paged_batch(paged_cache *p, paged_call *c, int64_t sequences, int64_t sequence, const int64_t *first, const int64_t *rows)
{
    int32_t t = 0;
    tdm_batch *batch = &c->batch;
    *batch = (tdm_batch){.sequences = sequences, .pages_stride = p->stride};
    for (int64_t b = 0; b < sequences; b++) {
        c->q_start[b] = t;
        c->kv_len[b] = (int32_t)(first[b] + rows[b]);
        batch->q_most = tdm_max_i64(batch->q_most, rows[b]);
        batch->kv_most = tdm_max_i64(batch->kv_most, c->kv_len[b]);
        for (int64_t i = 0; i < rows[b]; i++) {
            assert_true(t < PAGED_POSITIONS);
            c->position[t++] = (int32_t)(first[b] + i);
        }
    }
    c->q_start[sequences] = t;
    batch->tokens = t;
    batch->q_start = test_in_i32(&p->s, c->q_start, sequences + 1);
    batch->kv_len = test_in_i32(&p->s, c->kv_len, sequences);
    batch->position = test_in_i32(&p->s, c->position, t);
    batch->pages = test_in_i32(&p->s, p->table + sequence * p->stride, sequences * p->stride);
}

/* Pages shuffled by `shuffle` (0: in order) with some that belong to nobody; keys and values written `chunk` rows of each sequence at
 * a time (0: whole). Unwritten memory holds NaN. */
static inline void paged_open(paged_cache *p, const tdm_backend *be, int threads, const paged_case *c, uint32_t shuffle, int64_t chunk)
{
    const int64_t page = be->kv_page_tokens;
    int64_t longest = 0, first[PAGED_SEQUENCES] = {0}, rows[PAGED_SEQUENCES], at = 0;
    for (int64_t b = 0; b < c->sequences; b++) longest = tdm_max_i64(longest, c->len[b]);
    const tdm_limits limits = {.tokens = tdm_max_i64(c->k.rows, 1), .width = 64, .vocab = 1, .head_rows = 1, .heads = c->heads, .head_dim = c->dh, .rank = 1, .context = longest};
    p->s = test_stream_open(be, &limits, threads);
    p->stride = tdm_ceil_div(longest, page) + 1;
    const int64_t pages = c->sequences * p->stride + 3;
    assert_true(pages <= (int64_t)TDM_COUNT(p->table));
    for (int64_t i = 0; i < pages; i++) p->table[i] = (int32_t)i;
    for (int64_t i = pages - 1; shuffle && i > 0; i--) {
        shuffle = shuffle * 1664525u + 1013904223u;
        const int64_t j = (shuffle >> 8) % (i + 1);
        const int32_t swap = p->table[i];
        p->table[i] = p->table[j];
        p->table[j] = swap;
    }
    p->kv = (tdm_kv_pages){.pages = pages, .kv_heads = c->kv_heads, .head_dim = c->dh, .dtype = c->dtype, .k_scale = c->k_scale, .v_scale = c->v_scale};
    p->kv.data = test_scratch(&p->s, (size_t)pages * be->kv_page_bytes(c->dtype, c->kv_heads, c->dh));
    paged_call call;
    for (int64_t b = 0; b < c->sequences; at += c->len[b++])
        for (first[0] = 0; first[0] < c->len[b]; first[0] += rows[0]) {
            rows[0] = tdm_min_i64(chunk ? chunk : c->len[b], c->len[b] - first[0]);
            const size_t lent = p->s.lent_n;
            paged_batch(p, &call, 1, b, first, rows);
            const tdm_kv_write w = {.kv = &p->kv, .batch = &call.batch, .k = test_in(&p->s, tdm_cview_rows(c->k, at + first[0], rows[0])),
                                    .v = test_in(&p->s, tdm_cview_rows(c->v, at + first[0], rows[0]))};
            TEST_OK(be->kv_write(p->s.s, &w, err));
            test_stream_return(&p->s, lent);
        }
}
static inline void paged_close(paged_cache *p) { test_stream_close(&p->s); }

/* attention of rows [first, first + rows) of sequences from `sequence` on; q, o and lse hold those rows alone. */
static inline void paged_attention(paged_cache *p, const paged_case *c, tdm_cview q, int64_t sequences, int64_t sequence, const int64_t *first,
                                   const int64_t *rows, tdm_view o, tdm_view lse)
{
    paged_call call;
    const size_t lent = p->s.lent_n;
    paged_batch(p, &call, sequences, sequence, first, rows);
    const tdm_attention a = {.o = test_out(&p->s, o), .lse = test_out(&p->s, lse), .q = test_in(&p->s, q), .kv = &p->kv, .batch = &call.batch,
                             .heads = c->heads, .window = c->window, .scale = c->scale};
    TEST_OK(p->s.be->attention(p->s.s, &a, err));
    test_stream_return(&p->s, lent);
}

/* The case's own rows in one call. */
static inline void paged_run(paged_cache *p, const paged_case *c, tdm_view o, tdm_view lse)
{
    int64_t first[PAGED_SEQUENCES];
    for (int64_t b = 0; b < c->sequences; b++) first[b] = c->len[b] - c->rows[b];
    paged_attention(p, c, c->q, c->sequences, 0, first, c->rows, o, lse);
}

#endif
