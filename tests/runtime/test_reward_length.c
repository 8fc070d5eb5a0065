/* labels: unit
 *
 * The reward `length` against TRL 1.16's get_soft_overlong_punishment(100, 20) and, with another penalty, verl's overlong_buffer
 * {len: 20, penalty_factor: 0.5} with max_resp_len 100: min(-exceeding / len * penalty_factor, 0). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/reward/reward.h"

static const struct { int64_t tokens; double want; } cases[] = {{1, 0}, {80, 0}, {81, -0.05}, {90, -0.5}, {99, -0.95}, {100, -1}};

static void it_is_the_soft_overlong_punishment(void **state)
{
    (void)state;
    static const char text[] = "model: {path: m}\ndata: {train: t}\nreward: [{type: length, max: 100, buffer: 20}, "
                               "{type: length, max: 100, buffer: 20, penalty: 0.5, name: half}]\n";
    tdm_recipe *r;
    tdm_rewards *rewards;
    tdm_error err = {0};
    if (tdm_recipe_parse(&r, text, strlen(text), "a.yaml", NULL, 0, &err) != TDM_OK) fail_msg("%s", err.what);
    assert_int_equal(tdm_rewards_open(&rewards, r, &err), TDM_OK);
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        const tdm_reward_sample s = {.completion = "", .ids_count = cases[i].tokens};
        double got[2];
        assert_int_equal(tdm_rewards_score(rewards, &s, 1, got, &err), TDM_OK);
        if (fabs(got[0] - cases[i].want) > 1e-12 || fabs(got[1] - 0.5 * cases[i].want) > 1e-12)
            fail_msg("%d tokens: %g and %g, should be %g and its half", (int)cases[i].tokens, got[0], got[1], cases[i].want);
    }
    tdm_rewards_close(rewards);
    tdm_recipe_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_is_the_soft_overlong_punishment)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
