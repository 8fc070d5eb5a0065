/* labels: unit
 *
 * On-policy distillation of the tiny golden model, whole runs: a student that is its teacher has nothing to learn; one that is not comes nearer, over whole
 * distributions and by the sampled tokens; rewards are figures, and may be left out. That the losses are TRL's is shown in tests/conformance/train.py. */
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

#define ADAPTER "tests/golden/data/models/qwen3/adapter"

/* metrics.jsonl of a run of some steps; the caller frees it. */
static tdm_metrics_table run(const char *init, const char *distill, const char *reward, int steps)
{
    char text[2048];
    char *dir = test_scratch_new(), *train = test_path(dir, "train.jsonl"), *path = test_path(dir, "run/metrics.jsonl");
    tdm_error err;
    tdm_metrics_table m;
    test_file_put(train, "{\"q\":\"one\"}\n{\"q\":\"two\"}\n{\"q\":\"three\"}\n");
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: bf16}\nadapter: {init: %s}\ndata: {train: %s, prompt: '{q}', max_prompt_tokens: 48}\n"
             "rollout: {prompts_per_step: 6, generations: 1, max_new_tokens: 8}\nreward: [%s]\n"
             "train: {algorithm: distill, distill: {%s}, steps: %d, lr: 3.0e-3, micro_tokens: 96}\n"
             "log: {rollouts: 0, report: false, tensorboard: false}\ncheckpoint: {every: 0}\noutput: %s/run\nthreads: 1\n",
             init, train, reward, distill, steps, dir);
    tdm_status st = test_job_run(text, (tdm_job_options){0}, &err);
    if (st == TDM_OK) st = tdm_metrics_read(&m, path, &err);
    if (st != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    assert_int_equal(m.rows, steps);
    free(train);
    free(path);
    test_scratch_free(dir);
    return m;
}

static double at(const tdm_metrics_table *m, int64_t row, const char *key)
{
    for (int64_t c = 0; c < m->cols; c++)
        if (strcmp(m->keys[c], key) == 0) return m->values[row * m->cols + c];
    return NAN;
}

static void a_student_that_is_its_teacher_learns_nothing(void **state)
{
    (void)state;
    static const struct { const char *init, *distill; } cases[] = { /* a fresh adapter changes nothing */
        {"none", "loss: full"}, {"none", "loss: full, beta: 0"}, {"none", "loss: full, beta: 0.5"}, {"none", "loss: sampled"},
        {ADAPTER, "loss: full, teacher: " ADAPTER}, {ADAPTER, "loss: sampled, teacher: " ADAPTER}};
    for (size_t k = 0; k < TDM_COUNT(cases); k++) {
        tdm_metrics_table m = run(cases[k].init, cases[k].distill, "", 1);
        assert_true(fabs(at(&m, 0, "loss")) < 1e-6 && at(&m, 0, "grad_norm") < 1e-6 && fabs(at(&m, 0, "kl")) < 1e-6);
        tdm_metrics_table_free(&m);
    }
}

static void a_student_comes_nearer_to_its_teacher(void **state)
{
    (void)state;
    static const struct { const char *init, *distill; double part; } cases[] = {
        {ADAPTER, "loss: full", 0.6}, {ADAPTER, "loss: full, beta: 0", 0.6}, {ADAPTER, "loss: full, beta: 0.5", 0.6}, {ADAPTER, "loss: sampled", 0.8},
        {"none", "loss: full, teacher: " ADAPTER, 0.6}, {"none, rank: 2", "loss: full, teacher: " ADAPTER, 0.8}, {"none", "loss: sampled, teacher: " ADAPTER, 0.8}};
    for (size_t k = 0; k < TDM_COUNT(cases); k++) {
        tdm_metrics_table m = run(cases[k].init, cases[k].distill, "", 30);
        double first = 0.0, last = 0.0;
        for (int i = 0; i < 6; i++) {
            first += at(&m, i, "kl");
            last += at(&m, 24 + i, "kl");
        }
        if (!(first > 0.1 && last < cases[k].part * first)) fail_msg("%s: the divergence went from %g to %g", cases[k].distill, first / 6, last / 6);
        tdm_metrics_table_free(&m);
    }
}

static void rewards_are_figures_and_may_be_left_out(void **state)
{
    (void)state;
    tdm_metrics_table without = run(ADAPTER, "loss: full", "", 1), with = run(ADAPTER, "loss: full", "{type: regex, pattern: '[a-z]'}", 1);
    assert_true(isnan(at(&without, 0, "reward_mean")) && !isnan(at(&with, 0, "reward_mean")) && !isnan(at(&with, 0, "reward/regex")));
    assert_true(at(&without, 0, "loss") == at(&with, 0, "loss"));
    tdm_metrics_table_free(&without);
    tdm_metrics_table_free(&with);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_student_that_is_its_teacher_learns_nothing),
        cmocka_unit_test(a_student_comes_nearer_to_its_teacher),
        cmocka_unit_test(rewards_are_figures_and_may_be_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
