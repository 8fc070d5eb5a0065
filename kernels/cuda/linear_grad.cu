// Sums over tokens for the adapter's gradients: each element is one chain of fused multiply-adds in order of t, begun at what the
// buffer holds, as on the CPU.
#include "kernels/cuda/gemm.cuh"

// A block: 16 along the rank by 64 along the width, 2 by 4 a thread; 64 tokens in shared memory at a time.
enum { RANK = 16, WIDTH = 64, TOKENS = 64, THREADS = 128, U_UNITS = RANK / 8, V_UNITS = WIDTH / 8 };

// g[r * g_rank + w * g_width] += (alpha_u * u[t, r]) * (alpha_v * v[t, w])
struct grad {
    float *g;
    const uint16_t *u, *v;
    int64_t rank, width, tokens, g_rank, g_width, u_stride, v_stride;
    float alpha_u, alpha_v;
    bool u_vector, v_vector;
};

// What a thread fetches of TOKENS tokens: one unit of 8 elements of u and four of v.
struct fetched {
    uint4 u, v[TOKENS * V_UNITS / THREADS];
};

TDM_DEVICE uint4 fetch_unit(const uint16_t *from, int64_t stride, bool vector, int64_t t, int64_t tokens, int64_t c, int64_t cols)
{
    if (t >= tokens || c >= cols) return make_uint4(0, 0, 0, 0);
    return tdm_load16<2>((const char *)(from + t * stride + c), cols - c, vector);
}
TDM_DEVICE void fetch(fetched &f, const grad &a, int64_t t0, int64_t r0, int64_t w0)
{
    static_assert(TOKENS * U_UNITS == THREADS, "one unit of u a thread");
    f.u = fetch_unit(a.u, a.u_stride, a.u_vector, t0 + threadIdx.x / U_UNITS, a.tokens, r0 + threadIdx.x % U_UNITS * 8, a.rank);
#pragma unroll
    for (int i = 0; i < TOKENS * V_UNITS / THREADS; i++) {
        const int unit = i * THREADS + (int)threadIdx.x;
        f.v[i] = fetch_unit(a.v, a.v_stride, a.v_vector, t0 + unit / V_UNITS, a.tokens, w0 + unit % V_UNITS * 8, a.width);
    }
}
TDM_DEVICE void put_unit(float *to, uint4 unit, float alpha)
{
    const uint32_t w[4] = {unit.x, unit.y, unit.z, unit.w};
    float f[8];
#pragma unroll
    for (int i = 0; i < 8; i++) f[i] = __fmul_rn(alpha, tdm_bf16((uint16_t)(w[i / 2] >> 16 * (i % 2))));
    ((float4 *)to)[0] = make_float4(f[0], f[1], f[2], f[3]);
    ((float4 *)to)[1] = make_float4(f[4], f[5], f[6], f[7]);
}

static __global__ void __launch_bounds__(THREADS) grad_add(const __grid_constant__ grad a)
{
    __shared__ __align__(16) float u[TOKENS][RANK], v[TOKENS][WIDTH];
    const int64_t w0 = (int64_t)blockIdx.x * WIDTH, r0 = (int64_t)blockIdx.y * RANK;
    const int r = threadIdx.x / 16 * 2, w = threadIdx.x % 16 * 4;
    float acc[2][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            acc[i][j] = r0 + r + i < a.rank && w0 + w + j < a.width ? a.g[(r0 + r + i) * a.g_rank + (w0 + w + j) * a.g_width] : 0.0f;
    fetched f;
    fetch(f, a, 0, r0, w0);
    for (int64_t t0 = 0; t0 < a.tokens; t0 += TOKENS) {
        put_unit(&u[threadIdx.x / U_UNITS][threadIdx.x % U_UNITS * 8], f.u, a.alpha_u);
#pragma unroll
        for (int i = 0; i < TOKENS * V_UNITS / THREADS; i++) {
            const int unit = i * THREADS + (int)threadIdx.x;
            put_unit(&v[unit / V_UNITS][unit % V_UNITS * 8], f.v[i], a.alpha_v);
        }
        __syncthreads();
        if (t0 + TOKENS < a.tokens) fetch(f, a, t0 + TOKENS, r0, w0);
        const int n = (int)min((int64_t)TOKENS, a.tokens - t0); // tokens that are not there would turn -0 into +0
#pragma unroll 8
        for (int t = 0; t < n; t++) {
            const float2 x = *(const float2 *)&u[t][r];
            const float4 y = *(const float4 *)&v[t][w];
            const float xs[2] = {x.x, x.y}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) acc[i][j] = __fmaf_rn(xs[i], ys[j], acc[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (r0 + r + i < a.rank && w0 + w + j < a.width) a.g[(r0 + r + i) * a.g_rank + (w0 + w + j) * a.g_width] = acc[i][j];
}

tdm_status tdm_grad_add(tdm_stream *s, tdm_view g, tdm_cview a, tdm_cview b, float alpha, tdm_error *err)
{
    if (a.rows == 0 || g.rows == 0 || g.cols == 0) return TDM_OK;
    const bool rank_first = g.rows < g.cols; // the smaller side is the rank
    const tdm_cview u = rank_first ? a : b, v = rank_first ? b : a;
    grad z = {};
    z.g = (float *)g.data;
    z.u = (const uint16_t *)u.data;
    z.v = (const uint16_t *)v.data;
    z.rank = u.cols;
    z.width = v.cols;
    z.tokens = a.rows;
    z.g_rank = rank_first ? g.stride : 1;
    z.g_width = rank_first ? 1 : g.stride;
    z.u_stride = u.stride;
    z.v_stride = v.stride;
    z.alpha_u = rank_first ? alpha : 1.0f;
    z.alpha_v = rank_first ? 1.0f : alpha;
    z.u_vector = tdm_gemm_vector(u.data, u.stride, 2);
    z.v_vector = tdm_gemm_vector(v.data, v.stride, 2);
    TDM_ASSERT(tdm_ceil_div(z.rank, RANK) <= 65535);
    grad_add<<<dim3((unsigned)tdm_ceil_div(z.width, WIDTH), (unsigned)tdm_ceil_div(z.rank, RANK)), THREADS, 0, s->cuda>>>(z);
    return tdm_cuda_launched(err, "grad_add", g.rows, g.cols);
}
