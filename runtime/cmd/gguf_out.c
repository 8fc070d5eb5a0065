#include "runtime/cmd/gguf_out.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/arch/arch.h"
#include "memory/gguf_names.h"

enum { MOSTLY_Q8_0 = 7, QUANTIZATION_VERSION = 2 };

typedef struct writer {
    const tdm_model_config *c;
    const tdm_tensor **of;   /* owned; of each entry; NULL: the factors of RoPE */
    tdm_gguf_entry *entry;   /* owned */
    int64_t count;
    float factors[TDM_HEAD_DIM_MAX / 2];
} writer;

static tdm_status check(const tdm_model_config *c, const char *where, tdm_error *err)
{
    const char *hint = "export --what merged, and convert the folder with llama.cpp";
    if (c->arch != &tdm_arch_llama && c->arch != &tdm_arch_qwen2 && c->arch != &tdm_arch_qwen3)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, hint, "a %s model is not written as GGUF, only llama, qwen2 and qwen3", c->model_type);
    for (int64_t l = 0; l < c->layers; l++)
        if (c->sliding[l]) return TDM_FAIL(err, TDM_ERR_INPUT, where, hint, "layers with a window are not written as GGUF");
    return TDM_OK;
}

static void put_number(tdm_gguf_head *h, const tdm_model_config *c, const char *key, int64_t v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", c->arch->gguf, key);
    tdm_gguf_put_u32(h, full, (uint32_t)v);
}

static void put_real(tdm_gguf_head *h, const tdm_model_config *c, const char *key, double v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", c->arch->gguf, key);
    tdm_gguf_put_f32(h, full, (float)v);
}

static void put_config(tdm_gguf_head *h, const tdm_model_config *c)
{
    char full[96];
    tdm_gguf_put_str(h, "general.architecture", c->arch->gguf, strlen(c->arch->gguf));
    tdm_gguf_put_u32(h, "general.file_type", MOSTLY_Q8_0);
    tdm_gguf_put_u32(h, "general.quantization_version", QUANTIZATION_VERSION);
    put_number(h, c, "block_count", c->layers);
    put_number(h, c, "context_length", c->context);
    put_number(h, c, "embedding_length", c->width);
    put_number(h, c, "feed_forward_length", c->ffn);
    put_number(h, c, "attention.head_count", c->heads);
    put_number(h, c, "attention.head_count_kv", c->kv_heads);
    put_number(h, c, "attention.key_length", c->head_dim);
    put_number(h, c, "attention.value_length", c->head_dim);
    put_number(h, c, "rope.dimension_count", c->head_dim);
    put_number(h, c, "vocab_size", c->vocab);
    put_real(h, c, "attention.layer_norm_rms_epsilon", (double)c->norm_eps);
    put_real(h, c, "rope.freq_base", c->rope_theta);
    if (c->rope != TDM_ROPE_LINEAR) return;
    snprintf(full, sizeof full, "%s.rope.scaling.type", c->arch->gguf);
    tdm_gguf_put_str(h, full, "linear", 6);
    put_real(h, c, "rope.scaling.factor", c->rope_factor);
}

/* llama.cpp divides the frequencies of a Llama 3 by a tensor. */
static void add_factors(writer *w)
{
    tdm_model_config plain = *w->c;
    float fast[TDM_HEAD_DIM_MAX / 2], slow[TDM_HEAD_DIM_MAX / 2];
    if (w->c->rope != TDM_ROPE_LLAMA3 && w->c->rope != TDM_ROPE_FACTORS) return;
    plain.rope = TDM_ROPE_PLAIN;
    tdm_rope_inv_freq(&plain, fast);
    tdm_rope_inv_freq(w->c, slow);
    for (int64_t i = 0; i < w->c->head_dim / 2; i++) w->factors[i] = fast[i] / slow[i];
    w->of[w->count] = NULL;
    w->entry[w->count++] = (tdm_gguf_entry){.name = "rope_freqs.weight", .type = TDM_GGUF_OUT_F32, .rank = 1, .rows = 1, .cols = w->c->head_dim / 2};
}

static tdm_status list(writer *w, const tdm_model_file *f, tdm_error *err)
{
    w->of = calloc((size_t)tdm_model_file_count(f) + 1, sizeof *w->of);
    w->entry = calloc((size_t)tdm_model_file_count(f) + 1, sizeof *w->entry);
    if (!w->of || !w->entry) return TDM_FAIL(err, TDM_ERR_OTHER, tdm_model_file_path(f), "free host memory", "out of memory for the names of tensors");
    add_factors(w);
    for (int64_t i = 0; i < tdm_model_file_count(f); i++) {
        const tdm_tensor *t = tdm_model_file_at(f, i);
        tdm_gguf_entry *e = &w->entry[w->count];
        if (!tdm_gguf_name_of(w->c->arch, t->name, e->name, sizeof e->name) || t->rank < 1 || t->rank > 2 || !tdm_elem_is_float(t->elem))
            return TDM_FAIL(err, TDM_ERR_INPUT, tdm_model_file_path(f), "export --what merged, and convert the folder with llama.cpp", "llama.cpp has no name for %s",
                            t->name);
        e->rank = t->rank;
        e->rows = tdm_tensor_rows(t);
        e->cols = tdm_tensor_cols(t);
        e->type = t->rank == 1 ? TDM_GGUF_OUT_F32 : e->cols % 32 == 0 ? TDM_GGUF_OUT_Q8_0 : TDM_GGUF_OUT_F16;
        w->of[w->count++] = t;
    }
    return TDM_OK;
}

/* The row of transformers that stands at `row` of llama.cpp's: (head, pair, half) there, (head, half, pair) here. */
static int64_t source_row(const writer *w, const tdm_gguf_entry *e, int64_t row)
{
    const int64_t dim = w->c->head_dim, in_head = row % dim;
    if (!w->c->arch->gguf_interleaved || !tdm_gguf_name_permuted(e->name)) return row;
    return row / dim * dim + in_head % 2 * (dim / 2) + in_head / 2;
}

static tdm_status fill(void *user, int64_t index, int64_t row, float *out, tdm_error *err)
{
    const writer *w = user;
    const tdm_gguf_entry *e = &w->entry[index];
    const tdm_tensor *t = w->of[index];
    if (!t) {
        memcpy(out, w->factors, (size_t)e->cols * sizeof *out);
        return TDM_OK;
    }
    if (e->rank == 2) {
        tdm_tensor_read(t, source_row(w, e, row), 1, out);
        return TDM_OK;
    }
    float *plain = malloc((size_t)e->cols * sizeof *plain); /* owned here */
    if (!plain) return TDM_FAIL(err, TDM_ERR_OTHER, e->name, "free host memory", "out of memory for a row");
    tdm_tensor_read(t, 0, 1, plain);
    for (int64_t i = 0; i < e->cols; i++) out[i] = plain[source_row(w, e, i)];
    free(plain);
    return TDM_OK;
}

tdm_status tdm_gguf_model_write(const char *folder, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_file *f = NULL; /* owned here, as what follows */
    tdm_gguf_head head = {0};
    writer w = {0};
    TDM_TRY(st, tdm_model_file_open(&f, folder, err), done);
    w.c = tdm_model_file_config(f);
    TDM_TRY(st, check(w.c, folder, err), done);
    put_config(&head, w.c);
    TDM_TRY(st, tdm_gguf_put_tokenizer(&head, folder, w.c, err), done);
    TDM_TRY(st, list(&w, f, err), done);
    TDM_TRY(st, tdm_gguf_write(path, &head, w.entry, w.count, fill, &w, err), done);
done:
    free(w.of);
    free(w.entry);
    tdm_gguf_head_free(&head);
    tdm_model_file_close(f);
    return st;
}
