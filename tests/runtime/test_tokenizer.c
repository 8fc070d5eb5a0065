/* labels: unit, golden
 * timeout: 600
 * The tokenizers of Qwen3, Llama 3.1, Gemma 3 and SmolLM2 (the last from a GGUF) against the tokenizers package: ids and decoded text
 * of tests/golden/make_tokenizer.py, exactly; and what holds without a reference. Skipped without xz. */
#include "runtime/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "testing/scratch.h"
#include "testing/tokenizer_cases.h"
#include "testing/tokenizer_files.h"

enum { QWEN3, LLAMA3, GEMMA3, SMOLLM2, COUNT };
static const char *const names[COUNT] = {"qwen3", "llama3_1", "gemma3", "smollm2"};

static char *scratch;
static tdm_tokenizer *tokenizer[COUNT];

static bool unpack(int i)
{
    char source[256], path[512];
    if (i == SMOLLM2) {
        snprintf(path, sizeof path, "%s/smollm2.gguf", scratch);
        return test_unxz("tests/golden/data/tokenizers/smollm2.gguf.xz", path);
    }
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json"};
    snprintf(path, sizeof path, "%s/%s", scratch, names[i]);
    assert_int_equal(mkdir(path, 0700), 0);
    for (int k = 0; k < 2; k++) {
        snprintf(source, sizeof source, "tests/golden/data/tokenizers/%s/%s.xz", names[i], files[k]);
        snprintf(path, sizeof path, "%s/%s/%s", scratch, names[i], files[k]);
        if (!test_unxz(source, path)) return false;
    }
    return true;
}

static void open_one(int i)
{
    tdm_error err = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", scratch, names[i], i == SMOLLM2 ? ".gguf" : "");
    if (tdm_tokenizer_open(&tokenizer[i], path, NULL, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
}

static void golden(int i)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/data/tokenizer/%s.json", names[i]);
    json_t *root = test_json_open(path);
    assert_true(json_array_size(json_object_get(root, "cases")) > 100);
    for (int round = 0; round < 2; round++) /* the second time with what the first one taught it about words */
        assert_int_equal(test_tokenizer_cases(tokenizer[i], names[i], json_object_get(root, "cases")), 0);
    json_decref(root);
}

static void qwen3_is_equal_to_the_reference(void **state) { (void)state; golden(QWEN3); }
static void llama_3_1_is_equal_to_the_reference(void **state) { (void)state; golden(LLAMA3); }
static void gemma_3_is_equal_to_the_reference(void **state) { (void)state; golden(GEMMA3); }
static void smollm2_from_a_gguf_is_equal_to_the_reference(void **state) { (void)state; golden(SMOLLM2); }

static void special_tokens_and_templates_are_those_of_the_files(void **state)
{
    static const struct { int32_t vocab, bos, eos; const char *bos_text, *eos_text, *pad_text, *template_part; } want[COUNT] = {
        {151669, -1, 151645, "", "<|im_end|>", "<|endoftext|>", "enable_thinking"},
        {128256, 128000, 128009, "<|begin_of_text|>", "<|eot_id|>", "", "<|start_header_id|>"},
        {262145, 2, 106, "<bos>", "<end_of_turn>", "<pad>", "<start_of_turn>"},
        {49152, 1, 2, "<|im_start|>", "<|im_end|>", "<|im_end|>", "<|im_start|>"},
    };
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        const tdm_tokenizer *t = tokenizer[i];
        assert_int_equal(tdm_tokenizer_vocab(t), want[i].vocab);
        assert_int_equal(tdm_tokenizer_bos(t), want[i].bos);
        assert_int_equal(tdm_tokenizer_eos(t), want[i].eos);
        assert_string_equal(tdm_tokenizer_special_text(t, "bos_token"), want[i].bos_text);
        assert_string_equal(tdm_tokenizer_special_text(t, "eos_token"), want[i].eos_text);
        assert_string_equal(tdm_tokenizer_special_text(t, "pad_token"), want[i].pad_text);
        assert_string_equal(tdm_tokenizer_special_text(t, "no_token"), "");
        assert_non_null(tdm_tokenizer_chat_template(t));
        assert_non_null(strstr(tdm_tokenizer_chat_template(t), want[i].template_part));
    }
}

static void encode_is(const tdm_tokenizer *t, const char *given, const char *same)
{
    tdm_error err = {0};
    tdm_ids a = {0}, b = {0};
    assert_int_equal(tdm_tokenizer_encode(t, given, strlen(given), false, &a, &err), TDM_OK);
    assert_int_equal(tdm_tokenizer_encode(t, same, strlen(same), false, &b, &err), TDM_OK);
    assert_int_equal(a.count, b.count);
    assert_memory_equal(a.data, b.data, (size_t)a.count * sizeof *a.data);
    tdm_ids_free(&a);
    tdm_ids_free(&b);
}

static void invalid_utf8_is_read_as_replacement_characters(void **state)
{
#define R "\xef\xbf\xbd"
    static const char *const pairs[][2] = { /* Rust's String::from_utf8_lossy: one for each maximal part */
        {"a\xff" "b", "a" R "b"}, {"\xc3", R}, {"\xc3(", R "("}, {"\xe2\x82", R}, {"\xe2\x82x", R "x"}, {"\xf0\x9f\x98", R},
        {"\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"}, {"\xed\xa0\x80", R R R}, {"\xc0\xaf", R R}, {"\xf5\x80\x80\x80", R R R R},
        {"\xf4\x90\x80\x80", R R R R}, {"\xe0\x80\x80", R R R}, {"\x80\x80", R R}, {"\xe2\x28\xa1", R "(" R},
    };
    (void)state;
    for (int i = 0; i < COUNT; i++)
        for (size_t k = 0; k < TDM_COUNT(pairs); k++) encode_is(tokenizer[i], pairs[k][0], pairs[k][1]);
}

static void ids_beyond_the_vocabulary_are_no_text_and_negative_ones_an_error(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        tdm_error err = {0};
        tdm_text text = {0};
        const int32_t ids[] = {tdm_tokenizer_vocab(tokenizer[i]), INT32_MAX}, negative = -1;
        assert_int_equal(tdm_tokenizer_decode(tokenizer[i], ids, 2, false, &text, &err), TDM_OK);
        assert_int_equal(text.len, 0);
        assert_int_equal(tdm_tokenizer_decode(tokenizer[i], &negative, 1, false, &text, &err), TDM_ERR_INPUT);
        assert_non_null(strstr(err.what, "-1"));
        tdm_text_free(&text);
    }
}

static void both_directions_append(void **state)
{
    tdm_error err = {0};
    tdm_ids ids = {0};
    tdm_text text = {0};
    (void)state;
    assert_int_equal(tdm_tokenizer_encode(tokenizer[QWEN3], "Hello", 5, true, &ids, &err), TDM_OK);
    assert_int_equal(tdm_tokenizer_encode(tokenizer[QWEN3], " world", 6, true, &ids, &err), TDM_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(tdm_tokenizer_decode(tokenizer[QWEN3], ids.data, 1, true, &text, &err), TDM_OK);
    assert_int_equal(tdm_tokenizer_decode(tokenizer[QWEN3], ids.data + 1, 1, true, &text, &err), TDM_OK);
    assert_string_equal(text.data, "Hello world");
    tdm_ids_free(&ids);
    tdm_text_free(&text);
}

/* The processor's time, whatever else the machine does. */
static double spent_s(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* Ten times the text may take some thirty times as long where it leaves the caches; a quadratic merge takes a hundred times, and minutes. */
static void a_word_of_a_million_characters_takes_no_quadratic_time(void **state)
{
    static const char *const units[] = {"a", "ab", "xyz", "0", " ", "-", "\xe4\xb8\xad", "\xcc\x81", "<", "\r", "'s"};
    enum { BYTES = 1000000 };
    char *text = malloc(BYTES);
    (void)state;
    assert_non_null(text);
    for (size_t u = 0; u < TDM_COUNT(units); u++) {
        const size_t n = strlen(units[u]), bytes = BYTES / n * n;
        for (size_t i = 0; i < bytes; i++) text[i] = units[u][i % n];
        for (int i = 0; i < COUNT; i++) {
            double took[2];
            for (int k = 0; k < 2; k++) {
                tdm_error err = {0};
                tdm_ids ids = {0};
                const double start = spent_s();
                assert_int_equal(tdm_tokenizer_encode(tokenizer[i], text, k ? bytes : bytes / (10 * n) * n, false, &ids, &err), TDM_OK);
                took[k] = spent_s() - start;
                tdm_ids_free(&ids);
            }
            if (took[1] > 30 * took[0] + 2.0) fail_msg("%s, \"%s\": %.3f s for a tenth, %.3f s for all", names[i], units[u], took[0], took[1]);
        }
    }
    free(text);
}

static int setup(void **state)
{
    (void)state;
    scratch = test_scratch_new();
    for (int i = 0; i < COUNT; i++) {
        if (!unpack(i)) {
            test_scratch_free(scratch);
            exit(77);
        }
        open_one(i);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT; i++) tdm_tokenizer_close(tokenizer[i]);
    test_scratch_free(scratch);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen3_is_equal_to_the_reference),
        cmocka_unit_test(llama_3_1_is_equal_to_the_reference),
        cmocka_unit_test(gemma_3_is_equal_to_the_reference),
        cmocka_unit_test(smollm2_from_a_gguf_is_equal_to_the_reference),
        cmocka_unit_test(special_tokens_and_templates_are_those_of_the_files),
        cmocka_unit_test(invalid_utf8_is_read_as_replacement_characters),
        cmocka_unit_test(ids_beyond_the_vocabulary_are_no_text_and_negative_ones_an_error),
        cmocka_unit_test(both_directions_append),
        cmocka_unit_test(a_word_of_a_million_characters_takes_no_quadratic_time),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
