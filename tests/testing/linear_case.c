#include "testing/linear_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void *own(test_linear_case *c, void *p)
{
    assert_non_null(p);
    assert_true(c->own_n < TDM_COUNT(c->own));
    return c->own[c->own_n++] = p;
}

static tdm_cview noise(test_linear_case *c, int64_t rows, int64_t cols, uint32_t seed)
{
    const int64_t stride = cols + TEST_GUARD;
    return (tdm_cview){own(c, test_noise_bf16(rows, stride, seed)), TDM_DTYPE_BF16, rows, cols, stride};
}

static void make_codes(test_linear_case *c, tdm_scheme scheme, uint32_t seed)
{
    const int64_t n = c->n, k = c->k, blocks = tdm_ceil_div(k, 128), stride = k + TEST_GUARD;
    float *w = malloc((size_t)(n * k) * 4);
    uint8_t *dense = malloc((size_t)(n * k)), *codes = own(c, calloc((size_t)(n * stride), 1));
    float *scale = own(c, malloc((size_t)(n * blocks) * 4));
    assert_non_null(w);
    assert_non_null(dense);
    for (int64_t i = 0; i < n * k; i++) w[i] = test_noise(&seed);
    tdm_quantize_weight(dense, scale, w, n, k, scheme, false, 1.0f);
    for (int64_t i = 0; i < n; i++) memcpy(codes + i * stride, dense + i * k, (size_t)k);
    c->w.codes = (tdm_cview){codes, TDM_DTYPE_E4M3, n, k, stride};
    c->w.scale = scheme == TDM_SCHEME_FP8_TENSOR    ? (tdm_cview){scale, TDM_DTYPE_F32, 1, 1, 1}
                 : scheme == TDM_SCHEME_FP8_CHANNEL ? (tdm_cview){scale, TDM_DTYPE_F32, n, 1, 1}
                                                    : (tdm_cview){scale, TDM_DTYPE_F32, tdm_ceil_div(n, 128), blocks, blocks};
    free(w);
    free(dense);
}

test_linear_case test_linear_random(int64_t t, int64_t n, int64_t k, int64_t r, tdm_scheme scheme, tdm_act_quant act, uint32_t seed)
{
    test_linear_case c = {.t = t, .n = n, .k = k, .r = r, .w = {.scheme = scheme, .act = act, .input_scale = 0.003f}};
    c.x = noise(&c, t, k, seed + 1);
    c.dy = noise(&c, t, n, seed + 2);
    if (r) {
        c.a = noise(&c, r, k, seed + 3);
        c.b = noise(&c, n, r, seed + 4);
    }
    c.bias = noise(&c, 1, n, seed + 5);
    c.w.bias = c.bias;
    if (scheme == TDM_SCHEME_BF16)
        c.w.codes = noise(&c, n, k, seed + 6);
    else
        make_codes(&c, scheme, seed + 7);
    return c;
}

void test_linear_free(test_linear_case *c)
{
    while (c->own_n) free(c->own[--c->own_n]);
}

tdm_view test_guarded(int64_t rows, int64_t cols, tdm_dtype dtype)
{
    const int64_t stride = cols + TEST_GUARD;
    const size_t bytes = (size_t)(rows * stride) * tdm_dtype_bytes(dtype);
    void *p = malloc(bytes + 1);
    assert_non_null(p);
    memset(p, TEST_GUARD_BYTE, bytes + 1);
    return (tdm_view){p, dtype, rows, cols, stride};
}

void test_guard_check(const char *what, tdm_view v)
{
    const size_t size = tdm_dtype_bytes(v.dtype);
    for (int64_t i = 0; i < v.rows; i++)
        for (size_t b = (size_t)v.cols * size; b < (size_t)v.stride * size; b++)
            if (((const uint8_t *)v.data)[(size_t)(i * v.stride) * size + b] != TEST_GUARD_BYTE)
                fail_msg("%s: row %lld is written past its columns", what, (long long)i);
}

void test_same_bits(const char *what, tdm_cview got, tdm_cview want)
{
    const size_t size = tdm_dtype_bytes(got.dtype);
    assert_true(got.rows == want.rows && got.cols == want.cols && got.dtype == want.dtype);
    for (int64_t i = 0; i < got.rows; i++)
        for (int64_t j = 0; j < got.cols; j++)
            if (memcmp((const char *)got.data + (size_t)(i * got.stride + j) * size,
                       (const char *)want.data + (size_t)(i * want.stride + j) * size, size) != 0)
                fail_msg("%s[%lld, %lld] is %a, should be %a", what, (long long)i, (long long)j, (double)test_view_at(got, i, j),
                         (double)test_view_at(want, i, j));
}

float test_view_at(tdm_cview v, int64_t row, int64_t col)
{
    const int64_t i = row * v.stride + col;
    switch (v.dtype) {
    case TDM_DTYPE_F32: return ((const float *)v.data)[i];
    case TDM_DTYPE_BF16: return tdm_bf16_to_f32(((const uint16_t *)v.data)[i]);
    case TDM_DTYPE_E4M3: return tdm_e4m3_to_f32(((const uint8_t *)v.data)[i]);
    default: fail_msg("no numbers in this view");
    }
    return 0;
}

void test_linear_run(const tdm_backend *be, int threads, const test_linear_case *c, int64_t first, int64_t count, tdm_view y,
                     tdm_view h, bool accumulate)
{
    const tdm_limits limits = {.tokens = c->t, .width = c->k > c->n ? c->k : c->n, .vocab = 1, .head_rows = 1, .heads = 1,
                               .head_dim = 64, .rank = c->r, .context = 1};
    const int64_t blocks = tdm_ceil_div(c->k, 128);
    test_cpu_stream s = test_cpu_open(be, &limits, threads);
    uint8_t *codes = malloc((size_t)(count * c->k) + 1);
    float *scale = malloc((size_t)(count * blocks + 1) * 4);
    const tdm_scheme scheme = c->w.scheme;
    const tdm_quantize_act q = {
        .codes = {codes, TDM_DTYPE_E4M3, count, c->k, c->k},
        .scale = {scale, TDM_DTYPE_F32, scheme == TDM_SCHEME_FP8_TENSOR ? 1 : count, scheme == TDM_SCHEME_FP8_BLOCK ? blocks : 1,
                  scheme == TDM_SCHEME_FP8_BLOCK ? blocks : 1},
        .x = tdm_cview_rows(c->x, first, count),
        .scheme = scheme,
        .act = c->w.act,
        .input_scale = c->w.input_scale};
    if (c->w.act != TDM_ACT_NONE) assert_int_equal(be->quantize_act(s.s, &q, NULL), TDM_OK);
    tdm_linear l = {.y = y, .accumulate = accumulate, .x = q.x, .w = &c->w};
    if (c->w.act != TDM_ACT_NONE) {
        l.xq = tdm_view_const(q.codes);
        l.xs = tdm_view_const(q.scale);
    }
    if (c->r) {
        l.lora_a = c->a;
        l.lora_b = c->b;
        l.lora_h = h;
        l.lora_scale = 0.7f;
    }
    assert_int_equal(be->linear(s.s, &l, NULL), TDM_OK);
    test_cpu_close(&s);
    free(codes);
    free(scale);
}
