/* labels: unit
 *
 * Whole runs over preferences with the tiny golden model: which rows are read, refused and left out, and what a fresh adapter's first step
 * says. That losses and gradients are TRL's is shown in tests/conformance/train.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/run/metrics.h"
#include "testing/job_case.h"
#include "testing/scratch.h"

/* Two steps over `rows`; train: more keys of that section, which begin with the algorithm. */
static tdm_status run(const char *dir, const char *rows, const char *train, tdm_error *err)
{
    char text[2048];
    char *data = test_path(dir, "train.jsonl");
    test_file_put(data, rows);
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: fp8_channel}\nadapter: {rank: 4, dropout: 0.25}\n"
             "data: {train: %s, shuffle: false, max_prompt_tokens: 40}\nrollout: {max_new_tokens: 24}\n"
             "train: {algorithm: %s, steps: 2, lr: 0.01}\nlog: {report: false, tensorboard: false}\noutput: %s/run\nthreads: 1\n",
             data, train, dir);
    const tdm_status st = test_job_run(text, (tdm_job_options){0}, err);
    free(data);
    return st;
}

/* A run's metrics; NaN where there is no such key. */
typedef struct result {
    tdm_metrics_table m;
} result;

static result run_ok(const char *rows, const char *train)
{
    result out;
    tdm_error err;
    char *dir = test_scratch_new(), *path = test_path(dir, "run/metrics.jsonl");
    if (run(dir, rows, train, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    if (tdm_metrics_read(&out.m, path, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    assert_int_equal(out.m.rows, 2);
    free(path);
    test_scratch_free(dir);
    return out;
}

static double value(const result *r, int64_t step, const char *key)
{
    for (int64_t c = 0; c < r->m.cols; c++)
        if (strcmp(r->m.keys[c], key) == 0) return r->m.values[step * r->m.cols + c];
    return NAN;
}

static void expect_same(result *a, result *b)
{
    static const char *const keys[] = {"loss", "grad_norm", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "completion_tokens", "prompt_tokens"};
    for (int64_t step = 0; step < 2; step++)
        for (size_t k = 0; k < TDM_COUNT(keys); k++) {
            const double x = value(a, step, keys[k]), y = value(b, step, keys[k]);
            if (!(x == y)) fail_msg("step %d: %s is %.17g and %.17g", (int)step + 1, keys[k], x, y);
        }
    tdm_metrics_table_free(&a->m);
    tdm_metrics_table_free(&b->m);
}

#define USER(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define SAYS(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define TEXTS(p, c, r) "{\"prompt\":\"" p "\",\"chosen\":\"" c "\",\"rejected\":\"" r "\"}\n"
#define FOUR TEXTS("What is 1+2?", " 3", " the apples") TEXTS("the sum", " of 4", " pears") TEXTS("a?", " b", " cd") TEXTS("one", " two", " three")

/* B is 0, so the policy is the reference: dropout has nothing to drop, and the two passes agree to the bit. */
static void a_fresh_adapter_is_its_own_reference(void **state)
{
    (void)state;
    result r = run_ok(FOUR, "dpo, batch_size: 4");
    assert_true(value(&r, 0, "rewards/chosen") == 0.0 && value(&r, 0, "rewards/rejected") == 0.0 && value(&r, 0, "rewards/accuracies") == 0.0);
    assert_true(fabs(value(&r, 0, "loss") - log(2.0)) < 1e-8);
    assert_true(value(&r, 1, "rewards/margins") > 0.0); /* the same pairs again */
    assert_true(isnan(value(&r, 0, "kl")) && isnan(value(&r, 0, "nll_loss")) && isnan(value(&r, 0, "reward_mean")));
    tdm_metrics_table_free(&r.m);
    r = run_ok(FOUR, "orpo, batch_size: 4");
    assert_true(value(&r, 0, "nll_loss") > 0.0 && value(&r, 0, "log_odds_ratio") < 0.0 && value(&r, 1, "loss") < value(&r, 0, "loss"));
    tdm_metrics_table_free(&r.m);
}

static void kto_takes_answers_with_labels(void **state)
{
    (void)state;
    result r = run_ok("{\"prompt\":\"What is 1+2?\",\"completion\":\" 3\",\"label\":true}\n{\"prompt\":\"a\",\"completion\":\" b\",\"label\":true}\n",
                      "kto, batch_size: 2");
    assert_true(value(&r, 0, "loss") == 0.5 && value(&r, 0, "kl") == 0.0);
    assert_true(value(&r, 1, "rewards/chosen") > 0.0 && isnan(value(&r, 0, "rewards/rejected")) && isnan(value(&r, 0, "rewards/margins")));
    assert_true(isnan(value(&r, 0, "rewards/accuracies")));
    tdm_metrics_table_free(&r.m);
}

/* Two whole chats have the prompt they share. */
static void a_chat_can_bring_its_prompt_or_hold_it(void **state)
{
    (void)state;
    result a = run_ok("{\"prompt\":[" USER("Hello") "],\"chosen\":[" SAYS("Good day") "],\"rejected\":[" SAYS("What?") "]}\n", "dpo, batch_size: 1");
    result b = run_ok("{\"chosen\":[" USER("Hello") "," SAYS("Good day") "],\"rejected\":[" USER("Hello") "," SAYS("What?") "]}\n", "dpo, batch_size: 1");
    expect_same(&a, &b);
}

static void a_prompt_that_is_too_long_is_left_out(void **state)
{
    (void)state;
    char rows[2048], train[64];
    for (int kto = 0; kto < 2; kto++) {
        const char *shorter = kto ? "{\"prompt\":\"a\",\"completion\":\" b\",\"label\":true}\n{\"prompt\":\"c\",\"completion\":\" d\",\"label\":false}\n" : FOUR;
        const char *longer = kto ? "{\"prompt\":\"%070d\",\"completion\":\" b\",\"label\":true}\n%s" : "{\"prompt\":\"%070d\",\"chosen\":\" b\",\"rejected\":\" c\"}\n%s";
        snprintf(train, sizeof train, "%s, batch_size: 2", kto ? "kto" : "dpo");
        snprintf(rows, sizeof rows, longer, 0, shorter); /* 70 digits are 70 tokens, the context has 64 */
        result a = run_ok(rows, train), b = run_ok(shorter, train);
        if (kto) { /* two rows and three: the second step draws others */
            assert_true(value(&a, 0, "loss") == value(&b, 0, "loss") && value(&a, 0, "grad_norm") == value(&b, 0, "grad_norm"));
            tdm_metrics_table_free(&a.m);
            tdm_metrics_table_free(&b.m);
        } else expect_same(&a, &b);
    }
}

static void a_long_answer_is_cut(void **state)
{
    (void)state;
    char rows[512];
    snprintf(rows, sizeof rows, "{\"prompt\":\"12\",\"chosen\":\"%0100d\",\"rejected\":\" c\"}\n", 0);
    result r = run_ok(rows, "dpo, batch_size: 1");
    assert_true(value(&r, 0, "completion_tokens_max") == 62.0);
    tdm_metrics_table_free(&r.m);
}

static void expect_refused(const char *row, const char *train, const char *what)
{
    tdm_error err;
    char *dir = test_scratch_new();
    const tdm_status st = run(dir, row, train, &err);
    if (st != TDM_ERR_INPUT || !strstr(err.what, what) || !strstr(err.where, "train.jsonl:1") || !err.hint[0])
        fail_msg("status %d, \"%s\" (%s), expected \"%s\"", (int)st, err.what, err.where, what);
    test_scratch_free(dir);
}

static void a_row_that_is_no_preference_is_named(void **state)
{
    (void)state;
    static const char pair[] = "dpo, batch_size: 1", label[] = "kto, batch_size: 2";
    expect_refused("{\"prompt\":\"a\",\"chosen\":\"b\"}\n", pair, "no pair of answers");
    expect_refused("{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":[" SAYS("c") "]}\n", pair, "no pair of answers");
    expect_refused("{\"prompt\":\"a\",\"chosen\":[" USER("a") "," SAYS("b") "],\"rejected\":[" USER("a") "," SAYS("c") "]}\n", pair, "no pair of answers");
    expect_refused("{\"chosen\":\"b\",\"rejected\":\"c\"}\n", pair, "no pair of answers");
    expect_refused("{\"chosen\":[" USER("a") "," SAYS("b") "],\"rejected\":[" USER("z") "," SAYS("c") "]}\n", pair, "no message in common");
    expect_refused("{\"chosen\":[" USER("a") "," SAYS("b") "],\"rejected\":[" USER("a") "," SAYS("b") "]}\n", pair, "not two answers to one prompt");
    expect_refused("{\"prompt\":[" USER("a") "],\"chosen\":[],\"rejected\":[" SAYS("c") "]}\n", pair, "an answer is empty");
    expect_refused("{\"prompt\":\"\",\"chosen\":\"b\",\"rejected\":\"c\"}\n", pair, "nothing stands before the answer");
    expect_refused("{\"prompt\":\"a\",\"completion\":\"b\",\"label\":1}\n", label, "no answer with a label");
    expect_refused("{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n", label, "no answer with a label");
}

static void a_context_that_holds_no_prompt_ends_the_run(void **state)
{
    (void)state;
    char rows[512];
    tdm_error err;
    char *dir = test_scratch_new();
    snprintf(rows, sizeof rows, "{\"prompt\":\"%070d\",\"chosen\":\" b\",\"rejected\":\" c\"}\n", 0);
    assert_int_equal(run(dir, rows, "dpo, batch_size: 1", &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.what, "every prompt has 64 tokens or more"));
    test_scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fresh_adapter_is_its_own_reference),
        cmocka_unit_test(kto_takes_answers_with_labels),
        cmocka_unit_test(a_chat_can_bring_its_prompt_or_hold_it),
        cmocka_unit_test(a_prompt_that_is_too_long_is_left_out),
        cmocka_unit_test(a_long_answer_is_cut),
        cmocka_unit_test(a_row_that_is_no_preference_is_named),
        cmocka_unit_test(a_context_that_holds_no_prompt_ends_the_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
