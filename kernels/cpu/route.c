/* route and combine: which experts a token goes to, and the sum of what they made; with their backward. */
#include "kernels/cpu/ops_cpu.h"
#include <math.h>

#include "kernels/cpu/lanes.h"

/* ---- route ------------------------------------------------------------------------------------------------------------------- */

/* p = softmax of a row of logits. */
static void softmax(float *p, const uint16_t *logit, int64_t n)
{
    float most = -INFINITY;
    for (int64_t e = 0; e < n; e++) {
        const float l = tdm_bf16_to_f32(logit[e]);
        most = l > most ? l : most;
    }
    vf sum = vf_zero();
    for (int64_t e = 0; e < n; e += VF) {
        const int64_t some = tdm_min_i64(VF, n - e);
        vf_store_n(p + e, vf_exp(vf_sub(vf_load_bf16_n(logit + e, some), vf_set(most))), some);
        sum = vf_add(sum, vf_load_n(p + e, some));
    }
    const float all = vf_sum(sum);
    for (int64_t e = 0; e < n; e++) p[e] /= all;
}

/* The largest logits, the lower number first where two are equal. */
static void choose(int32_t *expert, const uint16_t *logit, int64_t n, int64_t used)
{
    bool taken[TDM_EXPERTS_MAX] = {false};
    for (int64_t u = 0; u < used; u++) {
        int64_t best = -1;
        for (int64_t e = 0; e < n; e++)
            if (!taken[e] && (best < 0 || tdm_bf16_to_f32(logit[e]) > tdm_bf16_to_f32(logit[best]))) best = e;
        taken[best] = true;
        expert[u] = (int32_t)best;
    }
}

static float chosen_sum(const float *p, const int32_t *expert, int64_t used)
{
    float sum = 0.0f;
    for (int64_t u = 0; u < used; u++) sum += p[expert[u]];
    return sum;
}

static void route_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_route *a = ctx;
    const tdm_routes *r = a->routes;
    float p[TDM_EXPERTS_MAX];
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const uint16_t *logit = tdm_crow_bf16(a->logits, t);
        int32_t *expert = r->expert + t * r->used;
        if (!a->given) choose(expert, logit, r->experts, r->used);
        softmax(p, logit, r->experts);
        const float sum = a->normalize ? chosen_sum(p, expert, r->used) : 1.0f;
        for (int64_t u = 0; u < r->used; u++) {
            TDM_ASSERT(expert[u] >= 0 && expert[u] < r->experts);
            r->weight[t * r->used + u] = tdm_bf16_to_f32(tdm_f32_to_bf16(p[expert[u]] / sum));
        }
    }
}

static void sort_rows(const tdm_routes *r)
{
    const int64_t n = r->tokens * r->used;
    int32_t next[TDM_EXPERTS_MAX] = {0};
    for (int64_t i = 0; i < n; i++) next[r->expert[i]]++;
    for (int64_t e = 0, at = 0; e < r->experts; e++) {
        const int32_t count = next[e];
        r->start[e] = next[e] = (int32_t)at;
        at += count;
    }
    r->start[r->experts] = (int32_t)n;
    for (int64_t i = 0; i < n; i++) {
        r->row[i] = next[r->expert[i]]++;
        r->token[r->row[i]] = (int32_t)(i / r->used);
    }
}

static void check_routes(const tdm_routes *r)
{
    TDM_ASSERT(r->experts <= TDM_EXPERTS_MAX && r->used <= tdm_min_i64(TDM_EXPERTS_USED_MAX, r->experts));
    TDM_ASSERT(r->tokens * r->used <= INT32_MAX);
}

tdm_status TDM_CPU(route)(tdm_stream *s, const tdm_route *a, tdm_error *err)
{
    (void)err;
    check_routes(a->routes);
    TDM_ASSERT(a->logits.dtype == TDM_DTYPE_BF16 && a->logits.rows == a->routes->tokens && a->logits.cols == a->routes->experts);
    tdm_cpu_parallel(s, a->routes->tokens, tdm_max_i64(1, 4096 / a->routes->experts), route_rows, (void *)(uintptr_t)a);
    sort_rows(a->routes);
    return TDM_OK;
}

/* The weights are q = p / s, s = 1 or the sum of the chosen p: dp = (dq - [normalized] sum of q dq) / s, and dlogit = p (dp - sum of p dp). */
static void route_backward_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_route_backward *a = ctx;
    const tdm_routes *r = a->routes;
    float p[TDM_EXPERTS_MAX], dp[TDM_EXPERTS_MAX];
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const int32_t *expert = r->expert + t * r->used;
        const float *dq = (const float *)a->dweight.data + t * a->dweight.stride;
        uint16_t *out = tdm_row_bf16(a->dlogits, t);
        float mean = 0.0f, inner = 0.0f;
        softmax(p, tdm_crow_bf16(a->logits, t), r->experts);
        const float sum = a->normalize ? chosen_sum(p, expert, r->used) : 1.0f;
        for (int64_t u = 0; a->normalize && u < r->used; u++) mean += p[expert[u]] / sum * dq[u];
        for (int64_t e = 0; e < r->experts; e++) dp[e] = 0.0f;
        for (int64_t u = 0; u < r->used; u++) {
            dp[expert[u]] = (dq[u] - mean) / sum;
            inner += p[expert[u]] * dp[expert[u]];
        }
        for (int64_t e = 0; e < r->experts; e++) out[e] = tdm_f32_to_bf16(p[e] * (dp[e] - inner));
    }
}

tdm_status TDM_CPU(route_backward)(tdm_stream *s, const tdm_route_backward *a, tdm_error *err)
{
    (void)err;
    check_routes(a->routes);
    TDM_ASSERT(a->dlogits.dtype == TDM_DTYPE_BF16 && a->dlogits.rows == a->routes->tokens && a->dlogits.cols == a->routes->experts);
    TDM_ASSERT(a->dweight.dtype == TDM_DTYPE_F32 && a->dweight.rows == a->routes->tokens && a->dweight.cols == a->routes->used);
    tdm_cpu_parallel(s, a->routes->tokens, tdm_max_i64(1, 4096 / a->routes->experts), route_backward_rows, (void *)(uintptr_t)a);
    return TDM_OK;
}

/* ---- combine ----------------------------------------------------------------------------------------------------------------- */

static vf load_x(tdm_cview x, int64_t row, int64_t c, int64_t n)
{
    return x.dtype == TDM_DTYPE_F32 ? vf_load_n((const float *)x.data + row * x.stride + c, n) : vf_load_bf16_n(tdm_crow_bf16(x, row) + c, n);
}

static void combine_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_combine *a = ctx;
    const tdm_routes *r = a->routes;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        float *y = (float *)a->y.data + t * a->y.stride;
        const float *from = a->r.data ? (const float *)a->r.data + t * a->r.stride : NULL;
        for (int64_t c = 0; c < a->y.cols; c += VF) {
            const int64_t n = tdm_min_i64(VF, a->y.cols - c);
            vf sum = from ? vf_load_n(from + c, n) : vf_zero();
            for (int64_t u = 0; u < r->used; u++) {
                const vf x = load_x(a->x, r->row[t * r->used + u], c, n);
                sum = vf_add(sum, a->weighted ? vf_mul(vf_set(r->weight[t * r->used + u]), x) : x);
            }
            vf_store_n(y + c, sum, n);
        }
    }
}

tdm_status TDM_CPU(combine)(tdm_stream *s, const tdm_combine *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->y.dtype == TDM_DTYPE_F32 && a->y.rows == a->routes->tokens && a->x.cols == a->y.cols);
    TDM_ASSERT(a->x.rows == a->routes->tokens * a->routes->used && (a->x.dtype == TDM_DTYPE_BF16 || (a->x.dtype == TDM_DTYPE_F32 && !a->weighted)));
    tdm_cpu_parallel(s, a->y.rows, tdm_max_i64(1, 4096 / tdm_max_i64(a->y.cols, 1)), combine_rows, (void *)(uintptr_t)a);
    return TDM_OK;
}

static void combine_backward_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_combine_backward *a = ctx;
    const tdm_routes *r = a->routes;
    (void)thread;
    for (int64_t t = first; t < last; t++)
        for (int64_t u = 0; u < r->used; u++) {
            const float *dy = (const float *)a->dy.data + t * a->dy.stride;
            const int64_t row = r->row[t * r->used + u];
            const vf weight = vf_set(r->weight[t * r->used + u]);
            vf dot = vf_zero();
            for (int64_t c = 0; c < a->dy.cols; c += VF) {
                const int64_t n = tdm_min_i64(VF, a->dy.cols - c);
                const vf d = vf_load_n(dy + c, n);
                dot = vf_fma(d, vf_load_bf16_n(tdm_crow_bf16(a->x, row) + c, n), dot);
                vf_store_bf16_n(tdm_row_bf16(a->dx, row) + c, vf_mul(weight, d), n);
            }
            ((float *)a->dweight.data)[t * a->dweight.stride + u] = vf_sum(dot);
        }
}

tdm_status TDM_CPU(combine_backward)(tdm_stream *s, const tdm_combine_backward *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->dy.dtype == TDM_DTYPE_F32 && a->dy.rows == a->routes->tokens && a->x.dtype == TDM_DTYPE_BF16 && a->dx.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->dweight.dtype == TDM_DTYPE_F32 && a->dweight.cols == a->routes->used && a->dx.cols == a->dy.cols && a->x.cols == a->dy.cols);
    tdm_cpu_parallel(s, a->dy.rows, tdm_max_i64(1, 1024 / tdm_max_i64(a->dy.cols, 1)), combine_backward_rows, (void *)(uintptr_t)a);
    return TDM_OK;
}
