/* Where a CPU operation runs: a number of threads and the workspace its operations scribble in. */
#ifndef TANDEM_KERNELS_CPU_STREAM_H
#define TANDEM_KERNELS_CPU_STREAM_H

#include "kernels/ops.h"

/*   created    stream_open            released  stream_close
 *   workspace  lent by the caller until close; nothing in it survives an operation
 *   threads    one operation at a time; the operation itself spreads over `threads` */
struct tdm_stream {
    int threads;
    char *workspace; /* 64-byte aligned */
    size_t workspace_bytes;
};

/* One piece of an operation: items [first, last), on thread `thread` of stream->threads (which names its scratch slice). */
typedef void tdm_cpu_fn(void *ctx, int64_t first, int64_t last, int thread);

/* Runs fn over items [0, items) in pieces of at least `grain` items (the last may be smaller), each piece once, on any thread and
 * in any order: what an item computes must not depend on its piece. Runs on the calling thread alone when there is one piece, so
 * `grain` should be worth about 10 us of work. Returns when all is done. The only place where the CPU backend starts threads.
 * items 0: nothing happens. */
void tdm_cpu_parallel(const tdm_stream *s, int64_t items, int64_t grain, tdm_cpu_fn *fn, void *ctx);

/* threads 0: as many as the process may use (OMP_NUM_THREADS, affinity). */
int tdm_cpu_threads(int threads);

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
