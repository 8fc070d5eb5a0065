#include "kernels/cpu/stream.h"

#include <stdlib.h>
#include <string.h>

tdm_status tdm_cpu_stream_open(tdm_stream **s, void *workspace, size_t workspace_bytes, const tdm_stream_options *o, tdm_error *err)
{
    TDM_ASSERT((uintptr_t)workspace % 64 == 0);
    tdm_stream *made = malloc(sizeof *made);
    if (!made) return TDM_FAIL(err, TDM_ERR_OTHER, "", "", "out of host memory for a stream");
    *made = (tdm_stream){tdm_threads(o->threads), workspace, workspace_bytes};
    *s = made;
    return TDM_OK;
}

void tdm_cpu_stream_close(tdm_stream *s) { free(s); }

/* Operations return when they are done. */
tdm_status tdm_cpu_stream_sync(tdm_stream *s, tdm_error *err)
{
    (void)s;
    (void)err;
    return TDM_OK;
}

/* Nothing runs beside the caller: the copy is made at once. */
tdm_status tdm_cpu_side_copy(tdm_stream *s, int slot, void *dst, const void *src, size_t bytes, tdm_error *err)
{
    (void)s;
    (void)err;
    TDM_ASSERT(slot >= 0 && slot < TDM_SIDE_SLOTS);
    memcpy(dst, src, bytes);
    return TDM_OK;
}

tdm_status tdm_cpu_side_join(tdm_stream *s, int slot, tdm_error *err)
{
    (void)s;
    (void)slot;
    (void)err;
    return TDM_OK;
}
