/* labels: unit, golden
 * Chat templates against transformers' rendering (tests/golden/make_chat.py), the limits, and what errors say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "runtime/text/chat.h"

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!j) fail_msg("%s:%d: %s", path, error.line, error.text);
    return j;
}

/* Renders text with vars; the status, with the text or the error filled in. */
static tdm_status render(const char *text, const json_t *vars, tdm_text *out, tdm_error *err)
{
    tdm_chat *c = NULL;
    tdm_status st = tdm_chat_open(&c, text, "template", err);
    if (st == TDM_OK) st = tdm_chat_render(c, vars, out, err);
    tdm_chat_close(c);
    return st;
}

/* 1 when the rendering is not what the case says. */
static int differs(const char *text, const json_t *vars, const json_t *expected, const char *label)
{
    tdm_text out = {0};
    tdm_error err = {0};
    const tdm_status st = render(text, vars, &out, &err);
    const json_t *want = json_object_get(expected, "out");
    const char *message = json_string_value(json_object_get(expected, "error"));
    bool same = false;
    if (want) same = st == TDM_OK && out.len == json_string_length(want) && memcmp(out.data ? out.data : "", json_string_value(want), out.len) == 0;
    else same = st == TDM_ERR_INPUT && err.what[0] && (!message[0] || strcmp(message, err.what) == 0);
    if (!same)
        print_error("%s: expected %s\n  got %s\n", label, want ? json_string_value(want) : message,
                    st == TDM_OK ? (out.data ? out.data : "") : err.what);
    tdm_text_free(&out);
    return !same;
}

static void test_conversations(void **state)
{
    (void)state;
    json_t *j = load("tests/golden/data/chat/conversations.json");
    const json_t *cases = json_object_get(j, "cases"), *c = NULL;
    size_t i = 0;
    int wrong = 0;
    assert_true(json_array_size(cases) > 500);
    json_array_foreach(cases, i, c) {
        const char *name = json_string_value(json_object_get(c, "template"));
        const json_int_t at = json_integer_value(json_object_get(c, "conversation"));
        char label[128];
        json_t *vars = json_pack("{s:s, s:s, s:O}", "bos_token", "<s>", "eos_token", "</s>", "messages",
                                 json_array_get(json_object_get(j, "conversations"), (size_t)at));
        json_object_update(vars, json_object_get(c, "options"));
        snprintf(label, sizeof(label), "case %zu: %s, conversation %lld", i, name, (long long)at);
        wrong += differs(json_string_value(json_object_get(json_object_get(j, "templates"), name)), vars, c, label);
        json_decref(vars);
    }
    json_decref(j);
    assert_int_equal(wrong, 0);
}

static void test_language(void **state)
{
    (void)state;
    json_t *j = load("tests/golden/data/chat/language.json");
    const json_t *cases = json_object_get(j, "cases"), *c = NULL;
    size_t i = 0;
    int wrong = 0;
    assert_true(json_array_size(cases) > 700);
    json_array_foreach(cases, i, c) {
        const char *text = json_string_value(json_object_get(c, "text"));
        wrong += differs(text, json_object_get(j, "vars"), c, text);
    }
    json_decref(j);
    assert_int_equal(wrong, 0);
}

/* ---- one at a time ------------------------------------------------------------------------------------------------------------ */

static void expect(const char *text, const char *vars_text, const char *want)
{
    tdm_text out = {0};
    tdm_error err = {0};
    json_t *vars = json_loads(vars_text, JSON_ALLOW_NUL, NULL);
    assert_non_null(vars);
    if (render(text, vars, &out, &err) != TDM_OK) fail_msg("%s: %s (%s)", text, err.what, err.where);
    assert_string_equal(out.data ? out.data : "", want);
    tdm_text_free(&out);
    json_decref(vars);
}

static void expect_error(const char *text, const char *vars_text, const char *what, const char *where)
{
    tdm_text out = {0};
    tdm_error err = {0};
    json_t *vars = json_loads(vars_text, 0, NULL);
    assert_non_null(vars);
    assert_int_equal(render(text, vars, &out, &err), TDM_ERR_INPUT);
    if (!strstr(err.what, what)) fail_msg("%s: \"%s\" is not in \"%s\"", text, what, err.what);
    assert_string_equal(err.where, where);
    assert_null(out.data); /* nothing is appended on failure */
    json_decref(vars);
}

static void test_errors_name_the_line(void **state)
{
    (void)state;
    expect_error("a\nb\n{{ raise_exception('roles must alternate') }}", "{}", "roles must alternate", "template:3");
    expect_error("{% if true %}\n{{ 1 + }}\n{% endif %}", "{}", "expected an expression", "template:2");
    expect_error("\n\n{% for m in messages %}\n{{ m.a.b }}\n{% endfor %}", "{\"messages\": [{}]}", "has no attribute 'a'", "template:4");
    expect_error("{{ x.y }}", "{}", "'x' is undefined", "template:1");
    expect_error("{% if x %}", "{}", "ends before", "template:1");
    expect_error("{{ 'a'|nothing }}", "{}", "no filter is named \"nothing\"", "template:1");
    expect_error("{{ 9223372036854775807 + 1 }}", "{}", "64 bits", "template:1");
    expect_error("{% include 'other' %}", "{}", "not available", "template:1");
    expect_error("{{ l.append(1) }}", "{\"l\": []}", "not allowed", "template:1");
}

static void test_limits(void **state)
{
    (void)state;
    expect_error("{% set r = range(100000) %}{% for i in r %}{% set s = r|sum %}{% endfor %}", "{}", "steps", "template:1");
    expect_error("{% set ns = namespace(s='x' * 100000) %}{% for i in range(1000) %}{{ ns.s }}{% endfor %}", "{}", "writes more than 16 MiB",
                 "template:1");
    expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{}", "deep", "template:1");
    expect_error("{% set ns = namespace(l=[]) %}{% for i in range(2000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}", "{}", "deep", "template:1");
    expect_error("{{ range(100001) }}", "{}", "range", "template:1");
    expect_error("{{ 'x' * 1000000000000 }}", "{}", "MiB", "template:1");
    expect_error("{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "{}", "MiB", "template:1");
    expect_error("{{ '%99999999d' % 1 }}", "{}", "width", "template:1");
    char *deep = malloc(20002);
    assert_non_null(deep);
    memset(deep, '(', 20000);
    memcpy(deep, "{{", 2);
    deep[20000] = 0;
    expect_error(deep, "{}", "nests more than", "template:1");
    free(deep);
}

static void test_clock(void **state)
{
    (void)state;
    expect("{{ strftime_now('%d %b %Y') }}", "{\"date\": \"2026-01-31\"}", "31 Jan 2026");
    expect("{{ strftime_now('%A %j %H:%M:%S %-d %% %f') }}", "{\"date\": \"2024-12-31T23:59:58\"}", "Tuesday 366 23:59:58 31 % 000000");
    expect("{{ strftime_now is defined }}", "{}", "False");
    expect_error("{{ 1 }}", "{\"date\": \"yesterday\"}", "not a date", "template:1");
    expect_error("{{ 1 }}", "{\"date\": \"2025-02-29\"}", "not a date", "template:1");
}

static void test_variables(void **state)
{
    (void)state;
    expect("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "{}", "TrueTrueFalse");
    expect("{{ messages[0] }}", "{\"messages\": [{\"role\": \"a\", \"reasoning\": \"r\"}]}",
           "{'thinking': 'r', 'role': 'a', 'reasoning': 'r', 'reasoning_content': 'r'}");
    expect("{{ s|length }}", "{\"s\": \"a\\u0000b\"}", "3");
    tdm_error err = {0};
    tdm_chat *c = NULL;
    assert_int_equal(tdm_chat_open(&c, "\xff", "template", &err), TDM_ERR_INPUT);
    assert_null(c);
    memset(&err, 0, sizeof(err));
    assert_int_equal(tdm_chat_open(&c, "x", "template", &err), TDM_OK);
    json_t *list = json_array();
    tdm_text out = {0};
    assert_int_equal(tdm_chat_render(c, list, &out, &err), TDM_ERR_INPUT);
    json_decref(list);
    tdm_chat_close(c);
    tdm_chat_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversations), cmocka_unit_test(test_language), cmocka_unit_test(test_errors_name_the_line),
        cmocka_unit_test(test_limits),        cmocka_unit_test(test_clock),    cmocka_unit_test(test_variables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
