/* metrics.jsonl, rollouts/, event files and the progress line: the right keys in the right order, each step once after a resume.
 * labels: unit, fault */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory/hash.h"
#include "runtime/run/progress.h"
#include "runtime/run/tensorboard.h"
#include "testing/scratch.h"

static const char *const reward_names[] = {"number", "format"};
static const double reward_values[] = {0.75, 1.0 / 3.0};

static tdm_step_metrics step_of(int64_t step)
{
    tdm_step_metrics m = {.step = step, .reward_names = reward_names, .reward_values = reward_values, .reward_count = 2};
    for (int i = 0; i < TDM_METRIC_COUNT; i++) tdm_metric_set(&m, (tdm_metric)i, (double)step + i / 7.0);
    tdm_metric_set(&m, TDM_METRIC_MEMORY_PEAK_BYTES, 17179869184.0 + 1);
    return m;
}

static void a_line_has_the_keys_of_the_design_in_its_order(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "step", "reward_mean", "reward_std", "frac_reward_zero_std", "num_gen_batches", "groups_dropped", "turns_mean", "turns_max", "observation_tokens", "environment_errors", "loss", "kl", "entropy", "entropy_coef", "grad_norm", "lr", "clip_fraction", "completion_tokens_mean",
        "completion_tokens_max", "truncated_fraction", "prompt_tokens", "completion_tokens", "mismatch_mean", "mismatch_max", "mismatch_kl", "mismatch_k3_kl", "importance_mean",
        "importance_min", "importance_max", "importance_fraction_high", "importance_fraction_low", "rollout_is_eff_sample_size",
        "rollout_is_batch_norm_factor", "rollout_rs_masked_fraction", "rollout_rs_seq_masked_fraction", "rollout_is_veto_fraction", "off_policy",
        "critic/vf_loss", "critic/vf_clipfrac", "critic/values/mean",
        "critic/returns/mean", "critic/vf_explained_var", "critic/grad_norm", "critic/lr", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
        "rewards/margins", "logps/chosen", "logps/rejected", "nll_loss", "log_odds_ratio", "log_odds_chosen", "judge/parse_failed", "judge_tokens", "rollout_s", "environment_s", "reward_s", "judge_s", "train_s", "flip_s", "step_s", "rollout_tokens_per_s", "train_tokens_per_s", "memory_peak_bytes", "reward/number",
        "reward/format"};
    char *dir = test_scratch_new(), *path = test_path(dir, "metrics.jsonl");
    tdm_metrics_log log;
    tdm_error err = {0};
    tdm_step_metrics m = step_of(1);
    assert_int_equal(tdm_metrics_open(&log, path, &err), TDM_OK);
    assert_int_equal(tdm_metrics_put(&log, &m, &err), TDM_OK);
    assert_int_equal(tdm_metrics_sync(&log, &err), TDM_OK);
    assert_int_equal(tdm_metrics_close(&log, &err), TDM_OK);
    char *text = test_file_get(path, NULL);
    const char *at = text;
    for (size_t i = 0; i < TDM_COUNT(keys); i++) {
        char quoted[64];
        snprintf(quoted, sizeof quoted, "\"%s\":", keys[i]);
        const char *found = strstr(at, quoted);
        if (!found) fail_msg("%s is not there, or not in its place", keys[i]);
        at = found + 1;
    }
    assert_non_null(strstr(text, "\"memory_peak_bytes\":17179869185,")); /* whole numbers stand in full */
    assert_non_null(strstr(text, "\"reward/format\":0.333333333}\n"));
    json_t *o = json_loads(text, 0, NULL);
    assert_int_equal(json_object_size(o), TDM_COUNT(keys));
    json_decref(o);
    free(text);
    free(path);
    test_scratch_free(dir);
}

static void a_value_that_is_no_number_is_refused_and_named(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *path = test_path(dir, "metrics.jsonl");
    tdm_metrics_log log;
    tdm_error err = {0};
    assert_int_equal(tdm_metrics_open(&log, path, &err), TDM_OK);
    const double bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < TDM_COUNT(bad); i++) {
        tdm_step_metrics m = step_of(7);
        m.value[TDM_METRIC_KL] = bad[i];
        err = (tdm_error){0};
        assert_int_equal(tdm_metrics_put(&log, &m, &err), TDM_ERR_OTHER);
        assert_non_null(strstr(err.what, "kl is"));
        assert_non_null(strstr(err.what, "step 7"));
    }
    assert_int_equal(tdm_metrics_close(&log, &err), TDM_OK);
    char *text = test_file_get(path, NULL);
    assert_string_equal(text, ""); /* nothing of the refused line was written */
    free(text);
    free(path);
    test_scratch_free(dir);
}

static void put_steps(const char *path, int64_t first, int64_t last)
{
    tdm_metrics_log log;
    tdm_error err = {0};
    assert_int_equal(tdm_metrics_open(&log, path, &err), TDM_OK);
    for (int64_t s = first; s <= last; s++) {
        tdm_step_metrics m = {.step = s};
        tdm_metric_set(&m, TDM_METRIC_LOSS, (double)s / 8);
        if (s % 2) tdm_metric_set(&m, TDM_METRIC_KL, (double)s);
        assert_int_equal(tdm_metrics_put(&log, &m, &err), TDM_OK);
    }
    assert_int_equal(tdm_metrics_close(&log, &err), TDM_OK);
}

static void a_resumed_run_has_each_step_once(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *path = test_path(dir, "metrics.jsonl");
    tdm_error err = {0};
    assert_int_equal(tdm_metrics_truncate(path, 5, &err), TDM_OK); /* nothing there yet */
    put_steps(path, 1, 9);
    FILE *f = fopen(path, "ab");
    fputs("{\"step\":10,\"lo", f); /* the crash */
    fclose(f);
    for (int n = 0;; n++) { /* whatever fails, no step up to the checkpoint is lost */
        tdm_error e = {0};
        tdm_metrics_table t;
        tdm_fault_arm(TDM_FAULT_ANY, n, true);
        tdm_status st = tdm_metrics_truncate(path, 5, &e);
        bool fired = tdm_fault_disarm() > 0;
        assert_int_equal(tdm_metrics_read(&t, path, &err), TDM_OK);
        assert_true(t.rows == 5 || t.rows == 9);
        tdm_metrics_table_free(&t);
        if (!fired) {
            assert_int_equal(st, TDM_OK);
            break;
        }
    }
    put_steps(path, 6, 8);
    tdm_metrics_table t;
    assert_int_equal(tdm_metrics_read(&t, path, &err), TDM_OK);
    assert_int_equal(t.rows, 8);
    assert_int_equal(t.skipped, 0);
    assert_int_equal(t.cols, 2);
    for (int64_t i = 0; i < t.rows; i++) {
        assert_int_equal(t.steps[i], i + 1);
        assert_true(t.values[i * t.cols] == (double)(i + 1) / 8);
        assert_true((i + 1) % 2 ? t.values[i * t.cols + 1] == (double)(i + 1) : isnan(t.values[i * t.cols + 1]));
    }
    tdm_metrics_table_free(&t);
    free(path);
    test_scratch_free(dir);
}

static void a_damaged_file_is_read_as_far_as_it_goes(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *path = test_path(dir, "metrics.jsonl");
    tdm_error err = {0};
    tdm_metrics_table t;
    test_file_put(path, "{\"step\":2,\"a\":1}\nnot json\n[]\n{\"step\":-1}\n{\"a\":3}\n\n{\"step\":1,\"a\":\"x\",\"b\":2}\n{\"step\":2,\"a\":5}\n{\"step\":3");
    assert_int_equal(tdm_metrics_read(&t, path, &err), TDM_OK);
    assert_int_equal(t.rows, 2);
    assert_int_equal(t.skipped, 5);
    assert_int_equal(t.steps[0], 1);
    assert_true(isnan(t.values[0]));
    assert_true(t.values[2] == 5); /* the later line of step 2 */
    tdm_metrics_table_free(&t);
    free(path);
    test_scratch_free(dir);
}

/* ---- rollouts ---- */

static void a_rollout_file_can_be_replayed_whatever_the_completion_holds(void **state)
{
    (void)state;
    static const char completion[] = "</script>\"\\\x01\n caf\xc3\xa9 \xf0\x9f\x99\x82 broken \xf0\x9f end\xff \0 after";
    const int32_t prompt_ids[] = {1, 2, 3}, ids[] = {4, 2147483647};
    const float logprobs[] = {-0.1f, -1.17549435e-38f};
    const double values[] = {NAN, 0.5};
    char *dir = test_scratch_new(), *path = test_path(dir, "rollouts/step-000010.jsonl");
    tdm_rollout_log log;
    tdm_error err = {0};
    tdm_rollout_record r = {.group = 3, .prompt = "2 + 2?", .completion = completion, .prompt_len = 6, .completion_len = sizeof completion - 1,
        .prompt_ids = prompt_ids, .completion_ids = ids, .prompt_count = 3, .completion_count = 2, .logprobs = logprobs, .reward = 0.5,
        .advantage = -1.25, .reward_names = reward_names, .reward_values = values, .reward_count = 2, .truncated = true};
    assert_int_equal(tdm_rollout_log_open(&log, dir, 10, &err), TDM_OK);
    assert_int_equal(tdm_rollout_log_put(&log, &r, &err), TDM_OK);
    assert_int_not_equal(access(path, F_OK), 0); /* not there until it is whole */
    assert_int_equal(tdm_rollout_log_close(&log, &err), TDM_OK);

    char *text = test_file_get(path, NULL);
    json_t *o = json_loads(text, JSON_ALLOW_NUL, NULL); /* strict UTF-8 */
    assert_non_null(o);
    assert_non_null(strstr(json_string_value(json_object_get(o, "completion")), "\xf0\x9f\x99\x82 broken \xef\xbf\xbd\xef\xbf\xbd end\xef\xbf\xbd"));
    assert_int_equal(json_string_length(json_object_get(o, "completion")), sizeof completion - 1 + 3 * 2); /* three bytes for each of three bad ones */
    assert_int_equal(json_integer_value(json_array_get(json_object_get(o, "completion_ids"), 1)), 2147483647);
    for (size_t i = 0; i < 2; i++)
        assert_true((float)json_number_value(json_array_get(json_object_get(o, "logprobs"), i)) == logprobs[i]);
    assert_true(json_is_null(json_object_get(json_object_get(o, "rewards"), "number")));
    assert_true(json_number_value(json_object_get(o, "advantage")) == -1.25);
    json_decref(o);
    free(text);

    assert_int_equal(tdm_rollout_log_open(&log, dir, 20, &err), TDM_OK);
    assert_int_equal(tdm_rollout_log_close(&log, &err), TDM_OK);
    assert_int_equal(tdm_rollout_log_open(&log, dir, 30, &err), TDM_OK);
    tdm_rollout_log_abort(&log);
    assert_int_equal(tdm_rollout_log_truncate(dir, 10, &err), TDM_OK);
    char *rollouts = test_path(dir, "rollouts");
    tdm_names names;
    assert_int_equal(tdm_fs_list(rollouts, &names, &err), TDM_OK);
    assert_int_equal(names.count, 1);
    assert_string_equal(names.names[0], "step-000010.jsonl");
    tdm_names_free(&names);
    free(rollouts);
    free(path);
    test_scratch_free(dir);
}

/* ---- TensorBoard ---- */

/* Steps of all events with a summary, over the files in order; checks the framing. tests/conformance/check_tensorboard.py asks
 * TensorBoard itself. */
static int read_event_steps(const char *dir, int64_t *steps, int room)
{
    tdm_names names;
    tdm_error err = {0};
    int count = 0;
    assert_int_equal(tdm_fs_list(dir, &names, &err), TDM_OK);
    for (int64_t i = 0; i < names.count; i++) {
        char *path = test_path(dir, names.names[i]);
        unsigned long bytes;
        unsigned char *p = (unsigned char *)test_file_get(path, &bytes);
        for (unsigned long at = 0; at < bytes;) {
            uint64_t len;
            uint32_t crc, want;
            memcpy(&len, p + at, 8);
            memcpy(&crc, p + at + 8, 4);
            want = tdm_crc32c(0, p + at, 8);
            assert_int_equal(crc, ((want >> 15) | (want << 17)) + 0xa282ead8U);
            memcpy(&crc, p + at + 12 + len, 4);
            want = tdm_crc32c(0, p + at + 12, len);
            assert_int_equal(crc, ((want >> 15) | (want << 17)) + 0xa282ead8U);
            const unsigned char *r = p + at + 12;
            assert_int_equal(r[0], 1 << 3 | 1); /* wall_time */
            if (r[9] == (2 << 3 | 0) && r[10] < 128 && r[11] == (5 << 3 | 2)) {
                assert_true(count < room);
                steps[count++] = r[10];
            }
            at += 16 + len;
        }
        free(p);
        free(path);
    }
    tdm_names_free(&names);
    return count;
}

static void put_events(const char *dir, int64_t first, int64_t last)
{
    tdm_tensorboard t;
    tdm_error err = {0};
    assert_int_equal(tdm_tensorboard_open(&t, dir, first, &err), TDM_OK);
    for (int64_t s = first; s <= last; s++) {
        tdm_step_metrics m = step_of(s);
        assert_int_equal(tdm_tensorboard_put(&t, &m, &err), TDM_OK);
    }
    assert_int_equal(tdm_tensorboard_close(&t, &err), TDM_OK);
}

static void event_files_hold_each_step_once_after_a_resume(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *events = test_path(dir, "tensorboard");
    int64_t steps[64];
    put_events(events, 1, 9);
    tdm_names names;
    tdm_error err = {0};
    assert_int_equal(tdm_fs_list(events, &names, &err), TDM_OK);
    char *first = test_path(events, names.names[0]);
    unsigned long bytes;
    free(test_file_get(first, &bytes));
    assert_int_equal(truncate(first, (long)bytes - 3), 0); /* a torn last record */
    char left[TDM_PATH_BYTES + 8];
    snprintf(left, sizeof left, "%s.tmp", first); /* by a kill while it was cut back */
    test_file_put(left, "half of it");
    free(first);
    tdm_names_free(&names);
    put_events(events, 6, 12);
    put_events(events, 11, 13);
    int n = read_event_steps(events, steps, 64);
    assert_int_equal(n, 13);
    for (int i = 0; i < n; i++) assert_int_equal(steps[i], i + 1);
    free(events);
    test_scratch_free(dir);
}

/* ---- progress ---- */

static void the_progress_line_says_what_matters(void **state)
{
    (void)state;
    char line[512], s[32];
    tdm_progress p = {.first = 11, .last = 100};
    tdm_step_metrics m = {.step = 20};
    tdm_metric_set(&m, TDM_METRIC_REWARD_MEAN, 0.71234);
    tdm_metric_set(&m, TDM_METRIC_ROLLOUT_TOKENS_PER_S, 12345);
    tdm_metric_set(&m, TDM_METRIC_STEP_S, 3.14);
    tdm_progress_format(&p, &m, 10 * 60, line, sizeof line); /* ten steps in ten minutes, eighty to go */
    assert_string_equal(line, "step 20/100  reward 0.712  12.3k tok/s  3.1 s/step  ETA 1:20:00");
    m.step = 100;
    tdm_progress_format(&p, &m, 100, line, sizeof line);
    assert_null(strstr(line, "ETA"));
    tdm_step_metrics pairs = {.step = 100};
    tdm_metric_set(&pairs, TDM_METRIC_REWARDS_ACCURACIES, 0.875);
    tdm_metric_set(&pairs, TDM_METRIC_LOSS, 0.5);
    tdm_progress_format(&p, &pairs, 100, line, sizeof line);
    assert_string_equal(line, "step 100/100  accuracy 0.875  loss 0.5");
    char small[12];
    tdm_progress_format(&p, &m, 100, small, sizeof small); /* cut, not past its end */
    assert_int_equal(strlen(small), sizeof small - 1);
    static const struct {
        double s;
        const char *text;
    } cases[] = {{0, "0:00"}, {83, "1:23"}, {5025, "1:23:45"}, {93784, "1d 02:03"}, {-1, "0:00"}, {NAN, "0:00"}};
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        tdm_progress_duration(cases[i].s, s, sizeof s);
        assert_string_equal(s, cases[i].text);
    }
}

static void a_file_gets_plain_lines_and_quiet_gets_none(void **state)
{
    (void)state;
    for (int quiet = 0; quiet < 2; quiet++) {
        char *text = NULL;
        size_t size = 0;
        FILE *f = tmpfile();
        tdm_progress p;
        tdm_progress_init(&p, f, 1, 10, 5, quiet);
        for (int64_t step = 1; step <= 10; step++) {
            tdm_step_metrics m = {.step = step};
            tdm_progress_phase(&p, step, "rollout", 3, 8);
            tdm_progress_step(&p, &m);
        }
        tdm_progress_note(&p, "saved %s", "checkpoints/step-000010");
        tdm_progress_end(&p);
        rewind(f);
        int lines = 0;
        while (getline(&text, &size, f) > 0) {
            assert_null(strchr(text, '\r'));
            lines++;
        }
        assert_int_equal(lines, quiet ? 0 : 3 + 1); /* steps 1, 5, 10, and the note */
        free(text);
        fclose(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_the_keys_of_the_design_in_its_order),
        cmocka_unit_test(a_value_that_is_no_number_is_refused_and_named),
        cmocka_unit_test(a_resumed_run_has_each_step_once),
        cmocka_unit_test(a_damaged_file_is_read_as_far_as_it_goes),
        cmocka_unit_test(a_rollout_file_can_be_replayed_whatever_the_completion_holds),
        cmocka_unit_test(event_files_hold_each_step_once_after_a_resume),
        cmocka_unit_test(the_progress_line_says_what_matters),
        cmocka_unit_test(a_file_gets_plain_lines_and_quiet_gets_none),
    };
    return cmocka_run_group_tests_name("run_metrics", tests, NULL, NULL);
}
