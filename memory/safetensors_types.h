/* The dtypes the safetensors format names, with their width. Source: huggingface/safetensors, safetensors/src/tensor.rs, Dtype. */
#ifndef TANDEM_MEMORY_SAFETENSORS_TYPES_H
#define TANDEM_MEMORY_SAFETENSORS_TYPES_H

#include "memory/safetensors.h"

typedef struct tdm_st_type {
    const char *name;
    int bits;
    tdm_st_dtype dtype;
} tdm_st_type;

const tdm_st_type *tdm_st_type_find(const char *name);           /* NULL: unknown */
const tdm_st_type *tdm_st_type_of(tdm_st_dtype dtype);           /* dtype is not OTHER */

#endif
