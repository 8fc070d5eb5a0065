/* labels: unit
 * Rows of multiple-choice data sets become lm-evaluation-harness' prompts, and tandem eval takes the likeliest choice.
 * tests/conformance/check_eval.py runs the harness itself on the same rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/cmd/commands.h"
#include "runtime/data/choices.h"
#include "testing/scratch.h"

static tdm_status read(tdm_choices *c, const char *task, const char *text, tdm_error *err)
{
    json_t *row = json_loads(text, 0, NULL);
    assert_non_null(row);
    *err = (tdm_error){0};
    const tdm_status st = tdm_choices_read(c, task, row, "rows.jsonl:3", err);
    json_decref(row);
    return st;
}

/* The strings on the right were printed by the harness' own task files. */
static void prompts_are_the_harness(void **state)
{
    static const struct {
        const char *task, *row, *context, *choice;
        int count, gold;
    } cases[] = {
        {"arc_easy", "{\"question\":\"Why?\",\"choices\":{\"text\":[\"a b\",\"c\"],\"label\":[\"A\",\"B\"]},\"answerKey\":\"B\"}", "Question: Why?\nAnswer:", "c", 2, 1},
        {"arc_challenge", "{\"question\":\"Q \",\"choices\":{\"text\":[\"x\",\"y\",\"z\"],\"label\":[\"1\",\"2\",\"3\"]},\"answerKey\":\"1\"}", "Question: Q \nAnswer:", "x", 3, 0},
        {"openbookqa", "{\"question_stem\":\"The sun\",\"choices\":{\"text\":[\"x\",\"y\"],\"label\":[\"A\",\"B\"]},\"answerKey\":\" A\"}", "The sun", "x", 2, 0},
        {"piqa", "{\"goal\":\"Open it\",\"sol1\":\"pull\",\"sol2\":\"push\",\"label\":1}", "Question: Open it\nAnswer:", "push", 2, 1},
        {"boolq", "{\"passage\":\"P.\",\"question\":\"is it so\",\"label\":1}", "P.\nQuestion: is it so?\nAnswer:", "yes", 2, 1},
        {"boolq", "{\"passage\":\"P.\",\"question\":\"is it so\",\"answer\":false}", "P.\nQuestion: is it so?\nAnswer:", "no", 2, 0},
        {"choices", "{\"query\":\" as is \",\"choices\":[\" a\",\"b\"],\"gold\":0}", " as is ", " a", 2, 0},
        {"choices", "{\"context\":\"\",\"choices\":[\"a\",\"b\",\"c\"],\"gold\":\"2\"}", "", "c", 3, 2},
        {"hellaswag", "{\"activity_label\":\"Roof\",\"ctx_a\":\"A man\",\"ctx_b\":\"he IS\",\"endings\":[\" up [x] on \",\"b\"],\"label\":\"0\"}", "Roof: A man He is", "up on", 2, 0},
        {"hellaswag", "{\"activity_label\":\"R\",\"ctx_a\":\"[header] How to [title] Do\",\"ctx_b\":\"\",\"endings\":[\"[a [b] c\",\"b [open\\n]\"],\"label\":1}",
         "R: How to. Do", "b [open\n]", 2, 1},
        {"hellaswag", "{\"activity_label\":\"R\",\"ctx_a\":\"x    y\",\"ctx_b\":\"\\u00e9TUDE \\u00c9\",\"endings\":[\"a\",\"b\"],\"label\":1}", "R: x  y \xc3\x89tude \xc3\xa9", "b", 2, 1},
    };
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        tdm_choices c;
        tdm_error err;
        if (read(&c, cases[i].task, cases[i].row, &err) != TDM_OK) fail_msg("%zu: %s", i, err.what);
        assert_string_equal(c.context, cases[i].context);
        assert_int_equal(c.count, cases[i].count);
        assert_int_equal(c.gold, cases[i].gold);
        assert_string_equal(c.text[c.gold], cases[i].choice);
        tdm_choices_free(&c);
    }
}

static void bad_rows_are_named(void **state)
{
    static const struct {
        const char *task, *row, *what;
    } cases[] = {
        {"choices", "{\"choices\":[\"a\",\"b\"],\"gold\":0}", "the row has no column context"},
        {"choices", "{\"query\":7,\"choices\":[\"a\",\"b\"],\"gold\":0}", "the column query is not a text"},
        {"choices", "{\"query\":\"q\",\"gold\":0}", "the row has no list of choices"},
        {"choices", "{\"query\":\"q\",\"choices\":[\"a\",2],\"gold\":0}", "choice 1 is not a text"},
        {"choices", "{\"query\":\"q\",\"choices\":[\"a\"],\"gold\":0}", "1 choices"},
        {"choices", "{\"query\":\"q\",\"choices\":[\"a\",\"b\"],\"gold\":2}", "gold is 2, and there are 2 choices"},
        {"choices", "{\"query\":\"q\",\"choices\":[\"a\",\"b\"],\"gold\":-1}", "the column gold is not the number of a choice"},
        {"choices", "{\"query\":\"q\",\"choices\":[\"a\",\"b\"],\"gold\":\"1x\"}", "the column gold is not the number of a choice"},
        {"choices", "{\"query\":\"q\",\"choices\":[\"a\",\"b\"]}", "the row has no column gold"},
        {"arc_easy", "{\"question\":\"q\",\"choices\":{\"text\":[\"a\",\"b\"],\"label\":[\"A\",\"B\"]},\"answerKey\":\"C\"}", "no choice is labelled \"C\""},
        {"piqa", "{\"goal\":\"q\",\"sol1\":\"a\",\"label\":0}", "the row has no column sol2"},
    };
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        tdm_choices c;
        tdm_error err;
        assert_int_equal(read(&c, cases[i].task, cases[i].row, &err), TDM_ERR_INPUT);
        assert_string_equal(err.what, cases[i].what);
        assert_string_equal(err.where, "rows.jsonl:3");
    }
}

typedef struct fixture {
    char *dir, *data, *samples;
} fixture;

static tdm_status eval(const fixture *f, const char *more, tdm_error *err)
{
    char text[2048], *argv[32];
    int argc = 0;
    *err = (tdm_error){0};
    snprintf(text, sizeof text, "eval --model tests/golden/data/models/qwen3 --device cpu --threads 2 --data %s --samples %s %s", f->data, f->samples, more);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    return tdm_cmd_eval(argc, argv, err);
}

/* The same choice twice and a longer one: the first of equals is taken, and what is longer is less likely; a row has the same bits in any company. */
static void the_likeliest_choice_is_taken(void **state)
{
    static const char row[] = "{\"query\":\"One two\",\"choices\":[\"three four five six\",\"three\",\"three\"],\"gold\":1}\n";
    fixture f = {.dir = test_scratch_new()};
    tdm_error err;
    unsigned long n;
    char rows[4096] = "";
    (void)state;
    f.data = test_path(f.dir, "rows.jsonl");
    f.samples = test_path(f.dir, "samples.jsonl");
    for (int i = 0; i < 20; i++) strcat(rows, i == 7 ? row : "{\"query\":\"Another\",\"choices\":[\"x\",\"y z\"],\"gold\":0}\n");
    test_file_put(f.data, rows);
    assert_int_equal(eval(&f, "--task choices", &err), TDM_OK);
    char *many = test_file_get(f.samples, &n), *line = strstr(many, "{\"row\":7,");
    assert_non_null(line);
    *strchr(line, '\n') = 0;
    assert_non_null(strstr(line, "\"gold\":1,\"acc\":true"));
    test_file_put(f.data, row);
    assert_int_equal(eval(&f, "--task choices", &err), TDM_OK);
    char *alone = test_file_get(f.samples, &n);
    *strchr(alone, '\n') = 0;
    assert_string_equal(strstr(alone, "\"logprobs\""), strstr(line, "\"logprobs\""));
    test_file_put(f.data, "{\"query\":\"One two\",\"choices\":[\"a\",\"\"],\"gold\":1}\n{\"query\":\"a\",\"choices\":[\"b\",\"c\"]}\n");
    assert_int_equal(eval(&f, "--task choices", &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.where, "rows.jsonl:2"));
    assert_int_equal(eval(&f, "--task choices --limit 1", &err), TDM_OK);
    assert_int_equal(eval(&f, "--task arc", &err), TDM_ERR_RECIPE);
    assert_string_equal(err.what, "--task does not know \"arc\"");
    free(many);
    free(alone);
    free(f.data);
    free(f.samples);
    test_scratch_free(f.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_the_harness),
        cmocka_unit_test(bad_rows_are_named),
        cmocka_unit_test(the_likeliest_choice_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
