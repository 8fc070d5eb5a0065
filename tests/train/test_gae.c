/* tests/train/test_gae.c  labels: unit, golden
 * Advantages, returns, whitening and the critic's loss of train/gae.h against verl's in float64 (tests/golden/make_goldens_ppo.py), with masks that
 * have holes; the loss's derivative there and by hand at its bounds. Float32 inputs and outputs leave 1e-6 of a number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "train/gae.h"

enum { ROWS = 5, COLS = 12 };

typedef struct table {
    float x[ROWS][COLS];
} table;

static table read_table(const json_t *c, const char *key)
{
    table t;
    const json_t *rows = json_object_get(c, key);
    assert_int_equal(json_array_size(rows), ROWS);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t k = 0; k < COLS; k++) t.x[r][k] = (float)json_number_value(json_array_get(json_array_get(rows, r), k));
    return t;
}

static void expect_near(const char *what, double got, double want)
{
    if (!(fabs(got - want) <= 1e-6 * (1.0 + fabs(want)))) fail_msg("%s: %.9g, verl %.9g", what, got, want);
}

static void expect_table(const char *what, const table *got, const table *want)
{
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < COLS; k++) expect_near(what, (double)got->x[r][k], (double)want->x[r][k]);
}

/* As a step does it: row after row, in three passes. */
static void whiten(table *t, bool shift, uint8_t mask[ROWS][COLS], const int64_t *lengths)
{
    tdm_moments m = {0};
    for (int r = 0; r < ROWS; r++) tdm_moments_add(&m, t->x[r], mask[r], lengths[r]);
    for (int r = 0; r < ROWS; r++) tdm_moments_add_squares(&m, t->x[r], mask[r], lengths[r]);
    for (int r = 0; r < ROWS; r++) tdm_whiten(&m, shift, t->x[r], mask[r], lengths[r]);
}

static void one_case(const json_t *c)
{
    const table values = read_table(c, "values"), mask_of = read_table(c, "mask"), new = read_table(c, "new");
    const table want_advantages = read_table(c, "advantages"), want_returns = read_table(c, "returns"), want_grad = read_table(c, "grad");
    table rewards = read_table(c, "rewards"), whitened = rewards, want_whitened = read_table(c, "whitened"), returns = {0}, grad = {0};
    const tdm_gae g = {.gamma = json_number_value(json_object_get(c, "gamma")), .lambda = json_number_value(json_object_get(c, "lambda"))};
    const tdm_value_config loss = {.clip = json_number_value(json_object_get(c, "clip")), .factor = 1.0};
    uint8_t mask[ROWS][COLS];
    int64_t lengths[ROWS], tokens = 0;
    tdm_value_sums sums = {0};
    for (int r = 0; r < ROWS; r++) {
        lengths[r] = json_integer_value(json_array_get(json_object_get(c, "lengths"), (size_t)r));
        for (int k = 0; k < COLS; k++) tokens += mask[r][k] = mask_of.x[r][k] != 0.0f;
    }
    whiten(&whitened, false, mask, lengths);
    expect_table("whitened rewards", &whitened, &want_whitened);
    for (int r = 0; r < ROWS; r++) tdm_gae_eval(&g, rewards.x[r], values.x[r], mask[r], lengths[r], rewards.x[r], returns.x[r]); /* in place */
    expect_table("returns", &returns, &want_returns);
    whiten(&rewards, true, mask, lengths);
    expect_table("advantages", &rewards, &want_advantages);
    for (int r = 0; r < ROWS; r++)
        for (int64_t k = 0; k < lengths[r]; k++)
            if (mask[r][k])
                grad.x[r][k] = (float)tdm_value_loss(&loss, (double)new.x[r][k], (double)values.x[r][k], (double)returns.x[r][k], 1.0 / (double)tokens, &sums);
    expect_table("d loss / d value", &grad, &want_grad);
    expect_near("value loss", sums.loss, json_number_value(json_object_get(c, "loss")));
    expect_near("clipped", (double)sums.clipped / (double)sums.tokens, json_number_value(json_object_get(c, "clipfrac")));
    assert_int_equal(sums.tokens, tokens);
    assert_true(sums.clipped > 0);
}

static void numbers_are_verl_s(void **state)
{
    (void)state;
    json_t *cases = json_load_file("tests/golden/data/gae.json", 0, NULL), *c;
    size_t i;
    assert_true(json_array_size(cases) > 0);
    json_array_foreach(cases, i, c) one_case(c);
    json_decref(cases);
}

static void a_value_past_its_bound_has_no_gradient_only_where_it_gained(void **state)
{
    (void)state;
    const tdm_value_config c = {.clip = 0.5, .factor = 2.0};
    tdm_value_sums s = {0};
    /* from 1 towards 3, past the bound of 1.5: the loss is that of 1.5 */
    assert_true(tdm_value_loss(&c, 2.0, 1.0, 3.0, 0.25, &s) == 0.0);
    expect_near("loss", s.loss, 2.0 * 0.25 * 0.5 * 1.5 * 1.5);
    assert_int_equal(s.clipped, 1);
    /* away from 3: the loss is the value's own, and pulls it back */
    expect_near("derivative", tdm_value_loss(&c, 0.0, 1.0, 3.0, 0.25, &s), 2.0 * 0.25 * -3.0);
    assert_int_equal(s.clipped, 1);
    /* within the bound */
    expect_near("derivative", tdm_value_loss(&c, 1.25, 1.0, 3.0, 0.25, &s), 2.0 * 0.25 * -1.75);
    assert_int_equal(s.tokens, 3);
}

static void one_token_is_whitened_to_nothing(void **state)
{
    (void)state;
    float x = 3.0f;
    tdm_moments m = {0};
    tdm_moments_add(&m, &x, NULL, 1);
    tdm_moments_add_squares(&m, &x, NULL, 1);
    tdm_whiten(&m, true, &x, NULL, 1);
    assert_true(x == 0.0f && tdm_moments_variance(&m) == 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_verl_s),
        cmocka_unit_test(a_value_past_its_bound_has_no_gradient_only_where_it_gained),
        cmocka_unit_test(one_token_is_whitened_to_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
