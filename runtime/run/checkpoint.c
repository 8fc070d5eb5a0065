#include "runtime/run/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory/hash.h"

/* The files of a checkpoint, in the order they are written; the last two are there where there is a critic. The manifest comes after them. */
static const char *const file_names[] = {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "optimizer.safetensors",
                                         "state.json", "critic/adapter_model.safetensors", "critic/adapter_config.json"};
enum { FILES_ALWAYS = 4 };
static const char manifest_name[] = "SHA256SUMS";
enum { MAX_STATE_BYTES = 16 << 20, MAX_MANIFEST_BYTES = 64 << 10 };

/* ---- names ---- */

tdm_status tdm_checkpoint_path(char out[TDM_PATH_BYTES], const char *dir, int64_t step, tdm_error *err)
{
    char name[48];
    snprintf(name, sizeof name, "step-%06" PRId64, step);
    return tdm_fs_join(out, dir, name, err);
}

/* "step-000020" gives 20; anything that would not be written so gives -1. */
static int64_t step_of(const char *name)
{
    char again[48];
    int64_t step = -1;
    if (strlen(name) > 24 || sscanf(name, "step-%" SCNd64, &step) != 1 || step < 0) return -1;
    snprintf(again, sizeof again, "step-%06" PRId64, step);
    return strcmp(name, again) == 0 ? step : -1;
}

static bool has_manifest(const char *dir, const char *name)
{
    char path[TDM_PATH_BYTES], manifest[TDM_PATH_BYTES];
    return tdm_fs_join(path, dir, name, NULL) == TDM_OK && tdm_fs_join(manifest, path, manifest_name, NULL) == TDM_OK &&
           tdm_fs_is_file(manifest);
}

int64_t tdm_checkpoint_newest(const char *dir)
{
    tdm_names names = {0};
    int64_t newest = -1;
    if (!tdm_fs_is_dir(dir) || tdm_fs_list(dir, &names, NULL) != TDM_OK) return -1;
    for (int64_t i = 0; i < names.count; i++) {
        int64_t step = step_of(names.names[i]);
        if (step > newest && has_manifest(dir, names.names[i])) newest = step;
    }
    tdm_names_free(&names);
    return newest;
}

/* ---- writing ---- */

/* A text file of the new checkpoint; synced, and no temporary name: the whole folder has one. */
static tdm_status write_text(const char *path, const char *text, tdm_error *err)
{
    tdm_file f = {.fd = -1};
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_file_create(&f, path, err), done);
    TDM_TRY(st, tdm_file_put(&f, text, strlen(text), err), done);
    TDM_TRY(st, tdm_file_sync(&f, err), done);
    TDM_TRY(st, tdm_file_close(&f, err), done);
done:
    (void)tdm_file_close(&f, NULL);
    return st;
}

static tdm_status write_json(const char *path, char *text, tdm_error *err)
{
    if (!text) return TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "cannot format JSON: out of memory, or text that is not UTF-8");
    tdm_status st = write_text(path, text, err);
    free(text);
    return st;
}

/* One line a file, as sha256sum writes it; the hashes are those of the bytes read back. */
static tdm_status format_manifest(const char *dir, size_t files, char *text, size_t bytes, tdm_error *err)
{
    size_t at = 0;
    for (size_t i = 0; i < files; i++) {
        char path[TDM_PATH_BYTES], hex[65];
        tdm_status st = tdm_fs_join(path, dir, file_names[i], err);
        if (st == TDM_OK) st = tdm_sha256_file(path, hex, err);
        if (st != TDM_OK) return st;
        int n = snprintf(text + at, bytes - at, "%s  %s\n", hex, file_names[i]);
        TDM_ASSERT(n > 0 && (size_t)n < bytes - at);
        at += (size_t)n;
    }
    return TDM_OK;
}

static const char *const pt_metadata[] = {"format", "pt", NULL};

/* An adapter as PEFT has it: file_names[first] and the next. */
static tdm_status write_adapter(const char *dir, const char *folder, size_t first, const tdm_st_entry *entries, int64_t count, const json_t *config,
                                tdm_error *err)
{
    tdm_status st = TDM_OK;
    char adapter[TDM_PATH_BYTES], path[TDM_PATH_BYTES];
    TDM_TRY(st, tdm_fs_join(adapter, dir, folder, err), done);
    TDM_TRY(st, tdm_fs_mkdirs(adapter, err), done);
    TDM_TRY(st, tdm_fs_join(path, dir, file_names[first], err), done);
    TDM_TRY(st, tdm_safetensors_write(path, entries, count, pt_metadata, err), done);
    TDM_TRY(st, tdm_fs_join(path, dir, file_names[first + 1], err), done);
    TDM_TRY(st, write_json(path, json_dumps(config, JSON_INDENT(2) | JSON_SORT_KEYS), err), done);
    TDM_TRY(st, tdm_fs_sync_dir(adapter, err), done);
done:
    return st;
}

static tdm_status write_contents(const char *dir, const tdm_checkpoint_parts *p, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES], manifest[1024];
    TDM_TRY(st, write_adapter(dir, "adapter", 0, p->adapter, p->adapter_count, p->adapter_config, err), done);
    if (p->critic) TDM_TRY(st, write_adapter(dir, "critic", FILES_ALWAYS, p->critic, p->critic_count, p->critic_config, err), done);
    TDM_TRY(st, tdm_fs_join(path, dir, file_names[2], err), done);
    TDM_TRY(st, tdm_safetensors_write(path, p->optimizer, p->optimizer_count, NULL, err), done);
    TDM_TRY(st, tdm_fs_join(path, dir, file_names[3], err), done);
    TDM_TRY(st, write_json(path, tdm_checkpoint_state_format(p->state), err), done);
    TDM_TRY(st, format_manifest(dir, p->critic ? TDM_COUNT(file_names) : FILES_ALWAYS, manifest, sizeof manifest, err), done);
    TDM_TRY(st, tdm_fs_join(path, dir, manifest_name, err), done);
    TDM_TRY(st, write_text(path, manifest, err), done);
    TDM_TRY(st, tdm_fs_sync_dir(dir, err), done);
done:
    return st;
}

/* What a crash left behind. */
static tdm_status remove_leftovers(const char *dir, tdm_error *err)
{
    tdm_names names = {0};
    tdm_status st = tdm_fs_list(dir, &names, err);
    for (int64_t i = 0; st == TDM_OK && i < names.count; i++) {
        char path[TDM_PATH_BYTES];
        if (strncmp(names.names[i], ".step-", 6) != 0) continue;
        st = tdm_fs_join(path, dir, names.names[i], err);
        if (st == TDM_OK) st = tdm_fs_remove_tree(path, err);
    }
    tdm_names_free(&names);
    return st;
}

/* Takes a checkpoint's name away first: at no moment is a half-removed folder called a checkpoint. */
static tdm_status remove_one(const char *dir, const char *name, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char from[TDM_PATH_BYTES], to[TDM_PATH_BYTES], hidden[64];
    snprintf(hidden, sizeof hidden, ".%.40s.old", name);
    TDM_TRY(st, tdm_fs_join(from, dir, name, err), done);
    TDM_TRY(st, tdm_fs_join(to, dir, hidden, err), done);
    TDM_TRY(st, tdm_fs_remove_tree(to, err), done);
    TDM_TRY(st, tdm_fs_rename(from, to, err), done);
    TDM_TRY(st, tdm_fs_remove_tree(to, err), done);
done:
    return st;
}

static int falling(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Keeps the newest `keep` of the complete ones up to `step`, and `best`. Later ones belong to a run that went on from elsewhere: not ours to remove. */
static tdm_status prune(const char *dir, int64_t step, int64_t best, int64_t keep, tdm_error *err)
{
    tdm_names names = {0};
    tdm_status st = tdm_fs_list(dir, &names, err);
    if (st != TDM_OK) return st;
    int64_t count = 0, *steps = malloc((size_t)(names.count + 1) * sizeof *steps);
    if (!steps) st = TDM_FAIL(err, TDM_ERR_OTHER, dir, NULL, "out of memory listing checkpoints");
    for (int64_t i = 0; steps && i < names.count; i++) {
        int64_t s = step_of(names.names[i]);
        if (s >= 0 && s <= step && has_manifest(dir, names.names[i])) steps[count++] = s;
    }
    if (steps) qsort(steps, (size_t)count, sizeof *steps, falling);
    for (int64_t i = keep; st == TDM_OK && i < count; i++) {
        char name[48];
        if (steps[i] == best) continue;
        snprintf(name, sizeof name, "step-%06" PRId64, steps[i]);
        st = remove_one(dir, name, err);
    }
    free(steps);
    tdm_names_free(&names);
    return st;
}

tdm_status tdm_checkpoint_link_best(const char *dir, int64_t step, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char name[48], tmp[TDM_PATH_BYTES], path[TDM_PATH_BYTES];
    TDM_TRY(st, tdm_fs_join(path, dir, "best", err), done);
    snprintf(name, sizeof name, "step-%06" PRId64, step);
    TDM_TRY(st, tdm_fs_join(tmp, dir, name, err), done);
    if (step == 0 || !tdm_fs_is_dir(tmp)) {
        st = tdm_fs_remove_tree(path, err);
        goto done;
    }
    TDM_TRY(st, tdm_fs_join(tmp, dir, ".step-best.tmp", err), done);
    TDM_TRY(st, tdm_fs_remove_tree(tmp, err), done);
    if (symlink(name, tmp) != 0) {
        if (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS) goto done;
        st = TDM_FAIL(err, TDM_ERR_OTHER, tmp, "is the disk full?", "cannot make a link: %s", strerror(errno));
        goto done;
    }
    TDM_TRY(st, tdm_fs_rename(tmp, path, err), done);
    TDM_TRY(st, tdm_fs_sync_dir(dir, err), done);
done:
    return st;
}

tdm_status tdm_checkpoint_write(const char *dir, const tdm_checkpoint_parts *parts, int64_t keep, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char name[48], tmp[TDM_PATH_BYTES], path[TDM_PATH_BYTES];
    TDM_ASSERT(parts->state->step >= 0 && keep >= 0);
    snprintf(name, sizeof name, ".step-%06" PRId64 ".tmp", parts->state->step);
    TDM_TRY(st, tdm_fs_join(tmp, dir, name, err), done);
    TDM_TRY(st, tdm_checkpoint_path(path, dir, parts->state->step, err), done);
    TDM_TRY(st, tdm_fs_mkdirs(dir, err), done);
    TDM_TRY(st, remove_leftovers(dir, err), done);
    TDM_TRY(st, write_contents(tmp, parts, err), done);
    bool replaces = tdm_fs_is_dir(path); /* then tmp holds the one that was there */
    TDM_TRY(st, replaces ? tdm_fs_exchange(tmp, path, err) : tdm_fs_rename(tmp, path, err), done);
    TDM_TRY(st, tdm_fs_sync_dir(dir, err), done);
    if (replaces) TDM_TRY(st, tdm_fs_remove_tree(tmp, err), done);
    if (parts->best > 0) TDM_TRY(st, tdm_checkpoint_link_best(dir, parts->best, err), done);
    if (keep > 0) TDM_TRY(st, prune(dir, parts->state->step, parts->best, keep, err), done);
done:
    return st;
}

tdm_status tdm_checkpoint_set_aside(const char *dir, int64_t step, tdm_error *err)
{
    tdm_names names = {0};
    if (!tdm_fs_is_dir(dir)) return TDM_OK;
    tdm_status st = tdm_fs_list(dir, &names, err);
    bool any = false;
    for (int64_t i = 0; st == TDM_OK && i < names.count; i++) {
        char from[TDM_PATH_BYTES], to[TDM_PATH_BYTES], name[64];
        if (step_of(names.names[i]) <= step) continue;
        snprintf(name, sizeof name, "%.40s.old", names.names[i]);
        TDM_TRY(st, tdm_fs_join(from, dir, names.names[i], err), done);
        TDM_TRY(st, tdm_fs_join(to, dir, name, err), done);
        TDM_TRY(st, tdm_fs_remove_tree(to, err), done);
        TDM_TRY(st, tdm_fs_rename(from, to, err), done);
        any = true;
    }
    if (any) st = tdm_fs_sync_dir(dir, err);
done:
    tdm_names_free(&names);
    return st;
}

/* ---- reading ---- */

static tdm_status verify(const char *dir, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char *manifest = NULL; /* owned here */
    size_t bytes = 0, at = 0;
    char path[TDM_PATH_BYTES];
    TDM_TRY(st, tdm_fs_join(path, dir, manifest_name, err), done);
    TDM_TRY(st, tdm_fs_read(path, MAX_MANIFEST_BYTES, &manifest, &bytes, err), done);
    for (size_t i = 0; i < TDM_COUNT(file_names); i++) {
        if (i == FILES_ALWAYS && at == bytes) break; /* no critic */
        char file[TDM_PATH_BYTES], hex[65], line[256];
        TDM_TRY(st, tdm_fs_join(file, dir, file_names[i], err), done);
        TDM_TRY(st, tdm_sha256_file(file, hex, err), done);
        size_t n = (size_t)snprintf(line, sizeof line, "%s  %s\n", hex, file_names[i]);
        if (bytes - at < n || memcmp(manifest + at + 64, line + 64, n - 64) != 0) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, path, "resume from an older checkpoint", "has no proper line for %s", file_names[i]);
            goto done;
        }
        if (memcmp(manifest + at, line, 64) != 0) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, file, "the file was changed or damaged: resume from an older checkpoint",
                          "SHA-256 is %.12s..., %s says %.12s...", hex, manifest_name, manifest + at);
            goto done;
        }
        at += n;
    }
    if (at != bytes) st = TDM_FAIL(err, TDM_ERR_INPUT, path, "resume from an older checkpoint", "has %zu bytes too many", bytes - at);
done:
    free(manifest);
    return st;
}

tdm_status tdm_checkpoint_open(tdm_checkpoint *c, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char *text = NULL; /* owned here */
    size_t bytes = 0;
    char file[TDM_PATH_BYTES];
    memset(c, 0, sizeof *c);
    if (!tdm_fs_is_dir(path)) return TDM_FAIL(err, TDM_ERR_INPUT, path, "name a folder like checkpoints/step-000020", "is not a checkpoint folder");
    TDM_TRY(st, verify(path, err), fail);
    TDM_TRY(st, tdm_fs_join(file, path, "state.json", err), fail);
    TDM_TRY(st, tdm_fs_read(file, MAX_STATE_BYTES, &text, &bytes, err), fail);
    TDM_TRY(st, tdm_checkpoint_state_parse(&c->state, text, bytes, file, err), fail);
    TDM_TRY(st, tdm_fs_join(file, path, "optimizer.safetensors", err), fail);
    TDM_TRY(st, tdm_safetensors_open(&c->optimizer, file, err), fail);
    TDM_TRY(st, tdm_fs_join(c->adapter_dir, path, "adapter", err), fail);
    TDM_TRY(st, tdm_fs_join(c->path, path, "", err), fail);
    free(text);
    return TDM_OK;
fail:
    free(text);
    tdm_checkpoint_close(c);
    return st;
}

void tdm_checkpoint_close(tdm_checkpoint *c)
{
    tdm_checkpoint_state_fini(&c->state);
    tdm_safetensors_close(c->optimizer);
    c->optimizer = NULL;
}
