#include "memory/tensor.h"
#include "memory/file_map.h"
#include "memory/gguf_quants.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int64_t elements;
    size_t bytes;
} blocks[] = {
    [TDM_ELEM_F32] = {1, 4},      [TDM_ELEM_F16] = {1, 2},      [TDM_ELEM_BF16] = {1, 2},
    [TDM_ELEM_E4M3] = {1, 1},     [TDM_ELEM_Q4_0] = {32, 18},   [TDM_ELEM_Q4_1] = {32, 20},
    [TDM_ELEM_Q5_0] = {32, 22},   [TDM_ELEM_Q5_1] = {32, 24},   [TDM_ELEM_Q8_0] = {32, 34},
    [TDM_ELEM_Q4_K] = {256, 144}, [TDM_ELEM_Q5_K] = {256, 176}, [TDM_ELEM_Q6_K] = {256, 210},
    [TDM_ELEM_RANDOM] = {1, 0},
};
static_assert(TDM_COUNT(blocks) == TDM_ELEM_OTHER, "one line for each readable type");
static_assert(TDM_TENSOR_PART % 256 == 0, "a part begins where a block of any type does");

bool tdm_elem_block(tdm_elem e, int64_t *elements, size_t *bytes)
{
    if (e >= TDM_ELEM_OTHER) return false;
    *elements = blocks[e].elements;
    *bytes = blocks[e].bytes;
    return true;
}

bool tdm_elem_is_float(tdm_elem e) { return e < TDM_ELEM_OTHER && e != TDM_ELEM_E4M3; }

int64_t tdm_tensor_cols(const tdm_tensor *t) { return t->rank == 0 ? 1 : t->shape[t->rank - 1]; }

int64_t tdm_tensor_rows(const tdm_tensor *t)
{
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++) rows *= t->shape[i];
    return rows;
}

void tdm_shape_text(const int64_t *shape, int rank, char *out, size_t out_bytes)
{
    size_t at = (size_t)snprintf(out, out_bytes, "[");
    for (int i = 0; i < rank && at < out_bytes; i++)
        at += (size_t)snprintf(out + at, out_bytes - at, "%s%" PRId64, i ? ", " : "", shape[i]);
    if (at < out_bytes) snprintf(out + at, out_bytes - at, "]");
}

void tdm_tensor_where(const tdm_tensor *t, char *out, size_t out_bytes)
{
    snprintf(out, out_bytes, "%s: %s", t->file, t->stored);
}

static size_t row_bytes(const tdm_tensor *t)
{
    return (size_t)(tdm_tensor_cols(t) / blocks[t->elem].elements) * blocks[t->elem].bytes;
}

/* The converter stores row (head, pair i, half j) where transformers has (head, half j, pair i).
 * Source: ggml-org/llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute. */
static int64_t stored_row(int64_t row, int64_t head_dim)
{
    if (head_dim <= 0) return row;
    const int64_t head = row / head_dim, half = head_dim / 2, in_head = row % head_dim;
    return head * head_dim + 2 * (in_head % half) + in_head / half;
}

const unsigned char *tdm_tensor_row(const tdm_tensor *t, int64_t row, size_t *bytes)
{
    TDM_ASSERT(t->elem != TDM_ELEM_OTHER && row >= 0 && row < tdm_tensor_rows(t));
    *bytes = row_bytes(t);
    const int64_t stored = t->rank >= 2 ? stored_row(row, t->head_dim) : row;
    return t->data + (size_t)stored * *bytes;
}

/* A permuted bias is one row; its elements are what the rows of the matrix are. */
static void read_permuted_vector(const tdm_tensor *t, float *out)
{
    const size_t step = blocks[t->elem].bytes;
    for (int64_t i = 0; i < t->shape[0]; i++)
        tdm_dequantize(t->elem, t->data + (size_t)stored_row(i, t->head_dim) * step, 1, out + i);
}

void tdm_tensor_read_part(const tdm_tensor *t, int64_t row, int64_t col, int64_t n, float *out)
{
    TDM_ASSERT(tdm_elem_is_float(t->elem) && t->elem != TDM_ELEM_RANDOM);
    TDM_ASSERT(col >= 0 && col + n <= tdm_tensor_cols(t) && col % TDM_TENSOR_PART == 0);
    if (t->head_dim > 0 && t->rank == 1) {
        TDM_ASSERT(blocks[t->elem].elements == 1 && col == 0 && n == t->shape[0]);
        read_permuted_vector(t, out);
        return;
    }
    size_t bytes;
    const unsigned char *data = tdm_tensor_row(t, row, &bytes);
    tdm_dequantize(t->elem, data + (size_t)(col / blocks[t->elem].elements) * blocks[t->elem].bytes, n, out);
}

void tdm_tensor_read(const tdm_tensor *t, int64_t first, int64_t count, float *out)
{
    const int64_t cols = tdm_tensor_cols(t);
    for (int64_t r = 0; r < count; r++) tdm_tensor_read_part(t, first + r, 0, cols, out + r * cols);
}

void tdm_tensor_drop(const tdm_tensor *t, int64_t first, int64_t count)
{
    const size_t bytes = row_bytes(t);
    if (bytes == 0) return;
    tdm_file_map_drop(t->data + (size_t)first * bytes, (size_t)count * bytes);
}
