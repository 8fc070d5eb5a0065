#include "testing/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

size_t test_backends(const tdm_backend *list[TEST_BACKENDS_MOST])
{
    static const char *const names[] = {"portable", "avx2", "avx512"};
    static bool told;
    const char *only = getenv("TANDEM_TEST_BACKENDS");
    const bool cpu = !only || strcmp(only, "cuda") != 0, cuda = !only || strcmp(only, "cpu") != 0;
    tdm_error err = {0};
    size_t n = 0;
    for (size_t i = 0; cpu && i < TDM_COUNT(names); i++)
        if (tdm_backend_cpu(names[i], &list[n], NULL) == TDM_OK) n++;
    if (cuda) {
        if (tdm_backend_cuda(NULL, &list[n], &err) == TDM_OK) {
            n++;
        } else if (!told) {
            printf("skipped: no device (%s)\n", err.what);
            told = true;
        }
    }
    if (n == 0) exit(77);
    return n;
}

const tdm_backend *test_reference(void)
{
    const tdm_backend *be = NULL;
    assert_int_equal(tdm_backend_cpu("portable", &be, NULL), TDM_OK);
    return be;
}

/* A device's workspace may be large: its head is enough to find a read before a write. */
static void fill(test_stream *t, void *at, size_t bytes)
{
    if (!t->be->device) {
        memset(at, 0xff, bytes);
        return;
    }
    const size_t n = bytes < (1u << 20) ? bytes : 1u << 20;
    void *ones = malloc(n + 1);
    assert_non_null(ones);
    memset(ones, 0xff, n);
    TEST_OK(t->be->upload(t->s, at, ones, n, err));
    TEST_OK(t->be->stream_sync(t->s, err));
    free(ones);
}

static test_stream stream_open(const tdm_backend *be, const tdm_limits *limits, int threads, bool exact)
{
    test_stream t = {.be = be, .workspace_bytes = be->workspace_bytes(limits, threads)};
    const tdm_stream_options o = {.threads = threads, .exact = exact};
    if (be->device) {
        TEST_OK(be->memory_open(&t.workspace, t.workspace_bytes + 64, err));
    } else {
        /* On the heap and no longer than asked for, so that a sanitizer sees who writes past its end. */
        t.workspace = aligned_alloc(64, tdm_align_up(t.workspace_bytes + !t.workspace_bytes, 64));
        assert_non_null(t.workspace);
    }
    TEST_OK(be->stream_open(&t.s, t.workspace, t.workspace_bytes, &o, err));
    fill(&t, t.workspace, t.workspace_bytes);
    return t;
}

test_stream test_stream_open(const tdm_backend *be, const tdm_limits *limits, int threads) { return stream_open(be, limits, threads, true); }

test_stream test_stream_open_fast(const tdm_backend *be, const tdm_limits *limits, int threads)
{
    return stream_open(be, limits, threads, false);
}

void test_sync(test_stream *t)
{
    TEST_OK(t->be->stream_sync(t->s, err));
    for (size_t i = 0; i < t->lent_n; i++)
        if (t->lent[i].host) TEST_OK(t->be->download(t->s, t->lent[i].host, t->lent[i].device, t->lent[i].bytes, err));
    TEST_OK(t->be->stream_sync(t->s, err));
}

void test_stream_return(test_stream *t, size_t lent)
{
    test_sync(t);
    while (t->lent_n > lent) {
        const test_lent *l = &t->lent[--t->lent_n];
        if (t->be->device) t->be->memory_close(l->device, l->bytes + 64);
        else free(l->device); /* only test_scratch's stand in a host's list */
    }
}

void test_stream_close(test_stream *t)
{
    test_stream_return(t, 0);
    t->be->stream_close(t->s);
    if (t->be->device) t->be->memory_close(t->workspace, t->workspace_bytes + 64);
    else free(t->workspace);
}

static void *lend(test_stream *t, const void *host, size_t bytes, bool writes)
{
    if (!host || !t->be->device) return (void *)(uintptr_t)host;
    test_lent *l = &t->lent[t->lent_n++];
    assert_true(t->lent_n <= TEST_LENT_MOST);
    *l = (test_lent){.host = writes ? (void *)(uintptr_t)host : NULL, .bytes = bytes};
    TEST_OK(t->be->memory_open(&l->device, bytes + 64, err));
    TEST_OK(t->be->upload(t->s, l->device, host, bytes, err));
    return l->device;
}

const void *test_in_bytes(test_stream *t, const void *host, size_t bytes) { return lend(t, host, bytes, false); }
void *test_out_bytes(test_stream *t, void *host, size_t bytes) { return lend(t, host, bytes, true); }

/* To the last column of the last row: behind it a view may end. Results are guarded arrays, whose last guard comes along. */
static size_t view_bytes(int64_t rows, int64_t cols, int64_t stride, tdm_dtype dtype)
{
    return rows > 0 ? (size_t)((rows - 1) * stride + cols) * tdm_dtype_bytes(dtype) : 0;
}

tdm_cview test_in(test_stream *t, tdm_cview v)
{
    v.data = lend(t, v.data, view_bytes(v.rows, v.cols, v.stride, v.dtype), false);
    return v;
}

tdm_view test_out(test_stream *t, tdm_view v)
{
    v.data = lend(t, v.data, view_bytes(v.rows, v.stride, v.stride, v.dtype), true);
    return v;
}

tdm_weight test_in_weight(test_stream *t, const tdm_weight *host)
{
    tdm_weight w = *host;
    w.codes = test_in(t, w.codes);
    w.scale = test_in(t, w.scale);
    w.bias = test_in(t, w.bias);
    return w;
}

void *test_scratch(test_stream *t, size_t bytes)
{
    test_lent *l = &t->lent[t->lent_n++];
    assert_true(t->lent_n <= TEST_LENT_MOST);
    *l = (test_lent){.bytes = bytes};
    if (t->be->device) {
        TEST_OK(t->be->memory_open(&l->device, bytes + 64, err));
    } else {
        l->device = aligned_alloc(64, tdm_align_up(bytes + !bytes, 64));
        assert_non_null(l->device);
    }
    fill(t, l->device, bytes);
    return l->device;
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
