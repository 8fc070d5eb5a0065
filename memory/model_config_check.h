/* Shared by the two readers of a model's facts. */
#ifndef TANDEM_MEMORY_MODEL_CONFIG_CHECK_H
#define TANDEM_MEMORY_MODEL_CONFIG_CHECK_H

#include "memory/model_config.h"

#include <jansson.h>

/* Limits that keep every product of dimensions far inside int64. */
enum {
    TDM_HEADS_MAX = 4096,
    TDM_WIDTH_MAX = 1 << 20,
    TDM_FFN_MAX = 1 << 22,
    TDM_VOCAB_MAX = 1 << 24
};
#define TDM_CONTEXT_MAX INT64_C(0x7fffffff)

/* What no single field shows: heads against KV heads, an even head width, ... */
tdm_status tdm_model_config_check(const tdm_model_config *c, const char *where, tdm_error *err);
/* Adds an end token once; one the vocabulary does not have can never be drawn and is left out. */
tdm_status tdm_model_config_add_eos(tdm_model_config *c, int64_t id, const char *where, tdm_error *err);
tdm_status tdm_model_config_from_json(tdm_model_config *c, const json_t *config, const json_t *generation, const char *where, tdm_error *err);

#endif
