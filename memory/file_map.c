#include "memory/file_map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static tdm_status open_regular(const char *path, int *fd, size_t *bytes, tdm_error *err)
{
    struct stat info;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: a pipe under this name must not hang us */
    if (*fd < 0) return TDM_FAIL(err, TDM_ERR_INPUT, path, "is the path right?", "cannot open: %s", strerror(errno));
    if (fstat(*fd, &info) != 0)
        return TDM_FAIL(err, TDM_ERR_INPUT, path, NULL, "cannot read its size: %s", strerror(errno));
    if (!S_ISREG(info.st_mode)) return TDM_FAIL(err, TDM_ERR_INPUT, path, "name a file", "not a regular file");
    *bytes = (size_t)info.st_size;
    return TDM_OK;
}

tdm_status tdm_file_map_open(tdm_file_map *m, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int fd = -1;

    *m = (tdm_file_map){0};
    TDM_TRY(st, open_regular(path, &fd, &m->bytes, err), done);
    if (m->bytes == 0) goto done; /* nothing to map: mmap refuses a length of 0 */
    void *data = mmap(NULL, m->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "cannot map %zu bytes: %s", m->bytes, strerror(errno));
        m->bytes = 0;
        goto done;
    }
    m->data = data;
    (void)madvise(data, m->bytes, MADV_SEQUENTIAL); /* advice only: a kernel without it still reads right */
done:
    if (fd >= 0) close(fd);
    return st;
}

void tdm_file_map_close(tdm_file_map *m)
{
    if (m->data) munmap((void *)(uintptr_t)m->data, m->bytes);
    *m = (tdm_file_map){0};
}

void tdm_file_map_drop(const void *data, size_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)data + bytes) / page * page;
    if (end > begin) (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}
