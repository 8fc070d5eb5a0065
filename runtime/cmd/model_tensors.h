/* The tensors of loaded weights under the names transformers gives them in a model of text alone, ready to be written. */
#ifndef TANDEM_RUNTIME_CMD_MODEL_TENSORS_H
#define TANDEM_RUNTIME_CMD_MODEL_TENSORS_H

#include "memory/safetensors.h"
#include "memory/weights.h"

enum { TDM_TENSOR_NAME_BYTES = TDM_MODULE_BYTES };

typedef struct tdm_model_tensor {
    const tdm_weight *w;  /* of a matrix that is to be computed, or a projection's; else NULL */
    int64_t layer;        /* -1: outside the layers */
    tdm_proj proj;        /* TDM_PROJ_COUNT: not a projection's matrix */
    int64_t expert;
} tdm_model_tensor;

/* entry[i].data points into the weights, or is NULL for a matrix that is to be computed. */
typedef struct tdm_model_tensors {
    tdm_st_entry *entry;
    tdm_model_tensor *of;
    char (*name)[TDM_TENSOR_NAME_BYTES + 32];
    float (*input_scale)[TDM_PROJ_COUNT]; /* [L] */
    float (*kv_scale)[2];                 /* [L] */
    uint16_t *norms;                      /* w of those that multiply with 1 + w */
    int64_t norm_values;
    int64_t count;
} tdm_model_tensors;

/* scale_name: "weight_scale" or "weight_scale_inv", beside FP8 matrices. NULL: the projections are BF16 [N, K] entries without data.
 * kv: scales of keys and values too. */
tdm_status tdm_model_tensors_make(tdm_model_tensors *t, const tdm_weights *w, const char *scale_name, bool kv, tdm_error *err);
void tdm_model_tensors_free(tdm_model_tensors *t); /* {0} is fine */

#endif
