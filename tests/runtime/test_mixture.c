/* labels: unit
 *
 * Draws from several files: by weight, each file in its own order and epochs, and a function of the draw's number alone. And a step of the
 * tiny golden model over two files with their own prompts and rewards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/data/mixture.h"
#include "runtime/run/job.h"
#include "testing/scratch.h"

enum { DRAWS = 4000, ROWS_A = 10, ROWS_B = 700 };

static void put_rows(const char *path, int rows)
{
    char text[16384] = "";
    size_t n = 0;
    for (int i = 0; i < rows; i++) n += (size_t)snprintf(text + n, sizeof text - n, "{\"q\":%d}\n", i);
    test_file_put(path, text);
}

static void draws_are_by_weight_and_each_file_has_its_epochs(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *a = test_path(dir, "a.jsonl"), *b = test_path(dir, "b.jsonl");
    const char *const paths[] = {a, b};
    static int64_t part[DRAWS], row[DRAWS];
    int seen_a[ROWS_A] = {0}, seen_b[ROWS_B] = {0};
    int64_t count[2] = {0}, p, r;
    tdm_mixture *m;
    tdm_error err = {0};
    put_rows(a, ROWS_A);
    put_rows(b, ROWS_B);
    assert_int_equal(tdm_mixture_open(&m, paths, (const double[]){3, 1}, 2, 7, true, &err), TDM_OK);
    assert_int_equal(tdm_mixture_rows(m), ROWS_A + ROWS_B);
    for (int64_t i = 0; i < DRAWS; i++) {
        tdm_mixture_draw(m, i, &part[i], &row[i]);
        if (part[i] == 1 && count[1] < ROWS_B) seen_b[row[i]]++;
        if (part[i] == 0) seen_a[row[i]]++;
        count[part[i]]++;
        for (int k = 0; part[i] == 0 && count[0] % ROWS_A == 0 && k < ROWS_A; k++) assert_int_equal(seen_a[k], count[0] / ROWS_A); /* an epoch has every row */
    }
    assert_true(count[0] > 2890 && count[0] < 3110); /* four deviations of fair draws */
    for (int k = 0; k < ROWS_B; k++) assert_int_equal(seen_b[k], 1);
    for (int64_t i = DRAWS - 1; i >= 0; i -= 371) { /* falling: each is counted from the start */
        tdm_mixture_draw(m, i, &p, &r);
        assert_true(p == part[i] && r == row[i]);
    }
    tdm_mixture_close(m);
    free(a);
    free(b);
    test_scratch_free(dir);
}

static void one_file_is_drawn_from_as_a_dataset(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *a = test_path(dir, "a.jsonl");
    const char *const paths[] = {a};
    tdm_mixture *m;
    tdm_error err = {0};
    put_rows(a, ROWS_A);
    assert_int_equal(tdm_mixture_open(&m, paths, (const double[]){0.5}, 1, 7, true, &err), TDM_OK);
    for (int64_t i = 0; i < 3 * ROWS_A; i++) {
        int64_t p, r;
        tdm_mixture_draw(m, i, &p, &r);
        assert_true(p == 0 && r == tdm_dataset_draw(tdm_mixture_part(m, 0), 7, true, i));
    }
    tdm_mixture_close(m);
    free(a);
    test_scratch_free(dir);
}

/* Only one of the files has the column that `exact` asks for. */
static void each_file_has_its_prompt_and_its_rewards(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *a = test_path(dir, "a.jsonl"), *b = test_path(dir, "b.jsonl"), *log = test_path(dir, "run/rollouts/step-000001.jsonl");
    char *script = test_path(dir, "reward.sh"), text[2048];
    tdm_recipe *r = NULL;
    tdm_error err = {0};
    test_file_put(a, "{\"q\":\"first\",\"answer\":\"1\"}\n");
    test_file_put(b, "{\"q\":\"second\"}\n");
    test_file_put(script, "read -r line; echo '{\"id\":1,\"rewards\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}'\n");
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: bf16}\nadapter: {rank: 4}\n"
             "data: {train: [{path: %s, prompt: 'A {q}', rewards: [exact]}, {path: %s, prompt: 'B {q}', rewards: [length, one]}], max_prompt_tokens: 48}\n"
             "rollout: {prompts_per_step: 8, generations: 2, max_new_tokens: 8}\n"
             "reward: [{type: exact}, {type: length, buffer: 4}, {command: [/bin/sh, %s], name: one}]\n"
             "train: {steps: 1, micro_tokens: 128}\nlog: {rollouts: 1, report: false, tensorboard: false}\noutput: %s/run\nthreads: 1\n",
             a, b, script, dir);
    tdm_status st = tdm_recipe_parse(&r, text, strlen(text), "a.yaml", NULL, 0, &err);
    if (st == TDM_OK) st = tdm_job_run(r, &(tdm_job_options){.quiet = true}, &err);
    if (st != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    tdm_recipe_close(r);
    FILE *f = fopen(log, "r");
    char *line = NULL;
    size_t room = 0;
    int of_a = 0, of_b = 0;
    assert_non_null(f);
    while (getline(&line, &room, f) > 0) {
        const bool first = strstr(line, "A first") != NULL;
        assert_true(first != (strstr(line, "B second") != NULL));
        assert_true(first == (strstr(line, "\"exact\":null") == NULL));
        assert_true(first == (strstr(line, "\"length\":null") != NULL));
        assert_true(first == (strstr(line, "\"one\":null") != NULL));
        if (first) of_a++;
        else of_b++;
    }
    assert_true(of_a > 0 && of_b > 0 && of_a + of_b == 16);
    free(line);
    fclose(f);
    free(a);
    free(b);
    free(log);
    free(script);
    test_scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(draws_are_by_weight_and_each_file_has_its_epochs), cmocka_unit_test(one_file_is_drawn_from_as_a_dataset),
                                       cmocka_unit_test(each_file_has_its_prompt_and_its_rewards)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
