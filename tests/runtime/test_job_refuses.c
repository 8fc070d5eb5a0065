/* labels: unit
 * What only the model or the machine can say against a recipe: refused before anything is loaded, at the recipe's line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/ops.h"
#include "testing/job_case.h"
#include "testing/scratch.h"

/* Checks a recipe for a golden model of two layers; `model` and `last` are more lines of it. */
static tdm_status check_of(const char *name, const char *model, const char *last, tdm_error *err)
{
    char text[2048];
    char *dir = test_scratch_new(), *train = test_path(dir, "train.jsonl");
    test_file_put(train, "{\"q\":\"one\",\"answer\":\"1\"}\n");
    snprintf(text, sizeof text,
             "model:\n  path: tests/golden/data/models/%s\n  weights: fp8_channel\n%s"
             "adapter: {rank: 4}\ndata: {train: %s, prompt: '{q}', max_prompt_tokens: 48}\n"
             "rollout: {prompts_per_step: 2, generations: 2, max_new_tokens: 8}\nreward: [{type: exact, answer: '{answer}'}]\n"
             "train: {steps: 1, micro_tokens: 128}\noutput: %s/run\nthreads: 1\n%s",
             name, model, train, dir, last);
    const tdm_status st = test_job_run(text, (tdm_job_options){.check = true}, err);
    free(train);
    test_scratch_free(dir);
    return st;
}

static tdm_status check(const char *model, const char *last, tdm_error *err) { return check_of("qwen3", model, last, err); }

static void expect_of(const char *name, const char *model, const char *last, const char *where, const char *what)
{
    tdm_error err;
    const tdm_status st = check_of(name, model, last, &err);
    if (st != TDM_ERR_RECIPE || strncmp(err.where, where, strlen(where)) != 0 || !strstr(err.what, what))
        fail_msg("status %d, \"%s\" (%s), expected \"%s\" (%s)", (int)st, err.what, err.where, what, where);
    assert_string_not_equal(err.hint, "");
}

static void expect_refused(const char *model, const char *last, const char *where, const char *what) { expect_of("qwen3", model, last, where, what); }

static void the_recipe_itself_is_good(void **state)
{
    tdm_error err;
    (void)state;
    if (check("", "", &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    if (check("", "device: cpu\n", &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
}

static void a_device_that_is_not_there(void **state)
{
    const tdm_backend *cuda;
    (void)state;
    if (tdm_backend_cuda(NULL, &cuda, NULL) == TDM_OK) skip();
    expect_refused("", "device: cuda\n", "a.yaml:11:9", "CUDA");
}

static void layers_and_modules_the_model_lacks(void **state)
{
    tdm_error err;
    (void)state;
    expect_refused("  first_layers_bf16: 3\n", "", "a.yaml:4:22", "first 3 layers are to stay BF16, the model has 2");
    expect_refused("  pow2_scale: yes\n  last_layers_bf16: 10000\n", "", "a.yaml:5:21", "last 10000 layers are to stay BF16, the model has 2");
    expect_refused("  keep_bf16: [lm_head, layers.2.]\n", "", "a.yaml:4:14", "\"layers.2.\"");
    expect_refused("  keep_bf16: [norm]\n", "", "a.yaml:4:14", "\"norm\"");
    expect_refused("  keep_bf16: ['re:.*layers.2']\n", "", "a.yaml:4:14", "\"re:.*layers.2\"");
    expect_refused("  keep_bf16: ['re:down_proj']\n", "", "a.yaml:4:14", "\"re:down_proj\""); /* from the start */
    if (check("  keep_bf16: ['re:.*\\.[01]\\..*down', 're:lm_head$']\n", "", &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    if (check("  keep_bf16: ['re:(']\n", "", &err) == TDM_OK || !strstr(err.what, "regular expression (") || strncmp(err.where, "a.yaml:4:14", 11) != 0)
        fail_msg("%s (%s)", err.what, err.where);
    if (check("  first_layers_bf16: 2\n  last_layers_bf16: 2\n  keep_bf16: [lm_head, embed, layers.1., down_proj, self_attn.k]\n", "", &err) != TDM_OK)
        fail_msg("%s (%s)", err.what, err.where);
}

/* llama3's head is its embedding, qwen3's is not. */
static void one_matrix_has_one_precision(void **state)
{
    static const char *const keys[] = {"lm_head", "embedding"};
    tdm_error err;
    (void)state;
    for (int i = 0; i < 2; i++) {
        char line[64], what[128];
        snprintf(line, sizeof line, "  %s: fp8\n", keys[i]);
        if (check(line, "", &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
        snprintf(what, sizeof what, "this model's head is its embedding, and model.%s alone is to be FP8", keys[i]);
        expect_of("llama3", line, "", i ? "a.yaml:4:14" : "a.yaml:4:12", what);
    }
    if (check_of("llama3", "  lm_head: fp8\n  embedding: fp8\n", "", &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_recipe_itself_is_good),
        cmocka_unit_test(a_device_that_is_not_there),
        cmocka_unit_test(layers_and_modules_the_model_lacks),
        cmocka_unit_test(one_matrix_has_one_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
