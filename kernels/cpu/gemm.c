/* Tasks, loops and epilogue of the matrix product; see gemm.h for the order of summation. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/common/e4m3.h"

enum { WIDTH = TDM_GEMM_WIDTH, DEPTH = TDM_GEMM_DEPTH, BLOCKS = TDM_GEMM_DEPTH / TDM_FP8_BLOCK };

/* A thread's slice. The accumulators of both products stay while k advances in panels of DEPTH. */
typedef struct scratch {
    tdm_gemm_elem panel[DEPTH * WIDTH];
    float c[TDM_GEMM_BLOCK_ROWS * WIDTH], c2[TDM_GEMM_BLOCK_ROWS * WIDTH];
    float ws[BLOCKS][WIDTH];                            /* weight scales of a panel's columns */
    float xs[BLOCKS][TDM_GEMM_BLOCK_ROWS];              /* activation scales of the task's rows */
} scratch;

size_t TDM_CPU(gemm_slice_bytes)(void) { return sizeof(scratch); }

typedef struct job {
    const tdm_stream *s;
    const tdm_gemm *g;
    size_t shared;
    int64_t panels;
    int64_t rows;             /* of a whole task */
    int64_t whole;            /* whole tasks, each a panel and `rows` rows; what is left is cut finer: */
    int64_t cuts, cut_rows;   /* each task in `cuts` of `cut_rows` rows */
} job;

static bool scaled_by_block(const tdm_gemm *g) { return g->w && g->w->scheme == TDM_SCHEME_FP8_BLOCK; }

static float weight_scale(const tdm_weight *w, int64_t row, int64_t block)
{
    const float *scale = w->scale.data;
    switch (w->scheme) {
    case TDM_SCHEME_BF16: return 1.0f;
    case TDM_SCHEME_FP8_TENSOR: return scale[0];
    case TDM_SCHEME_FP8_CHANNEL: return scale[row * w->scale.stride];
    case TDM_SCHEME_FP8_BLOCK: return scale[row / TDM_FP8_BLOCK * w->scale.stride + block];
    }
    return 1.0f;
}

/* Scales of rows [m0, m0 + mr) and columns [j0, j0 + lanes) for the `blocks` blocks of k from `block` on. */
static void load_scales(scratch *z, const tdm_gemm *g, int64_t m0, int64_t mr, int64_t j0, int64_t lanes, int64_t block,
                        int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++) {
        for (int64_t i = 0; i < mr; i++)
            z->xs[b][i] = g->xs ? g->xs[(m0 + i) * g->xs_stride + (scaled_by_block(g) ? block + b : 0)] : g->x_scale;
        for (int64_t j = 0; j < WIDTH; j++)
            z->ws[b][j] = g->w && j < lanes ? weight_scale(g->w, j0 + j, block + b) : 1.0f;
    }
}

static int vectors_of(int64_t lanes) { return (int)tdm_ceil_div(lanes, TDM_GEMM_LANES); }

/* One panel of at most DEPTH k against the task's rows. */
static void rows_plain(float *c, const tdm_gemm_elem *panel, tdm_gemm_rows a, int64_t mr, int64_t k0, int64_t kc, int64_t lanes)
{
    for (int64_t i = 0; i < mr; i += TDM_GEMM_ROWS) {
        const tdm_gemm_tile t = {.c = c + i * WIDTH,
                                 .a = a.data + i * a.stride + k0,
                                 .panel = panel,
                                 .a_stride = a.stride,
                                 .pairs = tdm_ceil_div(kc, 2)};
        TDM_CPU(gemm_tile)
        (&t, (int)tdm_min_i64(TDM_GEMM_ROWS, mr - i), vectors_of(lanes), k0 ? TDM_GEMM_CONTINUE : TDM_GEMM_BEGIN);
    }
}

static void rows_by_block(scratch *z, tdm_gemm_rows a, int64_t mr, int64_t k0, int64_t kc, int64_t lanes)
{
    const int vectors = vectors_of(lanes);
    for (int64_t i = 0; i < mr; i += TDM_GEMM_ROWS)
        for (int64_t b = 0; b * TDM_FP8_BLOCK < kc; b++) {
            const int64_t at = b * TDM_FP8_BLOCK;
            const tdm_gemm_tile t = {.c = z->c + i * WIDTH,
                                     .a = a.data + i * a.stride + k0 + at,
                                     .panel = z->panel + at * vectors * TDM_GEMM_LANES,
                                     .a_stride = a.stride,
                                     .pairs = tdm_ceil_div(tdm_min_i64(TDM_FP8_BLOCK, kc - at), 2),
                                     .xs = z->xs[b] + i,
                                     .ws = z->ws[b]};
            TDM_CPU(gemm_tile)
            (&t, (int)tdm_min_i64(TDM_GEMM_ROWS, mr - i), vectors, k0 + at ? TDM_GEMM_FOLD : TDM_GEMM_FOLD_FIRST);
        }
}

static void store_row(const tdm_gemm *g, int64_t row, int64_t j0, int64_t lanes, const float *restrict out)
{
    if (g->y.dtype == TDM_DTYPE_BF16) {
        uint16_t *restrict y = (uint16_t *)g->y.data + row * g->y.stride + j0;
        for (int64_t j = 0; j < lanes; j++) y[j] = tdm_bf16_round(out[j]);
        return;
    }
    float *restrict y = (float *)g->y.data + row * g->y.stride + j0;
    if (g->accumulate)
        for (int64_t j = 0; j < lanes; j++) y[j] += out[j];
    else
        for (int64_t j = 0; j < lanes; j++) y[j] = out[j];
}

static void finish_row(const tdm_gemm *g, scratch *z, int64_t row, int64_t i, int64_t j0, int64_t lanes)
{
    float *restrict out = z->c + i * WIDTH;
    float *restrict c2 = z->c2 + i * WIDTH;
    if (!scaled_by_block(g)) {
        const float xs = z->xs[0][i];
        for (int64_t j = 0; j < WIDTH; j++) out[j] *= xs * z->ws[0][j];
    }
    if (g->bias)
        for (int64_t j = 0; j < lanes; j++) out[j] += tdm_bf16_expand(g->bias[j0 + j]);
    if (g->depth2) {
        for (int64_t j = 0; j < WIDTH; j++) c2[j] *= g->alpha;
        if (!g->side.data)
            for (int64_t j = 0; j < WIDTH; j++) out[j] += c2[j];
        else {
            float *side = (float *)g->side.data + row * g->side.stride + j0;
            for (int64_t j = 0; j < lanes; j++) side[j] = c2[j];
        }
    }
    store_row(g, row, j0, lanes, out);
}

/* The panel of columns from j0 on, as it lies in memory. Only the forward's panels are whole rows. */
static tdm_gemm_ahead panel_bytes(const tdm_gemm_source *p, int64_t j0)
{
    const int64_t row = p->m.stride * (p->m.dtype == TDM_DTYPE_E4M3 ? 1 : 2);
    const char *base = p->m.data;
    if (!p->transposed || j0 >= p->m.rows) return (tdm_gemm_ahead){base, base};
    return (tdm_gemm_ahead){base + j0 * row, base + tdm_min_i64(j0 + WIDTH, p->m.rows) * row};
}

static void run_task(const job *jb, scratch *z, int64_t m0, int64_t mr, int64_t j0, int64_t lanes, tdm_gemm_ahead ahead)
{
    const tdm_gemm *g = jb->g;
    const tdm_gemm_rows a = {g->a.data + m0 * g->a.stride, g->a.stride};
    const bool by_block = scaled_by_block(g);
    if (g->depth2) {
        const tdm_gemm_rows a2 = {g->a2.data + m0 * g->a2.stride, g->a2.stride};
        for (int64_t k = 0; k < g->depth2; k += DEPTH) {
            const int64_t kc = tdm_min_i64(DEPTH, g->depth2 - k);
            tdm_gemm_ahead none = {ahead.at, ahead.at};
            TDM_CPU(gemm_pack)(z->panel, &g->p2, j0, lanes, k, kc, &none);
            rows_plain(z->c2, z->panel, a2, mr, k, kc, lanes);
        }
    }
    if (!by_block) load_scales(z, g, m0, mr, j0, lanes, 0, 1);
    for (int64_t k = 0; k < g->depth; k += DEPTH) {
        const int64_t kc = tdm_min_i64(DEPTH, g->depth - k);
        TDM_CPU(gemm_pack)(z->panel, &g->p, j0, lanes, k, kc, &ahead);
        if (by_block) {
            load_scales(z, g, m0, mr, j0, lanes, k / TDM_FP8_BLOCK, tdm_ceil_div(kc, TDM_FP8_BLOCK));
            rows_by_block(z, a, mr, k, kc, lanes);
        } else {
            rows_plain(z->c, z->panel, a, mr, k, kc, lanes);
        }
    }
    for (int64_t i = 0; i < mr; i++) finish_row(g, z, m0 + i, i, j0, lanes);
}

/* The rows of task number `task`, and its panel through *panel; count 0 where a cut leaves nothing. */
static int64_t task_at(const job *jb, int64_t task, int64_t *panel, int64_t *count)
{
    const int64_t past = task - jb->whole, item = past < 0 ? task : jb->whole + past / jb->cuts;
    const int64_t block = item / jb->panels * jb->rows, block_end = tdm_min_i64(block + jb->rows, jb->g->rows);
    *panel = item % jb->panels;
    const int64_t first = past < 0 ? block : block + past % jb->cuts * jb->cut_rows;
    const int64_t end = past < 0 ? block_end : tdm_min_i64(first + jb->cut_rows, block_end);
    *count = tdm_max_i64(end - first, 0);
    return first;
}

static void run_tasks(void *ctx, int64_t first, int64_t last, int thread)
{
    const job *jb = ctx;
    const tdm_gemm *g = jb->g;
    scratch *z = tdm_cpu_scratch_slice(jb->s, jb->shared, sizeof *z, thread);
    for (int64_t task = first; task < last; task++) {
        int64_t panel, rows;
        const int64_t m0 = task_at(jb, task, &panel, &rows), j0 = panel * WIDTH;
        const int64_t next = (panel + (task + 1 < last ? 1 : jb->s->threads)) % jb->panels * WIDTH;
        if (rows > 0) run_task(jb, z, m0, rows, j0, tdm_min_i64(WIDTH, g->cols - j0), panel_bytes(&g->p, next));
    }
}

/* Whole tasks in multiples of the threads; the rest, which would leave threads idle, is cut among them, though each cut packs its
 * panel again. */
static int64_t plan_tasks(job *jb, int threads)
{
    const int64_t rows = jb->g->rows, blocks = tdm_ceil_div(rows, TDM_GEMM_BLOCK_ROWS);
    jb->rows = tdm_ceil_div(tdm_ceil_div(rows, blocks), TDM_GEMM_ROWS) * TDM_GEMM_ROWS;
    const int64_t items = jb->panels * tdm_ceil_div(rows, jb->rows), rest = items % threads;
    const int64_t most = tdm_ceil_div(tdm_min_i64(jb->rows, rows), 2 * TDM_GEMM_ROWS); /* a cut is worth its packing */
    jb->whole = items - rest;
    jb->cuts = rest ? tdm_min_i64(threads / rest, most) : 1;
    jb->cut_rows = tdm_ceil_div(tdm_ceil_div(jb->rows, jb->cuts), TDM_GEMM_ROWS) * TDM_GEMM_ROWS;
    return jb->whole + rest * jb->cuts;
}

void TDM_CPU(gemm)(const tdm_stream *s, size_t shared, const tdm_gemm *g)
{
    if (g->rows == 0 || g->cols == 0) return;
    TDM_ASSERT(g->depth > 0 && g->depth2 >= 0);
    job jb = {.s = s, .g = g, .shared = shared, .panels = tdm_ceil_div(g->cols, WIDTH)};
    const int64_t tasks = plan_tasks(&jb, s->threads);
    tdm_cpu_parallel(s, tasks, 1, run_tasks, &jb);
}
