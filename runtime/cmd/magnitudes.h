/* How large values are at each place that a static scale is for: exact counts of every BF16 magnitude, so that any percentile is exact.
 *   created   tdm_magnitudes_open    released  tdm_magnitudes_close
 *   threads   one at a time */
#ifndef TANDEM_RUNTIME_CMD_MAGNITUDES_H
#define TANDEM_RUNTIME_CMD_MAGNITUDES_H

#include <jansson.h>

#include "infer/model.h"

typedef struct tdm_magnitudes {
    tdm_observer observer; /* to hand to the model; it counts into this struct, which must not move */
    const tdm_model *m;    /* borrowed */
    int64_t *count;        /* owned; [L, TDM_PROJ_COUNT, 32768] by the bits of the magnitude; of places that have none untouched */
    uint16_t *rows;        /* owned; what a device holds, copied here; NULL on the CPU */
} tdm_magnitudes;

/* Bytes of the host; tokens: the most rows of a call. */
size_t tdm_magnitudes_bytes(const tdm_model_config *c, int64_t tokens);
tdm_status tdm_magnitudes_open(tdm_magnitudes *g, const tdm_model *m, int64_t tokens, tdm_error *err);
void tdm_magnitudes_close(tdm_magnitudes *g); /* {0} is fine */
/* The least magnitude that percentile % of the values do not pass (100: the largest), as memory/activation_scales.h reads them: by module,
 * and of keys and values by layer. New references. A place where all values are 0 has 1; one that is not finite is an error at `where`. */
tdm_status tdm_magnitudes_json(const tdm_magnitudes *g, double percentile, const char *where, json_t **modules, json_t **kv, tdm_error *err);

#endif
