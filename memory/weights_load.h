/* Streaming the tensors of a placed plan into their region. */
#ifndef TANDEM_MEMORY_WEIGHTS_LOAD_H
#define TANDEM_MEMORY_WEIGHTS_LOAD_H

#include "memory/weights_plan.h"

/* region: plan->bytes, where tdm_weights_plan_place points. The same bytes and the same error whatever the number of threads. */
tdm_status tdm_weights_load(const tdm_weights_plan *p, const tdm_region *region, tdm_error *err);

#endif
