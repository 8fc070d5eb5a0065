#include "train/reject.h"

#include <math.h>

const char *const tdm_reject_names[] = {"token_k1",    "token_k2",    "token_k3",    "seq_sum_k1", "seq_sum_k2", "seq_sum_k3",
                                        "seq_mean_k1", "seq_mean_k2", "seq_mean_k3", "seq_max_k2", "seq_max_k3", NULL};

static double log_ratio(const float *old, const float *sampler, int64_t i)
{
    const double d = (double)old[i] - (double)sampler[i];
    return d < -20.0 ? -20.0 : d > 20.0 ? 20.0 : d;
}

static double divergence(tdm_reject_kind kind, double d)
{
    switch (kind) {
    case TDM_REJECT_TOKEN_K1:
    case TDM_REJECT_SEQ_SUM_K1:
    case TDM_REJECT_SEQ_MEAN_K1: return -d;
    case TDM_REJECT_TOKEN_K2:
    case TDM_REJECT_SEQ_SUM_K2:
    case TDM_REJECT_SEQ_MEAN_K2:
    case TDM_REJECT_SEQ_MAX_K2: return 0.5 * d * d;
    default: return exp(d) - 1.0 - d;
    }
}

/* False for a NaN too: what cannot be compared does not stay. */
static bool within(const tdm_reject_rule *r, double x)
{
    return tdm_reject_is_ratio(r->kind) ? x >= log(r->low) && x <= log(r->high) : x <= r->high;
}

static double of_sequence(tdm_reject_kind kind, const float *old, const float *sampler, int64_t n, const uint8_t *keep)
{
    double sum = 0.0, most = 0.0, count = 0.0;
    for (int64_t i = 0; i < n; i++) {
        if (!keep[i]) continue;
        const double x = divergence(kind, log_ratio(old, sampler, i));
        sum += x;
        most = x <= most ? most : x;
        count += 1.0;
    }
    if (kind == TDM_REJECT_SEQ_MAX_K2 || kind == TDM_REJECT_SEQ_MAX_K3) return most;
    return kind < TDM_REJECT_SEQ_MEAN_K1 ? sum : sum / fmax(count, 1.0);
}

static bool vetoes(double veto, const float *old, const float *sampler, int64_t n, const uint8_t *keep)
{
    for (int64_t i = 0; veto > 0.0 && i < n; i++)
        if (keep[i] && (double)old[i] - (double)sampler[i] < log(veto)) return true;
    return false;
}

void tdm_reject(const tdm_reject_config *c, const float *old, const float *sampler, int64_t n, uint8_t *keep, tdm_reject_sums *s)
{
    enum { IN = 1, GONE = 2 }; /* what is gone stays nonzero: each rule sees all tokens */
    int64_t tokens = 0, left = 0;
    const bool vetoed = vetoes(c->veto, old, sampler, n, keep);
    bool all = vetoed;
    for (int k = 0; k < c->count; k++) {
        const tdm_reject_rule *r = &c->rule[k];
        if (r->kind > TDM_REJECT_TOKEN_K3) {
            all = all || !within(r, of_sequence(r->kind, old, sampler, n, keep));
            continue;
        }
        for (int64_t i = 0; i < n; i++)
            if (keep[i] && !within(r, divergence(r->kind, log_ratio(old, sampler, i)))) keep[i] = GONE;
    }
    for (int64_t i = 0; i < n; i++) {
        tokens += keep[i] != 0;
        if (keep[i] == IN && all) keep[i] = GONE;
        left += keep[i] == IN;
    }
    s->tokens += tokens;
    s->rejected += tokens - left;
    s->sequences += tokens > 0;
    s->touched += left < tokens;
    s->vetoed += vetoed;
}
