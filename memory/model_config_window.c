/* Which layers look back a window's length: what config.json says in general, and layer_types, which names every layer. */
#include "memory/model_config_read.h"

#include <inttypes.h>
#include <string.h>

#define REFUSE(f, ...) TDM_FAIL((f)->err, TDM_ERR_INPUT, (f)->where, "use a model without it", __VA_ARGS__)

static const char *type_at(const json_t *types, int64_t layer)
{
    const char *type = json_string_value(json_array_get(types, (size_t)layer));
    return type ? type : "?";
}

static tdm_status read_types(tdm_model_config *c, const tdm_json_fields *f, const json_t *types)
{
    if (!json_is_array(types) || (int64_t)json_array_size(types) != c->layers)
        return REFUSE(f, "layer_types does not name every layer");
    for (int64_t i = 0; i < c->layers; i++) {
        const char *type = type_at(types, i);
        c->sliding[i] = strcmp(type, "sliding_attention") == 0;
        if (!c->sliding[i] && strcmp(type, "full_attention") != 0)
            return REFUSE(f, "layer_types: layer %" PRId64 " is \"%.64s\"", i, type);
        if (c->sliding[i] && c->window == 0)
            return REFUSE(f, "layer_types: layer %" PRId64 " has a sliding window and the config none", i);
    }
    return TDM_OK;
}

/* sliding_window: missing is the family's default, null is none. */
static tdm_status read_length(tdm_model_config *c, const tdm_json_fields *f)
{
    if (!json_object_get(f->object, "sliding_window")) c->window = c->arch->window;
    return tdm_json_int(f, "sliding_window", false, 1, TDM_CONTEXT_MAX, &c->window);
}

static void set_from(tdm_model_config *c, int64_t first)
{
    for (int64_t i = first; i < c->layers; i++) c->sliding[i] = true;
}

static tdm_status read_pattern(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    int64_t every = c->arch->window_pattern;
    TDM_TRY(st, tdm_json_int(f, "_sliding_window_pattern", false, 1, TDM_LAYERS_MAX, &every), done);
    TDM_TRY(st, tdm_json_int(f, "sliding_window_pattern", false, 1, TDM_LAYERS_MAX, &every), done);
    for (int64_t i = 0; i < c->layers; i++) c->sliding[i] = (i + 1) % every != 0;
done:
    return st;
}

static tdm_status read_upper(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    bool use = false;
    int64_t first = 28; /* Qwen2Config's and Qwen3Config's */
    TDM_TRY(st, tdm_json_bool(f, "use_sliding_window", &use), done);
    if (!use) goto done;
    TDM_TRY(st, read_length(c, f), done);
    TDM_TRY(st, tdm_json_int(f, "max_window_layers", false, 0, INT64_MAX, &first), done);
    set_from(c, first);
done:
    return st;
}

tdm_status tdm_model_config_window(tdm_model_config *c, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    const json_t *types = tdm_json_get(f->object, "layer_types");
    switch (c->arch->windows) {
    case TDM_WINDOW_NONE: break;
    case TDM_WINDOW_ALL:
        TDM_TRY(st, read_length(c, f), done);
        set_from(c, 0);
        break;
    case TDM_WINDOW_UPPER: TDM_TRY(st, read_upper(c, f), done); break;
    case TDM_WINDOW_PATTERN:
        TDM_TRY(st, read_length(c, f), done);
        TDM_TRY(st, read_pattern(c, f), done);
        break;
    }
    if (types) TDM_TRY(st, read_types(c, f, types), done);
    bool any = false;
    for (int64_t i = 0; i < c->layers; i++) any |= c->sliding[i] &= c->window > 0;
    if (!any) c->window = 0;
done:
    return st;
}
