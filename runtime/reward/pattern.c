#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/reward/pattern.h"

#include <pcre2.h>
#include <stdlib.h>

enum { MATCH_STEPS = 1000000, MATCH_DEPTH = 100000, HEAP_KIB = 64 << 10 };

struct tdm_pattern {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

static tdm_status compile(tdm_pattern *p, const char *pattern, bool whole, const char *where, tdm_error *err)
{
    int code;
    size_t at;
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | (whole ? PCRE2_DOTALL | PCRE2_ANCHORED | PCRE2_ENDANCHORED : 0);
    p->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &code, &at, NULL);
    if (!p->code) {
        char text[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return TDM_FAIL(err, TDM_ERR_RECIPE, where, "patterns are PCRE2", "the pattern is wrong at character %zu: %s", at + 1, text);
    }
    p->match = pcre2_match_data_create_from_pattern(p->code, NULL);
    p->limits = pcre2_match_context_create(NULL);
    if (!p->match || !p->limits) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a pattern");
    pcre2_set_match_limit(p->limits, MATCH_STEPS);
    pcre2_set_depth_limit(p->limits, MATCH_DEPTH);
    pcre2_set_heap_limit(p->limits, HEAP_KIB);
    return TDM_OK;
}

tdm_status tdm_pattern_open(tdm_pattern **out, const char *pattern, bool whole, const char *where, tdm_error *err)
{
    tdm_pattern *p = calloc(1, sizeof *p);
    *out = p;
    if (!p) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a pattern");
    const tdm_status st = compile(p, pattern, whole, where, err);
    if (st == TDM_OK) return TDM_OK;
    tdm_pattern_close(p);
    *out = NULL;
    return st;
}

void tdm_pattern_close(tdm_pattern *p)
{
    if (!p) return;
    pcre2_match_data_free(p->match);
    pcre2_match_context_free(p->limits);
    pcre2_code_free(p->code);
    free(p);
}

bool tdm_pattern_find(tdm_pattern *p, const char *text, size_t len, tdm_pattern_hit *hit)
{
    const int groups = pcre2_match(p->code, (PCRE2_SPTR)text, len, 0, 0, p->match, p->limits);
    if (groups <= 0) return false;
    const size_t *at = pcre2_get_ovector_pointer(p->match);
    int g = groups > 1 ? 1 : 0;
    while (g > 0 && g + 1 < groups && at[2 * g] == PCRE2_UNSET) g++;
    if (at[2 * g] == PCRE2_UNSET || at[2 * g] > at[2 * g + 1]) g = 0;
    *hit = (tdm_pattern_hit){.text = text + at[2 * g], .len = at[2 * g + 1] - at[2 * g], .end = at[1]};
    return true;
}
