/* dequantize: n values of one row of a ggml tensor as f32, with the operations and their order as ggml has them, so that the bits agree
 * with gguf.quants.dequantize of gguf-py.
 *   data  n / block elements blocks, unaligned     out [n] f32     n a multiple of the block's elements
 * Source  ggml-org/ggml, src/ggml-quants.c dequantize_row_*; src/ggml-common.h for the blocks. */
#ifndef TANDEM_MEMORY_GGUF_QUANTS_H
#define TANDEM_MEMORY_GGUF_QUANTS_H

#include "memory/tensor.h"

void tdm_dequantize(tdm_elem elem, const unsigned char *data, int64_t n, float *out);

#endif
