/* labels: unit, golden
 * rms_norm and its backward against PyTorch in float64. */
#include "testing/ops_case.h"

static void forward(const tdm_backend *be, int threads, tdm_view y, tdm_view rstd, tdm_cview x, tdm_cview w)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    TEST_OK(be->rms_norm(s.s, test_out(&s, y), test_out(&s, rstd), test_in(&s, x), test_in(&s, w), 1e-6f, NULL, err));
    test_stream_close(&s);
}

static void backward(const tdm_backend *be, int threads, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    TEST_OK(be->rms_norm_backward(s.s, test_out(&s, dx), test_in(&s, dy), test_in(&s, x), test_in(&s, w), test_in(&s, rstd), err));
    test_stream_close(&s);
}

/* The sum of D squares in f32 is within D / 2 steps (2^-24) of it at worst, in lanes far less: 2^-18 holds for any D here. */
static void agrees_with_pytorch(void **state)
{
    (void)state;
    static const int widths[] = {1, 7, 64, 301, 531};
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(widths); i++) {
            const int d = widths[i];
            const tdm_cview x = test_golden(goldens, "rms/%d/x", d), w = test_golden(goldens, "rms/%d/w", d);
            const tdm_cview want = test_golden(goldens, "rms/%d/rstd", d);
            tdm_view y = test_guarded(x.rows, d, TDM_DTYPE_BF16), rstd = test_guarded(x.rows, 1, TDM_DTYPE_F32);
            forward(be, 2, y, rstd, x, w);
            test_near(be->name, tdm_view_const(y), test_golden(goldens, "rms/%d/y", d), 0x1p-18, 0, ops_absent);
            test_near("rstd", tdm_view_const(rstd), want, 0x1p-19, 0, ops_absent);
            tdm_view dx = test_guarded(x.rows, d, TDM_DTYPE_F32);
            test_fill(dx, 0.0f);
            backward(be, 2, dx, test_golden(goldens, "rms/%d/dy", d), x, w, tdm_view_const(rstd));
            test_near("dx", tdm_view_const(dx), test_golden(goldens, "rms/%d/dx", d), 0, 0x1p-17, test_golden(goldens, "rms/%d/dx/mag", d));
            /* without rstd, onto what is there */
            tdm_view again = test_guarded(x.rows, d, TDM_DTYPE_BF16), none = {0}, more = test_copy(tdm_view_const(dx));
            forward(be, 1, again, none, x, w);
            test_same_bits("y without rstd", tdm_view_const(again), tdm_view_const(y));
            backward(be, 1, more, test_golden(goldens, "rms/%d/dy", d), x, w, tdm_view_const(rstd));
            for (int64_t r = 0; r < x.rows; r++)
                for (int64_t c = 0; c < d; c++) {
                    const float once = test_view_at(tdm_view_const(dx), r, c), twice = test_view_at(tdm_view_const(more), r, c);
                    assert_true(fabsf(twice - 2.0f * once) <= 0x1p-23f * fabsf(twice)); /* the sum may be fused */
                }
            tdm_view all[] = {y, rstd, dx, again, more};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rms_norm", all[k]);
        }
}

static void a_row_has_the_same_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    static const struct { int64_t t, d; } shapes[] = {{1, 1}, {3, 5}, {67, 130}, {9, 4096}, {530, 33}};
    for (size_t i = 0; i < TDM_COUNT(shapes); i++) {
        const int64_t t = shapes[i].t, d = shapes[i].d;
        tdm_view x = test_random(t, d, TDM_DTYPE_F32, 3, 1), w = test_random(1, d, TDM_DTYPE_BF16, 1, 2), dy = test_random(t, d, TDM_DTYPE_F32, 1, 3);
        tdm_view ref = test_guarded(t, d, TDM_DTYPE_BF16), ref_rstd = test_guarded(t, 1, TDM_DTYPE_F32), ref_dx = test_copy(tdm_view_const(dy));
        const tdm_cview xc = tdm_view_const(x), wc = tdm_view_const(w), dyc = tdm_view_const(dy);
        forward(test_reference(), 1, ref, ref_rstd, xc, wc);
        backward(test_reference(), 1, ref_dx, dyc, xc, wc, tdm_view_const(ref_rstd));
        OPS_EACH_BACKEND(be) {
            tdm_view y = test_guarded(t, d, TDM_DTYPE_BF16), rstd = test_guarded(t, 1, TDM_DTYPE_F32), dx = test_copy(dyc);
            tdm_view y1 = test_guarded(t, d, TDM_DTYPE_BF16), rstd1 = test_guarded(t, 1, TDM_DTYPE_F32), dx1 = test_copy(dyc);
            forward(be, 2, y, rstd, xc, wc);
            backward(be, 2, dx, dyc, xc, wc, tdm_view_const(rstd));
            for (int64_t first = 0, count = 1; first < t; first += count, count += 1 + count / 2) {
                const int64_t n = tdm_min_i64(count, t - first);
                forward(be, 1, tdm_view_rows(y1, first, n), tdm_view_rows(rstd1, first, n), tdm_cview_rows(xc, first, n), wc);
                backward(be, 1, tdm_view_rows(dx1, first, n), tdm_cview_rows(dyc, first, n), tdm_cview_rows(xc, first, n), wc,
                         tdm_cview_rows(tdm_view_const(rstd1), first, n));
            }
            test_same_bits("y", tdm_view_const(y1), tdm_view_const(y));
            test_same_bits("rstd", tdm_view_const(rstd1), tdm_view_const(rstd));
            test_same_bits("dx", tdm_view_const(dx1), tdm_view_const(dx));
            /* One step of bf16 where a tie falls the other way; dx is a difference of terms below 4 times the largest |dy w| rstd. */
            test_near(be->name, tdm_view_const(y), tdm_view_const(ref), 0x1p-8, 0, ops_absent);
            test_near(be->name, tdm_view_const(rstd), tdm_view_const(ref_rstd), 0x1p-18, 0, ops_absent);
            double top = 0;
            for (int64_t r = 0; r < t; r++) top = fmax(top, (double)test_view_at(tdm_view_const(rstd), r, 0));
            test_near(be->name, tdm_view_const(dx), tdm_view_const(ref_dx), 0, 0x1p-17 * (1 + 4 * top), ops_absent);
            tdm_view all[] = {y, rstd, dx, y1, rstd1, dx1};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rms_norm", all[k]);
        }
        tdm_view all[] = {x, w, dy, ref, ref_rstd, ref_dx};
        for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rms_norm", all[k]);
    }
}

static void an_empty_batch_is_a_batch(void **state)
{
    (void)state;
    float there = 0; /* absent is what has no data */
    const tdm_view none = {&there, TDM_DTYPE_F32, 0, 8, 8}, y = {&there, TDM_DTYPE_BF16, 0, 8, 8}, rstd = {&there, TDM_DTYPE_F32, 0, 1, 1};
    tdm_view w = test_random(1, 8, TDM_DTYPE_BF16, 1, 2);
    OPS_EACH_BACKEND(be) {
        forward(be, 2, y, rstd, tdm_view_const(none), tdm_view_const(w));
        backward(be, 2, none, tdm_view_const(none), tdm_view_const(none), tdm_view_const(w), tdm_view_const(rstd));
    }
    free(w.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_pytorch),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_in_a_batch),
        cmocka_unit_test(an_empty_batch_is_a_batch),
    };
    return OPS_TESTS(tests);
}
