/* What every test of an operation beside linear opens: its goldens and the backends. Header-only: state of one executable. */
#ifndef TANDEM_TESTS_OPS_CASE_H
#define TANDEM_TESTS_OPS_CASE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testing/arrays.h"
#include "testing/backend.h"
#include "testing/golden_file.h"

static test_goldens *goldens;
static const tdm_backend *backends[TEST_BACKENDS_MOST];
static size_t backends_n;

static inline int ops_open(void **state)
{
    (void)state;
    goldens = test_goldens_open("tests/golden/data/kernels/ops.bin");
    backends_n = test_backends(backends);
    return 0;
}
static inline int ops_close(void **state)
{
    (void)state;
    test_goldens_close(goldens);
    return 0;
}

/* Only distributions and sums take a workspace here; attention sizes its own. A small one is quickly filled with NaN. */
static const tdm_limits ops_limits = {.tokens = 1024, .width = 64, .vocab = 2051, .head_rows = 64, .heads = 1, .head_dim = 64, .rank = 1, .context = 1};
static const tdm_cview ops_absent = {0};

#define OPS_EACH_BACKEND(be) for (size_t be##_i = 0; be##_i < backends_n; be##_i++) for (const tdm_backend *be = backends[be##_i]; be; be = NULL)
#define OPS_TESTS(tests) cmocka_run_group_tests(tests, ops_open, ops_close)

#endif
