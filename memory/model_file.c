#include "memory/model_file.h"
#include "memory/arch/arch.h"
#include "memory/fs.h"
#include "memory/fp8_checkpoint.h"
#include "memory/gguf.h"
#include "memory/gguf_names.h"
#include "memory/json_read.h"
#include "memory/model_config_check.h"
#include "memory/model_shards.h"
#include "memory/weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tdm_model_file {
    char *path; /* owned */
    tdm_model_config config;
    tdm_gguf *gguf;          /* owned; NULL for a folder */
    tdm_shards shards;       /* owned; empty for a GGUF */
    tdm_fp8_checkpoint *fp8; /* owned; NULL: not quantized */
    tdm_tensor *tensors;     /* owned; sorted by name */
    char **names;            /* owned; transformers' names of a model of text, where the file has others */
    int64_t count;
    bool random;             /* weights are drawn, not read */
};

static int by_name(const void *a, const void *b)
{
    const tdm_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static tdm_status make_table(tdm_model_file *f, int64_t count, tdm_error *err)
{
    f->tensors = calloc((size_t)count + 1, sizeof *f->tensors);
    f->names = calloc((size_t)count + 1, sizeof *f->names);
    if (!f->tensors || !f->names)
        return TDM_FAIL(err, TDM_ERR_OTHER, f->path, NULL, "out of memory for %" PRId64 " tensors", count);
    return TDM_OK;
}

/* ---- A folder ---- */

static tdm_elem elem_of(tdm_st_dtype dtype)
{
    switch (dtype) {
    case TDM_ST_F32: return TDM_ELEM_F32;
    case TDM_ST_F16: return TDM_ELEM_F16;
    case TDM_ST_BF16: return TDM_ELEM_BF16;
    case TDM_ST_E4M3: return TDM_ELEM_E4M3;
    default: return TDM_ELEM_OTHER;
    }
}

static tdm_status keep_name(tdm_model_file *f, const char *name, tdm_tensor *t, tdm_error *err)
{
    char *copy = strdup(name);
    if (!copy) return TDM_FAIL(err, TDM_ERR_OTHER, f->path, NULL, "out of memory");
    f->names[t - f->tensors] = copy;
    t->name = copy;
    return TDM_OK;
}

static tdm_status list_shards(tdm_model_file *f, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int64_t total = 0;
    char name[256];
    for (int64_t i = 0; i < f->shards.count; i++) total += tdm_safetensors_count(f->shards.files[i]);
    TDM_TRY(st, make_table(f, total, err), done);
    for (int64_t i = 0; i < f->shards.count; i++) {
        for (int64_t k = 0; k < tdm_safetensors_count(f->shards.files[i]); k++) {
            const tdm_st_tensor *s = tdm_safetensors_at(f->shards.files[i], k);
            if (f->config.towers && !tdm_arch_tower_name(s->name, name, sizeof name)) continue;
            tdm_tensor *t = &f->tensors[f->count++];
            *t = (tdm_tensor){.name = s->name,
                              .stored = s->name,
                              .file = f->shards.paths[i],
                              .type = s->type,
                              .elem = elem_of(s->dtype),
                              .rank = s->rank,
                              .data = s->data,
                              .bytes = s->bytes};
            memcpy(t->shape, s->shape, sizeof t->shape);
            if (f->config.towers) TDM_TRY(st, keep_name(f, name, t, err), done);
        }
    }
done:
    return st;
}

static bool ends_with(const char *s, const char *suffix)
{
    const size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* path: a folder, or its config.json alone. *config is the caller's. */
static tdm_status read_config(tdm_model_file *f, const char *path, json_t **config, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *generation = NULL; /* owned here */
    const bool folder = !ends_with(path, ".json");
    char file[4096];
    snprintf(file, sizeof file, "%s/generation_config.json", path);
    if (folder && tdm_fs_is_file(file)) TDM_TRY(st, tdm_json_open(&generation, file, err), done);
    snprintf(file, sizeof file, folder ? "%s/config.json" : "%s", path);
    TDM_TRY(st, tdm_json_open(config, file, err), done);
    TDM_TRY(st, tdm_model_config_from_json(&f->config, *config, generation, file, err), done);
done:
    json_decref(generation);
    return st;
}

static tdm_status open_folder(tdm_model_file *f, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *config = NULL; /* owned here */
    char path[4096];
    TDM_TRY(st, read_config(f, f->path, &config, err), done);
    snprintf(path, sizeof path, "%s/config.json", f->path);
    TDM_TRY(st, tdm_fp8_checkpoint_read(&f->fp8, config, path, err), done);
    TDM_TRY(st, tdm_shards_open(&f->shards, f->path, err), done);
    TDM_TRY(st, list_shards(f, err), done);
done:
    json_decref(config);
    return st;
}

/* ---- A GGUF ---- */

/* Divisors of frequencies: llama3's scaling, or one of the two lists of Phi's. */
static tdm_status take_rope_factors(tdm_model_file *f, const tdm_tensor *t, float *factors, tdm_error *err)
{
    char where[512];
    const int64_t count = tdm_rope_dim(&f->config) / 2;
    tdm_tensor_where(t, where, sizeof where);
    if (t->elem != TDM_ELEM_F32 || t->rank != 1 || t->shape[0] != count)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "is the file complete?", "not %" PRId64 " values of F32", count);
    if (f->config.rope == TDM_ROPE_LINEAR)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "use the model's safetensors",
                        "frequency factors beside linear rope scaling are not supported");
    tdm_tensor_read(t, 0, 1, factors);
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(factors[i]) || factors[i] <= 0)
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "is the file damaged?", "factor %" PRId64 " is %g", i, (double)factors[i]);
    f->config.rope = f->config.arch->longrope ? TDM_ROPE_LONG : TDM_ROPE_FACTORS;
    return TDM_OK;
}

/* Where the factors of a tensor of this name go; NULL: it is another. */
static float *rope_factors_of(tdm_model_file *f, const char *stored)
{
    if (!f->config.arch->longrope) return strcmp(stored, "rope_freqs.weight") == 0 ? f->config.rope_factors : NULL;
    if (strcmp(stored, "rope_factors_short.weight") == 0) return f->config.rope_factors;
    return strcmp(stored, "rope_factors_long.weight") == 0 ? f->config.rope_long_factors : NULL;
}

/* Of Phi both lists or none. */
static tdm_status check_rope_factors(const tdm_model_file *f, tdm_error *err)
{
    const tdm_model_config *c = &f->config;
    if (c->rope != TDM_ROPE_LONG || (c->rope_factors[0] > 0 && c->rope_long_factors[0] > 0)) return TDM_OK;
    return TDM_FAIL(err, TDM_ERR_INPUT, f->path, "is the file complete?", "rope_factors_%s.weight is missing",
                    c->rope_factors[0] > 0 ? "long" : "short");
}

static tdm_status list_gguf(tdm_model_file *f, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char name[128], where[512];
    TDM_TRY(st, make_table(f, tdm_gguf_tensor_count(f->gguf), err), done);
    for (int64_t i = 0; i < tdm_gguf_tensor_count(f->gguf); i++) {
        const tdm_tensor *stored = tdm_gguf_tensor_at(f->gguf, i);
        float *factors = rope_factors_of(f, stored->stored);
        if (factors) {
            TDM_TRY(st, take_rope_factors(f, stored, factors, err), done);
            continue;
        }
        if (!tdm_gguf_name(f->config.arch, stored->stored, name, sizeof name)) {
            tdm_tensor_where(stored, where, sizeof where);
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "use a model without it", "a tensor that no %s model has",
                            f->config.model_type);
        }
        tdm_tensor *t = &f->tensors[f->count++];
        *t = *stored;
        TDM_TRY(st, keep_name(f, name, t, err), done);
        if (f->config.arch->gguf_interleaved && tdm_gguf_name_permuted(stored->stored))
            t->head_dim = f->config.head_dim;
    }
    TDM_TRY(st, check_rope_factors(f, err), done);
done:
    return st;
}

static tdm_status open_gguf(tdm_model_file *f, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int64_t parts = 1;
    TDM_TRY(st, tdm_gguf_open(&f->gguf, f->path, err), done);
    if (tdm_gguf_int(f->gguf, "split.count", &parts) && parts > 1)
        return TDM_FAIL(err, TDM_ERR_INPUT, f->path, "join the parts with llama-gguf-split --merge",
                        "one of %" PRId64 " parts of a model", parts);
    TDM_TRY(st, tdm_model_config_from_gguf(&f->config, f->gguf, f->path, err), done);
    TDM_TRY(st, list_gguf(f, err), done);
done:
    return st;
}

/* ---- Both ---- */

static tdm_status check_names(const tdm_model_file *f, tdm_error *err)
{
    for (int64_t i = 1; i < f->count; i++)
        if (strcmp(f->tensors[i - 1].name, f->tensors[i].name) == 0)
            return TDM_FAIL(err, TDM_ERR_INPUT, f->tensors[i].file, "download the model again",
                            "%.200s stands there twice", f->tensors[i].stored);
    return TDM_OK;
}

tdm_status tdm_model_file_open(tdm_model_file **out, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_file *f = calloc(1, sizeof *f);

    *out = NULL;
    if (f) f->path = strdup(path);
    if (!f || !f->path) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory");
        goto fail;
    }
    if (ends_with(path, ".gguf"))
        TDM_TRY(st, open_gguf(f, err), fail);
    else
        TDM_TRY(st, open_folder(f, err), fail);
    qsort(f->tensors, (size_t)f->count, sizeof *f->tensors, by_name);
    TDM_TRY(st, check_names(f, err), fail);
    *out = f;
    return st;
fail:
    tdm_model_file_close(f);
    return st;
}

/* ---- No weights: the shapes of a config ---- */

static tdm_status add_random(tdm_model_file *f, const char *name, int64_t rows, int64_t cols, tdm_error *err)
{
    tdm_tensor *t = &f->tensors[f->count++];
    *t = (tdm_tensor){.file = f->path, .type = "random", .elem = TDM_ELEM_RANDOM, .rank = rows ? 2 : 1, .shape = {rows ? rows : cols, cols}};
    const tdm_status st = keep_name(f, name, t, err);
    t->stored = t->name;
    return st;
}

static tdm_status add_random_layer(tdm_model_file *f, int64_t layer, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model_config *c = &f->config;
    char module[TDM_MODULE_BYTES], name[TDM_MODULE_BYTES + 8];
    for (int p = 0; p < TDM_PROJ_COUNT; p++) {
        int64_t n, k;
        tdm_layer_proj_shape(c, layer, (tdm_proj)p, &n, &k);
        for (int64_t e = 0; n > 0 && e < tdm_proj_modules(c, layer, (tdm_proj)p); e++) {
            tdm_expert_name(c, module, layer, e, (tdm_proj)p);
            snprintf(name, sizeof name, "%s.weight", module);
            TDM_TRY(st, add_random(f, name, n, k, err), done);
            snprintf(name, sizeof name, "%s.bias", module);
            if (tdm_proj_bias(c, (tdm_proj)p)) TDM_TRY(st, add_random(f, name, 0, n, err), done);
        }
    }
    if (c->sparse[layer]) {
        tdm_router_name(module, layer);
        snprintf(name, sizeof name, "%s.weight", module);
        TDM_TRY(st, add_random(f, name, c->experts, c->width, err), done);
    }
    for (int i = 0; i < TDM_NORM_COUNT; i++) {
        int64_t cols;
        if (!tdm_norm_name(c, module, layer, (tdm_norm)i, &cols)) continue;
        snprintf(name, sizeof name, "%s.weight", module);
        TDM_TRY(st, add_random(f, name, 0, cols, err), done);
    }
done:
    return st;
}

tdm_status tdm_model_file_open_random(tdm_model_file **out, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *config = NULL;
    tdm_model_file *f = calloc(1, sizeof *f);

    *out = NULL;
    if (f) f->path = strdup(path);
    if (!f || !f->path) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory");
        goto fail;
    }
    f->random = true;
    TDM_TRY(st, read_config(f, path, &config, err), fail);
    TDM_TRY(st, make_table(f, 3 + f->config.layers * (2 * TDM_PROJ_COUNT + TDM_NORM_COUNT + 3 * f->config.experts + 1), err), fail);
    for (int64_t l = 0; l < f->config.layers; l++) TDM_TRY(st, add_random_layer(f, l, err), fail);
    TDM_TRY(st, add_random(f, "model.embed_tokens.weight", f->config.vocab, f->config.width, err), fail);
    TDM_TRY(st, add_random(f, "model.norm.weight", 0, f->config.width, err), fail);
    if (!f->config.tied_head) TDM_TRY(st, add_random(f, "lm_head.weight", f->config.vocab, f->config.width, err), fail);
    qsort(f->tensors, (size_t)f->count, sizeof *f->tensors, by_name);
    json_decref(config);
    *out = f;
    return st;
fail:
    json_decref(config);
    tdm_model_file_close(f);
    return st;
}

void tdm_model_file_close(tdm_model_file *f)
{
    if (!f) return;
    for (int64_t i = 0; f->names && i < f->count; i++) free(f->names[i]);
    free(f->names);
    free(f->tensors);
    tdm_fp8_checkpoint_free(f->fp8);
    tdm_shards_close(&f->shards);
    tdm_gguf_close(f->gguf);
    free(f->path);
    free(f);
}

const tdm_model_config *tdm_model_file_config(const tdm_model_file *f) { return &f->config; }
const tdm_gguf *tdm_model_file_gguf(const tdm_model_file *f) { return f->gguf; }
const char *tdm_model_file_path(const tdm_model_file *f) { return f->path; }
bool tdm_model_file_random(const tdm_model_file *f) { return f->random; }
const tdm_fp8_checkpoint *tdm_model_file_fp8(const tdm_model_file *f) { return f->fp8; }
int64_t tdm_model_file_count(const tdm_model_file *f) { return f->count; }

const tdm_tensor *tdm_model_file_at(const tdm_model_file *f, int64_t i)
{
    TDM_ASSERT(i >= 0 && i < f->count);
    return &f->tensors[i];
}

const tdm_tensor *tdm_model_file_find(const tdm_model_file *f, const char *name)
{
    const tdm_tensor key = {.name = name};
    return bsearch(&key, f->tensors, (size_t)f->count, sizeof *f->tensors, by_name);
}
