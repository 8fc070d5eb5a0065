/* labels: unit
 * timeout: 300
 * linear and linear_backward of streams that are not exact, in the shapes a device has other kernels for, beside the reference: the
 * norm of the difference stays at what rounding weights and results to bf16 makes. */
#include "testing/linear_case.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const tdm_backend *backends[TEST_BACKENDS_MOST];
static size_t backends_n;

static int open_backends(void **state)
{
    (void)state;
    backends_n = test_backends(backends);
    return 0;
}

/* A matrix whose rows follow one another without a gap, so that every row of 16 bytes or more is aligned; the caller's. */
static tdm_view dense(int64_t rows, int64_t cols, tdm_dtype dtype)
{
    void *data = aligned_alloc(64, tdm_align_up((size_t)(rows * cols) * tdm_dtype_bytes(dtype) + 1, 64));
    assert_non_null(data);
    return tdm_view_make(data, dtype, rows, cols);
}
static tdm_cview dense_copy(tdm_cview v)
{
    const tdm_view d = dense(v.rows, v.cols, v.dtype);
    const size_t bytes = tdm_dtype_bytes(v.dtype), row = (size_t)v.cols * bytes;
    for (int64_t i = 0; i < v.rows; i++)
        memcpy((char *)d.data + (size_t)i * row, (const char *)v.data + (size_t)(i * v.stride) * bytes, row);
    return tdm_view_const(d);
}

enum { Y, H, Y_ADDED, DX, SIDE, DH, GRAD_A, GRAD_B, RESULTS };
static const char *const result_names[RESULTS] = {"y", "h", "y +=", "dx +=", "side", "dh", "grad_a", "grad_b"};
typedef struct results {
    tdm_view v[RESULTS];
} results;

static results results_new(const test_linear_case *c)
{
    results r = {{dense(c->t, c->n, TDM_DTYPE_BF16), dense(c->t, c->r, TDM_DTYPE_BF16), dense(c->t, c->n, TDM_DTYPE_F32),
                  dense(c->t, c->k, TDM_DTYPE_F32), dense(c->t, c->k, TDM_DTYPE_F32), dense(c->t, c->r, TDM_DTYPE_BF16),
                  dense(c->r, c->k, TDM_DTYPE_F32), dense(c->n, c->r, TDM_DTYPE_F32)}};
    for (int i = 0; i < RESULTS; i++) /* where a result is added, it is added to these */
        for (int64_t j = 0; j < r.v[i].rows * r.v[i].cols; j++) {
            if (r.v[i].dtype == TDM_DTYPE_F32) ((float *)r.v[i].data)[j] = (float)(j % 7) - 3.0f;
            else ((uint16_t *)r.v[i].data)[j] = 0;
        }
    return r;
}

/* The limits name K alone as the width: a tall weight then passes through the workspace in parts. */
static void run(const tdm_backend *be, const test_linear_case *c, const tdm_cview in[6], results *r)
{
    const tdm_limits limits = {.tokens = c->t, .width = c->k, .vocab = c->n, .head_rows = c->t, .heads = 1,
                               .head_dim = 64, .rank = c->r, .context = 1};
    const int64_t blocks = tdm_ceil_div(c->k, 128);
    const tdm_scheme scheme = c->w.scheme;
    test_stream s = test_stream_open_fast(be, &limits, 2);
    tdm_weight host = c->w;
    host.codes = in[0];
    const tdm_weight w = test_in_weight(&s, &host);
    const tdm_cview x = test_in(&s, in[1]), dy = test_in(&s, in[2]), a = test_in(&s, in[3]), b = test_in(&s, in[4]);
    const tdm_view h = test_out(&s, r->v[H]);
    const tdm_quantize_act q = {.codes = {test_scratch(&s, (size_t)(c->t * c->k)), TDM_DTYPE_E4M3, c->t, c->k, c->k},
                                .scale = {test_scratch(&s, (size_t)(c->t * blocks + 1) * 4), TDM_DTYPE_F32,
                                          scheme == TDM_SCHEME_FP8_TENSOR ? 1 : c->t, scheme == TDM_SCHEME_FP8_BLOCK ? blocks : 1,
                                          scheme == TDM_SCHEME_FP8_BLOCK ? blocks : 1},
                                .x = x, .scheme = scheme, .act = w.act, .input_scale = w.input_scale};
    if (w.act != TDM_ACT_NONE) TEST_OK(be->quantize_act(s.s, &q, err));
    tdm_linear l = {.y = test_out(&s, r->v[Y]), .x = x, .w = &w, .lora_a = a, .lora_b = b, .lora_h = h, .lora_scale = 0.7f};
    if (w.act != TDM_ACT_NONE) l.xq = tdm_view_const(q.codes), l.xs = tdm_view_const(q.scale);
    TEST_OK(be->linear(s.s, &l, err));
    l.y = test_out(&s, r->v[Y_ADDED]);
    l.accumulate = true;
    TEST_OK(be->linear(s.s, &l, err));
    tdm_linear_backward g = {.dx = test_out(&s, r->v[DX]), .accumulate = true, .dy = dy, .x = x, .h = tdm_view_const(h), .w = &w,
                             .lora_a = a, .lora_b = b, .lora_dh = test_out(&s, r->v[DH]), .grad_a = test_out(&s, r->v[GRAD_A]),
                             .grad_b = test_out(&s, r->v[GRAD_B]), .lora_scale = 0.7f};
    TEST_OK(be->linear_backward(s.s, &g, err));
    g.lora_dx = test_out(&s, r->v[SIDE]);
    g.grad_a = g.grad_b = (tdm_view){0};
    TEST_OK(be->linear_backward(s.s, &g, err));
    test_stream_close(&s);
}

static double distance(tdm_cview got, tdm_cview want)
{
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < got.rows; i++)
        for (int64_t j = 0; j < got.cols; j++) {
            const double y = (double)test_view_at(got, i, j), ref = (double)test_view_at(want, i, j);
            difference += (y - ref) * (y - ref);
            norm += ref * ref;
        }
    return sqrt(difference / norm);
}

/* Whole tiles; a number of rows that no tile divides; columns that no block of 128 divides; a weight that passes in parts. */
static const struct { int64_t t, n, k, r; } shapes[] = {
    {256, 256, 512, 16}, {301, 384, 640, 8}, {283, 272, 336, 16}, {259, 16400, 256, 32}, {300, 100, 90, 3},
};

static void check(tdm_scheme scheme, tdm_act_quant act, size_t shape)
{
    test_linear_case c = test_linear_random(shapes[shape].t, shapes[shape].n, shapes[shape].k, shapes[shape].r, scheme, act, 31);
    const tdm_cview in[6] = {dense_copy(c.w.codes), dense_copy(c.x), dense_copy(c.dy), dense_copy(c.a), dense_copy(c.b)};
    results want = results_new(&c);
    run(test_reference(), &c, in, &want);
    for (size_t i = 0; i < backends_n; i++) {
        results got = results_new(&c);
        run(backends[i], &c, in, &got);
        for (int v = 0; v < RESULTS; v++) {
            const double d = distance(tdm_view_const(got.v[v]), tdm_view_const(want.v[v]));
            if (!(d <= 0x1p-7))
                fail_msg("%s scheme %d act %d [%lld, %lld, %lld] %s: norm of the difference is %.3g", backends[i]->name, (int)scheme,
                         (int)act, (long long)c.t, (long long)c.n, (long long)c.k, result_names[v], d);
            free(got.v[v].data);
        }
    }
    for (int v = 0; v < RESULTS; v++) free(want.v[v].data);
    for (int i = 0; i < 5; i++) free((void *)(uintptr_t)in[i].data);
    test_linear_free(&c);
}

static void fast_is_near_the_reference(void **state)
{
    (void)state;
    /* Codes do not pass in parts: the tall weight meets bf16 alone. */
    for (size_t shape = 0; shape < TDM_COUNT(shapes); shape++)
        for (int scheme = 0; scheme <= 3; scheme++)
            for (int act = 0; act <= (scheme ? 2 : 0); act++)
                if (act == 0 || shapes[shape].n < 10000) check((tdm_scheme)scheme, (tdm_act_quant)act, shape);
}

int main(void)
{
    const tdm_backend *cuda = NULL;
    if (tdm_backend_cuda(NULL, &cuda, NULL) != TDM_OK) { /* the CPU's kernels are the same in either mode */
        printf("skipped: no device\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(fast_is_near_the_reference)};
    return cmocka_run_group_tests(tests, open_backends, NULL);
}
