// adamw, sgd and sum_squares over flat arrays: the CPU's operations in its order, so that both backends' parameters agree to the bit.
#include <math.h>

#include "kernels/cuda/common.cuh"

enum { THREADS = 256, SEGMENTS = 512, BLOCKS_A_SM = 8 };

// The scalars of torch.optim's single-tensor form, computed in double and rounded once, as its Python does.
struct adamw_scalars {
    float decay, one_minus_beta1, one_minus_beta2, sqrt_correction2, minus_step_size;
};

static __global__ void __launch_bounds__(THREADS) adamw_all(tdm_adamw a, adamw_scalars k)
{
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < a.n; i += (int64_t)gridDim.x * THREADS) {
        const float g = __fmul_rn(a.grad[i], a.grad_scale);
        float m = a.m[i], v = a.v[i], p = __fmul_rn(a.master[i], k.decay);
        m = __fmaf_rn(k.one_minus_beta1, __fadd_rn(g, -m), m);                                    // lerp
        v = __fmaf_rn(__fmul_rn(k.one_minus_beta2, g), g, __fmul_rn(v, a.beta2));                 // mul, addcmul
        const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), k.sqrt_correction2), a.eps);
        p = __fadd_rn(p, __fdiv_rn(__fmul_rn(k.minus_step_size, m), denominator));                // addcdiv
        a.m[i] = m;
        a.v[i] = v;
        a.master[i] = p;
        if (a.param) a.param[i] = tdm_to_bf16(p);
    }
}

static unsigned blocks(const tdm_stream *s, int64_t n) { return (unsigned)tdm_min_i64(tdm_ceil_div(n, THREADS), (int64_t)s->sms * BLOCKS_A_SM); }

tdm_status tdm_cuda_adamw(tdm_stream *s, const tdm_adamw *a, tdm_error *err)
{
    TDM_ASSERT(a->n >= 0 && a->step >= 1);
    if (a->n == 0) return TDM_OK;
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2, lr = (double)a->lr;
    const double correction1 = 1.0 - pow(beta1, (double)a->step), correction2 = 1.0 - pow(beta2, (double)a->step);
    const adamw_scalars k = {(float)(1.0 - lr * (double)a->weight_decay), (float)(1.0 - beta1), (float)(1.0 - beta2), (float)sqrt(correction2),
                             (float)(-(lr / correction1))};
    adamw_all<<<blocks(s, a->n), THREADS, 0, s->cuda>>>(*a, k);
    return tdm_cuda_launched(err, "adamw", 1, a->n);
}

static __global__ void __launch_bounds__(THREADS) sgd_all(tdm_sgd a)
{
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < a.n; i += (int64_t)gridDim.x * THREADS) {
        float p = a.master[i];
        const float g = __fmaf_rn(a.weight_decay, p, __fmul_rn(a.grad[i], a.grad_scale));
        p = __fmaf_rn(-a.lr, g, p);
        a.master[i] = p;
        if (a.param) a.param[i] = tdm_to_bf16(p);
    }
}

tdm_status tdm_cuda_sgd(tdm_stream *s, const tdm_sgd *a, tdm_error *err)
{
    TDM_ASSERT(a->n >= 0);
    if (a->n == 0) return TDM_OK;
    sgd_all<<<blocks(s, a->n), THREADS, 0, s->cuda>>>(*a);
    return tdm_cuda_launched(err, "sgd", 1, a->n);
}

// ---- sum_squares: the array is cut in SEGMENTS pieces by its length alone, a block each; then one block adds them up. ------------------

static __device__ double block_sum(double v) // a tree over THREADS, to thread 0
{
    __shared__ double part[THREADS];
    part[threadIdx.x] = v;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    return part[0];
}

static __global__ void __launch_bounds__(THREADS) squares_segments(const float *x, int64_t n, int64_t segment, double *sum)
{
    const int64_t end = min(n, (int64_t)(blockIdx.x + 1) * segment);
    double mine = 0.0;
    for (int64_t i = (int64_t)blockIdx.x * segment + threadIdx.x; i < end; i += THREADS) mine += (double)x[i] * (double)x[i];
    const double all = block_sum(mine);
    if (threadIdx.x == 0) sum[blockIdx.x] = all;
}

static __global__ void __launch_bounds__(THREADS) squares_total(const double *sum, double *out)
{
    double mine = 0.0;
    for (int i = threadIdx.x; i < SEGMENTS; i += THREADS) mine += sum[i];
    const double all = block_sum(mine);
    if (threadIdx.x == 0) *out = all;
}

size_t tdm_cuda_optimizer_workspace_bytes(const tdm_limits *limits)
{
    (void)limits;
    return SEGMENTS * sizeof(double);
}

tdm_status tdm_cuda_sum_squares(tdm_stream *s, const float *x, int64_t n, double *out, tdm_error *err)
{
    double *sum = (double *)tdm_cuda_scratch(s, SEGMENTS * sizeof(double));
    squares_segments<<<SEGMENTS, THREADS, 0, s->cuda>>>(x, n, tdm_ceil_div(n, SEGMENTS), sum);
    squares_total<<<1, THREADS, 0, s->cuda>>>(sum, out);
    return tdm_cuda_launched(err, "sum_squares", 1, n);
}
