/* labels: unit
 * The value head and its backward against float64, and their bits however tokens are divided among calls. */
#include "testing/ops_case.h"

typedef struct arrays {
    tdm_view x, w, dx, grad;
    float *y, *dy; /* [T] */
} arrays;

static arrays make(int64_t t, int64_t d)
{
    arrays a = {.x = test_random(t, d, TDM_DTYPE_BF16, 2, 1), .w = test_random(1, d, TDM_DTYPE_F32, 1, 2), .dx = test_guarded(t, d, TDM_DTYPE_F32),
                .grad = test_random(1, d, TDM_DTYPE_F32, 1, 3), .y = calloc((size_t)t + 1, sizeof(float)), .dy = calloc((size_t)t + 1, sizeof(float))};
    uint32_t seed = 7;
    for (int64_t i = 0; i < t; i++) a.dy[i] = test_noise(&seed);
    return a;
}

static void arrays_free(arrays *a)
{
    tdm_view all[] = {a->x, a->w, a->dx, a->grad};
    for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("value", all[k]);
    free(a->y);
    free(a->dy);
}

/* Tokens [first, first + n). */
static void run(const tdm_backend *be, int threads, arrays *a, int64_t first, int64_t n)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    const tdm_cview x = test_in(&s, tdm_view_const(tdm_view_rows(a->x, first, n))), w = test_in(&s, tdm_view_const(a->w));
    const tdm_value f = {.y = test_out_bytes(&s, a->y + first, (size_t)n * 4), .x = x, .w = w};
    TEST_OK(be->value(s.s, &f, err));
    const tdm_value_backward b = {.dx = test_out(&s, tdm_view_rows(a->dx, first, n)), .grad_w = test_out(&s, a->grad),
                                  .dy = test_in_bytes(&s, a->dy + first, (size_t)n * 4), .x = x, .w = w};
    TEST_OK(be->value_backward(s.s, &b, err));
    test_stream_close(&s);
}

static void agrees_with_float64_in_one_call_and_in_many(void **state)
{
    (void)state;
    static const struct { int64_t t, d; } shapes[] = {{1, 1}, {3, 5}, {67, 130}, {9, 4096}, {130, 33}, {4, 576}};
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(shapes); i++) {
            const int64_t t = shapes[i].t, d = shapes[i].d;
            arrays a = make(t, d), b = make(t, d), start = make(t, d);
            run(be, 2, &a, 0, t);
            for (int64_t first = 0, count = 1; first < t; first += count, count += 1 + count / 2) run(be, 1, &b, first, tdm_min_i64(count, t - first));
            assert_memory_equal(a.y, b.y, (size_t)t * sizeof(float));
            test_same_bits("dx", tdm_view_const(a.dx), tdm_view_const(b.dx));
            test_same_bits("grad", tdm_view_const(a.grad), tdm_view_const(b.grad));
            for (int64_t r = 0; r < t; r++) {
                double want = 0, size = 0;
                for (int64_t c = 0; c < d; c++) {
                    const double term = (double)test_view_at(tdm_view_const(a.x), r, c) * (double)test_view_at(tdm_view_const(a.w), 0, c);
                    want += term;
                    size += fabs(term);
                    assert_true(test_view_at(tdm_view_const(a.dx), r, c) == a.dy[r] * test_view_at(tdm_view_const(a.w), 0, c));
                }
                assert_true(fabs((double)a.y[r] - want) <= 0x1p-18 * size); /* as many roundings as terms a lane */
            }
            for (int64_t c = 0; c < d; c++) {
                double want = (double)test_view_at(tdm_view_const(start.grad), 0, c), size = fabs(want);
                for (int64_t r = 0; r < t; r++) {
                    const double term = (double)a.dy[r] * (double)test_view_at(tdm_view_const(a.x), r, c);
                    want += term;
                    size += fabs(term);
                }
                assert_true(fabs((double)test_view_at(tdm_view_const(a.grad), 0, c) - want) <= 0x1p-16 * size); /* one rounding a token, at most two */
            }
            arrays_free(&a);
            arrays_free(&b);
            arrays_free(&start);
        }
}

static void an_empty_batch_is_a_batch(void **state)
{
    (void)state;
    OPS_EACH_BACKEND(be) {
        arrays a = make(1, 8), start = make(1, 8);
        run(be, 2, &a, 0, 0);
        test_same_bits("grad", tdm_view_const(a.grad), tdm_view_const(start.grad));
        arrays_free(&a);
        arrays_free(&start);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_float64_in_one_call_and_in_many),
        cmocka_unit_test(an_empty_batch_is_a_batch),
    };
    return OPS_TESTS(tests);
}
