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

/* Rows begin at 16 bytes where the columns allow it, as a model's do, and anywhere else; in both cases something lies between them. */
static int64_t stride_of(int64_t cols) { return cols + (cols % 16 == 0 ? 16 : TEST_GUARD); }

static tdm_cview noise(test_linear_case *c, int64_t rows, int64_t cols, uint32_t seed)
{
    const int64_t stride = stride_of(cols);
    return (tdm_cview){own(c, test_noise_bf16(rows, stride, seed)), TDM_DTYPE_BF16, rows, cols, stride};
}

static void make_codes(test_linear_case *c, tdm_scheme scheme, uint32_t seed)
{
    const int64_t n = c->n, k = c->k, blocks = tdm_ceil_div(k, 128), stride = stride_of(k);
    float *w = malloc((size_t)(n * k) * 4);
    uint8_t *codes = own(c, calloc((size_t)(n * stride), 1));
    float *scale = own(c, malloc((size_t)(n * blocks) * 4));
    assert_non_null(w);
    for (int64_t i = 0; i < n * k; i++) w[i] = test_noise(&seed);
    c->w.codes = (tdm_cview){codes, TDM_DTYPE_E4M3, n, k, stride};
    c->w.scale = scheme == TDM_SCHEME_FP8_TENSOR    ? (tdm_cview){scale, TDM_DTYPE_F32, 1, 1, 1}
                 : scheme == TDM_SCHEME_FP8_CHANNEL ? (tdm_cview){scale, TDM_DTYPE_F32, n, 1, 1}
                                                    : (tdm_cview){scale, TDM_DTYPE_F32, tdm_ceil_div(n, 128), blocks, blocks};
    scale[0] = tdm_fp8_scale(1.0f, false); /* stays where the scheme has one for all */
    tdm_weight_quantize(&(tdm_quantize_weight){.codes = {codes, TDM_DTYPE_E4M3, n, k, stride},
                                               .scale = {scale, TDM_DTYPE_F32, c->w.scale.rows, c->w.scale.cols, c->w.scale.stride},
                                               .x = {w, TDM_DTYPE_F32, n, k, k},
                                               .scheme = scheme,
                                               .tensor_amax = 1.0f});
    free(w);
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

void test_linear_run(const tdm_backend *be, int threads, const test_linear_case *c, int64_t first, int64_t count, tdm_view y,
                     tdm_view h, bool accumulate)
{
    const tdm_limits limits = {.tokens = c->t, .width = c->k > c->n ? c->k : c->n, .vocab = 1, .head_rows = 1, .heads = 1,
                               .head_dim = 64, .rank = c->r, .context = 1};
    const int64_t blocks = tdm_ceil_div(c->k, 128);
    test_stream s = test_stream_open(be, &limits, threads);
    const tdm_scheme scheme = c->w.scheme;
    const tdm_weight w = test_in_weight(&s, &c->w);
    const tdm_quantize_act q = {
        .codes = {test_scratch(&s, (size_t)(count * c->k)), TDM_DTYPE_E4M3, count, c->k, c->k},
        .scale = {test_scratch(&s, (size_t)(count * blocks + 1) * 4), TDM_DTYPE_F32, scheme == TDM_SCHEME_FP8_TENSOR ? 1 : count,
                  scheme == TDM_SCHEME_FP8_BLOCK ? blocks : 1, scheme == TDM_SCHEME_FP8_BLOCK ? blocks : 1},
        .x = test_in(&s, tdm_cview_rows(c->x, first, count)),
        .scheme = scheme,
        .act = w.act,
        .input_scale = w.input_scale};
    if (w.act != TDM_ACT_NONE) TEST_OK(be->quantize_act(s.s, &q, err));
    tdm_linear l = {.y = test_out(&s, y), .accumulate = accumulate, .x = q.x, .w = &w};
    if (w.act != TDM_ACT_NONE) {
        l.xq = tdm_view_const(q.codes);
        l.xs = tdm_view_const(q.scale);
    }
    if (c->r) {
        l.lora_a = test_in(&s, c->a);
        l.lora_b = test_in(&s, c->b);
        l.lora_h = test_out(&s, h);
        l.lora_scale = 0.7f;
    }
    TEST_OK(be->linear(s.s, &l, err));
    test_stream_close(&s);
}
