#include "memory/fs.h"
#include "memory/safetensors.h"
#include "memory/safetensors_types.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const tdm_st_type types[] = {
    {"F32", 32, TDM_ST_F32},
    {"F16", 16, TDM_ST_F16},
    {"BF16", 16, TDM_ST_BF16},
    {"F8_E4M3", 8, TDM_ST_E4M3},
    {"I32", 32, TDM_ST_I32},
    {"I64", 64, TDM_ST_I64},
    {"U8", 8, TDM_ST_U8},
    {"BOOL", 8, TDM_ST_OTHER},
    {"I8", 8, TDM_ST_OTHER},
    {"I16", 16, TDM_ST_OTHER},
    {"U16", 16, TDM_ST_OTHER},
    {"U32", 32, TDM_ST_OTHER},
    {"U64", 64, TDM_ST_OTHER},
    {"F64", 64, TDM_ST_OTHER},
    {"C64", 64, TDM_ST_OTHER},
    {"F8_E5M2", 8, TDM_ST_OTHER},
    {"F8_E8M0", 8, TDM_ST_OTHER},
    {"F8_E4M3FNUZ", 8, TDM_ST_OTHER},
    {"F8_E5M2FNUZ", 8, TDM_ST_OTHER},
    {"F4", 4, TDM_ST_OTHER},
    {"F6_E2M3", 6, TDM_ST_OTHER},
    {"F6_E3M2", 6, TDM_ST_OTHER},
};

const tdm_st_type *tdm_st_type_find(const char *name)
{
    for (size_t i = 0; i < TDM_COUNT(types); i++)
        if (strcmp(types[i].name, name) == 0) return &types[i];
    return NULL;
}

const tdm_st_type *tdm_st_type_of(tdm_st_dtype dtype)
{
    for (size_t i = 0; i < TDM_COUNT(types); i++)
        if (types[i].dtype == dtype && dtype != TDM_ST_OTHER) return &types[i];
    TDM_ASSERT(false && "a dtype that can be written");
    return NULL;
}

static size_t entry_bytes(const tdm_st_entry *e)
{
    size_t bytes = (size_t)tdm_st_type_of(e->dtype)->bits / 8;
    TDM_ASSERT(e->rank >= 0 && e->rank <= (int)TDM_COUNT(e->shape));
    for (int i = 0; i < e->rank; i++) {
        TDM_ASSERT(e->shape[i] >= 0);
        TDM_ASSERT(!__builtin_mul_overflow(bytes, (size_t)e->shape[i], &bytes));
    }
    return bytes;
}

/* Entries by element width, wide first, otherwise in the order given. */
static void order_entries(const tdm_st_entry *entries, int64_t count, const tdm_st_entry **order)
{
    int64_t n = 0;
    for (int bits = 64; bits >= 8; bits /= 2)
        for (int64_t i = 0; i < count; i++)
            if (tdm_st_type_of(entries[i].dtype)->bits == bits) order[n++] = &entries[i];
    TDM_ASSERT_EQ(n, count);
}

static int add_tensor(json_t *header, const tdm_st_entry *e, size_t *at)
{
    const size_t bytes = entry_bytes(e);
    json_t *shape = json_array();
    for (int i = 0; i < e->rank; i++)
        if (json_array_append_new(shape, json_integer(e->shape[i])) != 0) {
            json_decref(shape);
            return -1;
        }
    json_t *tensor = json_pack("{s:s, s:o, s:[I, I]}", "dtype", tdm_st_type_of(e->dtype)->name, "shape", shape,
                               "data_offsets", (json_int_t)*at, (json_int_t)(*at + bytes));
    *at += bytes;
    return json_object_set_new(header, e->name, tensor);
}

static tdm_status make_header(const char *path, const tdm_st_entry *const *order, int64_t count,
                              const char *const *metadata, char **text, size_t *bytes, tdm_error *err)
{
    tdm_status st = TDM_OK;
    size_t at = 0;
    char *dump = NULL;                            /* owned here */
    json_t *header = json_object(), *meta = NULL; /* owned here */
    bool made = header != NULL;

    if (metadata && metadata[0]) {
        meta = json_object();
        for (size_t i = 0; made && metadata[i]; i += 2)
            made = json_object_set_new(meta, metadata[i], json_string(metadata[i + 1])) == 0;
        made = made && json_object_set(header, "__metadata__", meta) == 0;
    }
    for (int64_t i = 0; made && i < count; i++) {
        if (json_object_get(header, order[i]->name) || strcmp(order[i]->name, "__metadata__") == 0) {
            st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "two tensors are named %s", order[i]->name);
            goto done;
        }
        made = add_tensor(header, order[i], &at) == 0;
    }
    dump = made ? json_dumps(header, JSON_COMPACT) : NULL;
    if (!dump) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL,
                      "cannot make the header: out of memory, or a name that is not UTF-8");
        goto done;
    }
    const size_t length = strlen(dump), padded = tdm_align_up(length, 8);
    *text = malloc(8 + padded);
    if (!*text) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory: %zu bytes", 8 + padded);
        goto done;
    }
    for (int i = 0; i < 8; i++) (*text)[i] = (char)((uint64_t)padded >> (8 * i));
    memcpy(*text + 8, dump, length);
    memset(*text + 8 + length, ' ', padded - length);
    *bytes = 8 + padded;
done:
    free(dump);
    json_decref(meta);
    json_decref(header);
    return st;
}

enum { FILL_BYTES = 4 << 20 };

static tdm_status put_filled(tdm_file *file, const tdm_st_entry *e, int64_t index, tdm_st_fill_fn *fill, void *user,
                             tdm_error *err)
{
    tdm_status st = TDM_OK;
    const size_t all = entry_bytes(e);
    if (all == 0) return TDM_OK;
    TDM_ASSERT(fill && e->rank > 0);
    const size_t row_bytes = all / (size_t)e->shape[0];
    const int64_t most = tdm_max_i64(1, (int64_t)(FILL_BYTES / row_bytes));
    void *buffer = malloc((size_t)tdm_min_i64(most, e->shape[0]) * row_bytes); /* owned here */
    if (!buffer) return TDM_FAIL(err, TDM_ERR_OTHER, file->path, NULL, "out of memory writing %s", e->name);
    for (int64_t row = 0; row < e->shape[0]; row += most) {
        const int64_t rows = tdm_min_i64(most, e->shape[0] - row);
        TDM_TRY(st, fill(user, index, row, rows, buffer, err), done);
        TDM_TRY(st, tdm_file_put(file, buffer, (size_t)rows * row_bytes, err), done);
    }
done:
    free(buffer);
    return st;
}

tdm_status tdm_safetensors_write(const char *path, const tdm_st_entry *entries, int64_t count,
                                 const char *const *metadata, tdm_error *err)
{
    return tdm_safetensors_write_filled(path, entries, count, metadata, NULL, NULL, err);
}

tdm_status tdm_safetensors_write_filled(const char *path, const tdm_st_entry *entries, int64_t count,
                                        const char *const *metadata, tdm_st_fill_fn *fill, void *user, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_file file = {.fd = -1}; /* owned here */
    bool created = false;
    char *header = NULL; /* owned here */
    size_t bytes = 0;
    const tdm_st_entry **order = calloc((size_t)count + 1, sizeof *order); /* owned here */

    if (!order) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory");
        goto done;
    }
    order_entries(entries, count, order);
    TDM_TRY(st, make_header(path, order, count, metadata, &header, &bytes, err), done);
    TDM_TRY(st, tdm_file_create(&file, path, err), done);
    created = true;
    TDM_TRY(st, tdm_file_put(&file, header, bytes, err), done);
    for (int64_t i = 0; i < count; i++) {
        if (order[i]->data || !fill)
            st = tdm_file_put(&file, order[i]->data, entry_bytes(order[i]), err);
        else
            st = put_filled(&file, order[i], order[i] - entries, fill, user, err);
        if (st != TDM_OK) goto done;
    }
    TDM_TRY(st, tdm_file_sync(&file, err), done);
done:
    if (created) {
        const tdm_status closed = tdm_file_close(&file, err); /* a full disk may show only here */
        if (st == TDM_OK) st = closed;
    }
    if (created && st != TDM_OK)
        (void)tdm_fs_remove_tree(path, NULL); /* half a file would only be met later, as a damaged one */
    free(header);
    free(order);
    return st;
}
