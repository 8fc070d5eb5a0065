/* labels: unit
 *
 * The entropy bonus whose coefficient follows the policy, in whole runs of the tiny golden model at lr 0: how it moves between its bounds, and that what it does to
 * the loss is what a fixed coefficient of its value does. */
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

enum { STEPS = 5 };
typedef struct course {
    double coef[STEPS], loss[STEPS], entropy[STEPS];
} course;

static course run(const char *train)
{
    char text[2048];
    char *dir = test_scratch_new(), *data = test_path(dir, "train.jsonl"), *path = test_path(dir, "run/metrics.jsonl");
    tdm_error err;
    tdm_metrics_table m;
    course out;
    test_file_put(data, "{\"q\":\"one\"}\n{\"q\":\"two\"}\n");
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: bf16}\nadapter: {rank: 4}\ndata: {train: %s, prompt: '{q}', max_prompt_tokens: 48}\n"
             "rollout: {prompts_per_step: 2, generations: 2, max_new_tokens: 6}\nreward: [{type: regex, pattern: '[a-m]'}]\n"
             "train: {steps: %d, lr: 0, %s}\nlog: {rollouts: 0, report: false, tensorboard: false}\ncheckpoint: {every: 0}\noutput: %s/run\nthreads: 1\n",
             data, STEPS, train, dir);
    tdm_status st = test_job_run(text, (tdm_job_options){0}, &err);
    if (st == TDM_OK) st = tdm_metrics_read(&m, path, &err);
    if (st != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    assert_int_equal(m.rows, STEPS);
    for (int s = 0; s < STEPS; s++) {
        out.coef[s] = out.loss[s] = out.entropy[s] = NAN;
        for (int64_t c = 0; c < m.cols; c++) {
            const double x = m.values[s * m.cols + c];
            if (strcmp(m.keys[c], "entropy_coef") == 0) out.coef[s] = x;
            if (strcmp(m.keys[c], "loss") == 0) out.loss[s] = x;
            if (strcmp(m.keys[c], "entropy") == 0) out.entropy[s] = x;
        }
    }
    tdm_metrics_table_free(&m);
    free(data);
    free(path);
    test_scratch_free(dir);
    return out;
}

static void expect_course(const course *c, const double want[STEPS])
{
    for (int s = 0; s < STEPS; s++)
        if (!(fabs(c->coef[s] - want[s]) < 1e-9)) fail_msg("step %d: a coefficient of %g, should be %g", s + 1, c->coef[s], want[s]);
}

static void it_moves_by_delta_between_its_bounds(void **state)
{
    (void)state;
    const course low = run("use_adaptive_entropy: true, entropy_target: 100, entropy_coef_delta: 0.25, entropy_coef_max: 0.6");
    expect_course(&low, (const double[]){0.25, 0.5, 0.6, 0.6, 0.6});
    const course high = run("use_adaptive_entropy: true, entropy_target: 0, entropy_coef: 0.6, entropy_coef_delta: 0.25, entropy_coef_min: 0.2");
    expect_course(&high, (const double[]){0.35, 0.2, 0.2, 0.2, 0.2});
}

/* It is not in the first update, for which no entropy is known, and nowhere while the entropy is above the target. */
static void it_is_in_the_loss_from_the_second_update_on(void **state)
{
    (void)state;
    const course low = run("use_adaptive_entropy: true, entropy_target: 100, entropy_coef: 0.1, entropy_coef_delta: 0.25, entropy_coef_max: 0.6");
    const course high = run("use_adaptive_entropy: true, entropy_target: 0, entropy_coef: 0.6"), none = run("entropy_coef: 0");
    static const double used[STEPS] = {0.0, 0.35, 0.6, 0.6, 0.6};
    for (int s = 0; s < STEPS; s++) {
        assert_true(none.entropy[s] > 1.0 && isnan(none.coef[s]));
        assert_true(high.loss[s] == none.loss[s]);
        assert_true(fabs(low.loss[s] - none.loss[s] + used[s] * none.entropy[s]) < 1e-5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_moves_by_delta_between_its_bounds), cmocka_unit_test(it_is_in_the_loss_from_the_second_update_on)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
