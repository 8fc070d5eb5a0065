// Products of few rows with the weights of several projections of one x, adapters included, in one launch. See gemm_thin.cu.
#pragma once

#include "kernels/cuda/common.cuh"

enum { TDM_THIN_PARTS = 4, TDM_THIN_ROWS_MOST = 256, TDM_THIN_COLS_MOST = 65536 };

// One projection: y (+)= scale * (X W^T) + bias + alpha * (h B^T), h = bf16(Xa A^T). rank 0: no adapter.
struct tdm_thin_part {
    const void *w; // [cols, depth]
    int64_t w_stride, cols;
    const float *ws; // by scheme; NULL: 1
    int64_t ws_stride;
    const uint16_t *bias;
    void *y;
    int64_t y_stride;
    const uint16_t *a, *b; // [rank, depth], [cols, rank]
    uint16_t *h;           // [rows, rank]
    int64_t a_stride, b_stride, h_stride;
    float alpha;
    int rank;
    int panel, row; // the first of its panels of columns; the first row of its A among all
    bool w_vector, y_f32, accumulate, b_vector;
};

struct tdm_thin {
    int64_t rows, depth;
    const void *x; // [rows, depth] codes or bf16
    int64_t x_stride;
    const uint16_t *xa; // what adapters read
    int64_t xa_stride;
    const float *xs; // NULL: x_scale
    int64_t xs_stride;
    float x_scale;
    tdm_scheme scheme;
    bool x_codes, w_codes, x_vector, xa_vector, a_vector;
    tdm_thin_part part[TDM_THIN_PARTS];
    int parts;
    // set by tdm_gemm_thin
    int slices, slice_tiles, tiles;    // of K
    int row_tiles, units;              // units: panels of columns x row_tiles
    int a_rows, a_row_tiles, a_units, a_blocks; // rows of all A's; units of h, and blocks that have some
    unsigned *counters;                      // {blocks that have h ready, blocks done}: 0 between launches
};

// From sm_90 on. The order of a sum is gemm_nt's: the same bits.
tdm_status tdm_gemm_thin(tdm_stream *s, tdm_thin g, tdm_error *err);
// The stream's counters, given out and taken back.
tdm_status tdm_thin_open(tdm_stream *s, tdm_error *err);
void tdm_thin_close(tdm_stream *s);
