// adamw, adamw_8bit, sgd and sum_squares over flat arrays: the CPU's operations in its order, so that both backends' parameters agree to the bit.
#include <math.h>
#include <string.h>

#include "kernels/cuda/common.cuh"
#include "kernels/dynamic_map.h"

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

// ---- adamw_8bit: a block of threads takes a block of elements, one each, then the next. ------------------------------------------------

struct adamw_8bit_scalars {
    float one_minus_beta1, one_minus_beta2, step_size, eps, decay;
};
struct dynamic_maps { // as an argument: 2 KiB that every block copies to its shared memory
    float map[2][256];
};

// The largest over the block, in every thread; values are not below 0, so their bits are ordered as they are.
static __device__ float block_most(float value, unsigned *shared)
{
    const unsigned most = __reduce_max_sync(0xffffffffu, __float_as_uint(value));
    __syncthreads(); // whoever reads `shared` from the last time is done
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
    __syncthreads();
    unsigned all = shared[0];
    for (int w = 1; w < TDM_ADAMW_BLOCK / 32; w++) all = max(all, shared[w]);
    return __uint_as_float(all);
}

static __global__ void __launch_bounds__(TDM_ADAMW_BLOCK) adamw_8bit_blocks(tdm_adamw_8bit a, adamw_8bit_scalars k, dynamic_maps maps)
{
    __shared__ float map[2][256], bound[2][256];
    __shared__ unsigned most[2][TDM_ADAMW_BLOCK / 32];
    const int t = (int)threadIdx.x;
    for (int s = 0; s < 2; s++) {
        map[s][t] = maps.map[s][t];
        if (t < 255) bound[s][t] = tdm_dynamic_bound(maps.map[s], t);
    }
    __syncthreads();
    for (int64_t block = blockIdx.x; block * TDM_ADAMW_BLOCK < a.n; block += gridDim.x) {
        const int64_t i = block * TDM_ADAMW_BLOCK + t;
        const bool inside = i < a.n;
        float m = 0.0f, v = 0.0f;
        if (inside) {
            const float g = __fmul_rn(a.grad[i], a.grad_scale);
            m = __fmul_rn(map[1][a.m[i]], a.m_most[block]);
            v = __fmul_rn(map[0][a.v[i]], a.v_most[block]);
            m = __fadd_rn(__fmul_rn(m, a.beta1), __fmul_rn(k.one_minus_beta1, g));
            v = __fadd_rn(__fmul_rn(v, a.beta2), __fmul_rn(__fmul_rn(k.one_minus_beta2, g), g));
            const float update = __fmul_rn(k.step_size, __fdiv_rn(m, __fadd_rn(__fsqrt_rn(v), k.eps)));
            const float p = __fmul_rn(__fadd_rn(a.master[i], update), k.decay);
            a.master[i] = p;
            if (a.param) a.param[i] = tdm_to_bf16(p);
        }
        const float m_most = block_most(fabsf(m), most[0]), v_most = block_most(v, most[1]);
        if (inside) {
            a.m[i] = (uint8_t)tdm_dynamic_signed_code(bound[1], m_most > 0.0f ? __fdiv_rn(m, m_most) : 0.0f, signbit(m));
            a.v[i] = (uint8_t)tdm_dynamic_code(bound[0], v_most > 0.0f ? __fdiv_rn(v, v_most) : 0.0f);
        }
        if (t == 0) { // every thread has read what stood here: block_most waited for it
            a.m_most[block] = m_most;
            a.v_most[block] = v_most;
        }
    }
}

tdm_status tdm_cuda_adamw_8bit(tdm_stream *s, const tdm_adamw_8bit *a, tdm_error *err)
{
    TDM_ASSERT(a->n >= 0 && a->step >= 1);
    if (a->n == 0) return TDM_OK;
    const double correction1 = 1.0 - pow((double)a->beta1, (double)a->step), correction2 = sqrt(1.0 - pow((double)a->beta2, (double)a->step));
    const adamw_8bit_scalars k = {1.0f - a->beta1, 1.0f - a->beta2, (float)(-(double)a->lr * correction2 / correction1),
                                  (float)(correction2 * (double)a->eps), (float)(1.0 - (double)a->lr * (double)a->weight_decay)};
    dynamic_maps maps;
    memcpy(maps.map, tdm_dynamic_map, sizeof maps.map);
    adamw_8bit_blocks<<<blocks(s, a->n), TDM_ADAMW_BLOCK, 0, s->cuda>>>(*a, k, maps);
    return tdm_cuda_launched(err, "adamw_8bit", 1, a->n);
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
