/* Rewards by rule, in this process. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/data/dataset.h"
#include "runtime/reward/reward_internal.h"

/* A pattern that backtracks past this many steps does not match: no completion may stall a run. */
enum { MATCH_STEPS = 1000000, MATCH_DEPTH = 100000, HEAP_KIB = 64 << 10 };

struct tdm_rule {
    const tdm_recipe_reward *w;
    const char *where;
    int64_t longest;     /* length */
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

static tdm_status compile(tdm_rule *r, tdm_error *err)
{
    int code;
    size_t at;
    /* DOTALL, as the field's format rewards use re.DOTALL; a format must match the whole completion */
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | (r->w->kind == TDM_REWARD_FORMAT ? PCRE2_DOTALL | PCRE2_ANCHORED | PCRE2_ENDANCHORED : 0);
    r->code = pcre2_compile((PCRE2_SPTR)r->w->pattern, PCRE2_ZERO_TERMINATED, options, &code, &at, NULL);
    if (!r->code) {
        char text[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return TDM_FAIL(err, TDM_ERR_RECIPE, r->where, "patterns are PCRE2", "the pattern is wrong at character %zu: %s", at + 1, text);
    }
    r->match = pcre2_match_data_create_from_pattern(r->code, NULL);
    r->limits = pcre2_match_context_create(NULL);
    if (!r->match || !r->limits) return TDM_FAIL(err, TDM_ERR_OTHER, r->where, "free host memory", "out of memory for a pattern");
    pcre2_set_match_limit(r->limits, MATCH_STEPS);
    pcre2_set_depth_limit(r->limits, MATCH_DEPTH);
    pcre2_set_heap_limit(r->limits, HEAP_KIB);
    return TDM_OK;
}

tdm_status tdm_rule_open(tdm_rule **out, const tdm_recipe_reward *w, const tdm_recipe *recipe, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_rule *r = calloc(1, sizeof *r);
    *out = r;
    if (!r) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a reward");
    r->w = w;
    r->where = where;
    r->longest = w->max > 0 ? w->max : recipe->rollout.max_new_tokens;
    if (w->kind == TDM_REWARD_REGEX || w->kind == TDM_REWARD_FORMAT) TDM_TRY(st, compile(r, err), done);
    r->where = NULL; /* it was the caller's */
done:
    return st;
}

void tdm_rule_close(tdm_rule *r)
{
    if (!r) return;
    pcre2_match_data_free(r->match);
    pcre2_match_context_free(r->limits);
    pcre2_code_free(r->code);
    free(r);
}

typedef struct piece {
    const char *p;
    size_t len;
} piece;

static piece trim(piece x)
{
    while (x.len > 0 && strchr(" \t\r\n", x.p[x.len - 1])) x.len--;
    while (x.len > 0 && strchr(" \t\r\n", *x.p)) x.p++, x.len--;
    return x;
}

static bool same(piece a, piece b)
{
    a = trim(a);
    b = trim(b);
    return a.len == b.len && memcmp(a.p, b.p, a.len) == 0;
}

static bool same_number(piece answer, piece given)
{
    double want, have;
    return tdm_reward_number_find(answer.p, answer.len, &want) && tdm_reward_number_find(given.p, given.len, &have) &&
           fabs(want - have) <= 1e-6 * fmax(1.0, fabs(want));
}

/* The first group that took part, or the whole match. */
static bool search(tdm_rule *r, const tdm_reward_sample *s, piece *hit)
{
    const int groups = pcre2_match(r->code, (PCRE2_SPTR)s->completion, s->completion_len, 0, 0, r->match, r->limits);
    if (groups <= 0) return false;
    const size_t *at = pcre2_get_ovector_pointer(r->match);
    int g = groups > 1 ? 1 : 0;
    while (g > 0 && g + 1 < groups && at[2 * g] == PCRE2_UNSET) g++;
    if (at[2 * g] == PCRE2_UNSET || at[2 * g] > at[2 * g + 1]) g = 0;
    *hit = (piece){s->completion + at[2 * g], at[2 * g + 1] - at[2 * g]};
    return true;
}

/* DAPO's soft overlong punishment, arXiv:2503.14476, eq. 13: 0 up to max - buffer, then down to -1 at max. */
static double length_penalty(const tdm_rule *r, int64_t tokens)
{
    const double over = (double)(tokens - (r->longest - r->w->buffer));
    if (over <= 0.0) return 0.0;
    return -r->w->penalty * fmin(1.0, r->w->buffer > 0 ? over / (double)r->w->buffer : 1.0);
}

tdm_status tdm_rule_score(tdm_rule *r, uint64_t bit, const tdm_reward_sample *samples, int64_t n, double *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t i = 0; i < n; i++) {
        const tdm_reward_sample *s = &samples[i];
        char *answer = NULL, where[96];
        size_t answer_len = 0;
        if (s->skip & bit) {
            out[i] = NAN;
            continue;
        }
        snprintf(where, sizeof where, "reward \"%.32s\", sample %" PRId64, r->w->name, i);
        if (r->w->answer[0] && r->w->kind <= TDM_REWARD_REGEX) TDM_TRY(st, tdm_template_fill(r->w->answer, s->row, where, &answer, &answer_len, err), done);
        const piece given = {s->completion, s->completion_len}, want = {answer ? answer : "", answer_len};
        piece hit;
        switch (r->w->kind) {
        case TDM_REWARD_NUMBER: out[i] = same_number(want, given); break;
        case TDM_REWARD_EXACT: out[i] = same(want, given); break;
        case TDM_REWARD_REGEX: out[i] = search(r, s, &hit) && (!answer || same(want, hit)); break;
        case TDM_REWARD_FORMAT: out[i] = search(r, s, &hit); break;
        case TDM_REWARD_LENGTH: out[i] = length_penalty(r, s->ids_count - s->observed); break;
        default: TDM_ASSERT(!"a reward by rule");
        }
        free(answer);
    }
done:
    return st;
}
