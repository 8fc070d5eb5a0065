/* Methods of str, as Python has them, by characters and not bytes. */
#include "runtime/text/chat_internal.h"

/* ---- shared with the filters ------------------------------------------------------------------------------------------------ */

tdm_jval tdm_jv_like(tdm_jrun *r, const tdm_jstr *s, const tdm_jstr *like)
{
    if (s->markup == like->markup) return tdm_jv_str(s);
    tdm_jstr *copy = tdm_jrun_alloc(r, sizeof(*copy));
    *copy = *s;
    copy->markup = like->markup;
    return tdm_jv_str(copy);
}

static bool strips(uint32_t c, const tdm_jstr *chars)
{
    if (!chars) return tdm_unicode_space(c);
    for (size_t i = 0; i < chars->len; i += tdm_utf8_len(chars->data + i))
        if (tdm_utf8_at(chars->data + i) == c) return true;
    return false;
}

static size_t char_before(const tdm_jstr *s, size_t end)
{
    do end--;
    while (end > 0 && ((unsigned char)s->data[end] & 0xC0) == 0x80);
    return end;
}

const tdm_jstr *tdm_jstr_strip(tdm_jrun *r, const tdm_jstr *s, const tdm_jstr *chars, int sides)
{
    size_t from = 0, end = s->len;
    const int64_t each = chars ? 1 + (int64_t)(chars->len / 16) : 1;
    if (sides & 1)
        for (; from < end && strips(tdm_utf8_at(s->data + from), chars); from += tdm_utf8_len(s->data + from)) tdm_jrun_charge(r, each);
    if (sides & 2)
        while (end > from) {
            const size_t at = char_before(s, end);
            if (!strips(tdm_utf8_at(s->data + at), chars)) break;
            tdm_jrun_charge(r, each);
            end = at;
        }
    return from == 0 && end == s->len ? s : tdm_jstr_lend(r, s->data + from, end - from);
}

tdm_jval tdm_jstr_split_lines(tdm_jrun *r, const tdm_jstr *s, bool keep_ends)
{
    tdm_jlist *l = tdm_jlist_new(r, 0);
    size_t from = 0;
    tdm_jrun_charge(r, (int64_t)(s->len / 16));
    for (size_t i = 0; i < s->len;) {
        const uint32_t c = tdm_utf8_at(s->data + i);
        size_t next = i + tdm_utf8_len(s->data + i);
        if (tdm_unicode_line_end(c)) {
            if (c == '\r' && next < s->len && s->data[next] == '\n') next++;
            tdm_jlist_push(r, l, tdm_jv_str(tdm_jstr_lend(r, s->data + from, (keep_ends ? next : i) - from)));
            from = next;
        }
        i = next;
    }
    if (from < s->len) tdm_jlist_push(r, l, tdm_jv_str(tdm_jstr_lend(r, s->data + from, s->len - from)));
    return tdm_jv_list(l);
}

/* Where `what` stands in s at or after `from`; SIZE_MAX: nowhere. */
static size_t find_from(tdm_jrun *r, const tdm_jstr *s, size_t from, const tdm_jstr *what)
{
    if (!what->len) return from;
    const char *at = from < s->len ? memmem(s->data + from, s->len - from, what->data, what->len) : NULL;
    tdm_jrun_charge(r, (int64_t)(((at ? (size_t)(at - s->data) : s->len) - from) / 64) + 1);
    return at ? (size_t)(at - s->data) : SIZE_MAX;
}

static size_t find_last(tdm_jrun *r, const tdm_jstr *s, size_t end, const tdm_jstr *what)
{
    if (what->len > end) return SIZE_MAX;
    for (size_t at = end - what->len;; at--) {
        if (memcmp(s->data + at, what->data, what->len) == 0) return at;
        tdm_jrun_charge(r, 1);
        if (at == 0) return SIZE_MAX;
    }
}

const tdm_jstr *tdm_jstr_replace(tdm_jrun *r, const tdm_jstr *s, const tdm_jstr *from, const tdm_jstr *to, int64_t max)
{
    tdm_jbuf b = {0};
    size_t at = 0;
    if (max < 0) max = INT64_MAX;
    for (int64_t done = 0; done < max; done++) {
        const size_t hit = find_from(r, s, at, from);
        if (hit == SIZE_MAX) break;
        tdm_jbuf_add(r, &b, s->data + at, hit - at);
        tdm_jbuf_add(r, &b, to->data, to->len);
        at = hit + from->len;
        if (from->len) continue;
        if (at >= s->len) return tdm_jbuf_done(r, &b); /* an empty `from` stands between all characters and at both ends */
        const size_t n = tdm_utf8_len(s->data + at);
        tdm_jbuf_add(r, &b, s->data + at, n);
        at += n;
    }
    tdm_jbuf_add(r, &b, s->data + at, s->len - at);
    return tdm_jbuf_done(r, &b);
}

bool tdm_jstr_is_case(const tdm_jstr *s, bool (*wanted)(uint32_t))
{
    bool any = false;
    for (size_t i = 0; i < s->len; i += tdm_utf8_len(s->data + i)) {
        const uint32_t c = tdm_utf8_at(s->data + i);
        if (wanted(c)) any = true;
        else if (tdm_unicode_upper(c) || tdm_unicode_lower(c) || tdm_unicode_title(c)) return false;
    }
    return any;
}

tdm_jval tdm_jstr_center(tdm_jrun *r, const tdm_jstr *s, int64_t width, const char *fill, int sides)
{
    const int64_t n = tdm_utf8_count(s->data, s->len), pad = width > n ? width - n : 0;
    const int64_t left = sides == 3 ? pad / 2 + (pad & width & 1) : sides == 1 ? pad : 0;
    tdm_jbuf b = {0};
    if (!pad) return tdm_jv_str(s);
    if (pad > TDM_CHAT_MAX_OUTPUT_BYTES) tdm_jrun_fail(r, NULL, "a padded string takes more than %u MiB", TDM_CHAT_MAX_OUTPUT_BYTES >> 20);
    tdm_jrun_charge(r, pad / 16);
    for (int64_t i = 0; i < left; i++) tdm_jbuf_add(r, &b, fill, tdm_utf8_len(fill));
    tdm_jbuf_add(r, &b, s->data, s->len);
    for (int64_t i = left; i < pad; i++) tdm_jbuf_add(r, &b, fill, tdm_utf8_len(fill));
    return tdm_jv_like(r, tdm_jbuf_done(r, &b), s);
}

/* ---- arguments ------------------------------------------------------------------------------------------------------------- */

static const tdm_jstr *str_of(tdm_jrun *r, tdm_jval v, const char *what)
{
    if (v.kind != TDM_J_STR) tdm_jrun_fail(r, NULL, "%s expects a string, not %s", what, tdm_jval_type(v));
    return v.u.s;
}

static int64_t int_of(tdm_jrun *r, tdm_jval v, const char *what, int64_t absent)
{
    if (v.kind == TDM_J_MISSING) return absent;
    if (!tdm_jval_is_int(v)) tdm_jrun_fail(r, NULL, "%s expects an integer, not %s", what, tdm_jval_type(v));
    return tdm_jval_int(v);
}

static void no_args(tdm_jrun *r, const tdm_jargs *args, const char *what)
{
    if (args->count || args->kw_count) tdm_jrun_fail(r, NULL, "%s takes no arguments", what);
}

/* The bytes [from, end) that start and stop (of find, startswith, ...) leave of s; false: start is past its end. */
static bool window(tdm_jrun *r, const tdm_jstr *s, tdm_jval start, tdm_jval stop, const char *what, size_t *from, size_t *end)
{
    const int64_t n = tdm_utf8_count(s->data, s->len);
    int64_t a = start.kind == TDM_J_NONE ? 0 : int_of(r, start, what, 0), b = stop.kind == TDM_J_NONE ? n : int_of(r, stop, what, n);
    tdm_jrun_charge(r, (int64_t)(s->len / 64));
    if (a < 0) a = a < -n ? 0 : a + n;
    if (b < 0) b = b < -n ? 0 : b + n;
    b = tdm_min_i64(b, n);
    if (a > b) return false;
    *from = tdm_utf8_offset(s->data, s->len, a);
    *end = *from + tdm_utf8_offset(s->data + *from, s->len - *from, b - a);
    return true;
}

/* ---- strip, case, pad ------------------------------------------------------------------------------------------------------ */

static tdm_jval strip(tdm_jrun *r, tdm_jval self, const tdm_jargs *args, const char *what, int sides)
{
    tdm_jval chars;
    tdm_jargs_bind(r, args, what, "/ chars", 0, &chars);
    const bool space = chars.kind == TDM_J_MISSING || chars.kind == TDM_J_NONE;
    return tdm_jv_like(r, tdm_jstr_strip(r, self.u.s, space ? NULL : str_of(r, chars, what), sides), self.u.s);
}

static tdm_jval m_strip(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return strip(r, self, args, "strip", 3); }
static tdm_jval m_lstrip(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return strip(r, self, args, "lstrip", 1); }
static tdm_jval m_rstrip(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return strip(r, self, args, "rstrip", 2); }

static tdm_jval change_case(tdm_jrun *r, tdm_jval self, const tdm_jargs *args, const char *what, tdm_jcase how)
{
    no_args(r, args, what);
    return tdm_jv_like(r, tdm_jstr_case(r, self.u.s, how), self.u.s);
}

static tdm_jval m_upper(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return change_case(r, self, args, "upper", TDM_JCASE_UPPER); }
static tdm_jval m_lower(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return change_case(r, self, args, "lower", TDM_JCASE_LOWER); }
static tdm_jval m_title(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return change_case(r, self, args, "title", TDM_JCASE_TITLE); }
static tdm_jval m_capitalize(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return change_case(r, self, args, "capitalize", TDM_JCASE_CAPITALIZE); }
static tdm_jval m_swapcase(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return change_case(r, self, args, "swapcase", TDM_JCASE_SWAP); }
static tdm_jval m_casefold(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return change_case(r, self, args, "casefold", TDM_JCASE_FOLD); }

static tdm_jval pad(tdm_jrun *r, tdm_jval self, const tdm_jargs *args, const char *what, int sides)
{
    tdm_jval given[2];
    tdm_jargs_bind(r, args, what, "/ width fillchar", 1, given);
    const char *fill = " ";
    if (given[1].kind != TDM_J_MISSING) {
        const tdm_jstr *s = str_of(r, given[1], what);
        if (!s->len || tdm_utf8_len(s->data) != s->len) tdm_jrun_fail(r, NULL, "the fill character of %s is not one character long", what);
        fill = s->data;
    }
    return tdm_jstr_center(r, self.u.s, int_of(r, given[0], what, 0), fill, sides);
}

static tdm_jval m_center(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return pad(r, self, args, "center", 3); }
static tdm_jval m_ljust(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return pad(r, self, args, "ljust", 2); }
static tdm_jval m_rjust(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return pad(r, self, args, "rjust", 1); }

static tdm_jval m_zfill(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval width;
    tdm_jargs_bind(r, args, "zfill", "/ width", 1, &width);
    const tdm_jstr *s = self.u.s;
    const bool sign = s->len && (s->data[0] == '+' || s->data[0] == '-');
    tdm_jbuf b = {0};
    tdm_jbuf_add(r, &b, s->data, sign);
    const tdm_jval rest = tdm_jstr_center(r, tdm_jstr_lend(r, s->data + sign, s->len - sign), tdm_max_i64(int_of(r, width, "zfill", 0), 0) - sign, "0", 1);
    tdm_jbuf_str(r, &b, rest);
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}

static tdm_jval m_expandtabs(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval given;
    tdm_jbuf b = {0};
    tdm_jargs_bind(r, args, "expandtabs", "tabsize", 0, &given);
    const int64_t size = int_of(r, given, "expandtabs", 8);
    int64_t column = 0;
    for (size_t i = 0; i < self.u.s->len;) {
        const char *p = self.u.s->data + i;
        const size_t n = tdm_utf8_len(p);
        i += n;
        tdm_jrun_charge(r, 1);
        if (*p == '\t') {
            if (size <= 0) continue;
            int64_t spaces = size - column % size;
            column += spaces;
            for (; spaces > 0; spaces--) {
                tdm_jrun_charge(r, 1);
                tdm_jbuf_add(r, &b, " ", 1);
            }
            continue;
        }
        column = *p == '\n' || *p == '\r' ? 0 : column + 1;
        tdm_jbuf_add(r, &b, p, n);
    }
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}

/* ---- split and join -------------------------------------------------------------------------------------------------------- */

static void push_part(tdm_jrun *r, tdm_jlist *l, const tdm_jstr *s, size_t from, size_t end)
{
    tdm_jlist_push(r, l, tdm_jv_str(tdm_jstr_lend(r, s->data + from, end - from)));
}

static void split_space(tdm_jrun *r, tdm_jlist *l, const tdm_jstr *s, int64_t max)
{
    const tdm_jstr *left = tdm_jstr_strip(r, s, NULL, 1);
    while (left->len) {
        size_t end = 0;
        if (l->count >= max) {
            push_part(r, l, left, 0, left->len);
            return;
        }
        while (end < left->len && !tdm_unicode_space(tdm_utf8_at(left->data + end))) end += tdm_utf8_len(left->data + end);
        tdm_jrun_charge(r, (int64_t)(end / 64) + 1);
        push_part(r, l, left, 0, end);
        left = tdm_jstr_strip(r, tdm_jstr_lend(r, left->data + end, left->len - end), NULL, 1);
    }
}

static void split_at(tdm_jrun *r, tdm_jlist *l, const tdm_jstr *s, const tdm_jstr *sep, int64_t max)
{
    size_t from = 0;
    while (l->count < max) {
        const size_t hit = find_from(r, s, from, sep);
        if (hit == SIZE_MAX) break;
        push_part(r, l, s, from, hit);
        from = hit + sep->len;
    }
    push_part(r, l, s, from, s->len);
}

static void rsplit_space(tdm_jrun *r, tdm_jlist *l, const tdm_jstr *s, int64_t max)
{
    const tdm_jstr *left = tdm_jstr_strip(r, s, NULL, 2);
    while (left->len) {
        size_t from = left->len;
        if (l->count >= max) {
            push_part(r, l, left, 0, left->len);
            return;
        }
        for (size_t at = from; at > 0; from = at) {
            at = char_before(left, from);
            if (tdm_unicode_space(tdm_utf8_at(left->data + at))) break;
        }
        tdm_jrun_charge(r, (int64_t)((left->len - from) / 64) + 1);
        push_part(r, l, left, from, left->len);
        left = tdm_jstr_strip(r, tdm_jstr_lend(r, left->data, from), NULL, 2);
    }
}

static void rsplit_at(tdm_jrun *r, tdm_jlist *l, const tdm_jstr *s, const tdm_jstr *sep, int64_t max)
{
    size_t end = s->len;
    while (l->count < max) {
        const size_t hit = find_last(r, s, end, sep);
        if (hit == SIZE_MAX) break;
        push_part(r, l, s, hit + sep->len, end);
        end = hit;
    }
    push_part(r, l, s, 0, end);
}

static tdm_jval split(tdm_jrun *r, tdm_jval self, const tdm_jargs *args, const char *what, bool right)
{
    tdm_jval given[2];
    tdm_jlist *l = tdm_jlist_new(r, 0);
    tdm_jargs_bind(r, args, what, "sep maxsplit", 0, given);
    int64_t max = int_of(r, given[1], what, -1);
    if (max < 0) max = INT64_MAX;
    if (given[0].kind == TDM_J_MISSING || given[0].kind == TDM_J_NONE) {
        (right ? rsplit_space : split_space)(r, l, self.u.s, max);
    } else {
        const tdm_jstr *sep = str_of(r, given[0], what);
        if (!sep->len) tdm_jrun_fail(r, NULL, "%s: empty separator", what);
        (right ? rsplit_at : split_at)(r, l, self.u.s, sep, max);
    }
    for (int64_t i = 0; right && i < l->count / 2; i++) {
        const tdm_jval v = l->at[i];
        l->at[i] = l->at[l->count - 1 - i];
        l->at[l->count - 1 - i] = v;
    }
    for (int64_t i = 0; self.u.s->markup && i < l->count; i++) l->at[i] = tdm_jv_like(r, l->at[i].u.s, self.u.s);
    return tdm_jv_list(l);
}

static tdm_jval m_split(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return split(r, self, args, "split", false); }
static tdm_jval m_rsplit(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return split(r, self, args, "rsplit", true); }

static tdm_jval m_splitlines(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval keep;
    tdm_jargs_bind(r, args, "splitlines", "keepends", 0, &keep);
    const tdm_jval l = tdm_jstr_split_lines(r, self.u.s, int_of(r, keep, "splitlines", 0) != 0);
    for (int64_t i = 0; self.u.s->markup && i < l.u.list->count; i++) l.u.list->at[i] = tdm_jv_like(r, l.u.list->at[i].u.s, self.u.s);
    return l;
}

static tdm_jval partition(tdm_jrun *r, tdm_jval self, const tdm_jargs *args, const char *what, bool right)
{
    tdm_jval given;
    tdm_jlist *l = tdm_jlist_new(r, 3);
    tdm_jargs_bind(r, args, what, "/ sep", 1, &given);
    const tdm_jstr *s = self.u.s, *sep = str_of(r, given, what);
    if (!sep->len) tdm_jrun_fail(r, NULL, "%s: empty separator", what);
    const size_t hit = right ? find_last(r, s, s->len, sep) : find_from(r, s, 0, sep);
    const bool found = hit != SIZE_MAX;
    if (found) push_part(r, l, s, 0, hit);
    else push_part(r, l, s, 0, right ? 0 : s->len);
    tdm_jlist_push(r, l, found ? tdm_jv_str(sep) : tdm_jv_text(r, ""));
    if (found) push_part(r, l, s, hit + sep->len, s->len);
    else push_part(r, l, s, right ? 0 : s->len, s->len);
    return tdm_jv_tuple(l);
}

static tdm_jval m_partition(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return partition(r, self, args, "partition", false); }
static tdm_jval m_rpartition(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return partition(r, self, args, "rpartition", true); }

static tdm_jval m_join(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval over;
    tdm_jbuf b = {0};
    tdm_jargs_bind(r, args, "join", "/ iterable", 1, &over);
    const tdm_jlist l = tdm_jval_iterate(r, over);
    for (int64_t i = 0; i < l.count; i++) {
        tdm_jrun_charge(r, 1);
        if (i) tdm_jbuf_add(r, &b, self.u.s->data, self.u.s->len);
        if (l.at[i].kind != TDM_J_STR)
            tdm_jrun_fail(r, NULL, "join: item %lld is %s and not a string", (long long)i, tdm_jval_type(l.at[i]));
        tdm_jbuf_add(r, &b, l.at[i].u.s->data, l.at[i].u.s->len);
    }
    return tdm_jv_str(tdm_jbuf_done(r, &b));
}

/* ---- find and replace ------------------------------------------------------------------------------------------------------ */

static tdm_jval search(tdm_jrun *r, tdm_jval self, const tdm_jargs *args, const char *what, bool last, bool must)
{
    tdm_jval given[3];
    size_t from = 0, end = 0, hit = SIZE_MAX;
    tdm_jargs_bind(r, args, what, "/ sub start end", 1, given);
    const tdm_jstr *s = self.u.s, *sub = str_of(r, given[0], what);
    if (window(r, s, given[1], given[2], what, &from, &end)) {
        const tdm_jstr part = {.data = s->data + from, .len = end - from};
        hit = last ? find_last(r, &part, part.len, sub) : find_from(r, &part, 0, sub);
    }
    if (hit == SIZE_MAX && must) tdm_jrun_fail(r, NULL, "%s: substring not found", what);
    return tdm_jv_int(hit == SIZE_MAX ? -1 : tdm_utf8_count(s->data, from + hit));
}

static tdm_jval m_find(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return search(r, self, args, "find", false, false); }
static tdm_jval m_rfind(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return search(r, self, args, "rfind", true, false); }
static tdm_jval m_index(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return search(r, self, args, "index", false, true); }
static tdm_jval m_rindex(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return search(r, self, args, "rindex", true, true); }

static tdm_jval m_count(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval given[3];
    size_t from = 0, end = 0;
    int64_t n = 0;
    tdm_jargs_bind(r, args, "count", "/ sub start end", 1, given);
    const tdm_jstr *sub = str_of(r, given[0], "count");
    if (!window(r, self.u.s, given[1], given[2], "count", &from, &end)) return tdm_jv_int(0);
    const tdm_jstr part = {.data = self.u.s->data + from, .len = end - from};
    if (!sub->len) return tdm_jv_int(tdm_utf8_count(part.data, part.len) + 1);
    for (size_t at = 0; (at = find_from(r, &part, at, sub)) != SIZE_MAX; at += sub->len) n++;
    return tdm_jv_int(n);
}

static tdm_jval affix(tdm_jrun *r, tdm_jval self, const tdm_jargs *args, const char *what, bool at_end)
{
    tdm_jval given[3];
    size_t from = 0, end = 0;
    tdm_jargs_bind(r, args, what, "/ prefix start end", 1, given);
    tdm_jlist one = {.at = &given[0], .count = 1};
    if (given[0].kind == TDM_J_TUPLE) one = *given[0].u.list;
    else str_of(r, given[0], what);
    if (!window(r, self.u.s, given[1], given[2], what, &from, &end)) return tdm_jv_bool(false);
    for (int64_t i = 0; i < one.count; i++) {
        const tdm_jstr *p = str_of(r, one.at[i], what);
        tdm_jrun_charge(r, 1);
        if (p->len <= end - from && memcmp(self.u.s->data + (at_end ? end - p->len : from), p->data, p->len) == 0) return tdm_jv_bool(true);
    }
    return tdm_jv_bool(false);
}

static tdm_jval m_startswith(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return affix(r, self, args, "startswith", false); }
static tdm_jval m_endswith(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return affix(r, self, args, "endswith", true); }

static tdm_jval m_removeprefix(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval given;
    tdm_jargs_bind(r, args, "removeprefix", "/ prefix", 1, &given);
    const tdm_jstr *s = self.u.s, *p = str_of(r, given, "removeprefix");
    if (p->len > s->len || memcmp(s->data, p->data, p->len) != 0) return self;
    return tdm_jv_str(tdm_jstr_lend(r, s->data + p->len, s->len - p->len));
}

static tdm_jval m_removesuffix(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval given;
    tdm_jargs_bind(r, args, "removesuffix", "/ suffix", 1, &given);
    const tdm_jstr *s = self.u.s, *p = str_of(r, given, "removesuffix");
    if (p->len > s->len || memcmp(s->data + s->len - p->len, p->data, p->len) != 0) return self;
    return tdm_jv_str(tdm_jstr_lend(r, s->data, s->len - p->len));
}

static tdm_jval m_replace(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    tdm_jval given[3];
    tdm_jargs_bind(r, args, "replace", "/ old new count", 2, given);
    const tdm_jstr *from = str_of(r, given[0], "replace"), *to = str_of(r, given[1], "replace");
    return tdm_jv_like(r, tdm_jstr_replace(r, self.u.s, from, to, int_of(r, given[2], "replace", -1)), self.u.s);
}

/* ---- questions ------------------------------------------------------------------------------------------------------------- */

/* Every character is; an empty string is not. */
static tdm_jval all(tdm_jrun *r, tdm_jval self, const tdm_jargs *args, const char *what, bool (*is)(uint32_t))
{
    no_args(r, args, what);
    tdm_jrun_charge(r, (int64_t)(self.u.s->len / 16));
    for (size_t i = 0; i < self.u.s->len; i += tdm_utf8_len(self.u.s->data + i))
        if (!is(tdm_utf8_at(self.u.s->data + i))) return tdm_jv_bool(false);
    return tdm_jv_bool(self.u.s->len > 0);
}

static bool alnum(uint32_t c) { return tdm_unicode_alpha(c) || tdm_unicode_numeric(c); }

static tdm_jval m_isalpha(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return all(r, self, args, "isalpha", tdm_unicode_alpha); }
static tdm_jval m_isalnum(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return all(r, self, args, "isalnum", alnum); }
static tdm_jval m_isdecimal(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return all(r, self, args, "isdecimal", tdm_unicode_decimal); }
static tdm_jval m_isdigit(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return all(r, self, args, "isdigit", tdm_unicode_digit); }
static tdm_jval m_isnumeric(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return all(r, self, args, "isnumeric", tdm_unicode_numeric); }
static tdm_jval m_isspace(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return all(r, self, args, "isspace", tdm_unicode_space); }

static tdm_jval m_isprintable(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    return tdm_jv_bool(!self.u.s->len || all(r, self, args, "isprintable", tdm_unicode_printable).u.b);
}

static tdm_jval m_isascii(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    no_args(r, args, "isascii");
    for (size_t i = 0; i < self.u.s->len; i++)
        if ((unsigned char)self.u.s->data[i] >= 0x80) return tdm_jv_bool(false);
    return tdm_jv_bool(true);
}

static tdm_jval m_isidentifier(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    const tdm_jstr *s = self.u.s;
    no_args(r, args, "isidentifier");
    for (size_t i = 0; i < s->len; i += tdm_utf8_len(s->data + i)) {
        const uint32_t c = tdm_utf8_at(s->data + i);
        if (c != '_' && !tdm_unicode_alpha(c) && !(i && tdm_unicode_decimal(c))) return tdm_jv_bool(false);
    }
    return tdm_jv_bool(s->len > 0);
}

static tdm_jval m_islower(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    no_args(r, args, "islower");
    return tdm_jv_bool(tdm_jstr_is_case(self.u.s, tdm_unicode_lower));
}

static tdm_jval m_isupper(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    no_args(r, args, "isupper");
    return tdm_jv_bool(tdm_jstr_is_case(self.u.s, tdm_unicode_upper));
}

static tdm_jval m_istitle(tdm_jrun *r, tdm_jval self, const tdm_jargs *args)
{
    bool inside = false, any = false;
    no_args(r, args, "istitle");
    for (size_t i = 0; i < self.u.s->len; i += tdm_utf8_len(self.u.s->data + i)) {
        const uint32_t c = tdm_utf8_at(self.u.s->data + i);
        const bool high = tdm_unicode_upper(c) || tdm_unicode_title(c), low = tdm_unicode_lower(c);
        if ((high && inside) || (low && !inside)) return tdm_jv_bool(false);
        inside = high || low;
        any |= inside;
    }
    return tdm_jv_bool(any);
}

static tdm_jval m_format(tdm_jrun *r, tdm_jval self, const tdm_jargs *args) { return tdm_jformat_braces(r, self.u.s, args); }

const tdm_jnamed *tdm_jstr_method_find(const tdm_jstr *name)
{
    static const tdm_jnamed methods[] = {
        {"strip", m_strip}, {"lstrip", m_lstrip}, {"rstrip", m_rstrip}, {"split", m_split}, {"rsplit", m_rsplit},
        {"startswith", m_startswith}, {"endswith", m_endswith}, {"replace", m_replace}, {"upper", m_upper}, {"lower", m_lower},
        {"title", m_title}, {"capitalize", m_capitalize}, {"join", m_join}, {"find", m_find}, {"rfind", m_rfind}, {"index", m_index},
        {"rindex", m_rindex}, {"count", m_count}, {"splitlines", m_splitlines}, {"partition", m_partition},
        {"rpartition", m_rpartition}, {"removeprefix", m_removeprefix}, {"removesuffix", m_removesuffix}, {"swapcase", m_swapcase},
        {"casefold", m_casefold}, {"center", m_center}, {"ljust", m_ljust}, {"rjust", m_rjust}, {"zfill", m_zfill},
        {"expandtabs", m_expandtabs}, {"isalpha", m_isalpha}, {"isalnum", m_isalnum}, {"isdecimal", m_isdecimal},
        {"isdigit", m_isdigit}, {"isnumeric", m_isnumeric}, {"isspace", m_isspace}, {"isprintable", m_isprintable},
        {"isascii", m_isascii}, {"isidentifier", m_isidentifier}, {"islower", m_islower}, {"isupper", m_isupper},
        {"istitle", m_istitle}, {"format", m_format}, {"format_map", NULL}, {"encode", NULL}, {"translate", NULL}, {"maketrans", NULL}};
    return tdm_jtable_find(methods, TDM_COUNT(methods), name);
}
