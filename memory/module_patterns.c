#define PCRE2_CODE_UNIT_WIDTH 8
#include "memory/module_patterns.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct pattern {
    char *copy;        /* owned: as the config spells it */
    const char *text;  /* copy, where it also counts as a name or (CONVERT) a suffix; NULL: only the regex counts */
    pcre2_code *regex; /* owned; NULL: none */
} pattern;

struct tdm_patterns {
    pattern *items;
    size_t count;
    tdm_pattern_rule rule;
    pcre2_match_context *limits;
};

static tdm_status compile(pattern *p, const char *expression, const char *where, tdm_error *err)
{
    int code;
    PCRE2_SIZE at;
    PCRE2_UCHAR text[128];
    p->regex = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code,
                             &at, NULL);
    if (p->regex) return TDM_OK;
    pcre2_get_error_message(code, text, sizeof text);
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "repair the expression", "regular expression %.80s: %s", expression,
                    (char *)text);
}

static tdm_status read_pattern(pattern *p, const char *text, tdm_pattern_rule rule, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    p->copy = strdup(text);
    if (!p->copy) return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory");
    if (rule == TDM_PATTERN_COMPRESSED) {
        if (strncmp(text, "re:", 3) == 0) return compile(p, text + 3, where, err);
        p->text = p->copy;
        return TDM_OK;
    }
    /* transformers: rf"(?:{key})((?<=\.)|(?=\.|$))", matched from the start */
    const size_t room = strlen(text) + 32;
    char *expression = malloc(room); /* owned here */
    if (!expression) return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory");
    snprintf(expression, room, "(?:%s)(?:(?<=\\.)|(?=\\.|$))", text);
    p->text = p->copy;
    st = compile(p, expression, where, err);
    free(expression);
    return st;
}

tdm_status tdm_patterns_read(tdm_patterns **out, const json_t *list, tdm_pattern_rule rule, const char *where,
                             tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_patterns *p = calloc(1, sizeof *p);

    *out = NULL;
    if (p) {
        p->limits = pcre2_match_context_create(NULL);
        p->items = calloc(json_array_size(list) + 1, sizeof *p->items);
    }
    if (!p || !p->limits || !p->items) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory");
        goto fail;
    }
    pcre2_set_match_limit(p->limits, 100000); /* far beyond any honest expression over a name of some 40 characters */
    pcre2_set_depth_limit(p->limits, 10000);
    p->rule = rule;
    if (list && !json_is_array(list)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "repair quantization_config", "a list of modules is not a list");
        goto fail;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!text) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, where, "repair quantization_config",
                          "a list of modules holds something that is not text");
            goto fail;
        }
        p->count = i + 1;
        TDM_TRY(st, read_pattern(&p->items[i], text, rule, where, err), fail);
    }
    *out = p;
    return st;
fail:
    tdm_patterns_free(p);
    return st;
}

void tdm_patterns_free(tdm_patterns *p)
{
    if (!p) return;
    for (size_t i = 0; i < p->count; i++) {
        free(p->items[i].copy);
        pcre2_code_free(p->items[i].regex);
    }
    free(p->items);
    pcre2_match_context_free(p->limits);
    free(p);
}

static bool text_matches(const pattern *p, tdm_pattern_rule rule, const char *module)
{
    if (!p->text) return false;
    if (rule == TDM_PATTERN_COMPRESSED) return strcmp(p->text, module) == 0 || strcmp(p->text, "Linear") == 0;
    const size_t n = strlen(p->text), m = strlen(module);
    return n <= m && strcmp(module + m - n, p->text) == 0;
}

tdm_status tdm_patterns_match(const tdm_patterns *p, const char *module, const char *where, bool *out, tdm_error *err)
{
    *out = false;
    for (size_t i = 0; i < p->count && !*out; i++) {
        if (text_matches(&p->items[i], p->rule, module)) *out = true;
        if (*out || !p->items[i].regex) continue;
        pcre2_match_data *match = pcre2_match_data_create(1, NULL);
        if (!match) return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory");
        const int rc =
            pcre2_match(p->items[i].regex, (PCRE2_SPTR)module, strlen(module), 0, PCRE2_ANCHORED, match, p->limits);
        pcre2_match_data_free(match);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            return TDM_FAIL(err, TDM_ERR_INPUT, where, "simplify quantization_config",
                            "the expression %.80s takes too long to match", p->items[i].copy);
        *out = rc >= 0;
    }
    return TDM_OK;
}

tdm_status tdm_module_named(const char *name, const char *module, const char *where, bool *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_patterns *p = NULL; /* owned here */
    json_t *list;           /* owned here */
    *out = *name && strstr(module, name);
    if (strncmp(name, "re:", 3) != 0) return TDM_OK;
    list = json_pack("[s]", name);
    if (!list) return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory");
    TDM_TRY(st, tdm_patterns_read(&p, list, TDM_PATTERN_COMPRESSED, where, err), done);
    TDM_TRY(st, tdm_patterns_match(p, module, where, out, err), done);
done:
    json_decref(list);
    tdm_patterns_free(p);
    return st;
}
