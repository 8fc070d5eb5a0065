/* divergence: of two distributions a row, and its gradient in the logits of the first. */
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops_cpu.h"
#include "kernels/cpu/stream.h"

enum { BLOCK = 512 }; /* tokens of one partial sum */

typedef struct term { vf value, score; } term;

static inline vf log_of(vf p) { return vf_log(vf_max(p, vf_set(0x1p-126f))); }

/* A token's part of the divergence, and what its gradient weighs p by, less a constant of the row. beta: 0, 1 or between. */
static inline term term_at(vf p, vf q, const float beta)
{
    const vf lp = log_of(p), lq = log_of(q);
    if (beta == 1.0f) {
        const vf score = vf_sub(lp, lq);
        return (term){vf_mul(p, score), score};
    }
    if (beta == 0.0f) return (term){vf_mul(q, vf_sub(lq, lp)), vf_zero()};
    const vf part_q = vf_mul(vf_set(beta), q), part_p = vf_mul(vf_set(1.0f - beta), p), lm = log_of(vf_add(part_q, part_p));
    const vf score = vf_sub(lp, lm);
    return (term){vf_add(vf_mul(part_q, vf_sub(lq, lm)), vf_mul(part_p, score)), score};
}

typedef struct sums { double value, score; } sums;

static sums sum_row(const float *p, const float *q, int64_t vocab, float beta)
{
    sums s = {0};
    for (int64_t first = 0; first < vocab; first += BLOCK) {
        const int64_t end = tdm_min_i64(vocab, first + BLOCK);
        vf value = vf_zero(), score = vf_zero();
        for (int64_t v = first; v < end; v += VF) { /* past the end p and q are 0, and so are their terms */
            const int64_t n = tdm_min_i64(VF, end - v);
            const vf at = vf_load_n(p + v, n);
            const term t = term_at(at, vf_load_n(q + v, n), beta);
            value = vf_add(value, t.value);
            score = vf_add(score, vf_mul(at, t.score));
        }
        s.value += (double)vf_sum(value);
        s.score += (double)vf_sum(score);
    }
    return s;
}

static void gradient_row(uint16_t *d, const float *p, const float *q, int64_t vocab, float beta, float mean, float scale)
{
    const float inner = beta == 0.0f || beta == 1.0f ? 1.0f : 1.0f - beta;
    for (int64_t v = 0; v < vocab; v += VF) {
        const int64_t n = tdm_min_i64(VF, vocab - v);
        const vf at = vf_load_n(p + v, n), of = vf_load_n(q + v, n);
        const vf slope = beta == 0.0f ? vf_sub(at, of) : vf_mul(at, vf_sub(term_at(at, of, beta).score, vf_set(mean)));
        vf_store_bf16_n(d + v, vf_mul(slope, vf_set(scale * inner)), n);
    }
}

static void rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_divergence *a = ctx;
    const int64_t vocab = a->p.cols;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const float *p = tdm_crow_f32(a->p, t), *q = tdm_crow_f32(a->q, t);
        const sums s = sum_row(p, q, vocab, a->beta);
        a->value[t] = (float)s.value;
        gradient_row(tdm_row_bf16(a->dlogits, t), p, q, vocab, a->beta, (float)s.score, a->coef[t] / a->temperature);
    }
}

tdm_status TDM_CPU(divergence)(tdm_stream *s, const tdm_divergence *a, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(a->p.dtype == TDM_DTYPE_F32 && a->q.dtype == TDM_DTYPE_F32 && a->dlogits.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->p.rows == a->q.rows && a->p.cols == a->q.cols && a->p.rows == a->dlogits.rows && a->p.cols == a->dlogits.cols);
    tdm_divergence job = *a;
    tdm_cpu_parallel(s, a->p.rows, 1, rows, &job);
    return TDM_OK;
}
