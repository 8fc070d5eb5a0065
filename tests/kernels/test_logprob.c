/* labels: unit, golden
 * logprob, entropy and their backward against torch.autograd in float64; the sampler's bits. */
#include "testing/dist_case.h"

/* `support` given: it decides; else sampling does. p: the probabilities, signs included; dlogits with both coefficients, or absent. */
static void run(const tdm_backend *be, int threads, tdm_view p, const int32_t *target, const tdm_sampling *sampling, const uint32_t *support,
                const int32_t *history, const int32_t *at, const int32_t *len, float *logprob, float *entropy, tdm_view dlogits, const float *coef,
                const float *entropy_coef)
{
    const size_t rows = (size_t)p.rows, words = (size_t)tdm_ceil_div(p.cols, 32);
    int32_t most = 0;
    for (size_t r = 0; history && r < rows; r++) most = at[r] + len[r] > most ? at[r] + len[r] : most;
    test_stream s = test_stream_open(be, &ops_limits, threads);
    const tdm_logprob a = {.logits = test_out(&s, p), .target = test_in_i32(&s, target, (int64_t)rows),
                           .logprob = test_out_bytes(&s, logprob, rows * 4), .entropy = test_out_bytes(&s, entropy, rows * 4),
                           .support = test_in_bytes(&s, support, rows * words * 4), .sampling = sampling, .history = test_in_i32(&s, history, most),
                           .history_at = test_in_i32(&s, at, (int64_t)rows), .history_len = test_in_i32(&s, len, (int64_t)rows)};
    TEST_OK(be->logprob(s.s, &a, err));
    if (dlogits.data) {
        const tdm_logprob_backward b = {.dlogits = test_out(&s, dlogits), .p = tdm_view_const(a.logits), .target = a.target,
                                        .coef = test_in_bytes(&s, coef, rows * 4), .entropy_coef = test_in_bytes(&s, entropy_coef, rows * 4),
                                        .entropy = a.entropy, .sampling = sampling, .history = a.history, .history_at = a.history_at,
                                        .history_len = a.history_len};
        TEST_OK(be->logprob_backward(s.s, &b, err));
    }
    test_stream_close(&s);
}

static void agrees_with_autograd(void **state)
{
    (void)state;
    OPS_EACH_BACKEND(be)
        for (size_t k = 0; k < TDM_COUNT(dist_vocabs); k++)
            for (size_t i = 0; i < TDM_COUNT(dist_names); i++)
                for (int given = 0; given < 2; given++) {
                    const int vocab = dist_vocabs[k];
                    const tdm_sampling sampling = dist_sampling(i);
                    if (!dist_has(vocab, i) || (given && !dist_truncates(&sampling))) continue;
                    char name[48];
                    snprintf(name, sizeof name, "dist/%d/%s", vocab, dist_names[i]);
                    const tdm_cview z = test_golden(goldens, "dist/%d/logits", vocab), logp = test_golden(goldens, "%s/logp", name);
                    const tdm_cview entropies = test_golden(goldens, "%s/entropy", name), mags = test_golden(goldens, "%s/dlogits/mag", name);
                    const int32_t *target = test_golden(goldens, "%s/target", name).data;
                    tdm_view p = test_copy(z), d = test_guarded(z.rows, vocab, TDM_DTYPE_BF16);
                    float logprob[DIST_ROWS], entropy[DIST_ROWS];
                    run(be, 2, p, target, &sampling, given ? test_golden(goldens, "%s/support", name).data : NULL,
                        test_golden(goldens, "dist/%d/history", vocab).data, dist_at, dist_len, logprob, entropy, d,
                        test_golden(goldens, "dist/%d/coef", vocab).data, test_golden(goldens, "dist/%d/ecoef", vocab).data);
                    for (int64_t r = 0; r < z.rows; r++) {
                        const float want = test_view_at(logp, r, target[r]);
                        if (!(fabsf(logprob[r] - want) <= 2e-5f)) fail_msg("%s %s: logprob %g, should be %g", be->name, name, (double)logprob[r], (double)want);
                        if (!(fabsf(entropy[r] - test_view_at(entropies, r, 0)) <= 2e-5f))
                            fail_msg("%s %s: entropy %g, should be %g", be->name, name, (double)entropy[r], (double)test_view_at(entropies, r, 0));
                        for (int64_t v = 0; v < vocab; v++) {
                            const double prob = exp((double)test_view_at(logp, r, v)), got = fabs((double)test_view_at(tdm_view_const(p), r, v));
                            if (!(fabs(got - prob) <= 1e-5 * prob + 1e-36)) fail_msg("%s %s: p[%lld] is %g, should be %g", be->name, name, (long long)v, got, prob);
                        }
                        test_near(name, tdm_cview_rows(tdm_view_const(d), r, 1), tdm_cview_rows(test_golden(goldens, "%s/dlogits", name), r, 1), 0x1p-15,
                                  0x1p-19 * (double)test_view_at(mags, r, 0), ops_absent);
                    }
                    test_guard_free("p", p);
                    test_guard_free("dlogits", d);
                }
}

/* The sampler's log-probability has the trainer's bits, and a target outside the support has none. */
static void the_sampler_and_the_trainer_agree_to_the_bit(void **state)
{
    (void)state;
    enum { B = 23, V = 1031, WORDS = (V + 31) / 32 };
    static uint32_t support[B * WORDS];
    tdm_view z = test_random(B, V, TDM_DTYPE_F32, 6, 3), none = {0};
    int32_t history[B * 4], at[B], len[B];
    for (int r = 0; r < B; r++) {
        for (int i = 0; i < 4; i++) history[4 * r + i] = (r * 37 + i * 11) % V;
        at[r] = 4 * r;
        len[r] = r % 5;
    }
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(dist_names); i++) {
            tdm_sampling sampling[B];
            tdm_draw draw[B];
            int32_t token[B];
            float drawn[B], logprob[B], entropy[B], alone[B], alone_entropy[B];
            for (int r = 0; r < B; r++) {
                sampling[r] = dist_sampling(i);
                draw[r] = (tdm_draw){7, 1, (uint32_t)r, 0, (uint32_t)i};
            }
            const bool truncates = dist_truncates(&sampling[0]);
            tdm_view copy = test_copy(tdm_view_const(z)), p = test_copy(tdm_view_const(z)), p1 = test_copy(tdm_view_const(z));
            test_stream s = test_stream_open(be, &ops_limits, 2);
            const tdm_sample a = {.logits = test_out(&s, copy), .token = test_out_bytes(&s, token, sizeof token), .logprob = test_out_bytes(&s, drawn, sizeof drawn),
                                  .support = test_out_bytes(&s, support, sizeof support), .sampling = test_in_bytes(&s, sampling, sizeof sampling),
                                  .draw = test_in_bytes(&s, draw, sizeof draw), .history = test_in_i32(&s, history, B * 4),
                                  .history_at = test_in_i32(&s, at, B), .history_len = test_in_i32(&s, len, B)};
            TEST_OK(be->sample(s.s, &a, err));
            test_stream_close(&s);
            run(be, 2, p, token, &sampling[0], truncates ? support : NULL, history, at, len, logprob, entropy, none, NULL, NULL);
            assert_memory_equal(logprob, drawn, sizeof drawn);
            for (int r = 0; r < B; r++)
                run(be, 1, tdm_view_rows(p1, r, 1), token + r, &sampling[0], truncates ? support + r * WORDS : NULL, history, at + r, len + r, alone + r,
                    alone_entropy + r, none, NULL, NULL);
            assert_memory_equal(alone, logprob, sizeof logprob);
            assert_memory_equal(alone_entropy, entropy, sizeof entropy);
            test_same_bits("p", tdm_view_const(p1), tdm_view_const(p));
            run(be, 1, tdm_view_rows(p, 0, 0), token, &sampling[0], NULL, NULL, NULL, NULL, logprob, NULL, none, NULL, NULL);
            if (truncates) {
                int32_t outside[B];
                memcpy((char *)p.data, z.data, (size_t)(B * z.stride) * 4);
                for (int r = 0; r < B; r++)
                    for (outside[r] = 0; support[r * WORDS + outside[r] / 32] >> outside[r] % 32 & 1;) outside[r]++;
                run(be, 2, p, outside, &sampling[0], support, history, at, len, logprob, NULL, none, NULL, NULL);
                for (int r = 0; r < B; r++) assert_true(logprob[r] == -INFINITY);
            }
            tdm_view all[] = {copy, p, p1};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("logprob", all[k]);
        }
    free(z.data);
}

/* dlogits row by row, and against the CPU. */
static void a_gradient_has_the_same_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    enum { T = 19, V = 777 };
    tdm_view z = test_random(T, V, TDM_DTYPE_F32, 5, 3);
    int32_t target[T], history[T], at[T], len[T];
    float coef[T], entropy_coef[T], logprob[T], entropy[T];
    for (int t = 0; t < T; t++) {
        target[t] = t * 40;
        history[t] = t * 41 % V;
        at[t] = t;
        len[t] = 1;
        coef[t] = (float)(t - 9) / 3.0f;
        entropy_coef[t] = 0.01f * (float)t;
    }
    const tdm_sampling sampling = dist_sampling(2);
    tdm_view ref_p = test_copy(tdm_view_const(z)), ref = test_guarded(T, V, TDM_DTYPE_BF16);
    run(test_reference(), 1, ref_p, target, &sampling, NULL, history, at, len, logprob, entropy, ref, coef, entropy_coef);
    OPS_EACH_BACKEND(be) {
        tdm_view p = test_copy(tdm_view_const(z)), d = test_guarded(T, V, TDM_DTYPE_BF16), p1 = test_copy(tdm_view_const(z)), d1 = test_guarded(T, V, TDM_DTYPE_BF16);
        run(be, 2, p, target, &sampling, NULL, history, at, len, logprob, entropy, d, coef, entropy_coef);
        for (int t = 0; t < T; t++)
            run(be, 1, tdm_view_rows(p1, t, 1), target + t, &sampling, NULL, history, at + t, len + t, logprob + t, entropy + t, tdm_view_rows(d1, t, 1),
                coef + t, entropy_coef + t);
        test_same_bits("dlogits", tdm_view_const(d1), tdm_view_const(d));
        test_near(be->name, tdm_view_const(d), tdm_view_const(ref), 0x1p-8, 0x1p-19, ops_absent);
        tdm_view all[] = {p, d, p1, d1};
        for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("logprob", all[k]);
    }
    tdm_view all[] = {z, ref_p, ref};
    for (size_t k = 0; k < TDM_COUNT(all); k++) free(all[k].data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_autograd),
        cmocka_unit_test(the_sampler_and_the_trainer_agree_to_the_bit),
        cmocka_unit_test(a_gradient_has_the_same_bits_alone_and_in_a_batch),
    };
    return OPS_TESTS(tests);
}
