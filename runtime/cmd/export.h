/* What tandem export works on: an adapter, and the base it was trained on. Shared by export.c and export_merge.c. */
#ifndef TANDEM_RUNTIME_CMD_EXPORT_H
#define TANDEM_RUNTIME_CMD_EXPORT_H

#include "runtime/cmd/model_out.h"
#include "runtime/run/session.h"

/* Writes base + adapter as a BF16 model folder at output: W + scale * B A in f32 from the values the forward used, rounded once.
 * The folder is opened again before it gets its name: tensors are compared with what was to be written, and log-probabilities of a
 * short text with those of base and adapter; *difference: the largest of the latter, in nats. base_hash not 0: the base must have it. */
enum { TDM_MERGE_TOKENS = 64 };
typedef struct tdm_merge_text {
    int32_t ids[TDM_MERGE_TOKENS];
    float lp[TDM_MERGE_TOKENS]; /* [count - 1] of base + adapter */
    int64_t count;
} tdm_merge_text;
typedef struct tdm_merge {
    tdm_session_spec base;   /* with adapter_dir */
    const char *output, *tokenizer; /* tokenizer: folder to take its files from; NULL: the base's */
    uint64_t base_hash;
    size_t shard_bytes;
    float difference;        /* filled */
    int64_t compared;        /* filled: log-probabilities */
    bool quantized_act;      /* filled: the base's forward quantizes activations */
    size_t bytes;            /* filled */
    tdm_merge_text text;     /* filled: what was compared */
    char (*kept)[TDM_MODULE_BYTES]; /* filled, malloc'd: modules that are BF16 in a base that is FP8 otherwise */
    int64_t kept_count;      /* filled; -1: the base is BF16 */
} tdm_merge;
tdm_status tdm_export_merged(tdm_merge *m, tdm_error *err);

/* The text that is compared; and its log-probabilities under the model at `path`, beside those of base and adapter. *hash (may be NULL): of its weights. */
extern const char tdm_merge_words[];
tdm_status tdm_merge_compare(const tdm_merge *m, const char *path, uint64_t *hash, float *most, tdm_error *err);

/* export_convert.c.
 * The same in FP8: the BF16 model is made beside output, quantized into output with the base's options but for `scheme`, and removed. What the base
 * kept in BF16 stays so. So the folder
 * is what tandem quantize makes of the merged model. It is loaded again: the weights must be those that were written, and *difference is its. */
tdm_status tdm_export_requantized(tdm_merge *m, tdm_scheme scheme, const char *format, tdm_error *err);
/* The same as one GGUF file in Q8_0, with the tokenizer: read again, the text has the same ids, and *difference is its. */
tdm_status tdm_export_gguf(tdm_merge *m, tdm_error *err);

#endif
