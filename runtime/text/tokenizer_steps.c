/* The steps of tokenizer.json: normalizer, pre_tokenizer, decoder. What is not known is refused by name. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "memory/json_read.h"
#include "runtime/text/tokenizer_impl.h"
#include "runtime/text/unicode.h"

enum { NESTED_MAX = 8 };

typedef struct loader { tdm_tokenizer *t; const char *what; tdm_error *err; } loader; /* what: "normalizer", ... */

static tdm_status damaged(const loader *l, const char *type, const char *key)
{
    return TDM_FAIL(l->err, TDM_ERR_INPUT, l->t->name, "is the file damaged?", "%s %.64s: \"%s\" is missing or of the wrong kind", l->what, type, key);
}

static tdm_status unknown(const loader *l, const char *type)
{
    return TDM_FAIL(l->err, TDM_ERR_INPUT, l->t->name, "this tokenizer is not supported", "%s \"%.64s\"", l->what, type);
}

static tdm_status flag(const loader *l, const json_t *o, const char *key, bool *out)
{
    const tdm_json_fields f = {o, l->t->name, l->err};
    return tdm_json_bool(&f, key, out);
}

/* {"String": s} or {"Regex": s}; a bare string is a String. */
static tdm_status pattern(const loader *l, const json_t *o, const char *type, tdm_pattern *out)
{
    const json_t *p = tdm_json_get(o, "pattern"), *s = json_is_string(p) ? p : tdm_json_get(p, "String"), *re = tdm_json_get(p, "Regex");
    if (json_is_string(s)) return tdm_pattern_literal(out, json_string_value(s), json_string_length(s), l->t->name, l->err);
    if (json_is_string(re)) return tdm_pattern_regex(out, json_string_value(re), json_string_length(re), l->t->name, l->err);
    return damaged(l, type, "pattern");
}

static tdm_status content(const loader *l, const json_t *o, const char *type, const char *key, char **out, size_t *len)
{
    const json_t *s = tdm_json_get(o, key);
    if (!json_is_string(s)) return damaged(l, type, key);
    *len = json_string_length(s);
    *out = tdm_copy(json_string_value(s), *len, l->err);
    return *out ? TDM_OK : TDM_ERR_OTHER;
}

static tdm_status one_char(const loader *l, const json_t *o, const char *type, const char *key, uint32_t *out)
{
    const json_t *s = tdm_json_get(o, key);
    size_t n = 0;
    if (!json_is_string(s) || json_string_length(s) == 0) return damaged(l, type, key);
    *out = tdm_utf8_get(json_string_value(s), &n);
    return n == json_string_length(s) ? TDM_OK : damaged(l, type, key);
}

/* Index of the name, -1: none. */
static int name_index(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (names[i] && strcmp(names[i], name) == 0) return (int)i;
    return -1;
}

static tdm_status normalizer(const loader *l, const json_t *o, const char *type)
{
    static const char *const names[] = {
        [TDM_NORM_NFC] = "NFC", [TDM_NORM_NFD] = "NFD", [TDM_NORM_NFKC] = "NFKC", [TDM_NORM_NFKD] = "NFKD", [TDM_NORM_REPLACE] = "Replace",
        [TDM_NORM_PREPEND] = "Prepend", [TDM_NORM_LOWERCASE] = "Lowercase", [TDM_NORM_STRIP] = "Strip",
        [TDM_NORM_STRIP_ACCENTS] = "StripAccents", [TDM_NORM_BYTES] = "ByteLevel",
    };
    tdm_status st = TDM_OK;
    int kind = name_index(type, names, TDM_COUNT(names));
    if (kind < 0) return unknown(l, type);
    tdm_norm *n = &l->t->norm[l->t->norm_count++];
    n->kind = (tdm_norm_kind)kind;
    if (kind == TDM_NORM_REPLACE) {
        TDM_TRY(st, pattern(l, o, type, &n->pattern), done);
        TDM_TRY(st, content(l, o, type, "content", &n->content, &n->content_len), done);
    } else if (kind == TDM_NORM_PREPEND) {
        TDM_TRY(st, content(l, o, type, "prepend", &n->content, &n->content_len), done);
    } else if (kind == TDM_NORM_STRIP) {
        TDM_TRY(st, flag(l, o, "strip_left", &n->left), done);
        TDM_TRY(st, flag(l, o, "strip_right", &n->right), done);
    }
done:
    return st;
}

static tdm_status behavior(const loader *l, const json_t *o, const char *type, tdm_behavior *out)
{
    static const char *const names[] = {
        [TDM_SPLIT_ISOLATED] = "Isolated", [TDM_SPLIT_REMOVED] = "Removed", [TDM_SPLIT_CONTIGUOUS] = "Contiguous",
        [TDM_SPLIT_WITH_PREVIOUS] = "MergedWithPrevious", [TDM_SPLIT_WITH_NEXT] = "MergedWithNext",
    };
    const char *name = json_string_value(tdm_json_get(o, "behavior"));
    int i = name ? name_index(name, names, TDM_COUNT(names)) : -1;
    if (i < 0) return damaged(l, type, "behavior");
    *out = (tdm_behavior)i;
    return TDM_OK;
}

/* prepend_scheme, or add_prefix_space of older files. */
static tdm_status prepend_scheme(const loader *l, const json_t *o, const char *type, tdm_prepend *out)
{
    static const char *const names[] = {[TDM_PREPEND_NEVER] = "never", [TDM_PREPEND_FIRST] = "first", [TDM_PREPEND_ALWAYS] = "always"};
    const json_t *scheme = tdm_json_get(o, "prepend_scheme");
    bool prefix = true;
    tdm_status st = flag(l, o, "add_prefix_space", &prefix);
    if (st != TDM_OK) return st;
    *out = prefix ? TDM_PREPEND_ALWAYS : TDM_PREPEND_NEVER;
    if (!scheme) return TDM_OK;
    int i = json_is_string(scheme) ? name_index(json_string_value(scheme), names, TDM_COUNT(names)) : -1;
    if (i < 0) return damaged(l, type, "prepend_scheme");
    *out = (tdm_prepend)i;
    return TDM_OK;
}

static tdm_status byte_level(const loader *l, const json_t *o, tdm_pre *p)
{
    tdm_status st = TDM_OK;
    p->kind = TDM_PRE_BYTE_LEVEL;
    p->prefix_space = p->split = true;
    TDM_TRY(st, flag(l, o, "add_prefix_space", &p->prefix_space), done);
    TDM_TRY(st, flag(l, o, "use_regex", &p->split), done);
    if (p->split) st = tdm_pattern_regex(&p->pattern, tdm_gpt2_pattern, strlen(tdm_gpt2_pattern), l->t->name, l->err);
done:
    return st;
}

static tdm_status pre_tokenizer(const loader *l, const json_t *o, const char *type)
{
    tdm_status st = TDM_OK;
    tdm_pre *p = &l->t->pre[l->t->pre_count++];
    if (strcmp(type, "ByteLevel") == 0) return byte_level(l, o, p);
    if (strcmp(type, "Split") == 0) {
        p->kind = TDM_PRE_SPLIT;
        TDM_TRY(st, pattern(l, o, type, &p->pattern), done);
        TDM_TRY(st, behavior(l, o, type, &p->behavior), done);
        st = flag(l, o, "invert", &p->invert);
    } else if (strcmp(type, "Digits") == 0) {
        bool individual = false;
        p->kind = TDM_PRE_DIGITS;
        TDM_TRY(st, flag(l, o, "individual_digits", &individual), done);
        p->behavior = individual ? TDM_SPLIT_ISOLATED : TDM_SPLIT_CONTIGUOUS;
    } else if (strcmp(type, "Metaspace") == 0) {
        p->kind = TDM_PRE_METASPACE;
        p->behavior = TDM_SPLIT_WITH_NEXT;
        p->split = true;
        TDM_TRY(st, one_char(l, o, type, "replacement", &p->c), done);
        TDM_TRY(st, flag(l, o, "split", &p->split), done);
        st = prepend_scheme(l, o, type, &p->prepend);
    } else if (strcmp(type, "Punctuation") == 0) {
        p->kind = TDM_PRE_PUNCTUATION;
        if (tdm_json_get(o, "behavior")) st = behavior(l, o, type, &p->behavior);
    } else if (strcmp(type, "WhitespaceSplit") == 0) {
        p->kind = TDM_PRE_SPACE;
        p->behavior = TDM_SPLIT_REMOVED;
    } else if (strcmp(type, "Whitespace") == 0) {
        p->kind = TDM_PRE_WORDS;
    } else if (strcmp(type, "CharDelimiterSplit") == 0) {
        p->kind = TDM_PRE_CHAR;
        p->behavior = TDM_SPLIT_REMOVED;
        st = one_char(l, o, type, "delimiter", &p->c);
    } else {
        st = unknown(l, type);
    }
done:
    return st;
}

static tdm_status size_field(const loader *l, const json_t *o, const char *key, size_t *out)
{
    const tdm_json_fields f = {o, l->t->name, l->err};
    int64_t value = 0;
    tdm_status st = tdm_json_int(&f, key, true, 0, INT32_MAX, &value);
    *out = (size_t)value;
    return st;
}

static tdm_status decoder(const loader *l, const json_t *o, const char *type)
{
    static const char *const names[] = {
        [TDM_DEC_BYTE_LEVEL] = "ByteLevel", [TDM_DEC_BYTE_FALLBACK] = "ByteFallback", [TDM_DEC_FUSE] = "Fuse", [TDM_DEC_REPLACE] = "Replace",
        [TDM_DEC_STRIP] = "Strip", [TDM_DEC_METASPACE] = "Metaspace",
    };
    tdm_status st = TDM_OK;
    int kind = name_index(type, names, TDM_COUNT(names));
    if (kind < 0) return unknown(l, type);
    tdm_dec *d = &l->t->dec[l->t->dec_count++];
    d->kind = (tdm_dec_kind)kind;
    if (kind == TDM_DEC_REPLACE) {
        TDM_TRY(st, pattern(l, o, type, &d->pattern), done);
        TDM_TRY(st, content(l, o, type, "content", &d->content, &d->content_len), done);
    } else if (kind == TDM_DEC_STRIP) {
        TDM_TRY(st, one_char(l, o, type, "content", &d->c), done);
        TDM_TRY(st, size_field(l, o, "start", &d->start), done);
        TDM_TRY(st, size_field(l, o, "stop", &d->stop), done);
    } else if (kind == TDM_DEC_METASPACE) {
        tdm_prepend scheme;
        TDM_TRY(st, one_char(l, o, type, "replacement", &d->c), done);
        TDM_TRY(st, prepend_scheme(l, o, type, &scheme), done);
        d->prefix = scheme != TDM_PREPEND_NEVER;
    }
done:
    return st;
}

typedef tdm_status step_fn(const loader *l, const json_t *o, const char *type);

/* One step, or a Sequence of them under `list`. */
static tdm_status load(const loader *l, const json_t *o, const char *list, int *count, step_fn *step, int depth)
{
    const char *type = json_string_value(tdm_json_get(o, "type"));
    const json_t *steps = tdm_json_get(o, list);
    if (!type) return damaged(l, "", "type");
    if (strcmp(type, "Sequence") != 0) {
        if (*count < TDM_STEPS_MAX) return step(l, o, type);
        return TDM_FAIL(l->err, TDM_ERR_INPUT, l->t->name, "this tokenizer is not supported", "%s has more than %d steps", l->what, TDM_STEPS_MAX);
    }
    if (!json_is_array(steps) || depth == NESTED_MAX) return damaged(l, type, list);
    for (size_t i = 0; i < json_array_size(steps); i++) {
        tdm_status st = load(l, json_array_get(steps, i), list, count, step, depth + 1);
        if (st != TDM_OK) return st;
    }
    return TDM_OK;
}

tdm_status tdm_steps_load(tdm_tokenizer *t, const json_t *root, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const json_t *norm = tdm_json_get(root, "normalizer"), *pre = tdm_json_get(root, "pre_tokenizer"), *dec = tdm_json_get(root, "decoder");
    if (norm) TDM_TRY(st, load(&(loader){t, "normalizer", err}, norm, "normalizers", &t->norm_count, normalizer, 0), done);
    if (pre) TDM_TRY(st, load(&(loader){t, "pre-tokenizer", err}, pre, "pretokenizers", &t->pre_count, pre_tokenizer, 0), done);
    if (dec) TDM_TRY(st, load(&(loader){t, "decoder", err}, dec, "decoders", &t->dec_count, decoder, 0), done);
    t->has_decoder = dec != NULL;
done:
    return st;
}
