/* Where a CPU operation runs: a number of threads and the workspace its operations scribble in. */
#ifndef TANDEM_KERNELS_CPU_STREAM_H
#define TANDEM_KERNELS_CPU_STREAM_H

#include "kernels/ops.h"
#include "kernels/parallel.h"

/*   created    stream_open            released  stream_close
 *   workspace  lent by the caller until close; nothing in it survives an operation
 *   threads    one operation at a time; the operation itself spreads over `threads` */
struct tdm_stream {
    int threads;
    char *workspace; /* 64-byte aligned */
    size_t workspace_bytes;
};

/* tdm_parallel over the stream's threads; `thread` names a slice of its scratch. */
static inline void tdm_cpu_parallel(const tdm_stream *s, int64_t items, int64_t grain, tdm_parallel_fn *fn, void *ctx)
{
    tdm_parallel(s->threads, items, grain, fn, ctx);
}

tdm_status tdm_cpu_stream_open(tdm_stream **s, void *workspace, size_t workspace_bytes, const tdm_stream_options *o, tdm_error *err);
void tdm_cpu_stream_close(tdm_stream *s);
tdm_status tdm_cpu_stream_sync(tdm_stream *s, tdm_error *err);
tdm_status tdm_cpu_side_copy(tdm_stream *s, int slot, void *dst, const void *src, size_t bytes, tdm_error *err);
tdm_status tdm_cpu_side_join(tdm_stream *s, int slot, tdm_error *err);

/* Memory of the CPU backend: anonymous pages, touched at once so that a budget is spent when it is planned; copies are memcpy. */
tdm_status tdm_cpu_memory_open(void **base, size_t bytes, tdm_error *err);
void tdm_cpu_memory_close(void *base, size_t bytes);
tdm_status tdm_cpu_copy(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err);
tdm_status tdm_cpu_no_bytes(size_t *bytes, tdm_error *err);

/* An operation's layout of the workspace: `shared` bytes at its beginning, then one slice of `slice` bytes per thread. */
static inline size_t tdm_cpu_scratch_bytes(size_t shared, size_t slice, int threads)
{
    return tdm_align_up(shared, 64) + (size_t)threads * tdm_align_up(slice, 64);
}
/* The shared part, after checking that the whole layout fits: a workspace smaller than workspace_bytes said is our own bug. */
static inline void *tdm_cpu_scratch_shared(const tdm_stream *s, size_t shared, size_t slice)
{
    TDM_ASSERT(tdm_cpu_scratch_bytes(shared, slice, s->threads) <= s->workspace_bytes);
    return s->workspace;
}
/* Thread's slice of the same layout. */
static inline void *tdm_cpu_scratch_slice(const tdm_stream *s, size_t shared, size_t slice, int thread)
{
    TDM_ASSERT(thread >= 0 && thread < s->threads);
    TDM_ASSERT(tdm_cpu_scratch_bytes(shared, slice, s->threads) <= s->workspace_bytes);
    return s->workspace + tdm_align_up(shared, 64) + (size_t)thread * tdm_align_up(slice, 64);
}

#endif
