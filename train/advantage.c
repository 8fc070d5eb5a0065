#include "train/advantage.h"

#include <math.h>

typedef struct moments {
    double mean, std;
    int64_t count;
    bool equal;
} moments;

static moments moments_of(const double *x, int64_t first, int64_t last)
{
    moments m = {.equal = true};
    double least = INFINITY, most = -INFINITY;
    for (int64_t i = first; i < last; i++) {
        if (isnan(x[i])) continue;
        m.count++;
        m.mean += x[i];
        least = fmin(least, x[i]);
        most = fmax(most, x[i]);
    }
    if (m.count == 0) return m;
    m.mean /= (double)m.count;
    m.equal = least == most;
    for (int64_t i = first; i < last; i++)
        if (!isnan(x[i])) m.std += (x[i] - m.mean) * (x[i] - m.mean);
    m.std = m.count > 1 ? sqrt(m.std / (double)(m.count - 1)) : 0.0;
    return m;
}

bool tdm_rewards_equal(const double *reward, int64_t first, int64_t last) { return moments_of(reward, first, last).equal; }

/* A sum over tokens on its way to a standard deviation that is not Bessel's. */
typedef struct spread {
    double count, mean, variance;
} spread;

static void add_tokens(spread *s, double x, double n)
{
    s->count += n;
    s->mean += n * x;
}

static void end_mean(spread *s) { s->mean /= fmax(s->count, 1.0); }
static void add_square(spread *s, double x, double n) { s->variance += n * (x - s->mean) * (x - s->mean); }
static double scale_of(const spread *s) { return 1.0 / sqrt(fmax(s->variance / fmax(s->count, 1.0), 1e-8)); }

/* Less the mean over tokens, divided by the deviation over them; NaN becomes 0 and counts nothing. */
static void standardize(double *x, const int64_t *tokens, int64_t n)
{
    spread s = {0};
    for (int64_t i = 0; i < n; i++)
        if (!isnan(x[i])) add_tokens(&s, x[i], (double)tokens[i]);
    end_mean(&s);
    for (int64_t i = 0; i < n; i++)
        if (!isnan(x[i])) add_square(&s, x[i], (double)tokens[i]);
    const double scale = scale_of(&s);
    for (int64_t i = 0; i < n; i++) x[i] = isnan(x[i]) ? 0.0 : (x[i] - s.mean) * scale;
}

static void reinforce_pp(bool baseline, const double *reward, const int64_t *tokens, const int64_t *group_start, int64_t groups, double *advantage)
{
    for (int64_t g = 0; g < groups; g++) {
        const double mean = baseline ? moments_of(reward, group_start[g], group_start[g + 1]).mean : 0.0;
        for (int64_t i = group_start[g]; i < group_start[g + 1]; i++) advantage[i] = reward[i] - mean;
    }
    standardize(advantage, tokens, group_start[groups]);
}

/* Each token's KL to the reward less factor times the KL from it on; NaN stays. */
static void returns_of(double reward, double factor, int64_t tokens, float *value)
{
    double behind = 0.0;
    for (int64_t t = tokens; t-- > 0;) {
        if (isnan(value[t])) continue;
        behind += factor * (double)value[t];
        value[t] = (float)(reward - behind);
    }
}

void tdm_advantages_by_token(bool baseline, const double *reward, double factor, const int64_t *tokens, const int64_t *group_start, int64_t groups,
                             float *const *value)
{
    const int64_t n = group_start[groups];
    spread s = {0};
    for (int64_t g = 0; g < groups; g++) {
        const double mean = baseline ? moments_of(reward, group_start[g], group_start[g + 1]).mean : 0.0;
        for (int64_t i = group_start[g]; i < group_start[g + 1]; i++) returns_of(reward[i] - mean, factor, tokens[i], value[i]);
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = 0; t < tokens[i]; t++)
            if (!isnan(value[i][t])) add_tokens(&s, (double)value[i][t], 1.0);
    end_mean(&s);
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = 0; t < tokens[i]; t++)
            if (!isnan(value[i][t])) add_square(&s, (double)value[i][t], 1.0);
    const double scale = scale_of(&s);
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = 0; t < tokens[i]; t++) value[i][t] = isnan(value[i][t]) ? 0.0f : (float)(((double)value[i][t] - s.mean) * scale);
}

void tdm_advantages(tdm_advantage kind, const double *reward, const int64_t *tokens, const int64_t *group_start, int64_t groups, double *advantage)
{
    if (kind == TDM_ADVANTAGE_REINFORCE_PP || kind == TDM_ADVANTAGE_REINFORCE_PP_BASELINE) {
        reinforce_pp(kind == TDM_ADVANTAGE_REINFORCE_PP_BASELINE, reward, tokens, group_start, groups, advantage);
        return;
    }
    const moments batch = moments_of(reward, 0, group_start[groups]);
    for (int64_t g = 0; g < groups; g++) {
        const moments m = moments_of(reward, group_start[g], group_start[g + 1]);
        for (int64_t i = group_start[g]; i < group_start[g + 1]; i++) {
            const double centered = reward[i] - m.mean;
            advantage[i] = 0.0;
            if (isnan(centered) || m.equal) continue;
            switch (kind) {
            case TDM_ADVANTAGE_GROUP_STD: advantage[i] = centered / (m.std + 1e-4); break;
            case TDM_ADVANTAGE_BATCH_STD: advantage[i] = centered / (batch.std + 1e-4); break;
            case TDM_ADVANTAGE_NONE: advantage[i] = centered; break;
            case TDM_ADVANTAGE_GDPO: TDM_ASSERT(!"gdpo is of several rewards"); break;
            case TDM_ADVANTAGE_LEAVE_ONE_OUT: advantage[i] = centered * (double)m.count / (double)(m.count - 1); break;
            case TDM_ADVANTAGE_REINFORCE_PP:
            case TDM_ADVANTAGE_REINFORCE_PP_BASELINE: break; /* above */
            }
        }
    }
}

/* Adds weight * z-score within [first, last) to sum; NaN there: no opinion yet. */
static void add_normalized(const double *score, double weight, int64_t first, int64_t last, double *sum)
{
    const moments m = moments_of(score, first, last);
    for (int64_t i = first; i < last; i++) {
        if (isnan(score[i])) continue;
        if (isnan(sum[i])) sum[i] = 0.0;
        if (!m.equal) sum[i] += weight * (score[i] - m.mean) / (m.std + 1e-4);
    }
}

void tdm_advantages_gdpo(const double *score, const double *weight, int64_t rewards, const int64_t *group_start, int64_t groups, double *sum,
                         double *advantage)
{
    const int64_t n = group_start[groups];
    for (int64_t i = 0; i < n; i++) sum[i] = NAN;
    for (int64_t w = 0; w < rewards; w++)
        for (int64_t g = 0; g < groups; g++) add_normalized(score + w * n, weight[w], group_start[g], group_start[g + 1], sum);
    const moments batch = moments_of(sum, 0, n);
    for (int64_t i = 0; i < n; i++) advantage[i] = isnan(sum[i]) || batch.equal ? 0.0 : (sum[i] - batch.mean) / (batch.std + 1e-4);
}
