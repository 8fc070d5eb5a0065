/* The parser: every length is compared with what is left of the file before it is used, so a hostile file costs no more
 * than its size. */
#include "memory/gguf_parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_MAX = 65535,     /* docs/gguf.md: keys of at most 2^16 - 1 bytes */
    NAME_MAX_BYTES = 63, /* GGML_MAX_NAME with its terminator */
    DIMS_MAX = 4,        /* GGML_MAX_DIMS */
    ALIGNMENT_MAX = 1 << 20,
    VALUE_MIN_BYTES = 8 + 1 + 4 + 1, /* key length, a key, type, value */
    TENSOR_MIN_BYTES = 8 + 1 + 4 + 8 + 4 + 8
};

typedef struct cursor {
    const unsigned char *p, *begin;
    size_t left;
    const char *where;
    tdm_error *err;
} cursor;

#define BAD(c, ...)                                                                                                    \
    TDM_FAIL((c)->err, TDM_ERR_INPUT, (c)->where, "the file is damaged, incomplete or not GGUF", __VA_ARGS__)

static tdm_status take(cursor *c, size_t n, const unsigned char **out)
{
    *out = c->p;
    if (n > c->left)
        return BAD(c, "the file ends inside its header: %zu bytes needed at byte %zu", n, (size_t)(c->p - c->begin));
    c->p += n;
    c->left -= n;
    return TDM_OK;
}

static uint64_t load_u64(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static tdm_status take_u32(cursor *c, uint32_t *out)
{
    const unsigned char *p;
    tdm_status st = take(c, sizeof *out, &p);
    if (st == TDM_OK) memcpy(out, p, sizeof *out);
    return st;
}

static tdm_status take_u64(cursor *c, uint64_t *out)
{
    const unsigned char *p;
    tdm_status st = take(c, sizeof *out, &p);
    if (st == TDM_OK) *out = load_u64(p);
    return st;
}

static tdm_status take_str(cursor *c, uint64_t max, tdm_str *out)
{
    uint64_t length = 0;
    const unsigned char *p;
    tdm_status st = take_u64(c, &length);
    if (st != TDM_OK) return st;
    if (length > max) return BAD(c, "a text of %" PRIu64 " bytes at byte %zu", length, (size_t)(c->p - c->begin));
    st = take(c, (size_t)length, &p);
    if (st == TDM_OK) *out = (tdm_str){(const char *)p, (size_t)length};
    return st;
}

static tdm_status read_string_array(cursor *c, tdm_gguf_value *v)
{
    tdm_status st = TDM_OK;
    tdm_str s = {0};
    if (v->count > c->left / 8) return BAD(c, "an array of %" PRIu64 " texts in %zu bytes", v->count, c->left);
    v->data = c->p;
    v->offsets = malloc((size_t)v->count * sizeof *v->offsets + 1);
    if (!v->offsets)
        return TDM_FAIL(c->err, TDM_ERR_OTHER, c->where, NULL, "out of memory for an array of %" PRIu64 " texts",
                        v->count);
    for (uint64_t i = 0; i < v->count; i++) {
        v->offsets[i] = (uint64_t)(c->p - v->data);
        TDM_TRY(st, take_str(c, c->left, &s), done);
    }
done:
    return st;
}

static tdm_status check_bools(cursor *c, const unsigned char *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] > 1) return BAD(c, "a truth value of %d", p[i]);
    return TDM_OK;
}

static tdm_status read_array(cursor *c, tdm_gguf_value *v)
{
    tdm_status st = TDM_OK;
    uint32_t item = 0;
    TDM_TRY(st, take_u32(c, &item), done);
    TDM_TRY(st, take_u64(c, &v->count), done);
    if (item >= TDM_GGUF_TYPES || item == TDM_GGUF_ARRAY) /* ggml itself reads no arrays of arrays */
        return BAD(c, "%.*s: an array of type %" PRIu32, (int)tdm_min_i64((int64_t)v->key.len, 100), v->key.data, item);
    v->item = (tdm_gguf_type)item;
    if (v->item == TDM_GGUF_STRING) return read_string_array(c, v);
    const size_t width = tdm_gguf_type_bytes(v->item);
    if (v->count > c->left / width) return BAD(c, "an array of %" PRIu64 " elements in %zu bytes", v->count, c->left);
    TDM_TRY(st, take(c, (size_t)v->count * width, &v->data), done);
    if (v->item == TDM_GGUF_BOOL) TDM_TRY(st, check_bools(c, v->data, v->count), done);
done:
    return st;
}

static tdm_status read_value(cursor *c, tdm_gguf_value *v)
{
    tdm_status st = TDM_OK;
    uint32_t type = 0;
    tdm_str s = {0};
    TDM_TRY(st, take_str(c, KEY_MAX, &v->key), done);
    if (v->key.len == 0) return BAD(c, "a metadata key without a name");
    TDM_TRY(st, take_u32(c, &type), done);
    if (type >= TDM_GGUF_TYPES)
        return BAD(c, "%.*s: unknown type %" PRIu32, (int)tdm_min_i64((int64_t)v->key.len, 100), v->key.data, type);
    v->type = (tdm_gguf_type)type;
    if (v->type == TDM_GGUF_ARRAY) return read_array(c, v);
    if (v->type == TDM_GGUF_STRING) {
        TDM_TRY(st, take_str(c, c->left, &s), done);
        v->data = (const unsigned char *)s.data;
        v->count = s.len;
        goto done;
    }
    TDM_TRY(st, take(c, tdm_gguf_type_bytes(v->type), &v->data), done);
    if (v->type == TDM_GGUF_BOOL) TDM_TRY(st, check_bools(c, v->data, 1), done);
done:
    return st;
}

static int by_key(const void *a, const void *b)
{
    const tdm_gguf_value *x = a, *y = b;
    const size_t n = x->key.len < y->key.len ? x->key.len : y->key.len;
    const int order = memcmp(x->key.data, y->key.data, n);
    return order ? order : (x->key.len > y->key.len) - (x->key.len < y->key.len);
}

static tdm_status read_values(tdm_gguf *g, cursor *c, uint64_t count)
{
    tdm_status st = TDM_OK;
    if (count > c->left / VALUE_MIN_BYTES) return BAD(c, "%" PRIu64 " metadata entries in %zu bytes", count, c->left);
    g->values = calloc((size_t)count + 1, sizeof *g->values);
    if (!g->values)
        return TDM_FAIL(c->err, TDM_ERR_OTHER, c->where, NULL, "out of memory for %" PRIu64 " metadata entries", count);
    for (uint64_t i = 0; i < count; i++) {
        g->value_count = (int64_t)i + 1; /* counted first, so that close frees what a failure leaves in it */
        TDM_TRY(st, read_value(c, &g->values[i]), done);
    }
    qsort(g->values, (size_t)count, sizeof *g->values, by_key);
    for (uint64_t i = 1; i < count; i++)
        if (by_key(&g->values[i - 1], &g->values[i]) == 0)
            return BAD(c, "the metadata key %.*s stands there twice",
                       (int)tdm_min_i64((int64_t)g->values[i].key.len, 100), g->values[i].key.data);
done:
    return st;
}

/* Bytes of the tensor, or false when its shape does not fit its type or overflows. */
static bool tensor_bytes(tdm_tensor *t, int64_t elements, size_t block_bytes)
{
    int64_t blocks = 1;
    if (tdm_tensor_cols(t) % elements != 0) return false;
    for (int i = 0; i < t->rank; i++) {
        const int64_t n = i == t->rank - 1 ? t->shape[i] / elements : t->shape[i];
        if (__builtin_mul_overflow(blocks, n, &blocks)) return false;
    }
    return blocks <= INT64_MAX / elements && !__builtin_mul_overflow((size_t)blocks, block_bytes, &t->bytes);
}

static tdm_status read_dims(cursor *c, tdm_tensor *t)
{
    tdm_status st = TDM_OK;
    uint32_t rank = 0;
    TDM_TRY(st, take_u32(c, &rank), done);
    if (rank < 1 || rank > DIMS_MAX)
        return BAD(c, "tensor %s has %" PRIu32 " dimensions, 1 to %d are allowed", t->name, rank, DIMS_MAX);
    t->rank = (int)rank;
    for (int i = t->rank - 1; i >= 0; i--) { /* the file has the innermost first */
        uint64_t n = 0;
        TDM_TRY(st, take_u64(c, &n), done);
        if (n == 0 || n > INT64_MAX) return BAD(c, "tensor %s has a dimension of %" PRIu64, t->name, n);
        t->shape[i] = (int64_t)n;
    }
done:
    return st;
}

/* *offset counts from the start of the data section, which is known only after the last entry. */
static tdm_status read_tensor(cursor *c, tdm_tensor *t, uint64_t alignment, uint64_t *offset)
{
    tdm_status st = TDM_OK;
    tdm_str name = {0};
    uint32_t type = 0;
    int64_t elements;
    size_t block_bytes;

    TDM_TRY(st, take_str(c, NAME_MAX_BYTES, &name), done);
    if (name.len == 0 || memchr(name.data, 0, name.len)) return BAD(c, "a tensor without a proper name");
    char *copy = strndup(name.data, name.len);
    if (!copy) return TDM_FAIL(c->err, TDM_ERR_OTHER, c->where, NULL, "out of memory");
    t->name = t->stored = copy;
    t->file = c->where;
    TDM_TRY(st, read_dims(c, t), done);
    TDM_TRY(st, take_u32(c, &type), done);
    TDM_TRY(st, take_u64(c, offset), done);
    if (!tdm_ggml_type(type, &t->type, &t->elem, &elements, &block_bytes))
        return BAD(c, "tensor %s has unknown type %" PRIu32, t->name, type);
    if (!tensor_bytes(t, elements, block_bytes))
        return BAD(c, "the shape of tensor %s does not fit its type %s", t->name, t->type);
    if (*offset % alignment != 0) return BAD(c, "tensor %s is not aligned to %" PRIu64 " bytes", t->name, alignment);
done:
    return st;
}

static int by_data(const void *a, const void *b)
{
    const tdm_tensor *const *x = a, *const *y = b;
    return ((*x)->data > (*y)->data) - ((*x)->data < (*y)->data);
}

static int by_tensor_name(const void *a, const void *b)
{
    const tdm_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static tdm_status check_apart(const tdm_gguf *g, cursor *c)
{
    const tdm_tensor **order = malloc(((size_t)g->tensor_count + 1) * sizeof *order); /* owned here */
    if (!order)
        return TDM_FAIL(c->err, TDM_ERR_OTHER, c->where, NULL, "out of memory for %" PRId64 " tensors",
                        g->tensor_count);
    tdm_status st = TDM_OK;
    for (int64_t i = 0; i < g->tensor_count; i++) order[i] = &g->tensors[i];
    qsort(order, (size_t)g->tensor_count, sizeof *order, by_data);
    for (int64_t i = 1; i < g->tensor_count && st == TDM_OK; i++)
        if (order[i - 1]->data + order[i - 1]->bytes > order[i]->data)
            st = BAD(c, "tensors %s and %s overlap", order[i - 1]->name, order[i]->name);
    qsort(order, (size_t)g->tensor_count, sizeof *order, by_tensor_name);
    for (int64_t i = 1; i < g->tensor_count && st == TDM_OK; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            st = BAD(c, "tensor %s stands there twice", order[i]->name);
    free(order);
    return st;
}

static tdm_status read_tensors(tdm_gguf *g, cursor *c, uint64_t count)
{
    tdm_status st = TDM_OK;
    uint64_t *offsets = NULL; /* owned here */

    if (count > c->left / TENSOR_MIN_BYTES) return BAD(c, "%" PRIu64 " tensors in %zu bytes", count, c->left);
    g->tensors = calloc((size_t)count + 1, sizeof *g->tensors);
    offsets = calloc((size_t)count + 1, sizeof *offsets);
    if (!g->tensors || !offsets) {
        st = TDM_FAIL(c->err, TDM_ERR_OTHER, c->where, NULL, "out of memory for %" PRIu64 " tensors", count);
        goto done;
    }
    for (uint64_t i = 0; i < count; i++) {
        g->tensor_count = (int64_t)i + 1;
        TDM_TRY(st, read_tensor(c, &g->tensors[i], g->alignment, &offsets[i]), done);
    }
    const size_t header = (size_t)(c->p - c->begin), total = header + c->left,
                 start = tdm_align_up(header, (size_t)g->alignment);
    const size_t data_bytes = start < total ? total - start : 0;
    for (uint64_t i = 0; i < count; i++) {
        tdm_tensor *t = &g->tensors[i];
        if (offsets[i] > data_bytes || t->bytes > data_bytes - offsets[i]) {
            st = BAD(c, "tensor %s ends at byte %" PRIu64 " of %zu", t->name, offsets[i] + t->bytes, data_bytes);
            goto done;
        }
        t->data = c->begin + start + offsets[i];
    }
    TDM_TRY(st, check_apart(g, c), done);
done:
    free(offsets);
    return st;
}

static tdm_status read_alignment(tdm_gguf *g, cursor *c)
{
    int64_t alignment = 32; /* docs/gguf.md: where the key is missing */
    if (tdm_gguf_has(g, "general.alignment") && !tdm_gguf_int(g, "general.alignment", &alignment))
        return BAD(c, "general.alignment is not an integer");
    if (alignment < 1 || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1)) != 0)
        return BAD(c, "general.alignment is %" PRId64 ", a power of two up to %d is expected", alignment,
                   ALIGNMENT_MAX);
    g->alignment = (uint64_t)alignment;
    return TDM_OK;
}

static tdm_status parse(tdm_gguf *g, const unsigned char *data, size_t bytes, tdm_error *err)
{
    tdm_status st = TDM_OK;
    cursor c = {.p = data, .begin = data, .left = bytes, .where = g->where, .err = err};
    const unsigned char *magic;
    uint32_t version = 0;
    uint64_t tensors = 0, values = 0;

    TDM_TRY(st, take(&c, 4, &magic), done);
    if (memcmp(magic, "GGUF", 4) != 0) return BAD(&c, "the file does not start with GGUF");
    TDM_TRY(st, take_u32(&c, &version), done);
    if (version != 3)
        return TDM_FAIL(err, TDM_ERR_INPUT, g->where, "convert the model again with a current llama.cpp, little-endian",
                        "GGUF version %" PRIu32 ", 3 is read", version);
    TDM_TRY(st, take_u64(&c, &tensors), done);
    TDM_TRY(st, take_u64(&c, &values), done);
    TDM_TRY(st, read_values(g, &c, values), done);
    TDM_TRY(st, read_alignment(g, &c), done);
    TDM_TRY(st, read_tensors(g, &c, tensors), done);
done:
    return st;
}

static tdm_status start(tdm_gguf **g, const char *where, tdm_error *err)
{
    *g = calloc(1, sizeof **g);
    if (*g) (*g)->where = strdup(where);
    if (!*g || !(*g)->where) return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory");
    return TDM_OK;
}

tdm_status tdm_gguf_parse(tdm_gguf **out, const void *data, size_t bytes, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_gguf *g = NULL;

    *out = NULL;
    TDM_TRY(st, start(&g, where, err), fail);
    TDM_TRY(st, parse(g, data, bytes, err), fail);
    *out = g;
    return st;
fail:
    tdm_gguf_close(g);
    return st;
}

tdm_status tdm_gguf_open(tdm_gguf **out, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_gguf *g = NULL;

    *out = NULL;
    TDM_TRY(st, start(&g, path, err), fail);
    TDM_TRY(st, tdm_file_map_open(&g->map, path, err), fail);
    TDM_TRY(st, parse(g, g->map.data, g->map.bytes, err), fail);
    *out = g;
    return st;
fail:
    tdm_gguf_close(g);
    return st;
}

void tdm_gguf_close(tdm_gguf *g)
{
    if (!g) return;
    for (int64_t i = 0; i < g->tensor_count; i++) free((char *)(uintptr_t)g->tensors[i].name);
    for (int64_t i = 0; i < g->value_count; i++) free(g->values[i].offsets);
    free(g->tensors);
    free(g->values);
    tdm_file_map_close(&g->map);
    free(g->where);
    free(g);
}

int64_t tdm_gguf_tensor_count(const tdm_gguf *g) { return g->tensor_count; }

const tdm_tensor *tdm_gguf_tensor_at(const tdm_gguf *g, int64_t i)
{
    TDM_ASSERT(i >= 0 && i < g->tensor_count);
    return &g->tensors[i];
}
