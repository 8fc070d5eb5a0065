// route, combine and their backward: which experts a token goes to, the sorted order of its places, and the sum of what comes back.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/math.cuh"

enum { THREADS = 256, WARPS = THREADS / 32 };

struct routing {
    tdm_routes r;
    const uint16_t *logits;
    int64_t stride;
    bool normalize, given;
};

// ---- route -----------------------------------------------------------------------------------------------------------------------

// The row's largest logit and the sum of exp over all experts, in an order fixed by E.
static __device__ void softmax_of(const uint16_t *logit, int64_t n, float &most, float &sum)
{
    most = -INFINITY;
    for (int64_t e = threadIdx.x % 32; e < n; e += 32) most = fmaxf(most, tdm_bf16(logit[e]));
    most = tdm_warp_max(most);
    sum = 0.0f;
    for (int64_t e = threadIdx.x % 32; e < n; e += 32) sum = __fadd_rn(sum, expf(__fsub_rn(tdm_bf16(logit[e]), most)));
    sum = tdm_warp_sum(sum);
}

static __device__ float p_of(const uint16_t *logit, int64_t e, float most, float sum) { return __fdiv_rn(expf(__fsub_rn(tdm_bf16(logit[e]), most)), sum); }

// The largest that is below (value, number) in the order of choice: larger first, the lower number where two are equal.
static __device__ int next_best(const uint16_t *logit, int64_t n, float value, int number, float &found)
{
    float best = -INFINITY;
    int at = (int)n;
    for (int e = threadIdx.x % 32; e < n; e += 32) {
        const float l = tdm_bf16(logit[e]);
        if (!(l < value || (l == value && e > number))) continue;
        if (at == n || l > best) best = l, at = e;
    }
    for (int o = 16; o > 0; o >>= 1) {
        const float other = __shfl_xor_sync(0xffffffffu, best, o);
        const int number_of = __shfl_xor_sync(0xffffffffu, at, o);
        if (number_of < n && (at == n || other > best || (other == best && number_of < at))) best = other, at = number_of;
    }
    found = best;
    return at < n ? at : 0;
}

static __device__ float chosen_sum(const uint16_t *logit, const int32_t *expert, int64_t used, float most, float sum)
{
    float all = 0.0f;
#pragma unroll 1 // unrolled, registers are spilled on sm_120
    for (int64_t u = 0; u < used; u++) all = __fadd_rn(all, p_of(logit, expert[u], most, sum));
    return all;
}

// A warp a token.
static __global__ void __launch_bounds__(THREADS) route_rows(const __grid_constant__ routing a)
{
    const int64_t t = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (t >= a.r.tokens) return;
    const uint16_t *logit = a.logits + t * a.stride;
    int32_t *expert = a.r.expert + t * a.r.used;
    float most, sum, value = INFINITY;
    int number = -1;
    for (int64_t u = 0; !a.given && u < a.r.used; u++) {
        number = next_best(logit, a.r.experts, value, number, value);
        if (threadIdx.x % 32 == 0) expert[u] = number;
    }
    __syncwarp();
    softmax_of(logit, a.r.experts, most, sum);
    const float all = a.normalize ? chosen_sum(logit, expert, a.r.used, most, sum) : 1.0f;
#pragma unroll 1
    for (int64_t u = threadIdx.x % 32; u < a.r.used; u += 32)
        a.r.weight[t * a.r.used + u] = tdm_bf16(tdm_to_bf16(__fdiv_rn(p_of(logit, tdm_checked(expert[u], a.r.experts), most, sum), all)));
}

// A block an expert: how many places come before its own, then its own in order.
static __global__ void __launch_bounds__(THREADS) sort_rows(const __grid_constant__ tdm_routes r)
{
    __shared__ int counts[WARPS], base;
    const int e = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t n = r.tokens * r.used;
    int before = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) before += r.expert[i] < e;
    for (int o = 16; o > 0; o >>= 1) before += __shfl_xor_sync(0xffffffffu, before, o);
    if (lane == 0) counts[warp] = before;
    __syncthreads();
    if (threadIdx.x == 0) {
        base = 0;
        for (int w = 0; w < WARPS; w++) base += counts[w];
        r.start[e] = base;
        if (e == 0) r.start[r.experts] = (int)n;
    }
    __syncthreads();
    for (int64_t first = 0; first < n; first += THREADS) {
        const int64_t i = first + threadIdx.x;
        const bool mine = i < n && r.expert[i] == e;
        const unsigned vote = __ballot_sync(0xffffffffu, mine);
        if (lane == 0) counts[warp] = __popc(vote);
        __syncthreads();
        int at = base + __popc(vote & ((1u << lane) - 1u)), all = 0;
        for (int w = 0; w < WARPS; w++) {
            at += w < warp ? counts[w] : 0;
            all += counts[w];
        }
        if (mine) {
            r.row[i] = at;
            r.token[at] = (int)(i / r.used);
        }
        __syncthreads();
        if (threadIdx.x == 0) base += all;
        __syncthreads();
    }
}

static routing routing_of(const tdm_routes *r, tdm_cview logits, bool normalize, bool given)
{
    TDM_ASSERT(logits.dtype == TDM_DTYPE_BF16 && logits.rows == r->tokens && logits.cols == r->experts);
    TDM_ASSERT(r->experts <= TDM_EXPERTS_MAX && r->used <= tdm_min_i64(TDM_EXPERTS_USED_MAX, r->experts) && r->tokens * r->used <= INT32_MAX);
    routing a = {};
    a.r = *r;
    a.logits = (const uint16_t *)logits.data;
    a.stride = logits.stride;
    a.normalize = normalize;
    a.given = given;
    return a;
}

tdm_status tdm_cuda_route(tdm_stream *s, const tdm_route *a, tdm_error *err)
{
    const routing z = routing_of(a->routes, a->logits, a->normalize, a->given);
    if (z.r.tokens > 0) route_rows<<<(unsigned)tdm_ceil_div(z.r.tokens, WARPS), THREADS, 0, s->cuda>>>(z);
    sort_rows<<<(unsigned)z.r.experts, THREADS, 0, s->cuda>>>(z.r);
    return tdm_cuda_launched(err, "route", z.r.tokens, z.r.experts);
}

// A warp a token; the formula is in kernels/cpu/route.c.
static __global__ void __launch_bounds__(THREADS) route_backward_rows(const __grid_constant__ routing a, uint16_t *dlogits, int64_t out_stride, const float *dweight,
                                                                    int64_t in_stride)
{
    const int64_t t = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (t >= a.r.tokens) return;
    const uint16_t *logit = a.logits + t * a.stride;
    const int32_t *expert = a.r.expert + t * a.r.used;
    const float *dq = dweight + t * in_stride;
    float most, sum, mean = 0.0f, inner = 0.0f;
    softmax_of(logit, a.r.experts, most, sum);
    const float all = a.normalize ? chosen_sum(logit, expert, a.r.used, most, sum) : 1.0f;
    for (int64_t u = 0; a.normalize && u < a.r.used; u++)
        mean = __fadd_rn(mean, __fmul_rn(__fdiv_rn(p_of(logit, expert[u], most, sum), all), dq[u]));
    for (int64_t u = 0; u < a.r.used; u++) inner = __fadd_rn(inner, __fmul_rn(p_of(logit, expert[u], most, sum), __fdiv_rn(__fsub_rn(dq[u], mean), all)));
    for (int64_t e = threadIdx.x % 32; e < a.r.experts; e += 32) {
        float dp = 0.0f;
        for (int64_t u = 0; u < a.r.used; u++)
            if (expert[u] == e) dp = __fdiv_rn(__fsub_rn(dq[u], mean), all);
        dlogits[t * out_stride + e] = tdm_to_bf16(__fmul_rn(p_of(logit, e, most, sum), __fsub_rn(dp, inner)));
    }
}

tdm_status tdm_cuda_route_backward(tdm_stream *s, const tdm_route_backward *a, tdm_error *err)
{
    const routing z = routing_of(a->routes, a->logits, a->normalize, true);
    if (z.r.tokens == 0) return TDM_OK;
    route_backward_rows<<<(unsigned)tdm_ceil_div(z.r.tokens, WARPS), THREADS, 0, s->cuda>>>(z, (uint16_t *)a->dlogits.data, a->dlogits.stride,
                                                                                          (const float *)a->dweight.data, a->dweight.stride);
    return tdm_cuda_launched(err, "route_backward", z.r.tokens, z.r.experts);
}

// ---- combine ---------------------------------------------------------------------------------------------------------------------

struct combining {
    tdm_routes r;
    tdm_view y;
    tdm_cview from, x;
    bool weighted;
};

static __global__ void __launch_bounds__(THREADS) combine_tiles(const __grid_constant__ combining a)
{
    const int64_t t = blockIdx.x, c = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (c >= a.y.cols) return;
    float sum = a.from.data ? ((const float *)a.from.data)[t * a.from.stride + c] : 0.0f;
    for (int64_t u = 0; u < a.r.used; u++) {
        const int64_t at = a.r.row[t * a.r.used + u] * a.x.stride + c;
        const float x = a.x.dtype == TDM_DTYPE_F32 ? ((const float *)a.x.data)[at] : tdm_bf16(((const uint16_t *)a.x.data)[at]);
        sum = __fadd_rn(sum, a.weighted ? __fmul_rn(a.r.weight[t * a.r.used + u], x) : x);
    }
    ((float *)a.y.data)[t * a.y.stride + c] = sum;
}

tdm_status tdm_cuda_combine(tdm_stream *s, const tdm_combine *a, tdm_error *err)
{
    TDM_ASSERT(a->y.dtype == TDM_DTYPE_F32 && a->y.rows == a->routes->tokens && a->x.cols == a->y.cols);
    if (a->y.rows == 0 || a->y.cols == 0) return TDM_OK;
    combining z = {};
    z.r = *a->routes;
    z.y = a->y;
    z.from = a->r;
    z.x = a->x;
    z.weighted = a->weighted;
    combine_tiles<<<dim3((unsigned)a->y.rows, (unsigned)tdm_ceil_div(a->y.cols, THREADS)), THREADS, 0, s->cuda>>>(z);
    return tdm_cuda_launched(err, "combine", a->y.rows, a->y.cols);
}

struct parting {
    tdm_routes r;
    tdm_view dx, dweight;
    tdm_cview dy, x;
};

// A block a token and place.
static __global__ void __launch_bounds__(THREADS) combine_backward_rows(const __grid_constant__ parting a)
{
    __shared__ float sums[WARPS];
    const int64_t t = blockIdx.x, u = blockIdx.y, row = a.r.row[t * a.r.used + u];
    const float weight = a.r.weight[t * a.r.used + u];
    const float *dy = (const float *)a.dy.data + t * a.dy.stride;
    const uint16_t *x = (const uint16_t *)a.x.data + row * a.x.stride;
    uint16_t *dx = (uint16_t *)a.dx.data + row * a.dx.stride;
    float dot = 0.0f;
    for (int64_t c = threadIdx.x; c < a.dy.cols; c += THREADS) {
        dot = __fadd_rn(dot, __fmul_rn(dy[c], tdm_bf16(x[c])));
        dx[c] = tdm_to_bf16(__fmul_rn(weight, dy[c]));
    }
    dot = tdm_warp_sum(dot);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = dot;
    __syncthreads();
    if (threadIdx.x > 0) return;
    dot = sums[0];
    for (int w = 1; w < WARPS; w++) dot = __fadd_rn(dot, sums[w]);
    ((float *)a.dweight.data)[t * a.dweight.stride + u] = dot;
}

tdm_status tdm_cuda_combine_backward(tdm_stream *s, const tdm_combine_backward *a, tdm_error *err)
{
    if (a->dy.rows == 0) return TDM_OK;
    parting z = {};
    z.r = *a->routes;
    z.dx = a->dx;
    z.dweight = a->dweight;
    z.dy = a->dy;
    z.x = a->x;
    combine_backward_rows<<<dim3((unsigned)a->dy.rows, (unsigned)a->routes->used), THREADS, 0, s->cuda>>>(z);
    return tdm_cuda_launched(err, "combine_backward", a->dy.rows, a->dy.cols);
}
