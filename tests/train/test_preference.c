/* tests/train/test_preference.c  labels: unit
 * The losses of train/preference.h on a few sequences: values by hand, d loss / d log-probability against differences for every loss, and
 * what the metrics are sums of. That they are TRL's is shown in tests/conformance/train.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/preference.h"

enum { COUNT = 6 };

static void expect_near(double got, double want, double within)
{
    if (!(fabs(got - want) <= within)) fail_msg("%.12g, want %.12g within %.1g", got, want, within);
}

/* Three pairs, or six labelled answers: ratios on both sides of 0 and of the hinge, lengths that differ. */
static void fill(tdm_preference_sequence s[COUNT], tdm_preference_kind kind)
{
    static const double lp[COUNT] = {-7.5, -9.0, -4.0, -3.0, -12.0, -30.0}, ref[COUNT] = {-8.0, -8.5, -3.0, -5.0, -14.0, -20.0};
    static const int64_t tokens[COUNT] = {3, 4, 2, 5, 6, 8};
    for (int i = 0; i < COUNT; i++)
        s[i] = (tdm_preference_sequence){.lp = lp[i], .ref = tdm_preference_reference(kind) ? ref[i] : 0.0, .tokens = tokens[i],
                                         .prompt_lp = kind == TDM_PREFERENCE_ORPO && i % 2 == 0 ? -5.0 - i : 0.0,
                                         .prompt_tokens = kind == TDM_PREFERENCE_ORPO && i % 2 == 0 ? 2 + i : 0,
                                         .wanted = tdm_preference_pairs(kind) ? i % 2 == 0 : i != 1 && i != 4};
}

static double loss_of(const tdm_preference_config *c, tdm_preference_sequence s[COUNT], double z)
{
    tdm_preference_sums sums = {0};
    tdm_preference_eval(c, s, COUNT, z, &sums);
    return sums.loss;
}

static tdm_preference_config config_of(tdm_preference_kind kind)
{
    return (tdm_preference_config){.kind = kind, .beta = 0.4, .desirable = 1.25, .undesirable = 0.75};
}

static void coefficients_are_the_loss_s_derivatives(void **state)
{
    (void)state;
    const double step = 1e-5, z = 0.7;
    for (int kind = TDM_PREFERENCE_SIGMOID; kind <= TDM_PREFERENCE_KTO; kind++)
        for (int more = 0; more < 4; more++) {
            tdm_preference_config c = config_of((tdm_preference_kind)kind);
            const bool dpo = kind < TDM_PREFERENCE_ORPO, smooth = kind == TDM_PREFERENCE_SIGMOID || kind == TDM_PREFERENCE_ROBUST;
            if ((more & 1 && !dpo) || (more & 2 && !smooth)) continue;
            if (more & 1) c.sft = 0.3;
            if (more & 2) c.smoothing = 0.2;
            tdm_preference_sequence s[COUNT], t[COUNT];
            double largest = 0.0;
            fill(s, c.kind);
            loss_of(&c, s, z);
            for (int i = 0; i < COUNT; i++)
                for (int prompt = 0; prompt < 2; prompt++) {
                    double at[2];
                    for (int side = 0; side < 2; side++) {
                        fill(t, c.kind);
                        *(prompt ? &t[i].prompt_lp : &t[i].lp) += side ? step : -step;
                        at[side] = loss_of(&c, t, z);
                    }
                    if (prompt && s[i].prompt_tokens == 0) continue; /* nothing of it is scored */
                    expect_near(prompt ? s[i].prompt_coef : s[i].coef, (at[1] - at[0]) / (2.0 * step), 1e-8);
                    largest = fmax(largest, fabs(s[i].coef));
                }
            assert_true(largest > 1e-3);
        }
}

/* One pair of d = 1.5 - (-0.5) = 2 and beta 0.4: sigmoid, hinge and ipo as the papers write them. */
static void a_pair_by_hand(void **state)
{
    (void)state;
    const struct { tdm_preference_kind kind; double smoothing, sft, loss; } cases[] = {
        {TDM_PREFERENCE_SIGMOID, 0.0, 0.0, -log(1.0 / (1.0 + exp(-0.8)))},
        {TDM_PREFERENCE_SIGMOID, 0.25, 0.0, -0.75 * log(1.0 / (1.0 + exp(-0.8))) - 0.25 * log(1.0 / (1.0 + exp(0.8)))},
        {TDM_PREFERENCE_ROBUST, 0.25, 0.0, (-0.75 * log(1.0 / (1.0 + exp(-0.8))) + 0.25 * log(1.0 / (1.0 + exp(0.8)))) / 0.5},
        {TDM_PREFERENCE_HINGE, 0.0, 0.0, 0.2},
        {TDM_PREFERENCE_IPO, 0.0, 0.0, (0.5 + 0.25 - 1.25) * (0.5 + 0.25 - 1.25)},
        {TDM_PREFERENCE_HINGE, 0.0, 0.5, 0.2 + 0.5 * 2.5},
    };
    for (size_t k = 0; k < TDM_COUNT(cases); k++) {
        tdm_preference_sequence s[2] = {{.lp = -7.5, .ref = -9.0, .tokens = 3, .wanted = true}, {.lp = -6.0, .ref = -5.5, .tokens = 2}};
        const tdm_preference_config c = {.kind = cases[k].kind, .beta = 0.4, .smoothing = cases[k].smoothing, .sft = cases[k].sft};
        tdm_preference_sums sums = {0};
        tdm_preference_eval(&c, s, 2, 0.0, &sums);
        expect_near(sums.loss, cases[k].loss, 1e-12);
        expect_near(sums.reward[1], 0.6, 1e-12);
        expect_near(sums.reward[0], -0.2, 1e-12);
        expect_near(sums.lp[1], -7.5, 0.0);
        expect_near(sums.accuracy, 1.0, 0.0);
        expect_near(sums.nll, cases[k].sft > 0.0 ? 2.5 : 0.0, 0.0);
    }
}

/* p = 1/2 and 1/4 a token: odds of 1 and 1/3. */
static void odds_by_hand(void **state)
{
    (void)state;
    tdm_preference_sequence s[2] = {{.lp = 3.0 * log(0.5), .tokens = 3, .prompt_lp = -4.0, .prompt_tokens = 5, .wanted = true},
                                    {.lp = 2.0 * log(0.25), .tokens = 2}};
    const tdm_preference_config c = {.kind = TDM_PREFERENCE_ORPO, .beta = 0.4};
    tdm_preference_sums sums = {0};
    tdm_preference_eval(&c, s, 2, 0.0, &sums);
    expect_near(sums.log_odds, log(3.0), 1e-12);
    expect_near(sums.log_odds_ratio, log(0.75), 1e-12);
    expect_near(sums.nll, (4.0 - 3.0 * log(0.5)) / 8.0, 1e-12);
    expect_near(sums.loss, sums.nll - 0.4 * log(0.75), 1e-12);
    expect_near(sums.reward[1], 0.4 * log(0.5), 1e-12);
    expect_near(s[1].prompt_coef, 0.0, 0.0);
}

static void labels_by_hand(void **state)
{
    (void)state;
    tdm_preference_sequence s[2] = {{.lp = -3.0, .ref = -5.0, .tokens = 3, .wanted = true}, {.lp = -6.0, .ref = -5.0, .tokens = 2}};
    const tdm_preference_config c = {.kind = TDM_PREFERENCE_KTO, .beta = 0.5, .desirable = 2.0, .undesirable = 3.0};
    tdm_preference_sums sums = {0};
    tdm_preference_eval(&c, s, 2, 1.0, &sums); /* 2 - 1 and 1 + 1, times beta */
    expect_near(sums.loss, 0.5 * (2.0 / (1.0 + exp(0.5)) + 3.0 / (1.0 + exp(1.0))), 1e-12);
    assert_true(s[0].coef < 0.0 && s[1].coef > 0.0);
    expect_near(sums.kl, 1.0, 0.0);
    expect_near(tdm_preference_kl(s, 2), 0.5, 1e-12);
    expect_near(tdm_preference_kl(s + 1, 1), 0.0, 0.0); /* -1: never below 0 */
}

/* Far from 0 nothing overflows, and a pair that is right already teaches nothing. */
static void scores_by_hand(void **state)
{
    (void)state;
    const double center = 0.05, step = 1e-6, score[4] = {1.5, 0.25, -0.5, 0.75}, margin[2] = {0.0, 0.5};
    const tdm_preference_config c = {.kind = TDM_PREFERENCE_REWARD, .center = center};
    tdm_preference_sequence s[4];
    double want = 0.0;
    for (int i = 0; i < 4; i++) s[i] = (tdm_preference_sequence){.tokens = 1, .score = score[i], .margin = i % 2 ? 0.0 : margin[i / 2], .wanted = i % 2 == 0};
    for (int k = 0; k < 2; k++) {
        const double x = score[2 * k] - score[2 * k + 1] - margin[k], sum = score[2 * k] + score[2 * k + 1];
        want += 0.5 * (log1p(exp(-x)) + center * sum * sum);
    }
    tdm_preference_sums sums = {0};
    tdm_preference_eval(&c, s, 4, 0.0, &sums);
    expect_near(sums.loss, want, 1e-12);
    expect_near(sums.accuracy, 1.0, 0.0); /* of two pairs */
    expect_near(sums.reward[1], 1.0, 1e-12);
    expect_near(sums.reward[0], 1.0, 1e-12);
    double coef[4];
    for (int i = 0; i < 4; i++) coef[i] = s[i].coef;
    for (int i = 0; i < 4; i++) {
        tdm_preference_sums up = {0}, down = {0};
        s[i].score = score[i] + step;
        tdm_preference_eval(&c, s, 4, 0.0, &up);
        s[i].score = score[i] - step;
        tdm_preference_eval(&c, s, 4, 0.0, &down);
        s[i].score = score[i];
        expect_near(coef[i], (up.loss - down.loss) / (2.0 * step), 1e-8);
    }
}

static void extremes_stay_finite(void **state)
{
    (void)state;
    for (int kind = TDM_PREFERENCE_SIGMOID; kind <= TDM_PREFERENCE_KTO; kind++)
        for (int sign = -1; sign <= 1; sign += 2) {
            const tdm_preference_config c = config_of((tdm_preference_kind)kind);
            const double far = 20000.0, near = 1e-9;
            tdm_preference_sequence s[2] = {{.lp = sign > 0 ? -near : -far, .tokens = 4, .wanted = true}, {.lp = sign > 0 ? -far : -near, .tokens = 4}};
            tdm_preference_sums sums = {0};
            tdm_preference_eval(&c, s, 2, 0.0, &sums);
            assert_true(isfinite(sums.loss) && isfinite(s[0].coef) && isfinite(s[1].coef));
            if (sign > 0 && (kind == TDM_PREFERENCE_SIGMOID || kind == TDM_PREFERENCE_HINGE)) expect_near(s[0].coef, 0.0, 1e-12);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coefficients_are_the_loss_s_derivatives),
        cmocka_unit_test(a_pair_by_hand),
        cmocka_unit_test(odds_by_hand),
        cmocka_unit_test(labels_by_hand),
        cmocka_unit_test(scores_by_hand),
        cmocka_unit_test(extremes_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
