/* adamw, adamw_8bit, sgd and sum_squares over flat arrays. */
#include <math.h>

#include "kernels/cpu/ops_cpu.h"
#include "kernels/cpu/lanes.h"
#include "kernels/dynamic_map.h"

enum { SPAN = 4096, SEGMENTS = 256 };

/* The scalars of torch.optim's single-tensor form, computed in double and rounded once, as its Python does. */
typedef struct adamw_job {
    const tdm_adamw *a;
    float decay, one_minus_beta1, one_minus_beta2, sqrt_correction2, minus_step_size;
} adamw_job;

static void adamw_spans(void *ctx, int64_t first, int64_t last, int thread)
{
    const adamw_job *j = ctx;
    const tdm_adamw *a = j->a;
    const vf decay = vf_set(j->decay), w1 = vf_set(j->one_minus_beta1), b2 = vf_set(a->beta2), w2 = vf_set(j->one_minus_beta2);
    const vf root = vf_set(j->sqrt_correction2), step = vf_set(j->minus_step_size), eps = vf_set(a->eps), scale = vf_set(a->grad_scale);
    const int64_t end = tdm_min_i64(a->n, last * SPAN);
    (void)thread;
    for (int64_t c = first * SPAN; c < end; c += VF) {
        const int64_t n = tdm_min_i64(VF, end - c);
        const vf g = vf_mul(vf_load_n(a->grad + c, n), scale);
        vf m = vf_load_n(a->m + c, n), v = vf_load_n(a->v + c, n), p = vf_mul(vf_load_n(a->master + c, n), decay);
        m = vf_fma(w1, vf_sub(g, m), m);                    /* lerp */
        v = vf_fma(vf_mul(w2, g), g, vf_mul(v, b2));        /* mul, addcmul */
        const vf denominator = vf_add(vf_div(vf_sqrt(v), root), eps);
        p = vf_add(p, vf_div(vf_mul(step, m), denominator)); /* addcdiv */
        vf_store_n(a->m + c, m, n);
        vf_store_n(a->v + c, v, n);
        vf_store_n(a->master + c, p, n);
        if (a->param) vf_store_bf16_n(a->param + c, p, n);
    }
}

tdm_status TDM_CPU(adamw)(tdm_stream *s, const tdm_adamw *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->n >= 0 && a->step >= 1);
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2, lr = (double)a->lr;
    const double correction1 = 1.0 - pow(beta1, (double)a->step), correction2 = 1.0 - pow(beta2, (double)a->step);
    adamw_job job = {a, (float)(1.0 - lr * (double)a->weight_decay), (float)(1.0 - beta1), (float)(1.0 - beta2),
                     (float)sqrt(correction2), (float)(-(lr / correction1))};
    tdm_cpu_parallel(s, tdm_ceil_div(a->n, SPAN), 4, adamw_spans, &job);
    return TDM_OK;
}

/* What all blocks share. */
typedef struct adamw_8bit_job {
    const tdm_adamw_8bit *a;
    float one_minus_beta1, one_minus_beta2, step_size, eps, decay;
    float m_bound[256], v_bound[256]; /* the last is never asked for */
} adamw_8bit_job;

/* One block; moments live in f32 from their codes to their codes. */
static void adamw_8bit_block(const adamw_8bit_job *j, int64_t block)
{
    const tdm_adamw_8bit *a = j->a;
    const int64_t first = block * TDM_ADAMW_BLOCK, n = tdm_min_i64(TDM_ADAMW_BLOCK, a->n - first);
    const float *grad = a->grad + first, m_was = a->m_most[block], v_was = a->v_most[block];
    float *master = a->master + first, m[TDM_ADAMW_BLOCK], v[TDM_ADAMW_BLOCK], m_most = 0.0f, v_most = 0.0f;
    uint8_t *m_code = a->m + first, *v_code = a->v + first;
    for (int64_t i = 0; i < n; i++) {
        m[i] = tdm_dynamic_map[1][m_code[i]] * m_was;
        v[i] = tdm_dynamic_map[0][v_code[i]] * v_was;
    }
    for (int64_t i = 0; i < n; i++) {
        const float g = grad[i] * a->grad_scale;
        m[i] = m[i] * a->beta1 + j->one_minus_beta1 * g;
        v[i] = v[i] * a->beta2 + j->one_minus_beta2 * g * g;
        master[i] = (master[i] + j->step_size * (m[i] / (sqrtf(v[i]) + j->eps))) * j->decay;
    }
    for (int64_t i = 0; i < n; i++) {
        m_most = fabsf(m[i]) > m_most ? fabsf(m[i]) : m_most;
        v_most = v[i] > v_most ? v[i] : v_most;
    }
    for (int64_t i = 0; i < n; i++) {
        m_code[i] = (uint8_t)tdm_dynamic_signed_code(j->m_bound, m_most > 0.0f ? m[i] / m_most : 0.0f, signbit(m[i]) != 0);
        v_code[i] = (uint8_t)tdm_dynamic_code(j->v_bound, v_most > 0.0f ? v[i] / v_most : 0.0f);
    }
    a->m_most[block] = m_most;
    a->v_most[block] = v_most;
    if (a->param)
        for (int64_t i = 0; i < n; i++) a->param[first + i] = tdm_f32_to_bf16(master[i]);
}

static void adamw_8bit_blocks(void *ctx, int64_t first, int64_t last, int thread)
{
    (void)thread;
    for (int64_t block = first; block < last; block++) adamw_8bit_block(ctx, block);
}

tdm_status TDM_CPU(adamw_8bit)(tdm_stream *s, const tdm_adamw_8bit *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->n >= 0 && a->step >= 1);
    const double correction1 = 1.0 - pow((double)a->beta1, (double)a->step), correction2 = sqrt(1.0 - pow((double)a->beta2, (double)a->step));
    adamw_8bit_job job = {.a = a, .one_minus_beta1 = 1.0f - a->beta1, .one_minus_beta2 = 1.0f - a->beta2,
                          .step_size = (float)(-(double)a->lr * correction2 / correction1), .eps = (float)(correction2 * (double)a->eps),
                          .decay = (float)(1.0 - (double)a->lr * (double)a->weight_decay)};
    for (int k = 0; k < 255; k++) {
        job.m_bound[k] = tdm_dynamic_bound(tdm_dynamic_map[1], k);
        job.v_bound[k] = tdm_dynamic_bound(tdm_dynamic_map[0], k);
    }
    tdm_cpu_parallel(s, tdm_ceil_div(a->n, TDM_ADAMW_BLOCK), 16, adamw_8bit_blocks, &job);
    return TDM_OK;
}

static void sgd_spans(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_sgd *a = ctx;
    const vf lr = vf_set(-a->lr), decay = vf_set(a->weight_decay), scale = vf_set(a->grad_scale);
    const int64_t end = tdm_min_i64(a->n, last * SPAN);
    (void)thread;
    for (int64_t c = first * SPAN; c < end; c += VF) {
        const int64_t n = tdm_min_i64(VF, end - c);
        vf p = vf_load_n(a->master + c, n);
        const vf g = vf_fma(decay, p, vf_mul(vf_load_n(a->grad + c, n), scale));
        p = vf_fma(lr, g, p);
        vf_store_n(a->master + c, p, n);
        if (a->param) vf_store_bf16_n(a->param + c, p, n);
    }
}

tdm_status TDM_CPU(sgd)(tdm_stream *s, const tdm_sgd *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->n >= 0);
    tdm_sgd job = *a;
    tdm_cpu_parallel(s, tdm_ceil_div(a->n, SPAN), 4, sgd_spans, &job);
    return TDM_OK;
}

/* The array is cut in SEGMENTS pieces by its length alone; each is summed in eight lanes of double, then the pieces in order. */
typedef struct squares_job {
    const float *x;
    int64_t n, segment;
    double *sum; /* [SEGMENTS], shared scratch */
} squares_job;

static void squares_segments(void *ctx, int64_t first, int64_t last, int thread)
{
    const squares_job *j = ctx;
    (void)thread;
    for (int64_t i = first; i < last; i++) {
        double lane[8] = {0};
        const int64_t end = tdm_min_i64(j->n, (i + 1) * j->segment);
        int64_t c = i * j->segment;
        for (; c + 8 <= end; c += 8)
            for (int k = 0; k < 8; k++) lane[k] += (double)j->x[c + k] * (double)j->x[c + k];
        for (int k = 0; c < end; c++, k++) lane[k] += (double)j->x[c] * (double)j->x[c];
        j->sum[i] = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
    }
}

size_t TDM_CPU(optimizer_workspace_bytes)(const tdm_limits *limits, int threads)
{
    (void)limits;
    return tdm_cpu_scratch_bytes(SEGMENTS * sizeof(double), 0, threads);
}

tdm_status TDM_CPU(sum_squares)(tdm_stream *s, const float *x, int64_t n, double *out, tdm_error *err)
{
    (void)err;
    squares_job job = {x, n, (int64_t)tdm_align_up((size_t)tdm_ceil_div(n, SEGMENTS), VF), NULL};
    job.sum = tdm_cpu_scratch_shared(s, SEGMENTS * sizeof(double), 0);
    const int64_t used = job.segment ? tdm_ceil_div(n, job.segment) : 0;
    tdm_cpu_parallel(s, used, tdm_max_i64(1, 16384 / tdm_max_i64(1, job.segment)), squares_segments, &job);
    double sum = 0.0;
    for (int64_t i = 0; i < used; i++) sum += job.sum[i];
    *out = sum;
    return TDM_OK;
}
