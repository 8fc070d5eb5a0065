/* The one matrix product of attention: c[r][v] (+)= sum over k of a[r, k] . b[k][v], each k a pair of bf16, c in f32. A pair of `a`
 * is broadcast, sixteen columns of `b` lie side by side. Every element of c is one chain over k = 0, 1, ..., whatever the tile
 * around it, so a row's bits do not depend on how rows are grouped. */
#ifndef TANDEM_KERNELS_CPU_DP_H
#define TANDEM_KERNELS_CPU_DP_H

#include "kernels/cpu/lanes.h"

/* Tiles that fill the registers without spilling: rows by columns of 16. */
#if defined(TDM_ISA_avx512)
enum { DP_ROWS4 = 6, DP_ROWS = 8 };
#else
enum { DP_ROWS = 3 };
#endif

typedef struct dp_args {
    float *c;
    int64_t c_row;          /* floats from one row of c to the next; column block v begins at c + 16 v */
    bool accumulate;
    const uint32_t *a;
    int64_t a_row, a_k;     /* a[r, k] = a[r * a_row + k * a_k] */
    const void *const *b;   /* b[v]: pairs of column block v, 16 of them at every b_k-th pair */
    int64_t b_k, k;
} dp_args;

VF_INLINE void dp_tile(const int rows, const int vecs, const dp_args *g, int64_t r0, int64_t v0)
{
    vf acc[24];
    const uint32_t *a = g->a + r0 * g->a_row, *b[4];
    float *c = g->c + r0 * g->c_row + v0 * VF;
#pragma GCC unroll 8
    for (int v = 0; v < vecs; v++) b[v] = g->b[v0 + v];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) acc[r * vecs + v] = g->accumulate ? vf_load(c + r * g->c_row + v * VF) : vf_zero();
    const int64_t a_row = g->a_row, a_k = g->a_k, b_k = g->b_k;
    for (int64_t k = 0; k < g->k; k++) {
        vu column[4];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) column[v] = vu_load(b[v] + k * b_k);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const uint32_t pair = a[r * a_row + k * a_k];
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) acc[r * vecs + v] = vf_dot_pair(acc[r * vecs + v], column[v], pair);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) vf_store(c + r * g->c_row + v * VF, acc[r * vecs + v]);
}

/* All rows of `vecs` column blocks from v0 on, in the largest tiles first. */
VF_INLINE void dp_columns(const int vecs, const int most, const dp_args *g, int64_t rows, int64_t v0)
{
    int64_t r = 0;
    for (; r + most <= rows; r += most) dp_tile(most, vecs, g, r, v0);
    if (most > 4 && r + 4 <= rows) {
        dp_tile(4, vecs, g, r, v0);
        r += 4;
    }
    switch (rows - r) {
    case 3: dp_tile(3, vecs, g, r, v0); break;
    case 2: dp_tile(2, vecs, g, r, v0); break;
    case 1: dp_tile(1, vecs, g, r, v0); break;
    default: break;
    }
}

static __attribute__((unused)) void dp_product(const dp_args *g, int64_t rows, int64_t vecs)
{
    int64_t v = 0;
#if defined(TDM_ISA_avx512)
    for (; v + 4 <= vecs; v += 4) dp_columns(4, DP_ROWS4, g, rows, v);
    if (v + 2 <= vecs) {
        dp_columns(2, DP_ROWS, g, rows, v);
        v += 2;
    }
#endif
    for (; v < vecs; v++) dp_columns(1, DP_ROWS, g, rows, v);
}

#endif
