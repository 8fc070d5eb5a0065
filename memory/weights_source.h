/* Finding a tensor a weight is made from, and deciding its scheme. */
#ifndef TANDEM_MEMORY_WEIGHTS_SOURCE_H
#define TANDEM_MEMORY_WEIGHTS_SOURCE_H

#include "memory/weights_plan.h"

/* The tensor NAME of shape [rows, cols] (or [cols] when rows is 0), marked as used. Missing or of another shape: an error. */
tdm_status tdm_weights_source(tdm_weights_plan *p, const char *name, int64_t rows, int64_t cols, const tdm_tensor **out, tdm_error *err);
/* Fills m->w's scheme and act, m->stored, m->scale and m->input_scale for the module; layer -1: outside the layers. m->weight is set. */
tdm_status tdm_weights_scheme(tdm_weights_plan *p, tdm_matrix_plan *m, const char *module, int64_t layer, tdm_error *err);
/* Scales of keys and values, of each layer. */
tdm_status tdm_weights_kv_scales(tdm_weights_plan *p, tdm_error *err);
/* Every tensor of the file was used, or is known to be harmless. */
tdm_status tdm_weights_check_extra(tdm_weights_plan *p, tdm_error *err);

#endif
