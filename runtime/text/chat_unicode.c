/* Unicode as Python's str knows it: classes of characters and the full case mappings. */
#include <utf8proc.h>

#include "runtime/text/chat_internal.h"

/* Characters whose upper or title case is more than one character (Unicode's SpecialCasing.txt, unconditional part). */
static const struct special { uint16_t c, upper[3], title[3]; } specials[] = {
    {0x00DF, {0x0053, 0x0053, 0}, {0x0053, 0x0073, 0}}, {0x0149, {0x02BC, 0x004E, 0}, {0x02BC, 0x004E, 0}},
    {0x01F0, {0x004A, 0x030C, 0}, {0x004A, 0x030C, 0}}, {0x0390, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}},
    {0x03B0, {0x03A5, 0x0308, 0x0301}, {0x03A5, 0x0308, 0x0301}}, {0x0587, {0x0535, 0x0552, 0}, {0x0535, 0x0582, 0}},
    {0x1E96, {0x0048, 0x0331, 0}, {0x0048, 0x0331, 0}}, {0x1E97, {0x0054, 0x0308, 0}, {0x0054, 0x0308, 0}},
    {0x1E98, {0x0057, 0x030A, 0}, {0x0057, 0x030A, 0}}, {0x1E99, {0x0059, 0x030A, 0}, {0x0059, 0x030A, 0}},
    {0x1E9A, {0x0041, 0x02BE, 0}, {0x0041, 0x02BE, 0}}, {0x1F50, {0x03A5, 0x0313, 0}, {0x03A5, 0x0313, 0}},
    {0x1F52, {0x03A5, 0x0313, 0x0300}, {0x03A5, 0x0313, 0x0300}}, {0x1F54, {0x03A5, 0x0313, 0x0301}, {0x03A5, 0x0313, 0x0301}},
    {0x1F56, {0x03A5, 0x0313, 0x0342}, {0x03A5, 0x0313, 0x0342}}, {0x1F80, {0x1F08, 0x0399, 0}, {0x1F88, 0, 0}},
    {0x1F81, {0x1F09, 0x0399, 0}, {0x1F89, 0, 0}}, {0x1F82, {0x1F0A, 0x0399, 0}, {0x1F8A, 0, 0}},
    {0x1F83, {0x1F0B, 0x0399, 0}, {0x1F8B, 0, 0}}, {0x1F84, {0x1F0C, 0x0399, 0}, {0x1F8C, 0, 0}},
    {0x1F85, {0x1F0D, 0x0399, 0}, {0x1F8D, 0, 0}}, {0x1F86, {0x1F0E, 0x0399, 0}, {0x1F8E, 0, 0}},
    {0x1F87, {0x1F0F, 0x0399, 0}, {0x1F8F, 0, 0}}, {0x1F88, {0x1F08, 0x0399, 0}, {0x1F88, 0, 0}},
    {0x1F89, {0x1F09, 0x0399, 0}, {0x1F89, 0, 0}}, {0x1F8A, {0x1F0A, 0x0399, 0}, {0x1F8A, 0, 0}},
    {0x1F8B, {0x1F0B, 0x0399, 0}, {0x1F8B, 0, 0}}, {0x1F8C, {0x1F0C, 0x0399, 0}, {0x1F8C, 0, 0}},
    {0x1F8D, {0x1F0D, 0x0399, 0}, {0x1F8D, 0, 0}}, {0x1F8E, {0x1F0E, 0x0399, 0}, {0x1F8E, 0, 0}},
    {0x1F8F, {0x1F0F, 0x0399, 0}, {0x1F8F, 0, 0}}, {0x1F90, {0x1F28, 0x0399, 0}, {0x1F98, 0, 0}},
    {0x1F91, {0x1F29, 0x0399, 0}, {0x1F99, 0, 0}}, {0x1F92, {0x1F2A, 0x0399, 0}, {0x1F9A, 0, 0}},
    {0x1F93, {0x1F2B, 0x0399, 0}, {0x1F9B, 0, 0}}, {0x1F94, {0x1F2C, 0x0399, 0}, {0x1F9C, 0, 0}},
    {0x1F95, {0x1F2D, 0x0399, 0}, {0x1F9D, 0, 0}}, {0x1F96, {0x1F2E, 0x0399, 0}, {0x1F9E, 0, 0}},
    {0x1F97, {0x1F2F, 0x0399, 0}, {0x1F9F, 0, 0}}, {0x1F98, {0x1F28, 0x0399, 0}, {0x1F98, 0, 0}},
    {0x1F99, {0x1F29, 0x0399, 0}, {0x1F99, 0, 0}}, {0x1F9A, {0x1F2A, 0x0399, 0}, {0x1F9A, 0, 0}},
    {0x1F9B, {0x1F2B, 0x0399, 0}, {0x1F9B, 0, 0}}, {0x1F9C, {0x1F2C, 0x0399, 0}, {0x1F9C, 0, 0}},
    {0x1F9D, {0x1F2D, 0x0399, 0}, {0x1F9D, 0, 0}}, {0x1F9E, {0x1F2E, 0x0399, 0}, {0x1F9E, 0, 0}},
    {0x1F9F, {0x1F2F, 0x0399, 0}, {0x1F9F, 0, 0}}, {0x1FA0, {0x1F68, 0x0399, 0}, {0x1FA8, 0, 0}},
    {0x1FA1, {0x1F69, 0x0399, 0}, {0x1FA9, 0, 0}}, {0x1FA2, {0x1F6A, 0x0399, 0}, {0x1FAA, 0, 0}},
    {0x1FA3, {0x1F6B, 0x0399, 0}, {0x1FAB, 0, 0}}, {0x1FA4, {0x1F6C, 0x0399, 0}, {0x1FAC, 0, 0}},
    {0x1FA5, {0x1F6D, 0x0399, 0}, {0x1FAD, 0, 0}}, {0x1FA6, {0x1F6E, 0x0399, 0}, {0x1FAE, 0, 0}},
    {0x1FA7, {0x1F6F, 0x0399, 0}, {0x1FAF, 0, 0}}, {0x1FA8, {0x1F68, 0x0399, 0}, {0x1FA8, 0, 0}},
    {0x1FA9, {0x1F69, 0x0399, 0}, {0x1FA9, 0, 0}}, {0x1FAA, {0x1F6A, 0x0399, 0}, {0x1FAA, 0, 0}},
    {0x1FAB, {0x1F6B, 0x0399, 0}, {0x1FAB, 0, 0}}, {0x1FAC, {0x1F6C, 0x0399, 0}, {0x1FAC, 0, 0}},
    {0x1FAD, {0x1F6D, 0x0399, 0}, {0x1FAD, 0, 0}}, {0x1FAE, {0x1F6E, 0x0399, 0}, {0x1FAE, 0, 0}},
    {0x1FAF, {0x1F6F, 0x0399, 0}, {0x1FAF, 0, 0}}, {0x1FB2, {0x1FBA, 0x0399, 0}, {0x1FBA, 0x0345, 0}},
    {0x1FB3, {0x0391, 0x0399, 0}, {0x1FBC, 0, 0}}, {0x1FB4, {0x0386, 0x0399, 0}, {0x0386, 0x0345, 0}},
    {0x1FB6, {0x0391, 0x0342, 0}, {0x0391, 0x0342, 0}}, {0x1FB7, {0x0391, 0x0342, 0x0399}, {0x0391, 0x0342, 0x0345}},
    {0x1FBC, {0x0391, 0x0399, 0}, {0x1FBC, 0, 0}}, {0x1FC2, {0x1FCA, 0x0399, 0}, {0x1FCA, 0x0345, 0}},
    {0x1FC3, {0x0397, 0x0399, 0}, {0x1FCC, 0, 0}}, {0x1FC4, {0x0389, 0x0399, 0}, {0x0389, 0x0345, 0}},
    {0x1FC6, {0x0397, 0x0342, 0}, {0x0397, 0x0342, 0}}, {0x1FC7, {0x0397, 0x0342, 0x0399}, {0x0397, 0x0342, 0x0345}},
    {0x1FCC, {0x0397, 0x0399, 0}, {0x1FCC, 0, 0}}, {0x1FD2, {0x0399, 0x0308, 0x0300}, {0x0399, 0x0308, 0x0300}},
    {0x1FD3, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}}, {0x1FD6, {0x0399, 0x0342, 0}, {0x0399, 0x0342, 0}},
    {0x1FD7, {0x0399, 0x0308, 0x0342}, {0x0399, 0x0308, 0x0342}}, {0x1FE2, {0x03A5, 0x0308, 0x0300}, {0x03A5, 0x0308, 0x0300}},
    {0x1FE3, {0x03A5, 0x0308, 0x0301}, {0x03A5, 0x0308, 0x0301}}, {0x1FE4, {0x03A1, 0x0313, 0}, {0x03A1, 0x0313, 0}},
    {0x1FE6, {0x03A5, 0x0342, 0}, {0x03A5, 0x0342, 0}}, {0x1FE7, {0x03A5, 0x0308, 0x0342}, {0x03A5, 0x0308, 0x0342}},
    {0x1FF2, {0x1FFA, 0x0399, 0}, {0x1FFA, 0x0345, 0}}, {0x1FF3, {0x03A9, 0x0399, 0}, {0x1FFC, 0, 0}},
    {0x1FF4, {0x038F, 0x0399, 0}, {0x038F, 0x0345, 0}}, {0x1FF6, {0x03A9, 0x0342, 0}, {0x03A9, 0x0342, 0}},
    {0x1FF7, {0x03A9, 0x0342, 0x0399}, {0x03A9, 0x0342, 0x0345}}, {0x1FFC, {0x03A9, 0x0399, 0}, {0x1FFC, 0, 0}},
    {0xFB00, {0x0046, 0x0046, 0}, {0x0046, 0x0066, 0}}, {0xFB01, {0x0046, 0x0049, 0}, {0x0046, 0x0069, 0}},
    {0xFB02, {0x0046, 0x004C, 0}, {0x0046, 0x006C, 0}}, {0xFB03, {0x0046, 0x0046, 0x0049}, {0x0046, 0x0066, 0x0069}},
    {0xFB04, {0x0046, 0x0046, 0x004C}, {0x0046, 0x0066, 0x006C}}, {0xFB05, {0x0053, 0x0054, 0}, {0x0053, 0x0074, 0}},
    {0xFB06, {0x0053, 0x0054, 0}, {0x0053, 0x0074, 0}}, {0xFB13, {0x0544, 0x0546, 0}, {0x0544, 0x0576, 0}},
    {0xFB14, {0x0544, 0x0535, 0}, {0x0544, 0x0565, 0}}, {0xFB15, {0x0544, 0x053B, 0}, {0x0544, 0x056B, 0}},
    {0xFB16, {0x054E, 0x0546, 0}, {0x054E, 0x0576, 0}}, {0xFB17, {0x0544, 0x053D, 0}, {0x0544, 0x056D, 0}},
};

/* ---- UTF-8 ----------------------------------------------------------------------------------------------------------------- */

size_t tdm_utf8_len(const char *p)
{
    const unsigned char c = (unsigned char)*p;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

uint32_t tdm_utf8_at(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) return u[0];
    if (u[0] < 0xE0) return (uint32_t)(u[0] & 0x1F) << 6 | (u[1] & 0x3F);
    if (u[0] < 0xF0) return (uint32_t)(u[0] & 0x0F) << 12 | (uint32_t)(u[1] & 0x3F) << 6 | (u[2] & 0x3F);
    return (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3F) << 12 | (uint32_t)(u[2] & 0x3F) << 6 | (u[3] & 0x3F);
}

size_t tdm_utf8_put(char out[4], uint32_t c)
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

int64_t tdm_utf8_count(const char *p, size_t len)
{
    int64_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((unsigned char)p[i] & 0xC0) != 0x80;
    return n;
}

size_t tdm_utf8_offset(const char *p, size_t len, int64_t chars)
{
    size_t i = 0;
    for (; i < len && chars > 0; chars--) i += tdm_utf8_len(p + i);
    return i;
}

/* ---- classes --------------------------------------------------------------------------------------------------------------- */

static utf8proc_category_t category(uint32_t c) { return utf8proc_category((utf8proc_int32_t)c); }

bool tdm_unicode_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool tdm_unicode_line_end(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool tdm_unicode_alpha(uint32_t c)
{
    if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z';
    const utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool tdm_unicode_decimal(uint32_t c) { return c < 0x80 ? c >= '0' && c <= '9' : category(c) == UTF8PROC_CATEGORY_ND; }

bool tdm_unicode_digit(uint32_t c)
{
    static const struct { uint32_t from, to; } more[] = { /* Numeric_Type=Digit outside Nd */
        {0xB2, 0xB3}, {0xB9, 0xB9}, {0x1369, 0x1371}, {0x19DA, 0x19DA}, {0x2070, 0x2070}, {0x2074, 0x2079}, {0x2080, 0x2089},
        {0x2460, 0x2468}, {0x2474, 0x247C}, {0x2488, 0x2490}, {0x24EA, 0x24EA}, {0x24F5, 0x24FD}, {0x24FF, 0x24FF},
        {0x2776, 0x277E}, {0x2780, 0x2788}, {0x278A, 0x2792}, {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A},
        {0x1F100, 0x1F10A}};
    if (tdm_unicode_decimal(c)) return true;
    for (size_t i = 0; i < TDM_COUNT(more); i++)
        if (c >= more[i].from && c <= more[i].to) return true;
    return false;
}

bool tdm_unicode_numeric(uint32_t c)
{
    const utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool tdm_unicode_word(uint32_t c) { return c == '_' || tdm_unicode_alpha(c) || tdm_unicode_numeric(c); }

bool tdm_unicode_printable(uint32_t c)
{
    if (c < 0x7F) return c >= 0x20;
    const utf8proc_category_t k = category(c);
    return k != UTF8PROC_CATEGORY_CC && k != UTF8PROC_CATEGORY_CF && k != UTF8PROC_CATEGORY_CS && k != UTF8PROC_CATEGORY_CO &&
           k != UTF8PROC_CATEGORY_CN && k != UTF8PROC_CATEGORY_ZL && k != UTF8PROC_CATEGORY_ZP && k != UTF8PROC_CATEGORY_ZS;
}

bool tdm_unicode_upper(uint32_t c) { return c < 0x80 ? c >= 'A' && c <= 'Z' : utf8proc_isupper((utf8proc_int32_t)c); }
bool tdm_unicode_lower(uint32_t c) { return c < 0x80 ? c >= 'a' && c <= 'z' : utf8proc_islower((utf8proc_int32_t)c); }
bool tdm_unicode_title(uint32_t c) { return c >= 0x80 && category(c) == UTF8PROC_CATEGORY_LT; }

/* ---- case ------------------------------------------------------------------------------------------------------------------ */

static void put(tdm_jrun *r, tdm_jbuf *b, uint32_t c)
{
    char utf8[4];
    tdm_jbuf_add(r, b, utf8, tdm_utf8_put(utf8, c));
}

static void put_upper(tdm_jrun *r, tdm_jbuf *b, uint32_t c, bool title)
{
    for (size_t i = 0; c >= 0xDF && i < TDM_COUNT(specials); i++) {
        if (specials[i].c != c) continue;
        const uint16_t *to = title ? specials[i].title : specials[i].upper;
        for (int k = 0; k < 3 && to[k]; k++) put(r, b, to[k]);
        return;
    }
    put(r, b, (uint32_t)(title ? utf8proc_totitle((utf8proc_int32_t)c) : utf8proc_toupper((utf8proc_int32_t)c)));
}

static bool cased(uint32_t c) { return tdm_unicode_upper(c) || tdm_unicode_lower(c) || tdm_unicode_title(c); }

/* Letters a final sigma looks past: marks, modifiers, apostrophes. */
static bool case_ignorable(uint32_t c)
{
    const utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_LM ||
           k == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019 || c == 0x2018;
}

/* Unicode's Final_Sigma: a cased letter before, none after. */
static bool final_sigma(const tdm_jstr *s, size_t at)
{
    bool before = false;
    for (size_t i = at; i > 0 && !before;) {
        do i--;
        while (i > 0 && ((unsigned char)s->data[i] & 0xC0) == 0x80);
        const uint32_t c = tdm_utf8_at(s->data + i);
        if (case_ignorable(c)) continue;
        before = cased(c);
        break;
    }
    if (!before) return false;
    for (size_t i = at + 2; i < s->len; i += tdm_utf8_len(s->data + i)) {
        const uint32_t c = tdm_utf8_at(s->data + i);
        if (!case_ignorable(c)) return !cased(c);
    }
    return true;
}

static void put_lower(tdm_jrun *r, tdm_jbuf *b, const tdm_jstr *s, size_t at, uint32_t c)
{
    if (c == 0x3A3 && final_sigma(s, at)) {
        put(r, b, 0x3C2);
    } else if (c == 0x130) {
        put(r, b, 'i');
        put(r, b, 0x307);
    } else {
        put(r, b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
    }
}

static void put_fold(tdm_jrun *r, tdm_jbuf *b, uint32_t c)
{
    utf8proc_int32_t to[8];
    int boundary = 0;
    const utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, to, 8, UTF8PROC_CASEFOLD, &boundary);
    for (utf8proc_ssize_t i = 0; i < n && i < 8; i++) put(r, b, (uint32_t)to[i]);
}

const tdm_jstr *tdm_jstr_case(tdm_jrun *r, const tdm_jstr *s, tdm_jcase how)
{
    tdm_jbuf b = {0};
    bool inside = false; /* after a cased letter, for TITLE */
    tdm_jrun_charge(r, (int64_t)(s->len / 16));
    for (size_t i = 0; i < s->len;) {
        const uint32_t c = tdm_utf8_at(s->data + i);
        const bool first = i == 0;
        switch (how) {
        case TDM_JCASE_UPPER: put_upper(r, &b, c, false); break;
        case TDM_JCASE_LOWER: put_lower(r, &b, s, i, c); break;
        case TDM_JCASE_FOLD: put_fold(r, &b, c); break;
        case TDM_JCASE_SWAP:
            if (tdm_unicode_upper(c)) put_lower(r, &b, s, i, c);
            else if (tdm_unicode_lower(c)) put_upper(r, &b, c, false);
            else put(r, &b, c);
            break;
        case TDM_JCASE_CAPITALIZE:
            if (first) put_upper(r, &b, c, true);
            else put_lower(r, &b, s, i, c);
            break;
        case TDM_JCASE_TITLE:
            if (inside) put_lower(r, &b, s, i, c);
            else put_upper(r, &b, c, true);
            inside = cased(c);
            break;
        }
        i += tdm_utf8_len(s->data + i);
    }
    return tdm_jbuf_done(r, &b);
}
