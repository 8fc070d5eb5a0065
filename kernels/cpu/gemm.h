/* The matrix product under linear and linear_backward:  out[t, j] = sum over k of A[t, k] * P[k, j].
 *
 * Lanes lie along j. P is packed into panels of TDM_GEMM_WIDTH columns, A stands row-major and is broadcast, and one f32
 * accumulator per output runs over k alone: its order is that of k, whatever the number of rows, the tile or the thread. Pairs of
 * k are taken odd one first, as VDPBF16PS does; products of bf16 are exact in f32, so all instruction sets give the same bits
 * (but for subnormal numbers, which VDPBF16PS takes as 0).
 *
 *   AVX-512   elements are bf16, panel [ceil(kc/2)][lanes][2]
 *   others    elements are f32,  panel [kc up to even][lanes], rows 2i and 2i+1 exchanged; A likewise
 * The rest of the file is written once: a pair of A elements stands at 2i whichever the element is. */
#ifndef TANDEM_KERNELS_CPU_GEMM_H
#define TANDEM_KERNELS_CPU_GEMM_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/stream.h"

#if defined(TDM_ISA_avx512)
typedef uint16_t tdm_gemm_elem;
enum { TDM_GEMM_LANES = 16, TDM_GEMM_VECTORS = 4, TDM_GEMM_ROWS = 6 };
#elif defined(TDM_ISA_avx2)
typedef float tdm_gemm_elem;
enum { TDM_GEMM_LANES = 8, TDM_GEMM_VECTORS = 2, TDM_GEMM_ROWS = 6 };
#else
typedef float tdm_gemm_elem;
enum { TDM_GEMM_LANES = 4, TDM_GEMM_VECTORS = 2, TDM_GEMM_ROWS = 4 };
#endif
enum {
    TDM_GEMM_WIDTH = TDM_GEMM_LANES * TDM_GEMM_VECTORS, /* columns of a panel; divides 128 */
    TDM_GEMM_DEPTH = 256,                               /* k packed at a time; a multiple of 128 */
    TDM_GEMM_BLOCK_ROWS = 252,                          /* rows one task takes; a multiple of TDM_GEMM_ROWS */
    TDM_GEMM_CHUNK_ROWS = 504                           /* rows of A expanded at a time, when A is not in elements already */
};

/* Where P comes from: a matrix of rows, used as P = M^T (forward: lanes are rows) or P = M (backward: lanes are columns).
 * `dequant` present: backward reads bf16(code * scale) through it. */
typedef struct tdm_gemm_source {
    tdm_cview m;
    bool transposed; /* P = M^T */
    const tdm_weight *dequant;
} tdm_gemm_source;

/* A: elements, row-major, each row padded with zeros to an even k. */
typedef struct tdm_gemm_rows {
    const tdm_gemm_elem *data;
    int64_t stride;
} tdm_gemm_rows;

/* out = scale * (A P) + bias + alpha * (A2 P2), then stored: y = out, or y += out.
 * `side` present: alpha * (A2 P2) goes there alone, f32, overwritten.
 * Scales: xs[t * xs_stride + b] (xs_stride 0: one for all; NULL: 1) times ws by w->scheme (w NULL: 1). In the block scheme b is
 * the 128-column block of k, and each block's partial sum is scaled and added in order of k. */
typedef struct tdm_gemm {
    int64_t rows, cols, depth; /* of A P */
    tdm_gemm_rows a;
    tdm_gemm_source p;
    int64_t depth2; /* 0: no second product */
    tdm_gemm_rows a2;
    tdm_gemm_source p2;
    float alpha;
    const float *xs;
    int64_t xs_stride;
    float x_scale;       /* multiplies xs, or stands for it where xs is NULL */
    const tdm_weight *w; /* whose scale is applied to the sum; NULL: none */
    const uint16_t *bias;
    tdm_view y, side;
    bool accumulate;
} tdm_gemm;

/* Scratch of a product: the slice of each thread. */
size_t TDM_CPU(gemm_slice_bytes)(void);
/* `shared` bytes of the workspace belong to the caller and stay. */
void TDM_CPU(gemm)(const tdm_stream *s, size_t shared, const tdm_gemm *g);

/* Rows of a bf16 or e4m3 view as elements: in place where they already are, else expanded to `scratch`
 * [rows, tdm_gemm_row_elems(cols)]. */
static inline int64_t tdm_gemm_row_elems(int64_t cols) { return tdm_ceil_div(cols, 64) * 64; }
tdm_gemm_rows TDM_CPU(gemm_expand)(const tdm_stream *s, tdm_cview x, tdm_gemm_elem *scratch);
bool TDM_CPU(gemm_in_place)(tdm_cview x);

/* ---- between gemm's own files ---- */

/* Bytes that the thread will pack next: fetched while it packs what is before it. */
typedef struct tdm_gemm_ahead {
    const char *at, *end;
} tdm_gemm_ahead;

/* Fills panel [kc / 2 up to 32s][lanes up to whole vectors][2] with P[k0 .. k0 + kc, j0 .. j0 + lanes], zeros around it. */
void TDM_CPU(gemm_pack)(tdm_gemm_elem *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc,
                        tdm_gemm_ahead *ahead);

/* c [mr, WIDTH] f32 = A[mr rows, 2 * pairs] panel: begun at 0 or continued from c; or folded onto c, scaled by xs[i] * ws[j]. */
typedef enum tdm_gemm_mode { TDM_GEMM_BEGIN, TDM_GEMM_CONTINUE, TDM_GEMM_FOLD_FIRST, TDM_GEMM_FOLD } tdm_gemm_mode;
typedef struct tdm_gemm_tile {
    float *c;
    const tdm_gemm_elem *a, *panel;
    int64_t a_stride, pairs;
    const float *xs, *ws; /* [mr], [WIDTH]; FOLD only */
} tdm_gemm_tile;
void TDM_CPU(gemm_tile)(const tdm_gemm_tile *t, int rows, int vectors, tdm_gemm_mode mode);

#endif
