/* UTF-8 and the Unicode questions a tokenizer asks. The answers are those of the `tokenizers` package (Rust's char and its
 * Unicode tables), whatever version our libraries have. Private to runtime/text. */
#ifndef TANDEM_RUNTIME_TEXT_UNICODE_H
#define TANDEM_RUNTIME_TEXT_UNICODE_H

#include "runtime/text/tokenizer.h"

/* Sorted, disjoint, inclusive ranges of code points. */
typedef struct tdm_code_set { const uint32_t (*ranges)[2]; size_t count; } tdm_code_set;
bool tdm_code_in(const tdm_code_set *set, uint32_t c);

extern const tdm_code_set tdm_codes_onig_word;         /* Oniguruma's \w */
extern const tdm_code_set tdm_codes_word;              /* \w of Rust's regex */
extern const tdm_code_set tdm_codes_numeric;           /* char::is_numeric */
extern const tdm_code_set tdm_codes_punctuation;       /* what the Punctuation pre-tokenizer splits on */
extern const tdm_code_set tdm_codes_mark;                /* what StripAccents takes away */
extern const tdm_code_set tdm_codes_opaque;            /* inert for the reference's NFC and NFD, not for newer Unicode */
extern const tdm_code_set tdm_codes_opaque_compatible; /* the same for NFKC and NFKD */

/* A Unicode property as a pattern names it: code points Oniguruma has in it and PCRE2 may not have yet. */
typedef struct tdm_property { const char *name; bool script; tdm_code_set added; } tdm_property;
extern const tdm_property tdm_unicode_properties[];
extern const size_t tdm_unicode_properties_count;

bool tdm_is_space(uint32_t c); /* White_Space */

/* char::to_lowercase where it is one character; all but U+0130. */
uint32_t tdm_lower(uint32_t c);
extern const uint32_t tdm_unicode_lower_pairs[][2]; /* sorted: where utf8proc says something else */
extern const size_t tdm_unicode_lower_pairs_count;

/* Code point at s and its bytes; the text is valid UTF-8 and s is before its end. */
static inline uint32_t tdm_utf8_get(const char *s, size_t *bytes)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return *bytes = 1, u[0];
    if (u[0] < 0xe0) return *bytes = 2, (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f);
    if (u[0] < 0xf0) return *bytes = 3, (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
    return *bytes = 4, (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3f) << 12 | (uint32_t)(u[2] & 0x3f) << 6 | (u[3] & 0x3f);
}
uint32_t tdm_utf8_last(const char *s, size_t len, size_t *bytes); /* the last code point of a valid text, len > 0 */
size_t tdm_utf8_write(char out[4], uint32_t c);                     /* bytes written */
size_t tdm_utf8_valid(const char *s, size_t len);                 /* length of the longest valid prefix */
/* Appends with each maximal invalid part replaced by U+FFFD, as Rust's String::from_utf8_lossy does. */
tdm_status tdm_utf8_lossy(const char *s, size_t len, tdm_text *out, tdm_error *err);

/* GPT-2's bijection between bytes and printable characters: the character of a byte; the byte of a character or -1. */
uint32_t tdm_byte_char(uint8_t byte);
int tdm_char_byte(uint32_t c);

#endif
