/* Fork and join on the host: what the CPU backend's operations and the loader of weights spread over threads with. */
#ifndef TANDEM_KERNELS_PARALLEL_H
#define TANDEM_KERNELS_PARALLEL_H

#include "kernels/base.h"

/* One piece of the work: items [first, last), on thread `thread` of those asked for (which names its scratch). */
typedef void tdm_parallel_fn(void *ctx, int64_t first, int64_t last, int thread);

/* Runs fn over items [0, items) in pieces of at least `grain` items (the last may be smaller), each piece once, on any of `threads`
 * threads and in any order: what an item computes must not depend on its piece. Runs on the calling thread alone when there is one
 * piece, so `grain` should be worth about 10 us of work. Returns when all is done. items 0: nothing happens. */
void tdm_parallel(int threads, int64_t items, int64_t grain, tdm_parallel_fn *fn, void *ctx);

/* threads 0: as many as the process may use (OMP_NUM_THREADS, affinity). */
int tdm_threads(int threads);

#endif
