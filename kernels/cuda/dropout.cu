// dropout and its backward. The mask is the CPU's to the bit: columns [4c, 4c + 4) of a token take the four words of
// tdm_philox(seed, site, token, c, 0), in order, and a column is kept when its tdm_uniform is at least p.
#include "kernels/cuda/common.cuh"
#include "kernels/philox.h"

enum { THREADS = 128, COLS = 4 * THREADS, TILES_MOST = 65535 };

// A thread decides four columns.
template <bool BACKWARD>
static __global__ void __launch_bounds__(THREADS) dropout_tiles(tdm_view y, tdm_cview x, float p, float scale, uint64_t seed, uint32_t site,
                                                                const uint32_t *token)
{
    const int64_t t = blockIdx.x, group = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (4 * group >= x.cols) return;
    const tdm_philox4 word = tdm_philox(seed, site, token[t], (uint32_t)group, 0);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t c = 4 * group + i;
        if (c >= x.cols) break;
        const float keep = tdm_uniform(word.v[i]) >= p ? scale : 0.0f;
        if (BACKWARD) {
            float *dx = (float *)y.data + t * y.stride + c;
            *dx = __fadd_rn(*dx, __fmul_rn(((const float *)x.data)[t * x.stride + c], keep));
        } else {
            ((uint16_t *)y.data)[t * y.stride + c] = tdm_to_bf16(__fmul_rn(tdm_bf16(((const uint16_t *)x.data)[t * x.stride + c]), keep));
        }
    }
}

template <bool BACKWARD>
static tdm_status run(tdm_stream *s, tdm_view y, tdm_cview x, float p, uint64_t seed, uint32_t site, const uint32_t *token, tdm_error *err)
{
    const tdm_dtype dtype = BACKWARD ? TDM_DTYPE_F32 : TDM_DTYPE_BF16;
    TDM_ASSERT(y.dtype == dtype && x.dtype == dtype && y.rows == x.rows && y.cols == x.cols);
    TDM_ASSERT(p >= 0.0f && p < 1.0f && tdm_ceil_div(x.cols, COLS) <= TILES_MOST);
    if (x.rows == 0 || x.cols == 0) return TDM_OK;
    const dim3 grid((unsigned)x.rows, (unsigned)tdm_ceil_div(x.cols, COLS));
    dropout_tiles<BACKWARD><<<grid, THREADS, 0, s->cuda>>>(y, x, p, 1.0f / (1.0f - p), seed, site, token);
    return tdm_cuda_launched(err, BACKWARD ? "dropout_backward" : "dropout", x.rows, x.cols);
}

tdm_status tdm_cuda_dropout(tdm_stream *s, tdm_view y, tdm_cview x, float p, uint64_t seed, uint32_t site, const uint32_t *token, tdm_error *err)
{
    return run<false>(s, y, x, p, seed, site, token, err);
}

tdm_status tdm_cuda_dropout_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, float p, uint64_t seed, uint32_t site, const uint32_t *token,
                                     tdm_error *err)
{
    return run<true>(s, dx, dy, p, seed, site, token, err);
}
