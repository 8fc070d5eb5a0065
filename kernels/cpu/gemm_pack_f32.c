/* Packing where the product is f32: every element widened to f32, the two of a pair exchanged. */
#include "kernels/cpu/common/e4m3.h"
#include "kernels/cpu/vec.h"

#include <assert.h>

#if !defined(TDM_ISA_avx512)

enum { LANES = TDM_GEMM_LANES, STRIP = 64 };

/* n values of a row from column k on, widened, each times scale and rounded to bf16 where that is asked for. */
static void widen(float *restrict out, tdm_cview m, int64_t row, int64_t k, int64_t n)
{
    if (m.dtype == TDM_DTYPE_E4M3) {
        const uint8_t *restrict in = (const uint8_t *)m.data + row * m.stride + k;
        for (int64_t i = 0; i < n; i++) out[i] = tdm_e4m3_expand(in[i]);
    } else {
        const uint16_t *restrict in = (const uint16_t *)m.data + row * m.stride + k;
        for (int64_t i = 0; i < n; i++) out[i] = tdm_bf16_expand(in[i]);
    }
}

static void dequant(float *restrict v, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) v[i] = tdm_bf16_expand(tdm_bf16_round(v[i] * scale));
}

static float source_scale(const tdm_weight *w, int64_t row, int64_t col)
{
    const float *scale = w->scale.data;
    if (w->scheme == TDM_SCHEME_FP8_TENSOR) return scale[0];
    if (w->scheme == TDM_SCHEME_FP8_CHANNEL) return scale[row * w->scale.stride];
    return scale[row / TDM_FP8_BLOCK * w->scale.stride + col / TDM_FP8_BLOCK];
}

/* LANES rows of a strip to LANES vectors, a vector a column; the two columns of a pair are exchanged. */
#if defined(TDM_ISA_avx2)
static inline void transpose(float *out, int64_t width, float in[LANES][STRIP], int64_t c)
{
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(&in[i][c]);
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0x44);
            r[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(out + (i ^ 1) * width, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(out + ((i + 4) ^ 1) * width, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}
#else
static inline void transpose(float *out, int64_t width, float in[LANES][STRIP], int64_t c)
{
    static_assert(LANES == 4, "four rows, four columns");
    const tdm_vec a = tdm_vec_load(&in[0][c]), b = tdm_vec_load(&in[1][c]);
    const tdm_vec d = tdm_vec_load(&in[2][c]), e = tdm_vec_load(&in[3][c]);
    const tdm_vec lo0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), hi0 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const tdm_vec lo1 = __builtin_shufflevector(d, e, 0, 4, 1, 5), hi1 = __builtin_shufflevector(d, e, 2, 6, 3, 7);
    tdm_vec_store(out + 1 * width, __builtin_shufflevector(lo0, lo1, 0, 1, 4, 5));
    tdm_vec_store(out + 0 * width, __builtin_shufflevector(lo0, lo1, 2, 3, 6, 7));
    tdm_vec_store(out + 3 * width, __builtin_shufflevector(hi0, hi1, 0, 1, 4, 5));
    tdm_vec_store(out + 2 * width, __builtin_shufflevector(hi0, hi1, 2, 3, 6, 7));
}
#endif

/* Lanes are rows of the matrix: strips of LANES rows are widened, then transposed. */
static void pack_rows(float *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc)
{
    const int64_t width = tdm_ceil_div(lanes, LANES) * LANES;
    float strip[LANES][STRIP];
    for (int64_t j = 0; j < width; j += LANES)
        for (int64_t k = 0; k < kc; k += STRIP) {
            const int64_t n = tdm_min_i64(STRIP, kc - k), full = tdm_ceil_div(n, LANES) * LANES;
            for (int64_t i = 0; i < LANES; i++) {
                const int64_t present = j + i < lanes ? n : 0;
                if (present) widen(strip[i], p->m, j0 + j + i, k0 + k, n);
                for (int64_t c = present; c < full; c++) strip[i][c] = 0.0f;
            }
            for (int64_t c = 0; c < full; c += LANES) transpose(panel + (k + c) * width + j, width, strip, c);
        }
}

/* Lanes are columns: rows are copied. */
static void pack_cols(float *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc)
{
    const int64_t width = tdm_ceil_div(lanes, LANES) * LANES, even = (kc + 1) / 2 * 2;
    const bool scaled = p->dequant && p->dequant->scheme != TDM_SCHEME_BF16;
    for (int64_t k = 0; k < even; k++) {
        float *out = panel + (k ^ 1) * width;
        const int64_t n = k < kc ? lanes : 0;
        if (n) widen(out, p->m, k0 + k, j0, n);
        if (n && scaled) dequant(out, n, source_scale(p->dequant, k0 + k, j0));
        for (int64_t j = n; j < width; j++) out[j] = 0.0f;
    }
}

void TDM_CPU(gemm_pack)(tdm_gemm_elem *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc,
                        tdm_gemm_ahead *ahead)
{
    (void)ahead;
    (p->transposed ? pack_rows : pack_cols)(panel, p, j0, lanes, k0, kc);
}

/* ---- A ----------------------------------------------------------------------------------------------------------------------- */

bool TDM_CPU(gemm_in_place)(tdm_cview x)
{
    (void)x;
    return false;
}

typedef struct expand_job {
    tdm_cview x;
    tdm_gemm_elem *out;
} expand_job;

static void expand_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const expand_job *jb = ctx;
    const int64_t cols = jb->x.cols, stride = tdm_gemm_row_elems(cols);
    (void)thread;
    for (int64_t t = first; t < last; t++)
        for (int64_t k = 0; k < cols; k += STRIP) {
            float strip[STRIP] = {0};
            widen(strip, jb->x, t, k, tdm_min_i64(STRIP, cols - k));
            float *out = jb->out + t * stride + k;
            for (int64_t c = 0; c < STRIP; c++) out[c] = strip[c ^ 1];
        }
}

tdm_gemm_rows TDM_CPU(gemm_expand)(const tdm_stream *s, tdm_cview x, tdm_gemm_elem *scratch)
{
    expand_job jb = {x, scratch};
    tdm_cpu_parallel(s, x.rows, tdm_ceil_div(65536, tdm_max_i64(x.cols, 1)), expand_rows, &jb);
    return (tdm_gemm_rows){scratch, tdm_gemm_row_elems(x.cols)};
}

#else
typedef int tdm_gemm_pack_is_elsewhere; /* gemm_pack_avx512.c; a source file is never empty */
#endif
