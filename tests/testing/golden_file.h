/* Golden tensors in the record format of tests/golden/make_kernels_linear.py. Any failure to find or read one fails the test. */
#ifndef TANDEM_TESTS_GOLDEN_FILE_H
#define TANDEM_TESTS_GOLDEN_FILE_H

#include "kernels/ops.h"

typedef struct test_goldens test_goldens;

test_goldens *test_goldens_open(const char *path);
void test_goldens_close(test_goldens *g);
/* The record named by the format, borrowed until close; aligned for its dtype. */
tdm_cview test_golden(const test_goldens *g, const char *format, ...) TDM_PRINTF(2, 3);

#endif
