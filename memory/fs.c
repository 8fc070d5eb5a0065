#include "memory/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HINT_SPACE "is the disk full, or the folder not writable?"

/* ---- faults ---- */

/* The one place of state in this file: a fault must reach writers that do not know of each other. */
static struct {
    unsigned kinds;
    int64_t left;  /* operations of these kinds until the fault */
    int64_t fired;
    bool dead, down;
    tdm_fs_observer_fn *observer;
    void *user;
} faults;

void tdm_fault_arm(unsigned kinds, int64_t n, bool dead)
{
    faults.kinds = kinds;
    faults.left = n;
    faults.fired = 0;
    faults.dead = dead;
    faults.down = false;
}

int64_t tdm_fault_disarm(void)
{
    int64_t fired = faults.fired;
    faults.kinds = TDM_FAULT_NONE;
    faults.down = false;
    return fired;
}

void tdm_fs_observe(tdm_fs_observer_fn *fn, void *user)
{
    faults.observer = fn;
    faults.user = user;
}

/* Must this operation fail? Sets errno. */
static bool faulty(tdm_fault kind)
{
    if (faults.kinds == TDM_FAULT_NONE) return false;
    bool hit = faults.down;
    if (!hit && (faults.kinds & kind)) hit = faults.left-- == 0;
    if (!hit) return false;
    faults.fired++;
    faults.down = faults.dead;
    errno = EIO;
    return true;
}

static void observed(tdm_fs_event event, const char *path, const char *to)
{
    if (faults.observer) faults.observer(faults.user, event, path, to);
}

/* ---- paths ---- */

tdm_status tdm_fs_join(char out[TDM_PATH_BYTES], const char *dir, const char *name, tdm_error *err)
{
    size_t n = strlen(dir);
    const char *slash = n > 0 && dir[n - 1] != '/' ? "/" : "";
    int len = snprintf(out, TDM_PATH_BYTES, "%s%s%s", dir, slash, name);
    if (len < 0 || len >= TDM_PATH_BYTES)
        return TDM_FAIL(err, TDM_ERR_OTHER, dir, "use a shorter folder name", "path has %d bytes, at most %d fit", len,
                        TDM_PATH_BYTES - 1);
    return TDM_OK;
}

/* The folder a path lies in. */
static void parent_of(char out[TDM_PATH_BYTES], const char *path)
{
    snprintf(out, TDM_PATH_BYTES, "%s", path);
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') out[--n] = 0;
    char *slash = strrchr(out, '/');
    if (!slash) snprintf(out, TDM_PATH_BYTES, ".");
    else if (slash == out) out[1] = 0;
    else *slash = 0;
}

bool tdm_fs_is_file(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISREG(s.st_mode);
}

bool tdm_fs_is_dir(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* ---- files being written ---- */

static tdm_status file_open(tdm_file *f, const char *path, int flags, tdm_error *err)
{
    f->fd = -1;
    if (strlen(path) >= sizeof f->path) return TDM_FAIL(err, TDM_ERR_OTHER, path, "use a shorter folder name", "path is too long");
    snprintf(f->path, sizeof f->path, "%s", path);
    f->fd = open(path, flags | O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (f->fd < 0)
        return TDM_FAIL(err, TDM_ERR_OTHER, path, "is the folder there and writable?", "cannot create the file: %s", strerror(errno));
    return TDM_OK;
}

tdm_status tdm_file_create(tdm_file *f, const char *path, tdm_error *err) { return file_open(f, path, O_TRUNC, err); }
tdm_status tdm_file_append(tdm_file *f, const char *path, tdm_error *err) { return file_open(f, path, O_APPEND, err); }

/* write(2) until all is out; a short write is not an error, it is asked again. */
static bool write_all(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, data, bytes < (size_t)1 << 30 ? bytes : (size_t)1 << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

tdm_status tdm_file_put(tdm_file *f, const void *data, size_t bytes, tdm_error *err)
{
    TDM_ASSERT(f->fd >= 0);
    bool ok;
    bool was_down = faults.down;
    if (faulty(TDM_FAULT_WRITE)) {
        if (!was_down) (void)write_all(f->fd, data, bytes / 2); /* torn */
        errno = EIO;
        ok = false;
    } else {
        ok = write_all(f->fd, data, bytes);
    }
    if (!ok) return TDM_FAIL(err, TDM_ERR_OTHER, f->path, HINT_SPACE, "cannot write %zu bytes: %s", bytes, strerror(errno));
    observed(TDM_FS_WRITE, f->path, NULL);
    return TDM_OK;
}

tdm_status tdm_file_sync(tdm_file *f, tdm_error *err)
{
    TDM_ASSERT(f->fd >= 0);
    if (faulty(TDM_FAULT_SYNC) || fsync(f->fd) != 0)
        return TDM_FAIL(err, TDM_ERR_OTHER, f->path, HINT_SPACE, "cannot sync to disk: %s", strerror(errno));
    observed(TDM_FS_SYNC, f->path, NULL);
    return TDM_OK;
}

tdm_status tdm_file_close(tdm_file *f, tdm_error *err)
{
    int fd = f->fd;
    f->fd = -1;
    if (fd >= 0 && close(fd) != 0)
        return TDM_FAIL(err, TDM_ERR_OTHER, f->path, HINT_SPACE, "cannot finish writing: %s", strerror(errno));
    return TDM_OK;
}

/* ---- whole files ---- */

static tdm_status read_fd(int fd, const char *path, size_t limit, char **data, size_t *bytes, tdm_error *err)
{
    struct stat s;
    if (fstat(fd, &s) != 0) return TDM_FAIL(err, TDM_ERR_INPUT, path, NULL, "cannot read: %s", strerror(errno));
    if (S_ISDIR(s.st_mode)) return TDM_FAIL(err, TDM_ERR_INPUT, path, "name a file", "is a folder");
    size_t room = S_ISREG(s.st_mode) && s.st_size > 0 ? (size_t)s.st_size : limit < 4096 ? limit : 4096;
    if (room > limit)
        return TDM_FAIL(err, TDM_ERR_INPUT, path, "is this the right file?", "has %zu bytes, at most %zu are read", room, limit);
    char *buf = NULL;
    size_t len = 0;
    for (;;) { /* the file may still grow, or be a pipe: what counts is what read returns */
        char *grown = realloc(buf, room + 1);
        if (!grown) {
            free(buf);
            return TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory reading %zu bytes", room);
        }
        buf = grown;
        ssize_t n = 0;
        while (len < room && ((n = read(fd, buf + len, room - len)) > 0 || (n < 0 && errno == EINTR)))
            if (n > 0) len += (size_t)n;
        if (n < 0) {
            int e = errno;
            free(buf);
            return TDM_FAIL(err, TDM_ERR_INPUT, path, NULL, "cannot read: %s", strerror(e));
        }
        if (len < room) break;
        char more;
        do n = read(fd, &more, 1);
        while (n < 0 && errno == EINTR);
        if (n <= 0) break;
        if (len >= limit) {
            free(buf);
            return TDM_FAIL(err, TDM_ERR_INPUT, path, "is this the right file?", "has more than %zu bytes", limit);
        }
        buf[len++] = more; /* realloc'd with room for one more than `room` */
        room = room > limit / 2 ? limit : room * 2;
    }
    buf[len] = 0;
    *data = buf;
    *bytes = len;
    return TDM_OK;
}

tdm_status tdm_fs_read(const char *path, size_t limit, char **data, size_t *bytes, tdm_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return TDM_FAIL(err, TDM_ERR_INPUT, path, errno == ENOENT ? "is the name right?" : NULL, "cannot open: %s", strerror(errno));
    tdm_status st = read_fd(fd, path, limit, data, bytes, err);
    close(fd);
    return st;
}

tdm_status tdm_fs_write(const char *path, const void *data, size_t bytes, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_file f = {.fd = -1};
    char tmp[TDM_PATH_BYTES], dir[TDM_PATH_BYTES];
    int len = snprintf(tmp, sizeof tmp, "%s.tmp", path);
    if (len < 0 || (size_t)len >= sizeof tmp) return TDM_FAIL(err, TDM_ERR_OTHER, path, "use a shorter folder name", "path is too long");
    parent_of(dir, path);

    TDM_TRY(st, tdm_file_create(&f, tmp, err), done);
    TDM_TRY(st, tdm_file_put(&f, data, bytes, err), done);
    TDM_TRY(st, tdm_file_sync(&f, err), done);
    TDM_TRY(st, tdm_file_close(&f, err), done);
    TDM_TRY(st, tdm_fs_rename(tmp, path, err), done);
    TDM_TRY(st, tdm_fs_sync_dir(dir, err), done);
done:
    (void)tdm_file_close(&f, NULL);
    if (st != TDM_OK && !faults.down) unlink(tmp);
    return st;
}

/* ---- folders ---- */

static tdm_status make_dir(const char *path, tdm_error *err)
{
    if (faults.down) errno = EIO;
    else if (mkdir(path, 0777) == 0) {
        char parent[TDM_PATH_BYTES];
        parent_of(parent, path);
        observed(TDM_FS_MKDIR, path, NULL);
        return tdm_fs_sync_dir(parent, err); /* what is synced inside is reachable only if the name is on the disk too */
    } else if (errno == EEXIST && tdm_fs_is_dir(path)) return TDM_OK;
    return TDM_FAIL(err, TDM_ERR_OTHER, path, HINT_SPACE, "cannot make the folder: %s", strerror(errno));
}

tdm_status tdm_fs_mkdirs(const char *path, tdm_error *err)
{
    char buf[TDM_PATH_BYTES];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof buf) return TDM_FAIL(err, TDM_ERR_OTHER, path, "name a folder", "folder name has %zu bytes", n);
    memcpy(buf, path, n + 1);
    for (char *p = buf + 1; *p; p++) {
        if (*p != '/' || p[-1] == '/') continue;
        *p = 0;
        if (!tdm_fs_is_dir(buf)) {
            tdm_status st = make_dir(buf, err);
            if (st != TDM_OK) return st;
        }
        *p = '/';
    }
    return make_dir(buf, err);
}

tdm_status tdm_fs_sync_dir(const char *path, tdm_error *err)
{
    bool fault = faulty(TDM_FAULT_SYNC);
    int fd = fault ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int e = errno;
    if (fd >= 0) close(fd);
    if (!ok && (fault || e != EINVAL)) /* some network file systems cannot sync a folder and say EINVAL; that is all they can do */
        return TDM_FAIL(err, TDM_ERR_OTHER, path, HINT_SPACE, "cannot sync the folder: %s", strerror(e));
    observed(TDM_FS_SYNC_DIR, path, NULL);
    return TDM_OK;
}

tdm_status tdm_fs_rename(const char *from, const char *to, tdm_error *err)
{
    if (faulty(TDM_FAULT_RENAME) || rename(from, to) != 0)
        return TDM_FAIL(err, TDM_ERR_OTHER, to, HINT_SPACE, "cannot rename into place: %s", strerror(errno));
    observed(TDM_FS_RENAME, from, to);
    return TDM_OK;
}

tdm_status tdm_fs_exchange(const char *from, const char *to, tdm_error *err)
{
    if (faulty(TDM_FAULT_RENAME)) goto fail;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) != 0) {
        char aside[TDM_PATH_BYTES];
        int n = snprintf(aside, sizeof aside, "%s.old", from);
        if ((errno != EINVAL && errno != ENOSYS) || n < 0 || (size_t)n >= sizeof aside) goto fail;
        if (rename(to, aside) != 0 || rename(from, to) != 0 || rename(aside, from) != 0) goto fail;
    }
    observed(TDM_FS_RENAME, from, to);
    return TDM_OK;
fail:
    return TDM_FAIL(err, TDM_ERR_OTHER, to, HINT_SPACE, "cannot rename into place: %s", strerror(errno));
}

/* Empties the folder behind fd (which it closes), link by link, through folder handles: nothing outside can be reached by
 * swapping a folder for a link meanwhile. */
static bool empty_dir(int fd, int depth)
{
    DIR *d = depth < 64 ? fdopendir(fd) : NULL;
    if (!d) {
        close(fd);
        return false;
    }
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (unlinkat(fd, e->d_name, 0) == 0) continue;
        int sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        ok = sub >= 0 && empty_dir(sub, depth + 1) && unlinkat(fd, e->d_name, AT_REMOVEDIR) == 0;
    }
    int e = errno;
    closedir(d);
    errno = e;
    return ok;
}

tdm_status tdm_fs_remove_tree(const char *path, tdm_error *err)
{
    bool ok = !faults.down;
    if (!ok) errno = EIO;
    if (ok && unlink(path) != 0 && errno != ENOENT) {
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        ok = fd >= 0 && empty_dir(fd, 0) && rmdir(path) == 0;
    }
    if (!ok) return TDM_FAIL(err, TDM_ERR_OTHER, path, "remove it by hand", "cannot remove: %s", strerror(errno));
    observed(TDM_FS_REMOVE, path, NULL);
    return TDM_OK;
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static bool names_add(tdm_names *n, int64_t *room, const char *name)
{
    if (n->count == *room) {
        int64_t more = *room ? *room * 2 : 32;
        char **grown = realloc(n->names, (size_t)more * sizeof *grown);
        if (!grown) return false;
        n->names = grown;
        *room = more;
    }
    n->names[n->count] = strdup(name);
    return n->names[n->count] != NULL && ++n->count > 0;
}

tdm_status tdm_fs_list(const char *path, tdm_names *out, tdm_error *err)
{
    *out = (tdm_names){0};
    DIR *d = opendir(path);
    if (!d) return TDM_FAIL(err, TDM_ERR_INPUT, path, "is the name right?", "cannot list the folder: %s", strerror(errno));
    tdm_names n = {0};
    int64_t room = 0;
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        ok = names_add(&n, &room, e->d_name);
    }
    closedir(d);
    if (!ok) {
        tdm_names_free(&n);
        return TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory listing the folder");
    }
    if (n.count > 1) qsort(n.names, (size_t)n.count, sizeof *n.names, by_bytes);
    *out = n;
    return TDM_OK;
}

void tdm_names_free(tdm_names *n)
{
    for (int64_t i = 0; i < n->count; i++) free(n->names[i]);
    free(n->names);
    *n = (tdm_names){0};
}
