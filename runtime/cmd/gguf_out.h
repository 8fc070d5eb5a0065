/* A model folder as one GGUF file in Q8_0, for llama.cpp. Matrices are Q8_0 (F16 where rows are no multiple of 32), vectors F32.
 * Source: ggml-org/llama.cpp, convert_hf_to_gguf.py and gguf-py/gguf/constants.py. */
#ifndef TANDEM_RUNTIME_CMD_GGUF_OUT_H
#define TANDEM_RUNTIME_CMD_GGUF_OUT_H

#include <jansson.h>

#include "memory/gguf_write.h"
#include "memory/model_file.h"

/* What GGUF or this writer cannot say is TDM_ERR_INPUT: other families than Llama, Qwen2 and Qwen3, windows, tokenizers that are not byte-level BPE, or
 * whose pre-tokenizer llama.cpp has no name for. */
tdm_status tdm_gguf_model_write(const char *folder, const char *path, tdm_error *err);

/* tokenizer_gguf_meta.c: the metadata of a folder's tokenizer, filled up to `vocab` ids. */
tdm_status tdm_gguf_put_tokenizer(tdm_gguf_head *h, const char *folder, const tdm_model_config *c, tdm_error *err);

/* tokenizer_gguf_out.c: llama.cpp's name for what a tokenizer.json does before merging; NULL: it has none. */
const char *tdm_tokenizer_pre_name(const json_t *tokenizer);

#endif
