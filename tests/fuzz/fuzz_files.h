/* Input bytes as files, for parsers that take a path. */
#ifndef TANDEM_FUZZ_FILES_H
#define TANDEM_FUZZ_FILES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fuzz_piece {
    const char *data;
    size_t len;
} fuzz_piece;

/* The bytes up to the next zero byte, or the rest; moves past it. Each piece of an input is one file or text. */
static inline fuzz_piece fuzz_next(fuzz_piece *rest)
{
    const char *zero = rest->len ? memchr(rest->data, 0, rest->len) : NULL;
    const fuzz_piece first = {rest->data, zero ? (size_t)(zero - rest->data) : rest->len};
    const size_t used = first.len + (zero ? 1 : 0);
    *rest = (fuzz_piece){rest->data + used, rest->len - used};
    return first;
}

/* A terminated copy; the caller frees it. */
static inline char *fuzz_text(fuzz_piece p)
{
    char *text = malloc(p.len + 1);
    if (!text) abort();
    if (p.len) memcpy(text, p.data, p.len);
    text[p.len] = 0;
    return text;
}

/* A file in memory and a path to it; close(fd) removes it. */
static inline int fuzz_file(fuzz_piece p, char path[64])
{
    const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, p.data, p.len) != (ssize_t)p.len) abort();
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

/* A folder of this process, made at the first call and kept for the next inputs. */
static inline const char *fuzz_folder(void)
{
    static char path[64];
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s/tandem-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(path)) abort();
    return path;
}

static inline void fuzz_put(const char *name, fuzz_piece p)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(p.data, 1, p.len, f) != p.len || fclose(f) != 0) abort();
}

static inline void fuzz_folder_remove(const char *const *names, int count)
{
    char path[256];
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", fuzz_folder(), names[i]);
        remove(path);
    }
}

#endif
