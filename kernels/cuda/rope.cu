// rope: optional per-head RMS norm (Qwen3), then the rotation of the halves of the head, or of its first dimensions; the same on the way to
// the pages (rope_kv); and the backward of both. A warp takes one head of
// one token; a lane always holds the same pairs, so sums run in an order fixed by the head's width.
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/launch.cuh"

enum { HEAD_MAX = 1024, WARPS = 4, KV_WARPS = 8 };

struct rope_args {
    uint16_t *x, *pre; // backward only reads pre
    const float *cos, *sin;
    const void *norm_w; // bf16, or f32, or NULL
    bool norm_f32;
    const int32_t *position;
    int64_t x_stride, pre_stride, cos_stride, sin_stride, items; // items: tokens * heads
    int heads, head_dim, half; // half: of the dimensions that turn
    float eps;
};

// V neighbouring values: 2 where the half is even, else 1.
template <int V> struct values {
    float f[V];
};
template <int V> TDM_DEVICE values<V> load(const uint16_t *x)
{
    values<V> r;
    if (V == 2) {
        const uint32_t u = *(const uint32_t *)x;
        r.f[0] = tdm_bf16((uint16_t)u);
        r.f[V - 1] = tdm_bf16((uint16_t)(u >> 16));
    } else {
        r.f[0] = tdm_bf16(*x);
    }
    return r;
}
template <int V> TDM_DEVICE values<V> load_weight(const rope_args &a, int c)
{
    if (!a.norm_f32) return load<V>((const uint16_t *)a.norm_w + c);
    values<V> r;
#pragma unroll
    for (int i = 0; i < V; i++) r.f[i] = ((const float *)a.norm_w)[c + i];
    return r;
}
template <int V> TDM_DEVICE void store(uint16_t *x, const values<V> &r)
{
    if (V == 2) *(uint32_t *)x = (uint32_t)tdm_to_bf16(r.f[0]) | (uint32_t)tdm_to_bf16(r.f[V - 1]) << 16;
    else *x = tdm_to_bf16(r.f[0]);
}

template <int V> TDM_DEVICE float head_rstd(const uint16_t *x, int n, float eps, int lane)
{
    float sum = 0.0f;
    for (int c = lane * V; c < n; c += 32 * V) {
        const values<V> v = load<V>(x + c);
#pragma unroll
        for (int i = 0; i < V; i++) sum = fmaf(v.f[i], v.f[i], sum);
    }
    return 1.0f / sqrtf(tdm_warp_sum(sum) / (float)n + eps);
}

// also(c, y): sees the values that head got from column c on.
template <int V, class F> TDM_DEVICE void rotate_head(const rope_args &a, int64_t t, int head, int lane, F also)
{
    const int half = a.half;
    uint16_t *x = a.x + t * a.x_stride + (int64_t)head * a.head_dim;
    uint16_t *pre = a.pre ? a.pre + t * a.pre_stride + (int64_t)head * a.head_dim : NULL;
    const float *cos = a.cos + a.position[t] * a.cos_stride, *sin = a.sin + a.position[t] * a.sin_stride;
    const float rstd = a.norm_w ? head_rstd<V>(x, a.head_dim, a.eps, lane) : 1.0f;
#pragma unroll 1 // once, for heads of up to 128: unrolled, registers are spilled on sm_120
    for (int c = lane * V; c < half; c += 32 * V) {
        values<V> x1 = load<V>(x + c), x2 = load<V>(x + half + c), y1, y2;
        if (pre) {
            store<V>(pre + c, x1);
            store<V>(pre + half + c, x2);
        }
        if (a.norm_w) {
            const values<V> w1 = load_weight<V>(a, c), w2 = load_weight<V>(a, half + c);
#pragma unroll
            for (int i = 0; i < V; i++) {
                x1.f[i] = x1.f[i] * rstd * w1.f[i];
                x2.f[i] = x2.f[i] * rstd * w2.f[i];
            }
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float co = cos[c + i], si = sin[c + i];
            y1.f[i] = x1.f[i] * co - x2.f[i] * si;
            y2.f[i] = x2.f[i] * co + x1.f[i] * si;
        }
        store<V>(x + c, y1);
        store<V>(x + half + c, y2);
        also(c, y1);
        also(half + c, y2);
    }
#pragma unroll 1
    for (int c = 2 * half + lane * V; c < a.head_dim; c += 32 * V) {
        values<V> y = load<V>(x + c);
        if (pre) store<V>(pre + c, y);
        if (a.norm_w) {
            const values<V> w = load_weight<V>(a, c);
#pragma unroll
            for (int i = 0; i < V; i++) y.f[i] = y.f[i] * rstd * w.f[i];
            store<V>(x + c, y);
        }
        also(c, y);
    }
}

template <int V> __global__ void __launch_bounds__(32 * WARPS) rope_kernel(const rope_args a)
{
    const int64_t item = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (item >= a.items) return;
    rotate_head<V>(a, item / a.heads, (int)(item % a.heads), (int)threadIdx.x % 32, [](int, const values<V> &) {});
}

struct rope_kv_args {
    rope_args q, k;
    kv_layout kv;
    const uint16_t *v;
    int64_t v_stride, pages_stride;
    const int32_t *q_start, *pages;
    int sequences;
    float k_scale, v_scale;
};

// A block takes KV_WARPS heads of a token: those of q, then of k, then of v.
template <bool FP8> __global__ void __launch_bounds__(32 * KV_WARPS) rope_kv_kernel(const __grid_constant__ rope_kv_args a)
{
    const int64_t t = blockIdx.x;
    const int first = (int)blockIdx.y * KV_WARPS, lane = (int)threadIdx.x % 32;
    int head = first + (int)threadIdx.x / 32, b = 0;
    tdm_let_next_begin();
    tdm_wait_for_previous();
    if (first + KV_WARPS > a.q.heads) b = kv_sequence_of<32 * KV_WARPS>(a.q_start, a.sequences, t);
    if (head < a.q.heads) {
        rotate_head<2>(a.q, t, head, lane, [](int, const values<2> &) {});
        return;
    }
    const bool is_k = (head -= a.q.heads) < a.k.heads;
    if (!is_k && (head -= a.k.heads) >= a.k.heads) return;
    const int p = a.k.position[t];
    char *to = kv_head(a.kv, a.pages[b * a.pages_stride + p / TDM_CUDA_KV_PAGE], head) + p % TDM_CUDA_KV_PAGE * a.kv.row_bytes;
    if (!is_k) {
        const int units = FP8 ? a.kv.row_bytes / 8 : a.kv.row_bytes / 16;
        for (int u = lane; u < units; u += 32)
            kv_put<FP8>(a.kv, to + a.kv.values_at, a.v + t * a.v_stride + (int64_t)head * a.kv.head_dim, u, a.v_scale);
        return;
    }
    rotate_head<2>(a.k, t, head, lane, [&](int c, const values<2> &y) {
        if (FP8) {
            const uint32_t low = tdm_to_e4m3(__fdiv_rn(tdm_bf16(tdm_to_bf16(y.f[0])), a.k_scale));
            const uint32_t high = tdm_to_e4m3(__fdiv_rn(tdm_bf16(tdm_to_bf16(y.f[1])), a.k_scale));
            *(uint16_t *)(to + c) = (uint16_t)(low | high << 8);
        } else {
            store<2>((uint16_t *)to + c, y);
        }
    });
    if (FP8 && lane == 0 && a.kv.row_bytes > a.kv.head_dim) *(uint2 *)(to + a.kv.head_dim) = make_uint2(0, 0);
}

// Rotates back, then through y = w x rstd: dx = rstd (w dy - x rstd^2 mean(w dy x)).
template <int V> __global__ void __launch_bounds__(32 * WARPS) rope_backward_kernel(const rope_args a)
{
    const int64_t item = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (item >= a.items) return;
    const int lane = (int)threadIdx.x % 32, head = (int)(item % a.heads), half = a.half;
    const int64_t t = item / a.heads;
    uint16_t *dx = a.x + t * a.x_stride + (int64_t)head * a.head_dim;
    const uint16_t *pre = a.norm_w ? a.pre + t * a.pre_stride + (int64_t)head * a.head_dim : NULL;
    const float *cos = a.cos + a.position[t] * a.cos_stride, *sin = a.sin + a.position[t] * a.sin_stride;
    float rstd = 1.0f, back = 0.0f;
    // Twice over the head: the second time writes what the first summed over.
    for (int pass = a.norm_w ? 0 : 1; pass < 2; pass++) {
        float sum = 0.0f;
        for (int c = lane * V; c < half; c += 32 * V) {
            const values<V> y1 = load<V>(dx + c), y2 = load<V>(dx + half + c);
            values<V> g1, g2;
#pragma unroll
            for (int i = 0; i < V; i++) {
                const float co = cos[c + i], si = -sin[c + i];
                g1.f[i] = y1.f[i] * co - y2.f[i] * si;
                g2.f[i] = y2.f[i] * co + y1.f[i] * si;
            }
            if (pre) {
                const values<V> w1 = load_weight<V>(a, c), w2 = load_weight<V>(a, half + c), x1 = load<V>(pre + c), x2 = load<V>(pre + half + c);
#pragma unroll
                for (int i = 0; i < V; i++) {
                    g1.f[i] *= w1.f[i];
                    g2.f[i] *= w2.f[i];
                    sum = fmaf(g1.f[i], x1.f[i], fmaf(g2.f[i], x2.f[i], sum));
                    g1.f[i] = fmaf(x1.f[i], back, g1.f[i] * rstd);
                    g2.f[i] = fmaf(x2.f[i], back, g2.f[i] * rstd);
                }
            }
            if (pass == 1) {
                store<V>(dx + c, g1);
                store<V>(dx + half + c, g2);
            }
        }
        // Those that do not turn are changed by the norm alone.
        for (int c = 2 * half + lane * V; pre && c < a.head_dim; c += 32 * V) {
            const values<V> w = load_weight<V>(a, c), x = load<V>(pre + c);
            values<V> g = load<V>(dx + c);
#pragma unroll
            for (int i = 0; i < V; i++) {
                g.f[i] *= w.f[i];
                sum = fmaf(g.f[i], x.f[i], sum);
                g.f[i] = fmaf(x.f[i], back, g.f[i] * rstd);
            }
            if (pass == 1) store<V>(dx + c, g);
        }
        if (pass == 0) {
            rstd = head_rstd<V>(pre, a.head_dim, a.eps, lane);
            back = -(tdm_warp_sum(sum) * rstd / (float)a.head_dim) * rstd * rstd;
        }
    }
}

static void check(const rope_args *a, tdm_view x, tdm_cview cos, tdm_cview sin, tdm_cview norm_w)
{
    TDM_ASSERT(x.dtype == TDM_DTYPE_BF16 && x.cols == (int64_t)a->heads * a->head_dim);
    TDM_ASSERT(a->head_dim % 2 == 0 && a->head_dim <= HEAD_MAX);
    TDM_ASSERT(cos.dtype == TDM_DTYPE_F32 && sin.dtype == TDM_DTYPE_F32 && cos.cols <= a->head_dim / 2 && sin.cols == cos.cols);
    TDM_ASSERT(cos.cols == a->head_dim / 2 || cos.cols % 2 == 0);
    TDM_ASSERT(!norm_w.data || ((norm_w.dtype == TDM_DTYPE_BF16 || norm_w.dtype == TDM_DTYPE_F32) && norm_w.cols == a->head_dim));
    if (a->head_dim % 4 == 0) {
        TDM_ASSERT((uintptr_t)a->x % 4 == 0 && a->x_stride % 2 == 0 && (uintptr_t)a->norm_w % 4 == 0);
        TDM_ASSERT((uintptr_t)a->pre % 4 == 0 && a->pre_stride % 2 == 0);
    }
}

static rope_args args_of(tdm_view x, tdm_cview cos, tdm_cview sin, tdm_cview norm_w, const int32_t *position, int64_t heads, int64_t head_dim,
                         float eps)
{
    rope_args r;
    r.x = (uint16_t *)x.data;
    r.pre = NULL;
    r.cos = (const float *)cos.data;
    r.sin = (const float *)sin.data;
    r.norm_w = norm_w.data;
    r.norm_f32 = norm_w.dtype == TDM_DTYPE_F32;
    r.half = (int)cos.cols;
    r.position = position;
    r.x_stride = x.stride;
    r.pre_stride = 0;
    r.cos_stride = cos.stride;
    r.sin_stride = sin.stride;
    r.items = x.rows * heads;
    r.heads = (int)heads;
    r.head_dim = (int)head_dim;
    r.eps = eps;
    return r;
}

static rope_args forward_args(const tdm_rope *a)
{
    rope_args r = args_of(a->x, a->cos, a->sin, a->norm_w, a->position, a->heads, a->head_dim, a->eps);
    TDM_ASSERT(!a->pre.data || (a->pre.dtype == TDM_DTYPE_BF16 && a->pre.rows == a->x.rows && a->pre.cols == a->x.cols));
    if (a->pre.data) {
        r.pre = (uint16_t *)a->pre.data;
        r.pre_stride = a->pre.stride;
    }
    check(&r, a->x, a->cos, a->sin, a->norm_w);
    return r;
}

tdm_status tdm_cuda_rope(tdm_stream *s, const tdm_rope *a, tdm_error *err)
{
    const rope_args r = forward_args(a);
    if (r.items == 0) return TDM_OK;
    const unsigned grid = (unsigned)tdm_ceil_div(r.items, WARPS);
    if (a->head_dim % 4 == 0) rope_kernel<2><<<grid, 32 * WARPS, 0, s->cuda>>>(r);
    else rope_kernel<1><<<grid, 32 * WARPS, 0, s->cuda>>>(r);
    return tdm_cuda_launched(err, "rope", a->x.rows, a->x.cols);
}

tdm_status tdm_cuda_rope_kv(tdm_stream *s, const tdm_rope_kv *a, tdm_error *err)
{
    const tdm_kv_write *w = &a->write;
    const tdm_batch *batch = w->batch;
    rope_kv_args r = {};
    r.q = forward_args(&a->q);
    r.k = forward_args(&a->k);
    TDM_ASSERT(w->k.data == a->k.x.data && w->k.stride == a->k.x.stride && a->k.heads == w->kv->kv_heads && a->k.head_dim == w->kv->head_dim);
    TDM_ASSERT(a->q.x.rows == batch->tokens && a->k.x.rows == batch->tokens && w->v.rows == batch->tokens);
    TDM_ASSERT(w->v.dtype == TDM_DTYPE_BF16 && w->v.cols == w->k.cols && w->v.stride % 8 == 0 && (uintptr_t)w->v.data % 16 == 0);
    if (batch->tokens == 0) return TDM_OK;
    r.kv = kv_layout_of(w->kv);
    r.v = (const uint16_t *)w->v.data;
    r.v_stride = w->v.stride;
    r.pages_stride = batch->pages_stride;
    r.q_start = batch->q_start;
    r.pages = batch->pages;
    r.sequences = (int)batch->sequences;
    r.k_scale = w->kv->k_scale;
    r.v_scale = w->kv->v_scale;
    const dim3 grid((unsigned)batch->tokens, (unsigned)tdm_ceil_div(a->q.heads + 2 * a->k.heads, KV_WARPS));
    const auto kernel = w->kv->dtype == TDM_DTYPE_E4M3 ? rope_kv_kernel<true> : rope_kv_kernel<false>;
    const tdm_status st = TDM_CUDA(tdm_cuda_launch(s, kernel, grid, 32 * KV_WARPS, 0, r));
    return st == TDM_OK ? tdm_cuda_launched(err, "rope_kv", batch->tokens, a->q.x.cols) : st;
}

tdm_status tdm_cuda_rope_backward(tdm_stream *s, const tdm_rope_backward *a, tdm_error *err)
{
    rope_args r = args_of(a->dx, a->cos, a->sin, a->norm_w, a->position, a->heads, a->head_dim, a->eps);
    TDM_ASSERT(!a->norm_w.data || (a->pre.data && a->pre.dtype == TDM_DTYPE_BF16 && a->pre.rows == a->dx.rows));
    if (a->pre.data) {
        r.pre = (uint16_t *)(uintptr_t)a->pre.data; // read only
        r.pre_stride = a->pre.stride;
    }
    check(&r, a->dx, a->cos, a->sin, a->norm_w);
    if (r.items == 0) return TDM_OK;
    const unsigned grid = (unsigned)tdm_ceil_div(r.items, WARPS);
    if (a->head_dim % 4 == 0) rope_backward_kernel<2><<<grid, 32 * WARPS, 0, s->cuda>>>(r);
    else rope_backward_kernel<1><<<grid, 32 * WARPS, 0, s->cuda>>>(r);
    return tdm_cuda_launched(err, "rope_backward", a->dx.rows, a->dx.cols);
}
