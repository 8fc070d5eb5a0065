/* Where the time of a step goes: a table of operations around the backend's own that times each call. */
#ifndef TANDEM_RUNTIME_CMD_BENCH_OPS_H
#define TANDEM_RUNTIME_CMD_BENCH_OPS_H

#include "kernels/ops.h"

/* A table that runs `real`'s operations one at a time: the stream is empty before and after each, so the sum is an upper bound of the
 * step's time and recorded graphs are off. What an empty call takes, `stream` and `word` (4 bytes of the backend's memory) tell by trying,
 * is taken off. One table at a time; `real` and `stream` are borrowed. */
tdm_status tdm_bench_ops_open(const tdm_backend *real, tdm_stream *stream, void *word, const tdm_backend **table, tdm_error *err);
/* Forgets what was timed so far. */
void tdm_bench_ops_reset(void);
/* One JSON line an operation and shape, the slowest first: calls, milliseconds, share of all, and for products FLOPs and bytes over the
 * machine's ceilings. */
void tdm_bench_ops_print(double gflops, double gbps);

#endif
