/* Memory of the CPU backend is the host's. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/stream.h"

enum { PAGE = 4096 };

static size_t mapped(size_t bytes) { return tdm_align_up(bytes ? bytes : 1, PAGE); }

tdm_status tdm_cpu_memory_open(void **base, size_t bytes, tdm_error *err)
{
    const size_t huge = (size_t)2 << 20, size = mapped(bytes);
    *base = NULL;
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return TDM_FAIL(err, TDM_ERR_BUDGET, NULL, "lower memory.budget, or free memory", "cannot map %zu bytes: %s", size, strerror(errno));
    if (size >= 4 * huge) (void)madvise(p, size, MADV_HUGEPAGE); /* advice only */
    for (size_t i = 0; i < size; i += PAGE) p[i] = 0;            /* touch: all of it is ours from now on */
    *base = p;
    return TDM_OK;
}

void tdm_cpu_memory_close(void *base, size_t bytes)
{
    if (base) munmap(base, mapped(bytes));
}

tdm_status tdm_cpu_copy(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err)
{
    (void)s;
    (void)err;
    if (dst != src && bytes > 0) memcpy(dst, src, bytes);
    return TDM_OK;
}

tdm_status tdm_cpu_no_bytes(size_t *bytes, tdm_error *err)
{
    (void)err;
    *bytes = 0;
    return TDM_OK;
}
