/* Template text to tokens, as jinja2/lexer.py with trim_blocks and lstrip_blocks. */
#include <stdlib.h>

#include "runtime/text/chat_internal.h"

typedef struct lexer {
    tdm_jrun *run;
    const char *text; /* newlines are \n, one at the end is gone */
    size_t len, pos;
    int line;
    bool line_starting; /* the last thing read ended with a newline */
    tdm_jtokens tokens;
    char *open;         /* brackets still open, innermost last: the closing character of each */
    size_t open_count;
} lexer;

static tdm_jtoken *push(lexer *x, tdm_jtoken_kind kind)
{
    tdm_jtokens *t = &x->tokens;
    if (t->count == t->room) {
        const int64_t room = t->room ? t->room * 2 : 64;
        tdm_jtoken *at = tdm_jrun_alloc(x->run, (size_t)room * sizeof(*at));
        if (t->count) memcpy(at, t->at, (size_t)t->count * sizeof(*at));
        t->at = at;
        t->room = room;
    }
    tdm_jtoken *token = &t->at[t->count++];
    *token = (tdm_jtoken){.kind = kind, .line = x->line};
    return token;
}

static _Noreturn void fail(lexer *x, const char *what)
{
    x->run->line = x->line;
    tdm_jrun_fail(x->run, NULL, "%s", what);
}

static bool starts(const lexer *x, size_t pos, const char *text)
{
    const size_t n = strlen(text);
    return pos + n <= x->len && memcmp(x->text + pos, text, n) == 0;
}

static size_t skip_space(const lexer *x, size_t pos)
{
    while (pos < x->len && tdm_unicode_space(tdm_utf8_at(x->text + pos))) pos += tdm_utf8_len(x->text + pos);
    return pos;
}

/* Moves to `to`, counting lines. */
static void advance(lexer *x, size_t to)
{
    for (size_t i = x->pos; i < to; i++) x->line += x->text[i] == '\n';
    x->line_starting = to > 0 && to > x->pos ? x->text[to - 1] == '\n' : x->line_starting;
    x->pos = to;
}

/* The end of a tag at pos: its bytes with what it swallows, 0 when there is none. close: "%}", "#}" or "}}". */
static size_t tag_end(const lexer *x, size_t pos, const char *close)
{
    const bool variable = close[0] == '}';
    if (starts(x, pos, "-") && starts(x, pos + 1, close)) return skip_space(x, pos + 3) - pos;
    if (!variable && starts(x, pos, "+") && starts(x, pos + 1, close)) return 3;
    if (!starts(x, pos, close)) return 0;
    return !variable && starts(x, pos + 2, "\n") ? 3 : 2;
}

/* Text before a tag, without what the tag strips from it. sign: '-', '+' or 0. */
static size_t text_kept(const lexer *x, size_t from, size_t to, char sign, bool variable)
{
    size_t end = to;
    if (sign == '-') {
        while (end > from) {
            size_t start = end - 1;
            while (start > from && ((unsigned char)x->text[start] & 0xC0) == 0x80) start--;
            if (!tdm_unicode_space(tdm_utf8_at(x->text + start))) break;
            end = start;
        }
        return end;
    }
    if (sign == '+' || variable) return end;
    size_t line = to;
    while (line > from && x->text[line - 1] != '\n') line--;
    if (line == from && !x->line_starting) return end; /* the tag does not stand at the start of a line */
    return skip_space(x, line) >= to ? line : end;
}

static void push_data(lexer *x, size_t from, size_t to)
{
    if (to > from) push(x, TDM_JT_DATA)->s = tdm_jstr_new(x->run, x->text + from, to - from);
}

/* `{% raw %}` at pos (after "{%" and its sign): the position after its end, or 0. */
static size_t raw_begin(const lexer *x, size_t pos)
{
    pos = skip_space(x, pos);
    if (!starts(x, pos, "raw")) return 0;
    pos = skip_space(x, pos + 3);
    if (starts(x, pos, "-%}")) return skip_space(x, pos + 3);
    return starts(x, pos, "%}") ? pos + 2 : 0;
}

static void lex_raw(lexer *x)
{
    for (size_t at = x->pos; at + 1 < x->len; at++) {
        if (!starts(x, at, "{%")) continue;
        size_t p = at + 2;
        const char sign = starts(x, p, "-") || starts(x, p, "+") ? x->text[p] : 0;
        p = skip_space(x, p + (sign != 0));
        if (!starts(x, p, "endraw")) continue;
        p = skip_space(x, p + 6);
        const size_t n = tag_end(x, p, "%}");
        if (!n) continue;
        push_data(x, x->pos, text_kept(x, x->pos, at, sign, false));
        advance(x, p + n);
        return;
    }
    fail(x, "a raw block is not closed: missing {% endraw %}");
}

static void lex_comment(lexer *x)
{
    for (size_t at = x->pos; at < x->len; at++) {
        const size_t n = tag_end(x, at, "#}");
        if (!n) continue;
        advance(x, at + n);
        return;
    }
    fail(x, "a comment is not closed: missing #}");
}

/* ---- inside tags ----------------------------------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* digits with single underscores between them, from pos: bytes */
static size_t digits(const lexer *x, size_t pos)
{
    size_t n = 0;
    while (pos + n < x->len && (is_digit(x->text[pos + n]) || (n && x->text[pos + n] == '_' && pos + n + 1 < x->len &&
                                                                is_digit(x->text[pos + n + 1]))))
        n++;
    return n;
}

static size_t float_len(const lexer *x, size_t pos)
{
    if (pos > 0 && x->text[pos - 1] == '.') return 0;
    size_t n = digits(x, pos), fraction = 0, exponent = 0;
    if (!n) return 0;
    if (starts(x, pos + n, ".") && (fraction = digits(x, pos + n + 1)) > 0) n += fraction + 1;
    if (pos + n < x->len && (x->text[pos + n] | 32) == 'e') {
        const size_t sign = pos + n + 1 < x->len && (x->text[pos + n + 1] == '+' || x->text[pos + n + 1] == '-');
        exponent = digits(x, pos + n + 1 + sign);
        if (exponent) n += 1 + sign + exponent;
    }
    return fraction || exponent ? n : 0;
}

static int digit_of(char c)
{
    if (is_digit(c)) return c - '0';
    const char low = (char)(c | 32);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : 99;
}

static size_t int_len(const lexer *x, size_t pos, int *base)
{
    const char *t = x->text + pos;
    const size_t left = x->len - pos;
    *base = 10;
    if (t[0] == '0' && left > 1) {
        const char low = (char)(t[1] | 32);
        *base = low == 'x' ? 16 : low == 'o' ? 8 : low == 'b' ? 2 : 10;
        if (*base != 10) {
            size_t n = 2;
            for (;;) {
                const size_t under = n < left && t[n] == '_';
                if (n + under >= left || digit_of(t[n + under]) >= *base) break;
                n += under + 1;
            }
            if (n > 2) return n;
            *base = 10;
            return 1;
        }
    }
    if (t[0] == '0') { /* only zeros: Jinja has no octal 0755 */
        size_t n = 1;
        while (n < left && (t[n] == '0' || (t[n] == '_' && n + 1 < left && t[n + 1] == '0'))) n++;
        return n;
    }
    return digits(x, pos);
}

static void lex_float(lexer *x, size_t n)
{
    char *copy = tdm_jrun_alloc(x->run, n + 1);
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (x->text[x->pos + i] != '_') copy[k++] = x->text[x->pos + i];
    push(x, TDM_JT_FLOAT)->num.f = strtod(copy, NULL);
    advance(x, x->pos + n);
}

static void lex_int(lexer *x, size_t n, int base)
{
    int64_t v = 0;
    for (size_t i = base == 10 ? 0 : 2; i < n; i++) {
        const char c = x->text[x->pos + i];
        if (c == '_') continue;
        if (__builtin_mul_overflow(v, (int64_t)base, &v) || __builtin_add_overflow(v, (int64_t)digit_of(c), &v))
            fail(x, "an integer is past 64 bits");
    }
    push(x, TDM_JT_INT)->num.i = v;
    advance(x, x->pos + n);
}

static void put_char(lexer *x, tdm_jbuf *b, uint32_t c)
{
    char utf8[4];
    if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) fail(x, "an escape in a string is not a Unicode character");
    tdm_jbuf_add(x->run, b, utf8, tdm_utf8_put(utf8, c));
}

/* One escape; p is after the backslash. Returns the position after it. */
static size_t unescape(lexer *x, tdm_jbuf *b, size_t p, size_t end)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char c = x->text[p];
    const char *simple = memchr(from, c, sizeof(from) - 1);
    if (simple) {
        tdm_jbuf_add(x->run, b, &to[simple - from], 1);
        return p + 1;
    }
    if (c == '\n') return p + 1;
    uint32_t v = 0;
    if (c >= '0' && c <= '7') {
        int n = 0;
        for (; n < 3 && p < end && x->text[p] >= '0' && x->text[p] <= '7'; n++) v = v * 8 + (uint32_t)(x->text[p++] - '0');
        put_char(x, b, v);
        return p;
    }
    const size_t want = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == 'N') fail(x, "\\N{...} escapes are not supported");
    if (!want) { /* Python keeps an escape it does not know */
        tdm_jbuf_add(x->run, b, "\\", 1);
        return p;
    }
    for (size_t i = 1; i <= want; i++) {
        const int d = p + i < end ? digit_of(x->text[p + i]) : 99;
        if (d > 15) fail(x, "a \\x, \\u or \\U escape in a string is cut short");
        v = v << 4 | (uint32_t)d;
    }
    put_char(x, b, v);
    return p + 1 + want;
}

static void lex_string(lexer *x)
{
    const char quote = x->text[x->pos];
    size_t end = x->pos + 1;
    while (end < x->len && x->text[end] != quote) end += x->text[end] == '\\' ? 2 : 1;
    if (end >= x->len) fail(x, "a string is not closed");
    tdm_jbuf b = {0};
    size_t p = x->pos + 1;
    while (p < end) {
        if (x->text[p] == '\\') {
            p = unescape(x, &b, p + 1, end);
            continue;
        }
        const char *slash = memchr(x->text + p, '\\', end - p);
        const size_t n = slash ? (size_t)(slash - (x->text + p)) : end - p;
        tdm_jbuf_add(x->run, &b, x->text + p, n);
        p += n;
    }
    push(x, TDM_JT_STR)->s = tdm_jbuf_done(x->run, &b);
    advance(x, end + 1);
}

static void lex_operator(lexer *x)
{
    static const struct { const char *text; tdm_jtoken_kind kind; } ops[] = {
        {"//", TDM_JT_FLOORDIV}, {"**", TDM_JT_POW}, {"==", TDM_JT_EQ}, {"!=", TDM_JT_NE}, {">=", TDM_JT_GE}, {"<=", TDM_JT_LE},
        {"+", TDM_JT_ADD}, {"-", TDM_JT_SUB}, {"/", TDM_JT_DIV}, {"*", TDM_JT_MUL}, {"%", TDM_JT_MOD}, {"~", TDM_JT_TILDE},
        {"[", TDM_JT_LBRACKET}, {"]", TDM_JT_RBRACKET}, {"(", TDM_JT_LPAREN}, {")", TDM_JT_RPAREN}, {"{", TDM_JT_LBRACE},
        {"}", TDM_JT_RBRACE}, {">", TDM_JT_GT}, {"<", TDM_JT_LT}, {"=", TDM_JT_ASSIGN}, {".", TDM_JT_DOT}, {":", TDM_JT_COLON},
        {"|", TDM_JT_PIPE}, {",", TDM_JT_COMMA}, {";", TDM_JT_SEMICOLON}};
    char message[64];
    for (size_t i = 0; i < TDM_COUNT(ops); i++) {
        if (!starts(x, x->pos, ops[i].text)) continue;
        const char c = x->text[x->pos];
        if (c == '(' || c == '[' || c == '{') x->open[x->open_count++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        if (c == ')' || c == ']' || c == '}') {
            if (!x->open_count || x->open[--x->open_count] != c) {
                snprintf(message, sizeof(message), "unexpected '%c'", c);
                fail(x, message);
            }
        }
        push(x, ops[i].kind);
        advance(x, x->pos + strlen(ops[i].text));
        return;
    }
    snprintf(message, sizeof(message), "unexpected character U+%04X in a tag", (unsigned)tdm_utf8_at(x->text + x->pos));
    fail(x, message);
}

static void lex_tag(lexer *x, const char *close)
{
    x->open_count = 0;
    while (x->pos < x->len) {
        const size_t end = x->open_count ? 0 : tag_end(x, x->pos, close);
        if (end) {
            push(x, close[0] == '%' ? TDM_JT_BLOCK_END : TDM_JT_VAR_END);
            advance(x, x->pos + end);
            return;
        }
        const size_t space = skip_space(x, x->pos);
        if (space > x->pos) {
            advance(x, space);
            continue;
        }
        int base = 10;
        size_t n = 0;
        const char c = x->text[x->pos];
        if (is_digit(c) && (n = float_len(x, x->pos)) > 0) {
            lex_float(x, n);
        } else if (is_digit(c)) {
            n = int_len(x, x->pos, &base);
            lex_int(x, n, base);
        } else if (tdm_unicode_word(tdm_utf8_at(x->text + x->pos))) {
            while (x->pos + n < x->len && tdm_unicode_word(tdm_utf8_at(x->text + x->pos + n)))
                n += tdm_utf8_len(x->text + x->pos + n);
            push(x, TDM_JT_NAME)->s = tdm_jstr_new(x->run, x->text + x->pos, n);
            advance(x, x->pos + n);
        } else if (c == '\'' || c == '"') {
            lex_string(x);
        } else {
            lex_operator(x);
        }
    }
}

static void lex_root(lexer *x)
{
    while (x->pos < x->len) {
        size_t at = x->pos;
        while (at < x->len && !(x->text[at] == '{' && at + 1 < x->len && strchr("{%#", x->text[at + 1]) && x->text[at + 1])) at++;
        if (at >= x->len) {
            push_data(x, x->pos, x->len);
            return;
        }
        const char type = x->text[at + 1];
        size_t p = at + 2;
        const char sign = starts(x, p, "-") || starts(x, p, "+") ? x->text[p] : 0;
        p += sign != 0;
        push_data(x, x->pos, text_kept(x, x->pos, at, sign, type == '{'));
        const size_t raw = type == '%' ? raw_begin(x, p) : 0;
        advance(x, raw ? raw : p);
        if (raw) {
            lex_raw(x);
        } else if (type == '#') {
            lex_comment(x);
        } else {
            push(x, type == '%' ? TDM_JT_BLOCK_BEGIN : TDM_JT_VAR_BEGIN);
            lex_tag(x, type == '%' ? "%}" : "}}");
        }
    }
}

tdm_jtokens tdm_jlex(tdm_jrun *r, const char *text, size_t len)
{
    char *copy = tdm_jrun_alloc(r, len + 1);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r') {
            copy[n++] = '\n';
            i += i + 1 < len && text[i + 1] == '\n';
        } else {
            copy[n++] = text[i];
        }
    }
    if (n && copy[n - 1] == '\n') n--;
    lexer x = {.run = r, .text = copy, .len = n, .line = 1, .line_starting = true, .open = tdm_jrun_alloc(r, n + 1)};
    lex_root(&x);
    push(&x, TDM_JT_EOF);
    return x.tokens;
}
