/* tests/train/test_loss.c  labels: unit
 * The losses of train/loss.h on a few numbers: the weights of the correction and how they are counted, by hand; d loss / d log-probability
 * against differences, for every combination of ratio, level and correction. That they are TRL's is shown in tests/conformance/train.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/loss.h"

enum { TOKENS = 4 };
/* Ratios of trainer to sampler 0.25, 1, 0.5 and 4: their product is 0.5, the geometric mean 0.5^(1/4) = 0.840896. */
static const float old_lp[TOKENS] = {-3.0f, -2.0f, -1.0f, -4.0f};
static const double ratios[TOKENS] = {0.25, 1.0, 0.5, 4.0};

static void sampler_of(float out[TOKENS])
{
    for (int i = 0; i < TOKENS; i++) out[i] = (float)(old_lp[i] - log(ratios[i]));
}

static void expect_near(double got, double want, double within)
{
    if (!(fabs(got - want) <= within)) fail_msg("%.9g, want %.9g within %.1g", got, want, within);
}

static tdm_loss_config config_of(tdm_level level, tdm_correction correction, double floor, double cap)
{
    return (tdm_loss_config){.kind = TDM_LOSS_DAPO, .clip_low = 0.2, .clip_high = 0.2, .correction = correction, .level = level, .floor = floor, .cap = cap};
}

static const struct { tdm_level level; tdm_correction correction; double floor, cap, u[TOKENS], low, high; } weights[] = {
    {TDM_LEVEL_TOKEN, TDM_CORRECTION_TRUNCATE, 0.0, 2.0, {0.25, 1, 0.5, 2}, 0, 0.25},
    {TDM_LEVEL_TOKEN, TDM_CORRECTION_TRUNCATE, 0.4, 2.0, {0.4, 1, 0.5, 2}, 0.25, 0.25},
    {TDM_LEVEL_TOKEN, TDM_CORRECTION_MASK, 0.0, 2.0, {0.25, 1, 0.5, 0}, 0, 0.25},
    {TDM_LEVEL_TOKEN, TDM_CORRECTION_MASK, 0.6, 2.0, {0, 1, 0, 0}, 0.5, 0.25}, /* IcePop */
    {TDM_LEVEL_TOKEN, TDM_CORRECTION_MASK, 0.2, 5.0, {0.25, 1, 0.5, 4}, 0, 0},
    {TDM_LEVEL_SEQUENCE, TDM_CORRECTION_TRUNCATE, 0.0, 2.0, {0.5, 0.5, 0.5, 0.5}, 0, 0},
    {TDM_LEVEL_SEQUENCE, TDM_CORRECTION_TRUNCATE, 0.6, 2.0, {0.6, 0.6, 0.6, 0.6}, 1, 0},
    {TDM_LEVEL_SEQUENCE, TDM_CORRECTION_TRUNCATE, 0.0, 0.4, {0.4, 0.4, 0.4, 0.4}, 0, 1},
    {TDM_LEVEL_SEQUENCE, TDM_CORRECTION_MASK, 0.6, 2.0, {0, 0, 0, 0}, 1, 0},
    {TDM_LEVEL_GEOMETRIC, TDM_CORRECTION_MASK, 0.84, 1.2, {0.840896415, 0.840896415, 0.840896415, 0.840896415}, 0, 0},
    {TDM_LEVEL_GEOMETRIC, TDM_CORRECTION_MASK, 0.85, 1.2, {0, 0, 0, 0}, 1, 0},
    {TDM_LEVEL_GEOMETRIC, TDM_CORRECTION_TRUNCATE, 0.85, 1.2, {0.85, 0.85, 0.85, 0.85}, 1, 0},
};

/* With lp = old the ratio is 1, and an advantage of -1 gives each token its weight as loss and as coefficient. */
static void a_weight_is_of_its_level_and_within_its_bounds(void **state)
{
    (void)state;
    float sampler[TOKENS], coef[TOKENS];
    sampler_of(sampler);
    for (size_t k = 0; k < TDM_COUNT(weights); k++)
        for (int frozen = 0; frozen < 2; frozen++) { /* the first pass freezes nothing: old is lp */
            const tdm_loss_config c = config_of(weights[k].level, weights[k].correction, weights[k].floor, weights[k].cap);
            const tdm_loss_tokens t = {.count = TOKENS, .lp = old_lp, .old = frozen ? old_lp : NULL, .sampler = sampler, .advantage = -1.0, .weight = 1.0};
            tdm_loss_sums s = {0};
            double sum = 0.0, least = INFINITY, most = -INFINITY;
            assert_int_equal(tdm_loss_needs_sequence(&c), weights[k].level != TDM_LEVEL_TOKEN);
            tdm_loss_eval(&c, &t, 0, TOKENS, coef, &s);
            for (int i = 0; i < TOKENS; i++) {
                expect_near((double)coef[i], weights[k].u[i], 1e-6);
                sum += weights[k].u[i];
                least = fmin(least, weights[k].u[i]);
                most = fmax(most, weights[k].u[i]);
            }
            const double n = weights[k].level == TDM_LEVEL_TOKEN ? TOKENS : 1;
            expect_near(s.loss, sum, 1e-6);
            assert_int_equal(s.importance_count, n);
            expect_near(s.importance, sum * n / TOKENS, 1e-6);
            expect_near(s.importance_min, least, 1e-6);
            expect_near(s.importance_max, most, 1e-6);
            expect_near((double)s.importance_low, weights[k].low * n, 0.0);
            expect_near((double)s.importance_high, weights[k].high * n, 0.0);
        }
}

static void masked_tokens_have_no_part_in_their_sequence(void **state)
{
    (void)state;
    static const uint8_t mask[TOKENS] = {0, 1, 1, 0}; /* ratios 1 and 0.5 */
    float sampler[TOKENS], coef[TOKENS];
    sampler_of(sampler);
    const double want[] = {0.75, 0.5, sqrt(0.5)}; /* the mean of the tokens' weights, which a ratio of the sequence has; product; geometric mean */
    for (int level = TDM_LEVEL_TOKEN; level <= TDM_LEVEL_GEOMETRIC; level++) {
        tdm_loss_config c = config_of((tdm_level)level, TDM_CORRECTION_TRUNCATE, 0.0, 2.0);
        c.ratio_of_sequence = true;
        const tdm_loss_tokens t = {.count = TOKENS, .lp = old_lp, .old = old_lp, .sampler = sampler, .mask = mask, .advantage = -1.0, .weight = 1.0};
        tdm_loss_sums s = {0};
        tdm_loss_eval(&c, &t, 0, TOKENS, coef, &s);
        for (int i = 0; i < TOKENS; i++) expect_near((double)coef[i], mask[i] ? want[level] : 0.0, 1e-6);
        expect_near(s.loss, 2.0 * want[level], 1e-6);
        assert_int_equal(s.importance_count, level == TDM_LEVEL_TOKEN ? 2 : 1);
    }
}

static void a_sampler_at_its_limits_gives_a_bound_or_nothing(void **state)
{
    (void)state;
    static const float nothing[1] = {-INFINITY}, lp[1] = {-2.0f};
    for (int correction = TDM_CORRECTION_TRUNCATE; correction <= TDM_CORRECTION_MASK; correction++) {
        const tdm_loss_config c = config_of(TDM_LEVEL_TOKEN, (tdm_correction)correction, 0.5, 2.0);
        const tdm_loss_tokens never = {.count = 1, .lp = lp, .sampler = nothing, .advantage = -1.0, .weight = 1.0};
        const tdm_loss_tokens both = {.count = 1, .lp = lp, .old = nothing, .sampler = nothing, .advantage = 0.0, .weight = 1.0};
        tdm_loss_sums s = {0};
        float coef;
        tdm_loss_eval(&c, &never, 0, 1, &coef, &s);
        expect_near((double)coef, correction == TDM_CORRECTION_TRUNCATE ? 2.0 : 0.0, 0.0);
        assert_int_equal(s.importance_high, 1);
        s = (tdm_loss_sums){0};
        tdm_loss_eval(&c, &both, 0, 1, &coef, &s);
        expect_near(s.importance_max, 0.0, 0.0); /* -inf on both sides: no ratio, no weight */
        assert_int_equal(s.importance_low + s.importance_high, 0);
    }
}

static void without_a_correction_or_a_sampler_nothing_is_weighed(void **state)
{
    (void)state;
    float sampler[TOKENS], coef[TOKENS];
    sampler_of(sampler);
    for (int level = TDM_LEVEL_TOKEN; level <= TDM_LEVEL_GEOMETRIC; level++)
        for (int by_sequence = 0; by_sequence < 2; by_sequence++)
            for (int off = 0; off < 2; off++) {
                tdm_loss_config c = config_of((tdm_level)level, off ? TDM_CORRECTION_NONE : TDM_CORRECTION_MASK, 0.9, 1.1);
                c.ratio_of_sequence = by_sequence;
                const tdm_loss_tokens t = {.count = TOKENS, .lp = old_lp, .old = old_lp, .sampler = off ? sampler : NULL, .advantage = -1.0, .weight = 1.0};
                tdm_loss_sums s = {0};
                tdm_loss_eval(&c, &t, 0, TOKENS, coef, &s);
                for (int i = 0; i < TOKENS; i++) assert_true(coef[i] == 1.0f);
                assert_int_equal(s.importance_count, 0);
            }
}

static double loss_at(const tdm_loss_config *c, tdm_loss_tokens t, const float *lp)
{
    float coef[TOKENS];
    tdm_loss_sums s = {0};
    t.lp = lp;
    tdm_loss_eval(c, &t, 0, TOKENS, coef, &s);
    return s.loss;
}

/* Differences of 2^-7, exact in the floats they are made in; the second order is below 1 % of a coefficient. */
static void coefficients_are_the_loss_s_derivatives(void **state)
{
    (void)state;
    static const float lp[TOKENS] = {-2.9375f, -2.0625f, -0.96875f, -4.03125f}, ref[TOKENS] = {-3.25f, -1.75f, -1.25f, -3.5f};
    const float step = 0x1p-7f;
    float sampler[TOKENS], coef[TOKENS];
    sampler_of(sampler);
    for (int level = TDM_LEVEL_TOKEN; level <= TDM_LEVEL_GEOMETRIC; level++)
        for (int correction = TDM_CORRECTION_NONE; correction <= TDM_CORRECTION_MASK; correction++)
            for (int by_sequence = 0; by_sequence < 2; by_sequence++) {
                tdm_loss_config c = config_of((tdm_level)level, (tdm_correction)correction, 0.3, 2.0);
                c.ratio_of_sequence = by_sequence;
                c.kl = 0.1;
                c.kl_kind = TDM_KL_K3;
                const tdm_loss_tokens t = {.count = TOKENS, .lp = lp, .old = old_lp, .sampler = sampler, .ref = ref, .advantage = 0.7, .weight = 0.5};
                tdm_loss_sums s = {0};
                tdm_loss_eval(&c, &t, 0, TOKENS, coef, &s);
                for (int i = 0; i < TOKENS; i++) {
                    float up[TOKENS], down[TOKENS];
                    memcpy(up, lp, sizeof lp);
                    memcpy(down, lp, sizeof lp);
                    up[i] += step;
                    down[i] -= step;
                    const double slope = (loss_at(&c, t, up) - loss_at(&c, t, down)) / (2.0 * (double)step);
                    expect_near((double)coef[i], slope, 1e-4);
                }
            }
}

/* Every loss, where some ratios are within the bounds and some past them on either side, none near one. A ratio that only weighs lp does not
 * move with it: there old and sampler go along, which leaves it as it is. */
static void every_loss_has_its_derivatives(void **state)
{
    (void)state;
    static const float lp[TOKENS] = {-2.9375f, -2.5f, -0.5f, -4.03125f}, ref[TOKENS] = {-3.25f, -1.75f, -1.25f, -3.5f};
    const float step = 0x1p-7f;
    float sampler[TOKENS], coef[TOKENS];
    sampler_of(sampler);
    for (int kind = 0; kind < TDM_LOSS_SFT; kind++)
        for (int by_sequence = 0; by_sequence < 2; by_sequence++)
            for (int level = TDM_LEVEL_TOKEN; level <= TDM_LEVEL_GEOMETRIC; level++)
                for (int side = 0; side < 2; side++) {
                    if ((kind == TDM_LOSS_GMPO || kind == TDM_LOSS_RLOO) && level == TDM_LEVEL_TOKEN) continue; /* refused by the recipe */
                    tdm_loss_config c = config_of((tdm_level)level, TDM_CORRECTION_TRUNCATE, 0.3, 2.0);
                    c.kind = (tdm_loss_kind)kind;
                    c.ratio_of_sequence = by_sequence;
                    c.sapo = (tdm_sapo){{1.5, 3.0}};
                    c.vespo = (tdm_vespo){{2.0, 1.0}, {1.5, 0.5}};
                    c.kl = 0.1;
                    c.kl_kind = TDM_KL_K2;
                    c.kl_input_clamp = 0.7; /* of differences 0.3125, 0.75, 0.75 and 0.53125 */
                    c.kl_output_clamp = 0.1; /* of squares / 2 from 0.0488 */
                    c.delta = kind <= TDM_LOSS_DAPO || kind == TDM_LOSS_LUSPO ? 1.5 : 0.0; /* of ratios to 1.649 */
                    const bool constant = kind == TDM_LOSS_CISPO || kind == TDM_LOSS_VESPO || kind >= TDM_LOSS_DPPO_TV;
                    if (kind >= TDM_LOSS_DPPO_TV && by_sequence) continue; /* the same */
                    const tdm_loss_tokens t = {.count = TOKENS, .lp = lp, .old = old_lp, .sampler = sampler, .ref = ref, .advantage = side ? -0.7 : 0.7, .weight = 0.5};
                    tdm_loss_sums s = {0};
                    tdm_loss_eval(&c, &t, 0, TOKENS, coef, &s);
                    for (int i = 0; i < TOKENS; i++) {
                        double loss[2];
                        for (int down = 0; down < 2; down++) {
                            float moved[3][TOKENS];
                            tdm_loss_tokens at = t;
                            memcpy(moved[0], lp, sizeof lp);
                            memcpy(moved[1], old_lp, sizeof old_lp);
                            memcpy(moved[2], sampler, sizeof sampler);
                            for (int k = 0; k < (constant ? 3 : 1); k++) moved[k][i] += down ? -step : step;
                            at.old = moved[1];
                            at.sampler = moved[2];
                            loss[down] = loss_at(&c, at, moved[0]);
                        }
                        expect_near((double)coef[i], (loss[0] - loss[1]) / (2.0 * (double)step), 1e-4);
                    }
                }
}

/* By hand: ratios of new to old e^0.0625, e^-0.5, e^0.5 and e^-0.03125, an advantage of 1, the sampler's log-probabilities the old ones. */
static void the_values_of_the_losses(void **state)
{
    (void)state;
    static const float lp[TOKENS] = {-2.9375f, -2.5f, -0.5f, -4.03125f};
    static const struct { tdm_loss_kind kind; double low, high, clipped, loss; } cases[] = {
        {TDM_LOSS_CISPO, 1.0, 0.2, 0.25, 2.9375 * 1.064494459 + 2.5 * 0.606530660 + 0.5 * 1.2 + 4.03125 * 0.969233234},
        {TDM_LOSS_CISPO, 0.2, 0.2, 0.25, 2.9375 * 1.064494459 + 2.5 * 0.8 + 0.5 * 1.2 + 4.03125 * 0.969233234},
        {TDM_LOSS_SAPO, 0.2, 0.2, 0.0, -4.0 * (0.516118028 + 0.402882407 + 0.656722246 + 0.492308915)},
        {TDM_LOSS_VESPO, 0.2, 0.2, 0.0, 9.96875 * 0.967799615}, /* ln W = 0.03125 */
        {TDM_LOSS_DPPO_TV, 0.2, 0.2, 0.25, 2.9375 * 1.064494459 + 2.5 * 0.606530660 + 4.03125 * 0.969233234}, /* p rises by 0.2387 */
        {TDM_LOSS_DPPO_TV, 0.2, 0.3, 0.0, 2.9375 * 1.064494459 + 2.5 * 0.606530660 + 0.5 * 1.648721271 + 4.03125 * 0.969233234},
        {TDM_LOSS_DPPO_KL, 0.2, 0.09, 0.25, 2.9375 * 1.064494459 + 2.5 * 0.606530660 + 4.03125 * 0.969233234}, /* of 0.3679 from 0.6065: 0.1159 */
        {TDM_LOSS_DPPO_KL, 0.2, 0.12, 0.0, 2.9375 * 1.064494459 + 2.5 * 0.606530660 + 0.5 * 1.648721271 + 4.03125 * 0.969233234},
        {TDM_LOSS_REINFORCE, 0.2, 0.2, 0.0, 2.9375 + 2.5 + 0.5 + 4.03125},
        {TDM_LOSS_RLOO, 0.2, 0.2, 0.0, -4.0 * 1.031743407},
        {TDM_LOSS_RLOO, 0.2, 0.02, 0.25, -4.0 * 1.02}, /* one sequence */
        {TDM_LOSS_GMPO, 0.4, 0.4, 0.25, -4.0 * 0.982959362},    /* the mean of 0.0625, -0.5, 0.4 and -0.03125 */
    };
    for (size_t k = 0; k < TDM_COUNT(cases); k++) {
        const tdm_loss_config c = {.kind = cases[k].kind, .clip_low = cases[k].low, .clip_high = cases[k].high, .sapo = {{1.0, 1.05}}, .vespo = {{2.0, 3.0}, {3.0, 2.0}}};
        const tdm_loss_tokens t = {.count = TOKENS, .lp = lp, .old = old_lp, .advantage = 1.0, .weight = 1.0};
        float coef[TOKENS];
        tdm_loss_sums s = {0};
        tdm_loss_eval(&c, &t, 0, TOKENS, coef, &s);
        expect_near(s.loss, cases[k].loss, 1e-5);
        expect_near(s.clipped, cases[k].clipped * TOKENS, 0.0);
    }
}

/* Means of sampler - lp: -0.12 and 0.02 against a threshold of 0. */
static void a_stale_sequence_of_negative_advantage_keeps_its_kl_alone(void **state)
{
    (void)state;
    static const float lp[2] = {-2.0f, -3.0f}, ref[2] = {-2.5f, -2.5f}, sampler[2][2] = {{-2.1f, -3.14f}, {-1.9f, -3.06f}};
    for (int kind = 0; kind < TDM_LOSS_SFT; kind++)
        for (int stale = 0; stale < 2; stale++)
            for (int from_old = 0; from_old < 2; from_old++)
                for (int side = 0; side < 2; side++) {
                    tdm_loss_config c = {.kind = (tdm_loss_kind)kind, .clip_low = 0.5, .clip_high = 0.5, .off_policy_threshold = 0.01, .kl = 0.5, .kl_kind = TDM_KL_K1,
                                         .sapo = {{1, 1}}, .vespo = {{1, 1}, {1, 1}}};
                    const tdm_loss_tokens t = {.count = 2, .lp = lp, .old = from_old ? sampler[stale] : lp, .sampler = from_old ? NULL : sampler[stale], .ref = ref,
                                               .advantage = side ? -1.0 : 1.0, .weight = 1.0};
                    float coef[2];
                    tdm_loss_sums s = {0};
                    assert_true(tdm_loss_needs_sequence(&c));
                    tdm_loss_eval(&c, &t, 0, 2, coef, &s);
                    assert_true((coef[0] == 0.5f) == (stale && side));
                    if (stale && side) expect_near(s.loss, 0.0, 1e-6); /* KL of 0.5 and -0.5 */
                }
}

/* 3 tokens of 12 in 4 sequences, at most 5 each. */
static void an_aggregation_is_of_any_loss(void **state)
{
    (void)state;
    static const double want[] = {0.0, 1.0 / 12.0, 1.0 / 12.0, 1.0 / 4.0, 1.0 / 20.0, 1.0};
    for (int kind = 0; kind < TDM_LOSS_SFT; kind++)
        for (int how = TDM_AGGREGATION_AUTO; how <= TDM_AGGREGATION_TOKEN_SUM; how++) {
            const tdm_loss_config c = {.kind = (tdm_loss_kind)kind, .aggregation = (tdm_aggregation)how, .max_new_tokens = 5};
            const tdm_aggregation used = how == TDM_AGGREGATION_AUTO ? tdm_loss_aggregation(c.kind) : c.aggregation;
            expect_near(tdm_loss_weight(&c, 3, 4, 12), want[used], 1e-15);
            expect_near(tdm_loss_weight(&c, 3, 4, 24), used == TDM_AGGREGATION_TOKEN_MEAN ? 1.0 / 24.0 : want[used], 1e-15);
        }
}

static void a_range_of_tokens_has_the_bits_of_the_whole(void **state)
{
    (void)state;
    float sampler[TOKENS], whole[TOKENS], part[TOKENS];
    sampler_of(sampler);
    const tdm_loss_config c = config_of(TDM_LEVEL_TOKEN, TDM_CORRECTION_MASK, 0.3, 2.0);
    const tdm_loss_tokens t = {.count = TOKENS, .lp = old_lp, .sampler = sampler, .advantage = 0.7, .weight = 0.5};
    tdm_loss_sums a = {0}, b = {0};
    tdm_loss_eval(&c, &t, 0, TOKENS, whole, &a);
    for (int i = 0; i < TOKENS; i++) tdm_loss_eval(&c, &t, i, 1, &part[i], &b);
    assert_memory_equal(whole, part, sizeof whole);
    assert_memory_equal(&a, &b, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_weight_is_of_its_level_and_within_its_bounds),
        cmocka_unit_test(masked_tokens_have_no_part_in_their_sequence),
        cmocka_unit_test(a_sampler_at_its_limits_gives_a_bound_or_nothing),
        cmocka_unit_test(without_a_correction_or_a_sampler_nothing_is_weighed),
        cmocka_unit_test(coefficients_are_the_loss_s_derivatives),
        cmocka_unit_test(every_loss_has_its_derivatives),
        cmocka_unit_test(the_values_of_the_losses),
        cmocka_unit_test(an_aggregation_is_of_any_loss),
        cmocka_unit_test(a_stale_sequence_of_negative_advantage_keeps_its_kl_alone),
        cmocka_unit_test(a_range_of_tokens_has_the_bits_of_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
