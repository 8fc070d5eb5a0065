/* labels: unit
 *
 * Whole runs of ppo and of reward models with a tiny golden model: what a critic's warm-up leaves alone, which completions enter no loss, which rows a
 * reward model takes. That values, losses and gradients are verl's and TRL's is shown in tests/conformance/critic.py. */
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

#define MODEL "tests/golden/data/models/qwen3"

typedef struct result {
    tdm_metrics_table m;
    char *adapter, *critic; /* of step-000001 and of the last one; bytes of the safetensors files */
    size_t adapter_bytes[2], critic_bytes[2];
    char *adapter_first, *critic_first;
} result;

static double value(const result *r, int64_t step, const char *key)
{
    for (int64_t c = 0; c < r->m.cols; c++)
        if (strcmp(r->m.keys[c], key) == 0) return r->m.values[step * r->m.cols + c];
    return NAN;
}

static char *file_of(const char *dir, int step, const char *part, size_t *bytes)
{
    char name[128];
    snprintf(name, sizeof name, "run/checkpoints/step-%06d/%s/adapter_model.safetensors", step, part);
    char *path = test_path(dir, name), *data = test_file_get(path, bytes);
    free(path);
    return data;
}

static void result_free(result *r)
{
    tdm_metrics_table_free(&r->m);
    free(r->adapter);
    free(r->adapter_first);
    free(r->critic);
    free(r->critic_first);
}

/* Two steps on `replay`; more: keys of train after the algorithm. */
static tdm_status run_ppo(const char *dir, const char *replay, const char *more, tdm_error *err)
{
    char text[2048];
    char *data = test_path(dir, "replay.jsonl");
    test_file_put(data, replay);
    snprintf(text, sizeof text,
             "model: {path: " MODEL ", weights: fp8_channel}\nadapter: {rank: 4}\nrollout: {replay: %s, prompts_per_step: 1, max_new_tokens: 4}\n"
             "train: {algorithm: ppo, steps: 2, lr: 0.01%s}\ncheckpoint: {every: 1}\nlog: {report: false, tensorboard: false}\noutput: %s/run\nthreads: 1\n",
             data, more, dir);
    free(data);
    return test_job_run(text, (tdm_job_options){0}, err);
}

static result ppo_ok(const char *replay, const char *more)
{
    result r = {0};
    tdm_error err;
    char *dir = test_scratch_new(), *path = test_path(dir, "run/metrics.jsonl");
    if (run_ppo(dir, replay, more, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    if (tdm_metrics_read(&r.m, path, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    assert_int_equal(r.m.rows, 2);
    r.adapter_first = file_of(dir, 1, "adapter", &r.adapter_bytes[0]);
    r.adapter = file_of(dir, 2, "adapter", &r.adapter_bytes[1]);
    r.critic_first = file_of(dir, 1, "critic", &r.critic_bytes[0]);
    r.critic = file_of(dir, 2, "critic", &r.critic_bytes[1]);
    assert_int_equal(r.adapter_bytes[0], r.adapter_bytes[1]);
    assert_int_equal(r.critic_bytes[0], r.critic_bytes[1]);
    free(path);
    test_scratch_free(dir);
    return r;
}

#define ROW(completion, reward) "{\"prompt_ids\":[5,6,7],\"completion_ids\":[" completion "],\"reward\":" reward ",\"group\":0}\n"
#define TWO ROW("8,9,10,2", "1.0") ROW("11,12,2", "0.0")

/* The policy of step 1 is the fresh one: a run of another critic begins with the same bytes. */
static void while_the_critic_warms_up_the_policy_stays(void **state)
{
    (void)state;
    result warm = ppo_ok(TWO, ", critic: {warmup: 1, lr: 0.01}"), cold = ppo_ok(TWO, ", critic: {warmup: 2, rank: 2, lr: 0.01}");
    assert_memory_equal(warm.adapter_first, cold.adapter_first, warm.adapter_bytes[0]);
    assert_memory_equal(cold.adapter_first, cold.adapter, cold.adapter_bytes[0]);
    assert_memory_not_equal(warm.adapter_first, warm.adapter, warm.adapter_bytes[0]);
    assert_memory_not_equal(cold.critic_first, cold.critic, cold.critic_bytes[0]);
    assert_true(isnan(value(&warm, 0, "loss")) && isnan(value(&warm, 0, "kl")) && isnan(value(&warm, 0, "grad_norm")) && isnan(value(&warm, 0, "mismatch_mean")));
    assert_true(!isnan(value(&warm, 1, "loss")) && value(&warm, 1, "grad_norm") > 0.0);
    assert_true(value(&cold, 0, "critic/vf_loss") > 0.0 && value(&cold, 0, "critic/lr") == 0.01);
    result_free(&warm);
    result_free(&cold);
}

/* A fresh head is zero: values are 0, returns are what follows from the rewards alone, by hand. */
static void a_fresh_critic_expects_nothing(void **state)
{
    (void)state;
    result r = ppo_ok(TWO, ", gamma: 0.5, lam: 1.0");
    const double returns = (0.125 + 0.25 + 0.5 + 1.0) / 7.0;
    assert_true(value(&r, 0, "critic/values/mean") == 0.0);
    assert_true(fabs(value(&r, 0, "critic/returns/mean") - returns) < 1e-7);
    assert_true(fabs(value(&r, 0, "critic/vf_loss") - 0.5 * (0.125 * 0.125 + 0.0625 + 0.25 + 1.0) / 7.0) < 1e-7);
    assert_true(value(&r, 1, "critic/values/mean") != 0.0);
    result_free(&r);
}

/* Nobody judged the third completion, and the fourth was cut: they leave no trace but in the counts. */
static void what_has_no_score_or_was_cut_is_in_no_loss(void **state)
{
    (void)state;
    static const char *const keys[] = {"loss", "grad_norm", "critic/vf_loss", "critic/grad_norm", "critic/values/mean", "critic/returns/mean", "critic/vf_explained_var"};
    result a = ppo_ok(TWO, ", mask_truncated: true, epochs_per_rollout: 2, whiten_rewards: true"),
           b = ppo_ok(TWO ROW("20,21,2", "null") ROW("30,31,32,33", "5.0"), ", mask_truncated: true, epochs_per_rollout: 2, whiten_rewards: true");
    for (int64_t step = 0; step < 2; step++)
        for (size_t k = 0; k < TDM_COUNT(keys); k++) {
            const double x = value(&a, step, keys[k]), y = value(&b, step, keys[k]);
            if (!(x == y)) fail_msg("step %d: %s is %.17g and %.17g", (int)step + 1, keys[k], x, y);
        }
    assert_memory_equal(a.adapter, b.adapter, a.adapter_bytes[1]);
    assert_memory_equal(a.critic, b.critic, a.critic_bytes[1]);
    result_free(&a);
    result_free(&b);
}

static void expect_line(tdm_status st, const tdm_error *err, tdm_status want, const char *what, const char *where)
{
    if (st != want || !strstr(err->what, what) || !strstr(err->where, where) || !err->hint[0])
        fail_msg("status %d, \"%s\" (%s), expected \"%s\" (%s)", (int)st, err->what, err->where, what, where);
}

/* The golden critic has rank 2; the policy's adapter has no head, and the critic's is none of a policy. */
static void an_adapter_of_another_kind_is_refused(void **state)
{
    (void)state;
    tdm_error err;
    char *dir = test_scratch_new();
    expect_line(run_ppo(dir, TWO, ", critic: {init: " MODEL "/critic, rank: 4}", &err), &err, TDM_ERR_RECIPE, "has another rank", "a.yaml:4:");
    expect_line(run_ppo(dir, TWO, ", critic: {init: " MODEL "/adapter}", &err), &err, TDM_ERR_INPUT, "no head", "adapter_config.json");
    expect_line(run_ppo(dir, TWO, ", critic: {init: nowhere}", &err), &err, TDM_ERR_INPUT, "is not an adapter folder", "nowhere");
    test_scratch_free(dir);
    result r = ppo_ok(TWO, ", critic: {init: " MODEL "/critic}");
    assert_true(value(&r, 0, "critic/values/mean") != 0.0);
    result_free(&r);
}

/* ---- Reward models ---- */

static tdm_status run_reward(const char *dir, const char *rows, tdm_error *err)
{
    char text[2048];
    char *data = test_path(dir, "train.jsonl");
    test_file_put(data, rows);
    snprintf(text, sizeof text,
             "model: {path: " MODEL ", weights: fp8_channel}\nadapter: {init: " MODEL "/critic}\n"
             "data: {train: %s, shuffle: false, max_prompt_tokens: 20}\nrollout: {max_new_tokens: 20}\n"
             "train: {algorithm: reward, steps: 1, lr: 0.01, batch_size: 1}\nlog: {report: false, tensorboard: false}\noutput: %s/run\nthreads: 1\n",
             data, dir);
    free(data);
    return test_job_run(text, (tdm_job_options){0}, err);
}

static result reward_ok(const char *rows)
{
    result r = {0};
    tdm_error err;
    char *dir = test_scratch_new(), *path = test_path(dir, "run/metrics.jsonl");
    if (run_reward(dir, rows, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    if (tdm_metrics_read(&r.m, path, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    free(path);
    test_scratch_free(dir);
    return r;
}

/* Prompt and answers, and the same as whole texts; a margin moves the loss as it should; a pair that does not fit gives way to the next. */
static void rows_of_a_reward_model(void **state)
{
    (void)state;
    char rows[512];
    result a = reward_ok("{\"prompt\":\"1+1?\",\"chosen\":\" 2\",\"rejected\":\" 3\"}\n"), b = reward_ok("{\"chosen\":\"1+1? 2\",\"rejected\":\"1+1? 3\"}\n"),
           c = reward_ok("{\"prompt\":\"1+1?\",\"chosen\":\" 2\",\"rejected\":\" 3\",\"margin\":0.75}\n");
    const double x = value(&a, 0, "rewards/margins");
    assert_true(value(&a, 0, "loss") == value(&b, 0, "loss") && value(&a, 0, "grad_norm") == value(&b, 0, "grad_norm"));
    assert_true(fabs(value(&a, 0, "loss") - log1p(exp(-x))) < 1e-7);
    assert_true(fabs(value(&c, 0, "loss") - log1p(exp(0.75 - x))) < 1e-7 && value(&c, 0, "rewards/margins") == x);
    assert_true(isnan(value(&a, 0, "entropy")) && isnan(value(&a, 0, "logps/chosen")));
    snprintf(rows, sizeof rows, "{\"prompt\":\"1+1?\",\"chosen\":\" 2\",\"rejected\":\"%060d\"}\n{\"prompt\":\"1+1?\",\"chosen\":\" 2\",\"rejected\":\" 3\"}\n", 0);
    result d = reward_ok(rows);
    assert_true(value(&a, 0, "loss") == value(&d, 0, "loss"));
    result_free(&a);
    result_free(&b);
    result_free(&c);
    result_free(&d);
}

static void a_row_that_cannot_be_scored_is_named(void **state)
{
    (void)state;
    char rows[512];
    tdm_error err;
    char *dir = test_scratch_new();
    expect_line(run_reward(dir, "{\"chosen\":\"a\",\"rejected\":\"b\",\"margin\":\"x\"}\n", &err), &err, TDM_ERR_INPUT, "\"margin\" is not a number", "train.jsonl:1");
    expect_line(run_reward(dir, "{\"chosen\":\"a\"}\n", &err), &err, TDM_ERR_INPUT, "no pair of answers", "train.jsonl:1");
    snprintf(rows, sizeof rows, "{\"chosen\":\"a\",\"rejected\":\"%060d\"}\n", 0);
    expect_line(run_reward(dir, rows, &err), &err, TDM_ERR_INPUT, "every pair has one of more than 40 tokens", "a.yaml:3:");
    test_scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(while_the_critic_warms_up_the_policy_stays),
        cmocka_unit_test(a_fresh_critic_expects_nothing),
        cmocka_unit_test(what_has_no_score_or_was_cut_is_in_no_loss),
        cmocka_unit_test(an_adapter_of_another_kind_is_refused),
        cmocka_unit_test(rows_of_a_reward_model),
        cmocka_unit_test(a_row_that_cannot_be_scored_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
