#include "runtime/cmd/model_out.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COPY_LIMIT = 1 << 30 };

/* ---- the folder ---- */

/* Splits "a/b/" into "a" and "b"; false: no name is left that a folder could have. */
static bool split(const char *path, char parent[TDM_PATH_BYTES], const char **name, size_t *name_len)
{
    size_t end = strlen(path), start;
    if (end >= TDM_PATH_BYTES) return false;
    while (end > 0 && path[end - 1] == '/') end--;
    for (start = end; start > 0 && path[start - 1] != '/';) start--;
    *name = path + start;
    *name_len = end - start;
    if (end == start || strncmp(*name, ".", end - start) == 0 || strncmp(*name, "..", end - start) == 0) return false;
    while (start > 1 && path[start - 1] == '/') start--;
    snprintf(parent, TDM_PATH_BYTES, "%.*s", (int)start, path);
    if (start == 0) snprintf(parent, TDM_PATH_BYTES, ".");
    return true;
}

static tdm_status check_free(const char *path, tdm_error *err)
{
    tdm_names names = {0};
    tdm_status st = TDM_OK;
    if (tdm_fs_is_dir(path)) {
        st = tdm_fs_list(path, &names, err);
        if (st == TDM_OK && names.count > 0)
            st =
                TDM_FAIL(err, TDM_ERR_RECIPE, path, "name a new folder, or remove it first", "the folder is not empty");
    } else if (tdm_fs_is_file(path)) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, path, "name a new folder", "is a file");
    }
    tdm_names_free(&names);
    return st;
}

tdm_status tdm_model_out_open(tdm_model_out *o, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char *name;
    char tmp[TDM_PATH_BYTES];
    size_t len;
    *o = (tdm_model_out){0};
    if (!split(path, o->parent, &name, &len))
        return TDM_FAIL(err, TDM_ERR_RECIPE, path, "name a new folder", "is not the name of a folder to make");
    TDM_TRY(st, check_free(path, err), done);
    snprintf(tmp, sizeof tmp, ".%.*s.tmp", (int)len, name);
    TDM_TRY(st, tdm_fs_join(o->path, o->parent, name, err), done);
    o->path[strlen(o->path) - strlen(name) + len] = 0; /* without the slashes behind the name */
    TDM_TRY(st, tdm_fs_mkdirs(o->parent, err), done);
    char full[TDM_PATH_BYTES];
    TDM_TRY(st, tdm_fs_join(full, o->parent, tmp, err), done);
    TDM_TRY(st, tdm_fs_remove_tree(full, err), done); /* left by a crash */
    memcpy(o->tmp, full, sizeof full); /* from here on close removes it, also when making it fails half way */
    TDM_TRY(st, tdm_fs_mkdirs(full, err), done);
done:
    return st;
}

tdm_status tdm_model_out_finish(tdm_model_out *o, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_fs_sync_dir(o->tmp, err), done);
    TDM_TRY(st, check_free(o->path, err), done); /* it may have been filled meanwhile */
    TDM_TRY(st, tdm_fs_rename(o->tmp, o->path, err), done);
    o->tmp[0] = 0;
    TDM_TRY(st, tdm_fs_sync_dir(o->parent, err), done);
done:
    return st;
}

void tdm_model_out_close(tdm_model_out *o)
{
    if (o->tmp[0]) (void)tdm_fs_remove_tree(o->tmp, NULL); /* what made it fail has been reported */
    *o = (tdm_model_out){0};
}

/* ---- small files ---- */

tdm_status tdm_model_out_text(const tdm_model_out *o, const char *name, const char *text, tdm_error *err)
{
    char path[TDM_PATH_BYTES];
    tdm_status st = tdm_fs_join(path, o->tmp, name, err);
    return st == TDM_OK ? tdm_fs_write(path, text, strlen(text), err) : st;
}

/* 1e-05 stays that instead of becoming 1.0000000000000001e-05: precision grows until every number reads back the same.
 */
static char *dump(const json_t *value)
{
    const size_t pretty = JSON_INDENT(2) | JSON_ENCODE_ANY;
    for (size_t digits = 6; digits < 17; digits++) {
        char *text = json_dumps(value, pretty | JSON_REAL_PRECISION(digits));
        json_t *again = text ? json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
        const bool same = again && json_equal(value, again);
        json_decref(again);
        if (same) return text;
        free(text);
    }
    return json_dumps(value, pretty | JSON_REAL_PRECISION(17));
}

tdm_status tdm_model_out_json(const tdm_model_out *o, const char *name, const json_t *value, tdm_error *err)
{
    char *text = dump(value); /* owned here */
    const tdm_status st = text ? tdm_model_out_text(o, name, text, err)
                               : TDM_FAIL(err, TDM_ERR_OTHER, o->path, NULL,
                                          "cannot format %s: out of memory, or text that is not UTF-8", name);
    free(text);
    return st;
}

tdm_status tdm_model_out_copy(const tdm_model_out *o, const char *from, const char *name, bool *copied, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char source[TDM_PATH_BYTES], target[TDM_PATH_BYTES];
    char *data = NULL; /* owned here */
    size_t bytes = 0;
    if (copied) *copied = false;
    TDM_TRY(st, tdm_fs_join(source, from, name, err), done);
    if (!tdm_fs_is_file(source)) goto done;
    TDM_TRY(st, tdm_fs_join(target, o->tmp, name, err), done);
    TDM_TRY(st, tdm_fs_read(source, COPY_LIMIT, &data, &bytes, err), done);
    TDM_TRY(st, tdm_fs_write(target, data, bytes, err), done);
    if (copied) *copied = true;
done:
    free(data);
    return st;
}

/* ---- tensors ---- */

static size_t entry_bytes(const tdm_st_entry *e)
{
    size_t n = e->dtype == TDM_ST_F32 ? 4 : e->dtype == TDM_ST_E4M3 ? 1 : 2;
    TDM_ASSERT(e->dtype == TDM_ST_F32 || e->dtype == TDM_ST_E4M3 || e->dtype == TDM_ST_BF16);
    for (int i = 0; i < e->rank; i++) n *= (size_t)e->shape[i];
    return n;
}

/* The entry after the last one of the shard that begins at `first`. */
static int64_t shard_end(const tdm_st_entry *entries, int64_t count, int64_t first, size_t limit)
{
    size_t bytes = entry_bytes(&entries[first]);
    int64_t i = first + 1;
    for (; i < count; i++) {
        const size_t more = entry_bytes(&entries[i]);
        if (bytes + more > limit) break;
        bytes += more;
    }
    return i;
}

typedef struct shard_fill {
    tdm_st_fill_fn *fill;
    void *user;
    int64_t first;
} shard_fill;

static tdm_status fill_in_shard(void *user, int64_t entry, int64_t row, int64_t rows, void *out, tdm_error *err)
{
    const shard_fill *s = user;
    return s->fill(s->user, s->first + entry, row, rows, out, err);
}

static tdm_status write_index(const tdm_model_out *o, json_t *map, tdm_error *err)
{
    json_t *index =
        map ? json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)o->bytes, "weight_map", map) : NULL;
    if (!index) return TDM_FAIL(err, TDM_ERR_OTHER, o->path, NULL, "out of memory for the index of the shards");
    const tdm_status st = tdm_model_out_json(o, "model.safetensors.index.json", index, err);
    json_decref(index);
    return st;
}

tdm_status tdm_model_out_tensors(tdm_model_out *o, const tdm_st_entry *entries, int64_t count, tdm_st_fill_fn *fill,
                                 void *user, size_t shard_bytes, tdm_error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES], name[TDM_SHARD_NAME_BYTES];
    json_t *map = json_object(); /* owned here */
    int64_t first = 0, shard = 0;
    o->shards = 0;
    for (int64_t i = 0; i < count; i = shard_end(entries, count, i, shard_bytes)) o->shards++;
    for (; first < count; shard++) {
        const int64_t end = shard_end(entries, count, first, shard_bytes);
        shard_fill s = {fill, user, first};
        if (o->shards == 1)
            snprintf(name, sizeof name, "model.safetensors");
        else
            snprintf(name, sizeof name, "model-%05" PRId64 "-of-%05" PRId64 ".safetensors", shard + 1, o->shards);
        TDM_TRY(st, tdm_fs_join(path, o->tmp, name, err), done);
        TDM_TRY(st, tdm_safetensors_write_filled(path, entries + first, end - first, metadata, fill_in_shard, &s, err),
                done);
        for (; first < end; first++) {
            o->bytes += entry_bytes(&entries[first]);
            if (map && json_object_set_new(map, entries[first].name, json_string(name)) != 0) {
                json_decref(map);
                map = NULL;
            }
        }
    }
    if (o->shards > 1) TDM_TRY(st, write_index(o, map, err), done);
done:
    json_decref(map);
    return st;
}
