/* Rewards by rule, in this process. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/data/dataset.h"
#include "runtime/reward/pattern.h"
#include "runtime/reward/reward_internal.h"

struct tdm_rule {
    const tdm_recipe_reward *w;
    int64_t longest;      /* length */
    tdm_pattern *pattern; /* regex, format */
};

tdm_status tdm_rule_open(tdm_rule **out, const tdm_recipe_reward *w, const tdm_recipe *recipe, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_rule *r = calloc(1, sizeof *r);
    *out = r;
    if (!r) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a reward");
    r->w = w;
    r->longest = w->max > 0 ? w->max : recipe->rollout.max_new_tokens;
    if (w->kind == TDM_REWARD_REGEX || w->kind == TDM_REWARD_FORMAT)
        TDM_TRY(st, tdm_pattern_open(&r->pattern, w->pattern, w->kind == TDM_REWARD_FORMAT, where, err), done);
done:
    return st;
}

void tdm_rule_close(tdm_rule *r)
{
    if (!r) return;
    tdm_pattern_close(r->pattern);
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
        tdm_pattern_hit hit;
        switch (r->w->kind) {
        case TDM_REWARD_NUMBER: out[i] = same_number(want, given); break;
        case TDM_REWARD_EXACT: out[i] = same(want, given); break;
        case TDM_REWARD_REGEX: out[i] = tdm_pattern_find(r->pattern, s->completion, s->completion_len, &hit) && (!answer || same(want, (piece){hit.text, hit.len})); break;
        case TDM_REWARD_FORMAT: out[i] = tdm_pattern_find(r->pattern, s->completion, s->completion_len, &hit); break;
        case TDM_REWARD_LENGTH: out[i] = length_penalty(r, s->ids_count - s->observed); break;
        default: TDM_ASSERT(!"a reward by rule");
        }
        free(answer);
    }
done:
    return st;
}
