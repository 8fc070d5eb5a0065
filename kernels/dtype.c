/* Views and host-side number formats: exact, scalar. */
#include "kernels/ops.h"
#include "kernels/cpu/common/e4m3.h"

#include <math.h>

size_t tdm_dtype_bytes(tdm_dtype t)
{
    switch (t) {
    case TDM_DTYPE_F32:
    case TDM_DTYPE_I32: return 4;
    case TDM_DTYPE_BF16: return 2;
    case TDM_DTYPE_E4M3:
    case TDM_DTYPE_U8: return 1;
    }
    TDM_ASSERT(!"a dtype of ops.h");
    return 0;
}

const char *tdm_dtype_name(tdm_dtype t)
{
    switch (t) {
    case TDM_DTYPE_F32: return "f32";
    case TDM_DTYPE_BF16: return "bf16";
    case TDM_DTYPE_E4M3: return "e4m3";
    case TDM_DTYPE_I32: return "i32";
    case TDM_DTYPE_U8: return "u8";
    }
    return "unknown";
}

tdm_cview tdm_cview_rows(tdm_cview v, int64_t first, int64_t count)
{
    TDM_ASSERT(first >= 0 && count >= 0 && first <= v.rows - count);
    if (v.data) v.data = (const char *)v.data + (size_t)first * (size_t)v.stride * tdm_dtype_bytes(v.dtype);
    v.rows = count;
    return v;
}

tdm_view tdm_view_rows(tdm_view v, int64_t first, int64_t count)
{
    TDM_ASSERT(first >= 0 && count >= 0 && first <= v.rows - count);
    if (v.data) v.data = (char *)v.data + (size_t)first * (size_t)v.stride * tdm_dtype_bytes(v.dtype);
    v.rows = count;
    return v;
}

float tdm_e4m3_to_f32(uint8_t code) { return tdm_e4m3_expand(code); }
uint8_t tdm_f32_to_e4m3(float f) { return tdm_e4m3_round(f); }

float tdm_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31) return tdm_bits_f32(sign | 0x7f800000u | (mantissa ? 0x400000u : 0u) | mantissa << 13);
    if (exponent == 0) return tdm_bits_f32(sign | tdm_f32_bits((float)mantissa * 0x1p-24f));
    return tdm_bits_f32(sign | (exponent + 112u) << 23 | mantissa << 13);
}

float tdm_fp8_scale(float amax, bool pow2)
{
    float scale = amax / TDM_E4M3_MAX;
    if (!(scale > 0.0f)) return amax > 0.0f ? 0x1p-149f : 1.0f; /* the quotient may underflow; a scale of 0 would divide by it */
    if (!pow2 || isinf(scale)) return scale;
    int exponent;
    const float mantissa = frexpf(scale, &exponent); /* scale = mantissa * 2^exponent, mantissa in [0.5, 1) */
    return ldexpf(1.0f, mantissa == 0.5f ? exponent - 1 : exponent);
}
