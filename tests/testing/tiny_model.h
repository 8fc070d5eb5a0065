/* A tiny model of tests/golden/data/models, opened for a test: weights, stream, model. Header-only, for it needs infer/. */
#ifndef TANDEM_TESTS_TINY_MODEL_H
#define TANDEM_TESTS_TINY_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "infer/model.h"

typedef struct tiny_model {
    const tdm_backend *be;
    tdm_model_file *file;
    tdm_weights *weights;
    tdm_stream *stream;
    tdm_model model;
    void *region, *workspace, *tables;
} tiny_model;

#define TINY_OK(call)                                                                                                                \
    do {                                                                                                                             \
        tdm_error tiny_err_ = {0};                                                                                                   \
        tdm_error *err = &tiny_err_;                                                                                                 \
        if ((call) != TDM_OK) {                                                                                                      \
            tdm_error_print(err);                                                                                                    \
            fail_msg("%s", #call);                                                                                                   \
        }                                                                                                                            \
    } while (0)

/* name: a folder of tests/golden/data/models, or a config.json, whose weights are drawn at random. */
static inline void tiny_open(tiny_model *t, const char *name, tdm_scheme scheme, tdm_act_quant act, tdm_dtype kv, int threads)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/data/models/%s", name);
    const tdm_weights_options o = {.scheme = scheme, .act = act};
    size_t bytes;
    memset(t, 0, sizeof *t);
    TINY_OK(tdm_backend_cpu(NULL, &t->be, err));
    TINY_OK(strchr(name, '/') ? tdm_model_file_open_random(&t->file, name, err) : tdm_model_file_open(&t->file, path, err));
    TINY_OK(tdm_weights_bytes(t->file, &o, &bytes, err));
    t->region = aligned_alloc(64, tdm_align_up(bytes, 64));
    TINY_OK(tdm_weights_open(&t->weights, t->file, &o, &(tdm_region){t->region, bytes, NULL, NULL}, err));
    const tdm_model_config *c = tdm_weights_config(t->weights);
    const tdm_limits limits = {.tokens = 1024, .width = tdm_max_i64(c->ffn, c->width), .vocab = c->vocab, .head_rows = 64, .heads = c->heads,
                               .head_dim = c->head_dim, .rank = 16, .context = 512};
    const size_t workspace = t->be->workspace_bytes(&limits, threads);
    t->workspace = aligned_alloc(64, tdm_align_up(workspace, 64));
    const tdm_stream_options so = {.threads = threads};
    TINY_OK(t->be->stream_open(&t->stream, t->workspace, workspace, &so, err));
    t->tables = malloc(tdm_model_table_bytes(c, 512));
    TINY_OK(tdm_model_open(&t->model, t->be, t->stream, t->weights, 512, kv, t->tables, err));
}

static inline void tiny_close(tiny_model *t)
{
    t->be->stream_close(t->stream);
    tdm_weights_close(t->weights);
    tdm_model_file_close(t->file);
    free(t->tables);
    free(t->region);
    free(t->workspace);
}

/* A small adapter with non-zero A and B (and head, which is the caller's to give) in memory of its own (free adapter->param). */
static inline void tiny_role(tdm_adapter *a, const tiny_model *t, int64_t rank, bool head)
{
    const tdm_adapter_spec spec = {.rank = rank, .alpha = 16.0f, .target = {true, true, true, true, true, true, true}, .head = head};
    tdm_adapter_init(a, &spec, tdm_weights_config(t->weights));
    a->param = malloc((size_t)a->count * sizeof *a->param);
    uint32_t x = 12345;
    for (int64_t i = 0; i < a->count; i++) {
        x = x * 1664525u + 1013904223u;
        a->param[i] = tdm_f32_to_bf16(((float)(x >> 8) * 0x1p-24f - 0.5f) * 0.1f);
    }
}

static inline void tiny_adapter(tdm_adapter *a, const tiny_model *t, int64_t rank) { tiny_role(a, t, rank, false); }

static inline int32_t *tiny_tokens(int64_t n, int64_t vocab, uint32_t seed)
{
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)((seed >> 8) % (uint32_t)vocab);
    }
    return ids;
}

#endif
