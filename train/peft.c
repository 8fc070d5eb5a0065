#include "train/peft.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/arch/arch.h"
#include "memory/fs.h"

enum { MAX_CONFIG_BYTES = 1 << 20 };

const char *const tdm_peft_metadata[] = {"format", "pt", NULL};

tdm_peft_names tdm_peft_names_of(const tdm_model_config *model) { return (tdm_peft_names){model->arch->fused, model->towers, model->experts}; }

int64_t tdm_peft_modules(tdm_peft_names names, tdm_proj proj) { return proj >= TDM_PROJ_GATE && names.experts > 0 ? names.experts : 1; }

void tdm_peft_tensor_name(char out[TDM_PEFT_NAME_BYTES], tdm_peft_names names, int64_t layer, tdm_proj proj, int64_t expert, bool b)
{
    TDM_ASSERT(tdm_proj_path_of(names.fused, proj));
    char module[64];
    if (tdm_peft_modules(names, proj) > 1) snprintf(module, sizeof module, "mlp.experts.%" PRId64 ".%s", expert, tdm_proj_names[proj]);
    else snprintf(module, sizeof module, "%s", tdm_proj_path_of(names.fused, proj));
    snprintf(out, TDM_PEFT_NAME_BYTES, "base_model.model.model.%slayers.%" PRId64 ".%s.lora_%c.weight", names.towers ? "language_model." : "", layer, module,
             b ? 'B' : 'A');
}

/* ---- writing ---- */

static tdm_st_dtype st_dtype(tdm_cview v)
{
    TDM_ASSERT(v.dtype == TDM_DTYPE_F32 || v.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT_EQ(v.stride, v.cols);
    return v.dtype == TDM_DTYPE_F32 ? TDM_ST_F32 : TDM_ST_BF16;
}

static const char head_name[] = "base_model.model.score.weight";

tdm_st_entry *tdm_peft_entries(tdm_peft_names names, const tdm_peft_pair *pairs, int64_t count, tdm_cview head, int64_t *made)
{
    size_t n = (size_t)count * 2, array = (n + 1) * sizeof(tdm_st_entry);
    tdm_st_entry *entries = malloc(array + n * TDM_PEFT_NAME_BYTES);
    if (!entries) return NULL;
    char *room = (char *)entries + array;
    for (size_t i = 0; i < n; i++) {
        const tdm_peft_pair *pair = &pairs[i / 2];
        tdm_cview v = i % 2 ? pair->b : pair->a;
        char *name = room + i * TDM_PEFT_NAME_BYTES;
        tdm_peft_tensor_name(name, names, pair->layer, pair->proj, pair->expert, i % 2);
        entries[i] = (tdm_st_entry){.name = name, .dtype = st_dtype(v), .rank = 2, .shape = {v.rows, v.cols}, .data = v.data};
    }
    *made = count * 2;
    if (head.data) entries[(*made)++] = (tdm_st_entry){.name = head_name, .dtype = st_dtype(head), .rank = 2, .shape = {1, head.cols}, .data = head.data};
    return entries;
}

tdm_status tdm_peft_save(const char *dir, const tdm_peft_config *c, const tdm_peft_pair *pairs, int64_t count, tdm_cview head, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES];
    int64_t n = 0;
    char *text = NULL;                                                /* owned here */
    json_t *config = tdm_peft_config_json(c);                         /* owned here */
    tdm_st_entry *entries = tdm_peft_entries(c->names, pairs, count, head, &n); /* owned here */

    if (config) text = json_dumps(config, JSON_INDENT(2) | JSON_SORT_KEYS);
    if (!text || !entries) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, dir, NULL, "cannot prepare the adapter: out of memory, or a model path that is not UTF-8");
        goto done;
    }
    TDM_TRY(st, tdm_fs_mkdirs(dir, err), done);
    TDM_TRY(st, tdm_fs_join(path, dir, "adapter_model.safetensors", err), done);
    TDM_TRY(st, tdm_safetensors_write(path, entries, n, tdm_peft_metadata, err), done);
    TDM_TRY(st, tdm_fs_join(path, dir, "adapter_config.json", err), done);
    TDM_TRY(st, tdm_fs_write(path, text, strlen(text), err), done);
done:
    free(entries);
    free(text);
    json_decref(config);
    return st;
}

/* ---- reading ---- */

struct tdm_peft {
    tdm_peft_config config;
    tdm_safetensors *file; /* the views point into it, or into converted */
    tdm_peft_pair *pairs;
    int64_t count;
    tdm_cview head;
    float **converted; /* f32 copies of f16 tensors */
    int64_t converted_count;
};

/* Where a tensor belongs: layer, projection, expert, which half. */
typedef struct place {
    int64_t layer;
    tdm_proj proj;
    int64_t expert;
    bool b;
} place;

/* Of what comes after the layer's number; 0: no expert's. */
static int64_t expert_of(const char *rest)
{
    static const char experts[] = ".mlp.experts.";
    const size_t n = sizeof experts - 1;
    if (strncmp(rest, experts, n) != 0 || strspn(rest + n, "0123456789") > 6) return 0;
    return strtol(rest + n, NULL, 10);
}

/* The inverse of tdm_peft_tensor_name, wherever the adapter was trained: on the tower alone, or in its place among the others. False: not
 * such a name. */
static bool parse_name(const char *name, tdm_peft_names names, place *at)
{
    static const char *const heads[] = {"base_model.model.model.layers.", "base_model.model.model.language_model.layers."};
    char again[TDM_PEFT_NAME_BYTES];
    const size_t plain = strlen(heads[0]), tower = strlen(heads[1]);
    names.towers = strncmp(name, heads[1], tower) == 0;
    if (!names.towers && strncmp(name, heads[0], plain) != 0) return false;
    char *rest;
    const char *digits = name + (names.towers ? tower : plain);
    if (*digits < '0' || *digits > '9' || strspn(digits, "0123456789") > 6) return false;
    at->layer = strtol(digits, &rest, 10);
    const int64_t expert = expert_of(rest);
    for (int i = 0; i < 2 * TDM_PROJ_COUNT; i++) {
        if (!tdm_proj_path_of(names.fused, (tdm_proj)(i / 2))) continue;
        at->expert = tdm_peft_modules(names, (tdm_proj)(i / 2)) > 1 ? expert : 0;
        if (at->expert >= tdm_max_i64(1, names.experts)) continue;
        tdm_peft_tensor_name(again, names, at->layer, (tdm_proj)(i / 2), at->expert, i % 2);
        if (strcmp(again, name) != 0) continue;
        at->proj = (tdm_proj)(i / 2);
        at->b = i % 2;
        return true;
    }
    return false;
}

static bool finite_f32(const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, (const char *)data + 4 * i, 4);
        if ((u & 0x7f800000) == 0x7f800000) return false;
    }
    return true;
}

static bool finite_u16(const void *data, size_t n, uint16_t exponent)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t u;
        memcpy(&u, (const char *)data + 2 * i, 2);
        if ((u & exponent) == exponent) return false;
    }
    return true;
}

/* IEEE binary16, finite, to f32: exact. */
static float f16_to_f32(uint16_t h)
{
    int exponent = h >> 10 & 31;
    float m = (float)(h & 1023);
    float v = exponent ? ldexpf(m + 1024.0f, exponent - 25) : ldexpf(m, -24);
    return h & 0x8000 ? -v : v;
}

static float *convert_f16(tdm_peft *p, const tdm_st_tensor *t)
{
    size_t n = t->bytes / 2;
    float **grown = realloc(p->converted, (size_t)(p->converted_count + 1) * sizeof *grown);
    if (!grown) return NULL;
    p->converted = grown;
    float *out = malloc(n * sizeof *out + 1);
    if (!out) return NULL;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, (const char *)t->data + 2 * i, 2);
        out[i] = f16_to_f32(h);
    }
    p->converted[p->converted_count++] = out;
    return out;
}

static tdm_status tensor_view(tdm_peft *p, const tdm_st_tensor *t, tdm_cview *v, const char *where, tdm_error *err)
{
    bool finite;
    switch (t->dtype) {
    case TDM_ST_F32: finite = finite_f32(t->data, t->bytes / 4); break;
    case TDM_ST_BF16: finite = finite_u16(t->data, t->bytes / 2, 0x7f80); break;
    case TDM_ST_F16: finite = finite_u16(t->data, t->bytes / 2, 0x7c00); break;
    default: return TDM_FAIL(err, TDM_ERR_INPUT, where, "save the adapter in F32, BF16 or F16", "dtype cannot be read");
    }
    if (!finite) return TDM_FAIL(err, TDM_ERR_INPUT, where, "the training that made it diverged", "holds NaN or infinity");
    *v = (tdm_cview){t->data, t->dtype == TDM_ST_BF16 ? TDM_DTYPE_BF16 : TDM_DTYPE_F32, t->shape[0], t->shape[1], t->shape[1]};
    if (t->dtype == TDM_ST_F16 && !(v->data = convert_f16(p, t)))
        return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory converting %zu bytes of F16", t->bytes);
    return TDM_OK;
}

static tdm_status take_head(tdm_peft *p, const tdm_st_tensor *t, const tdm_model_config *model, const char *where, tdm_error *err)
{
    if (t->rank != 2 || t->shape[0] != 1 || t->shape[1] != model->width)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "a score is one number: train it with num_labels = 1, on this model",
                        "the head is [%" PRId64 ", %" PRId64 "], the model implies [1, %" PRId64 "]", t->rank > 0 ? t->shape[0] : 0,
                        t->rank > 1 ? t->shape[1] : 0, model->width);
    return tensor_view(p, t, &p->head, where, err);
}

/* Puts one tensor of the file where it belongs. all: [layers * projections * experts]. */
static tdm_status take_tensor(tdm_peft *p, const tdm_st_tensor *t, const tdm_model_config *model, bool resolve, tdm_peft_pair *all,
                              const char *path, tdm_error *err)
{
    char where[512];
    place at;
    snprintf(where, sizeof where, "%.300s: %.200s", path, t->name);
    if (p->config.head && strcmp(t->name, head_name) == 0) return take_head(p, t, model, where, err);
    if (!parse_name(t->name, p->config.names, &at))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "tandem computes plain LoRA on the projections of each layer",
                        "the tensor is not part of such an adapter");
    if (at.layer >= model->layers)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "is it an adapter of another model?", "the model has %" PRId64 " layers", model->layers);
    if (!resolve && !p->config.targets[at.proj])
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "config and weights are not of the same adapter", "%s is not in target_modules",
                        strchr(tdm_proj_path(model, at.proj), '.') + 1);
    int64_t n, k, r = p->config.rank;
    tdm_proj_shape(model, at.proj, &n, &k);
    int64_t rows = at.b ? n : r, cols = at.b ? r : k;
    if (t->rank != 2 || t->shape[0] != rows || t->shape[1] != cols)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "is it an adapter of another model?",
                        "shape is [%" PRId64 ", %" PRId64 "]%s, the model and r = %" PRId64 " imply [%" PRId64 ", %" PRId64 "]",
                        t->rank > 0 ? t->shape[0] : 0, t->rank > 1 ? t->shape[1] : 0, t->rank == 2 ? "" : " (not a matrix)", r, rows, cols);
    tdm_peft_pair *pair = &all[(at.layer * TDM_PROJ_COUNT + at.proj) * tdm_max_i64(1, model->experts) + at.expert];
    pair->layer = at.layer;
    pair->proj = at.proj;
    pair->expert = at.expert;
    return tensor_view(p, t, at.b ? &pair->b : &pair->a, where, err);
}

/* Names what should be there and is not; keeps what is. */
static tdm_status collect_pairs(tdm_peft *p, const tdm_model_config *model, bool resolve, bool some_layers, tdm_peft_pair *all,
                                const char *path, tdm_error *err)
{
    char name[TDM_PEFT_NAME_BYTES];
    const int64_t experts = tdm_max_i64(1, model->experts);
    for (int64_t i = 0; i < model->layers * TDM_PROJ_COUNT * experts; i++) {
        tdm_proj proj = (tdm_proj)(i / experts % TDM_PROJ_COUNT);
        if (i % experts >= tdm_peft_modules(p->config.names, proj)) continue;
        bool a = all[i].a.data != NULL, b = all[i].b.data != NULL;
        if (a && b) {
            p->config.targets[proj] = true;
            p->pairs[p->count++] = all[i];
        } else if (a || b || (p->config.targets[proj] && !resolve && !some_layers)) {
            tdm_peft_tensor_name(name, p->config.names, i / experts / TDM_PROJ_COUNT, proj, i % experts, a);
            return TDM_FAIL(err, TDM_ERR_INPUT, path, "the file is incomplete, or of another model", "%s is missing", name);
        }
    }
    if (p->config.head && !p->head.data) return TDM_FAIL(err, TDM_ERR_INPUT, path, "the file is incomplete", "%s is missing", head_name);
    if (p->count == 0) return TDM_FAIL(err, TDM_ERR_INPUT, path, "is it a LoRA adapter saved by PEFT?", "holds no LoRA tensors");
    return TDM_OK;
}

static tdm_status open_weights(tdm_peft *p, const char *dir, tdm_error *err)
{
    char path[TDM_PATH_BYTES], old[TDM_PATH_BYTES];
    tdm_status st = tdm_fs_join(path, dir, "adapter_model.safetensors", err);
    if (st == TDM_OK) st = tdm_fs_join(old, dir, "adapter_model.bin", err);
    if (st == TDM_OK && !tdm_fs_is_file(path) && tdm_fs_is_file(old))
        st = TDM_FAIL(err, TDM_ERR_INPUT, old, "save it again with safe_serialization=True", "a pickled adapter is not read");
    return st == TDM_OK ? tdm_safetensors_open(&p->file, path, err) : st;
}

static tdm_status check_head(const tdm_peft_config *c, bool head, const char *path, tdm_error *err)
{
    if (c->head == head) return TDM_OK;
    if (head)
        return TDM_FAIL(err, TDM_ERR_INPUT, path, "train one with train.algorithm: reward, or by PEFT with task_type SEQ_CLS",
                        "the adapter has no head: \"task_type\" is not \"SEQ_CLS\"");
    return TDM_FAIL(err, TDM_ERR_INPUT, path, "use an adapter of a causal language model", "\"task_type\" is \"SEQ_CLS\": the adapter belongs to a critic or a reward model");
}

static tdm_status open_peft(tdm_peft **out, const char *dir, const tdm_model_config *model, bool head, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES];
    char *text = NULL;         /* owned here */
    tdm_peft_pair *all = NULL; /* owned here */
    size_t bytes = 0, places = (size_t)(model->layers * TDM_PROJ_COUNT * tdm_max_i64(1, model->experts));
    bool resolve = false, some_layers = false;
    tdm_peft *p = calloc(1, sizeof *p); /* the caller's on success */

    *out = NULL;
    if (p) p->pairs = calloc(places, sizeof *p->pairs);
    all = calloc(places, sizeof *all);
    if (!p || !p->pairs || !all) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, dir, NULL, "out of memory opening the adapter");
        goto fail;
    }
    if (!tdm_fs_is_dir(dir)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, dir, "name the folder with adapter_config.json", "is not an adapter folder");
        goto fail;
    }
    TDM_TRY(st, tdm_fs_join(path, dir, "adapter_config.json", err), fail);
    TDM_TRY(st, tdm_fs_read(path, MAX_CONFIG_BYTES, &text, &bytes, err), fail);
    p->config.names = tdm_peft_names_of(model);
    TDM_TRY(st, tdm_peft_config_parse(&p->config, &resolve, &some_layers, text, bytes, path, err), fail);
    TDM_TRY(st, check_head(&p->config, head, path, err), fail);
    TDM_TRY(st, open_weights(p, dir, err), fail);
    TDM_TRY(st, tdm_fs_join(path, dir, "adapter_model.safetensors", err), fail);
    for (int64_t i = 0; i < tdm_safetensors_count(p->file); i++)
        TDM_TRY(st, take_tensor(p, tdm_safetensors_at(p->file, i), model, resolve, all, path, err), fail);
    TDM_TRY(st, collect_pairs(p, model, resolve, some_layers, all, path, err), fail);
    free(text);
    free(all);
    *out = p;
    return TDM_OK;
fail:
    free(text);
    free(all);
    tdm_peft_close(p);
    return st;
}

tdm_status tdm_peft_open(tdm_peft **out, const char *dir, const tdm_model_config *model, tdm_error *err) { return open_peft(out, dir, model, false, err); }
tdm_status tdm_peft_open_head(tdm_peft **out, const char *dir, const tdm_model_config *model, tdm_error *err) { return open_peft(out, dir, model, true, err); }

void tdm_peft_close(tdm_peft *p)
{
    if (!p) return;
    for (int64_t i = 0; i < p->converted_count; i++) free(p->converted[i]);
    free(p->converted);
    free(p->pairs);
    tdm_safetensors_close(p->file);
    free(p);
}

const tdm_peft_config *tdm_peft_config_of(const tdm_peft *p) { return &p->config; }

const tdm_peft_pair *tdm_peft_pairs(const tdm_peft *p, int64_t *count)
{
    *count = p->count;
    return p->pairs;
}

tdm_cview tdm_peft_head(const tdm_peft *p) { return p->head; }
