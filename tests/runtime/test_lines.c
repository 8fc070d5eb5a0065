/* labels: unit
 *
 * JSONL as commands and runs read it: prompts, lists of ids, rows of data. What is wrong is named with its line, and nothing of a line is
 * left unread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/cmd/id_lines.h"
#include "runtime/cmd/prompts.h"
#include "runtime/data/dataset.h"
#include "testing/scratch.h"

static char *dir, *path;
static tdm_model_file *model;
static tdm_language language;

static int setup(void **state)
{
    tdm_error err = {0};
    (void)state;
    dir = test_scratch_new();
    path = test_path(dir, "in.jsonl");
    if (tdm_model_file_open(&model, "tests/golden/data/models/qwen3", &err) != TDM_OK || tdm_language_open(&language, model, &err) != TDM_OK)
        fail_msg("%s (%s)", err.what, err.where);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tdm_language_close(&language);
    tdm_model_file_close(model);
    free(path);
    test_scratch_free(dir);
    return 0;
}

static void put(const char *bytes, size_t len)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}
#define PUT(literal) put((literal), sizeof(literal) - 1)

static void every_form_of_a_prompt_is_read(void **state)
{
    tdm_error err = {0};
    tdm_prompts p = {0};
    (void)state;
    PUT("\"abc\"\n\n{\"prompt\":\"abc\"}\n{\"ids\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30]}\n");
    if (tdm_prompts_read(&p, &language, path, tdm_model_file_config(model), &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    assert_int_equal(p.count, 3);
    assert_int_equal(p.ids[0].count, p.ids[1].count);
    assert_memory_equal(p.ids[0].data, p.ids[1].data, (size_t)p.ids[0].count * sizeof(int32_t));
    assert_int_equal(p.ids[2].count, 30);
    assert_int_equal(p.longest, 30);
    tdm_prompts_free(&p);
}

static void expect_prompts_error(const char *from, const char *where, const char *what)
{
    tdm_error err = {0};
    tdm_prompts p = {0};
    assert_int_equal(tdm_prompts_read(&p, &language, from, tdm_model_file_config(model), &err), TDM_ERR_INPUT);
    if (!strstr(err.where, where) || !strstr(err.what, what)) fail_msg("\"%s\" (%s), expected \"%s\" (%s)", err.what, err.where, what, where);
    tdm_prompts_free(&p);
}

static void a_line_that_is_no_prompt_is_named(void **state)
{
    (void)state;
    PUT("\"abc\"\n{\"prompt\":1}\n");
    expect_prompts_error(path, "in.jsonl:2", "no prompt in the line");
    PUT("{\"ids\":[1,1000000]}\n");
    expect_prompts_error(path, "in.jsonl:1", "ids[1]");
    PUT("{\"ids\":[]}\n");
    expect_prompts_error(path, "in.jsonl:1", "empty");
    expect_prompts_error(dir, dir, "cannot read"); /* a folder opens, and was taken for a file without a line */
}

/* What followed a zero byte was left out without a word. */
static void what_follows_a_zero_byte_is_read_too(void **state)
{
    tdm_error ids_err = {0}, row_err = {0};
    tdm_id_lines ids = {0};
    tdm_dataset *d;
    json_t *row = NULL;
    (void)state;
    PUT("\"abc\"\n\"abc\"\0, \"def\"\n");
    expect_prompts_error(path, "in.jsonl:2", "not JSON");
    PUT("{\"ids\":[1]}\0{\"ids\":[2]}\n");
    assert_int_equal(tdm_id_lines_read(&ids, path, &ids_err), TDM_ERR_INPUT);
    assert_non_null(strstr(ids_err.what, "not JSON"));
    tdm_id_lines_free(&ids);
    assert_int_equal(tdm_dataset_open(&d, path, &row_err), TDM_OK);
    assert_int_equal(tdm_dataset_row(d, 0, &row, &row_err), TDM_ERR_INPUT);
    assert_non_null(strstr(row_err.what, "not JSON"));
    tdm_dataset_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_of_a_prompt_is_read),
        cmocka_unit_test(a_line_that_is_no_prompt_is_named),
        cmocka_unit_test(what_follows_a_zero_byte_is_read_too),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
