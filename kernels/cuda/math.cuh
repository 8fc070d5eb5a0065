// exp and ln of kernels/cpu/lanes.h on the device: the same polynomials in the same order, so that both backends round alike.
#pragma once

#include <stdint.h>

// e^x. Below -104 it is 0 (so is e^-inf), above 89 infinite; NaN stays NaN.
static __device__ __forceinline__ float tdm_exp(float x)
{
    const float c = fmaxf(-104.0f, fminf(89.0f, x));
    const float t = __fmaf_rn(c, 0x1.715476p0f, 0x1.8p23f); // adding the magic number rounds to an integer, kept in the low bits
    const float n = __fadd_rn(t, -0x1.8p23f);
    float r = __fmaf_rn(n, -0.693359375f, c);
    r = __fmaf_rn(n, 2.12194440e-4f, r);
    float q = 0x1.6d96a2p-10f;
    q = __fmaf_rn(q, r, 0x1.123ceep-7f);
    q = __fmaf_rn(q, r, 0x1.55548p-5f);
    q = __fmaf_rn(q, r, 0x1.55548cp-3f);
    q = __fmaf_rn(q, r, 0.5f);
    const float e = __fadd_rn(__fmaf_rn(__fmul_rn(r, r), q, r), 1.0f);
    // 2^n in two factors, so that n = -150 and n = 128 go through numbers that exist; biased by 300 to halve it unsigned
    const uint32_t biased = __float_as_uint(t) - 0x4b400000u + 300u, half = biased >> 1;
    const uint32_t a = (half - (150u - 127u)) << 23, b = (biased - half - (150u - 127u)) << 23;
    const float y = __fmul_rn(__fmul_rn(e, __uint_as_float(a)), __uint_as_float(b));
    if (x != x) return x;
    return x >= -104.0f ? y : 0.0f;
}

// ln x for x > 0, subnormals included; 0 gives -inf, infinity itself, NaN and x < 0 NaN.
static __device__ __forceinline__ float tdm_log(float x)
{
    const bool tiny = x < 0x1p-126f;
    const uint32_t u = __float_as_uint(tiny ? __fmul_rn(x, 0x1p23f) : x);
    const uint32_t shifted = u + (0x3f800000u - 0x3f3504f3u); // carries into the exponent exactly when m is past sqrt 2
    const uint32_t m_bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
    float n = __fadd_rn(__uint_as_float((shifted >> 23) | 0x4b000000u), -(0x1p23f + 127.0f));
    if (tiny) n = __fadd_rn(n, -23.0f);
    const float f = __fadd_rn(__uint_as_float(m_bits), -1.0f), z = __fmul_rn(f, f);
    float p = 7.0376836292e-2f;
    p = __fmaf_rn(p, f, -1.1514610310e-1f);
    p = __fmaf_rn(p, f, 1.1676998740e-1f);
    p = __fmaf_rn(p, f, -1.2420140846e-1f);
    p = __fmaf_rn(p, f, 1.4249322787e-1f);
    p = __fmaf_rn(p, f, -1.6668057665e-1f);
    p = __fmaf_rn(p, f, 2.0000714765e-1f);
    p = __fmaf_rn(p, f, -2.4999993993e-1f);
    p = __fmaf_rn(p, f, 3.3333331174e-1f);
    float y = __fmul_rn(__fmul_rn(p, f), z);
    y = __fmaf_rn(n, -2.12194440e-4f, y);
    y = __fmaf_rn(z, -0.5f, y);
    y = __fadd_rn(f, y);
    y = __fmaf_rn(n, 0.693359375f, y);
    if (x == 0.0f) return __uint_as_float(0xff800000u);
    if (x == __uint_as_float(0x7f800000u)) return x;
    return x >= 0.0f ? y : __uint_as_float(0x7fc00000u);
}

// An id that lies outside its table is the caller's bug: the fault comes out at the next sync.
static __device__ __forceinline__ int32_t tdm_checked(int32_t id, int64_t rows)
{
    if (id < 0 || id >= rows) __trap();
    return id;
}
