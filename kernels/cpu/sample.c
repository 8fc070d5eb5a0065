/* sample: one token a row, by inverting the cumulative sum with one Philox uniform. */
#include "kernels/cpu/logits.h"
#include "kernels/cpu/ops_cpu.h"
#include "kernels/philox.h"

typedef struct sample_job {
    const tdm_sample *a;
    const tdm_stream *s;
    size_t slice;
} sample_job;

static int32_t argmax(const float *z, int64_t vocab, float max) /* the lowest of equals; 0 where all is NaN */
{
    for (int64_t v = 0; v < vocab; v++)
        if (z[v] == max) return (int32_t)v;
    return 0;
}

/* The first token at which the running sum of exp(z - max) passes u times the whole: block after block, then within the block.
 * Where rounding keeps a sum from passing, the last token that has any probability is it. */
static int32_t invert(const float *z, int64_t vocab, const logits_sum *l, float u, const double *block)
{
    const double target = (double)u * l->sum;
    const int64_t blocks = tdm_ceil_div(vocab, LOGITS_BLOCK);
    double before = 0.0, reached = 0.0;
    int64_t at = -1;
    for (int64_t b = 0; b < blocks; b++) {
        if (!(block[b] > 0.0)) continue;
        at = b;
        before = reached;
        reached += block[b];
        if (reached > target) break;
    }
    if (at < 0) return argmax(z, vocab, l->max);
    int32_t last = -1;
    const int64_t end = tdm_min_i64(vocab, (at + 1) * LOGITS_BLOCK);
    for (int64_t v = at * LOGITS_BLOCK; v < end; v += VF) {
        const int64_t n = tdm_min_i64(VF, end - v);
        float e[VF];
        vf_store(e, vf_exp(vf_sub(vf_load_n(z + v, n), vf_set(l->max))));
        for (int64_t i = 0; i < n; i++) {
            if (!(e[i] > 0.0f)) continue;
            before += (double)e[i];
            last = (int32_t)(v + i);
            if (before > target) return last;
        }
    }
    return last >= 0 ? last : argmax(z, vocab, l->max);
}

static void sample_row(const tdm_sample *a, int64_t r, logits_scratch *w)
{
    const int64_t vocab = a->logits.cols, words = tdm_ceil_div(vocab, 32);
    const tdm_sampling *s = &a->sampling[r];
    const tdm_draw *d = &a->draw[r];
    const int32_t *history = a->history ? a->history + a->history_at[r] : NULL;
    const int64_t history_len = history ? a->history_len[r] : 0;
    float *z = tdm_row_f32(a->logits, r);

    TDM_CPU(logits_process)(z, vocab, s, history, history_len, w);
    TDM_CPU(logits_forget)(NULL, s, history, history_len, w);
    if (logits_truncates(s)) {
        TDM_CPU(logits_truncate)(z, vocab, s, w);
        if (a->support) TDM_CPU(logits_support)(a->support + r * words, z, vocab);
    }
    const logits_sum l = TDM_CPU(logits_sum_row)(z, vocab, false, w);
    if (s->temperature <= 0.0f) {
        a->token[r] = argmax(z, vocab, l.max);
    } else {
        const float u = tdm_uniform(tdm_philox(d->seed, d->step, d->prompt, d->sample, d->position).v[0]);
        a->token[r] = invert(z, vocab, &l, u, w->block);
    }
    a->logprob[r] = logits_logprob(&l, z[a->token[r]]);
}

static void sample_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const sample_job *j = ctx;
    logits_scratch w;
    TDM_CPU(logits_scratch_layout)(&w, tdm_cpu_scratch_slice(j->s, 0, j->slice, thread), j->a->logits.cols);
    for (int64_t r = first; r < last; r++) sample_row(j->a, r, &w);
}

tdm_status TDM_CPU(sample)(tdm_stream *s, const tdm_sample *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->logits.dtype == TDM_DTYPE_F32 && a->logits.cols > 0);
    sample_job job = {a, s, TDM_CPU(logits_scratch_layout)(NULL, NULL, a->logits.cols)};
    tdm_cpu_parallel(s, a->logits.rows, 1, sample_rows, &job);
    return TDM_OK;
}
