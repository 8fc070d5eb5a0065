#include "train/gae.h"

#include <math.h>

void tdm_gae_eval(const tdm_gae *g, const float *reward, const float *value, const uint8_t *mask, int64_t count, float *advantage, float *returns)
{
    double next_value = 0.0, next = 0.0;
    for (int64_t t = count - 1; t >= 0; t--) {
        const double r = (double)reward[t], v = (double)value[t];
        advantage[t] = returns[t] = 0.0f;
        if (mask && mask[t] != 1) continue;
        next = r + g->gamma * next_value - v + g->gamma * g->lambda * next;
        next_value = v;
        advantage[t] = (float)next;
        returns[t] = (float)(next + v);
    }
}

void tdm_moments_add(tdm_moments *m, const float *x, const uint8_t *mask, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (mask && mask[i] != 1) continue;
        m->count++;
        m->sum += (double)x[i];
    }
}

double tdm_moments_mean(const tdm_moments *m) { return m->count ? m->sum / (double)m->count : 0.0; }

void tdm_moments_add_squares(tdm_moments *m, const float *x, const uint8_t *mask, int64_t count)
{
    const double mean = tdm_moments_mean(m);
    for (int64_t i = 0; i < count; i++)
        if (!mask || mask[i] == 1) m->squares += ((double)x[i] - mean) * ((double)x[i] - mean);
}

double tdm_moments_variance(const tdm_moments *m) { return m->count > 1 ? m->squares / (double)(m->count - 1) : 0.0; }

void tdm_whiten(const tdm_moments *m, bool shift, float *x, const uint8_t *mask, int64_t count)
{
    const double mean = tdm_moments_mean(m), scale = 1.0 / sqrt(tdm_moments_variance(m) + 1e-8);
    for (int64_t i = 0; i < count; i++)
        if (!mask || mask[i] == 1) x[i] = (float)(((double)x[i] - mean) * scale + (shift ? 0.0 : mean));
}

double tdm_value_loss(const tdm_value_config *c, double v, double old, double returns, double weight, tdm_value_sums *sums)
{
    const double bounded = fmin(fmax(v, old - c->clip), old + c->clip);
    const double plain = (v - returns) * (v - returns), clipped = (bounded - returns) * (bounded - returns);
    const bool clips = clipped > plain;
    sums->tokens++;
    sums->clipped += clips;
    sums->loss += 0.5 * c->factor * weight * (clips ? clipped : plain);
    return clips ? 0.0 : c->factor * weight * (v - returns); /* where the bound is the larger loss, v is outside it and does not move it */
}
