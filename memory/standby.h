/* Bytes that take turns in a part of the slab, kept where they wait: in pinned host memory, from which a device fetches them beside its work; on a CPU,
 * whose memory is the host's, in a file that has no name.
 *   created   tdm_standby_open    released  tdm_standby_close    threads  one at a time */
#ifndef TANDEM_MEMORY_STANDBY_H
#define TANDEM_MEMORY_STANDBY_H

#include "kernels/ops.h"

typedef struct tdm_standby {
    const tdm_backend *be;
    size_t bytes;
    void *host;  /* pinned; a device's */
    int fd;      /* a CPU's; -1: none */
    bool coming; /* a copy was begun, and is not joined yet */
} tdm_standby;

/* Host bytes it takes. */
static inline size_t tdm_standby_host_bytes(const tdm_backend *be, size_t bytes) { return be->device ? bytes : 0; }
/* folder: where a CPU's file is made; it has to exist. */
tdm_status tdm_standby_open(tdm_standby *t, const tdm_backend *be, size_t bytes, const char *folder, tdm_error *err);
void tdm_standby_close(tdm_standby *t); /* of {0} or of one whose open failed: nothing */
/* Keeps the bytes at `from`, in the backend's memory. */
tdm_status tdm_standby_keep(tdm_standby *t, tdm_stream *s, const void *from, tdm_error *err);
/* Begins to bring bytes [first, first + count) to `to`, where byte `first` belongs; what the stream is given after fetched comes after them. One fetch at a time. */
tdm_status tdm_standby_fetch(tdm_standby *t, tdm_stream *s, void *to, size_t first, size_t count, tdm_error *err);
tdm_status tdm_standby_fetched(tdm_standby *t, tdm_stream *s, tdm_error *err);

#endif
