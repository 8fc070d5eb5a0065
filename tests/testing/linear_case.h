/* Operands of one linear, random or from the goldens, shared by the tests of forward and backward. */
#ifndef TANDEM_TESTS_LINEAR_CASE_H
#define TANDEM_TESTS_LINEAR_CASE_H

#include "testing/cpu.h"

/* Every buffer is the case's own; strides are cols + GUARD, and what stands between is GUARD_BYTE. */
enum { TEST_GUARD = 3, TEST_GUARD_BYTE = 0x5a };

typedef struct test_linear_case {
    int64_t t, n, k, r; /* r 0: no adapter */
    tdm_weight w;
    tdm_cview x, dy, a, b, bias;
    void *own[8];
    size_t own_n;
} test_linear_case;

test_linear_case test_linear_random(int64_t t, int64_t n, int64_t k, int64_t r, tdm_scheme scheme, tdm_act_quant act, uint32_t seed);
void test_linear_free(test_linear_case *c);

/* A guarded buffer for results; the caller's (free). */
tdm_view test_guarded(int64_t rows, int64_t cols, tdm_dtype dtype);
/* Fails where a byte between cols and stride changed. */
void test_guard_check(const char *what, tdm_view v);
/* Fails at the first element that differs in a bit. */
void test_same_bits(const char *what, tdm_cview got, tdm_cview want);
float test_view_at(tdm_cview v, int64_t row, int64_t col);

/* y (and h, when not NULL) of rows [first, first + count) of the case. */
void test_linear_run(const tdm_backend *be, int threads, const test_linear_case *c, int64_t first, int64_t count, tdm_view y,
                     tdm_view h, bool accumulate);

#endif
