/* Where the two languages part (oniguruma: doc/RE, doc/SYNTAX.md; pcre2pattern(3)):
 *   \s \w      PCRE2's sets are others (U+180E is a space to it, \w has no marks)      -> spelled out
 *   \p{L}      PCRE2's tables may be older than the reference's                        -> the missing code points added
 *   \p{Han}    PCRE2 means script extensions                                           -> \p{sc:Han} and the missing ones
 *   \h \H      hex digits in Ruby, blanks in PCRE2                                     -> spelled out
 *   ^ $        match at every line in Ruby                                             -> (?m:^) (?m:$)
 *   (?m)       the dot matches newlines                                                -> (?s)
 *   x{,n}      from none                                                               -> x{0,n}
 *   x{n,m}+    repeated in Ruby, possessive in PCRE2                                   -> (?:x{n,m})+ */
#include "runtime/text/regex_rewrite.h"

#include <stdio.h>
#include <string.h>

#include "runtime/text/unicode.h"

enum { GROUPS_MAX = 64 };

typedef struct rewriter {
    const char *in, *name;
    size_t len, at;
    tdm_text *out;
    tdm_error *err;
    size_t atom;               /* where the last atom starts in out; SIZE_MAX: no atom yet */
    size_t groups[GROUPS_MAX]; /* where each open group starts */
    int depth;
    bool in_class, class_negated;
} rewriter;

static tdm_status put(rewriter *r, const char *s) { return tdm_text_append(r->out, s, strlen(s), r->err); }

static tdm_status refuse(rewriter *r, const char *what)
{
    return TDM_FAIL(r->err, TDM_ERR_INPUT, r->name, "this tokenizer needs a regular expression that is not supported",
                    "%s at offset %zu of the pattern", what, r->at);
}

static tdm_status put_ranges(rewriter *r, const tdm_code_set *set)
{
    tdm_status st = TDM_OK;
    char item[48];
    for (size_t i = 0; i < set->count && st == TDM_OK; i++) {
        snprintf(item, sizeof item, "\\x{%X}-\\x{%X}", set->ranges[i][0], set->ranges[i][1]);
        st = put(r, item);
    }
    return st;
}

/* A set given by its members: bare in a class, [members] or [^members] outside. */
static tdm_status put_set(rewriter *r, bool negated, const char *members, const tdm_code_set *more)
{
    tdm_status st = TDM_OK;
    if (!r->in_class) TDM_TRY(st, put(r, negated ? "[^" : "["), done);
    TDM_TRY(st, put(r, members), done);
    if (more) TDM_TRY(st, put_ranges(r, more), done);
    if (!r->in_class) st = put(r, "]");
done:
    return st;
}

static const tdm_property *find_property(const char *s, size_t len)
{
    for (size_t i = 0; i < tdm_unicode_properties_count; i++)
        if (strlen(tdm_unicode_properties[i].name) == len && strncmp(tdm_unicode_properties[i].name, s, len) == 0)
            return &tdm_unicode_properties[i];
    return NULL;
}

/* at stands after \p or \P. */
static tdm_status property(rewriter *r, bool negated)
{
    const char *s = r->in + r->at;
    size_t left = r->len - r->at, n = 1;
    char member[80];
    if (left == 0) return refuse(r, "\\p without a name");
    if (*s == '{') {
        const char *close = memchr(s, '}', left);
        if (!close) return refuse(r, "\\p{ without }");
        s++;
        n = (size_t)(close - s);
        r->at += n + 2;
        if (n && *s == '^') {
            negated = !negated;
            s++;
            n--;
        }
    } else {
        if ((unsigned char)*s >= 0x80) return refuse(r, "\\p without a name");
        r->at++;
    }
    if (n == 0 || n > 60) return refuse(r, "a property name of odd length");
    const tdm_property *p = find_property(s, n);
    snprintf(member, sizeof member, "\\%c{%s%.*s}", negated && r->in_class ? 'P' : 'p', p && p->script ? "sc:" : "", (int)n, s);
    if (r->in_class || !p) {
        if (!r->in_class && negated) member[1] = 'P';
        return r->in_class ? put_set(r, false, member, p && !negated ? &p->added : NULL) : put(r, member);
    }
    if (p->added.count == 0) {
        member[1] = negated ? 'P' : 'p';
        return put(r, member);
    }
    return put_set(r, negated, member, &p->added);
}

/* Oniguruma's White_Space. */
static const char spaces[] = "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

/* Inside a class Oniguruma leaves the superscripts and fractions of Latin-1 out of \w, outside it does not. */
static tdm_status put_class_word(rewriter *r)
{
    tdm_status st = TDM_OK;
    for (size_t i = 0; i < tdm_codes_onig_word.count && st == TDM_OK; i++) {
        const uint32_t *range = tdm_codes_onig_word.ranges[i];
        if (range[1] < 0xb2 || range[0] > 0xbe) st = put_ranges(r, &(tdm_code_set){&tdm_codes_onig_word.ranges[i], 1});
        else if (range[0] <= 0xb5 && range[1] >= 0xb5) st = put(r, "\\x{b5}");
        else if (range[0] <= 0xba && range[1] >= 0xba) st = put(r, "\\x{ba}");
    }
    return st;
}

/* at stands on a backslash. */
static tdm_status escape(rewriter *r)
{
    char c = r->at + 1 < r->len ? r->in[r->at + 1] : 0;
    char two[3] = {'\\', c, 0};
    r->at += 2;
    switch (c) {
    case 0: return refuse(r, "a backslash at the end");
    case 's': return put_set(r, false, spaces, NULL);
    case 'S': return r->in_class ? put(r, "\\S\\x{180e}") : put_set(r, true, spaces, NULL);
    case 'w': return r->in_class ? put_class_word(r) : put_set(r, false, "", &tdm_codes_onig_word);
    case 'W': return r->in_class ? refuse(r, "\\W inside a class") : put_set(r, true, "", &tdm_codes_onig_word);
    case 'h': return put_set(r, false, "0-9a-fA-F", NULL);
    case 'H': return r->in_class ? refuse(r, "\\H inside a class") : put_set(r, true, "0-9a-fA-F", NULL);
    case 'd': return put_set(r, false, "\\p{Nd}", &find_property("Nd", 2)->added);
    case 'D': return r->in_class ? put(r, "\\D") : put_set(r, true, "\\p{Nd}", &find_property("Nd", 2)->added);
    case 'p': return property(r, false);
    case 'P': return property(r, true);
    case 'R': case 'X': case 'G': case 'K': case 'k': case 'g': case 'y': case 'Y': case 'O': case 'N': case 'C': case 'M':
    case 'Q': case 'E': case 'b': case 'B': return r->in_class && c == 'b' ? put(r, two) : refuse(r, "an unsupported escape");
    default: break;
    }
    if ((unsigned char)c < 0x80) return put(r, two);
    size_t n = 1; /* a character of several bytes stands for itself, with or without the backslash */
    (void)tdm_utf8_get(r->in + r->at - 1, &n);
    r->at += n - 1;
    return tdm_text_append(r->out, r->in + r->at - n, n, r->err);
}

/* at stands after the bracket that opens a class. */
static tdm_status class_members(rewriter *r)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, put(r, "["), done);
    r->in_class = true;
    if (r->at < r->len && r->in[r->at] == '^') {
        TDM_TRY(st, put(r, "^"), done);
        r->at++;
    }
    for (bool first = true;; first = false) {
        if (r->at >= r->len) return refuse(r, "a class without ]");
        char c = r->in[r->at], one[2] = {c, 0};
        if (c == ']' && !first) break;
        if (c == '\\') {
            TDM_TRY(st, escape(r), done);
            continue;
        }
        if (c == '[' || c == ']') return refuse(r, "a bracket inside a class");
        if (c == '&' && r->at + 1 < r->len && r->in[r->at + 1] == '&') return refuse(r, "&& inside a class");
        if (c == 0) TDM_TRY(st, put(r, "\\x00"), done);
        else TDM_TRY(st, put(r, one), done);
        r->at++;
    }
    r->at++;
    r->in_class = false;
    st = put(r, "]");
done:
    return st;
}

/* at stands on a brace; braces that are not a count are literal in both languages. */
static tdm_status count(rewriter *r)
{
    size_t i = r->at + 1, low = i, comma = 0;
    while (i < r->len && ((r->in[i] >= '0' && r->in[i] <= '9') || (r->in[i] == ',' && !comma))) {
        if (r->in[i] == ',') comma = i;
        i++;
    }
    bool digits = i > low + (comma ? 1u : 0u);
    if (i >= r->len || r->in[i] != '}' || !digits || r->atom == SIZE_MAX) {
        r->at++;
        return put(r, "\\{");
    }
    tdm_status st = TDM_OK;
    TDM_TRY(st, put(r, comma == low && comma ? "{0" : "{"), done);
    TDM_TRY(st, tdm_text_append(r->out, r->in + low, i - low + 1, r->err), done);
    r->at = i + 1;
    if (r->at < r->len && r->in[r->at] == '+') { /* close the counted atom into a group, so that + repeats it */
        size_t tail = r->out->len - r->atom;
        TDM_TRY(st, put(r, "(?:)"), done); /* room for what is moved in */
        memmove(r->out->data + r->atom + 3, r->out->data + r->atom, tail);
        memcpy(r->out->data + r->atom, "(?:", 3);
        r->out->data[r->out->len - 1] = ')';
    }
done:
    return st;
}

/* at stands after an opening parenthesis: copies "?...:" and the like. */
static tdm_status group_head(rewriter *r)
{
    tdm_status st = TDM_OK;
    if (r->depth == GROUPS_MAX) return refuse(r, "groups nested too deep");
    r->groups[r->depth++] = r->out->len;
    TDM_TRY(st, put(r, "("), done);
    if (r->at < r->len && r->in[r->at] == '*') return refuse(r, "a callout");
    if (r->at >= r->len || r->in[r->at] != '?') return st;
    r->at++;
    TDM_TRY(st, put(r, "?"), done);
    char c = r->at < r->len ? r->in[r->at] : 0;
    if (c == '#' || c == '~' || c == '(' || c == '{' || c == 'P' || c == 'R' || c == '|') return refuse(r, "an unsupported group");
    while (r->at < r->len && (r->in[r->at] == 'i' || r->in[r->at] == 'm' || r->in[r->at] == 'x' || r->in[r->at] == '-')) {
        char one[2] = {r->in[r->at] == 'm' ? 's' : r->in[r->at], 0};
        TDM_TRY(st, put(r, one), done);
        r->at++;
    }
    if (r->at < r->len && strchr(":=!><)", r->in[r->at]) == NULL) return refuse(r, "an unsupported group");
    if (r->at < r->len && r->in[r->at] == ')') return refuse(r, "options that are not limited to a group");
    while (r->at < r->len && strchr(":=!><", r->in[r->at])) {
        char one[2] = {r->in[r->at], 0};
        TDM_TRY(st, put(r, one), done);
        r->at++;
        if (one[0] != '<') break;
    }
done:
    return st;
}

static tdm_status one_item(rewriter *r)
{
    char c = r->in[r->at], one[2] = {c, 0};
    size_t start = r->out->len;
    tdm_status st = TDM_OK;
    switch (c) {
    case '\\':
        r->atom = start;
        return escape(r);
    case '[':
        r->at++;
        r->atom = start;
        return class_members(r);
    case '{': return count(r);
    case '(':
        r->at++;
        TDM_TRY(st, group_head(r), done);
        r->atom = SIZE_MAX;
        return st;
    case ')':
        r->at++;
        if (r->depth == 0) return refuse(r, "an unmatched parenthesis");
        r->atom = r->groups[--r->depth];
        return put(r, ")");
    case '^':
        r->at++;
        return put(r, "(?m:^)");
    case '$':
        r->at++;
        return put(r, "(?m:$)");
    case '*': case '+': case '?':
        r->at++;
        return put(r, one);
    case '|':
        r->at++;
        r->atom = SIZE_MAX;
        return put(r, one);
    case 0:
        r->at++;
        r->atom = start;
        return put(r, "\\x00");
    default: { /* one character, so that a count after it wraps all its bytes */
        size_t n = 1;
        if ((unsigned char)c >= 0x80) (void)tdm_utf8_get(r->in + r->at, &n);
        r->atom = start;
        st = tdm_text_append(r->out, r->in + r->at, n, r->err);
        r->at += n;
        return st;
    }
    }
done:
    return st;
}

tdm_status tdm_regex_rewrite(const char *pattern, size_t len, const char *name, tdm_text *out, tdm_error *err)
{
    rewriter r = {.in = pattern, .name = name, .len = len, .out = out, .err = err, .atom = SIZE_MAX};
    tdm_status st = TDM_OK;
    if (tdm_utf8_valid(pattern, len) != len)
        return TDM_FAIL(err, TDM_ERR_INPUT, name, "is the file damaged?", "a regular expression is not UTF-8");
    while (r.at < len) TDM_TRY(st, one_item(&r), done);
    st = tdm_text_append(out, "", 0, err); /* an empty pattern is a pattern */
done:
    return st;
}
