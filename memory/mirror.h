/* Where bytes lie, and how the host reaches them. */
#ifndef TANDEM_MEMORY_MIRROR_H
#define TANDEM_MEMORY_MIRROR_H

#include "kernels/ops.h"

/* A piece of a backend's memory. be NULL: the host's, without a backend (tools and tests that only load). */
typedef struct tdm_region {
    void *base;
    size_t bytes;
    const tdm_backend *be;
    tdm_stream *s;
} tdm_region;

static inline bool tdm_region_is_host(const tdm_region *r) { return !r->be || !r->be->device; }

/* Arrays that the host fills and a device reads, or the other way: one block of host memory and its twin in the backend's memory, at
 * the same offsets. Where the backend's memory is the host's there is one block, and a push or pull does nothing.
 *   created   tdm_mirror_open    released  tdm_mirror_close    device bytes  lent by the caller until then */
typedef struct tdm_mirror {
    const tdm_backend *be;
    char *host, *device;
    size_t bytes;
} tdm_mirror;

tdm_status tdm_mirror_open(tdm_mirror *m, const tdm_backend *be, void *device, size_t bytes, tdm_error *err);
void tdm_mirror_close(tdm_mirror *m);
/* The twin of a pointer into the host block: what operations are given. */
static inline void *tdm_mirror_twin(const tdm_mirror *m, const void *host)
{
    TDM_ASSERT((const char *)host >= m->host && (const char *)host <= m->host + m->bytes);
    return m->device + ((const char *)host - m->host);
}
/* Host to device, device to host; `host` points into the host block. A pull is there after stream_sync; what was pushed may be
 * written again after stream_sync. */
tdm_status tdm_mirror_push(const tdm_mirror *m, tdm_stream *s, const void *host, size_t bytes, tdm_error *err);
tdm_status tdm_mirror_pull(const tdm_mirror *m, tdm_stream *s, void *host, size_t bytes, tdm_error *err);

#endif
