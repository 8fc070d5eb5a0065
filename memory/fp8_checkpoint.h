/* quantization_config of a checkpoint that is FP8 already: which modules are quantized, and how.
 * Source: compressed-tensors, quant_args.py and quant_config.py; transformers, integrations/finegrained_fp8.py and
 * quantizers_utils.should_convert_module; vLLM, model_executor/layers/quantization/fp8.py. */
#ifndef TANDEM_MEMORY_FP8_CHECKPOINT_H
#define TANDEM_MEMORY_FP8_CHECKPOINT_H

#include "kernels/ops.h"

#include <jansson.h>

typedef struct tdm_fp8_checkpoint tdm_fp8_checkpoint;

/* How one linear module is stored. */
typedef struct tdm_fp8_module {
    bool quantized;
    tdm_scheme stored; /* shape of its weight scale: one, a row's, a block's */
    tdm_scheme scheme; /* what it runs as: one scale with per-token activations becomes fp8_channel, with the scale in every row */
    tdm_act_quant act;
} tdm_fp8_module;

/* *q NULL: config.json has no quantization_config. Another method or format than FP8 is refused by name. */
tdm_status tdm_fp8_checkpoint_read(tdm_fp8_checkpoint **q, const json_t *config, const char *where, tdm_error *err);
void tdm_fp8_checkpoint_free(tdm_fp8_checkpoint *q);
/* module: "model.layers.0.mlp.up_proj". */
tdm_status tdm_fp8_checkpoint_module(const tdm_fp8_checkpoint *q, const char *module, tdm_fp8_module *out, tdm_error *err);
/* Whether scales of keys and values in it are those of e4m3. */
bool tdm_fp8_checkpoint_kv(const tdm_fp8_checkpoint *q);
const char *tdm_scheme_text(tdm_scheme scheme); /* "fp8_channel" */

#endif
