/* The CPU backends that this machine can run, and streams on them with a workspace of exactly the size asked for. */
#ifndef TANDEM_TESTS_CPU_H
#define TANDEM_TESTS_CPU_H

#include "kernels/ops.h"

enum { TEST_CPU_MOST = 3 };
/* portable first; returns how many. */
size_t test_cpu_backends(const tdm_backend *list[TEST_CPU_MOST]);

typedef struct test_cpu_stream {
    const tdm_backend *be;
    tdm_stream *s;
    void *workspace;
} test_cpu_stream;
test_cpu_stream test_cpu_open(const tdm_backend *be, const tdm_limits *limits, int threads);
void test_cpu_close(test_cpu_stream *c);

/* Numbers in (-1, 1), the same for the same seed. */
float test_noise(uint32_t *seed);
/* [rows, stride] bf16 noise; the caller's (free). */
uint16_t *test_noise_bf16(int64_t rows, int64_t stride, uint32_t seed);

#endif
