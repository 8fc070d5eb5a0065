#include "runtime/text/unicode.h"

#include <utf8proc.h>

bool tdm_code_in(const tdm_code_set *set, uint32_t c)
{
    size_t low = 0, high = set->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > set->ranges[mid][1]) low = mid + 1;
        else high = mid;
    }
    return low < set->count && c >= set->ranges[low][0];
}

bool tdm_is_space(uint32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

uint32_t tdm_lower(uint32_t c)
{
    size_t low = 0, high = tdm_unicode_lower_pairs_count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > tdm_unicode_lower_pairs[mid][0]) low = mid + 1;
        else high = mid;
    }
    if (low < tdm_unicode_lower_pairs_count && tdm_unicode_lower_pairs[low][0] == c) return tdm_unicode_lower_pairs[low][1];
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

uint32_t tdm_utf8_last(const char *s, size_t len, size_t *bytes)
{
    size_t at = len - 1;
    while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80) at--;
    return tdm_utf8_get(s + at, bytes);
}

size_t tdm_utf8_write(char out[4], uint32_t c)
{
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* Bytes of the sequence at s when it is well formed (Unicode table 3-7), else 0; *bad is then the maximal invalid part. */
static size_t sequence(const unsigned char *s, size_t len, size_t *bad)
{
    unsigned char low = 0x80, high = 0xbf;
    size_t need;
    *bad = 1;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    if (s[0] < 0xe0) need = 2;
    else if (s[0] < 0xf0) need = 3;
    else need = 4;
    if (s[0] == 0xe0) low = 0xa0;
    if (s[0] == 0xed) high = 0x9f;
    if (s[0] == 0xf0) low = 0x90;
    if (s[0] == 0xf4) high = 0x8f;
    for (size_t i = 1; i < need; i++) {
        if (i >= len || s[i] < low || s[i] > high) return *bad = i, 0;
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

size_t tdm_utf8_valid(const char *s, size_t len)
{
    size_t at = 0, bad;
    while (at < len) {
        size_t n = sequence((const unsigned char *)s + at, len - at, &bad);
        if (n == 0) break;
        at += n;
    }
    return at;
}

tdm_status tdm_utf8_lossy(const char *s, size_t len, tdm_text *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    while (len > 0) {
        size_t good = tdm_utf8_valid(s, len), bad = 0;
        TDM_TRY(st, tdm_text_append(out, s, good, err), done);
        s += good;
        len -= good;
        if (len == 0) break;
        (void)sequence((const unsigned char *)s, len, &bad);
        TDM_TRY(st, tdm_text_append(out, "\xef\xbf\xbd", 3, err), done);
        s += bad;
        len -= bad;
    }
done:
    return st;
}

/* Printable Latin-1 stands for itself; the other 68 bytes, in order, are U+0100 onwards (openai/gpt-2: src/encoder.py). */
uint32_t tdm_byte_char(uint8_t byte)
{
    if (byte <= 0x20) return 0x100u + byte;
    if (byte >= 0x7f && byte <= 0xa0) return 0x121u + (byte - 0x7fu);
    if (byte == 0xad) return 0x143;
    return byte;
}

int tdm_char_byte(uint32_t c)
{
    if (c >= 0x100 && c <= 0x120) return (int)(c - 0x100);
    if (c >= 0x121 && c <= 0x142) return (int)(c - 0x121 + 0x7f);
    if (c == 0x143) return 0xad;
    if (c > 0xff || c <= 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0xad) return -1;
    return (int)c;
}
