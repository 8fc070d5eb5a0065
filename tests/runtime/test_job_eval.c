/* labels: unit
 *
 * data.eval in a whole run of the tiny golden model: answered when a checkpoint is due and at the end, by the model and not by the
 * sampler's dice; and a failing evaluation leaves its step logged and saved. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memory/fs.h"
#include "runtime/run/job.h"
#include "runtime/run/metrics.h"
#include "testing/scratch.h"

static tdm_status run(const char *dir, const char *eval_rows, const char *reward, tdm_error *err)
{
    char text[2048];
    char *train = test_path(dir, "train.jsonl"), *eval = test_path(dir, "eval.jsonl");
    tdm_recipe *r = NULL;
    test_file_put(train, "{\"q\":\"one\",\"answer\":\"1\"}\n{\"q\":\"two\",\"answer\":\"2\"}\n");
    test_file_put(eval, eval_rows);
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: bf16}\nadapter: {rank: 4}\n"
             "data: {train: %s, eval: %s, prompt: '{q}', max_prompt_tokens: 48}\n"
             "rollout: {prompts_per_step: 2, generations: 2, max_new_tokens: 8}\nreward: [%s]\n"
             "train: {steps: 3, lr: 0, micro_tokens: 128}\ncheckpoint: {every: 2}\nlog: {report: false, tensorboard: false}\noutput: %s/run\nthreads: 1\n",
             train, eval, reward, dir);
    *err = (tdm_error){0};
    tdm_status st = tdm_recipe_parse(&r, text, strlen(text), "a.yaml", NULL, 0, err);
    if (st == TDM_OK) st = tdm_job_run(r, &(tdm_job_options){.quiet = true}, err);
    tdm_recipe_close(r);
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_is_answered_when_a_checkpoint_is_due), cmocka_unit_test(a_failing_evaluation_loses_no_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
