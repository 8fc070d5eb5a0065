/* A model folder being made, in the layout transformers and vLLM read: config.json, tokenizer files, safetensors in shards with an index.
 * Everything is written under a temporary name beside the folder's own and synced; one rename makes it complete. */
#ifndef TANDEM_RUNTIME_CMD_MODEL_OUT_H
#define TANDEM_RUNTIME_CMD_MODEL_OUT_H

#include <jansson.h>

#include "memory/fs.h"
#include "memory/safetensors.h"

enum { TDM_SHARD_NAME_BYTES = 64 };
#define TDM_SHARD_BYTES ((size_t)5000000000) /* as transformers splits */

/* Caller's memory. */
typedef struct tdm_model_out {
    char path[TDM_PATH_BYTES], parent[TDM_PATH_BYTES];
    char tmp[TDM_PATH_BYTES]; /* what is written into; "" once finished */
    size_t bytes;             /* of tensors, so far */
    int64_t shards;
} tdm_model_out;

/* Creates the temporary folder. path names a folder that does not exist or is empty, else TDM_ERR_RECIPE. */
tdm_status tdm_model_out_open(tdm_model_out *o, const char *path, tdm_error *err);
/* Syncs and renames. */
tdm_status tdm_model_out_finish(tdm_model_out *o, tdm_error *err);
/* Removes what was written unless it was finished; {0} is fine. */
void tdm_model_out_close(tdm_model_out *o);

/* NAME, indented, with the fewest digits that keep every number. */
tdm_status tdm_model_out_json(const tdm_model_out *o, const char *name, const json_t *value, tdm_error *err);
tdm_status tdm_model_out_text(const tdm_model_out *o, const char *name, const char *text, tdm_error *err);
/* Copies from/NAME; *copied (may be NULL) is false where there is none. */
tdm_status tdm_model_out_copy(const tdm_model_out *o, const char *from, const char *name, bool *copied, tdm_error *err);
/* model.safetensors, or shards of at most shard_bytes (a larger tensor has its own) and their index. Entries without data are
 * asked of fill (may be NULL when there is none), see tdm_safetensors_write_filled. */
tdm_status tdm_model_out_tensors(tdm_model_out *o, const tdm_st_entry *entries, int64_t count, tdm_st_fill_fn *fill, void *user,
                                 size_t shard_bytes, tdm_error *err);

#endif
