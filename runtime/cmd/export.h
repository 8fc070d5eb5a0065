/* What tandem export works on: an adapter, and the base it was trained on. Shared by export.c and export_merge.c. */
#ifndef TANDEM_RUNTIME_CMD_EXPORT_H
#define TANDEM_RUNTIME_CMD_EXPORT_H

#include "runtime/cmd/model_out.h"
#include "runtime/run/session.h"

/* Writes base + adapter as a BF16 model folder at output: W + scale * B A in f32 from the values the forward used, rounded once.
 * The folder is opened again before it gets its name: tensors are compared with what was to be written, and log-probabilities of a
 * short text with those of base and adapter; *difference: the largest of the latter, in nats. base_hash not 0: the base must have it. */
typedef struct tdm_merge {
    tdm_session_spec base;   /* with adapter_dir */
    const char *output, *tokenizer; /* tokenizer: folder to take its files from; NULL: the base's */
    uint64_t base_hash;
    size_t shard_bytes;
    float difference;        /* filled */
    int64_t compared;        /* filled: log-probabilities */
    bool quantized_act;      /* filled: the base's forward quantizes activations */
    size_t bytes;            /* filled */
} tdm_merge;
tdm_status tdm_export_merged(tdm_merge *m, tdm_error *err);

#endif
