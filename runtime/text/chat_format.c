/* "..." % value and "...".format(...): Python's two small languages for text from values. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/text/chat_internal.h"

enum { MAX_DIGITS = 4096, MAX_WIDTH = 1 << 20 }; /* a template has no need for more */

typedef struct spec {
    const char *fill; /* one character of UTF-8 */
    char align;       /* '<' '>' '^' '=' or 0 */
    char sign;        /* '+', ' ' or '-' */
    char group;       /* ',' '_' or 0 */
    char type;
    bool alternate, zero;
    int64_t width, precision; /* precision -1: none */
} spec;

static void put_padding(tdm_jrun *r, tdm_jbuf *b, const char *fill, int64_t n)
{
    for (; n > 0; n--) {
        tdm_jrun_charge(r, 1);
        tdm_jbuf_add(r, b, fill, tdm_utf8_len(fill));
    }
}

static void put_aligned(tdm_jrun *r, tdm_jbuf *b, const spec *s, const char *head, const tdm_jstr *text, char natural)
{
    const int64_t pad = s->width - (int64_t)strlen(head) - tdm_utf8_count(text->data, text->len);
    const char align = s->align ? s->align : natural;
    const int64_t before = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    put_padding(r, b, s->fill, before);
    tdm_jbuf_text(r, b, head);
    if (align == '=') put_padding(r, b, s->fill, pad);
    tdm_jbuf_add(r, b, text->data, text->len);
    if (align != '=') put_padding(r, b, s->fill, pad - before);
}

/* Separators between groups of digits of the whole part; zeros in front up to `least` characters when they are filled in too. */
static const tdm_jstr *grouped(tdm_jrun *r, const char *digits, char group, int every, int64_t least)
{
    tdm_jbuf b = {0};
    int64_t whole = 0;
    while ((digits[whole] >= '0' && digits[whole] <= '9') || (every == 4 && digits[whole] >= 'A' && (digits[whole] | 32) <= 'f')) whole++;
    const int64_t rest = (int64_t)strlen(digits) - whole;
    int64_t places = tdm_max_i64(whole, 1);
    while (least && places + (group ? (places - 1) / every : 0) + rest < least) places++;
    for (int64_t i = places; i > 0; i--) {
        tdm_jbuf_add(r, &b, i > whole ? "0" : &digits[whole - i], 1);
        if (group && i > 1 && (i - 1) % every == 0) tdm_jbuf_add(r, &b, &group, 1);
    }
    tdm_jbuf_text(r, &b, digits + whole);
    return tdm_jbuf_done(r, &b);
}

static void put_number(tdm_jrun *r, tdm_jbuf *b, const spec *s, bool negative, const char *prefix, const char *digits, int every)
{
    char head[8];
    const char sign = negative ? '-' : s->sign == '+' || s->sign == ' ' ? s->sign : 0;
    snprintf(head, sizeof(head), "%.*s%s", sign != 0, &sign, prefix);
    const bool zeros = s->align == '=' && s->fill[0] == '0' && digits[0] >= '0' && digits[0] <= '9';
    const int64_t least = zeros ? s->width - (int64_t)strlen(head) : 0;
    put_aligned(r, b, s, head, s->group || zeros ? grouped(r, digits, s->group, every, least) : tdm_jstr_lend(r, digits, strlen(digits)), '>');
}

static void int_digits(uint64_t v, unsigned base, bool upper, char out[72])
{
    char reversed[72];
    int n = 0;
    do reversed[n++] = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[v % base];
    while ((v /= base) != 0);
    for (int i = 0; i < n; i++) out[i] = reversed[n - 1 - i];
    out[n] = 0;
}

static void put_int(tdm_jrun *r, tdm_jbuf *b, const spec *s, int64_t v)
{
    char digits[72];
    const char low = (char)(s->type | 32);
    const unsigned base = low == 'x' ? 16 : low == 'o' ? 8 : low == 'b' ? 2 : 10;
    const char prefix[3] = {'0', s->type, 0};
    int_digits(v < 0 ? 0 - (uint64_t)v : (uint64_t)v, base, s->type == 'X', digits);
    char *text = digits;
    if (s->precision > (int64_t)strlen(digits)) { /* of %: zeros in front */
        text = tdm_jrun_alloc(r, (size_t)s->precision + 1);
        memset(text, '0', (size_t)s->precision);
        memcpy(text + s->precision - strlen(digits), digits, strlen(digits));
    }
    put_number(r, b, s, v < 0, s->alternate && base != 10 ? prefix : "", text, base == 10 ? 3 : 4);
}

/* Without a type: repr, or with a precision like g but with a point. */
static void plain_float(char *text, size_t room, double f, int64_t precision)
{
    char repr[32];
    if (precision < 0) {
        tdm_float_repr(repr, f);
        snprintf(text, room, "%s", repr);
        return;
    }
    const int p = precision ? (int)precision : 1;
    snprintf(text, room, "%.*e", p - 1, f);
    const int exponent = atoi(strchr(text, 'e') + 1);
    if (exponent >= p - 1 && exponent >= -4) { /* one digit earlier than g: the point needs room */
        char *e = strchr(text, 'e'), tail[16];
        snprintf(tail, sizeof(tail), "%s", e);
        if (memchr(text, '.', (size_t)(e - text)))
            while (e[-1] == '0' || e[-1] == '.')
                if (*--e == '.') break;
        snprintf(e, room - (size_t)(e - text), "%s", tail);
        return;
    }
    snprintf(text, room, "%.*g", p, f);
    if (!strpbrk(text, ".e")) strcat(text, ".0");
}

static void put_float(tdm_jrun *r, tdm_jbuf *b, const spec *s, double f)
{
    char kind[8];
    const bool percent = s->type == '%';
    if (percent) f *= 100;
    const bool negative = signbit(f) && !isnan(f);
    const size_t room = 512 + (size_t)(s->precision < 0 ? 0 : s->precision);
    char *text = tdm_jrun_alloc(r, room);
    snprintf(kind, sizeof(kind), s->alternate ? "%%#.*%c" : "%%.*%c", percent || s->type == 'F' ? 'f' : s->type == 'n' ? 'g' : s->type);
    if (!isfinite(f)) snprintf(text, room, "%s", isnan(f) ? "nan" : "inf");
    else if (!s->type) plain_float(text, room, fabs(f), s->precision);
    else {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, room, kind, s->precision < 0 ? 6 : (int)s->precision, fabs(f)); /* kind: put together above from one letter */
#pragma GCC diagnostic pop
    }
    if (!isfinite(f) && s->type >= 'A' && s->type <= 'Z')
        for (char *p = text; *p; p++) *p = (char)(*p - 32);
    if (percent) strcat(text, "%");
    put_number(r, b, s, negative, "", text, 3);
}

static void put_char(tdm_jrun *r, tdm_jbuf *b, const spec *s, int64_t c)
{
    char utf8[4];
    if (c < 0 || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) tdm_jrun_fail(r, NULL, "%%c needs a Unicode character");
    put_aligned(r, b, s, "", tdm_jstr_new(r, utf8, tdm_utf8_put(utf8, (uint32_t)c)), '<');
}

static void put_text(tdm_jrun *r, tdm_jbuf *b, const spec *s, const tdm_jstr *text, char natural)
{
    size_t n = text->len;
    if (s->precision >= 0) n = tdm_utf8_offset(text->data, text->len, s->precision);
    put_aligned(r, b, s, "", tdm_jstr_lend(r, text->data, n), natural);
}

/* ---- % ------------------------------------------------------------------------------------------------------------------------ */

typedef struct percent {
    tdm_jrun *run;
    const tdm_jstr *format;
    size_t at;
    tdm_jval value;
    int64_t used; /* positional values read */
} percent;

static char here(const percent *p) { return p->at < p->format->len ? p->format->data[p->at] : 0; }

static tdm_jval next_value(percent *p)
{
    const bool tuple = p->value.kind == TDM_J_TUPLE;
    const int64_t count = tuple ? p->value.u.list->count : 1;
    if (p->used >= count) tdm_jrun_fail(p->run, NULL, "not enough arguments for format string");
    return tuple ? p->value.u.list->at[p->used++] : (p->used++, p->value);
}

static int64_t read_number(percent *p, int64_t most)
{
    int64_t n = 0;
    if (here(p) == '*') {
        p->at++;
        const tdm_jval v = next_value(p);
        if (!tdm_jval_is_int(v)) tdm_jrun_fail(p->run, NULL, "* wants int");
        n = tdm_jval_int(v);
    } else {
        while (here(p) >= '0' && here(p) <= '9') {
            n = n * 10 + (here(p) - '0');
            p->at++;
            if (n > most) break;
        }
    }
    if (n > most || n < -most) tdm_jrun_fail(p->run, NULL, "a width or precision of a format is past %lld", (long long)most);
    return n;
}

/* "(key)" after the %; the value it names. */
static bool read_key(percent *p, tdm_jval *v)
{
    if (here(p) != '(') return false;
    size_t end = p->at + 1;
    for (int depth = 1; depth > 0; end++) {
        if (end >= p->format->len) tdm_jrun_fail(p->run, NULL, "incomplete format key");
        depth += p->format->data[end] == '(' ? 1 : p->format->data[end] == ')' ? -1 : 0;
    }
    if (p->value.kind != TDM_J_DICT) tdm_jrun_fail(p->run, NULL, "format requires a mapping");
    const tdm_jstr *key = tdm_jstr_lend(p->run, p->format->data + p->at + 1, end - p->at - 2);
    const tdm_jval *found = tdm_jdict_find_str(p->run, p->value.u.dict, key);
    if (!found) tdm_jrun_fail(p->run, NULL, "format: there is no key '%s'", tdm_jstr_c(p->run, key));
    *v = *found;
    p->at = end;
    return true;
}

static spec read_percent_spec(percent *p)
{
    spec s = {.fill = " ", .precision = -1};
    bool left = false;
    for (;; p->at++) {
        const char c = here(p);
        if (c == '-') left = true;
        else if (c == '+') s.sign = '+';
        else if (c == ' ') s.sign = s.sign ? s.sign : ' ';
        else if (c == '#') s.alternate = true;
        else if (c == '0') s.zero = true;
        else break;
    }
    s.width = read_number(p, MAX_WIDTH);
    if (s.width < 0) {
        left = true;
        s.width = -s.width;
    }
    if (here(p) == '.') {
        p->at++;
        s.precision = tdm_max_i64(read_number(p, MAX_DIGITS), 0);
    }
    while (here(p) == 'h' || here(p) == 'l' || here(p) == 'L') p->at++;
    if (p->at >= p->format->len) tdm_jrun_fail(p->run, NULL, "incomplete format");
    s.type = p->format->data[p->at++];
    s.align = left ? '<' : 0;
    return s;
}

static void put_percent_number(percent *p, tdm_jbuf *b, spec *s, tdm_jval v)
{
    tdm_jrun *r = p->run;
    const bool whole = strchr("diuoxX", s->type) != NULL;
    if (!tdm_jval_is_number(v)) tdm_jrun_fail(r, NULL, "%%%c format: a real number is required, not %s", s->type, tdm_jval_type(v));
    if (s->zero && !s->align) {
        s->align = '=';
        s->fill = "0";
    }
    if (!whole) {
        put_float(r, b, s, tdm_jval_double(v));
        return;
    }
    if (v.kind == TDM_J_FLOAT) {
        if (strchr("oxX", s->type)) tdm_jrun_fail(r, NULL, "%%%c format: an integer is required, not float", s->type);
        if (!(v.u.f > -0x1p63 && v.u.f < 0x1p63)) tdm_jrun_fail(r, NULL, "an integer is past 64 bits");
        v = tdm_jv_int((int64_t)v.u.f);
    }
    put_int(r, b, s, tdm_jval_int(v));
}

static void put_percent(percent *p, tdm_jbuf *b)
{
    tdm_jval v = {0};
    const bool keyed = read_key(p, &v);
    spec s = read_percent_spec(p);
    if (s.type == '%') {
        tdm_jbuf_text(p->run, b, "%");
        return;
    }
    if (!strchr("srcdiuoxXeEfFgG", s.type) || !s.type) tdm_jrun_fail(p->run, NULL, "unsupported format character at index %zu", p->at - 1);
    if (!keyed) v = next_value(p);
    if (s.type == 's' || s.type == 'r') {
        tdm_jbuf text = {0};
        if (s.type == 's') tdm_jbuf_str(p->run, &text, v);
        else tdm_jbuf_repr(p->run, &text, v);
        put_text(p->run, b, &s, tdm_jbuf_done(p->run, &text), '>');
    } else if (s.type == 'c') {
        const bool one = v.kind == TDM_J_STR && v.u.s->len && tdm_utf8_len(v.u.s->data) == v.u.s->len;
        if (!one && !tdm_jval_is_int(v)) tdm_jrun_fail(p->run, NULL, "%%c requires int or char");
        if (!s.align) s.align = '>';
        put_char(p->run, b, &s, one ? (int64_t)tdm_utf8_at(v.u.s->data) : tdm_jval_int(v));
    } else {
        put_percent_number(p, b, &s, v);
    }
}

tdm_jval tdm_jformat_percent(tdm_jrun *r, const tdm_jstr *format, tdm_jval value)
{
    tdm_jbuf b = {0};
    percent p = {.run = r, .format = format, .value = value};
    while (p.at < format->len) {
        const char *at = format->data + p.at, *next = memchr(at, '%', format->len - p.at);
        const size_t n = next ? (size_t)(next - at) : format->len - p.at;
        tdm_jbuf_add(r, &b, at, n);
        p.at += n;
        if (!next) break;
        p.at++;
        tdm_jrun_charge(r, 1);
        put_percent(&p, &b);
    }
    /* what Python takes for a mapping need not be used up */
    const bool mapping = value.kind == TDM_J_DICT || value.kind == TDM_J_LIST || value.kind == TDM_J_RANGE || value.kind == TDM_J_UNDEFINED;
    if (!mapping && p.used < (value.kind == TDM_J_TUPLE ? value.u.list->count : 1))
        tdm_jrun_fail(r, NULL, "not all arguments converted during string formatting");
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}

/* ---- str.format --------------------------------------------------------------------------------------------------------------- */

static int64_t spec_number(tdm_jrun *r, const char **p, const char *end, int64_t most)
{
    int64_t n = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; (*p)++) {
        n = n * 10 + (**p - '0');
        if (n > most) tdm_jrun_fail(r, NULL, "a width or precision of a format is past %lld", (long long)most);
    }
    return n;
}

static bool is_align(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

/* [[fill]align][sign][#][0][width][group][.precision][type] */
static spec read_spec(tdm_jrun *r, const tdm_jstr *text)
{
    spec s = {.fill = " ", .precision = -1};
    const char *p = text->data, *end = p + text->len;
    const size_t first = p < end ? tdm_utf8_len(p) : 0;
    if (p + first < end && is_align(p[first])) {
        s.fill = p;
        s.align = p[first];
        p += first + 1;
    } else if (p < end && is_align(*p)) {
        s.align = *p++;
    }
    if (p < end && (*p == '+' || *p == '-' || *p == ' ')) s.sign = *p++;
    if (p < end && *p == '#') s.alternate = *p++ == '#';
    if (p < end && *p == '0') {
        s.zero = *p++ == '0';
        if (s.fill[0] == ' ' && !s.align) s.fill = "0";
    }
    s.width = spec_number(r, &p, end, MAX_WIDTH);
    if (p < end && (*p == ',' || *p == '_')) s.group = *p++;
    if (p < end && *p == '.') {
        const char *digits = ++p;
        s.precision = spec_number(r, &p, end, MAX_DIGITS);
        if (p == digits) tdm_jrun_fail(r, NULL, "format specifier missing precision");
    }
    if (p < end) s.type = *p++;
    if (p < end) tdm_jrun_fail(r, NULL, "invalid format specifier '%s'", tdm_jstr_c(r, text));
    return s;
}

static void format_value(tdm_jrun *r, tdm_jbuf *b, tdm_jval v, const tdm_jstr *text)
{
    if (!text->len) {
        tdm_jbuf_str(r, b, v);
        return;
    }
    spec s = read_spec(r, text);
    if (v.kind == TDM_J_STR) {
        if ((s.type && s.type != 's') || s.sign || s.alternate || s.group || s.align == '=')
            tdm_jrun_fail(r, NULL, "the format '%s' does not fit a string", tdm_jstr_c(r, text));
        put_text(r, b, &s, v.u.s, '<');
        return;
    }
    if (!tdm_jval_is_number(v)) tdm_jrun_fail(r, NULL, "unsupported format string passed to %s", tdm_jval_type(v));
    if (s.zero && !s.align) s.align = '=';
    const bool as_float = v.kind == TDM_J_FLOAT || (s.type && strchr("eEfFgG%", s.type));
    if (as_float ? s.type && !strchr("eEfFgGn%", s.type) : s.type && !strchr("bcdoxXn", s.type))
        tdm_jrun_fail(r, NULL, "unknown format code '%c' for object of type '%s'", s.type, tdm_jval_type(v));
    if (!as_float && s.precision >= 0) tdm_jrun_fail(r, NULL, "precision not allowed in integer format specifier");
    if (as_float) put_float(r, b, &s, tdm_jval_double(v));
    else if (s.type == 'c') put_char(r, b, &s, tdm_jval_int(v));
    else put_int(r, b, &s, tdm_jval_int(v));
}

typedef struct braces {
    tdm_jrun *run;
    const tdm_jargs *args;
    int64_t automatic; /* fields numbered so far */
    bool numbered;     /* a field gave its number itself */
} braces;

static tdm_jval positional(braces *f, int64_t at)
{
    if (at < 0 || at >= f->args->count) tdm_jrun_fail(f->run, NULL, "format: replacement index %lld out of range", (long long)at);
    return f->args->at[at];
}

static tdm_jval field_first(braces *f, const tdm_jstr *name)
{
    int64_t at = 0;
    const bool digits = name->len && name->data[0] >= '0' && name->data[0] <= '9';
    if (digits && tdm_int_parse(f->run, name, 10, &at)) {
        if (f->automatic) tdm_jrun_fail(f->run, NULL, "format: cannot switch from automatic field numbering to manual");
        f->numbered = true;
        return positional(f, at);
    }
    if (!name->len) {
        if (f->numbered) tdm_jrun_fail(f->run, NULL, "format: cannot switch from manual field specification to automatic");
        return positional(f, f->automatic++);
    }
    for (int64_t i = 0; i < f->args->kw_count; i++)
        if (tdm_jstr_eq(f->args->kw[i].name, name)) return f->args->kw[i].value;
    tdm_jrun_fail(f->run, NULL, "format: there is no argument '%s'", tdm_jstr_c(f->run, name));
}

/* "0.a[b]" */
static tdm_jval field_value(braces *f, const tdm_jstr *name)
{
    tdm_jrun *r = f->run;
    size_t at = 0;
    while (at < name->len && name->data[at] != '.' && name->data[at] != '[') at++;
    tdm_jval v = field_first(f, tdm_jstr_lend(r, name->data, at));
    while (at < name->len) {
        const bool item = name->data[at] == '[';
        size_t end = at + 1;
        if (!item && name->data[at] != '.') tdm_jrun_fail(r, NULL, "format: only '.' or '[' may follow ']'");
        while (end < name->len && (item ? name->data[end] != ']' : name->data[end] != '.' && name->data[end] != '[')) end++;
        const tdm_jstr *key = tdm_jstr_lend(r, name->data + at + 1, end - at - 1);
        int64_t number = 0;
        if (!key->len || (item && end >= name->len)) tdm_jrun_fail(r, NULL, "format: empty attribute or missing ']'");
        if (!item) v = tdm_jget_attr(r, v, key);
        else if (key->data[0] >= '0' && key->data[0] <= '9' && tdm_int_parse(r, key, 10, &number)) v = tdm_jget_item(r, v, tdm_jv_int(number));
        else v = tdm_jget_item(r, v, tdm_jv_str(key));
        at = end + item;
    }
    return v;
}

static const tdm_jstr *expand(braces *f, const tdm_jstr *s, int depth);

/* The field between `from` and `end`, without its braces: name[!conversion][:spec]. */
static void put_field(braces *f, tdm_jbuf *b, const tdm_jstr *s, size_t from, size_t end, int depth)
{
    tdm_jrun *r = f->run;
    size_t stop = from;
    bool subscript = false;
    while (stop < end && (subscript || (s->data[stop] != '!' && s->data[stop] != ':'))) {
        subscript = s->data[stop] == '[' || (subscript && s->data[stop] != ']');
        stop++;
    }
    tdm_jval v = field_value(f, tdm_jstr_lend(r, s->data + from, stop - from));
    if (stop < end && s->data[stop] == '!') {
        const char how = stop + 1 < end ? s->data[stop + 1] : 0;
        if ((how != 'r' && how != 's') || (stop + 2 < end && s->data[stop + 2] != ':')) tdm_jrun_fail(r, NULL, "format: unknown conversion");
        tdm_jbuf text = {0};
        if (how == 'r') tdm_jbuf_repr(r, &text, v);
        else tdm_jbuf_str(r, &text, v);
        v = tdm_jv_str(tdm_jbuf_done(r, &text));
        stop += 2;
    }
    const tdm_jstr *how = stop < end ? tdm_jstr_lend(r, s->data + stop + 1, end - stop - 1) : tdm_jstr_lend(r, "", 0);
    if (memchr(how->data, '{', how->len)) how = expand(f, how, depth + 1);
    format_value(r, b, v, how);
}

static const tdm_jstr *expand(braces *f, const tdm_jstr *s, int depth)
{
    tdm_jrun *r = f->run;
    tdm_jbuf b = {0};
    if (depth > 1) tdm_jrun_fail(r, NULL, "format: max string recursion exceeded");
    for (size_t i = 0; i < s->len;) {
        const char c = s->data[i];
        tdm_jrun_charge(r, 1);
        if (c != '{' && c != '}') {
            tdm_jbuf_add(r, &b, &c, 1);
            i++;
            continue;
        }
        if (i + 1 < s->len && s->data[i + 1] == c) {
            tdm_jbuf_add(r, &b, &c, 1);
            i += 2;
            continue;
        }
        if (c == '}') tdm_jrun_fail(r, NULL, "format: single '}' encountered in format string");
        size_t end = i + 1;
        for (int open = 1; end < s->len; end++) {
            open += s->data[end] == '{' ? 1 : s->data[end] == '}' ? -1 : 0;
            if (!open) break;
        }
        if (end >= s->len) tdm_jrun_fail(r, NULL, "format: single '{' encountered in format string");
        put_field(f, &b, s, i + 1, end, depth);
        i = end + 1;
    }
    return tdm_jbuf_done(r, &b);
}

tdm_jval tdm_jformat_braces(tdm_jrun *r, const tdm_jstr *format, const tdm_jargs *args)
{
    braces f = {.run = r, .args = args};
    return tdm_jv_str(expand(&f, format, 0));
}
