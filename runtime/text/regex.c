#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/text/regex.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/text/regex_rewrite.h"

struct tdm_regex {
    pcre2_code *code;
    bool jit;
    char name[64];
};

tdm_status tdm_regex_open(tdm_regex **out, const char *pattern, size_t len, const char *name, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_text rewritten = {0};
    pcre2_compile_context *context = NULL;
    int code = 0;
    PCRE2_SIZE offset = 0;
    tdm_regex *re = calloc(1, sizeof *re);

    *out = NULL;
    if (!re) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, name, NULL, "out of host memory");
        goto done;
    }
    snprintf(re->name, sizeof re->name, "%s", name);
    TDM_TRY(st, tdm_regex_rewrite(pattern, len, name, &rewritten, err), done);
    context = pcre2_compile_context_create(NULL);
    if (!context) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, name, NULL, "out of host memory");
        goto done;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF); /* Ruby's lines, whatever this PCRE2 was built for */
    pcre2_set_parens_nest_limit(context, 100);
    re->code = pcre2_compile((PCRE2_SPTR)rewritten.data, rewritten.len, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code,
                             &offset, context);
    if (!re->code) {
        char message[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        st = TDM_FAIL(err, TDM_ERR_INPUT, name, NULL, "regular expression: %s", message);
        goto done;
    }
    re->jit = pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE) == 0; /* a machine without JIT only matches more slowly */
    *out = re;
    re = NULL;
done:
    pcre2_compile_context_free(context);
    tdm_text_free(&rewritten);
    tdm_regex_close(re);
    return st;
}

void tdm_regex_close(tdm_regex *re)
{
    if (!re) return;
    pcre2_code_free(re->code);
    free(re);
}

void tdm_matcher_fini(tdm_matcher *m)
{
    pcre2_match_data_free(m->data);
    m->data = NULL;
}

int tdm_regex_find(const tdm_regex *re, tdm_matcher *m, const char *s, size_t len, size_t from, size_t *start, size_t *end,
                   tdm_error *err)
{
    if (!m->data && !(m->data = pcre2_match_data_create(1, NULL))) {
        TDM_FAIL(err, TDM_ERR_OTHER, re->name, NULL, "out of host memory");
        return -1;
    }
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (re->jit) rc = pcre2_jit_match(re->code, (PCRE2_SPTR)s, len, from, PCRE2_NO_UTF_CHECK, m->data, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its stack on the heap */
        rc = pcre2_match(re->code, (PCRE2_SPTR)s, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, NULL);
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc < 0) {
        char message[128];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
        TDM_FAIL(err, TDM_ERR_INPUT, re->name, "the text is too hard for this tokenizer's regular expression", "matching failed: %s",
                 message);
        return -1;
    }
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m->data);
    *start = at[0];
    *end = at[1];
    if (*start < from || *end < *start) { /* \K in a look-around could do this; such patterns are refused when loaded */
        TDM_FAIL(err, TDM_ERR_INPUT, re->name, NULL, "a match ends before it starts");
        return -1;
    }
    return 1;
}
