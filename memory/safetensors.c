#include "memory/safetensors.h"
#include "memory/file_map.h"
#include "memory/safetensors_types.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 100000000 };

struct tdm_safetensors {
    tdm_file_map map;              /* empty when the bytes are lent */
    char *where;                   /* owned */
    json_t *header;                /* owned; the tensors' names are its keys */
    tdm_st_tensor *tensors;        /* owned; in the order of their bytes */
    const tdm_st_tensor **by_name; /* owned; sorted */
    int64_t count;
    const unsigned char *data; /* behind the header */
    size_t data_bytes;
};

/* One tensor of the header while it is checked. */
typedef struct entry {
    const char *name;
    const json_t *json;
    const tdm_safetensors *f;
    size_t begin, end;
} entry;

#define BAD_FILE(f, ...) TDM_FAIL(err, TDM_ERR_INPUT, (f)->where, "the file is damaged or not safetensors", __VA_ARGS__)

static tdm_status bad_tensor(const entry *e, tdm_error *err, const char *what)
{
    char where[512];
    snprintf(where, sizeof where, "%s: %s", e->f->where, e->name);
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "the file is damaged or not safetensors", "%s", what);
}

static tdm_status read_shape(const entry *e, tdm_st_tensor *t, int64_t *elements, tdm_error *err)
{
    const json_t *shape = json_object_get(e->json, "shape");
    if (!json_is_array(shape)) return bad_tensor(e, err, "\"shape\" is not an array");
    if (json_array_size(shape) > TDM_COUNT(t->shape)) return bad_tensor(e, err, "more than 8 dimensions");
    t->rank = (int)json_array_size(shape);
    *elements = 1;
    for (int i = 0; i < t->rank; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0) return bad_tensor(e, err, "a dimension is not a count");
        t->shape[i] = json_integer_value(d);
        if (__builtin_mul_overflow(*elements, t->shape[i], elements)) return bad_tensor(e, err, "the shape overflows");
    }
    return TDM_OK;
}

static tdm_status read_offsets(entry *e, tdm_error *err)
{
    const json_t *offsets = json_object_get(e->json, "data_offsets");
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return bad_tensor(e, err, "\"data_offsets\" is not a pair");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (!json_is_integer(begin) || !json_is_integer(end) || json_integer_value(begin) < 0 ||
        json_integer_value(end) < json_integer_value(begin))
        return bad_tensor(e, err, "\"data_offsets\" does not go from a byte to a later one");
    if ((uint64_t)json_integer_value(end) > e->f->data_bytes)
        return bad_tensor(e, err, "its bytes end past the end of the file");
    e->begin = (size_t)json_integer_value(begin);
    e->end = (size_t)json_integer_value(end);
    return TDM_OK;
}

/* The rest of the entry, once its offsets are known. */
static tdm_status read_tensor(const entry *e, tdm_st_tensor *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int64_t elements = 0, bits = 0;
    const char *type = json_string_value(json_object_get(e->json, "dtype"));
    if (!type) return bad_tensor(e, err, "\"dtype\" is not a string");
    const tdm_st_type *known = tdm_st_type_find(type);
    if (!known) return bad_tensor(e, err, "unknown dtype");
    if (json_object_size(e->json) != 3) return bad_tensor(e, err, "keys beyond dtype, shape and data_offsets");
    TDM_TRY(st, read_shape(e, t, &elements, err), done);
    if (__builtin_mul_overflow(elements, (int64_t)known->bits, &bits)) return bad_tensor(e, err, "the shape overflows");
    if (bits % 8 != 0 || (uint64_t)bits / 8 != e->end - e->begin)
        return bad_tensor(e, err, "shape and dtype need another number of bytes than data_offsets gives");
    t->name = e->name;
    t->dtype = known->dtype;
    t->type = known->name;
    t->bytes = e->end - e->begin;
    t->data = e->f->data + e->begin;
done:
    return st;
}

static int by_offset(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b)
{
    const tdm_st_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Tensor after tensor, each must start where the last ended, and the last must end with the file. */
static tdm_status check_cover(const tdm_safetensors *f, const entry *entries, tdm_error *err)
{
    size_t at = 0;
    for (int64_t i = 0; i < f->count; i++) {
        if (entries[i].begin < at) return bad_tensor(&entries[i], err, "its bytes overlap those of another tensor");
        if (entries[i].begin > at) return bad_tensor(&entries[i], err, "a hole stands before its bytes");
        at = entries[i].end;
    }
    if (at != f->data_bytes) return BAD_FILE(f, "%zu bytes belong to no tensor", f->data_bytes - at);
    return TDM_OK;
}

static tdm_status read_metadata(const tdm_safetensors *f, tdm_error *err)
{
    json_t *meta = json_object_get(f->header, "__metadata__");
    const char *key;
    json_t *value;
    if (!meta) return TDM_OK;
    if (!json_is_object(meta)) return BAD_FILE(f, "__metadata__ is not an object");
    json_object_foreach(meta, key, value) if (!json_is_string(value)) return BAD_FILE(
        f, "__metadata__ holds something that is not text");
    return TDM_OK;
}

static tdm_status read_table(tdm_safetensors *f, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char *key;
    json_t *value;
    int64_t n = 0;
    const size_t room = json_object_size(f->header) + 1; /* calloc(0) may be NULL */
    entry *entries = calloc(room, sizeof *entries);      /* owned here */

    f->tensors = calloc(room, sizeof *f->tensors);
    f->by_name = calloc(room, sizeof *f->by_name);
    if (!entries || !f->tensors || !f->by_name) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, f->where, NULL, "out of memory for %zu tensors", room);
        goto done;
    }
    json_object_foreach(f->header, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) continue;
        entries[n] = (entry){.name = key, .json = value, .f = f};
        if (!json_is_object(value)) {
            st = bad_tensor(&entries[n], err, "its entry is not an object");
            goto done;
        }
        TDM_TRY(st, read_offsets(&entries[n], err), done);
        n++;
    }
    f->count = n;
    qsort(entries, (size_t)n, sizeof *entries, by_offset);
    for (int64_t i = 0; i < n; i++) {
        TDM_TRY(st, read_tensor(&entries[i], &f->tensors[i], err), done);
        f->by_name[i] = &f->tensors[i];
    }
    TDM_TRY(st, check_cover(f, entries, err), done);
    qsort(f->by_name, (size_t)n, sizeof(const tdm_st_tensor *), by_name);
done:
    free(entries);
    return st;
}

static tdm_status parse(tdm_safetensors *f, const unsigned char *data, size_t bytes, tdm_error *err)
{
    tdm_status st = TDM_OK;
    uint64_t length = 0;
    json_error_t bad;

    if (bytes < 8) return BAD_FILE(f, "%zu bytes, a header length alone takes 8", bytes);
    for (int i = 0; i < 8; i++) length |= (uint64_t)data[i] << (8 * i);
    if (length > HEADER_MAX)
        return BAD_FILE(f, "a header of %" PRIu64 " bytes, at most %d are allowed", length, HEADER_MAX);
    if (length > bytes - 8) return BAD_FILE(f, "a header of %" PRIu64 " bytes in a file of %zu", length, bytes);
    if (length == 0 || data[8] != '{') return BAD_FILE(f, "the header does not start with '{'");
    f->header = json_loadb((const char *)data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &bad);
    if (!f->header) return BAD_FILE(f, "header: %s at byte %d", bad.text, bad.position);
    f->data = data + 8 + length;
    f->data_bytes = bytes - 8 - (size_t)length;
    TDM_TRY(st, read_metadata(f, err), done);
    TDM_TRY(st, read_table(f, err), done);
done:
    return st;
}

static tdm_status start(tdm_safetensors **f, const char *where, tdm_error *err)
{
    *f = calloc(1, sizeof **f);
    if (*f) (*f)->where = strdup(where);
    if (!*f || !(*f)->where) return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory");
    return TDM_OK;
}

tdm_status tdm_safetensors_parse(tdm_safetensors **out, const void *data, size_t bytes, const char *where,
                                 tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_safetensors *f = NULL;

    *out = NULL;
    TDM_TRY(st, start(&f, where, err), fail);
    TDM_TRY(st, parse(f, data, bytes, err), fail);
    *out = f;
    return st;
fail:
    tdm_safetensors_close(f);
    return st;
}

tdm_status tdm_safetensors_open(tdm_safetensors **out, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_safetensors *f = NULL;

    *out = NULL;
    TDM_TRY(st, start(&f, path, err), fail);
    TDM_TRY(st, tdm_file_map_open(&f->map, path, err), fail);
    TDM_TRY(st, parse(f, f->map.data, f->map.bytes, err), fail);
    *out = f;
    return st;
fail:
    tdm_safetensors_close(f);
    return st;
}

void tdm_safetensors_close(tdm_safetensors *f)
{
    if (!f) return;
    free(f->by_name);
    free(f->tensors);
    json_decref(f->header);
    tdm_file_map_close(&f->map);
    free(f->where);
    free(f);
}

int64_t tdm_safetensors_count(const tdm_safetensors *f) { return f->count; }

const tdm_st_tensor *tdm_safetensors_at(const tdm_safetensors *f, int64_t i)
{
    TDM_ASSERT(i >= 0 && i < f->count);
    return &f->tensors[i];
}

const tdm_st_tensor *tdm_safetensors_find(const tdm_safetensors *f, const char *name)
{
    const tdm_st_tensor key = {.name = name}, *at = &key;
    const tdm_st_tensor *const *hit =
        bsearch(&at, f->by_name, (size_t)f->count, sizeof(const tdm_st_tensor *), by_name);
    return hit ? *hit : NULL;
}

const char *tdm_safetensors_metadata(const tdm_safetensors *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}
