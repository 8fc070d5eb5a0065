/* scatter_rows and zero: moving rows, clearing views. */
#include "kernels/cpu/ops_cpu.h"

#include <string.h>

typedef struct rows_job {
    tdm_view y;
    tdm_cview x; /* scatter */
    const int32_t *row;
} rows_job;

static int64_t rows_per_piece(int64_t cols) { return tdm_max_i64(1, 32768 / tdm_max_i64(cols, 1)); }

static char *row_of(tdm_view y, int64_t r) { return (char *)y.data + (size_t)(r * y.stride) * tdm_dtype_bytes(y.dtype); }

static void scatter_some(void *ctx, int64_t first, int64_t last, int thread)
{
    const rows_job *j = ctx;
    const size_t size = tdm_dtype_bytes(j->x.dtype);
    (void)thread;
    for (int64_t r = first; r < last; r++)
        memcpy(row_of(j->y, j->row[r]), (const char *)j->x.data + (size_t)(r * j->x.stride) * size, (size_t)j->x.cols * size);
}

tdm_status TDM_CPU(scatter_rows)(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(y.dtype == x.dtype && y.cols == x.cols);
    for (int64_t r = 0; r < x.rows; r++) TDM_ASSERT(row[r] >= 0 && row[r] < y.rows);
    rows_job job = {.y = y, .x = x, .row = row};
    tdm_cpu_parallel(s, x.rows, rows_per_piece(x.cols), scatter_some, &job);
    return TDM_OK;
}

/* A single long row (all gradients of an adapter) is cut into pieces too. */
enum { ZERO_PIECE = 1 << 16 };

static void zero_some(void *ctx, int64_t first, int64_t last, int thread)
{
    const rows_job *j = ctx;
    const int64_t pieces = tdm_ceil_div(j->y.cols, ZERO_PIECE);
    const size_t size = tdm_dtype_bytes(j->y.dtype);
    (void)thread;
    for (int64_t i = first; i < last; i++) {
        const int64_t at = i % pieces * ZERO_PIECE;
        memset(row_of(j->y, i / pieces) + (size_t)at * size, 0, (size_t)tdm_min_i64(ZERO_PIECE, j->y.cols - at) * size);
    }
}

tdm_status TDM_CPU(zero)(tdm_stream *s, tdm_view y, tdm_error *err)
{
    rows_job job = {.y = y};
    (void)err;
    tdm_cpu_parallel(s, y.rows * tdm_ceil_div(y.cols, ZERO_PIECE), tdm_max_i64(1, 32768 / tdm_max_i64(y.cols, 1)), zero_some, &job);
    return TDM_OK;
}
