/* Writing a GGUF v3: metadata is gathered in memory, tensors stream through, quantized row by row. Source: ggml-org/ggml, docs/gguf.md. */
#ifndef TANDEM_MEMORY_GGUF_WRITE_H
#define TANDEM_MEMORY_GGUF_WRITE_H

#include "kernels/base.h"

/* Metadata. Caller's memory, {0} to begin; freed by tdm_gguf_head_free. A put that finds no memory is remembered, and the write fails. */
typedef struct tdm_gguf_head {
    unsigned char *data;
    size_t used, room;
    uint64_t count;
    bool failed;
} tdm_gguf_head;
void tdm_gguf_put_str(tdm_gguf_head *h, const char *key, const char *text, size_t len);
void tdm_gguf_put_u32(tdm_gguf_head *h, const char *key, uint32_t v);
void tdm_gguf_put_f32(tdm_gguf_head *h, const char *key, float v);
void tdm_gguf_put_bool(tdm_gguf_head *h, const char *key, bool v);
/* An array: its head, then exactly `count` of its elements. */
void tdm_gguf_put_strs(tdm_gguf_head *h, const char *key, int64_t count);
void tdm_gguf_put_i32s(tdm_gguf_head *h, const char *key, int64_t count);
void tdm_gguf_add_str(tdm_gguf_head *h, const char *text, size_t len);
void tdm_gguf_add_i32(tdm_gguf_head *h, int32_t v);
void tdm_gguf_head_free(tdm_gguf_head *h);

/* A tensor in ggml's types: F32, F16 (round to nearest even), Q8_0 (rows of a multiple of 32: of each block f16 amax / 127 and 32 quotients,
 * rounded half away from zero, as ggml's quantize_row_q8_0_ref). */
typedef enum tdm_gguf_out { TDM_GGUF_OUT_F32 = 0, TDM_GGUF_OUT_F16 = 1, TDM_GGUF_OUT_Q8_0 = 8 } tdm_gguf_out;
typedef struct tdm_gguf_entry {
    char name[64];
    tdm_gguf_out type;
    int rank;          /* 1 or 2 */
    int64_t rows, cols; /* rows 1 where rank is 1 */
} tdm_gguf_entry;
/* Fills out [cols] with a row's values. */
typedef tdm_status tdm_gguf_fill_fn(void *user, int64_t entry, int64_t row, float *out, tdm_error *err);
/* Complete and synced, or absent; what was at path is written over. */
tdm_status tdm_gguf_write(const char *path, const tdm_gguf_head *h, const tdm_gguf_entry *entries, int64_t count, tdm_gguf_fill_fn *fill, void *user,
                          tdm_error *err);

#endif
