/* The safetensors format: 8 bytes of header length, a JSON header, then the tensors. Reader and writer.
 * Rules enforced on reading: header <= 100,000,000 bytes and starts with '{'; multiplications checked; offsets inside the file, no holes,
 * no overlaps, no duplicate names. Source: huggingface/safetensors, README.md "Format", safetensors/src/tensor.rs. */
#ifndef TANDEM_MEMORY_SAFETENSORS_H
#define TANDEM_MEMORY_SAFETENSORS_H

#include "kernels/base.h"

typedef enum tdm_st_dtype { TDM_ST_F32, TDM_ST_F16, TDM_ST_BF16, TDM_ST_E4M3, TDM_ST_I32, TDM_ST_I64, TDM_ST_U8, TDM_ST_OTHER } tdm_st_dtype;

typedef struct tdm_st_tensor {
    const char *name;      /* borrowed from the file object */
    tdm_st_dtype dtype;
    int rank;
    int64_t shape[8];
    const void *data;      /* borrowed from the map */
    size_t bytes;
    const char *type;      /* the dtype as the file spells it */
} tdm_st_tensor;

typedef struct tdm_safetensors tdm_safetensors;

tdm_status tdm_safetensors_open(tdm_safetensors **f, const char *path, tdm_error *err); /* mmap, validated */
/* The same from bytes the caller lends until close; `where` names them in errors. */
tdm_status tdm_safetensors_parse(tdm_safetensors **f, const void *data, size_t bytes, const char *where, tdm_error *err);
void tdm_safetensors_close(tdm_safetensors *f);
int64_t tdm_safetensors_count(const tdm_safetensors *f);
const tdm_st_tensor *tdm_safetensors_at(const tdm_safetensors *f, int64_t i); /* in the order of their bytes */
const tdm_st_tensor *tdm_safetensors_find(const tdm_safetensors *f, const char *name); /* NULL: not there */
const char *tdm_safetensors_metadata(const tdm_safetensors *f, const char *key);       /* __metadata__; NULL: not there */

/* Writing: bytes come from a callback-free table; tensors are written in the order given, those of wider elements first (the format has
 * no holes, and readers want every tensor aligned to its element), header padded to 8 bytes, the file is fsync'd before close; a file
 * that could not be finished is removed. metadata: key, value, key, value, ..., NULL (or NULL). */
typedef struct tdm_st_entry {
    const char *name;
    tdm_st_dtype dtype;
    int rank;
    int64_t shape[8];
    const void *data;
} tdm_st_entry;
tdm_status tdm_safetensors_write(const char *path, const tdm_st_entry *entries, int64_t count, const char *const *metadata, tdm_error *err);
/* The same for tensors that nobody holds as a whole: of an entry whose data is NULL, fill gives rows [row, row + rows) of
 * [shape[0], the rest], some MiB at a time and in order. */
typedef tdm_status tdm_st_fill_fn(void *user, int64_t entry, int64_t row, int64_t rows, void *out, tdm_error *err);
tdm_status tdm_safetensors_write_filled(const char *path, const tdm_st_entry *entries, int64_t count, const char *const *metadata,
                                        tdm_st_fill_fn *fill, void *user, tdm_error *err);

#endif
