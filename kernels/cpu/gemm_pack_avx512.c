/* Packing for VDPBF16PS: bf16 pairs of k in one 32-bit lane. e4m3 becomes bf16 by two lookups, one for each byte. */
#include "kernels/cpu/vec.h"

#if defined(TDM_ISA_avx512)

enum { LANES = TDM_GEMM_LANES };

/* High and low byte of bf16(c) for c in 0..127; bit 7 is the sign, put in afterwards. */
typedef struct tables {
    __m512i high[2], low[2], sign;
} tables;

/* e4m3 S.EEEE.MMM is bf16 S.(EEEE + 120).MMM0000; subnormals m 2^-9 are normal numbers in bf16. */
#define HIGH(c) (uint8_t)((c) == 0 ? 0 : (c) == 1 ? 0x3b : (c) < 4 ? 0x3b : (c) < 8 ? 0x3c : (c) == 127 ? 0x7f : (((c) >> 3) + 120) >> 1)
#define LOW(c)                                                                                                         \
    (uint8_t)((c) == 0   ? 0                                                                                           \
              : (c) == 1 ? 0x00                                                                                        \
              : (c) < 4  ? 0x80 | ((c)&1) << 6                                                                         \
              : (c) < 8  ? ((c)&3) << 5                                                                                \
              : (c) == 127 ? 0xc0                                                                                      \
                           : (((((c) >> 3) + 120) & 1) << 7) | ((c)&7) << 4)
#define ROW8(f, c) f(c), f((c) + 1), f((c) + 2), f((c) + 3), f((c) + 4), f((c) + 5), f((c) + 6), f((c) + 7)
#define ROW64(f, c)                                                                                                    \
    ROW8(f, c), ROW8(f, (c) + 8), ROW8(f, (c) + 16), ROW8(f, (c) + 24), ROW8(f, (c) + 32), ROW8(f, (c) + 40),          \
        ROW8(f, (c) + 48), ROW8(f, (c) + 56)
static const uint8_t high_bytes[128] = {ROW64(HIGH, 0), ROW64(HIGH, 64)};
static const uint8_t low_bytes[128] = {ROW64(LOW, 0), ROW64(LOW, 64)};

static inline tables tables_load(void)
{
    return (tables){{_mm512_loadu_si512(high_bytes), _mm512_loadu_si512(high_bytes + 64)},
                    {_mm512_loadu_si512(low_bytes), _mm512_loadu_si512(low_bytes + 64)},
                    _mm512_set1_epi8((char)0x80)};
}
static inline __m512i bytes_high(const tables *t, __m512i codes)
{
    const __m512i high = _mm512_permutex2var_epi8(t->high[0], codes, t->high[1]);
    return _mm512_ternarylogic_epi32(high, codes, t->sign, 0xf8); /* high | (codes & sign) */
}
static inline __m512i bytes_low(const tables *t, __m512i codes) { return _mm512_permutex2var_epi8(t->low[0], codes, t->low[1]); }

/* First n of 64 bytes, or of 32 words; n at most 0 is none. */
static inline __mmask64 first_bytes(int64_t n) { return n >= 64 ? ~0ull : n <= 0 ? 0 : (1ull << n) - 1; }
static inline __mmask32 first_words(int64_t n) { return n >= 32 ? ~0u : n <= 0 ? 0 : (1u << n) - 1; }

/* In: r[4q + i] the 64 bytes of row 4q + i. Out: r[4 c + i], whose 128-bit part q is part c of row 4q + i. */
static inline void exchange_parts(__m512i r[16])
{
    for (int i = 0; i < 4; i++) {
        const __m512i ab02 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88), ab13 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        const __m512i cd02 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88), cd13 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
        r[i] = _mm512_shuffle_i32x4(ab02, cd02, 0x88);
        r[4 + i] = _mm512_shuffle_i32x4(ab13, cd13, 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(ab02, cd02, 0xdd);
        r[12 + i] = _mm512_shuffle_i32x4(ab13, cd13, 0xdd);
    }
}

/* t: two pairs of 16 rows each, a pair in the low and one in the high half of every 128 bits. */
static inline void put_codes(tdm_gemm_elem *at, int64_t step, const tables *tab, __m512i t)
{
    const __m512i high = bytes_high(tab, t), low = bytes_low(tab, t);
    _mm512_storeu_si512(at, _mm512_unpacklo_epi8(low, high));
    _mm512_storeu_si512(at + step, _mm512_unpackhi_epi8(low, high));
}

/* 16 rows x 64 columns of e4m3 to 32 pairs; `step` elements from a pair to the next. */
static inline void transpose_codes(tdm_gemm_elem *at, int64_t step, const tables *tab, __m512i r[16])
{
    exchange_parts(r);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512i *x = r + 4 * c;
        const __m512i lo01 = _mm512_unpacklo_epi16(x[0], x[1]), hi01 = _mm512_unpackhi_epi16(x[0], x[1]);
        const __m512i lo23 = _mm512_unpacklo_epi16(x[2], x[3]), hi23 = _mm512_unpackhi_epi16(x[2], x[3]);
        put_codes(at + (8 * c + 0) * step, step, tab, _mm512_unpacklo_epi32(lo01, lo23));
        put_codes(at + (8 * c + 2) * step, step, tab, _mm512_unpackhi_epi32(lo01, lo23));
        put_codes(at + (8 * c + 4) * step, step, tab, _mm512_unpacklo_epi32(hi01, hi23));
        put_codes(at + (8 * c + 6) * step, step, tab, _mm512_unpackhi_epi32(hi01, hi23));
    }
}

/* 16 rows x 32 columns of bf16 to 16 pairs. */
static inline void transpose_words(tdm_gemm_elem *at, int64_t step, __m512i r[16])
{
    exchange_parts(r);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512i *x = r + 4 * c;
        const __m512i lo01 = _mm512_unpacklo_epi32(x[0], x[1]), hi01 = _mm512_unpackhi_epi32(x[0], x[1]);
        const __m512i lo23 = _mm512_unpacklo_epi32(x[2], x[3]), hi23 = _mm512_unpackhi_epi32(x[2], x[3]);
        _mm512_storeu_si512(at + (4 * c + 0) * step, _mm512_unpacklo_epi64(lo01, lo23));
        _mm512_storeu_si512(at + (4 * c + 1) * step, _mm512_unpackhi_epi64(lo01, lo23));
        _mm512_storeu_si512(at + (4 * c + 2) * step, _mm512_unpacklo_epi64(hi01, hi23));
        _mm512_storeu_si512(at + (4 * c + 3) * step, _mm512_unpackhi_epi64(hi01, hi23));
    }
}

/* A step of packing reads 16 lines far apart, which no prefetcher follows; meanwhile the next panel is asked for in its own order. */
TDM_INLINE void ask(tdm_gemm_ahead *ahead)
{
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm_prefetch(ahead->at + 64 * i, _MM_HINT_T1);
    ahead->at = ahead->at + 64 * 16 < ahead->end ? ahead->at + 64 * 16 : ahead->end;
}

/* One step: 16 rows (fewer where not `whole`), 64 bytes of each. */
TDM_INLINE void pack_step(tdm_gemm_elem *at, int64_t step, const tables *tab, const char *from, int64_t row_bytes, int64_t rows,
                          __mmask64 mask, bool codes, bool whole)
{
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        if (whole)
            r[i] = _mm512_loadu_si512(from + i * row_bytes);
        else
            r[i] = i < rows ? _mm512_maskz_loadu_epi8(mask, from + i * row_bytes) : _mm512_setzero_si512();
    if (codes)
        transpose_codes(at, step, tab, r);
    else
        transpose_words(at, step, r);
}

/* Lanes are rows of the matrix: 16 of them at a time are transposed. */
TDM_INLINE void pack_rows(tdm_gemm_elem *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc,
                          tdm_gemm_ahead *ahead, bool codes)
{
    const tables tab = tables_load();
    const int64_t step = tdm_ceil_div(lanes, LANES) * LANES * 2, size = codes ? 1 : 2, width = 64 / size;
    const int64_t row_bytes = p->m.stride * size;
    for (int64_t j = 0; j < lanes; j += LANES) {
        const char *from = (const char *)p->m.data + (j0 + j) * row_bytes + k0 * size;
        const int64_t rows = tdm_min_i64(LANES, lanes - j);
        for (int64_t k = 0; k < kc; k += width, from += 64) {
            tdm_gemm_elem *at = panel + k / 2 * step + j * 2;
            ask(ahead);
            if (rows == LANES && k + width <= kc)
                pack_step(at, step, &tab, from, row_bytes, rows, 0, codes, true);
            else
                pack_step(at, step, &tab, from, row_bytes, rows, first_bytes(size * (kc - k)), codes, false);
        }
    }
}

/* Apart, so that each is compiled for its own dtype. */
static void pack_rows_codes(tdm_gemm_elem *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc,
                            tdm_gemm_ahead *ahead)
{
    pack_rows(panel, p, j0, lanes, k0, kc, ahead, true);
}
static void pack_rows_words(tdm_gemm_elem *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc,
                            tdm_gemm_ahead *ahead)
{
    pack_rows(panel, p, j0, lanes, k0, kc, ahead, false);
}

/* bf16(code * scale) of 64 codes as they stand, 16 a vector, still in f32 and not yet rounded. */
static inline void dequant_codes(__m512 out[4], const tables *tab, __m512i codes, __m512 scale)
{
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        /* code i of this quarter into bytes 2 and 3 of lane i; only those two are looked up */
        const __m512i index = _mm512_add_epi32(
            _mm512_set_epi32(0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909, 0x08080808,
                             0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0),
            _mm512_set1_epi32(q * 0x10101010));
        const __m512i spread = _mm512_permutexvar_epi8(index, codes);
        const __m512i low = _mm512_maskz_permutex2var_epi8(0x4444444444444444ull, tab->low[0], spread, tab->low[1]);
        const __m512i high = _mm512_maskz_permutex2var_epi8(0x8888888888888888ull, tab->high[0], spread, tab->high[1]);
        const __m512i both = _mm512_or_si512(low, high);
        const __m512i value = _mm512_ternarylogic_epi32(both, spread, _mm512_set1_epi32((int)0x80000000u), 0xf8);
        out[q] = _mm512_mul_ps((__m512)value, scale);
    }
}

static float source_scale(const tdm_gemm_source *p, int64_t row, int64_t col)
{
    const tdm_weight *w = p->dequant;
    const float *scale = w ? w->scale.data : NULL;
    if (!w || w->scheme == TDM_SCHEME_BF16) return 1.0f;
    if (w->scheme == TDM_SCHEME_FP8_TENSOR) return scale[0];
    if (w->scheme == TDM_SCHEME_FP8_CHANNEL) return scale[row * w->scale.stride];
    return scale[row / TDM_FP8_BLOCK * w->scale.stride + col / TDM_FP8_BLOCK];
}

/* Lanes are columns: rows k and k + 1 are laid side by side. */
static void pack_cols_codes(tdm_gemm_elem *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc)
{
    const tables tab = tables_load();
    const int64_t vectors = tdm_ceil_div(lanes, LANES), stride = p->m.stride;
    const __mmask64 mask = first_bytes(lanes);
    const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                           19, 3, 18, 2, 17, 1, 16, 0);
    const uint8_t *base = (const uint8_t *)p->m.data + j0;
    for (int64_t k = 0; k < kc; k += 2) {
        const int64_t row = k0 + k, other = k + 1 < kc ? row + 1 : row;
        const uint8_t *from = base + row * stride;
        __m512 even[4], odd[4];
        dequant_codes(even, &tab, _mm512_maskz_loadu_epi8(mask, from), _mm512_set1_ps(source_scale(p, row, j0)));
        dequant_codes(odd, &tab, _mm512_maskz_loadu_epi8(k + 1 < kc ? mask : 0, base + other * stride),
                      _mm512_set1_ps(source_scale(p, other, j0)));
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            if (v >= vectors) break;
            const __m512i words = (__m512i)_mm512_cvtne2ps_pbh(odd[v], even[v]);
            _mm512_storeu_si512(panel + (k / 2 * vectors + v) * 2 * LANES, _mm512_permutexvar_epi16(pairs, words));
        }
    }
}

static void pack_cols_words(tdm_gemm_elem *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc)
{
    const int64_t vectors = tdm_ceil_div(lanes, LANES), stride = p->m.stride;
    const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                           19, 3, 18, 2, 17, 1, 16, 0);
    const uint16_t *base = (const uint16_t *)p->m.data + j0;
    for (int64_t k = 0; k < kc; k += 2)
        for (int64_t v = 0; v < vectors; v++) {
            const __mmask16 mask = (__mmask16)first_words(tdm_min_i64(LANES, lanes - v * LANES));
            const uint16_t *from = base + (k0 + k) * stride + v * LANES;
            const __m256i even = _mm256_maskz_loadu_epi16(mask, from);
            const __m256i odd = k + 1 < kc ? _mm256_maskz_loadu_epi16(mask, from + stride) : _mm256_setzero_si256();
            const __m512i words = _mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1);
            _mm512_storeu_si512(panel + (k / 2 * vectors + v) * 2 * LANES, _mm512_permutexvar_epi16(pairs, words));
        }
}

void TDM_CPU(gemm_pack)(tdm_gemm_elem *panel, const tdm_gemm_source *p, int64_t j0, int64_t lanes, int64_t k0, int64_t kc,
                        tdm_gemm_ahead *ahead)
{
    const bool codes = p->m.dtype == TDM_DTYPE_E4M3;
    if (p->transposed)
        (codes ? pack_rows_codes : pack_rows_words)(panel, p, j0, lanes, k0, kc, ahead);
    else
        (codes ? pack_cols_codes : pack_cols_words)(panel, p, j0, lanes, k0, kc);
}

/* ---- A ----------------------------------------------------------------------------------------------------------------------- */

bool TDM_CPU(gemm_in_place)(tdm_cview x) { return x.dtype == TDM_DTYPE_BF16 && x.cols % 2 == 0; }

typedef struct expand_job {
    tdm_cview x;
    tdm_gemm_elem *out;
} expand_job;

static void expand_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const expand_job *jb = ctx;
    const tables tab = tables_load();
    const int64_t cols = jb->x.cols, stride = tdm_gemm_row_elems(cols);
    const __m512i twice = _mm512_set_epi8(31, 31, 30, 30, 29, 29, 28, 28, 27, 27, 26, 26, 25, 25, 24, 24, 23, 23, 22, 22, 21, 21, 20,
                                          20, 19, 19, 18, 18, 17, 17, 16, 16, 15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9,
                                          8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        tdm_gemm_elem *out = jb->out + t * stride;
        if (jb->x.dtype == TDM_DTYPE_BF16) {
            memcpy(out, (const uint16_t *)jb->x.data + t * jb->x.stride, (size_t)cols * sizeof *out);
            out[cols] = 0; /* cols is odd here, so the row has room */
            continue;
        }
        const uint8_t *in = (const uint8_t *)jb->x.data + t * jb->x.stride;
        for (int64_t k = 0; k < cols; k += 32) {
            const __m256i half = _mm256_maskz_loadu_epi8(first_words(cols - k), in + k);
            const __m512i codes = _mm512_permutexvar_epi8(twice, _mm512_castsi256_si512(half));
            const __m512i words = _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaaull, bytes_low(&tab, codes), bytes_high(&tab, codes));
            _mm512_storeu_si512(out + k, words);
        }
    }
}

tdm_gemm_rows TDM_CPU(gemm_expand)(const tdm_stream *s, tdm_cview x, tdm_gemm_elem *scratch)
{
    if (TDM_CPU(gemm_in_place)(x)) return (tdm_gemm_rows){x.data, x.stride};
    expand_job jb = {x, scratch};
    tdm_cpu_parallel(s, x.rows, tdm_ceil_div(65536, tdm_max_i64(x.cols, 1)), expand_rows, &jb);
    return (tdm_gemm_rows){scratch, tdm_gemm_row_elems(x.cols)};
}

#else
typedef int tdm_gemm_pack_is_elsewhere; /* gemm_pack_f32.c; a source file is never empty */
#endif
