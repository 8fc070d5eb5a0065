/* What tokenizer files may say: what is refused, and by which words; the files beside tokenizer.json; added tokens' flags. */
#include "runtime/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "testing/scratch.h"

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<unk>\":3}"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\"]}"

static char *scratch;

static void put(const char *name, const char *text)
{
    char *path = test_path(scratch, name);
    test_file_put(path, text);
    free(path);
}

static void drop(const char *name)
{
    char *path = test_path(scratch, name);
    remove(path);
    free(path);
}

static tdm_tokenizer *open_json(const char *json)
{
    tdm_error err = {0};
    tdm_tokenizer *t;
    put("tokenizer.json", json);
    if (tdm_tokenizer_open(&t, scratch, NULL, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    return t;
}

static void unknown_parts_are_refused_by_name(void **state)
{
    static const struct { const char *json, *says; } cases[] = {
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece"},
        {"{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL "}", "normalizer \"Precompiled\""},
        {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"BertNormalizer\"}]}," MODEL "}", "BertNormalizer"},
        {"{\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}," MODEL "}", "pre-tokenizer \"UnicodeScripts\""},
        {"{\"decoder\":{\"type\":\"CTC\"}," MODEL "}", "decoder \"CTC\""},
        {"{\"post_processor\":{\"type\":\"Odd\"}," MODEL "}", "post-processor \"Odd\""},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?~x)\"},\"behavior\":\"Isolated\"}," MODEL "}", "unsupported group"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}," MODEL "}", "regular expression"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":\"Isolated\"}," MODEL "}", "&& inside a class"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Odd\"}," MODEL "}", "behavior"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"xy\"}," MODEL "}", "replacement"},
        {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.1," VOCAB ",\"merges\":[]}}", "dropout"},
        {"{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\"," VOCAB ",\"merges\":[]}}", "continuing_subword_prefix"},
        {"{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"," VOCAB ",\"merges\":[]}}", "end_of_word_suffix"},
        {"{\"model\":{\"type\":\"BPE\",\"unk_token\":\"none\"," VOCAB ",\"merges\":[]}}", "unk_token \"none\""},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a c\"]}}", "merge 0"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\",\"b a\"]}}", "\"ba\""},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[[\"a\"]]}}", "merges[0]"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[7]}}", "merges[0]"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "two tokens have the id 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "-1 is outside"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999},\"merges\":[]}}", "99999999999 is outside"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", "not an integer"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", "model.vocab"},
        {"{\"model\":7}", "model is not an object"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB "}}", "model.merges"},
        {"{\"added_tokens\":[{\"id\":3}]," MODEL "}", "added_tokens[0]"},
        {"{\"normalizer\":{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},\"added_tokens\":[{\"id\":4,\"content\":\" \",\"normalized\":true}]," MODEL "}",
         "leaves nothing of the added token"},
        {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[],\"special_tokens\":{}}," MODEL "}", "no sequence A"},
        {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],\"special_tokens\":{}}," MODEL "}", "single[0]"},
        {"[]", "not a JSON object"},
        {"{\"model\":", "not a JSON object"},
    };
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        tdm_error err = {0};
        tdm_tokenizer *t = (tdm_tokenizer *)scratch;
        put("tokenizer.json", cases[i].json);
        assert_int_equal(tdm_tokenizer_open(&t, scratch, NULL, &err), TDM_ERR_INPUT);
        assert_null(t);
        if (!strstr(err.what, cases[i].says)) fail_msg("%s\nsays \"%s\", not \"%s\"", cases[i].json, err.what, cases[i].says);
        assert_non_null(strstr(err.where, "tokenizer.json"));
    }
}

static void a_folder_without_tokenizer_says_so(void **state)
{
    tdm_error err = {0};
    tdm_tokenizer *t;
    (void)state;
    drop("tokenizer.json");
    assert_int_equal(tdm_tokenizer_open(&t, scratch, NULL, &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.where, "tokenizer.json"));
    err = (tdm_error){0};
    assert_int_equal(tdm_tokenizer_open(&t, "tests/golden/data/none.gguf", NULL, &err), TDM_ERR_INPUT);
}

static void the_files_beside_give_special_tokens_and_the_chat_template(void **state)
{
    static const char json[] = "{\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"special\":true},{\"id\":5,\"content\":\"</s>\",\"special\":true}]," MODEL "}";
    (void)state;
    put("tokenizer_config.json", "{\"bos_token\":{\"__type\":\"AddedToken\",\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"pad_token\":null,"
                                 "\"model_max_length\":1000000000000000019884624838656,\"chat_template\":\"plain\"}");
    tdm_tokenizer *t = open_json(json);
    assert_int_equal(tdm_tokenizer_bos(t), 4);
    assert_int_equal(tdm_tokenizer_eos(t), 5);
    assert_string_equal(tdm_tokenizer_special_text(t, "bos_token"), "<s>");
    assert_string_equal(tdm_tokenizer_special_text(t, "pad_token"), "");
    assert_string_equal(tdm_tokenizer_chat_template(t), "plain");
    tdm_tokenizer_close(t);

    put("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"tools\"},{\"name\":\"default\",\"template\":\"first\"}]}");
    put("special_tokens_map.json", "{\"eos_token\":{\"content\":\"b\"}}");
    t = open_json(json);
    assert_int_equal(tdm_tokenizer_bos(t), -1);
    assert_int_equal(tdm_tokenizer_eos(t), 1); /* a plain token of the vocabulary */
    assert_string_equal(tdm_tokenizer_chat_template(t), "first");
    tdm_tokenizer_close(t);

    put("chat_template.jinja", "{{ jinja }}");
    t = open_json(json);
    assert_string_equal(tdm_tokenizer_chat_template(t), "{{ jinja }}");
    tdm_tokenizer_close(t);

    tdm_error err = {0};
    put("tokenizer_config.json", "{\"bos_token\":\n}");
    assert_int_equal(tdm_tokenizer_open(&t, scratch, NULL, &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.where, "tokenizer_config.json"));
    assert_non_null(strstr(err.what, "line 2"));
    drop("tokenizer_config.json");
    drop("special_tokens_map.json");
    drop("chat_template.jinja");
    t = open_json(json);
    assert_null(tdm_tokenizer_chat_template(t));
    assert_int_equal(tdm_tokenizer_eos(t), -1);
    tdm_tokenizer_close(t);
}

static void ids_are(const tdm_tokenizer *t, const char *text, int count, ...)
{
    tdm_error err = {0};
    tdm_ids ids = {0};
    va_list want;
    assert_int_equal(tdm_tokenizer_encode(t, text, strlen(text), false, &ids, &err), TDM_OK);
    if (ids.count != count) fail_msg("\"%s\": %lld ids, expected %d", text, (long long)ids.count, count);
    va_start(want, count);
    for (int i = 0; i < count; i++) {
        const int id = va_arg(want, int);
        if (ids.data[i] != id) fail_msg("\"%s\": ids[%d] is %d, expected %d", text, i, ids.data[i], id);
    }
    va_end(want);
    tdm_ids_free(&ids);
}

/* src/tokenizer/added_vocabulary.rs: find_matches */
static void added_tokens_keep_their_flags(void **state)
{
    (void)state;
    tdm_tokenizer *t = open_json("{\"added_tokens\":[{\"id\":4,\"content\":\"w\",\"single_word\":true},{\"id\":5,\"content\":\"l\",\"lstrip\":true},"
                                 "{\"id\":6,\"content\":\"r\",\"rstrip\":true},{\"id\":7,\"content\":\"rr\"}]," MODEL "}");
    ids_are(t, "w", 1, 4);
    ids_are(t, "aw", 1, 0);        /* part of a word: not the token, and w is unknown */
    ids_are(t, "a-w-a", 3, 0, 4, 0);
    ids_are(t, "\xc3\xa9w", 0);
    ids_are(t, "a  l", 2, 0, 5);
    ids_are(t, "r \t a", 2, 6, 0);
    ids_are(t, "rrab", 2, 7, 2);   /* the longest */
    ids_are(t, "rrr", 2, 7, 6);
    tdm_tokenizer_close(t);
}

static void unknown_characters_follow_the_flags(void **state)
{
    (void)state;
    tdm_tokenizer *t = open_json("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true," VOCAB ",\"merges\":[[\"a\",\"b\"]]}}");
    ids_are(t, "xyab", 2, 3, 2);
    tdm_tokenizer_close(t);
    t = open_json("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":false," VOCAB ",\"merges\":[[\"a\",\"b\"]]}}");
    ids_are(t, "xyab", 3, 3, 3, 2);
    tdm_tokenizer_close(t);
    t = open_json("{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"<0x78>\":1,\"<0xC3>\":2,\"<0xA9>\":3},\"merges\":[]}}");
    ids_are(t, "axa\xc3\xa9", 5, 0, 1, 0, 2, 3);
    ids_are(t, "ay", 1, 0);        /* no byte token for y, no unknown token */
    tdm_tokenizer_close(t);
}

/* Byte tokens that merges join: nothing in their text tells which bytes they stand for. */
static void merges_of_byte_tokens_are_made(void **state)
{
    (void)state;
    tdm_tokenizer *t = open_json("{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"<0xC3>\":1,\"<0xA9>\":2,\"<0xC3><0xA9>\":3,"
                                 "\"<0xC3><0xA9>a\":4},\"merges\":[[\"<0xC3>\",\"<0xA9>\"],[\"<0xC3><0xA9>\",\"a\"]]}}");
    ids_are(t, "a\xc3\xa9" "aa", 3, 0, 4, 0);
    tdm_tokenizer_close(t);
}

static int setup(void **state)
{
    (void)state;
    scratch = test_scratch_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_scratch_free(scratch);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_parts_are_refused_by_name),
        cmocka_unit_test(a_folder_without_tokenizer_says_so),
        cmocka_unit_test(the_files_beside_give_special_tokens_and_the_chat_template),
        cmocka_unit_test(added_tokens_keep_their_flags),
        cmocka_unit_test(unknown_characters_follow_the_flags),
        cmocka_unit_test(merges_of_byte_tokens_are_made),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
