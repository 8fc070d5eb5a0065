/* Recipes as texts: parsed, or refused with a line. */
#ifndef TANDEM_TESTS_RECIPE_CASE_H
#define TANDEM_TESTS_RECIPE_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/recipe/recipe.h"

#define OK "model: {path: m}\ndata: {train: t.jsonl}\nreward: [{type: number}]\n" /* three lines: the shortest recipe */
#define SEVERAL \
    "model: {path: m}\ndata: {system: Think., train: [{path: a, weight: 3, prompt: '{q}', rewards: [exact]}, {path: b, system: Code.}, c]}\n" \
    "reward: [{type: exact}, {type: number}]\n"
#define EVAL "model: {path: m}\ndata: {train: t, eval: e}\nreward: [{type: number}]\n"
#define PREFER "model: {path: m}\ndata: {train: t}\ntrain: {algorithm: "
#define PAIRS PREFER "dpo}\n"

static inline tdm_status parse(const char *text, tdm_recipe **r, tdm_error *err)
{
    *err = (tdm_error){0};
    return tdm_recipe_parse(r, text, strlen(text), "a.yaml", NULL, 0, err);
}

static inline tdm_recipe *must_parse(const char *text, const char *const *overrides)
{
    tdm_error err = {0};
    tdm_recipe *r = NULL;
    int count = 0;
    while (overrides && overrides[count]) count++;
    if (tdm_recipe_parse(&r, text, strlen(text), "a.yaml", overrides, count, &err) != TDM_OK) {
        tdm_error_print(&err);
        fail();
    }
    return r;
}

static inline void expect_line(const tdm_error *err, const char *want)
{
    char line[1100];
    snprintf(line, sizeof line, "%s%s%s%s%s%s", err->what, err->where[0] ? " (" : "", err->where, err->where[0] ? ")" : "",
             err->hint[0] ? ": " : "", err->hint);
    assert_string_equal(line, want);
    assert_int_equal(err->status, TDM_ERR_RECIPE);
}

#endif
