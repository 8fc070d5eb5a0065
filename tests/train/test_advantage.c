/* tests/train/test_advantage.c  labels: unit
 * Rewards to advantages: by hand, and against TRL's numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "train/advantage.h"

static void expect_near(double got, double want, double within)
{
    if (!(fabs(got - want) <= within)) fail_msg("%.9g, want %.9g within %.1g", got, want, within);
}

/* Two groups; rewards of 1, 3 and 5 over 1, 2 and 1 tokens, one without a reward: over 4 tokens mean 3, deviation sqrt(2); less the groups' means -1, 1
 * and 0, mean 0.25, deviation sqrt(11) / 4. */
static void reinforce_pp_is_standard_over_tokens(void **state)
{
    (void)state;
    static const int64_t start[] = {0, 2, 4}, tokens[] = {1, 2, 1, 9};
    const double reward[] = {1.0, 3.0, 5.0, NAN}, sigma = sqrt(2.0), baseline = sqrt(11.0) / 4.0;
    const double want[2][4] = {{-2.0 / sigma, 0.0, 2.0 / sigma, 0.0}, {-1.25 / baseline, 0.75 / baseline, -0.25 / baseline, 0.0}};
    for (int k = 0; k < 2; k++) {
        double a[4];
        memcpy(a, reward, sizeof a);
        tdm_advantages(k ? TDM_ADVANTAGE_REINFORCE_PP_BASELINE : TDM_ADVANTAGE_REINFORCE_PP, a, tokens, start, 2, a); /* in place */
        for (int i = 0; i < 4; i++) expect_near(a[i], want[k][i], 1e-12);
    }
}

static void advantages_in_the_place_of_rewards_are_the_same(void **state)
{
    (void)state;
    static const int64_t start[] = {0, 3, 5, 7};
    static const double reward[] = {1.0, 3.0, NAN, 2.0, 2.0, 0.5, 4.0};
    for (int kind = TDM_ADVANTAGE_GROUP_STD; kind <= TDM_ADVANTAGE_LEAVE_ONE_OUT; kind++) {
        double a[7], b[7];
        memcpy(a, reward, sizeof a);
        tdm_advantages((tdm_advantage)kind, a, NULL, start, 3, a);
        tdm_advantages((tdm_advantage)kind, reward, NULL, start, 3, b);
        assert_memory_equal(a, b, sizeof a);
        assert_true(a[0] < 0.0 && a[1] == -a[0] && a[2] == 0.0 && a[3] == 0.0 && a[6] > 0.0);
    }
}

/* What TRL 1.16 gives in double (GRPOTrainer, normalize_then_sum; rewards [12, 2] in groups of 4, weights 1 and 0.25): a spread ten times as large,
 * a reward that is equal in a group, one without an opinion, and a sample that none has an opinion on. */
static void gdpo_s_advantages_are_trl_s(void **state)
{
    (void)state;
    static const double score[2][12] = {{1, 0, 0, 1, 0, 0, 0, 0, 1, 0, NAN, 1}, {0.2, 0.9, 0.1, 0.4, 3, 1, 2, 2.5, NAN, -1, NAN, 2}}, weight[2] = {1.0, 0.25};
    static const double want[12] = {0.972619850763168, -0.690159506325696, -1.44338709149229, 1.16092674705482, 0.34342602475343, -0.441547746111553,
                                    -0.0490608606790614, 0.147182582037184, 0.773951176233985, -1.78490540844616, 0, 1.01095423221217};
    static const int64_t start[] = {0, 4, 8, 12};
    double sum[12], got[12];
    tdm_advantages_gdpo(score[0], weight, 2, start, 3, sum, got);
    for (int i = 0; i < 12; i++) expect_near(got[i], want[i], 1e-7); /* TRL's count / (count - 1) is in FP32 */
    const double equal[4] = {2, 2, 2, 2};
    tdm_advantages_gdpo(equal, weight, 1, start, 1, sum, got);
    for (int i = 0; i < 4; i++) assert_true(got[i] == 0.0);
}

/* Rewards 1 and 3 of one group, two tokens and one; KLs of 1 and 2, and 4, each times 0.5: returns -0.5, 0 and 1; with the mean of 2 taken off -2.5, -2 and -1.
 * The one token that is in no loss has no KL and no advantage. */
static void a_token_s_return_is_less_the_kl_from_it_on(void **state)
{
    (void)state;
    static const int64_t start[] = {0, 2}, tokens[] = {3, 1};
    static const double reward[] = {1.0, 3.0}, want[2][3] = {{-0.5, 0.0, 1.0}, {-2.5, -2.0, -1.0}};
    for (int baseline = 0; baseline < 2; baseline++) {
        float a[] = {1.0f, NAN, 2.0f}, b[] = {4.0f}, *value[] = {a, b};
        double mean = 0.0, variance = 0.0;
        for (int i = 0; i < 3; i++) mean += want[baseline][i] / 3.0;
        for (int i = 0; i < 3; i++) variance += (want[baseline][i] - mean) * (want[baseline][i] - mean) / 3.0;
        tdm_advantages_by_token(baseline, reward, 0.5, tokens, start, 1, value);
        expect_near((double)a[0], (want[baseline][0] - mean) / sqrt(variance), 1e-6);
        expect_near((double)a[1], 0.0, 0.0);
        expect_near((double)a[2], (want[baseline][1] - mean) / sqrt(variance), 1e-6);
        expect_near((double)b[0], (want[baseline][2] - mean) / sqrt(variance), 1e-6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reinforce_pp_is_standard_over_tokens),
        cmocka_unit_test(advantages_in_the_place_of_rewards_are_the_same),
        cmocka_unit_test(gdpo_s_advantages_are_trl_s),
        cmocka_unit_test(a_token_s_return_is_less_the_kl_from_it_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
