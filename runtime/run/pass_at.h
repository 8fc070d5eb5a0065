/* pass@k (Chen et al. 2021, arXiv:2107.03374, eq. 1). */
#ifndef TANDEM_RUNTIME_RUN_PASS_AT_H
#define TANDEM_RUNTIME_RUN_PASS_AT_H

#include "kernels/base.h"

/* The unbiased estimate of the chance that at least one of k completions is right, from n of which c are: 1 - C(n - c, k) / C(n, k), as
 * the product that the paper's listing has, so that nothing overflows. 1 <= k <= n, 0 <= c <= n. */
static inline double tdm_pass_at(int64_t n, int64_t c, int64_t k)
{
    double none = 1.0;
    TDM_ASSERT(1 <= k && k <= n && 0 <= c && c <= n);
    if (n - c < k) return 1.0;
    for (int64_t i = n - c + 1; i <= n; i++) none *= 1.0 - (double)k / (double)i;
    return 1.0 - none;
}

#endif
