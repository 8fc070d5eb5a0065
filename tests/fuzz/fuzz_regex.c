/* A tokenizer's regular expression, a zero byte, a text: an error, or a pattern PCRE2 takes and matches that advance. */
#include "fuzz_files.h"
#include "runtime/text/regex.h"
#include "runtime/text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_piece text = {(const char *)data, size}, pattern = fuzz_next(&text);
    tdm_error err = {0};
    tdm_regex *re = NULL;
    tdm_matcher m = {0};
    if (size > 4096) return 0;
    text.len = tdm_utf8_valid(text.data, text.len); /* what the tokenizer hands on is valid */
    if (tdm_regex_open(&re, pattern.data, pattern.len, "fuzz", &err) == TDM_OK) {
        size_t from = 0, start = 0, end = 0;
        for (int n = 0; n < 64 && from <= text.len; n++) {
            const int found = tdm_regex_find(re, &m, text.data, text.len, from, &start, &end, &err);
            if (found < 0 && err.what[0] == 0) abort();
            if (found <= 0) break;
            if (start < from || end < start || end > text.len) abort();
            from = end > start ? end : end + 1;
            while (from < text.len && ((unsigned char)text.data[from] & 0xc0) == 0x80) from++;
        }
    } else if (err.what[0] == 0 || re) abort();
    tdm_matcher_fini(&m);
    tdm_regex_close(re);
    return 0;
}
