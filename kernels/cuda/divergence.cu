// divergence: of two distributions a row, and its gradient in the logits of the first.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ops_cuda.h"

namespace {

enum { THREADS = 256, WARPS = THREADS / 32, BLOCK = 512 }; // BLOCK: tokens of one partial sum

struct term { float value, score; };

TDM_DEVICE float log_of(float p) { return tdm_log(fmaxf(p, 0x1p-126f)); }

// A token's part of the divergence, and what its gradient weighs p by, less a constant of the row. beta: 0, 1 or between.
TDM_DEVICE term term_at(float p, float q, float beta)
{
    const float lp = log_of(p), lq = log_of(q);
    if (beta == 1.0f) {
        const float score = __fadd_rn(lp, -lq);
        return {__fmul_rn(p, score), score};
    }
    if (beta == 0.0f) return {__fmul_rn(q, __fadd_rn(lq, -lp)), 0.0f};
    const float part_q = __fmul_rn(beta, q), part_p = __fmul_rn(1.0f - beta, p), lm = log_of(__fadd_rn(part_q, part_p));
    const float score = __fadd_rn(lp, -lm);
    return {__fadd_rn(__fmul_rn(part_q, __fadd_rn(lq, -lm)), __fmul_rn(part_p, score)), score};
}

// A block a row; each warp sums whole blocks of tokens, in double over them in an order that depends on the row's length alone.
__global__ void __launch_bounds__(THREADS) divergence_rows(tdm_divergence a)
{
    __shared__ double value_sum[WARPS], score_sum[WARPS];
    __shared__ float mean;
    const int64_t t = blockIdx.x;
    const int vocab = (int)a.p.cols, warp = threadIdx.x / 32, lane = threadIdx.x % 32, blocks = (vocab + BLOCK - 1) / BLOCK;
    const float *p = (const float *)a.p.data + t * a.p.stride, *q = (const float *)a.q.data + t * a.q.stride;
    double values = 0.0, scores = 0.0;
    for (int b = warp; b < blocks; b += WARPS) {
        float value = 0.0f, score = 0.0f;
        for (int v = b * BLOCK + lane; v < min(vocab, (b + 1) * BLOCK); v += 32) {
            const term x = term_at(p[v], q[v], a.beta);
            value = __fadd_rn(value, x.value);
            score = __fadd_rn(score, __fmul_rn(p[v], x.score));
        }
        values += (double)tdm_warp_sum(value);
        scores += (double)tdm_warp_sum(score);
    }
    if (lane == 0) {
        value_sum[warp] = values;
        score_sum[warp] = scores;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        values = scores = 0.0;
        for (int w = 0; w < WARPS; w++) {
            values += value_sum[w];
            scores += score_sum[w];
        }
        a.value[t] = (float)values;
        mean = (float)scores;
    }
    __syncthreads();
    const float inner = a.beta == 0.0f || a.beta == 1.0f ? 1.0f : 1.0f - a.beta;
    const float scale = __fmul_rn(__fdiv_rn(a.coef[t], a.temperature), inner);
    uint16_t *d = (uint16_t *)a.dlogits.data + t * a.dlogits.stride;
    for (int v = threadIdx.x; v < vocab; v += THREADS) {
        const float slope = a.beta == 0.0f ? __fadd_rn(p[v], -q[v]) : __fmul_rn(p[v], __fadd_rn(term_at(p[v], q[v], a.beta).score, -mean));
        d[v] = tdm_to_bf16(__fmul_rn(slope, scale));
    }
}

} // namespace

tdm_status tdm_cuda_divergence(tdm_stream *s, const tdm_divergence *a, tdm_error *err)
{
    TDM_ASSERT(a->p.dtype == TDM_DTYPE_F32 && a->q.dtype == TDM_DTYPE_F32 && a->dlogits.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->p.rows == a->q.rows && a->p.cols == a->q.cols && a->p.rows == a->dlogits.rows && a->p.cols == a->dlogits.cols);
    if (a->p.rows == 0) return TDM_OK;
    divergence_rows<<<(unsigned)a->p.rows, THREADS, 0, s->cuda>>>(*a);
    return tdm_cuda_launched(err, "divergence", a->p.rows, a->p.cols);
}
