#include "memory/activation_scales.h"
#include "memory/json_read.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tdm_status magnitude(const json_t *v, const char *name, const char *path, float *out, tdm_error *err)
{
    *out = json_is_number(v) ? (float)json_number_value(v) : NAN;
    if (isfinite(*out) && *out > 0) return TDM_OK;
    return TDM_FAIL(err, TDM_ERR_INPUT, path, "calibrate again", "the magnitude of %.120s is not a positive number", name);
}

static tdm_status not_ours(const char *name, const char *path, tdm_error *err)
{
    return TDM_FAIL(err, TDM_ERR_INPUT, path, "is the calibration of another model?", "this model has no module %.120s", name);
}

/* The layer of "model.layers.3.REST", and REST; -1: another name. */
static int64_t layer_of(const tdm_model_config *c, const char *name, const char **rest)
{
    static const char prefix[] = "model.layers.";
    char *end;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return -1;
    const long long layer = strtoll(name + sizeof prefix - 1, &end, 10);
    if (end == name + sizeof prefix - 1 || *end != '.' || layer < 0 || layer >= c->layers) return -1;
    *rest = end + 1;
    return layer;
}

static tdm_status read_modules(tdm_activation_scales *s, const tdm_model_config *c, const json_t *modules, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char *name, *rest = "";
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)modules, name, value)
    {
        const int64_t layer = layer_of(c, name, &rest);
        int p = 0;
        while (layer >= 0 && p < TDM_PROJ_COUNT && !(tdm_proj_path(c, (tdm_proj)p) && strcmp(rest, tdm_proj_path(c, (tdm_proj)p)) == 0)) p++;
        if (layer < 0 || p == TDM_PROJ_COUNT) return not_ours(name, s->path, err);
        TDM_TRY(st, magnitude(value, name, s->path, &s->input[layer][p], err), done);
    }
done:
    return st;
}

static tdm_status read_kv(tdm_activation_scales *s, const tdm_model_config *c, const json_t *kv, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char *name, *rest = "";
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)kv, name, value)
    {
        const int64_t layer = layer_of(c, name, &rest);
        if (layer < 0 || strcmp(rest, "self_attn") != 0) return not_ours(name, s->path, err);
        for (size_t i = 0; i < 2; i++) TDM_TRY(st, magnitude(json_array_get(value, i), name, s->path, &s->kv[layer][i], err), done);
    }
done:
    return st;
}

tdm_status tdm_activation_scales_read(tdm_activation_scales *s, const tdm_model_config *c, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *object = NULL; /* owned here */
    *s = (tdm_activation_scales){.path = strdup(path),
                                 .input = calloc((size_t)c->layers, sizeof *s->input),
                                 .kv = calloc((size_t)c->layers, sizeof *s->kv)};
    if (!s->path || !s->input || !s->kv) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory for the scales");
        goto done;
    }
    TDM_TRY(st, tdm_json_open(&object, path, err), done);
    const json_t *modules = tdm_json_get(object, "modules"), *kv = tdm_json_get(object, "kv");
    if (!json_is_object(modules)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, path, "give a file that tandem calibrate wrote", "there are no \"modules\" in it");
        goto done;
    }
    TDM_TRY(st, read_modules(s, c, modules, err), done);
    TDM_TRY(st, read_kv(s, c, kv, err), done);
done:
    json_decref(object);
    return st;
}

void tdm_activation_scales_free(tdm_activation_scales *s)
{
    free(s->path);
    free(s->input);
    free(s->kv);
    *s = (tdm_activation_scales){0};
}
