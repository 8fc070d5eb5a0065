/* labels: unit
 * tokenizer.json made from a GGUF's metadata gives the ids our reader gives from the GGUF itself, for every
 * pre-tokenizer it knows; other programs are asked by tests/conformance/check_quantized.py. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memory/gguf.h"
#include "runtime/cmd/tokenizer_out.h"
#include "runtime/text/tokenizer.h"
#include "testing/scratch.h"

/* ---- a GGUF of metadata alone ---- */

typedef struct bytes {
    char data[1 << 16];
    size_t len;
} bytes;

static void put(bytes *b, const void *p, size_t n)
{
    assert_true(b->len + n <= sizeof b->data);
    memcpy(b->data + b->len, p, n);
    b->len += n;
}
static void put_u32(bytes *b, uint32_t v) { put(b, &v, 4); }
static void put_u64(bytes *b, uint64_t v) { put(b, &v, 8); }
static void put_str(bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}
static void put_text_key(bytes *b, const char *key, const char *value)
{
    put_str(b, key);
    put_u32(b, 8);
    put_str(b, value);
}
static void put_u32_key(bytes *b, const char *key, uint32_t value)
{
    put_str(b, key);
    put_u32(b, 4);
    put_u32(b, value);
}
static void put_array_key(bytes *b, const char *key, uint32_t type, uint64_t count)
{
    put_str(b, key);
    put_u32(b, 9);
    put_u32(b, type);
    put_u64(b, count);
}

static const char *const merges[] = {"h e",  "l l", "he ll", "hell o", "Ġ t", "Ġt he", "i n", "1 2",
                                     "12 3", "' s", "Ġ Ġ",   "Ċ Ċ",    "! !", "Ã ©",   "e Ì"};
static const char *const added[] = {"<|begin|>", "<|end|>", "<tool>", "[unused]"};
static const int32_t added_types[] = {3, 3, 4, 5};
enum { BYTES = 256, TOKENS = BYTES + 15 + 4, BEGIN = BYTES + 15 };

/* GPT-2's printable character of a byte (openai/gpt-2, encoder.py, bytes_to_unicode), as UTF-8. */
static void byte_char(int byte, char out[4])
{
    int code = byte, n = 0;
    if (!((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)) {
        for (int i = 0; i < byte; i++) n += !((i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174);
        code = 256 + n;
    }
    memset(out, 0, 4);
    if (code < 128)
        out[0] = (char)code;
    else
        out[0] = (char)(0xC0 | code >> 6), out[1] = (char)(0x80 | (code & 63));
}

static void make(bytes *b, const char *pre, bool bos, const char *damage)
{
    b->len = 0;
    const bool no_merges = strcmp(damage, "merges") == 0;
    put(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, 0);
    put_u64(b, 8 - (no_merges ? 1 : 0));
    put_text_key(b, "tokenizer.ggml.model", strcmp(damage, "model") == 0 ? "llama" : "gpt2");
    put_text_key(b, "tokenizer.ggml.pre", pre);
    put_text_key(b, "tokenizer.chat_template", "{{ messages }}");
    put_u32_key(b, "tokenizer.ggml.bos_token_id", BEGIN);
    put_str(b, "tokenizer.ggml.add_bos_token");
    put_u32(b, 7);
    put(b, &(char){bos}, 1);
    put_array_key(b, "tokenizer.ggml.tokens", 8, TOKENS);
    for (int i = 0; i < BYTES; i++) {
        char c[4];
        byte_char(strcmp(damage, "twice") == 0 && i == 66 ? 65 : i, c);
        put_str(b, strcmp(damage, "utf8") == 0 && i == 66 ? "\xC3" : c);
    }
    for (size_t i = 0; i < TDM_COUNT(merges); i++) {
        char joined[32], *to = joined;
        for (const char *s = merges[i]; *s; s++)
            if (*s != ' ') *to++ = *s;
        *to = 0;
        put_str(b, joined);
    }
    for (size_t i = 0; i < TDM_COUNT(added); i++) put_str(b, added[i]);
    put_array_key(b, "tokenizer.ggml.token_type", 5, TOKENS);
    for (int i = 0; i < TOKENS; i++) put_u32(b, i < BEGIN ? 1u : (uint32_t)added_types[i - BEGIN]);
    if (no_merges) return;
    put_array_key(b, "tokenizer.ggml.merges", 8, TDM_COUNT(merges));
    for (size_t i = 0; i < TDM_COUNT(merges); i++) put_str(b, merges[i]);
}

/* ---- the tests ---- */

static void same_ids(const tdm_tokenizer *a, const tdm_tokenizer *b, const char *text)
{
    tdm_ids x = {0}, y = {0};
    assert_int_equal(tdm_tokenizer_encode(a, text, strlen(text), true, &x, NULL), TDM_OK);
    assert_int_equal(tdm_tokenizer_encode(b, text, strlen(text), true, &y, NULL), TDM_OK);
    assert_int_equal(x.count, y.count);
    assert_true(x.count == 0 || memcmp(x.data, y.data, (size_t)x.count * sizeof *x.data) == 0);
    tdm_ids_free(&x);
    tdm_ids_free(&y);
}

static void ids_are_those_of_the_gguf(void **state)
{
    static const char *const pres[] = {"default",   "gpt-2",     "phi-2",  "smollm",   "starcoder", "refact",
                                       "command-r", "llama-bpe", "llama3", "llama-v3", "qwen2",     "deepseek-r1-qwen"};
    static const char *const texts[] = {"hello the hello's 12345 123 12",
                                        "<|begin|>hello<tool> the<|end|>\n\n  the",
                                        "caf\xC3\xA9 e\xCC\x81 \xC2\xBD\xE2\x91\xA0!!",
                                        "",
                                        "  \n\n\t ",
                                        "$+<=>^~| a1b2 HELLO'S",
                                        "[unused]"};
    bytes *b = malloc(sizeof *b);
    (void)state;
    for (size_t i = 0; i < 2 * TDM_COUNT(pres); i++) {
        tdm_error err = {0};
        tdm_gguf *g;
        tdm_tokenizer *from_gguf, *from_json;
        json_t *tokenizer, *config;
        char *dir = test_scratch_new(), *json = test_path(dir, "tokenizer.json"),
             *config_json = test_path(dir, "tokenizer_config.json");
        make(b, pres[i / 2], i % 2, "");
        assert_int_equal(tdm_gguf_parse(&g, b->data, b->len, "test", &err), TDM_OK);
        assert_int_equal(tdm_tokenizer_json(g, "test", &tokenizer, &config, &err), TDM_OK);
        assert_int_equal(json_dump_file(tokenizer, json, 0), 0);
        assert_int_equal(json_dump_file(config, config_json, 0), 0);
        if (tdm_tokenizer_open(&from_gguf, "test.gguf", g, &err) != TDM_OK ||
            tdm_tokenizer_open(&from_json, dir, NULL, &err) != TDM_OK) {
            tdm_error_print(&err);
            fail();
        }
        for (size_t j = 0; j < TDM_COUNT(texts); j++) same_ids(from_gguf, from_json, texts[j]);
        assert_int_equal(tdm_tokenizer_bos(from_json), BEGIN);
        assert_string_equal(tdm_tokenizer_special_text(from_json, "bos_token"), "<|begin|>");
        assert_string_equal(tdm_tokenizer_chat_template(from_json), "{{ messages }}");
        tdm_tokenizer_close(from_gguf);
        tdm_tokenizer_close(from_json);
        json_decref(tokenizer);
        json_decref(config);
        tdm_gguf_close(g);
        free(json);
        free(config_json);
        test_scratch_free(dir);
    }
    free(b);
}

static void refuses_what_it_cannot_say(void **state)
{
    static const char *const cases[][3] = {{"smollm", "model", "llama"},
                                           {"smollm", "merges", "merges is missing"},
                                           {"smollm", "twice", "text of another"},
                                           {"smollm", "utf8", "not UTF-8"},
                                           {"no-such", "", "no-such"}};
    bytes *b = malloc(sizeof *b);
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        tdm_error err = {0};
        tdm_gguf *g;
        json_t *tokenizer, *config;
        make(b, cases[i][0], false, cases[i][1]);
        assert_int_equal(tdm_gguf_parse(&g, b->data, b->len, "test", &err), TDM_OK);
        assert_int_equal(tdm_tokenizer_json(g, "test", &tokenizer, &config, &err), TDM_ERR_INPUT);
        assert_non_null(strstr(err.what, cases[i][2]));
        assert_null(tokenizer);
        assert_null(config);
        tdm_gguf_close(g);
    }
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ids_are_those_of_the_gguf),
                                       cmocka_unit_test(refuses_what_it_cannot_say)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
