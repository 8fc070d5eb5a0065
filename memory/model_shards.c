#include "memory/model_shards.h"
#include "memory/fs.h"
#include "memory/json_read.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tdm_status grow(tdm_shards *s, int64_t count, const char *where, tdm_error *err)
{
    s->files = calloc((size_t)count + 1, sizeof(tdm_safetensors *));
    s->paths = calloc((size_t)count + 1, sizeof(char *));
    if (!s->files || !s->paths)
        return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory for %" PRId64 " shards", count);
    return TDM_OK;
}

static tdm_status add(tdm_shards *s, const char *path, tdm_error *err)
{
    char *copy = strdup(path);
    if (!copy) return TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory");
    s->paths[s->count] = copy;
    s->count++;
    return tdm_safetensors_open(&s->files[s->count - 1], copy, err);
}

/* A shard lies in the folder of its index: a name that leads elsewhere would make us read files nobody named. */
static bool is_plain_name(const char *name)
{
    const size_t n = strlen(name), suffix = strlen(".safetensors");
    return n > suffix && n < 256 && name[0] != '.' && !strpbrk(name, "/\\") &&
           strcmp(name + n - suffix, ".safetensors") == 0;
}

static int64_t find_path(const tdm_shards *s, const char *path)
{
    for (int64_t i = 0; i < s->count; i++)
        if (strcmp(s->paths[i], path) == 0) return i;
    return -1;
}

/* Opens every shard the map names and checks that what it promises is there. */
static tdm_status open_named(tdm_shards *s, const char *folder, const json_t *map, const char *index, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char *tensor;
    const json_t *value;
    char path[4096];
    int64_t total = 0;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!name || !is_plain_name(name))
            return TDM_FAIL(err, TDM_ERR_INPUT, index, "download the model again",
                            "%.100s is said to lie in \"%.100s\", not the name of a shard", tensor, name ? name : "?");
        snprintf(path, sizeof path, "%s/%s", folder, name);
        int64_t at = find_path(s, path);
        if (at < 0) {
            TDM_TRY(st, add(s, path, err), done);
            at = s->count - 1;
        }
        if (!tdm_safetensors_find(s->files[at], tensor))
            return TDM_FAIL(err, TDM_ERR_INPUT, path, "download the model again",
                            "%.200s is missing, the index says it lies here", tensor);
    }
    for (int64_t i = 0; i < s->count; i++) total += tdm_safetensors_count(s->files[i]);
    if (total == (int64_t)json_object_size(map)) goto done;
    for (int64_t i = 0; i < s->count; i++) /* more than the map has: name one of them */
        for (int64_t t = 0; t < tdm_safetensors_count(s->files[i]); t++) {
            const char *name = tdm_safetensors_at(s->files[i], t)->name,
                       *in = json_string_value(json_object_get(map, name));
            snprintf(path, sizeof path, "%s/%s", folder, in ? in : "");
            if (!in || strcmp(path, s->paths[i]) != 0)
                return TDM_FAIL(err, TDM_ERR_INPUT, s->paths[i], "download the model again",
                                "%.200s lies here, the index %s", name, in ? "says elsewhere" : "does not name it");
        }
done:
    return st;
}

static tdm_status open_index(tdm_shards *s, const char *folder, const char *index, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *root = NULL; /* owned here */
    TDM_TRY(st, tdm_json_open(&root, index, err), done);
    const json_t *map = tdm_json_get(root, "weight_map");
    if (!json_is_object(map)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, index, "download the model again", "weight_map is missing or not an object");
        goto done;
    }
    TDM_TRY(st, grow(s, (int64_t)json_object_size(map), index, err), done);
    TDM_TRY(st, open_named(s, folder, map, index, err), done);
done:
    json_decref(root);
    return st;
}

tdm_status tdm_shards_open(tdm_shards *s, const char *folder, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[4096];

    *s = (tdm_shards){0};
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if (tdm_fs_is_file(path)) { /* transformers, too, looks for the single file first */
        TDM_TRY(st, grow(s, 1, path, err), done);
        TDM_TRY(st, add(s, path, err), done);
        goto done;
    }
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    if (tdm_fs_is_file(path))
        TDM_TRY(st, open_index(s, folder, path, err), done);
    else
        st = TDM_FAIL(err, TDM_ERR_INPUT, folder,
                      "name a model folder or a .gguf file; a pytorch_model.bin must be converted to safetensors first",
                      "neither model.safetensors nor model.safetensors.index.json is there");
done:
    return st;
}

void tdm_shards_close(tdm_shards *s)
{
    for (int64_t i = 0; i < s->count; i++) {
        tdm_safetensors_close(s->files[i]);
        free(s->paths[i]);
    }
    free(s->files);
    free(s->paths);
    *s = (tdm_shards){0};
}
