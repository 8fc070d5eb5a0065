/* labels: unit
 *
 * A judge's question and the score in its reply. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/reward/judge.h"

static tdm_recipe *recipe(const char *judge)
{
    char text[1024];
    tdm_recipe *r;
    tdm_error err = {0};
    snprintf(text, sizeof text, "model: {path: m}\ndata: {train: t}\nreward: [{type: judge, %s}]\n", judge);
    if (tdm_recipe_parse(&r, text, strlen(text), "a.yaml", NULL, 0, &err) != TDM_OK) fail_msg("%s", err.what);
    return r;
}

static void expect_question(const char *judge, const char *prompt, const char *turns, const char *want)
{
    tdm_recipe *r = recipe(judge);
    tdm_judge *g;
    tdm_error err = {0};
    json_t *row = json_pack("{s:s,s:s}", "answer", "42", "prompt", "the column"), *messages, *asked = json_loads(prompt, JSON_DECODE_ANY, NULL);
    json_t *turn_list = turns ? json_loads(turns, 0, NULL) : NULL;
    const tdm_reward_sample s = {.prompt = asked, .completion = "It is {42}.", .completion_len = 11, .turns = turn_list, .row = row};
    assert_int_equal(tdm_judge_open(&g, &r->reward[0], "a.yaml", &err), TDM_OK);
    if (tdm_judge_ask(g, &s, "sample 1", &messages, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    char *text = json_dumps(messages, JSON_COMPACT);
    assert_string_equal(text, want);
    free(text);
    json_decref(messages);
    json_decref(turn_list);
    json_decref(asked);
    json_decref(row);
    tdm_judge_close(g);
    tdm_recipe_close(r);
}

static void it_is_asked_about_prompt_and_completion(void **state)
{
    (void)state;
    static const char judge[] = "prompt: '{prompt} | {completion} | {answer} {{x}}', parse: x";
    expect_question(judge, "\"What?\"", NULL, "[{\"role\":\"user\",\"content\":\"What? | It is {42}. | 42 {x}\"}]");
    expect_question(judge, "[{\"role\":\"system\",\"content\":\"Be short.\"},{\"role\":\"user\",\"content\":\"What?\"}]", NULL,
                    "[{\"role\":\"user\",\"content\":\"What? | It is {42}. | 42 {x}\"}]");
    expect_question("system: 'For {answer}.', prompt: '{prompt} | {completion}', parse: x",
                    "[{\"role\":\"user\",\"content\":\"A\"},{\"role\":\"assistant\",\"content\":\"B\"},{\"role\":\"user\",\"content\":\"C\"}]",
                    "[{\"role\":\"assistant\",\"content\":\"D\"},{\"role\":\"tool\",\"content\":\"E\"},{\"role\":\"assistant\",\"content\":\"F\"}]",
                    "[{\"role\":\"system\",\"content\":\"For 42.\"},{\"role\":\"user\",\"content\":"
                    "\"user: A\\n\\nassistant: B\\n\\nuser: C | assistant: D\\n\\ntool: E\\n\\nassistant: F\"}]");
}

static const struct {
    const char *judge, *reply;
    bool cut;
    double want; /* NAN: no score */
} replies[] = {
    {"parse: 'Score: ([0-9]+)', range: [0, 10]", "I think.\nScore: 7.", false, 0.7},
    {"parse: 'Score: ([0-9]+)', range: [0, 10]", "Score: 11", false, NAN},
    {"parse: 'Score: ([0-9]+)', range: [1, 5]", "Score: 1, and again Score: 5", false, 0},
    {"parse: 'Score: ([0-9]+)', range: [0, 10]", "score: 7", false, NAN},
    {"parse: 'Score: ([0-9]+)', range: [0, 10]", "", false, NAN},
    {"parse: 'Score: ([0-9]+)', range: [0, 100]", "Score: 1", true, NAN}, /* of 10, perhaps */
    {"parse: 'Score: ([0-9]+)', range: [0, 100]", "Score: 1", false, 0.01},
    {"parse: 'Score: ([0-9]+)', range: [0, 10]", "Score: 7 because", true, 0.7},
    {"parse: '(?i)\\b(yes|no)\\b'", "Well, YES", false, 1},
    {"parse: '(?i)\\b(yes|no)\\b'", "No, yes", false, 0},
    {"parse: '(\\w+)$'", "perhaps", false, NAN},
    {"parse: '\\w+$'", "Incorrect", false, 0},
    {"parse: '-?[0-9.]+', range: [-1, 1]", "-0.5", false, 0.25},
};

static void the_score_is_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(replies); i++) {
        char judge[256];
        snprintf(judge, sizeof judge, "prompt: '{completion}', %s", replies[i].judge);
        tdm_recipe *r = recipe(judge);
        tdm_judge *g;
        tdm_error err = {0};
        double got = NAN;
        assert_int_equal(tdm_judge_open(&g, &r->reward[0], "a.yaml", &err), TDM_OK);
        if (!tdm_judge_read(g, replies[i].reply, strlen(replies[i].reply), replies[i].cut, &got)) got = NAN;
        if (isnan(got) != isnan(replies[i].want) || (!isnan(got) && fabs(got - replies[i].want) > 1e-12))
            fail_msg("\"%s\" by %s is %g, should be %g", replies[i].reply, replies[i].judge, got, replies[i].want);
        tdm_judge_close(g);
        tdm_recipe_close(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_is_asked_about_prompt_and_completion), cmocka_unit_test(the_score_is_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
