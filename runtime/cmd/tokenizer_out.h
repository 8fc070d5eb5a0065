/* The tokenizer of a model folder being made. */
#ifndef TANDEM_RUNTIME_CMD_TOKENIZER_OUT_H
#define TANDEM_RUNTIME_CMD_TOKENIZER_OUT_H

#include "memory/gguf.h"
#include "memory/model_file.h"
#include "runtime/cmd/model_out.h"

/* From a folder: its tokenizer files, byte for byte (none is fine: some test models have none). From a GGUF: tokenizer.json and
 * tokenizer_config.json with the chat template, made from its metadata; a tokenizer that cannot be said there is TDM_ERR_INPUT.
 * folder: take the files from there instead, which must have a tokenizer.json; NULL: from the model. */
tdm_status tdm_tokenizer_write(const tdm_model_out *o, const tdm_model_file *f, const char *folder, tdm_error *err);

/* The two files of a GGUF with a byte-level BPE. Errors: TDM_ERR_INPUT. The caller's references. */
tdm_status tdm_tokenizer_json(const tdm_gguf *g, const char *where, json_t **tokenizer, json_t **config, tdm_error *err);

#endif
