/* Looking things up in the metadata, and the table of ggml's types. */
#include "memory/gguf_parse.h"

#include <string.h>

static const struct {
    const char *name; /* NULL: a number ggml no longer uses */
    tdm_elem elem;
    int64_t elements;
    size_t bytes;
} ggml_types[] = {
    [0] = {"F32", TDM_ELEM_F32, 1, 4},           [1] = {"F16", TDM_ELEM_F16, 1, 2},
    [2] = {"Q4_0", TDM_ELEM_Q4_0, 32, 18},       [3] = {"Q4_1", TDM_ELEM_Q4_1, 32, 20},
    [6] = {"Q5_0", TDM_ELEM_Q5_0, 32, 22},       [7] = {"Q5_1", TDM_ELEM_Q5_1, 32, 24},
    [8] = {"Q8_0", TDM_ELEM_Q8_0, 32, 34},       [9] = {"Q8_1", TDM_ELEM_OTHER, 32, 40},
    [10] = {"Q2_K", TDM_ELEM_OTHER, 256, 84},    [11] = {"Q3_K", TDM_ELEM_OTHER, 256, 110},
    [12] = {"Q4_K", TDM_ELEM_Q4_K, 256, 144},    [13] = {"Q5_K", TDM_ELEM_Q5_K, 256, 176},
    [14] = {"Q6_K", TDM_ELEM_Q6_K, 256, 210},    [15] = {"Q8_K", TDM_ELEM_OTHER, 256, 292},
    [16] = {"IQ2_XXS", TDM_ELEM_OTHER, 256, 66}, [17] = {"IQ2_XS", TDM_ELEM_OTHER, 256, 74},
    [18] = {"IQ3_XXS", TDM_ELEM_OTHER, 256, 98}, [19] = {"IQ1_S", TDM_ELEM_OTHER, 256, 50},
    [20] = {"IQ4_NL", TDM_ELEM_OTHER, 32, 18},   [21] = {"IQ3_S", TDM_ELEM_OTHER, 256, 110},
    [22] = {"IQ2_S", TDM_ELEM_OTHER, 256, 82},   [23] = {"IQ4_XS", TDM_ELEM_OTHER, 256, 136},
    [24] = {"I8", TDM_ELEM_OTHER, 1, 1},         [25] = {"I16", TDM_ELEM_OTHER, 1, 2},
    [26] = {"I32", TDM_ELEM_OTHER, 1, 4},        [27] = {"I64", TDM_ELEM_OTHER, 1, 8},
    [28] = {"F64", TDM_ELEM_OTHER, 1, 8},        [29] = {"IQ1_M", TDM_ELEM_OTHER, 256, 56},
    [30] = {"BF16", TDM_ELEM_BF16, 1, 2},        [34] = {"TQ1_0", TDM_ELEM_OTHER, 256, 54},
    [35] = {"TQ2_0", TDM_ELEM_OTHER, 256, 66},   [39] = {"MXFP4", TDM_ELEM_OTHER, 32, 17},
    [40] = {"NVFP4", TDM_ELEM_OTHER, 64, 36},    [41] = {"Q1_0", TDM_ELEM_OTHER, 128, 18},
};

bool tdm_ggml_type(uint32_t id, const char **name, tdm_elem *elem, int64_t *elements, size_t *bytes)
{
    if (id >= TDM_COUNT(ggml_types) || !ggml_types[id].name) return false;
    *name = ggml_types[id].name;
    *elem = ggml_types[id].elem;
    *elements = ggml_types[id].elements;
    *bytes = ggml_types[id].bytes;
    return true;
}

size_t tdm_gguf_type_bytes(tdm_gguf_type t)
{
    switch (t) {
    case TDM_GGUF_U8:
    case TDM_GGUF_I8:
    case TDM_GGUF_BOOL: return 1;
    case TDM_GGUF_U16:
    case TDM_GGUF_I16: return 2;
    case TDM_GGUF_U32:
    case TDM_GGUF_I32:
    case TDM_GGUF_F32: return 4;
    case TDM_GGUF_U64:
    case TDM_GGUF_I64:
    case TDM_GGUF_F64: return 8;
    case TDM_GGUF_STRING:
    case TDM_GGUF_ARRAY:
    case TDM_GGUF_TYPES: break;
    }
    return 0;
}

static int compare(const char *key, size_t len, tdm_str s)
{
    const int order = memcmp(key, s.data, len < s.len ? len : s.len);
    return order ? order : (len > s.len) - (len < s.len);
}

const tdm_gguf_value *tdm_gguf_find(const tdm_gguf *g, const char *key)
{
    const size_t len = strlen(key);
    int64_t low = 0, high = g->value_count;
    while (low < high) {
        const int64_t mid = low + (high - low) / 2;
        const int order = compare(key, len, g->values[mid].key);
        if (order == 0) return &g->values[mid];
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

#define LOAD(T, p)                                                                                                     \
    ({                                                                                                                 \
        T v_;                                                                                                          \
        memcpy(&v_, (p), sizeof v_);                                                                                   \
        v_;                                                                                                            \
    })

static bool get_int(tdm_gguf_type type, const unsigned char *p, int64_t *out)
{
    switch (type) {
    case TDM_GGUF_U8: *out = p[0]; return true;
    case TDM_GGUF_I8: *out = (int8_t)p[0]; return true;
    case TDM_GGUF_U16: *out = LOAD(uint16_t, p); return true;
    case TDM_GGUF_I16: *out = LOAD(int16_t, p); return true;
    case TDM_GGUF_U32: *out = LOAD(uint32_t, p); return true;
    case TDM_GGUF_I32: *out = LOAD(int32_t, p); return true;
    case TDM_GGUF_I64: *out = LOAD(int64_t, p); return true;
    case TDM_GGUF_U64: {
        const uint64_t v = LOAD(uint64_t, p);
        *out = (int64_t)v;
        return v <= INT64_MAX;
    }
    default: return false;
    }
}

static bool get_float(tdm_gguf_type type, const unsigned char *p, double *out)
{
    int64_t i;
    if (type == TDM_GGUF_F32)
        *out = (double)LOAD(float, p);
    else if (type == TDM_GGUF_F64)
        *out = LOAD(double, p);
    else if (get_int(type, p, &i))
        *out = (double)i;
    else
        return false;
    return true;
}

static const unsigned char *element(const tdm_gguf *g, const char *key, int64_t i, tdm_gguf_type *type)
{
    const tdm_gguf_value *v = tdm_gguf_find(g, key);
    if (!v || v->type != TDM_GGUF_ARRAY || i < 0 || (uint64_t)i >= v->count) return NULL;
    *type = v->item;
    return v->item == TDM_GGUF_STRING ? v->data + v->offsets[i] : v->data + (size_t)i * tdm_gguf_type_bytes(v->item);
}

bool tdm_gguf_has(const tdm_gguf *g, const char *key) { return tdm_gguf_find(g, key) != NULL; }

bool tdm_gguf_str(const tdm_gguf *g, const char *key, tdm_str *out)
{
    const tdm_gguf_value *v = tdm_gguf_find(g, key);
    if (!v || v->type != TDM_GGUF_STRING) return false;
    *out = (tdm_str){(const char *)v->data, (size_t)v->count};
    return true;
}

bool tdm_gguf_int(const tdm_gguf *g, const char *key, int64_t *out)
{
    const tdm_gguf_value *v = tdm_gguf_find(g, key);
    return v && get_int(v->type, v->data, out);
}

bool tdm_gguf_float(const tdm_gguf *g, const char *key, double *out)
{
    const tdm_gguf_value *v = tdm_gguf_find(g, key);
    return v && get_float(v->type, v->data, out);
}

bool tdm_gguf_bool(const tdm_gguf *g, const char *key, bool *out)
{
    const tdm_gguf_value *v = tdm_gguf_find(g, key);
    if (!v || v->type != TDM_GGUF_BOOL) return false;
    *out = v->data[0] != 0;
    return true;
}

int64_t tdm_gguf_array_count(const tdm_gguf *g, const char *key)
{
    const tdm_gguf_value *v = tdm_gguf_find(g, key);
    return v && v->type == TDM_GGUF_ARRAY ? (int64_t)v->count : -1;
}

bool tdm_gguf_array_str(const tdm_gguf *g, const char *key, int64_t i, tdm_str *out)
{
    tdm_gguf_type type;
    const unsigned char *p = element(g, key, i, &type);
    if (!p || type != TDM_GGUF_STRING) return false;
    *out = (tdm_str){(const char *)p + 8, (size_t)LOAD(uint64_t, p)};
    return true;
}

bool tdm_gguf_array_int(const tdm_gguf *g, const char *key, int64_t i, int64_t *out)
{
    tdm_gguf_type type;
    const unsigned char *p = element(g, key, i, &type);
    return p && get_int(type, p, out);
}

bool tdm_gguf_array_float(const tdm_gguf *g, const char *key, int64_t i, double *out)
{
    tdm_gguf_type type;
    const unsigned char *p = element(g, key, i, &type);
    return p && get_float(type, p, out);
}
