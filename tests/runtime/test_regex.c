/* labels: unit
 *
 * Patterns as tokenizer files write them, where PCRE2 would read them otherwise. Expected matches are those of Oniguruma (doc/RE). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/text/regex.h"

static const struct { const char *pattern, *text, *match; } cases[] = {
    {"\\\xc3\xa9+", "x\xc3\xa9\xc3\xa9z", "\xc3\xa9\xc3\xa9"}, /* an escaped character of two bytes took the next one with it, or read past the end */
    {"\\\xc3\xa9", "\xc3\xa9", "\xc3\xa9"},
    {"[\\\xc3\xa9]b", "a\xc3\xa9" "b", "\xc3\xa9" "b"},
    {"a{2}+", "aaaaa", "aaaa"},
    {"a{,2}b", "aaab", "aab"},
    {"\\h+", "xyzDEAD", "DEAD"},
    {"(?m:a.b)", "a\nb", "a\nb"},
    {"^b$", "a\nb\nc", "b"},
};

static void means_what_oniguruma_means(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        tdm_error err = {0};
        tdm_regex *re = NULL;
        tdm_matcher m = {0};
        size_t start = 0, end = 0;
        if (tdm_regex_open(&re, cases[i].pattern, strlen(cases[i].pattern), "test", &err) != TDM_OK) fail_msg("%s: %s", cases[i].pattern, err.what);
        assert_int_equal(tdm_regex_find(re, &m, cases[i].text, strlen(cases[i].text), 0, &start, &end, &err), 1);
        if (end - start != strlen(cases[i].match) || memcmp(cases[i].text + start, cases[i].match, end - start) != 0)
            fail_msg("%s on %s: bytes %zu to %zu", cases[i].pattern, cases[i].text, start, end);
        tdm_matcher_fini(&m);
        tdm_regex_close(re);
    }
}

static void what_it_cannot_mean_is_refused(void **state)
{
    (void)state;
    /* a property named by a character of two bytes was read past its end */
    const char *const refused[] = {"a\\p\xc3\xa9", "[^\\p\xc3\xa9", "\\p", "\\p{", "\\p{}", "[a", "a\\", "(a", "a)"};
    for (size_t i = 0; i < TDM_COUNT(refused); i++) {
        tdm_error err = {0};
        tdm_regex *re = NULL;
        if (tdm_regex_open(&re, refused[i], strlen(refused[i]), "test", &err) != TDM_ERR_INPUT || re || !err.what[0])
            fail_msg("%s: status or message missing", refused[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(means_what_oniguruma_means), cmocka_unit_test(what_it_cannot_mean_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
