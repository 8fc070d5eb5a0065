/* config.json and generation_config.json of a model folder being made. */
#ifndef TANDEM_RUNTIME_CMD_MODEL_CONFIG_OUT_H
#define TANDEM_RUNTIME_CMD_MODEL_CONFIG_OUT_H

#include "memory/model_file.h"
#include "memory/weights.h"
#include "runtime/cmd/model_out.h"

typedef enum tdm_fp8_format { TDM_FP8_FORMAT_COMPRESSED, TDM_FP8_FORMAT_FP8 } tdm_fp8_format;

/* How the FP8 matrices of these weights are quantized: the same way everywhere, or TDM_ERR_INPUT. */
typedef struct tdm_fp8_layout {
    tdm_scheme scheme; /* BF16: no matrix is FP8 */
    tdm_act_quant act;
    int64_t quantized, kept; /* projections */
} tdm_fp8_layout;
tdm_status tdm_fp8_layout_of(const tdm_weights *w, const char *where, tdm_fp8_layout *out, tdm_error *err);
/* Whether the format can say it; hint for the person in the error. */
tdm_status tdm_fp8_format_check(tdm_fp8_format format, const tdm_fp8_layout *l, tdm_error *err);
/* The quantization_config object; NULL: out of memory. */
json_t *tdm_quantization_json(const tdm_weights *w, const tdm_fp8_layout *l, tdm_fp8_format format, bool kv);

/* config.json as transformers needs it, from the facts alone (for a GGUF). What no config.json can say is TDM_ERR_INPUT. */
tdm_status tdm_model_config_json(const tdm_model_config *c, const char *where, json_t **out, tdm_error *err);

/* Writes config.json: the source folder's own (or, for a GGUF, one made from its metadata) with this quantization_config (lent; NULL:
 * none). bf16: dtype says bfloat16. generation_config.json is copied along, or made. */
tdm_status tdm_model_config_write(const tdm_model_out *o, const tdm_model_file *f, const json_t *quantization, bool bf16, tdm_error *err);

#endif
