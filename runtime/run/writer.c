#include "runtime/run/writer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tdm_writer_free(tdm_writer *t)
{
    free(t->data);
    *t = (tdm_writer){0};
}

void tdm_writer_clear(tdm_writer *t)
{
    t->len = 0;
    t->failed = false;
}

/* Room for n more bytes and the 0. */
static bool reserve(tdm_writer *t, size_t n)
{
    if (t->failed) return false;
    if (n < t->room - t->len) return true; /* room >= len + 1 once anything is there, 0 - 0 before */
    size_t room = t->room ? t->room : 256;
    while (room - t->len <= n && room <= SIZE_MAX / 4) room *= 2;
    char *grown = room - t->len > n ? realloc(t->data, room) : NULL;
    if (!grown) {
        t->failed = true;
        return false;
    }
    t->data = grown;
    t->room = room;
    return true;
}

void tdm_writer_put(tdm_writer *t, const char *data, size_t len)
{
    if (!reserve(t, len)) return;
    if (len > 0) memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = 0;
}

void tdm_writer_puts(tdm_writer *t, const char *s) { tdm_writer_put(t, s, strlen(s)); }

void tdm_writer_printf(tdm_writer *t, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) t->failed = true;
    else if (reserve(t, (size_t)n)) {
        vsnprintf(t->data + t->len, (size_t)n + 1, fmt, again);
        t->len += (size_t)n;
    }
    va_end(again);
}

void tdm_writer_number(tdm_writer *t, double v)
{
    TDM_ASSERT(isfinite(v));
    char s[40];
    bool whole = v == trunc(v) && fabs(v) < 9007199254740992.0;
    int n = whole ? snprintf(s, sizeof s, "%.0f", v == 0 ? 0.0 : v) : snprintf(s, sizeof s, "%.9g", v);
    tdm_writer_put(t, s, (size_t)n);
}

/* Bytes of the well-formed UTF-8 sequence at s (Unicode 15, table 3-7), 0: not one. */
static size_t utf8_sequence(const unsigned char *s, size_t left)
{
    unsigned char c = s[0];
    if (c < 0x80) return 1;
    size_t n = c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (n == 0 || left < n) return 0;
    unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return n;
}

void tdm_writer_json(tdm_writer *t, const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s;
    tdm_writer_put(t, "\"", 1);
    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence(p + i, len - i);
        unsigned char c = p[i];
        if (n == 0) {
            tdm_writer_puts(t, "\xef\xbf\xbd");
            n = 1;
        } else if (n > 1) {
            tdm_writer_put(t, s + i, n);
        } else if (c == '"' || c == '\\') {
            char two[2] = {'\\', (char)c};
            tdm_writer_put(t, two, 2);
        } else if (c == '\n') {
            tdm_writer_puts(t, "\\n");
        } else if (c == '\t') {
            tdm_writer_puts(t, "\\t");
        } else if (c < 0x20 || c == 0x7f) {
            tdm_writer_printf(t, "\\u%04x", c);
        } else {
            tdm_writer_put(t, s + i, 1);
        }
        i += n;
    }
    tdm_writer_put(t, "\"", 1);
}

tdm_status tdm_writer_check(const tdm_writer *t, const char *where, tdm_error *err)
{
    if (t->failed) return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory writing %zu bytes of text", t->len);
    return TDM_OK;
}
