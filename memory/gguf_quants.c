/* Every loop over the values of a block has a fixed length and no branch, so the compiler turns it into vector code. */
#include "memory/gguf_quants.h"

#include <string.h>

static inline uint16_t load16(const unsigned char *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float as_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* f16 to f32 without a branch: the exponent is rebiased by an exact multiplication, which subnormals survive too. */
static inline float half(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = (uint32_t)(h & 0x7fffu) << 13;
    const float scaled = as_float(rest) * 0x1p112f;                      /* 2^(127 - 15) */
    const uint32_t special = (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0; /* infinities and NaN keep their exponent */
    uint32_t bits;
    memcpy(&bits, &scaled, sizeof bits);
    return as_float(bits | special | sign);
}

static void read_f16(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    for (int64_t i = 0; i < n; i++) out[i] = half(load16(p + 2 * i));
}

static void read_bf16(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    for (int64_t i = 0; i < n; i++) out[i] = as_float((uint32_t)load16(p + 2 * i) << 16);
}

static void read_q4_0(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    for (int64_t b = 0; b < n / 32; b++, p += 18, out += 32) {
        const float d = half(load16(p));
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((p[2 + i] & 15) - 8);
            out[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
        }
    }
}

static void read_q4_1(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    for (int64_t b = 0; b < n / 32; b++, p += 20, out += 32) {
        const float d = half(load16(p)), m = half(load16(p + 2));
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)(p[4 + i] & 15) + m;
            out[i + 16] = d * (float)(p[4 + i] >> 4) + m;
        }
    }
}

/* Fifth bits of values i and i + 16 of a block: a little-endian word of 32. */
static void fifth_bits(const unsigned char *p, unsigned char low[16], unsigned char high[16])
{
    uint32_t bits;
    memcpy(&bits, p, sizeof bits);
    for (int i = 0; i < 16; i++) {
        low[i] = (unsigned char)(((bits >> i) & 1) << 4);
        high[i] = (unsigned char)(((bits >> (i + 16)) & 1) << 4);
    }
}

static void read_q5_0(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    unsigned char low[16], high[16];
    for (int64_t b = 0; b < n / 32; b++, p += 22, out += 32) {
        const float d = half(load16(p));
        fifth_bits(p + 2, low, high);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)(((p[6 + i] & 15) | low[i]) - 16);
            out[i + 16] = d * (float)(((p[6 + i] >> 4) | high[i]) - 16);
        }
    }
}

static void read_q5_1(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    unsigned char low[16], high[16];
    for (int64_t b = 0; b < n / 32; b++, p += 24, out += 32) {
        const float d = half(load16(p)), m = half(load16(p + 2));
        fifth_bits(p + 4, low, high);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((p[8 + i] & 15) | low[i]) + m;
            out[i + 16] = d * (float)((p[8 + i] >> 4) | high[i]) + m;
        }
    }
}

static void read_q8_0(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    for (int64_t b = 0; b < n / 32; b++, p += 34, out += 32) {
        const float d = half(load16(p));
        for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)p[2 + i];
    }
}

/* Q4_K and Q5_K: eight pairs of 6-bit scale and minimum in twelve bytes. */
static void k_scales(const unsigned char *p, unsigned char scale[8], unsigned char minimum[8])
{
    for (int i = 0; i < 4; i++) {
        scale[i] = p[i] & 63;
        minimum[i] = p[4 + i] & 63;
        scale[4 + i] = (unsigned char)((p[8 + i] & 15) | ((p[i] >> 6) << 4));
        minimum[4 + i] = (unsigned char)((p[8 + i] >> 4) | ((p[4 + i] >> 6) << 4));
    }
}

static void read_q4_k(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    unsigned char scale[8], minimum[8];
    for (int64_t b = 0; b < n / 256; b++, p += 144, out += 256) {
        const float d = half(load16(p)), dmin = half(load16(p + 2));
        k_scales(p + 4, scale, minimum);
        for (int s = 0; s < 8; s += 2) { /* 32 bytes hold sub-block s in their low, s + 1 in their high halves */
            const unsigned char *q = p + 16 + 16 * s;
            const float d0 = d * (float)scale[s], m0 = dmin * (float)minimum[s];
            const float d1 = d * (float)scale[s + 1], m1 = dmin * (float)minimum[s + 1];
            for (int i = 0; i < 32; i++) {
                out[32 * s + i] = d0 * (float)(q[i] & 15) - m0;
                out[32 * s + 32 + i] = d1 * (float)(q[i] >> 4) - m1;
            }
        }
    }
}

static void read_q5_k(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    unsigned char scale[8], minimum[8];
    for (int64_t b = 0; b < n / 256; b++, p += 176, out += 256) {
        const float d = half(load16(p)), dmin = half(load16(p + 2));
        const unsigned char *high = p + 16;
        k_scales(p + 4, scale, minimum);
        for (int s = 0; s < 8; s += 2) {
            const unsigned char *q = p + 48 + 16 * s;
            const float d0 = d * (float)scale[s], m0 = dmin * (float)minimum[s];
            const float d1 = d * (float)scale[s + 1], m1 = dmin * (float)minimum[s + 1];
            for (int i = 0; i < 32; i++) {
                out[32 * s + i] = d0 * (float)((q[i] & 15) | (((high[i] >> s) & 1) << 4)) - m0;
                out[32 * s + 32 + i] = d1 * (float)((q[i] >> 4) | (((high[i] >> (s + 1)) & 1) << 4)) - m1;
            }
        }
    }
}

/* 128 values from 64 low bytes and 32 high bytes: quarter k of them has its upper two bits at 2k. */
static void read_q6_k_half(const unsigned char *restrict low, const unsigned char *restrict high, const float scale[8],
                           float *restrict out)
{
    for (int i = 0; i < 32; i++) {
        const int s = i / 16;
        out[i] = scale[s] * (float)(((low[i] & 15) | ((high[i] & 3) << 4)) - 32);
        out[i + 32] = scale[s + 2] * (float)(((low[i + 32] & 15) | (((high[i] >> 2) & 3) << 4)) - 32);
        out[i + 64] = scale[s + 4] * (float)(((low[i] >> 4) | (((high[i] >> 4) & 3) << 4)) - 32);
        out[i + 96] = scale[s + 6] * (float)(((low[i + 32] >> 4) | (((high[i] >> 6) & 3) << 4)) - 32);
    }
}

static void read_q6_k(const unsigned char *restrict p, int64_t n, float *restrict out)
{
    for (int64_t b = 0; b < n / 256; b++, p += 210, out += 256) {
        const float d = half(load16(p + 208));
        float scale[16];
        for (int i = 0; i < 16; i++) scale[i] = d * (float)(int8_t)p[192 + i];
        read_q6_k_half(p, p + 128, scale, out);
        read_q6_k_half(p + 64, p + 160, scale + 8, out + 128);
    }
}

void tdm_dequantize(tdm_elem elem, const unsigned char *data, int64_t n, float *out)
{
    switch (elem) {
    case TDM_ELEM_F32: memcpy(out, data, (size_t)n * sizeof *out); return;
    case TDM_ELEM_F16: read_f16(data, n, out); return;
    case TDM_ELEM_BF16: read_bf16(data, n, out); return;
    case TDM_ELEM_Q4_0: read_q4_0(data, n, out); return;
    case TDM_ELEM_Q4_1: read_q4_1(data, n, out); return;
    case TDM_ELEM_Q5_0: read_q5_0(data, n, out); return;
    case TDM_ELEM_Q5_1: read_q5_1(data, n, out); return;
    case TDM_ELEM_Q8_0: read_q8_0(data, n, out); return;
    case TDM_ELEM_Q4_K: read_q4_k(data, n, out); return;
    case TDM_ELEM_Q5_K: read_q5_k(data, n, out); return;
    case TDM_ELEM_Q6_K: read_q6_k(data, n, out); return;
    case TDM_ELEM_E4M3:
    case TDM_ELEM_RANDOM:
    case TDM_ELEM_OTHER: break;
    }
    TDM_ASSERT(false && "a type that can be read");
}
