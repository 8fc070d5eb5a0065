/* labels: unit, golden
 * dropout: the mask is Philox's to the bit on every backend, and backward has the same one. */
#include "testing/ops_case.h"

static const uint64_t seed = 0x1234567890abcdefull;
enum { SITE = 77 };

static void forward(const tdm_backend *be, int threads, tdm_view y, tdm_cview x, float p, const uint32_t *token)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    TEST_OK(be->dropout(s.s, test_out(&s, y), test_in(&s, x), p, seed, SITE, test_in_bytes(&s, token, (size_t)x.rows * 4), err));
    test_stream_close(&s);
}

static void backward(const tdm_backend *be, int threads, tdm_view dx, tdm_cview dy, float p, const uint32_t *token)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    TEST_OK(be->dropout_backward(s.s, test_out(&s, dx), test_in(&s, dy), p, seed, SITE, test_in_bytes(&s, token, (size_t)dy.rows * 4), err));
    test_stream_close(&s);
}

static void the_mask_is_philox(void **state)
{
    (void)state;
    const tdm_cview keep = test_golden(goldens, "dropout/keep");
    const uint32_t *token = test_golden(goldens, "dropout/token").data;
    const float p = 0.3f, scale = 1.0f / (1.0f - p);
    const int64_t t = keep.rows, n = keep.cols;
    OPS_EACH_BACKEND(be) {
        tdm_view x = test_random(t, n, TDM_DTYPE_BF16, 2, 1), y = test_guarded(t, n, TDM_DTYPE_BF16);
        tdm_view dy = test_random(t, n, TDM_DTYPE_F32, 2, 2), dx = test_guarded(t, n, TDM_DTYPE_F32);
        test_fill(dx, 0.0f);
        forward(be, 2, y, tdm_view_const(x), p, token);
        backward(be, 2, dx, tdm_view_const(dy), p, token);
        for (int64_t r = 0; r < t; r++)
            for (int64_t c = 0; c < n; c++) {
                const float kept = test_view_at(keep, r, c) * scale;
                const float want = tdm_bf16_to_f32(tdm_f32_to_bf16(test_view_at(tdm_view_const(x), r, c) * kept));
                assert_true(test_view_at(tdm_view_const(y), r, c) == want);
                assert_true(test_view_at(tdm_view_const(dx), r, c) == test_view_at(tdm_view_const(dy), r, c) * kept);
            }
        backward(be, 1, dx, tdm_view_const(dy), p, token); /* adds */
        for (int64_t r = 0; r < t; r++)
            for (int64_t c = 0; c < n; c++) {
                const float want = 2.0f * test_view_at(tdm_view_const(dy), r, c) * test_view_at(keep, r, c) * scale;
                assert_true(fabsf(test_view_at(tdm_view_const(dx), r, c) - want) <= 0x1p-22f * fabsf(want));
            }
        tdm_view all[] = {x, y, dy, dx};
        for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("dropout", all[k]);
    }
}

/* 300 x 1000 draws: the standard deviation of the rate is below 0.001. p 0 keeps every bit. */
static void keeps_as_many_as_it_says_and_the_same_row_by_row(void **state)
{
    (void)state;
    enum { T = 300, N = 1001 };
    uint32_t token[T];
    for (uint32_t t = 0; t < T; t++) token[t] = t * 7919u;
    tdm_view x = test_guarded(T, N, TDM_DTYPE_BF16), ref = test_guarded(T, N, TDM_DTYPE_BF16);
    test_fill(x, 1.5f);
    static const float rates[] = {0.0f, 0.05f, 0.5f, 0.9f};
    for (size_t i = 0; i < TDM_COUNT(rates); i++) {
        forward(test_reference(), 1, ref, tdm_view_const(x), rates[i], token);
        OPS_EACH_BACKEND(be) {
            tdm_view y = test_guarded(T, N, TDM_DTYPE_BF16), one = test_guarded(T, N, TDM_DTYPE_BF16);
            forward(be, 2, y, tdm_view_const(x), rates[i], token);
            test_same_bits(be->name, tdm_view_const(y), tdm_view_const(ref));
            int64_t kept = 0;
            for (int64_t t = 0; t < T; t++)
                for (int64_t c = 0; c < N; c++) kept += test_view_at(tdm_view_const(y), t, c) != 0.0f;
            assert_true(fabs((double)kept / (T * N) - (1.0 - (double)rates[i])) < 0.005);
            for (int64_t t = 0; t < T; t += 30) {
                forward(be, 1, tdm_view_rows(one, t, 30), tdm_cview_rows(tdm_view_const(x), t, 30), rates[i], token + t);
                forward(be, 1, tdm_view_rows(one, t + 3, 1), tdm_cview_rows(tdm_view_const(x), t + 3, 1), rates[i], token + t + 3);
            }
            test_same_bits(be->name, tdm_view_const(one), tdm_view_const(y));
            forward(be, 1, tdm_view_rows(one, 0, 0), tdm_cview_rows(tdm_view_const(x), 0, 0), rates[i], token);
            test_guard_free("dropout", y);
            test_guard_free("dropout", one);
        }
    }
    free(x.data);
    free(ref.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_mask_is_philox),
        cmocka_unit_test(keeps_as_many_as_it_says_and_the_same_row_by_row),
    };
    return OPS_TESTS(tests);
}
