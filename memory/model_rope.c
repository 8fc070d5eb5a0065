/* Rotary frequencies, in f32 step by step as transformers computes them, because their last bits turn into angles at
 * large positions. */
#include "memory/model_config.h"

#include <math.h>

/* Source: transformers, modeling_rope_utils.py, _compute_llama3_parameters: long waves are slowed by the factor, short
 * ones kept, those between are mixed. */
static float llama3(const tdm_model_config *c, float inv_freq)
{
    const float original = (float)c->rope_original_context, factor = (float)c->rope_factor;
    const float low = (float)c->rope_low_freq;
    const float wave = (float)(2 * M_PI) / inv_freq;
    const float low_wave = (float)((double)c->rope_original_context / c->rope_low_freq);
    const float high_wave = (float)((double)c->rope_original_context / c->rope_high_freq);
    if (wave > low_wave) return inv_freq / factor;
    if (wave < high_wave) return inv_freq;
    const float smooth = (original / wave - low) / (float)(c->rope_high_freq - c->rope_low_freq);
    return (1 - smooth) * inv_freq / factor + smooth * inv_freq;
}

int64_t tdm_rope_dim(const tdm_model_config *c) { return c->rope_dim ? c->rope_dim : c->head_dim; }

void tdm_rope_inv_freq_of(const tdm_model_config *c, bool sliding, int64_t positions, float *inv_freq)
{
    const bool local = sliding && c->rope_local_theta > 0;
    const double theta = local ? c->rope_local_theta : c->rope_theta;
    const float *factors = positions > c->rope_original_context ? c->rope_long_factors : c->rope_factors;
    const int64_t dim = tdm_rope_dim(c);
    for (int64_t i = 0; i < dim / 2; i++) {
        const float wave = powf((float)theta, (float)(2 * i) / (float)dim), f = 1.0f / wave;
        switch (local ? TDM_ROPE_PLAIN : c->rope) {
        case TDM_ROPE_PLAIN: inv_freq[i] = f; break;
        case TDM_ROPE_LINEAR: inv_freq[i] = f / (float)c->rope_factor; break;
        case TDM_ROPE_LLAMA3: inv_freq[i] = llama3(c, f); break;
        case TDM_ROPE_FACTORS: inv_freq[i] = f / c->rope_factors[i]; break;
        case TDM_ROPE_LONG: inv_freq[i] = 1.0f / (factors[i] * wave); break;
        }
    }
}

void tdm_rope_inv_freq(const tdm_model_config *c, float *inv_freq) { tdm_rope_inv_freq_of(c, false, 0, inv_freq); }
