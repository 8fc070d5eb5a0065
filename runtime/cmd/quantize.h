/* Writing an FP8 checkpoint, for tandem quantize and tandem export. */
#ifndef TANDEM_RUNTIME_CMD_QUANTIZE_H
#define TANDEM_RUNTIME_CMD_QUANTIZE_H

#include "runtime/cmd/model_config_out.h"
#include "runtime/run/session.h"

typedef struct tdm_quantize {
    const char *output, *tokenizer; /* tokenizer: folder to take its files from; NULL: the model's */
    const char *format;             /* "compressed-tensors", "fp8"; NULL: chosen by the scheme */
    size_t shard_bytes;
    bool kv;                        /* scales of keys and values too */
    tdm_fp8_layout layout;          /* filled, as what follows */
    tdm_fp8_format written;
    size_t bytes;
    int64_t shards;
    uint64_t hash;                  /* of the weights that were written */
} tdm_quantize;

/* Whether `format` is one of the words. */
tdm_status tdm_quantize_check(const tdm_quantize *q, tdm_error *err);
/* Loads spec->model as spec->weights has it (on the CPU) and writes the folder, complete or not at all. */
tdm_status tdm_quantize_model(tdm_quantize *q, const tdm_session_spec *spec, tdm_error *err);

#endif
