// FP8 weights as bf16(code * scale): what products in bf16 read.
#include "kernels/cuda/gemm.cuh"

enum { THREADS = 256, UNIT = 16 };

struct dequantize {
    const uint8_t *codes; // of the part
    const float *scale;   // of the whole weight, by scheme
    uint4 *out;           // [rows, 16 units] bf16, dense
    int64_t rows, units, stride, scale_stride, first_row, first_col; // units: 16 columns each
    tdm_scheme scheme;
};

static __global__ void __launch_bounds__(THREADS) dequantize_part(const __grid_constant__ dequantize d)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= d.rows * d.units) return;
    const int64_t r = i / d.units, k = i % d.units * UNIT, row = d.first_row + r;
    const uint4 c = __ldg((const uint4 *)(d.codes + r * d.stride + k));
    float scale;
    if (d.scheme == TDM_SCHEME_FP8_TENSOR) scale = __ldg(d.scale);
    else if (d.scheme == TDM_SCHEME_FP8_CHANNEL) scale = __ldg(d.scale + row * d.scale_stride);
    else scale = __ldg(d.scale + row / TDM_FP8_BLOCK * d.scale_stride + (d.first_col + k) / TDM_FP8_BLOCK);
    const uint32_t four[4] = {c.x, c.y, c.z, c.w};
    uint32_t out[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float2 v = tdm_codes_f32(four[j / 2] >> 16 * (j % 2) & 0xffffu);
        out[j] = tdm_pack_bf16(__fmul_rn(v.x, scale), __fmul_rn(v.y, scale));
    }
    d.out[2 * i] = make_uint4(out[0], out[1], out[2], out[3]);
    d.out[2 * i + 1] = make_uint4(out[4], out[5], out[6], out[7]);
}

tdm_status tdm_dequantize(tdm_stream *s, const tdm_weight *w, int64_t first, int64_t rows, int64_t col, int64_t cols, void *out, tdm_error *err)
{
    TDM_ASSERT(cols % UNIT == 0 && col % UNIT == 0);
    dequantize d = {};
    d.codes = (const uint8_t *)w->codes.data + first * w->codes.stride + col;
    d.scale = (const float *)w->scale.data;
    d.out = (uint4 *)out;
    d.rows = rows;
    d.units = cols / UNIT;
    d.stride = w->codes.stride;
    d.scale_stride = w->scale.stride;
    d.first_row = first;
    d.first_col = col;
    d.scheme = w->scheme;
    dequantize_part<<<(unsigned)tdm_ceil_div(rows * d.units, THREADS), THREADS, 0, s->cuda>>>(d);
    return tdm_cuda_launched(err, "dequantize", rows, cols);
}
