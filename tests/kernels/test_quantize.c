/* labels: unit, golden
 * Number formats, quantize_weight and quantize_act against torch.float8_e4m3fn: codes and scales to the bit, on every backend this
 * machine has. */
#include "kernels/ops.h"
#include "testing/backend.h"
#include "testing/golden_file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static test_goldens *goldens;

static int open_goldens(void **state)
{
    (void)state;
    goldens = test_goldens_open("tests/golden/data/kernels/linear.bin");
    return 0;
}
static int close_goldens(void **state)
{
    (void)state;
    test_goldens_close(goldens);
    return 0;
}

static const char *const scheme_names[] = {"bf16", "tensor", "channel", "block"};

static void expect_same_f32(const char *what, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (isnan(got[i]) && isnan(want[i])) continue;
        if (memcmp(&got[i], &want[i], 4) != 0)
            fail_msg("%s[%lld] is %a, should be %a", what, (long long)i, (double)got[i], (double)want[i]);
    }
}
/* NaN codes have either sign. */
static void expect_same_codes(const char *what, const uint8_t *got, const uint8_t *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if ((got[i] & 0x7f) == 0x7f && (want[i] & 0x7f) == 0x7f) continue;
        if (got[i] != want[i]) fail_msg("%s[%lld] is 0x%02x, should be 0x%02x", what, (long long)i, got[i], want[i]);
    }
}

static void e4m3_and_f16_read_as_pytorch_reads_them(void **state)
{
    (void)state;
    float values[256];
    for (int c = 0; c < 256; c++) values[c] = tdm_e4m3_to_f32((uint8_t)c);
    expect_same_f32("e4m3", values, test_golden(goldens, "e4m3/values").data, 256);
    const tdm_cview bits = test_golden(goldens, "f16/bits"), want = test_golden(goldens, "f16/values");
    for (int64_t i = 0; i < bits.rows; i++) {
        uint16_t half;
        memcpy(&half, (const char *)bits.data + 2 * i, 2);
        const float got = tdm_f16_to_f32(half);
        expect_same_f32("f16", &got, (const float *)want.data + i, 1);
    }
}

static void e4m3_rounds_to_nearest_even_and_saturates(void **state)
{
    (void)state;
    const tdm_cview in = test_golden(goldens, "e4m3/in"), out = test_golden(goldens, "e4m3/out");
    for (int64_t i = 0; i < in.cols; i++) {
        const uint8_t got = tdm_f32_to_e4m3(((const float *)in.data)[i]), want = ((const uint8_t *)out.data)[i];
        if (got != want && (got & 0x7f) != 0x7f)
            fail_msg("e4m3(%a) is 0x%02x, should be 0x%02x", (double)((const float *)in.data)[i], got, want);
        if ((got & 0x7f) == 0x7f) assert_int_equal(want & 0x7f, 0x7f);
    }
}

static void a_scale_is_never_zero_and_rounds_up_to_a_power_of_two(void **state)
{
    (void)state;
    assert_true(tdm_fp8_scale(0.0f, false) == 1.0f && tdm_fp8_scale(0.0f, true) == 1.0f);
    assert_true(tdm_fp8_scale(448.0f, true) == 1.0f && tdm_fp8_scale(449.0f, true) == 2.0f);
    assert_true(tdm_fp8_scale(224.0f, true) == 0.5f);
    assert_true(tdm_fp8_scale(0x1p-149f, false) > 0.0f && tdm_fp8_scale(0x1p-149f, true) > 0.0f);
}

/* Runs with strides larger than cols; what stands between must stay. */
static void run_weight(const tdm_cview *x, tdm_scheme scheme, bool pow2, float amax)
{
    enum { GUARD = 5 };
    const tdm_cview codes = test_golden(goldens, "weight/%s/%d/codes", scheme_names[scheme], pow2);
    const tdm_cview scale = test_golden(goldens, "weight/%s/%d/scale", scheme_names[scheme], pow2);
    const int64_t stride = x->cols + GUARD, scale_stride = scale.cols + GUARD;
    uint8_t *got = malloc((size_t)(x->rows * stride));
    float *got_scale = malloc((size_t)(scale.rows * scale_stride) * 4);
    memset(got, 0xa5, (size_t)(x->rows * stride));
    memset(got_scale, 0xa5, (size_t)(scale.rows * scale_stride) * 4);
    if (scheme == TDM_SCHEME_FP8_TENSOR) got_scale[0] = tdm_fp8_scale(amax, pow2);
    tdm_weight_quantize(&(tdm_quantize_weight){.codes = {got, TDM_DTYPE_E4M3, x->rows, x->cols, stride},
                                               .scale = {got_scale, TDM_DTYPE_F32, scale.rows, scale.cols, scale_stride},
                                               .x = *x,
                                               .scheme = scheme,
                                               .pow2 = pow2,
                                               .tensor_amax = amax});
    for (int64_t r = 0; r < scale.rows; r++) {
        expect_same_f32(scheme_names[scheme], got_scale + r * scale_stride, (const float *)scale.data + r * scale.cols, scale.cols);
        for (int64_t c = scale.cols; c < scale_stride; c++) assert_memory_equal(got_scale + r * scale_stride + c, "\xa5\xa5\xa5\xa5", 4);
    }
    for (int64_t r = 0; r < x->rows; r++) {
        expect_same_codes(scheme_names[scheme], got + r * stride, (const uint8_t *)codes.data + r * x->cols, x->cols);
        for (int64_t c = x->cols; c < stride; c++) assert_int_equal(got[r * stride + c], 0xa5);
    }
    free(got);
    free(got_scale);
}

/* An instruction set that this CPU lacks gives way to the best one: the same test once more. */
static void weights_quantize_as_in_pytorch_on_every_instruction_set(void **state)
{
    static const char *const isa[] = {"portable", "avx2", "avx512"};
    const char *before = getenv("TANDEM_CPU_ISA");
    char *kept = before ? strdup(before) : NULL;
    (void)state;
    const tdm_cview x = test_golden(goldens, "weight/x");
    float amax = 0;
    for (int64_t i = 0; i < x.rows * x.cols; i++) amax = fmaxf(amax, fabsf(((const float *)x.data)[i]));
    for (size_t i = 0; i < TDM_COUNT(isa); i++) {
        assert_int_equal(setenv("TANDEM_CPU_ISA", isa[i], 1), 0);
        for (int scheme = 1; scheme <= 3; scheme++)
            for (int pow2 = 0; pow2 < 2; pow2++) run_weight(&x, (tdm_scheme)scheme, pow2, amax);
    }
    assert_int_equal(kept ? setenv("TANDEM_CPU_ISA", kept, 1) : unsetenv("TANDEM_CPU_ISA"), 0);
    free(kept);
}

static const tdm_limits limits = {.tokens = 64, .width = 512, .vocab = 512, .head_rows = 64, .heads = 1, .head_dim = 64, .rank = 8, .context = 64};

/* Runs with strides larger than cols; what stands between must stay. */
static void run_act(const tdm_backend *be, int threads, tdm_cview x, tdm_scheme scheme, bool pow2, bool is_static)
{
    enum { GUARD = 5 };
    const int64_t blocks = tdm_ceil_div(x.cols, 128), t = x.rows, stride = x.cols + GUARD;
    const int64_t srows = scheme == TDM_SCHEME_FP8_TENSOR ? 1 : t, scols = scheme == TDM_SCHEME_FP8_BLOCK ? blocks : 1;
    uint8_t *codes = malloc((size_t)(t * stride));
    float *scale = malloc((size_t)(srows * (scols + 1)) * 4);
    memset(codes, 0xa5, (size_t)(t * stride));
    memset(scale, 0xa5, (size_t)(srows * (scols + 1)) * 4);
    test_stream c = test_stream_open(be, &limits, threads);
    const tdm_quantize_act a = {.codes = test_out(&c, (tdm_view){codes, TDM_DTYPE_E4M3, t, x.cols, stride}),
                                .scale = test_out(&c, (tdm_view){scale, TDM_DTYPE_F32, srows, scols, scols + 1}),
                                .x = test_in(&c, x),
                                .scheme = scheme,
                                .act = is_static ? TDM_ACT_STATIC : TDM_ACT_DYNAMIC,
                                .input_scale = 0.0061f,
                                .pow2 = pow2};
    TEST_OK(be->quantize_act(c.s, &a, err));
    test_sync(&c);
    const char *name = scheme_names[scheme];
    const tdm_cview want = is_static ? test_golden(goldens, "act/static/codes") : test_golden(goldens, "act/%s/%d/codes", name, pow2);
    for (int64_t i = 0; i < t; i++) {
        expect_same_codes(name, codes + i * stride, (const uint8_t *)want.data + i * x.cols, x.cols);
        for (int64_t j = x.cols; j < stride; j++) assert_int_equal(codes[i * stride + j], 0xa5);
    }
    for (int64_t i = 0; i < srows && !is_static; i++) {
        const tdm_cview s = test_golden(goldens, "act/%s/%d/scale", name, pow2);
        expect_same_f32(name, scale + i * (scols + 1), (const float *)s.data + i * scols, scols);
        assert_memory_equal(scale + i * (scols + 1) + scols, "\xa5\xa5\xa5\xa5", 4);
    }
    test_stream_close(&c);
    free(codes);
    free(scale);
}

static void activations_quantize_as_in_pytorch(void **state)
{
    (void)state;
    const tdm_backend *list[TEST_BACKENDS_MOST];
    const size_t n = test_backends(list);
    const tdm_cview x = test_golden(goldens, "act/x");
    for (size_t i = 0; i < n; i++)
        for (int threads = 1; threads <= 3; threads++)
            for (int scheme = 1; scheme <= 3; scheme++) {
                run_act(list[i], threads, x, (tdm_scheme)scheme, false, false);
                run_act(list[i], threads, x, (tdm_scheme)scheme, true, false);
                run_act(list[i], threads, x, (tdm_scheme)scheme, false, true);
            }
}

static void an_empty_batch_is_a_batch(void **state)
{
    (void)state;
    const tdm_backend *list[TEST_BACKENDS_MOST];
    const size_t n = test_backends(list);
    for (size_t i = 0; i < n; i++) {
        test_stream c = test_stream_open(list[i], &limits, 1);
        const tdm_quantize_act a = {.codes = {NULL, TDM_DTYPE_E4M3, 0, 64, 64},
                                    .scale = {NULL, TDM_DTYPE_F32, 0, 1, 1},
                                    .x = {NULL, TDM_DTYPE_BF16, 0, 64, 64},
                                    .scheme = TDM_SCHEME_FP8_CHANNEL,
                                    .act = TDM_ACT_DYNAMIC};
        TEST_OK(list[i]->quantize_act(c.s, &a, err));
        test_stream_close(&c);
    }
}

static void an_instruction_set_nobody_has_is_named(void **state)
{
    (void)state;
    const tdm_backend *be = NULL;
    tdm_error err = {0};
    assert_int_not_equal(tdm_backend_cpu("sve9", &be, &err), TDM_OK);
    assert_non_null(strstr(err.what, "sve9"));
    assert_null(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e4m3_and_f16_read_as_pytorch_reads_them),
        cmocka_unit_test(e4m3_rounds_to_nearest_even_and_saturates),
        cmocka_unit_test(a_scale_is_never_zero_and_rounds_up_to_a_power_of_two),
        cmocka_unit_test(weights_quantize_as_in_pytorch_on_every_instruction_set),
        cmocka_unit_test(activations_quantize_as_in_pytorch),
        cmocka_unit_test(an_empty_batch_is_a_batch),
        cmocka_unit_test(an_instruction_set_nobody_has_is_named),
    };
    return cmocka_run_group_tests(tests, open_goldens, close_goldens);
}
