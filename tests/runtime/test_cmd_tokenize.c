/* tandem tokenize, from stdin to stdout: its contract, and the lines its errors name. */
#include "runtime/cmd/commands.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "testing/scratch.h"

static char *scratch, *model, *in, *out;

/* The command in a process of its own, since it reads stdin; *text: its stdout, the caller's (free). */
static int run(const char *input, const char *option, char **text)
{
    int status = 0;
    test_file_put(in, input);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        tdm_error err = {0};
        char name[] = "tandem tokenize", model_flag[] = "--model", flag[32];
        char *argv[] = {name, model_flag, model, flag, NULL};
        snprintf(flag, sizeof flag, "%s", option ? option : "");
        if (!freopen(in, "r", stdin) || !freopen(out, "w", stdout) || !freopen(out, "a", stderr)) _exit(99);
        const tdm_status st = tdm_cmd_tokenize(option ? 4 : 3, argv, &err);
        fflush(stdout);
        if (st != TDM_OK) tdm_error_print(&err);
        fflush(NULL);
        _exit((int)st);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    *text = test_file_get(out, NULL);
    return WEXITSTATUS(status);
}

static void prints(const char *input, const char *option, int rc, const char *want)
{
    char *text;
    const int got = run(input, option, &text);
    if (got != rc || strcmp(text, want) != 0) fail_msg("%s: exit %d, \"%s\"\nexpected %d, \"%s\"", input, got, text, rc, want);
    free(text);
}

static void strings_become_ids_and_text(void **state)
{
    (void)state;
    prints("\"ab\"\n\n  \"\"\n\"\\u00e9<s>\"", NULL, 0, "{\"ids\":[4,2],\"text\":\"ab\"}\n{\"ids\":[4],\"text\":\"\"}\n{\"ids\":[4,3,4],\"text\":\"\xc3\xa9<s>\"}\n");
}

static void messages_pass_through_the_template_and_get_nothing_more(void **state)
{
    (void)state;
    prints("{\"messages\":[{\"role\":\"user\",\"content\":\"ab\"}],\"add_generation_prompt\":true}\n"
           "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"}],\"mark\":\"ab\"}\n",
           NULL, 0, "{\"ids\":[4,2,0],\"text\":\"<s>aba\"}\n{\"ids\":[4,2,2],\"text\":\"<s>abab\"}\n");
}

static void ids_become_text(void **state)
{
    (void)state;
    prints("{\"ids\":[4,2,0]}\n{\"ids\":[]}\n", "--decode", 0, "{\"text\":\"<s>aba\"}\n{\"text\":\"\"}\n");
}

static void errors_name_the_line_after_what_was_done(void **state)
{
    static const struct { const char *input, *option, *says; } cases[] = {
        {"\"a\"\n{\"x\":1}\n", NULL, "stdin:2"}, {"\"a\"\n\n[1\n", NULL, "stdin:3"}, {"7\n", NULL, "stdin:1"}, {"\"a\"\n\"\xff\"\n", NULL, "stdin:2"},
        {"{\"ids\":[5]}\n", "--decode", "stdin:1"}, {"{\"ids\":[-1]}\n", "--decode", "stdin:1"}, {"{\"ids\":[\"a\"]}\n", "--decode", "stdin:1"},
        {"{\"ids\":3}\n", "--decode", "stdin:1"}, {"\"a\"\n", "--decode", "stdin:1"},
        {"{\"messages\":[{\"role\":\"user\"}]}\n", NULL, "stdin:1"},
    };
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        char *text;
        const int rc = run(cases[i].input, cases[i].option, &text);
        if (rc != TDM_ERR_INPUT || !strstr(text, cases[i].says) || !strstr(text, "error: ")) fail_msg("%s: exit %d, %s", cases[i].input, rc, text);
        free(text);
    }
}

static void a_wrong_command_line_is_exit_2(void **state)
{
    char *text;
    (void)state;
    assert_int_equal(run("", "--decod", &text), TDM_ERR_RECIPE);
    assert_non_null(strstr(text, "--decode"));
    free(text);
}

static void put(const char *name, const char *text)
{
    char *path = test_path(scratch, name);
    test_file_put(path, text);
    free(path);
}

static int setup(void **state)
{
    (void)state;
    model = scratch = test_scratch_new();
    in = test_path(scratch, "in");
    out = test_path(scratch, "out");
    put("tokenizer.json", "{\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"special\":true}],\"decoder\":{\"type\":\"Fuse\"},"
                          "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],"
                          "\"special_tokens\":{\"<s>\":{\"ids\":[4]}}},"
                          "\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"?\":3},\"merges\":[\"a b\"]}}");
    put("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"chat_template\":\"{{ bos_token }}{% for m in messages %}{{ m.content + '' }}{% endfor %}"
                                 "{{ mark }}{% if add_generation_prompt %}a{% endif %}\"}");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(in);
    free(out);
    test_scratch_free(scratch);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_become_ids_and_text),
        cmocka_unit_test(messages_pass_through_the_template_and_get_nothing_more),
        cmocka_unit_test(ids_become_text),
        cmocka_unit_test(errors_name_the_line_after_what_was_done),
        cmocka_unit_test(a_wrong_command_line_is_exit_2),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
