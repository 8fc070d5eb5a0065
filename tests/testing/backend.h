/* The backends that this machine can run, streams on them with a workspace of exactly the size asked for, and arrays in their memory.
 *
 * A test fills host arrays, lends them to a stream (test_in, test_out and their kin) and passes what it got back to the operations.
 * Where the backend's memory is the host's these are the same arrays; on a device they are copies, strides and guard bytes included,
 * and test_sync brings back those lent for writing. Nothing of a test knows which of the two it runs on. */
#ifndef TANDEM_TESTS_BACKEND_H
#define TANDEM_TESTS_BACKEND_H

#include "kernels/ops.h"

enum { TEST_BACKENDS_MOST = 4 };
/* The CPU's instruction sets, portable first, then CUDA where build and machine have it; returns how many. $TANDEM_TEST_BACKENDS
 * narrows them to "cpu" or "cuda"; a run narrowed to a device that is not there ends as skipped (77). */
size_t test_backends(const tdm_backend *list[TEST_BACKENDS_MOST]);
/* The CPU backend that the others are compared with, whatever is narrowed. */
const tdm_backend *test_reference(void);

/* Fails the test with the error's words. */
#define TEST_OK(call)                                                                                                                \
    do {                                                                                                                             \
        tdm_error test_err_ = {0};                                                                                                   \
        tdm_error *err = &test_err_;                                                                                                 \
        if ((call) != TDM_OK) {                                                                                                      \
            tdm_error_print(err);                                                                                                    \
            fail_msg("%s", #call);                                                                                                   \
        }                                                                                                                            \
    } while (0)

enum { TEST_LENT_MOST = 48 };
typedef struct test_lent {
    void *device, *host; /* host NULL: only read */
    size_t bytes;
} test_lent;
typedef struct test_stream {
    const tdm_backend *be;
    tdm_stream *s;
    void *workspace;
    size_t workspace_bytes;
    test_lent lent[TEST_LENT_MOST];
    size_t lent_n;
} test_stream;
/* Exact kernels only, or whatever the backend finds fastest. */
test_stream test_stream_open(const tdm_backend *be, const tdm_limits *limits, int threads);
test_stream test_stream_open_fast(const tdm_backend *be, const tdm_limits *limits, int threads);
/* Waits for the stream and copies what was lent for writing back to where it came from. */
void test_sync(test_stream *t);
/* test_sync, then what was lent since lent_n was `lent` ends. */
void test_stream_return(test_stream *t, size_t lent);
/* test_sync, then all that was lent ends. */
void test_stream_close(test_stream *t);

/* `bytes` host bytes (NULL where there are none) in the backend's memory, until close. */
const void *test_in_bytes(test_stream *t, const void *host, size_t bytes);
void *test_out_bytes(test_stream *t, void *host, size_t bytes);
/* The same for a view; absent stays absent. A view lent for writing is whole rows (to the stride) and arrives as the host has it. */
tdm_cview test_in(test_stream *t, tdm_cview host);
tdm_view test_out(test_stream *t, tdm_view host);
static inline const int32_t *test_in_i32(test_stream *t, const int32_t *host, int64_t n)
{
    return test_in_bytes(t, host, (size_t)n * sizeof *host);
}
/* A weight's arrays. */
tdm_weight test_in_weight(test_stream *t, const tdm_weight *host);
/* Memory of the backend's own, every byte 0xff (NaN to whoever reads before writing); until close. */
void *test_scratch(test_stream *t, size_t bytes);

/* Numbers in (-1, 1), the same for the same seed. */
float test_noise(uint32_t *seed);
/* [rows, stride] bf16 noise; the caller's (free). */
uint16_t *test_noise_bf16(int64_t rows, int64_t stride, uint32_t seed);

#endif
