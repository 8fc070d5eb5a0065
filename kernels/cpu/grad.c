/* Sums over tokens for the adapter's gradients: each element is one chain in order of t, begun at what the buffer holds. */
#include "kernels/cpu/common/e4m3.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/vec.h"

#if defined(TDM_ISA_avx512)
enum { ROWS = 16 };
#else
enum { ROWS = 8 };
#endif
enum { COLS = 64, TOKENS = 64, LANES = TDM_GEMM_LANES };

/* Both operands of TOKENS tokens in f32, and the tile of the gradient, all in L1. */
typedef struct scratch {
    float a[TOKENS][ROWS], b[TOKENS][COLS], g[ROWS][COLS];
} scratch;

size_t TDM_CPU(grad_slice_bytes)(void) { return sizeof(scratch); }

typedef struct job {
    const tdm_stream *s;
    tdm_view g;
    tdm_cview a, b;
    float alpha;
    int64_t across; /* tiles along J */
} job;

static void load_tokens(float *restrict out, int64_t width, tdm_cview v, int64_t t0, int64_t tokens, int64_t c0, int64_t n,
                        float alpha)
{
    for (int64_t t = 0; t < tokens; t++) {
        const uint16_t *restrict in = (const uint16_t *)v.data + (t0 + t) * v.stride + c0;
        for (int64_t i = 0; i < n; i++) out[t * width + i] = alpha * tdm_bf16_expand(in[i]);
    }
}

static void add_tokens(scratch *z, int64_t tokens, int64_t cols)
{
    for (int64_t j = 0; j < cols; j += LANES) {
        tdm_vec acc[ROWS];
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++) acc[i] = tdm_vec_load(&z->g[i][j]);
        for (int64_t t = 0; t < tokens; t++) {
            const tdm_vec b = tdm_vec_load(&z->b[t][j]);
#pragma GCC unroll 16
            for (int i = 0; i < ROWS; i++) acc[i] = tdm_vec_fma(tdm_vec_set(z->a[t][i]), b, acc[i]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++) tdm_vec_store(&z->g[i][j], acc[i]);
    }
}

static void run_tile(const job *jb, scratch *z, int64_t i0, int64_t rows, int64_t j0, int64_t cols)
{
    float *g = (float *)jb->g.data + i0 * jb->g.stride + j0;
    memset(z, 0, sizeof *z);
    for (int64_t i = 0; i < rows; i++) memcpy(z->g[i], g + i * jb->g.stride, (size_t)cols * sizeof *g);
    for (int64_t t = 0; t < jb->a.rows; t += TOKENS) {
        const int64_t tokens = tdm_min_i64(TOKENS, jb->a.rows - t);
        load_tokens(&z->a[0][0], ROWS, jb->a, t, tokens, i0, rows, jb->alpha);
        load_tokens(&z->b[0][0], COLS, jb->b, t, tokens, j0, cols, 1.0f);
        add_tokens(z, tokens, cols);
    }
    for (int64_t i = 0; i < rows; i++) memcpy(g + i * jb->g.stride, z->g[i], (size_t)cols * sizeof *g);
}

static void run_tiles(void *ctx, int64_t first, int64_t last, int thread)
{
    const job *jb = ctx;
    scratch *z = tdm_cpu_scratch_slice(jb->s, 0, sizeof *z, thread);
    for (int64_t tile = first; tile < last; tile++) {
        const int64_t i0 = tile / jb->across * ROWS, j0 = tile % jb->across * COLS;
        run_tile(jb, z, i0, tdm_min_i64(ROWS, jb->g.rows - i0), j0, tdm_min_i64(COLS, jb->g.cols - j0));
    }
}

void TDM_CPU(grad_add)(const tdm_stream *s, tdm_view g, tdm_cview a, tdm_cview b, float alpha)
{
    if (a.rows == 0) return;
    job jb = {s, g, a, b, alpha, tdm_ceil_div(g.cols, COLS)};
    const int64_t work = a.rows * tdm_min_i64(COLS, g.cols); /* of one tile, in vector steps */
    tdm_cpu_parallel(s, tdm_ceil_div(g.rows, ROWS) * jb.across, tdm_ceil_div(4096, work), run_tiles, &jb);
}
