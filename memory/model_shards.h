/* The safetensors files of a folder as one set of tensors. */
#ifndef TANDEM_MEMORY_MODEL_SHARDS_H
#define TANDEM_MEMORY_MODEL_SHARDS_H

#include "memory/safetensors.h"

typedef struct tdm_shards {
    tdm_safetensors **files; /* owned */
    char **paths;            /* owned */
    int64_t count;
} tdm_shards;

/* model.safetensors, or the shards model.safetensors.index.json names: each tensor stands in exactly the shard the index says. */
tdm_status tdm_shards_open(tdm_shards *s, const char *folder, tdm_error *err);
void tdm_shards_close(tdm_shards *s); /* a zeroed set: nothing */

#endif
