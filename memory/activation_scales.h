/* What `tandem calibrate` found: the largest magnitude (or a percentile) of what enters each projection, and of each layer's keys and values.
 *   file      {"modules": {"model.layers.0.self_attn.q_proj": 3.25, ...}, "kv": {"model.layers.0.self_attn": [keys, values], ...}}, whatever
 *             else it says of itself
 *   created   tdm_activation_scales_read    released  tdm_activation_scales_free */
#ifndef TANDEM_MEMORY_ACTIVATION_SCALES_H
#define TANDEM_MEMORY_ACTIVATION_SCALES_H

#include "memory/weights.h"

typedef struct tdm_activation_scales {
    char *path;
    float (*input)[TDM_PROJ_COUNT]; /* [L] magnitudes; 0: the file has none */
    float (*kv)[2];                 /* [L]; keys, values; 0: the file has none */
} tdm_activation_scales;

/* A module that this model does not have, and a magnitude that is not positive and finite in f32, are errors. */
tdm_status tdm_activation_scales_read(tdm_activation_scales *s, const tdm_model_config *c, const char *path, tdm_error *err);
void tdm_activation_scales_free(tdm_activation_scales *s); /* {0} is fine */

#endif
