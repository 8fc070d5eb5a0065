/* labels: unit
 *
 * data.eval in a whole run of the tiny golden model: answered when a checkpoint is due and at the end, by the model and not by the
 * sampler's dice; a failing evaluation leaves its step logged and saved; pass@k; the best checkpoint and the end of patience. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "memory/fs.h"
#include "runtime/run/metrics.h"
#include "runtime/run/pass_at.h"
#include "testing/job_case.h"
#include "testing/scratch.h"

static tdm_status run(const char *dir, const char *eval_rows, const char *reward, tdm_error *err)
{
    char text[2048];
    char *train = test_path(dir, "train.jsonl"), *eval = test_path(dir, "eval.jsonl");
    test_file_put(train, "{\"q\":\"one\",\"answer\":\"1\"}\n{\"q\":\"two\",\"answer\":\"2\"}\n");
    test_file_put(eval, eval_rows);
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: bf16}\nadapter: {rank: 4}\n"
             "data: {train: %s, eval: %s, prompt: '{q}', max_prompt_tokens: 48}\n"
             "rollout: {prompts_per_step: 2, generations: 2, max_new_tokens: 8}\nreward: [%s]\n"
             "train: {steps: 3, lr: 0, micro_tokens: 128}\ncheckpoint: {every: 2}\nlog: {report: false, tensorboard: false}\noutput: %s/run\nthreads: 1\n",
             train, eval, reward, dir);
    const tdm_status st = test_job_run(text, (tdm_job_options){0}, err);
    free(train);
    free(eval);
    return st;
}

static double value_at(const tdm_metrics_table *m, int64_t row, const char *key)
{
    for (int64_t c = 0; c < m->cols; c++)
        if (strcmp(m->keys[c], key) == 0) return m->values[row * m->cols + c];
    return 0.0 / 0.0;
}

static tdm_metrics_table metrics_of(const char *dir)
{
    char *path = test_path(dir, "run/metrics.jsonl");
    tdm_metrics_table m;
    tdm_error err = {0};
    assert_int_equal(tdm_metrics_read(&m, path, &err), TDM_OK);
    free(path);
    return m;
}

static void it_is_answered_when_a_checkpoint_is_due(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    tdm_error err;
    /* five rows are more than one batch of two prompts, and one of them is too long: it is left out */
    const char *rows = "{\"q\":\"one\"}\n{\"q\":\"two\"}\n{\"q\":\"three\"}\n"
                       "{\"q\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6\"}\n"
                       "{\"q\":\"four\"}\n";
    if (run(dir, rows, "{type: regex, name: has_e, pattern: e}, {type: length, buffer: 4, weight: 2}", &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    tdm_metrics_table m = metrics_of(dir);
    assert_int_equal(m.rows, 3);
    const double first = value_at(&m, 0, "eval/reward_mean"), second = value_at(&m, 1, "eval/reward_mean"), last = value_at(&m, 2, "eval/reward_mean");
    assert_true(first != first);                    /* step 1: nothing is due */
    assert_true(second == second && second == last); /* lr 0: the same model gives the same answers, whatever the step's draws */
    const double e = value_at(&m, 1, "eval/has_e"), length = value_at(&m, 1, "eval/length");
    assert_true(second - (e + 2 * length) < 1e-6 && (e + 2 * length) - second < 1e-6);
    assert_true(e * 4 == (double)(int)(e * 4)); /* a mean over the four rows that fit */
    tdm_metrics_table_free(&m);
    test_scratch_free(dir);
}

static void a_failing_evaluation_loses_no_step(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *saved = test_path(dir, "run/checkpoints/step-000002/state.json");
    tdm_error err;
    assert_int_equal(run(dir, "{\"q\":\"one\"}\n", "{type: exact}", &err), TDM_ERR_INPUT);
    assert_string_equal(err.what, "the template wants the column \"answer\"");
    tdm_metrics_table m = metrics_of(dir);
    assert_int_equal(m.rows, 2);
    assert_true(tdm_fs_is_file(saved));
    tdm_metrics_table_free(&m);
    free(saved);
    test_scratch_free(dir);
}

/* 1 - C(n - c, k) / C(n, k) with the binomials written out. */
static void pass_at_k_is_the_unbiased_estimator(void **state)
{
    (void)state;
    static const struct { int64_t n, c, k; double want; } cases[] = {
        {1, 0, 1, 0}, {1, 1, 1, 1}, {8, 2, 1, 0.25}, {8, 2, 8, 1}, {8, 0, 8, 0}, {4, 1, 2, 0.5}, {10, 3, 5, 1 - 21.0 / 252}, {5, 4, 2, 1},
        {200, 1, 100, 0.5}, /* C(200, 100) is 9e58 */
    };
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        const double got = tdm_pass_at(cases[i].n, cases[i].c, cases[i].k);
        if (got - cases[i].want > 1e-12 || cases[i].want - got > 1e-12)
            fail_msg("pass@%d of %d right among %d is %g, should be %g", (int)cases[i].k, (int)cases[i].c, (int)cases[i].n, got, cases[i].want);
    }
}

/* A step asks the reward three times for four samples each: the step's own, then two halves of four rows answered twice. */
static const char by_call[] = "id=1\nwhile read -r line; do case $id in\n2) r=1,0,0,0;; 5) r=1,1,1,0;; 6) r=0,0,0,null;; 8) r=1,1,0,0;; 11) r=1,1,1,0;;\n*) r=0,0,0,0;;\nesac\n"
                              "echo \"{\\\"id\\\":$id,\\\"rewards\\\":[$r]}\"; id=$((id+1)); done\n";

static tdm_status run_with_patience(const char *dir, bool resume, tdm_error *err)
{
    char text[2048];
    char *rows = test_path(dir, "rows.jsonl"), *script = test_path(dir, "reward.sh");
    test_file_put(rows, "{\"q\":\"one\"}\n{\"q\":\"two\"}\n{\"q\":\"three\"}\n{\"q\":\"four\"}\n{\"q\":\"five\"}\n");
    test_file_put(script, by_call);
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: bf16}\nadapter: {rank: 4}\n"
             "data: {train: %s, eval: %s, prompt: '{q}', max_prompt_tokens: 48}\n"
             "rollout: {prompts_per_step: 2, generations: 2, max_new_tokens: 8}\nreward: [{command: [/bin/sh, %s], name: right}]\n"
             "eval: {every: 1, limit: 4, generations: 2, temperature: 1, pass_at: [1, 2], pass_metric: right, best: pass@2, patience: 2}\n"
             "train: {steps: 9, lr: 0, micro_tokens: 128}\ncheckpoint: {every: 0, keep: 1}\nlog: {report: false, tensorboard: false}\noutput: %s/run\nthreads: 1\n",
             rows, rows, script, dir);
    const tdm_status st = test_job_run(text, (tdm_job_options){.resume = resume}, err);
    free(rows);
    free(script);
    return st;
}

static void the_best_is_kept_and_patience_ends_the_run(void **state)
{
    (void)state;
    static const double pass_1[] = {0.125, 0.375, 0.25, 0.375}, pass_2[] = {0.25, 0.5, 0.25, 0.5};
    char *dir = test_scratch_new(), *best = test_path(dir, "run/checkpoints/best"), *first = test_path(dir, "run/checkpoints/step-000001"), to[64] = {0};
    tdm_error err;
    for (int resumed = 0; resumed < 2; resumed++) { /* the second time there is nothing left to do */
        if (run_with_patience(dir, resumed, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
        tdm_metrics_table m = metrics_of(dir);
        assert_int_equal(m.rows, 4);
        for (int i = 0; i < 4; i++) {
            assert_true(value_at(&m, i, "eval/pass@1") == pass_1[i] && value_at(&m, i, "eval/pass@2") == pass_2[i]);
            assert_true(i == 1 || value_at(&m, i, "eval/right") == pass_1[i]);
        }
        assert_true(value_at(&m, 1, "eval/right") - 3.0 / 7 < 1e-8 && value_at(&m, 1, "eval/right") - 3.0 / 7 > -1e-8); /* one had no opinion */
        tdm_metrics_table_free(&m);
        assert_true(readlink(best, to, sizeof to - 1) > 0);
        assert_string_equal(to, "step-000002");
        assert_true(tdm_fs_is_dir(best));
        assert_false(tdm_fs_is_dir(first));
    }
    free(best);
    free(first);
    test_scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_is_answered_when_a_checkpoint_is_due), cmocka_unit_test(a_failing_evaluation_loses_no_step),
                                       cmocka_unit_test(pass_at_k_is_the_unbiased_estimator), cmocka_unit_test(the_best_is_kept_and_patience_ends_the_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
