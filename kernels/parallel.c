/* Everything the host does on several threads passes here. */
#include "kernels/parallel.h"

#include <omp.h>
#include <stdatomic.h>

/* libgomp is not built for ThreadSanitizer, which therefore misses that the fork orders what came before it and the join what
 * comes after. These two calls say so; only our own races remain to be reported. */
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define ORDER_ACQUIRE(p) __tsan_acquire(p)
#define ORDER_RELEASE(p) __tsan_release(p)
#define UNTRACKED __attribute__((no_sanitize_thread))
#else
#define ORDER_ACQUIRE(p) ((void)(p))
#define ORDER_RELEASE(p) ((void)(p))
#define UNTRACKED
#endif

/* Pieces a thread gets on average: enough to even out threads that the machine slows down, few enough to cost nothing. */
enum { PIECES_PER_THREAD = 32 };

typedef struct region {
    atomic_llong next;
    int64_t items, piece;
    tdm_parallel_fn *fn;
    void *ctx;
} region;

static void region_work(region *r, int thread)
{
    for (;;) {
        const int64_t first = atomic_fetch_add_explicit(&r->next, r->piece, memory_order_relaxed);
        if (first >= r->items) return;
        r->fn(r->ctx, first, tdm_min_i64(first + r->piece, r->items), thread);
    }
}

/* Apart, and untracked: the compiler's own hand-over of `r` to the team happens before the first acquire can. */
UNTRACKED static void region_run(region *r, int threads)
{
    ORDER_RELEASE(r);
#pragma omp parallel num_threads(threads)
    {
        ORDER_ACQUIRE(r);
        region_work(r, omp_get_thread_num());
        ORDER_RELEASE(r);
    }
    ORDER_ACQUIRE(r);
}

void tdm_parallel(int threads, int64_t items, int64_t grain, tdm_parallel_fn *fn, void *ctx)
{
    TDM_ASSERT(threads > 0);
    if (items <= 0) return;
    const int64_t even = tdm_ceil_div(items, (int64_t)threads * PIECES_PER_THREAD);
    const int64_t piece = tdm_max_i64(tdm_max_i64(grain, 1), even);
    const int64_t pieces = tdm_ceil_div(items, piece);
    const int team = (int)tdm_min_i64(threads, pieces);
    if (team <= 1) {
        fn(ctx, 0, items, 0);
        return;
    }
    region r = {.items = items, .piece = piece, .fn = fn, .ctx = ctx};
    atomic_init(&r.next, 0);
    region_run(&r, team);
}

int tdm_threads(int threads) { return threads > 0 ? threads : omp_get_max_threads(); }
