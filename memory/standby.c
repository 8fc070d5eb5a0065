#include "memory/standby.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory/fs.h"

enum { SLOT = 0 };

static tdm_status disk(const char *where, const char *what, tdm_error *err)
{
    return TDM_FAIL(err, TDM_ERR_OTHER, where, "is the disk full, or the folder not writable?", "cannot %s the file of bytes that wait: %s", what, strerror(errno));
}

/* Not every file system makes files without a name. */
static int nameless_file(const char *folder)
{
    char path[TDM_PATH_BYTES];
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || snprintf(path, sizeof path, "%s/.standby-XXXXXX", folder) >= (int)sizeof path) return fd;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) unlink(path);
    return fd;
}

tdm_status tdm_standby_open(tdm_standby *t, const tdm_backend *be, size_t bytes, const char *folder, tdm_error *err)
{
    *t = (tdm_standby){.be = be, .bytes = bytes, .fd = -1};
    if (be->device) return be->host_open(&t->host, bytes, err);
    t->fd = nameless_file(folder);
    return t->fd >= 0 ? TDM_OK : disk(folder, "make", err);
}

void tdm_standby_close(tdm_standby *t)
{
    if (t->host) t->be->host_close(t->host, t->bytes);
    if (t->be && t->fd >= 0) close(t->fd);
    *t = (tdm_standby){.fd = -1};
}

tdm_status tdm_standby_keep(tdm_standby *t, tdm_stream *s, const void *from, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (t->host) {
        TDM_TRY(st, t->be->download(s, t->host, from, t->bytes, err), done);
        st = t->be->stream_sync(s, err);
        goto done;
    }
    for (size_t at = 0; at < t->bytes;) {
        const ssize_t n = pwrite(t->fd, (const char *)from + at, t->bytes - at, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return disk(NULL, "write", err);
        at += (size_t)n;
    }
done:
    return st;
}

tdm_status tdm_standby_fetch(tdm_standby *t, tdm_stream *s, void *to, size_t first, size_t count, tdm_error *err)
{
    TDM_ASSERT(!t->coming && first + count <= t->bytes);
    if (t->host) {
        t->coming = true;
        return t->be->side_in(s, SLOT, to, (char *)t->host + first, count, err);
    }
    for (size_t at = 0; at < count;) {
        const ssize_t n = pread(t->fd, (char *)to + at, count - at, (off_t)(first + at));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return disk(NULL, "read", err);
        at += (size_t)n;
    }
    return TDM_OK;
}

tdm_status tdm_standby_fetched(tdm_standby *t, tdm_stream *s, tdm_error *err)
{
    if (!t->coming) return TDM_OK;
    t->coming = false;
    return t->be->side_join(s, SLOT, err);
}
