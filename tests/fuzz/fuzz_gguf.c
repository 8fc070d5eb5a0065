/* Any bytes as a GGUF file: an error, or metadata and tensors that can all be read, and a config or a reason why not.
 */
#include "memory/gguf.h"
#include "memory/model_config.h"
#include "memory/tensor.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void read_tensor(const tdm_tensor *t)
{
    const int64_t cols = tdm_tensor_cols(t);
    if (!tdm_elem_is_float(t->elem) || cols > 1 << 20) return;
    float *row = malloc((size_t)cols * sizeof *row);
    if (row) tdm_tensor_read(t, tdm_tensor_rows(t) - 1, 1, row);
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    tdm_error err = {0};
    tdm_gguf *g;
    tdm_model_config c;
    tdm_str s;
    int64_t i;
    if (tdm_gguf_parse(&g, data, bytes, "fuzz", &err) != TDM_OK) {
        TDM_ASSERT(!g && err.what[0]);
        return 0;
    }
    for (int64_t k = 0; k < tdm_gguf_tensor_count(g); k++) read_tensor(tdm_gguf_tensor_at(g, k));
    const int64_t n = tdm_gguf_array_count(g, "tokenizer.ggml.tokens");
    if (n > 0 && tdm_gguf_array_str(g, "tokenizer.ggml.tokens", n - 1, &s) && s.len)
        TDM_ASSERT((const uint8_t *)s.data + s.len <= data + bytes);
    (void)tdm_gguf_array_int(g, "test.ints", 1, &i);
    if (tdm_model_config_from_gguf(&c, g, "fuzz", &err) == TDM_OK) {
        float inv_freq[TDM_HEAD_DIM_MAX / 2];
        tdm_rope_inv_freq(&c, inv_freq);
    } else {
        TDM_ASSERT(err.what[0]);
    }
    tdm_gguf_close(g);
    return 0;
}
