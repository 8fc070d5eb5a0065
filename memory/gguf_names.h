/* llama.cpp's tensor names and transformers'. Source: ggml-org/llama.cpp, gguf-py/gguf/tensor_mapping.py. */
#ifndef TANDEM_MEMORY_GGUF_NAMES_H
#define TANDEM_MEMORY_GGUF_NAMES_H

#include "memory/arch/arch.h"

/* "blk.3.attn_q.weight" to "model.layers.3.self_attn.q_proj.weight"; false: a name that no model of the family has. */
bool tdm_gguf_name(const tdm_arch *arch, const char *stored, char *out, size_t out_bytes);
/* The other way; false: llama.cpp has no such tensor. */
bool tdm_gguf_name_of(const tdm_arch *arch, const char *name, char *out, size_t out_bytes);
/* True for the query and key projections, whose rows the converter interleaves for architecture llama. */
bool tdm_gguf_name_permuted(const char *stored);

#endif
