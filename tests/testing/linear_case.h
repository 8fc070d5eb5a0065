/* Operands of one linear, random or from the goldens, shared by the tests of forward and backward. */
#ifndef TANDEM_TESTS_LINEAR_CASE_H
#define TANDEM_TESTS_LINEAR_CASE_H

#include "testing/arrays.h"
#include "testing/backend.h"

/* Every buffer is the case's own; rows have a gap between them. */
typedef struct test_linear_case {
    int64_t t, n, k, r; /* r 0: no adapter */
    tdm_weight w;
    tdm_cview x, dy, a, b, bias;
    void *own[8];
    size_t own_n;
} test_linear_case;

test_linear_case test_linear_random(int64_t t, int64_t n, int64_t k, int64_t r, tdm_scheme scheme, tdm_act_quant act, uint32_t seed);
void test_linear_free(test_linear_case *c);

/* y (and h, when not NULL) of rows [first, first + count) of the case. */
void test_linear_run(const tdm_backend *be, int threads, const test_linear_case *c, int64_t first, int64_t count, tdm_view y,
                     tdm_view h, bool accumulate);

#endif
