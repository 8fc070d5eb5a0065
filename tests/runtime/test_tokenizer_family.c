/* labels: unit, golden
 * Small tokenizers of many shapes against the tokenizers package: normalizers, pre-tokenizers, post-processors, decoders and added
 * tokens drawn at random (family.json), GGUFs with every pre-tokenizer name that stands for one of its own (gguf.json), and GGUFs with
 * SentencePiece's BPE (spm.json). */
#include "runtime/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "testing/scratch.h"
#include "testing/tokenizer_cases.h"
#include "testing/tokenizer_files.h"

static void drawn_tokenizers_are_equal_to_the_reference(void **state)
{
    json_t *root = test_json_open("tests/golden/data/tokenizer/family.json");
    const json_t *family = json_object_get(root, "family");
    char *scratch = test_scratch_new(), *path = test_path(scratch, "tokenizer.json");
    int bad = 0;
    (void)state;
    assert_true(json_array_size(family) >= 20);
    for (size_t i = 0; i < json_array_size(family); i++) {
        tdm_error err = {0};
        tdm_tokenizer *t;
        char name[32];
        const json_t *one = json_array_get(family, i);
        snprintf(name, sizeof name, "family %zu", i);
        assert_int_equal(json_dump_file(json_object_get(one, "tokenizer"), path, JSON_COMPACT), 0);
        if (tdm_tokenizer_open(&t, scratch, NULL, &err) != TDM_OK) fail_msg("%s: %s", name, err.what);
        bad += test_tokenizer_cases(t, name, json_object_get(one, "cases"));
        tdm_tokenizer_close(t);
    }
    assert_int_equal(bad, 0);
    free(path);
    test_scratch_free(scratch);
    json_decref(root);
}

static void ggufs_of(const char *list, int expected)
{
    json_t *root = test_json_open(list), *cases;
    const char *name;
    int bad = 0, files = 0;
    json_object_foreach(json_object_get(root, "files"), name, cases) {
        tdm_error err = {0};
        tdm_tokenizer *t;
        char path[256];
        snprintf(path, sizeof path, "tests/golden/data/tokenizer/%s.gguf", name);
        if (tdm_tokenizer_open(&t, path, NULL, &err) != TDM_OK) fail_msg("%s: %s", path, err.what);
        bad += test_tokenizer_cases(t, name, cases);
        tdm_tokenizer_close(t);
        files++;
    }
    assert_int_equal(files, expected);
    assert_int_equal(bad, 0);
    json_decref(root);
}

static void ggufs_are_equal_to_the_reference(void **state)
{
    (void)state;
    ggufs_of("tests/golden/data/tokenizer/gguf.json", 5);
}

/* SentencePiece's: scores instead of merges. */
static void scores_are_equal_to_the_reference(void **state)
{
    (void)state;
    ggufs_of("tests/golden/data/tokenizer/spm.json", 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drawn_tokenizers_are_equal_to_the_reference),
        cmocka_unit_test(ggufs_are_equal_to_the_reference),
        cmocka_unit_test(scores_are_equal_to_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
