/* Sixteen float lanes, whatever the machine has: one 512-bit register, two of 256 bits or four of 128. Operations on rows are
 * written once in terms of these; a reduction over lanes has one order (vf_sum), so it depends on the row's length alone.
 * exp and ln are our own polynomials, within about 1 ulp, so that no two callers meet two library versions. */
#ifndef TANDEM_KERNELS_CPU_LANES_H
#define TANDEM_KERNELS_CPU_LANES_H

#include <string.h>

#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

#if defined(TDM_ISA_avx512)
enum { VF_PART = 16, VF_PARTS = 1 };
typedef float vf_part __attribute__((vector_size(64)));
typedef uint32_t vu_part __attribute__((vector_size(64)));
#elif defined(TDM_ISA_avx2)
enum { VF_PART = 8, VF_PARTS = 2 };
typedef float vf_part __attribute__((vector_size(32)));
typedef uint32_t vu_part __attribute__((vector_size(32)));
#else
enum { VF_PART = 4, VF_PARTS = 4 };
typedef float vf_part __attribute__((vector_size(16)));
typedef uint32_t vu_part __attribute__((vector_size(16)));
#endif
enum { VF = 16 }; /* lanes */

typedef struct { vf_part p[VF_PARTS]; } vf;
typedef struct { vu_part p[VF_PARTS]; } vu; /* also masks: all ones or zero in a lane */

#define VF_INLINE static inline __attribute__((always_inline, unused))
#define VF_EACH for (int i = 0; i < VF_PARTS; i++)

/* ---- Moving ------------------------------------------------------------------------------------------------------------------ */

VF_INLINE vf vf_load(const float *x) { vf r; memcpy(&r, x, sizeof r); return r; }
VF_INLINE void vf_store(float *y, vf a) { memcpy(y, &a, sizeof a); }
VF_INLINE vu vu_load(const void *x) { vu r; memcpy(&r, x, sizeof r); return r; }
VF_INLINE void vu_store(void *y, vu a) { memcpy(y, &a, sizeof a); }
VF_INLINE vf vf_set(float x) { vf r; VF_EACH r.p[i] = x - (vf_part){0}; return r; }
VF_INLINE vu vu_set(uint32_t x) { vu r; VF_EACH r.p[i] = x - (vu_part){0}; return r; }
VF_INLINE vf vf_zero(void) { vf r; VF_EACH r.p[i] = (vf_part){0}; return r; }
VF_INLINE vu vu_lane(void) /* 0, 1, ..., 15 */
{
    static const uint32_t lane[VF] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vu_load(lane);
}
/* The first n lanes (0 < n <= 16), the others zero; nothing past n is touched. */
VF_INLINE vf vf_load_n(const float *x, int64_t n)
{
#if defined(TDM_ISA_avx512)
    return (vf){{(vf_part)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), x)}};
#else
    if (n >= VF) return vf_load(x);
    float t[VF] = {0};
    memcpy(t, x, (size_t)n * sizeof *t);
    return vf_load(t);
#endif
}
VF_INLINE void vf_store_n(float *y, vf a, int64_t n)
{
#if defined(TDM_ISA_avx512)
    _mm512_mask_storeu_ps(y, (__mmask16)((1u << n) - 1u), (__m512)a.p[0]);
#else
    if (n >= VF) {
        vf_store(y, a);
        return;
    }
    float t[VF];
    vf_store(t, a);
    memcpy(y, t, (size_t)n * sizeof *t);
#endif
}

/* ---- Arithmetic -------------------------------------------------------------------------------------------------------------- */

VF_INLINE vf vf_add(vf a, vf b) { VF_EACH a.p[i] += b.p[i]; return a; }
VF_INLINE vf vf_sub(vf a, vf b) { VF_EACH a.p[i] -= b.p[i]; return a; }
VF_INLINE vf vf_mul(vf a, vf b) { VF_EACH a.p[i] *= b.p[i]; return a; }
VF_INLINE vf vf_div(vf a, vf b) { VF_EACH a.p[i] /= b.p[i]; return a; }
VF_INLINE vf vf_fma(vf a, vf b, vf c) /* a b + c; two roundings where the machine has no fused form */
{
#if defined(TDM_ISA_avx512)
    return (vf){{(vf_part)_mm512_fmadd_ps((__m512)a.p[0], (__m512)b.p[0], (__m512)c.p[0])}};
#elif defined(TDM_ISA_avx2)
    VF_EACH c.p[i] = (vf_part)_mm256_fmadd_ps((__m256)a.p[i], (__m256)b.p[i], (__m256)c.p[i]);
    return c;
#else
    VF_EACH c.p[i] = a.p[i] * b.p[i] + c.p[i];
    return c;
#endif
}
VF_INLINE vf vf_sqrt(vf a)
{
#if defined(TDM_ISA_avx512)
    return (vf){{(vf_part)_mm512_sqrt_ps((__m512)a.p[0])}};
#elif defined(TDM_ISA_avx2)
    VF_EACH a.p[i] = (vf_part)_mm256_sqrt_ps((__m256)a.p[i]);
    return a;
#else
    VF_EACH for (int j = 0; j < VF_PART; j++) a.p[i][j] = __builtin_sqrtf(a.p[i][j]);
    return a;
#endif
}
VF_INLINE vf vf_of(vu a) { vf r; memcpy(&r, &a, sizeof r); return r; }
VF_INLINE vu vu_of(vf a) { vu r; memcpy(&r, &a, sizeof r); return r; }
VF_INLINE vu vu_add(vu a, vu b) { VF_EACH a.p[i] += b.p[i]; return a; }
VF_INLINE vu vu_sub(vu a, vu b) { VF_EACH a.p[i] -= b.p[i]; return a; }
VF_INLINE vu vu_and(vu a, vu b) { VF_EACH a.p[i] &= b.p[i]; return a; }
VF_INLINE vu vu_or(vu a, vu b) { VF_EACH a.p[i] |= b.p[i]; return a; }
VF_INLINE vu vu_shl(vu a, int n) { VF_EACH a.p[i] <<= n; return a; }
VF_INLINE vu vu_shr(vu a, int n) { VF_EACH a.p[i] >>= n; return a; }
VF_INLINE vu vf_lt(vf a, vf b) { vu r; VF_EACH r.p[i] = (vu_part)(a.p[i] < b.p[i]); return r; }
VF_INLINE vu vf_ge(vf a, vf b) { vu r; VF_EACH r.p[i] = (vu_part)(a.p[i] >= b.p[i]); return r; }
VF_INLINE vu vf_eq(vf a, vf b) { vu r; VF_EACH r.p[i] = (vu_part)(a.p[i] == b.p[i]); return r; }
VF_INLINE vu vu_lt(vu a, vu b) { vu r; VF_EACH r.p[i] = (vu_part)(a.p[i] < b.p[i]); return r; }
VF_INLINE vu vu_eq(vu a, vu b) { vu r; VF_EACH r.p[i] = (vu_part)(a.p[i] == b.p[i]); return r; }
/* a where the mask is set, b elsewhere. */
VF_INLINE vu vu_select(vu m, vu a, vu b) { VF_EACH a.p[i] = (m.p[i] & a.p[i]) | (~m.p[i] & b.p[i]); return a; }
VF_INLINE vf vf_select(vu m, vf a, vf b) { return vf_of(vu_select(m, vu_of(a), vu_of(b))); }
VF_INLINE vf vf_keep(vu m, vf a) { return vf_of(vu_and(m, vu_of(a))); } /* a where the mask is set, 0 elsewhere */
VF_INLINE vf vf_max(vf a, vf b) /* b where either is NaN */
{
#if defined(TDM_ISA_avx512)
    return (vf){{(vf_part)_mm512_max_ps((__m512)a.p[0], (__m512)b.p[0])}};
#elif defined(TDM_ISA_avx2)
    VF_EACH a.p[i] = (vf_part)_mm256_max_ps((__m256)a.p[i], (__m256)b.p[i]);
    return a;
#else
    return vf_select(vf_lt(b, a), a, b);
#endif
}
VF_INLINE vf vf_min(vf a, vf b) /* b where either is NaN */
{
#if defined(TDM_ISA_avx512)
    return (vf){{(vf_part)_mm512_min_ps((__m512)a.p[0], (__m512)b.p[0])}};
#elif defined(TDM_ISA_avx2)
    VF_EACH a.p[i] = (vf_part)_mm256_min_ps((__m256)a.p[i], (__m256)b.p[i]);
    return a;
#else
    return vf_select(vf_lt(a, b), a, b);
#endif
}
VF_INLINE uint32_t vu_bits(vu m) /* the mask, one bit a lane */
{
#if defined(TDM_ISA_avx512)
    return (uint32_t)_mm512_movepi32_mask((__m512i)m.p[0]);
#elif defined(TDM_ISA_avx2)
    return (uint32_t)_mm256_movemask_ps((__m256)m.p[0]) | (uint32_t)_mm256_movemask_ps((__m256)m.p[1]) << 8;
#else
    uint32_t bits = 0;
    for (int j = 0; j < VF; j++) bits |= (m.p[j / VF_PART][j % VF_PART] >> 31) << j;
    return bits;
#endif
}
VF_INLINE vu vu_from_bits(uint32_t bits) /* the low 16 bits as a mask */
{
#if defined(TDM_ISA_avx512)
    return (vu){{(vu_part)_mm512_movm_epi32((__mmask16)bits)}};
#else
    vu one = vu_set(1), lane = vu_lane(), r;
    VF_EACH r.p[i] = (vu_part)(((bits >> lane.p[i]) & one.p[i]) == one.p[i]);
    return r;
#endif
}
VF_INLINE float vf_sum(vf a) /* a tree: 8, 4, 2, 1 apart */
{
    float t[VF];
    vf_store(t, a);
    for (int half = VF / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) t[i] += t[i + half];
    return t[0];
}
VF_INLINE float vf_highest(vf a)
{
    float t[VF];
    vf_store(t, a);
    for (int i = 1; i < VF; i++) t[0] = t[i] > t[0] ? t[i] : t[0];
    return t[0];
}

/* ---- BF16 and E4M3 ----------------------------------------------------------------------------------------------------------- */

VF_INLINE vu vu_load_u16(const uint16_t *x)
{
#if defined(TDM_ISA_avx512)
    return (vu){{(vu_part)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)x))}};
#elif defined(TDM_ISA_avx2)
    vu r;
    VF_EACH r.p[i] = (vu_part)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(x + 8 * i)));
    return r;
#else
    uint16_t h[VF];
    uint32_t t[VF];
    memcpy(h, x, sizeof h);
    for (int i = 0; i < VF; i++) t[i] = h[i];
    return vu_load(t);
#endif
}
VF_INLINE vu vu_load_u8(const uint8_t *x)
{
#if defined(TDM_ISA_avx512)
    return (vu){{(vu_part)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)x))}};
#else
    uint32_t t[VF];
    for (int i = 0; i < VF; i++) t[i] = x[i];
    return vu_load(t);
#endif
}
VF_INLINE void vu_store_u16(uint16_t *y, vu a) /* the low halves */
{
#if defined(TDM_ISA_avx512)
    _mm256_storeu_si256((__m256i *)(void *)y, _mm512_cvtepi32_epi16((__m512i)a.p[0]));
#elif defined(TDM_ISA_avx2)
    const __m256i packed = _mm256_packus_epi32((__m256i)a.p[0], (__m256i)a.p[1]); /* halves interleaved by 128-bit lane */
    _mm256_storeu_si256((__m256i *)(void *)y, _mm256_permute4x64_epi64(packed, 0xd8));
#else
    uint16_t h[VF];
    uint32_t t[VF];
    vu_store(t, a);
    for (int i = 0; i < VF; i++) h[i] = (uint16_t)t[i];
    memcpy(y, h, sizeof h); /* the memory may be pairs to its other readers */
#endif
}
VF_INLINE vf vf_load_bf16(const uint16_t *x) { return vf_of(vu_shl(vu_load_u16(x), 16)); }
VF_INLINE vf vf_load_bf16_n(const uint16_t *x, int64_t n)
{
    if (n >= VF) return vf_load_bf16(x);
    uint16_t t[VF] = {0};
    memcpy(t, x, (size_t)n * sizeof *t);
    return vf_load_bf16(t);
}
/* To nearest even, in the low half of each lane; NaN stays NaN (tdm_f32_to_bf16, lane by lane). */
VF_INLINE vu vf_to_bf16(vf a)
{
    const vu u = vu_of(a);
    const vu high = vu_shr(u, 16);
    const vu even = vu_shr(vu_add(u, vu_add(vu_set(0x7fff), vu_and(high, vu_set(1)))), 16);
    const vu number = vu_lt(vu_and(u, vu_set(0x7fffffffu)), vu_set(0x7f800001u));
    return vu_select(number, even, vu_or(high, vu_set(0x40)));
}
VF_INLINE void vf_store_bf16(uint16_t *y, vf a) { vu_store_u16(y, vf_to_bf16(a)); }
VF_INLINE void vf_store_bf16_n(uint16_t *y, vf a, int64_t n)
{
    if (n >= VF) {
        vf_store_bf16(y, a);
        return;
    }
    uint16_t t[VF];
    vf_store_bf16(t, a);
    memcpy(y, t, (size_t)n * sizeof *t);
}
/* The value of an e4m3 code in the low byte of each lane. The code's bits, moved to where f32 has them, are 2^120 too small,
 * subnormals included. */
VF_INLINE vf vf_from_e4m3(vu code)
{
    const vu magnitude = vu_and(code, vu_set(0x7f));
    const vf v = vf_mul(vf_of(vu_shl(magnitude, 20)), vf_set(0x1p120f));
    const vu number = vu_lt(magnitude, vu_set(0x7f));
    const vu value = vu_select(number, vu_of(v), vu_set(0x7fc00000u));
    return vf_of(vu_or(value, vu_shl(vu_and(code, vu_set(0x80)), 24)));
}

/* acc + a . b over a pair of bf16 in each lane, `b` the same pair for all lanes. */
VF_INLINE vf vf_dot_pair(vf acc, vu a, uint32_t b)
{
#if defined(TDM_ISA_avx512)
    return (vf){{(vf_part)_mm512_dpbf16_ps((__m512)acc.p[0], (__m512bh)a.p[0], (__m512bh)_mm512_set1_epi32((int)b))}};
#else
    const vu high = vu_set(0xffff0000u);
    acc = vf_fma(vf_of(vu_shl(a, 16)), vf_of(vu_set(b << 16)), acc);
    return vf_fma(vf_of(vu_and(a, high)), vf_of(vu_and(vu_set(b), high)), acc);
#endif
}

/* ---- exp and ln -------------------------------------------------------------------------------------------------------------- */

/* e^x. Below -104 it is 0 (so is e^-inf), above 89 infinite; NaN stays NaN.
 * x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r^2 q(r), q of degree 4 fitted on Chebyshev nodes, error 5e-9. */
VF_INLINE vf vf_exp(vf x)
{
    const vf magic = vf_set(0x1.8p23f); /* adding it rounds to an integer, kept in the low bits */
    const vf c = vf_max(vf_set(-104.0f), vf_min(vf_set(89.0f), x));
    const vf t = vf_fma(c, vf_set(0x1.715476p0f), magic);
    const vf n = vf_sub(t, magic);
    vf r = vf_fma(n, vf_set(-0.693359375f), c); /* ln 2 in two parts; the first has few bits, so that n times it is exact */
    r = vf_fma(n, vf_set(2.12194440e-4f), r);
    vf q = vf_set(0x1.6d96a2p-10f);
    q = vf_fma(q, r, vf_set(0x1.123ceep-7f));
    q = vf_fma(q, r, vf_set(0x1.55548p-5f));
    q = vf_fma(q, r, vf_set(0x1.55548cp-3f));
    q = vf_fma(q, r, vf_set(0.5f));
    const vf e = vf_add(vf_fma(vf_mul(r, r), q, r), vf_set(1.0f));
#if defined(TDM_ISA_avx512)
    const vf y = {{(vf_part)_mm512_scalef_ps((__m512)e.p[0], (__m512)n.p[0])}};
#else
    /* 2^n in two factors, so that n = -150 and n = 128 go through numbers that exist; biased by 300 to halve it unsigned */
    const vu biased = vu_add(vu_sub(vu_of(t), vu_set(0x4b400000u)), vu_set(300)), half = vu_shr(biased, 1);
    const vu a = vu_shl(vu_sub(half, vu_set(150 - 127)), 23), b = vu_shl(vu_sub(vu_sub(biased, half), vu_set(150 - 127)), 23);
    const vf y = vf_mul(vf_mul(e, vf_of(a)), vf_of(b));
#endif
    return vf_keep(vu_or(vf_ge(x, vf_set(-104.0f)), vu_lt(vu_set(0x7f800000u), vu_and(vu_of(x), vu_set(0x7fffffffu)))), y);
}

/* ln x for x > 0, subnormals included; 0 gives -inf, infinity itself, NaN and x < 0 NaN.
 * x = 2^n m, m in [sqrt 1/2, sqrt 2); ln m by the polynomial of Cephes' logf (Moshier), peak error 7e-8. */
VF_INLINE vf vf_log(vf x)
{
    const vu tiny = vf_lt(x, vf_set(0x1p-126f));
    const vf scaled = vf_select(tiny, vf_mul(x, vf_set(0x1p23f)), x);
    const vu u = vu_of(scaled);
    /* adding the distance from sqrt 1/2 to 1 carries into the exponent exactly when m is past sqrt 2 */
    const vu shifted = vu_add(u, vu_set(0x3f800000u - 0x3f3504f3u));
    const vu m_bits = vu_add(vu_and(shifted, vu_set(0x007fffffu)), vu_set(0x3f3504f3u));
    const vu e_biased = vu_shr(shifted, 23);
    /* an integer below 2^23 to float without a conversion: put it behind the bits of 2^23 */
    vf n = vf_sub(vf_of(vu_or(e_biased, vu_set(0x4b000000u))), vf_set(0x1p23f + 127.0f));
    n = vf_sub(n, vf_keep(tiny, vf_set(23.0f)));
    const vf f = vf_sub(vf_of(m_bits), vf_set(1.0f));
    const vf z = vf_mul(f, f);
    vf p = vf_set(7.0376836292e-2f);
    p = vf_fma(p, f, vf_set(-1.1514610310e-1f));
    p = vf_fma(p, f, vf_set(1.1676998740e-1f));
    p = vf_fma(p, f, vf_set(-1.2420140846e-1f));
    p = vf_fma(p, f, vf_set(1.4249322787e-1f));
    p = vf_fma(p, f, vf_set(-1.6668057665e-1f));
    p = vf_fma(p, f, vf_set(2.0000714765e-1f));
    p = vf_fma(p, f, vf_set(-2.4999993993e-1f));
    p = vf_fma(p, f, vf_set(3.3333331174e-1f));
    vf y = vf_mul(vf_mul(p, f), z);
    y = vf_fma(n, vf_set(-2.12194440e-4f), y);
    y = vf_fma(z, vf_set(-0.5f), y);
    y = vf_add(f, y);
    y = vf_fma(n, vf_set(0.693359375f), y);
    y = vf_select(vf_eq(x, vf_zero()), vf_set(-__builtin_inff()), y);
    y = vf_select(vf_eq(x, vf_set(__builtin_inff())), x, y);
    return vf_select(vf_ge(x, vf_zero()), y, vf_set(__builtin_nanf("")));
}

/* The same functions for one number, the same bits. */
VF_INLINE float vf_exp1(float x) { float t[VF]; vf_store(t, vf_exp(vf_set(x))); return t[0]; }
VF_INLINE float vf_log1(float x) { float t[VF]; vf_store(t, vf_log(vf_set(x))); return t[0]; }

/* ---- Rows of views ----------------------------------------------------------------------------------------------------------- */

VF_INLINE float *tdm_row_f32(tdm_view v, int64_t row) { return (float *)v.data + row * v.stride; }
VF_INLINE uint16_t *tdm_row_bf16(tdm_view v, int64_t row) { return (uint16_t *)v.data + row * v.stride; }
VF_INLINE const float *tdm_crow_f32(tdm_cview v, int64_t row) { return (const float *)v.data + row * v.stride; }
VF_INLINE const uint16_t *tdm_crow_bf16(tdm_cview v, int64_t row) { return (const uint16_t *)v.data + row * v.stride; }

#endif
