/* labels: unit
 *
 * rollouts/ of a whole run of the tiny golden model: a sample that no reward has an opinion on has the reward null, as rollout.replay
 * wants it, one that counts 0 after a failure has 0, and with gdpo the advantages are of the rewards one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/data/replay.h"
#include "testing/job_case.h"
#include "testing/scratch.h"

/* One step of four samples, rewarded by the recipe's rewards. */
static void run(const char *dir, const char *reward, const char *advantage)
{
    char text[2048];
    char *train = test_path(dir, "train.jsonl");
    tdm_error err;
    test_file_put(train, "{\"q\":\"one\"}\n{\"q\":\"two\"}\n");
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: bf16}\nadapter: {rank: 4}\ndata: {train: %s, prompt: '{q}', max_prompt_tokens: 48}\n"
             "rollout: {prompts_per_step: 2, generations: 2, max_new_tokens: 8}\nreward: [%s]\ntrain: {steps: 1, micro_tokens: 128, advantage: %s}\n"
             "log: {rollouts: 1, report: false, tensorboard: false}\noutput: %s/run\nthreads: 1\n",
             train, reward, advantage, dir);
    if (test_job_run(text, (tdm_job_options){0}, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    free(train);
}

/* The file's rewards, through the reader that trains on them. */
static void expect_rewards(const char *dir, const double want[4])
{
    char *path = test_path(dir, "run/rollouts/step-000001.jsonl");
    tdm_error err = {0};
    tdm_replay r;
    if (tdm_replay_open(&r, path, 1000000, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    assert_int_equal(r.rows, 4);
    for (int i = 0; i < 4; i++)
        if (isnan(want[i]) ? !isnan(r.row[i].reward) : r.row[i].reward != want[i]) fail_msg("sample %d has the reward %g, should have %g", i, r.row[i].reward, want[i]);
    tdm_replay_close(&r);
    free(path);
}

static void a_sample_without_an_opinion_has_null(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *script = test_path(dir, "reward.sh"), reward[512];
    test_file_put(script, "id=1\nwhile read -r line; do echo \"{\\\"id\\\":$id,\\\"rewards\\\":[null,1,0.5,null]}\"; id=$((id+1)); done\n");
    snprintf(reward, sizeof reward, "{command: [/bin/sh, %s], weight: 2}", script);
    run(dir, reward, "group_std");
    expect_rewards(dir, (const double[]){NAN, 2, 1, NAN});
    free(script);
    test_scratch_free(dir);
}

static void a_sample_that_counts_zero_has_zero(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    run(dir, "{command: [/bin/false], on_error: zero}", "group_std");
    expect_rewards(dir, (const double[]){0, 0, 0, 0});
    test_scratch_free(dir);
}

/* In each group of two the first reward says one thing and the second, a hundred times as large, the other: by weight the first has it. */
static void gdpo_weighs_each_reward_by_its_own_spread(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *script = test_path(dir, "reward.sh"), reward[512], *path = test_path(dir, "run/rollouts/step-000001.jsonl");
    test_file_put(script, "read -r line; echo \"{\\\"id\\\":1,\\\"rewards\\\":[$1]}\"\n");
    snprintf(reward, sizeof reward, "{command: [/bin/sh, %s, '1,0,0.5,0'], name: a, weight: 3}, {command: [/bin/sh, %s, '0,100,0,200'], name: b}", script, script);
    run(dir, reward, "gdpo, advantage_clip_low: -0.5");
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    assert_non_null(f);
    for (int i = 0; i < 4; i++) {
        assert_true(getline(&line, &room, f) > 0);
        const char *at = strstr(line, "\"advantage\":");
        assert_non_null(at);
        const double got = strtod(at + strlen("\"advantage\":"), NULL), want = i % 2 ? -0.5 : sqrt(0.75); /* Bessel's, of four; the others clipped */
        if (fabs(got - want) > 1e-3) fail_msg("advantage %d is %g, should be %g", i, got, want);
    }
    free(line);
    fclose(f);
    free(path);
    free(script);
    test_scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_sample_without_an_opinion_has_null), cmocka_unit_test(a_sample_that_counts_zero_has_zero),
                                       cmocka_unit_test(gdpo_weighs_each_reward_by_its_own_spread)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
