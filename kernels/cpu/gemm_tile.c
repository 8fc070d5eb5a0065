/* The register tile: up to ROWS rows of A times up to VECTORS vectors of the panel, every accumulator in a register. */
#include "kernels/cpu/vec.h"

#if defined(TDM_ISA_avx512)
/* Two steps of k at once: acc += a[1] * w[1], then acc += a[0] * w[0]. */
typedef struct step { __m512bh w[TDM_GEMM_VECTORS]; } step;
TDM_INLINE void step_load(step *s, const tdm_gemm_elem *panel, int64_t pair, int vectors)
{
    const tdm_gemm_elem *p = panel + pair * vectors * 2 * TDM_GEMM_LANES;
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) s->w[j] = (__m512bh)_mm512_loadu_si512(p + j * 2 * TDM_GEMM_LANES);
}
TDM_INLINE void step_row(tdm_vec *acc, const step *s, const tdm_gemm_elem *a, int vectors)
{
    int32_t two;
    memcpy(&two, a, sizeof two);
    const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) acc[j] = (tdm_vec)_mm512_dpbf16_ps((__m512)acc[j], x, s->w[j]);
}
#else
typedef struct step { tdm_vec w[2][TDM_GEMM_VECTORS]; } step;
TDM_INLINE void step_load(step *s, const tdm_gemm_elem *panel, int64_t pair, int vectors)
{
    const tdm_gemm_elem *p = panel + pair * vectors * 2 * TDM_GEMM_LANES;
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) {
        s->w[0][j] = tdm_vec_load(p + j * TDM_GEMM_LANES);
        s->w[1][j] = tdm_vec_load(p + (vectors + j) * TDM_GEMM_LANES);
    }
}
TDM_INLINE void step_row(tdm_vec *acc, const step *s, const tdm_gemm_elem *a, int vectors)
{
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) acc[j] = tdm_vec_fma(tdm_vec_set(a[0]), s->w[0][j], acc[j]);
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) acc[j] = tdm_vec_fma(tdm_vec_set(a[1]), s->w[1][j], acc[j]);
}
#endif

/* `rows` and `vectors` are constants where this is inlined, so the loops over them unroll and acc lives in registers. */
TDM_INLINE void tile(const tdm_gemm_tile *t, const int rows, const int vectors, tdm_gemm_mode mode)
{
    tdm_vec acc[TDM_GEMM_ROWS][TDM_GEMM_VECTORS];
    float *c = t->c;
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            acc[i][j] = mode == TDM_GEMM_CONTINUE ? tdm_vec_load(c + i * TDM_GEMM_WIDTH + j * TDM_GEMM_LANES) : tdm_vec_zero();
    const tdm_gemm_elem *a = t->a;
    for (int64_t pair = 0; pair < t->pairs; pair++) {
        step s;
        step_load(&s, t->panel, pair, vectors);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) step_row(acc[i], &s, a + i * t->a_stride + 2 * pair, vectors);
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            float *at = c + i * TDM_GEMM_WIDTH + j * TDM_GEMM_LANES;
            tdm_vec v = acc[i][j];
            if (mode >= TDM_GEMM_FOLD_FIRST) v = v * (tdm_vec_set(t->xs[i]) * tdm_vec_load(t->ws + j * TDM_GEMM_LANES));
            if (mode == TDM_GEMM_FOLD) v = tdm_vec_load(at) + v;
            tdm_vec_store(at, v);
        }
}

#define TILE(r, v)                                                                                                     \
    case (r) * 8 + (v): tile(t, r, v, mode); return
#if defined(TDM_ISA_avx512)
#define TILES(r) TILE(r, 1); TILE(r, 2); TILE(r, 3); TILE(r, 4)
#else
#define TILES(r) TILE(r, 1); TILE(r, 2)
#endif

void TDM_CPU(gemm_tile)(const tdm_gemm_tile *t, int rows, int vectors, tdm_gemm_mode mode)
{
    switch (rows * 8 + vectors) {
        TILES(1);
        TILES(2);
        TILES(3);
        TILES(4);
#if !defined(TDM_ISA_portable)
        TILES(5);
        TILES(6);
#endif
    default: TDM_ASSERT(!"a tile of at most ROWS x VECTORS");
    }
}
