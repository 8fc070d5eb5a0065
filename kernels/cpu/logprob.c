/* logprob: ln p(target) and entropy of each row, the probabilities left in place; and the gradient with respect to the logits. */
#include "kernels/cpu/logits.h"
#include "kernels/cpu/ops_cpu.h"

size_t TDM_CPU(logits_workspace_bytes)(const tdm_limits *limits, int threads)
{
    return tdm_cpu_scratch_bytes(0, TDM_CPU(logits_scratch_layout)(NULL, NULL, limits->vocab), threads);
}

typedef struct logprob_job {
    const tdm_logprob *a;
    const tdm_stream *s;
    size_t slice;
} logprob_job;

static void logprob_row(const tdm_logprob *a, int64_t t, logits_scratch *w)
{
    const int64_t vocab = a->logits.cols;
    const tdm_sampling *s = a->sampling;
    const int32_t *history = a->history ? a->history + a->history_at[t] : NULL;
    const int64_t history_len = history ? a->history_len[t] : 0;
    float *z = tdm_row_f32(a->logits, t);

    TDM_CPU(logits_process)(z, vocab, s, history, history_len, w);
    if (logits_truncates(s)) {
        if (a->support) TDM_CPU(logits_mask)(z, vocab, a->support + t * tdm_ceil_div(vocab, 32));
        else TDM_CPU(logits_truncate)(z, vocab, s, w);
    }
    TDM_ASSERT(a->target[t] >= 0 && a->target[t] < vocab);
    const float target = z[a->target[t]];
    const logits_sum l = TDM_CPU(logits_sum_row)(z, vocab, true, w);
    a->logprob[t] = target == -__builtin_inff() ? target : logits_logprob(&l, target);
    if (a->entropy) a->entropy[t] = l.log_sum - l.dot / (float)l.sum;
    const vf scale = vf_set((float)(1.0 / l.sum));
    for (int64_t v = 0; v < vocab; v += VF) {
        const int64_t n = tdm_min_i64(VF, vocab - v);
        vf_store_n(z + v, vf_mul(vf_load_n(z + v, n), scale), n);
    }
    TDM_CPU(logits_forget)(z, s, history, history_len, w);
}

static void logprob_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const logprob_job *j = ctx;
    logits_scratch w;
    TDM_CPU(logits_scratch_layout)(&w, tdm_cpu_scratch_slice(j->s, 0, j->slice, thread), j->a->logits.cols);
    for (int64_t t = first; t < last; t++) logprob_row(j->a, t, &w);
}

tdm_status TDM_CPU(logprob)(tdm_stream *s, const tdm_logprob *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->logits.dtype == TDM_DTYPE_F32 && a->logits.cols > 0);
    logprob_job job = {a, s, TDM_CPU(logits_scratch_layout)(NULL, NULL, a->logits.cols)};
    tdm_cpu_parallel(s, a->logits.rows, 1, logprob_rows, &job);
    return TDM_OK;
}

/* ---- Backward ---------------------------------------------------------------------------------------------------------------- */

/* (coef (1[target] - p) - entropy_coef p (ln p + entropy)) scale, for 16 tokens or one. */
typedef struct slope { float coef, entropy_coef, entropy, scale; } slope;

static inline vf slope_at(const slope *k, vf p, vf target)
{
    vf d = vf_mul(vf_set(k->coef), vf_sub(target, p));
    if (k->entropy_coef != 0.0f) {
        const vf information = vf_add(vf_log(p), vf_set(k->entropy));
        const vf e = vf_mul(vf_mul(vf_set(k->entropy_coef), p), information);
        d = vf_sub(d, vf_keep(vf_lt(vf_zero(), p), e)); /* p ln p is 0 at 0 */
    }
    return vf_mul(d, vf_set(k->scale));
}

static inline float slope_one(const slope *k, float p, float target)
{
    float d[VF];
    vf_store(d, slope_at(k, vf_set(p), vf_set(target)));
    return d[0];
}

static void backward_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_logprob_backward *a = ctx;
    const int64_t vocab = a->p.cols;
    const float temperature = a->sampling->temperature > 0.0f ? a->sampling->temperature : 1.0f;
    const float penalty = a->sampling->repetition_penalty;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const slope k = {a->coef[t], a->entropy_coef ? a->entropy_coef[t] : 0.0f, a->entropy ? a->entropy[t] : 0.0f, 1.0f / temperature};
        const float *p = tdm_crow_f32(a->p, t);
        uint16_t *d = tdm_row_bf16(a->dlogits, t);
        for (int64_t v = 0; v < vocab; v += VF) {
            const int64_t n = tdm_min_i64(VF, vocab - v);
            const vf magnitude = vf_of(vu_and(vu_of(vf_load_n(p + v, n)), vu_set(0x7fffffffu)));
            vf_store_bf16_n(d + v, slope_at(&k, magnitude, vf_zero()), n);
        }
        const int32_t target = a->target[t];
        TDM_ASSERT(target >= 0 && target < vocab);
        d[target] = tdm_f32_to_bf16(slope_one(&k, __builtin_fabsf(p[target]), 1.0f));
        if (!a->history || penalty == 1.0f) continue;
        for (int32_t i = 0; i < a->history_len[t]; i++) { /* from p each time, so an id that comes twice is scaled once */
            const int32_t id = a->history[a->history_at[t] + i];
            const float g = slope_one(&k, __builtin_fabsf(p[id]), id == target ? 1.0f : 0.0f);
            d[id] = tdm_f32_to_bf16(__builtin_signbit(p[id]) ? g * penalty : g / penalty);
        }
    }
}

tdm_status TDM_CPU(logprob_backward)(tdm_stream *s, const tdm_logprob_backward *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->p.dtype == TDM_DTYPE_F32 && a->dlogits.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->p.rows == a->dlogits.rows && a->p.cols == a->dlogits.cols);
    TDM_ASSERT(!a->entropy_coef || a->entropy);
    tdm_logprob_backward job = *a;
    tdm_cpu_parallel(s, a->p.rows, 1, backward_rows, &job);
    return TDM_OK;
}
