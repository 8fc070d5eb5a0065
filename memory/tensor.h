/* One tensor of an opened checkpoint, whatever its format: where its bytes lie in the map and how to read them as f32. */
#ifndef TANDEM_MEMORY_TENSOR_H
#define TANDEM_MEMORY_TENSOR_H

#include "kernels/base.h"

/* Element types that can be read; every other type a format knows is OTHER and can only be named. */
typedef enum tdm_elem {
    TDM_ELEM_F32, TDM_ELEM_F16, TDM_ELEM_BF16, TDM_ELEM_E4M3,
    TDM_ELEM_Q4_0, TDM_ELEM_Q4_1, TDM_ELEM_Q5_0, TDM_ELEM_Q5_1, TDM_ELEM_Q8_0,
    TDM_ELEM_Q4_K, TDM_ELEM_Q5_K, TDM_ELEM_Q6_K,
    TDM_ELEM_RANDOM, /* no bytes behind it, a float in name: the weights are drawn where they will lie (weights_random.h) */
    TDM_ELEM_OTHER
} tdm_elem;

typedef struct tdm_tensor {
    const char *name;   /* transformers' name; borrowed from the file object, as all pointers here */
    const char *stored; /* the name in the file */
    const char *file;   /* path of the file it lies in */
    const char *type;   /* the file's word for the type: "BF16", "Q4_1" */
    tdm_elem elem;
    int rank;
    int64_t shape[8];   /* outermost first */
    const unsigned char *data;
    size_t bytes;
    int64_t head_dim;   /* > 0: llama.cpp interleaved the halves of each head's rows; tdm_tensor_read puts them back */
} tdm_tensor;

enum { TDM_TENSOR_PART = 256 };

/* Elements of one block and its bytes; false for OTHER. */
bool tdm_elem_block(tdm_elem e, int64_t *elements, size_t *bytes);
/* True when tdm_tensor_read gives values: every type but OTHER and E4M3, whose codes mean nothing without a scale. RANDOM has none to read. */
bool tdm_elem_is_float(tdm_elem e);

/* A tensor as a matrix: the last dimension is the columns; a vector (or a scalar) is one row. */
int64_t tdm_tensor_rows(const tdm_tensor *t);
int64_t tdm_tensor_cols(const tdm_tensor *t);
/* "FILE: NAME", for tdm_error.where. */
void tdm_tensor_where(const tdm_tensor *t, char *out, size_t out_bytes);
/* "[2, 3]" */
void tdm_shape_text(const int64_t *shape, int rank, char *out, size_t out_bytes);

/* Rows [first, first + count) to out [count, cols] f32; exact for F32, F16, BF16, for quantized types the value ggml defines. */
void tdm_tensor_read(const tdm_tensor *t, int64_t first, int64_t count, float *out);
/* Of one row the values [col, col + n); col a multiple of TDM_TENSOR_PART, and n too where the row goes on behind them. A vector is
 * read whole. */
void tdm_tensor_read_part(const tdm_tensor *t, int64_t row, int64_t col, int64_t n, float *out);
/* The bytes of one row, in transformers' order. */
const unsigned char *tdm_tensor_row(const tdm_tensor *t, int64_t row, size_t *bytes);
/* Drops the pages of rows [first, first + count) from memory. */
void tdm_tensor_drop(const tdm_tensor *t, int64_t first, int64_t count);

#endif
