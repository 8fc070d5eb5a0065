/* What linear and linear_backward share: the layout of their workspace, and the sums over tokens. */
#ifndef TANDEM_KERNELS_CPU_LINEAR_H
#define TANDEM_KERNELS_CPU_LINEAR_H

#include "kernels/cpu/gemm.h"

/* Rows of A as elements, rows of h (or dh) as elements, then the slices of the threads. */
typedef struct tdm_linear_scratch {
    tdm_gemm_elem *a, *h;
    size_t shared;
    int64_t rows; /* that fit at a time */
} tdm_linear_scratch;

/* Rows as long as a vocabulary are expanded fewer at a time. */
enum { TDM_LINEAR_WIDE = 16384, TDM_LINEAR_WIDE_ROWS = 60 };

/* cols, rank: elements of a row to be expanded, 0 where it is read in place. */
static inline int64_t tdm_linear_chunk_rows(int64_t cols, int64_t rank, int64_t rows)
{
    if (cols == 0 && rank == 0) return tdm_max_i64(rows, 1);
    return tdm_min_i64(tdm_max_i64(rows, 1), cols > TDM_LINEAR_WIDE ? TDM_LINEAR_WIDE_ROWS : TDM_GEMM_CHUNK_ROWS);
}

static inline size_t tdm_linear_rows_bytes(int64_t cols, int64_t rows)
{
    return tdm_align_up((size_t)rows * (size_t)tdm_gemm_row_elems(cols) * sizeof(tdm_gemm_elem), 64);
}

static inline size_t tdm_linear_shared_bytes(int64_t cols, int64_t rank, int64_t rows)
{
    const int64_t chunk = tdm_linear_chunk_rows(cols, rank, rows);
    return tdm_linear_rows_bytes(cols, chunk) + tdm_linear_rows_bytes(rank, chunk);
}

static inline tdm_linear_scratch tdm_linear_scratch_get(const tdm_stream *s, int64_t cols, int64_t rank, int64_t rows)
{
    tdm_linear_scratch z = {.rows = tdm_linear_chunk_rows(cols, rank, rows)};
    z.shared = tdm_linear_shared_bytes(cols, rank, rows);
    z.a = tdm_cpu_scratch_shared(s, z.shared, TDM_CPU(gemm_slice_bytes)());
    z.h = z.a + tdm_linear_rows_bytes(cols, z.rows) / sizeof *z.a;
    return z;
}

/* g [I, J] f32 += sum over t of (alpha * a[t, i]) * b[t, j], a [T, I] and b [T, J] bf16; each element token by token in order. */
size_t TDM_CPU(grad_slice_bytes)(void);
void TDM_CPU(grad_add)(const tdm_stream *s, tdm_view g, tdm_cview a, tdm_cview b, float alpha);

#endif
