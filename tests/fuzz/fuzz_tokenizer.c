/* Any bytes as a tokenizer.json with a text behind it: an error, or ids that are all in the vocabulary and decode to valid UTF-8.
 * The file ends at the first zero byte; without one, the bytes are a text for a byte-level tokenizer that is always the same. */
#include <stdlib.h>
#include <string.h>

#include "memory/gguf.h"
#include "runtime/text/tokenizer_impl.h"
#include "runtime/text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char fixed[] =
    "{\"normalizer\":{\"type\":\"NFKC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},{\"type\":\"ByteLevel\"}]},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[{\"content\":\"<s>\",\"rstrip\":true,\"lstrip\":true,\"normalized\":true}],"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"ab\":3,\"\\u0120\":4,\"\\u0120a\":5,\"abab\":6},"
    "\"merges\":[\"a b\",\"\\u0120 a\",\"ab ab\"]}}";

static void use(const tdm_tokenizer *t, const char *text, size_t len, tdm_error *err)
{
    tdm_ids ids = {0};
    tdm_text decoded = {0};
    if (tdm_tokenizer_encode(t, text, len, true, &ids, err) == TDM_OK) {
        for (int64_t i = 0; i < ids.count; i++) TDM_ASSERT(ids.data[i] >= 0);
        for (int skip = 0; skip < 2; skip++) {
            decoded.len = 0;
            if (tdm_tokenizer_decode(t, ids.data, ids.count, skip, &decoded, err) == TDM_OK)
                TDM_ASSERT(tdm_utf8_valid(decoded.data, decoded.len) == decoded.len);
        }
    }
    tdm_ids_free(&ids);
    tdm_text_free(&decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    tdm_error err = {0};
    tdm_tokenizer *t = NULL;
    tdm_gguf *g = NULL;
    tdm_status st;
    const uint8_t *zero = bytes ? memchr(data, 0, bytes) : NULL;
    const char *text = zero ? (const char *)zero + 1 : (const char *)data;
    const size_t len = zero ? (size_t)(data + bytes - zero - 1) : bytes;
    if (tdm_tokenizer_new(&t, "fuzz", &err) != TDM_OK) return 0;
    if (bytes >= 4 && memcmp(data, "GGUF", 4) == 0) {
        st = tdm_gguf_parse(&g, data, bytes, "fuzz", &err);
        if (st == TDM_OK) st = tdm_tokenizer_load_gguf(t, g, &err);
        if (st == TDM_OK) use(t, "abc <|end|> 12 d\xc3\xa9", 18, &err);
    } else {
        st = zero ? tdm_tokenizer_load_json(t, (const char *)data, (size_t)(zero - data), &err) : tdm_tokenizer_load_json(t, fixed, sizeof fixed - 1, &err);
        TDM_ASSERT(zero || st == TDM_OK);
        if (st == TDM_OK) use(t, text, len, &err);
    }
    if (st != TDM_OK) TDM_ASSERT(err.what[0]);
    tdm_gguf_close(g);
    tdm_tokenizer_close(t);
    return 0;
}
