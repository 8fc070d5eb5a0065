/* e4m3 and bf16 conversions without branches, for loops that the compiler turns into vector code. */
#ifndef TANDEM_KERNELS_CPU_COMMON_E4M3_H
#define TANDEM_KERNELS_CPU_COMMON_E4M3_H

#include <stdint.h>

static inline float tdm_bits_f32(uint32_t u)
{
    union { uint32_t u; float f; } v = {u};
    return v.f;
}
static inline uint32_t tdm_f32_bits(float f)
{
    union { float f; uint32_t u; } v = {f};
    return v.u;
}

static inline float tdm_e4m3_expand(uint8_t code)
{
    const uint32_t magnitude = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 24;
    const uint32_t normal = (magnitude << 20) + (120u << 23);
    /* exponent 0: (1 + m/8) 2^-6 - 2^-6 = m 2^-9, exactly */
    const uint32_t tiny = tdm_f32_bits(tdm_bits_f32((magnitude << 20) + (121u << 23)) - 0x1p-6f);
    const uint32_t value = magnitude < 8u ? tiny : magnitude == 0x7fu ? 0x7fc00000u : normal;
    return tdm_bits_f32(value | sign);
}

/* Nearest even, saturating to +-448; NaN to NaN. */
static inline uint8_t tdm_e4m3_round(float f)
{
    const uint32_t bits = tdm_f32_bits(f), sign = bits >> 24 & 0x80u, whole = bits & 0x7fffffffu;
    const uint32_t magnitude = whole < 0x43e00000u ? whole : 0x43e00000u;
    /* a carry out of the mantissa raises the exponent, as it should */
    const uint32_t normal = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3);
    /* below 2^-6 the addition rounds to a multiple of 2^-9 */
    const uint32_t tiny = tdm_f32_bits(tdm_bits_f32(magnitude) + 0x1p14f) - 0x46800000u;
    const uint32_t code = magnitude < 0x3c800000u ? tiny : normal;
    return (uint8_t)(sign | (whole > 0x7f800000u ? 0x7fu : code));
}

/* tdm_f32_to_bf16 without its branch. */
static inline uint16_t tdm_bf16_round(float f)
{
    const uint32_t bits = tdm_f32_bits(f);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, nan = bits >> 16 | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
static inline float tdm_bf16_expand(uint16_t b) { return tdm_bits_f32((uint32_t)b << 16); }

#endif
