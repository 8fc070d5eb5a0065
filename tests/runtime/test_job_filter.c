/* labels: unit
 *
 * rollout.filter_groups in a whole run of the tiny golden model: groups of equal rewards give their places to the next prompts, what was kept
 * stays as it was, and after the last batch the step goes on with what it has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/run/metrics.h"
#include "testing/job_case.h"
#include "testing/scratch.h"

/* Steps of two groups of two, three batches at most; the reward's answers by the number of the call. */
static tdm_status run(const char *dir, const char *answers, const char *filter, tdm_error *err)
{
    char text[2048];
    char *train = test_path(dir, "train.jsonl"), *script = test_path(dir, "reward.sh");
    test_file_put(train, "{\"q\":\"row1\"}\n{\"q\":\"row2\"}\n{\"q\":\"row3\"}\n{\"q\":\"row4\"}\n{\"q\":\"row5\"}\n{\"q\":\"row6\"}\n{\"q\":\"row7\"}\n");
    test_file_put(script, answers);
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: bf16}\nadapter: {rank: 4}\n"
             "data: {train: %s, prompt: '{q}', shuffle: false, max_prompt_tokens: 48}\n"
             "rollout: {prompts_per_step: 2, generations: 2, max_new_tokens: 8, filter_groups: {%s}}\n"
             "reward: [{command: [/bin/sh, %s], name: right}, {type: length, max: 400, buffer: 400, weight: 0.001}]\n"
             "train: {steps: 2, lr: 0, micro_tokens: 128}\nlog: {rollouts: 1, report: false, tensorboard: false}\noutput: %s/run\nthreads: 1\n",
             train, filter, script, dir);
    const tdm_status st = test_job_run(text, (tdm_job_options){0}, err);
    free(train);
    free(script);
    return st;
}

static void expect_metric(const tdm_metrics_table *m, int64_t row, const char *key, double want)
{
    for (int64_t c = 0; c < m->cols; c++)
        if (strcmp(m->keys[c], key) == 0) {
            if (m->values[row * m->cols + c] != want) fail_msg("%s is %g, should be %g", key, m->values[row * m->cols + c], want);
            return;
        }
    fail_msg("no %s in the metrics", key);
}

/* Which rows the step's four completions answer, and what `right` said of them. */
static void expect_samples(const char *dir, int step, const int rows[4], const int right[4])
{
    char name[64], *path, line[4][65536], want[64];
    snprintf(name, sizeof name, "run/rollouts/step-%06d.jsonl", step);
    path = test_path(dir, name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (int i = 0; i < 4; i++) {
        assert_non_null(fgets(line[i], sizeof line[i], f));
        snprintf(want, sizeof want, "row%d", rows[i]);
        if (!strstr(line[i], want)) fail_msg("step %d: sample %d does not answer %s: %.200s", step, i, want, line[i]);
        snprintf(want, sizeof want, "\"right\":%d", right[i]);
        if (!strstr(line[i], want)) fail_msg("step %d: sample %d has not %s", step, i, want);
    }
    fclose(f);
    free(path);
}

static const char by_call[] = "id=1\nwhile read -r line; do case $id in\n1) r=1,1,0,1;; 2) r=1,1;; 3) r=0,1;; *) r=1,1,2,2;;\nesac\n"
                              "echo \"{\\\"id\\\":$id,\\\"rewards\\\":[$r]}\"; id=$((id+1)); done\n";

static void the_next_prompts_take_the_places_of_equal_groups(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    tdm_error err;
    if (run(dir, by_call, "enable: true, metric: right, max_num_gen_batches: 3", &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    char *path = test_path(dir, "run/metrics.jsonl");
    tdm_metrics_table m;
    assert_int_equal(tdm_metrics_read(&m, path, &err), TDM_OK);
    /* rows 1 and 2; 3 for 1; 4 for 3 */
    expect_metric(&m, 0, "num_gen_batches", 3);
    expect_metric(&m, 0, "groups_dropped", 2);
    expect_samples(dir, 1, (const int[]){4, 4, 2, 2}, (const int[]){0, 1, 0, 1});
    /* rows 5 and 6, 7 and 1, then 2 and 3 stay: all equal, and no batch is left */
    expect_metric(&m, 1, "num_gen_batches", 3);
    expect_metric(&m, 1, "groups_dropped", 4);
    expect_samples(dir, 2, (const int[]){2, 2, 3, 3}, (const int[]){1, 1, 2, 2});
    tdm_metrics_table_free(&m);
    free(path);
    test_scratch_free(dir);
}

/* Of groups of 0 and 0.4, of 0 and 1, and then of 0.9 and 1, only the second is neither too hard nor too easy; no third batch is left. */
static const char hard_and_easy[] = "id=1\nwhile read -r line; do case $id in\n1) r=0,0.4,0,1;; 2) r=0.9,1;; *) r=0,1,0,1;;\nesac\n"
                                    "echo \"{\\\"id\\\":$id,\\\"rewards\\\":[$r]}\"; id=$((id+1)); done\n";

static void too_hard_and_too_easy_teach_nothing(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *path = test_path(dir, "run/rollouts/step-000001.jsonl"), *line = NULL;
    size_t room = 0;
    tdm_error err;
    if (run(dir, hard_and_easy, "enable: true, metric: right, max_num_gen_batches: 2, difficulty_low_threshold: 0.3, difficulty_high_threshold: 0.7", &err) != TDM_OK)
        fail_msg("%s (%s)", err.what, err.where);
    expect_samples(dir, 1, (const int[]){3, 3, 2, 2}, (const int[]){0, 1, 0, 1});
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (int i = 0; i < 4; i++) {
        assert_true(getline(&line, &room, f) > 0);
        assert_true((strstr(line, "\"advantage\":0,") != NULL) == (i < 2));
    }
    free(line);
    fclose(f);
    free(path);
    test_scratch_free(dir);
}

static void it_is_refused_where_it_has_no_meaning(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    tdm_error err;
    assert_int_equal(run(dir, by_call, "enable: true, metric: write", &err), TDM_ERR_RECIPE);
    assert_string_equal(err.what, "rollout.filter_groups.metric: no reward is called \"write\"");
    assert_string_equal(err.hint, "name one of the recipe's rewards: right, length");
    test_scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_next_prompts_take_the_places_of_equal_groups), cmocka_unit_test(too_hard_and_too_easy_teach_nothing),
                                       cmocka_unit_test(it_is_refused_where_it_has_no_meaning)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
