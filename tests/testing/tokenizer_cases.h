/* One case of a tokenizer's goldens against the tokenizer. */
#ifndef TANDEM_TESTS_TOKENIZER_CASES_H
#define TANDEM_TESTS_TOKENIZER_CASES_H

#include <jansson.h>
#include <string.h>

#include "runtime/text/tokenizer.h"

static inline bool test_same_ids(const tdm_tokenizer *t, const char *name, size_t i, const char *text, size_t len, bool special, const json_t *want)
{
    tdm_error err = {0};
    tdm_ids ids = {0};
    bool same = tdm_tokenizer_encode(t, text, len, special, &ids, &err) == TDM_OK && ids.count == (int64_t)json_array_size(want);
    int64_t at = 0;
    while (same && at < ids.count && ids.data[at] == json_integer_value(json_array_get(want, (size_t)at))) at++;
    same = same && at == ids.count;
    if (!same)
        print_error("%s: case %zu (%.60s): %lld ids, %zu expected, first difference at %lld %s\n", name, i, text, (long long)ids.count,
                    json_array_size(want), (long long)at, err.what);
    tdm_ids_free(&ids);
    return same;
}

static inline bool test_same_text(const tdm_tokenizer *t, const char *name, size_t i, const json_t *list, bool skip, const json_t *want)
{
    tdm_error err = {0};
    tdm_ids ids = {0};
    tdm_text text = {0};
    for (size_t k = 0; k < json_array_size(list); k++) tdm_ids_push(&ids, (int32_t)json_integer_value(json_array_get(list, k)), &err);
    const bool same = tdm_tokenizer_decode(t, ids.data, ids.count, skip, &text, &err) == TDM_OK && text.len == json_string_length(want) &&
                      memcmp(text.data, json_string_value(want), text.len) == 0;
    if (!same) print_error("%s: case %zu, skip %d: \"%.200s\", expected \"%.200s\" %s\n", name, i, skip, text.data, json_string_value(want), err.what);
    tdm_ids_free(&ids);
    tdm_text_free(&text);
    return same;
}

/* Prints what differs and returns how many comparisons did. */
static inline int test_tokenizer_cases(const tdm_tokenizer *t, const char *name, const json_t *cases)
{
    int bad = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *given = json_object_get(c, "text"), *repeat = json_object_get(c, "repeat");
        const json_t *ids = json_object_get(c, "ids"), *bare = json_object_get(c, "bare"), *decoded = json_object_get(c, "decoded");
        const json_t *skipped = json_object_get(c, "skipped");
        tdm_error err = {0};
        tdm_text text = {0};
        const json_t *unit = repeat ? json_array_get(repeat, 0) : given;
        for (json_int_t k = repeat ? json_integer_value(json_array_get(repeat, 1)) : 1; unit && k > 0; k--)
            assert_int_equal(tdm_text_append(&text, json_string_value(unit), json_string_length(unit), &err), TDM_OK);
        if (unit) {
            bad += !test_same_ids(t, name, i, text.data, text.len, true, ids);
            bad += !test_same_ids(t, name, i, text.data, text.len, false, bare ? bare : ids);
        }
        if (!decoded) decoded = given;
        if (decoded) {
            bad += !test_same_text(t, name, i, ids, false, decoded);
            bad += !test_same_text(t, name, i, ids, true, skipped ? skipped : decoded);
        }
        tdm_text_free(&text);
    }
    return bad;
}

#endif
