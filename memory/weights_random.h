/* Weights without a checkpoint: the region of a placed plan, drawn at random. */
#ifndef TANDEM_MEMORY_WEIGHTS_RANDOM_H
#define TANDEM_MEMORY_WEIGHTS_RANDOM_H

#include "memory/weights_plan.h"

/* region: plan->bytes, where tdm_weights_plan_place points. Codes and scales are written as they are stored, so nothing is quantized: a model of
 * any size is there as fast as memory can be written. A word is a function of its place in the region alone: the same weights on every
 * machine, and with any number of threads. */
tdm_status tdm_weights_draw(const tdm_weights_plan *p, const tdm_region *region, tdm_error *err);

#endif
