/* labels: unit, golden
 * The divergence of two distributions and its gradient against TRL's generalized_jsd_loss and autograd in float64 (tests/golden/make_losses.py), alone and in a
 * batch, at their extremes, and against the CPU. */
#include "testing/ops_case.h"

static const struct { float beta; const char *name; } betas[] = {{0.0f, "0.0"}, {0.25f, "0.25"}, {0.5f, "0.5"}, {1.0f, "1.0"}};

/* Probabilities of logits, by the backend, then the divergence of p from q. */
static void run(const tdm_backend *be, int threads, tdm_cview student, tdm_cview teacher, float beta, float temperature, const float *coef, float *value, tdm_view dlogits)
{
    const tdm_sampling sampling = {.temperature = temperature, .top_p = 1.0f, .repetition_penalty = 1.0f};
    int32_t target[64] = {0};
    float lp[64];
    tdm_view p = test_copy(student), q = test_copy(teacher);
    test_stream s = test_stream_open(be, &ops_limits, threads);
    const tdm_view at[2] = {test_out(&s, p), test_out(&s, q)};
    const int32_t *targets = test_in_i32(&s, target, student.rows);
    float *lps = test_out_bytes(&s, lp, (size_t)student.rows * sizeof *lp);
    for (int k = 0; k < 2; k++) TEST_OK(be->logprob(s.s, &(tdm_logprob){.logits = at[k], .target = targets, .logprob = lps, .sampling = &sampling}, err));
    const tdm_divergence d = {.dlogits = test_out(&s, dlogits), .p = tdm_view_const(at[0]), .q = tdm_view_const(at[1]), .beta = beta, .temperature = temperature,
                              .coef = test_in_bytes(&s, coef, (size_t)student.rows * sizeof *coef), .value = test_out_bytes(&s, value, (size_t)student.rows * sizeof *value)};
    TEST_OK(be->divergence(s.s, &d, err));
    test_stream_close(&s);
    test_guard_free("p", p);
    test_guard_free("q", q);
}

static void agrees_with_trl(void **state)
{
    (void)state;
    enum { ROWS = 3, VOCAB = 37 };
    test_goldens *g = test_goldens_open("tests/golden/data/losses.bin");
    const float coef[ROWS] = {1.0f, 1.0f, 1.0f};
    OPS_EACH_BACKEND(be)
        for (size_t k = 0; k < TDM_COUNT(betas); k++) {
            float value[ROWS];
            tdm_view d = test_guarded(ROWS, VOCAB, TDM_DTYPE_BF16);
            const tdm_cview student = test_golden(g, "distill/student"), teacher = test_golden(g, "distill/teacher");
            const float *want = test_golden(g, "distill/%s", betas[k].name).data;
            run(be, 2, (tdm_cview){student.data, student.dtype, ROWS, VOCAB, VOCAB}, (tdm_cview){teacher.data, teacher.dtype, ROWS, VOCAB, VOCAB}, betas[k].beta, 0.8f, coef, value, d);
            for (int r = 0; r < ROWS; r++) {
                if (!(fabsf(value[r] - want[r]) <= 2e-6f * fmaxf(1.0f, want[r]))) fail_msg("%s beta %s: %g, TRL %g", be->name, betas[k].name, (double)value[r], (double)want[r]);
                for (int v = 0; v < VOCAB; v++) {
                    const float got = test_view_at(tdm_view_const(d), r, v), slope = want[ROWS + r * VOCAB + v];
                    if (!(fabsf(got - slope) <= 0x1p-8f * fabsf(slope) + 2e-6f)) fail_msg("%s beta %s: gradient %g, TRL %g", be->name, betas[k].name, (double)got, (double)slope);
                }
            }
            test_guard_free("dlogits", d);
        }
    test_goldens_close(g);
}

static void a_row_has_the_same_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    enum { T = 13, V = 1543 };
    tdm_view student = test_random(T, V, TDM_DTYPE_F32, 5, 3), teacher = test_random(T, V, TDM_DTYPE_F32, 5, 4);
    float coef[T], value[T], alone[T], want[T];
    for (int t = 0; t < T; t++) coef[t] = 0.25f * (float)(t - 4);
    OPS_EACH_BACKEND(be)
        for (size_t k = 0; k < TDM_COUNT(betas); k++) {
            tdm_view d = test_guarded(T, V, TDM_DTYPE_BF16), d1 = test_guarded(T, V, TDM_DTYPE_BF16), ref = test_guarded(T, V, TDM_DTYPE_BF16);
            run(be, 2, tdm_view_const(student), tdm_view_const(teacher), betas[k].beta, 1.0f, coef, value, d);
            run(test_reference(), 1, tdm_view_const(student), tdm_view_const(teacher), betas[k].beta, 1.0f, coef, want, ref);
            for (int t = 0; t < T; t++)
                run(be, 1, tdm_view_const(tdm_view_rows(student, t, 1)), tdm_view_const(tdm_view_rows(teacher, t, 1)), betas[k].beta, 1.0f, coef + t, alone + t, tdm_view_rows(d1, t, 1));
            assert_memory_equal(value, alone, sizeof value);
            test_same_bits("dlogits", tdm_view_const(d), tdm_view_const(d1));
            for (int t = 0; t < T; t++) assert_true(fabsf(value[t] - want[t]) <= 1e-5f * fabsf(want[t]));
            test_near(be->name, tdm_view_const(d), tdm_view_const(ref), 0x1p-7, 0x1p-18, ops_absent);
            tdm_view all[] = {d, d1, ref};
            for (size_t i = 0; i < TDM_COUNT(all); i++) test_guard_free("divergence", all[i]);
        }
    free(student.data);
    free(teacher.data);
}

/* A distribution has no divergence from itself; one that gives a token nothing is still at a finite distance. */
static void extremes_stay_finite(void **state)
{
    (void)state;
    enum { V = 20 };
    float sure[V] = {0}, other[V] = {0}, value;
    const float coef = 1.0f;
    sure[3] = 300.0f;
    other[5] = 300.0f;
    OPS_EACH_BACKEND(be)
        for (size_t k = 0; k < TDM_COUNT(betas); k++)
            for (int same = 0; same < 2; same++) {
                tdm_view d = test_guarded(1, V, TDM_DTYPE_BF16);
                const tdm_cview p = {sure, TDM_DTYPE_F32, 1, V, V}, q = {same ? sure : other, TDM_DTYPE_F32, 1, V, V};
                run(be, 1, p, q, betas[k].beta, 1.0f, &coef, &value, d);
                assert_true(same ? fabsf(value) <= 1e-6f : value > 0.5f && value < 100.0f);
                for (int v = 0; v < V; v++) assert_true(isfinite(test_view_at(tdm_view_const(d), 0, v)));
                test_guard_free("dlogits", d);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_trl),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_in_a_batch),
        cmocka_unit_test(extremes_stay_finite),
    };
    return OPS_TESTS(tests);
}
