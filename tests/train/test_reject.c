/* tests/train/test_reject.c  labels: unit
 * What leaves the loss where sampler and trainer differ: every rule by hand, on one sequence. That the rules are verl's is shown in test_loss_goldens.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "train/reject.h"

enum { TOKENS = 4 };
/* ln r of 0.5, -0.25, 0 and -1, the third in no loss: k2 0.125, 0.03125 and 0.5; k3 0.1487, 0.0288 and 0.3679. Sums: k1 0.75, k2 0.65625, k3 0.5454. */
static const float old_lp[TOKENS] = {-1.0f, -2.0f, -3.0f, -4.0f}, sampler[TOKENS] = {-1.5f, -1.75f, -3.0f, -3.0f};
static const uint8_t in_loss[TOKENS] = {1, 1, 0, 1};

static const struct { tdm_reject_rule rule; uint8_t keep[TOKENS]; } rules[] = {
    {{TDM_REJECT_TOKEN_K1, 0.5, 2.0}, {1, 1, 0, 0}}, /* -0.5, 0.25 and 1 against -0.693 and 0.693 */
    {{TDM_REJECT_TOKEN_K2, 0.0, 0.2}, {1, 1, 0, 0}},
    {{TDM_REJECT_TOKEN_K3, 0.0, 0.1}, {0, 1, 0, 0}},
    {{TDM_REJECT_SEQ_SUM_K1, 0.5, 2.0}, {0, 0, 0, 0}},
    {{TDM_REJECT_SEQ_SUM_K1, 0.5, 2.2}, {1, 1, 0, 1}}, /* ln 2.2 = 0.788 */
    {{TDM_REJECT_SEQ_SUM_K2, 0.0, 0.65}, {0, 0, 0, 0}},
    {{TDM_REJECT_SEQ_SUM_K2, 0.0, 0.66}, {1, 1, 0, 1}},
    {{TDM_REJECT_SEQ_SUM_K3, 0.0, 0.54}, {0, 0, 0, 0}},
    {{TDM_REJECT_SEQ_SUM_K3, 0.0, 0.55}, {1, 1, 0, 1}},
    {{TDM_REJECT_SEQ_MEAN_K1, 0.9, 1.28}, {0, 0, 0, 0}}, /* 0.25 against ln 1.28 = 0.247 */
    {{TDM_REJECT_SEQ_MEAN_K1, 0.9, 1.29}, {1, 1, 0, 1}},
    {{TDM_REJECT_SEQ_MEAN_K2, 0.0, 0.21}, {0, 0, 0, 0}},
    {{TDM_REJECT_SEQ_MEAN_K2, 0.0, 0.22}, {1, 1, 0, 1}},
    {{TDM_REJECT_SEQ_MEAN_K3, 0.0, 0.18}, {0, 0, 0, 0}},
    {{TDM_REJECT_SEQ_MEAN_K3, 0.0, 0.19}, {1, 1, 0, 1}},
    {{TDM_REJECT_SEQ_MAX_K2, 0.0, 0.49}, {0, 0, 0, 0}},
    {{TDM_REJECT_SEQ_MAX_K2, 0.0, 0.5}, {1, 1, 0, 1}},
    {{TDM_REJECT_SEQ_MAX_K3, 0.0, 0.36}, {0, 0, 0, 0}},
    {{TDM_REJECT_SEQ_MAX_K3, 0.0, 0.37}, {1, 1, 0, 1}},
};

static void expect_kept(const tdm_reject_config *c, const uint8_t want[TOKENS], bool vetoed)
{
    uint8_t keep[TOKENS];
    int left = 0;
    tdm_reject_sums s = {0};
    memcpy(keep, in_loss, sizeof keep);
    tdm_reject(c, old_lp, sampler, TOKENS, keep, &s);
    for (int i = 0; i < TOKENS; i++) {
        left += want[i];
        assert_int_equal(keep[i], want[i] ? 1 : in_loss[i] ? 2 : 0);
    }
    assert_int_equal(s.tokens, 3);
    assert_int_equal(s.rejected, 3 - left);
    assert_int_equal(s.sequences, 1);
    assert_int_equal(s.touched, left < 3);
    assert_int_equal(s.vetoed, vetoed);
}

static void a_rule_rejects_tokens_or_sequences(void **state)
{
    (void)state;
    for (size_t k = 0; k < TDM_COUNT(rules); k++) {
        const tdm_reject_config c = {.rule = {rules[k].rule}, .count = 1};
        expect_kept(&c, rules[k].keep, false);
    }
}

static void every_rule_sees_all_tokens(void **state)
{
    (void)state;
    static const uint8_t want[TOKENS] = {0, 1, 0, 0}, none[TOKENS] = {0};
    const tdm_reject_config both = {.rule = {{TDM_REJECT_TOKEN_K3, 0.0, 0.1}, {TDM_REJECT_SEQ_SUM_K3, 0.0, 0.55}}, .count = 2};
    const tdm_reject_config turned = {.rule = {{TDM_REJECT_TOKEN_K3, 0.0, 0.1}, {TDM_REJECT_SEQ_SUM_K3, 0.0, 0.54}}, .count = 2};
    expect_kept(&both, want, false);
    expect_kept(&turned, none, false); /* the rejected tokens are in its sum */
}

static void one_token_vetoes_its_sequence(void **state)
{
    (void)state;
    static const uint8_t none[TOKENS] = {0};
    expect_kept(&(tdm_reject_config){.veto = 0.37}, none, true);     /* e^-1 = 0.3679 */
    expect_kept(&(tdm_reject_config){.veto = 0.36}, in_loss, false);
}

static void what_cannot_be_compared_goes(void **state)
{
    (void)state;
    static const float nothing[2] = {-INFINITY, -1.0f}, also[2] = {-INFINITY, -1.0f};
    uint8_t keep[2] = {1, 1};
    tdm_reject_sums s = {0};
    tdm_reject(&(tdm_reject_config){.rule = {{TDM_REJECT_TOKEN_K3, 0.0, 1.0}}, .count = 1}, nothing, also, 2, keep, &s);
    assert_int_equal(keep[0], 2);
    assert_int_equal(keep[1], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rule_rejects_tokens_or_sequences),
        cmocka_unit_test(every_rule_sees_all_tokens),
        cmocka_unit_test(one_token_vetoes_its_sequence),
        cmocka_unit_test(what_cannot_be_compared_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
