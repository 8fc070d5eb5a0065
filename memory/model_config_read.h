/* The parts of reading config.json. */
#ifndef TANDEM_MEMORY_MODEL_CONFIG_READ_H
#define TANDEM_MEMORY_MODEL_CONFIG_READ_H

#include "memory/arch/arch.h"
#include "memory/model_config_check.h"

/* c->arch, layers, head_dim and context are set. */
tdm_status tdm_model_config_rope(tdm_model_config *c, const tdm_json_fields *f);
/* TDM_ROPE_LONG's rope_attention: `attention`, or what the paper has for `factor`; 0: not given. */
void tdm_rope_set_attention(tdm_model_config *c, double attention, double factor);
tdm_status tdm_model_config_window(tdm_model_config *c, const tdm_json_fields *f);

#endif
