/* labels: unit, golden
 * adamw and sgd against torch.optim over several steps; adamw_8bit against bitsandbytes' formulas to the bit; sum_squares against float64. */
#include "kernels/dynamic_map.h"
#include "testing/ops_case.h"

enum { N = 1037, STEPS = 5 };

typedef struct optim { float master[N + 1], m[N + 1], v[N + 1]; uint16_t param[N + 1]; } optim;

static void start(optim *o)
{
    memset(o, 0, sizeof *o);
    memcpy(o->master, test_golden(goldens, "optim/start").data, N * 4);
    o->master[N] = o->m[N] = o->v[N] = 77.0f; /* behind the array */
    o->param[N] = 77;
}

static void adamw(test_stream *s, optim *o, int64_t first, int64_t n, int64_t step, const float *grad, bool param)
{
    const tdm_adamw a = {.master = test_out_bytes(s, o->master + first, (size_t)n * 4), .m = test_out_bytes(s, o->m + first, (size_t)n * 4),
                         .v = test_out_bytes(s, o->v + first, (size_t)n * 4), .grad = test_in_bytes(s, grad + first, (size_t)n * 4),
                         .param = param ? test_out_bytes(s, o->param + first, (size_t)n * 2) : NULL, .n = n, .step = step, .lr = 3e-3f, .beta1 = 0.9f,
                         .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .grad_scale = 0.5f};
    TEST_OK(s->be->adamw(s->s, &a, err));
    test_stream_return(s, 0);
}

static void sgd(test_stream *s, optim *o, int64_t first, int64_t n, const float *grad, bool param)
{
    const tdm_sgd a = {.master = test_out_bytes(s, o->master + first, (size_t)n * 4), .grad = test_in_bytes(s, grad + first, (size_t)n * 4),
                       .param = param ? test_out_bytes(s, o->param + first, (size_t)n * 2) : NULL, .n = n, .lr = 0.05f, .weight_decay = 0.01f,
                       .grad_scale = 0.5f};
    TEST_OK(s->be->sgd(s->s, &a, err));
    test_stream_return(s, 0);
}

/* Two roundings a step in f32; where an update cancels the parameter, what is left is the update's own rounding. */
static void expect_near(const char *what, const float *got, const char *name, double relative, double absolute)
{
    const tdm_cview g = {got, TDM_DTYPE_F32, 1, N, N};
    test_near(what, g, test_golden(goldens, "%s", name), relative, absolute, ops_absent);
}

static void expect_param(const optim *o)
{
    for (int i = 0; i < N; i++) assert_int_equal(o->param[i], tdm_f32_to_bf16(o->master[i]));
    assert_true(o->master[N] == 77.0f && o->param[N] == 77 && o->m[N] == 77.0f && o->v[N] == 77.0f);
}

static void steps_agree_with_torch_optim(void **state)
{
    (void)state;
    static optim a, b, split, split_b;
    const float *grads = test_golden(goldens, "optim/grad").data;
    OPS_EACH_BACKEND(be) {
        test_stream s = test_stream_open(be, &ops_limits, 2);
        start(&a);
        start(&b);
        start(&split);
        start(&split_b);
        for (int step = 1; step <= STEPS; step++) {
            const float *g = grads + (step - 1) * N;
            adamw(&s, &a, 0, N, step, g, true);
            sgd(&s, &b, 0, N, g, true);
            expect_param(&a);
            expect_param(&b);
            for (int64_t first = 0, n = 1; first < N; first += n, n = n * 2 + 1) { /* an element depends on nothing else; param may be absent */
                adamw(&s, &split, first, tdm_min_i64(n, N - first), step, g, false);
                sgd(&s, &split_b, first, tdm_min_i64(n, N - first), g, false);
            }
            if (step == 1) {
                expect_near(be->name, a.master, "optim/adamw/1", 0x1p-22, 1e-9);
                expect_near(be->name, b.master, "optim/sgd/1", 0x1p-22, 3e-8);
            }
        }
        expect_near(be->name, a.master, "optim/adamw/5", 0x1p-21, 1e-8);
        expect_near(be->name, a.m, "optim/adamw/m", 0x1p-20, 1e-6);
        expect_near(be->name, a.v, "optim/adamw/v", 0x1p-20, 1e-12);
        expect_near(be->name, b.master, "optim/sgd/5", 0x1p-21, 2e-7);
        assert_memory_equal(split.master, a.master, sizeof a.master);
        assert_memory_equal(split.m, a.m, sizeof a.m);
        assert_memory_equal(split.v, a.v, sizeof a.v);
        assert_memory_equal(split_b.master, b.master, sizeof b.master);
        adamw(&s, &a, 0, 0, 6, grads, true);
        sgd(&s, &b, 0, 0, grads, true);
        test_stream_close(&s);
    }
}

/* ---- adamw_8bit ---- */

enum { STEPS_8BIT = 6, BLOCKS = 5 };
typedef struct optim8 {
    float master[N + 1], m_most[BLOCKS + 1], v_most[BLOCKS + 1];
    uint8_t m[N + 1], v[N + 1];
    uint16_t param[N + 1];
} optim8;

/* Blocks are counted from `first`, a multiple of 256. */
static void adamw_8bit(test_stream *s, optim8 *o, int64_t first, int64_t n, int64_t step, const float *grad, bool param)
{
    const int64_t block = first / TDM_ADAMW_BLOCK;
    const size_t blocks = (size_t)tdm_ceil_div(n, TDM_ADAMW_BLOCK);
    const tdm_adamw_8bit a = {.master = test_out_bytes(s, o->master + first, (size_t)n * 4), .m = test_out_bytes(s, o->m + first, (size_t)n),
                              .v = test_out_bytes(s, o->v + first, (size_t)n), .m_most = test_out_bytes(s, o->m_most + block, blocks * 4),
                              .v_most = test_out_bytes(s, o->v_most + block, blocks * 4), .grad = test_in_bytes(s, grad + first, (size_t)n * 4),
                              .param = param ? test_out_bytes(s, o->param + first, (size_t)n * 2) : NULL, .n = n, .step = step, .lr = 3e-3f,
                              .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .grad_scale = 0.5f};
    TEST_OK(s->be->adamw_8bit(s->s, &a, err));
    test_stream_return(s, 0);
}

static void expect_same(const tdm_backend *be, const test_goldens *g, const char *name, int step, const void *got)
{
    const tdm_cview want = test_golden(g, "%s/%d", name, step);
    const size_t size = tdm_dtype_bytes(want.dtype);
    for (int64_t i = 0; i < want.cols; i++)
        if (memcmp((const char *)got + (size_t)i * size, (const char *)want.data + (size_t)i * size, size) != 0)
            fail_msg("%s: %s[%lld] after step %d is not what it should be", be->name, name, (long long)i, step);
}

static void eight_bit_steps_are_those_of_bitsandbytes(void **state)
{
    (void)state;
    static optim8 o, split;
    test_goldens *g = test_goldens_open("tests/golden/data/kernels/adamw_8bit.bin");
    const float *grads = test_golden(g, "grad").data;
    OPS_EACH_BACKEND(be) {
        test_stream s = test_stream_open(be, &ops_limits, 2);
        memset(&o, 0, sizeof o);
        memcpy(o.master, test_golden(g, "start").data, N * 4);
        o.master[N] = o.m_most[BLOCKS] = o.v_most[BLOCKS] = 77.0f; /* behind the arrays */
        o.m[N] = o.v[N] = 77;
        o.param[N] = 77;
        split = o;
        for (int step = 1; step <= STEPS_8BIT; step++) {
            const float *grad = grads + (step - 1) * N;
            adamw_8bit(&s, &o, 0, N, step, grad, true);
            for (int64_t first = 0, n = TDM_ADAMW_BLOCK; first < N; first += n, n += TDM_ADAMW_BLOCK)
                adamw_8bit(&s, &split, first, tdm_min_i64(n, N - first), step, grad, false); /* a block depends on nothing else; param may be absent */
            if (step != 1 && step != STEPS_8BIT) continue;
            expect_same(be, g, "master", step, o.master);
            expect_same(be, g, "m_most", step, o.m_most);
            expect_same(be, g, "v_most", step, o.v_most);
            expect_same(be, g, "m", step, o.m);
            expect_same(be, g, "v", step, o.v);
            for (int i = 0; i < N; i++) assert_int_equal(o.param[i], tdm_f32_to_bf16(o.master[i]));
        }
        assert_true(o.master[N] == 77.0f && o.m_most[BLOCKS] == 77.0f && o.v_most[BLOCKS] == 77.0f && o.m[N] == 77 && o.v[N] == 77 && o.param[N] == 77);
        assert_memory_equal(split.master, o.master, sizeof o.master);
        assert_memory_equal(split.m, o.m, sizeof o.m);
        assert_memory_equal(split.v, o.v, sizeof o.v);
        assert_memory_equal(split.m_most, o.m_most, sizeof o.m_most);
        assert_memory_equal(split.v_most, o.v_most, sizeof o.v_most);
        adamw_8bit(&s, &o, 0, 0, 7, grads, true);
        test_stream_close(&s);
    }
    test_goldens_close(g);
}

static void codes_are_those_of_bitsandbytes(void **state)
{
    (void)state;
    test_goldens *g = test_goldens_open("tests/golden/data/kernels/adamw_8bit.bin");
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        const float *map = tdm_dynamic_map[is_signed];
        float bound[255];
        for (int k = 0; k < 255; k++) bound[k] = tdm_dynamic_bound(map, k);
        const tdm_cview x = test_golden(g, "x/%d", is_signed), code = test_golden(g, "code/%d", is_signed);
        assert_memory_equal(map, test_golden(g, "map/%d", is_signed).data, sizeof tdm_dynamic_map[0]);
        for (int64_t i = 0; i < x.cols; i++) {
            const float value = ((const float *)x.data)[i];
            const int got = tdm_dynamic_code(bound, value), want = ((const uint8_t *)code.data)[i];
            if (got != want) fail_msg("the code of %a is %d, should be %d", (double)value, got, want);
        }
    }
    assert_true(tdm_dynamic_map[1][TDM_DYNAMIC_ZERO] == 0.0f && tdm_dynamic_map[0][0] == 0.0f);
    test_goldens_close(g);
}

static void sum_of_squares_is_a_sum_of_doubles(void **state)
{
    (void)state;
    static const int64_t lengths[] = {0, 1, 7, 1037, 5 * 1037};
    const float *x = test_golden(goldens, "optim/grad").data;
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(lengths); i++)
            for (int threads = 1; threads <= 2; threads++) {
                double got = -1, again = -2, want;
                memcpy(&want, (const char *)test_golden(goldens, "optim/squares").data + i * 8, 8);
                test_stream s = test_stream_open(be, &ops_limits, threads);
                const float *in = test_in_bytes(&s, x, (size_t)lengths[i] * 4);
                TEST_OK(be->sum_squares(s.s, in, lengths[i], test_out_bytes(&s, &got, 8), err));
                TEST_OK(be->sum_squares(s.s, in, lengths[i], test_out_bytes(&s, &again, 8), err));
                test_stream_close(&s);
                if (!(fabs(got - want) <= 1e-13 * want)) fail_msg("%s: sum of %lld squares %.17g, should be %.17g", be->name, (long long)lengths[i], got, want);
                assert_true(got == again);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_agree_with_torch_optim),
        cmocka_unit_test(eight_bit_steps_are_those_of_bitsandbytes),
        cmocka_unit_test(codes_are_those_of_bitsandbytes),
        cmocka_unit_test(sum_of_squares_is_a_sum_of_doubles),
    };
    return OPS_TESTS(tests);
}
