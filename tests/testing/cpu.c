#include "testing/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

size_t test_cpu_backends(const tdm_backend *list[TEST_CPU_MOST])
{
    static const char *const names[TEST_CPU_MOST] = {"portable", "avx2", "avx512"};
    size_t n = 0;
    for (size_t i = 0; i < TDM_COUNT(names); i++)
        if (tdm_backend_cpu(names[i], &list[n], NULL) == TDM_OK) n++;
    assert_true(n >= 1);
    return n;
}

test_cpu_stream test_cpu_open(const tdm_backend *be, const tdm_limits *limits, int threads)
{
    test_cpu_stream c = {.be = be};
    const size_t bytes = be->workspace_bytes(limits, threads);
    c.workspace = aligned_alloc(64, tdm_align_up(bytes, 64));
    assert_non_null(c.workspace);
    memset(c.workspace, 0xff, tdm_align_up(bytes, 64)); /* NaN to whoever reads before writing */
    const tdm_stream_options o = {.threads = threads};
    assert_int_equal(be->stream_open(&c.s, c.workspace, bytes, &o, NULL), TDM_OK);
    return c;
}

void test_cpu_close(test_cpu_stream *c)
{
    c->be->stream_close(c->s);
    free(c->workspace);
}

float test_noise(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return ((float)(*seed >> 8) - 8388607.5f) / 8388608.0f;
}

uint16_t *test_noise_bf16(int64_t rows, int64_t stride, uint32_t seed)
{
    uint16_t *p = malloc((size_t)(rows * stride + 1) * sizeof *p);
    assert_non_null(p);
    for (int64_t i = 0; i < rows * stride; i++) p[i] = tdm_f32_to_bf16(test_noise(&seed));
    return p;
}
