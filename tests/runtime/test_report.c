/* report.html: one file that loads nothing, in which hostile completions stay text; runs beside one another.  labels: unit, fault */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/run/metrics.h"
#include "runtime/run/report.h"
#include "testing/scratch.h"

/* The data of the page, parsed as a browser would: from its element to the first "</script". */
static json_t *data_of(const char *html)
{
    static const char open[] = "<script type=\"application/json\" id=\"data\">";
    const char *from = strstr(html, open);
    assert_non_null(from);
    from += sizeof open - 1;
    const char *end = strstr(from, "</script");
    assert_non_null(end);
    json_t *o = json_loadb(from, (size_t)(end - from), JSON_ALLOW_NUL, NULL);
    assert_non_null(o);
    return o;
}

static json_t *write_and_read(const char *dir, char **html)
{
    tdm_error err = {0};
    char *path = test_path(dir, "report.html");
    tdm_status st = tdm_report_write(dir, &err);
    if (st != TDM_OK) tdm_error_print(&err);
    assert_int_equal(st, TDM_OK);
    *html = test_file_get(path, NULL);
    free(path);
    return data_of(*html);
}

static int count_of(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)) != NULL; at++) n++;
    return n;
}

static void put_steps(const char *dir, int64_t n)
{
    char *path = test_path(dir, "metrics.jsonl");
    tdm_metrics_log log;
    tdm_error err = {0};
    assert_int_equal(tdm_metrics_open(&log, path, &err), TDM_OK);
    for (int64_t s = 1; s <= n; s++) {
        tdm_step_metrics m = {.step = s};
        tdm_metric_set(&m, TDM_METRIC_LOSS, s == n ? 1000 : 1);
        tdm_metric_set(&m, TDM_METRIC_STEP_S, 2);
        if (s % 2) tdm_metric_set(&m, TDM_METRIC_KL, 0.5);
        assert_int_equal(tdm_metrics_put(&log, &m, &err), TDM_OK);
    }
    assert_int_equal(tdm_metrics_close(&log, &err), TDM_OK);
    free(path);
}

static void an_empty_folder_gives_a_page_and_no_folder_an_error(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *none = test_path(dir, "none"), *html;
    tdm_error err = {0};
    json_t *o = write_and_read(dir, &html);
    assert_int_equal(json_array_size(json_object_get(o, "steps")), 0);
    assert_int_equal(json_array_size(json_object_get(o, "rollouts")), 0);
    assert_true(json_is_null(json_object_get(o, "memory")));
    assert_true(json_is_null(json_object_get(o, "recipe")));
    json_decref(o);
    free(html);
    assert_int_equal(tdm_report_write(none, &err), TDM_ERR_INPUT);
    assert_string_equal(err.where, none);
    free(none);
    test_scratch_free(dir);
}

static void the_page_loads_nothing(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *html;
    put_steps(dir, 3);
    json_decref(write_and_read(dir, &html));
    /* The one address is the name of the SVG namespace. */
    assert_int_equal(count_of(html, "http://") + count_of(html, "https://"), count_of(html, "'http://www.w3.org/2000/svg'"));
    static const char *const none[] = {" src=", "@import", "url(", "fetch(", "XMLHttpRequest", "innerHTML", "insertAdjacentHTML", "eval(", "<link"};
    for (size_t i = 0; i < TDM_COUNT(none); i++)
        if (strstr(html, none[i])) fail_msg("the page has %s", none[i]);
    assert_non_null(strstr(html, "default-src 'none'"));
    assert_null(strstr(html, "@css@"));
    assert_null(strstr(html, "@js@"));
    free(html);
    test_scratch_free(dir);
}

static void hostile_completions_stay_text(void **state)
{
    (void)state;
    static const char evil[] = "</script><script>alert(1)</script><!-- & @js@ @data@ \xf0\x9f \xe2\x80\xa8";
    char *dir = test_scratch_new(), *recipe = test_path(dir, "recipe.yaml"), *html;
    tdm_error err = {0};
    tdm_rollout_log log;
    tdm_rollout_record r = {.prompt = evil, .prompt_len = sizeof evil - 1, .completion = evil, .completion_len = sizeof evil - 1, .reward = 1};
    const char *names[] = {"</script>"};
    const double values[] = {NAN};
    r.reward_names = names, r.reward_values = values, r.reward_count = 1;
    json_decref(write_and_read(dir, &html));
    int scripts = count_of(html, "<script"), ends = count_of(html, "</script"), marks = count_of(html, "@js@");
    free(html);

    assert_int_equal(tdm_rollout_log_open(&log, dir, 10, &err), TDM_OK);
    assert_int_equal(tdm_rollout_log_put(&log, &r, &err), TDM_OK);
    assert_int_equal(tdm_rollout_log_close(&log, &err), TDM_OK);
    test_file_put(recipe, evil);
    const tdm_report_region region[] = {{"rollout", "</script>", 5}, {"rollout", "kv", 6}, {"train", "tape", 7}};
    assert_int_equal(tdm_report_memory_write(dir, 100, region, 3, &err), TDM_OK);
    json_t *o = write_and_read(dir, &html);
    assert_int_equal(count_of(html, "<script"), scripts);
    assert_int_equal(count_of(html, "</script"), ends);
    assert_int_equal(count_of(html, "<!--"), 0);
    assert_int_equal(count_of(html, "@js@"), marks + 3); /* prompt, completion, recipe: left as they are */
    const json_t *sample = json_array_get(json_object_get(json_array_get(json_object_get(o, "rollouts"), 0), "samples"), 0);
    assert_memory_equal(json_string_value(json_object_get(sample, "completion")), evil, strlen("</script><script>alert(1)</script><!-- & @js@ @data@"));
    assert_true(json_is_null(json_object_get(json_object_get(sample, "rewards"), "</script>")));
    const json_t *layouts = json_object_get(json_object_get(o, "memory"), "layouts");
    assert_int_equal(json_array_size(layouts), 2);
    assert_int_equal(json_array_size(json_object_get(json_array_get(layouts, 0), "regions")), 2);
    json_decref(o);
    free(html);
    free(recipe);
    test_scratch_free(dir);
}

/* Of several turns each is there with its writer and its rewards, a 0 byte and markup in it or not. */
static void turns_stand_one_by_one(void **state)
{
    (void)state;
    static const char text[] = "<calc>1</calc>\0</script>";
    char *dir = test_scratch_new(), *html;
    tdm_error err = {0};
    tdm_rollout_log log;
    json_t *turns = json_pack("[{s:s,s:s%,s:i,s:{s:f}},{s:s,s:s,s:i}]", "role", "assistant", "content", text, sizeof text - 1, "tokens", 2, "rewards", "tidy", 0.5,
                              "role", "tool", "content", "1", "tokens", 1);
    const uint8_t mask[] = {1, 1, 0};
    const int32_t ids[] = {5, 6, 7};
    const tdm_rollout_record r = {.prompt = "p", .prompt_len = 1, .completion = "c", .completion_len = 1, .reward = 1, .prompt_ids = ids, .prompt_count = 1,
                                  .completion_ids = ids, .completion_count = 3, .mask = mask, .turns = turns};
    put_steps(dir, 1);
    assert_int_equal(tdm_rollout_log_open(&log, dir, 10, &err), TDM_OK);
    assert_int_equal(tdm_rollout_log_put(&log, &r, &err), TDM_OK);
    assert_int_equal(tdm_rollout_log_close(&log, &err), TDM_OK);
    json_decref(turns);
    json_t *o = write_and_read(dir, &html);
    const json_t *shown = json_object_get(json_array_get(json_object_get(json_array_get(json_object_get(o, "rollouts"), 0), "samples"), 0), "turns");
    assert_int_equal(json_array_size(shown), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(shown, 0), "role")), "assistant");
    assert_memory_equal(json_string_value(json_object_get(json_array_get(shown, 0), "content")), text, strlen(text));
    assert_true(json_number_value(json_object_get(json_object_get(json_array_get(shown, 0), "rewards"), "tidy")) == 0.5);
    assert_string_equal(json_string_value(json_object_get(json_array_get(shown, 1), "role")), "tool");
    json_decref(o);
    free(html);
    test_scratch_free(dir);
}

static void many_steps_are_grouped_and_a_spike_is_still_seen(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *html;
    put_steps(dir, 5001);
    json_t *o = write_and_read(dir, &html);
    size_t points = json_array_size(json_object_get(o, "steps"));
    assert_true(points > 400 && points <= 800);
    const json_t *loss = json_object_get(json_object_get(o, "series"), "loss");
    assert_int_equal(json_array_size(json_object_get(loss, "v")), points);
    assert_true(json_number_value(json_array_get(json_object_get(loss, "hi"), points - 1)) == 1000);
    assert_true(json_number_value(json_array_get(json_object_get(loss, "lo"), 0)) == 1);
    assert_true(json_number_value(json_object_get(json_object_get(o, "totals"), "step_s")) == 10002);
    assert_int_equal(json_integer_value(json_object_get(o, "rows")), 5001);
    json_decref(o);
    free(html);
    test_scratch_free(dir);
}

static void of_many_rollouts_the_first_and_the_last_are_shown(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *html;
    tdm_error err = {0};
    for (int64_t step = 10; step <= 300; step += 10) {
        tdm_rollout_log log;
        assert_int_equal(tdm_rollout_log_open(&log, dir, step, &err), TDM_OK);
        for (int i = 0; i < 50; i++) {
            char text[16];
            snprintf(text, sizeof text, "%d", i);
            tdm_rollout_record r = {.prompt = "p", .prompt_len = 1, .completion = text, .completion_len = strlen(text), .reward = NAN};
            assert_int_equal(tdm_rollout_log_put(&log, &r, &err), TDM_OK);
        }
        assert_int_equal(tdm_rollout_log_close(&log, &err), TDM_OK);
    }
    json_t *o = write_and_read(dir, &html);
    const json_t *rollouts = json_object_get(o, "rollouts");
    size_t n = json_array_size(rollouts);
    assert_int_equal(n, 8);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(rollouts, 0), "step")), 10);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(rollouts, n - 1), "step")), 300);
    assert_int_equal(json_array_size(json_object_get(json_array_get(rollouts, 3), "samples")), 12);
    json_decref(o);
    free(html);
    test_scratch_free(dir);
}

/* A folder with n steps, malloc'd. */
static char *put_run(const char *dir, const char *name, int64_t n)
{
    tdm_error err = {0};
    char *run = test_path(dir, name);
    assert_int_equal(tdm_fs_mkdirs(run, &err), TDM_OK);
    put_steps(run, n);
    return run;
}

static void the_others_stand_beside_the_first(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *path = test_path(dir, "compared.html"), *html;
    char *runs[] = {put_run(dir, "cpu", 3), put_run(dir, "gpu", 5001), put_run(dir, "<script>", 1)};
    char *recipe = test_path(runs[1], "recipe.yaml"), *untouched = test_path(runs[0], "report.html");
    tdm_error err = {0};
    test_file_put(recipe, "seed: 7 # </script>\n");
    assert_int_equal(tdm_report_compare((const char *const *)runs, 3, path, &err), TDM_OK);
    assert_false(tdm_fs_is_file(untouched));
    html = test_file_get(path, NULL);
    json_t *o = data_of(html);
    const json_t *others = json_object_get(o, "others"), *gpu = json_array_get(others, 0), *last = json_array_get(others, 1);
    assert_int_equal(json_array_size(others), 2);
    assert_string_equal(json_string_value(json_object_get(o, "name")), "cpu");
    assert_int_equal(json_array_size(json_object_get(o, "steps")), 3);
    assert_string_equal(json_string_value(json_object_get(gpu, "name")), "gpu");
    assert_string_equal(json_string_value(json_object_get(gpu, "recipe")), "seed: 7 # </script>\n");
    assert_int_equal(json_integer_value(json_object_get(gpu, "rows")), 5001);
    assert_int_equal(json_integer_value(json_object_get(gpu, "bucket")), 7);
    size_t points = json_array_size(json_object_get(gpu, "steps"));
    assert_int_equal(points, 715);
    assert_int_equal(json_array_size(json_object_get(json_object_get(json_object_get(gpu, "series"), "loss"), "v")), points);
    assert_string_equal(json_string_value(json_object_get(last, "name")), "<script>");
    assert_int_equal(count_of(html, "<script"), 2); /* the page's own: of the data, and of the program */
    assert_int_equal(count_of(html, "</script"), 2);
    json_decref(o);
    free(html);

    /* without a path the page is that of the first run's folder */
    assert_int_equal(tdm_report_compare((const char *const *)runs, 2, NULL, &err), TDM_OK);
    html = test_file_get(untouched, NULL);
    o = data_of(html);
    assert_int_equal(json_array_size(json_object_get(o, "others")), 1);
    json_decref(o);
    free(html);
    json_decref(write_and_read(runs[0], &html));
    assert_null(strstr(html, "\"gpu\"")); /* and alone again */
    free(html);
    for (int i = 0; i < 3; i++) free(runs[i]);
    free(recipe);
    free(untouched);
    free(path);
    test_scratch_free(dir);
}

static void runs_of_one_name_are_called_by_their_folders(void **state)
{
    (void)state;
    static const char *const where[] = {"a/fast/run", "b/fast/run", "b/exact/run"};
    char *dir = test_scratch_new(), *html, *runs[3];
    tdm_error err = {0};
    for (int i = 0; i < 3; i++) runs[i] = put_run(dir, where[i], 1);
    for (int count = 2; count <= 3; count++) { /* the second and third differ by two parts of the path already */
        const char *const given[] = {runs[2], runs[1], runs[0]};
        char *path = test_path(runs[2], "report.html");
        assert_int_equal(tdm_report_compare(given, count, NULL, &err), TDM_OK);
        html = test_file_get(path, NULL);
        json_t *o = data_of(html);
        const char *name = json_string_value(json_object_get(o, "name"));
        assert_string_equal(name, count == 2 ? "exact/run" : where[2]);
        for (int i = 1; i < count; i++) {
            name = json_string_value(json_object_get(json_array_get(json_object_get(o, "others"), (size_t)i - 1), "name"));
            assert_string_equal(name, count == 2 ? "fast/run" : where[2 - i]);
        }
        json_decref(o);
        free(html);
        free(path);
    }
    for (int i = 0; i < 3; i++) free(runs[i]);
    test_scratch_free(dir);
}

static void what_is_no_other_run_is_named(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *run = put_run(dir, "run", 2), *none = test_path(dir, "none"), *again = test_path(run, "../run"),
         *page = test_path(run, "report.html");
    const struct { const char *other, *what; tdm_status st; } cases[] = {
        {none, "no run folder", TDM_ERR_INPUT},
        {page, "no run folder", TDM_ERR_INPUT},
        {dir, "no metrics.jsonl in the folder", TDM_ERR_INPUT},
        {again, "the run is given twice", TDM_ERR_RECIPE},
    };
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        tdm_error err = {0};
        const char *const runs[] = {run, cases[i].other};
        assert_int_equal(tdm_report_compare(runs, 2, NULL, &err), cases[i].st);
        assert_string_equal(err.what, cases[i].what);
        assert_string_equal(err.where, cases[i].other);
        assert_false(tdm_fs_is_file(page));
    }
    free(run);
    free(none);
    free(again);
    free(page);
    test_scratch_free(dir);
}

static void a_failed_write_leaves_the_old_page(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *html, *path = test_path(dir, "report.html");
    json_decref(write_and_read(dir, &html));
    put_steps(dir, 2);
    for (int n = 0; n < 3; n++) {
        tdm_error err = {0};
        tdm_fault_arm(TDM_FAULT_ANY, n, false);
        assert_int_equal(tdm_report_write(dir, &err), TDM_ERR_OTHER);
        assert_int_equal(tdm_fault_disarm(), 1);
        char *now = test_file_get(path, NULL);
        assert_string_equal(now, html);
        free(now);
    }
    free(html);
    free(path);
    test_scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_folder_gives_a_page_and_no_folder_an_error),
        cmocka_unit_test(the_page_loads_nothing),
        cmocka_unit_test(hostile_completions_stay_text),
        cmocka_unit_test(many_steps_are_grouped_and_a_spike_is_still_seen),
        cmocka_unit_test(turns_stand_one_by_one),
        cmocka_unit_test(of_many_rollouts_the_first_and_the_last_are_shown),
        cmocka_unit_test(the_others_stand_beside_the_first),
        cmocka_unit_test(runs_of_one_name_are_called_by_their_folders),
        cmocka_unit_test(what_is_no_other_run_is_named),
        cmocka_unit_test(a_failed_write_leaves_the_old_page),
    };
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
