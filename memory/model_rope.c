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

void tdm_rope_inv_freq(const tdm_model_config *c, float *inv_freq)
{
    for (int64_t i = 0; i < c->head_dim / 2; i++) {
        const float f = 1.0f / powf((float)c->rope_theta, (float)(2 * i) / (float)c->head_dim);
        switch (c->rope) {
        case TDM_ROPE_PLAIN: inv_freq[i] = f; break;
        case TDM_ROPE_LINEAR: inv_freq[i] = f / (float)c->rope_factor; break;
        case TDM_ROPE_LLAMA3: inv_freq[i] = llama3(c, f); break;
        case TDM_ROPE_FACTORS: inv_freq[i] = f / c->rope_factors[i]; break;
        }
    }
}
