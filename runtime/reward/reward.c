/* The set of rewards of a recipe. */
#include "runtime/reward/reward.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/reward/reward_internal.h"

typedef struct source {
    const tdm_recipe_reward *w;
    tdm_rule *rule;
    tdm_plugin *plugin;
    tdm_reward_call *call; /* [workers] */
    int64_t workers;
} source;

struct tdm_rewards {
    const tdm_recipe *r;
    source *source;
    int64_t count;
    tdm_worker **all;   /* every worker of every source */
    int64_t workers;
    tdm_reward_scorer *scorer[TDM_REWARD_KINDS]; /* of those that a model of this process scores */
    void *scorer_ctx[TDM_REWARD_KINDS];
};

static bool is_process(const tdm_recipe_reward *w) { return w->kind == TDM_REWARD_PYTHON || w->kind == TDM_REWARD_COMMAND; }

static tdm_status open_source(tdm_rewards *s, source *src, int64_t i, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char key[48], where[TDM_RECIPE_WHERE];
    const tdm_recipe_reward *w = src->w = &s->r->reward[i];
    snprintf(key, sizeof key, "reward[%" PRId64 "]", i);
    tdm_recipe_where(s->r, key, where);
    if (w->kind == TDM_REWARD_ENVIRONMENT) return TDM_OK;
    if (w->kind == TDM_REWARD_PLUGIN) return tdm_plugin_open(&src->plugin, w, where, err);
    if (w->kind == TDM_REWARD_MODEL || w->kind == TDM_REWARD_JUDGE) return TDM_OK; /* its scores are attached */
    if (!is_process(w)) return tdm_rule_open(&src->rule, w, s->r, where, err);
    src->call = calloc((size_t)w->workers, sizeof *src->call);
    if (!src->call) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for workers");
    for (; src->workers < w->workers; src->workers++) tdm_reward_call_init(&src->call[src->workers], w);
    for (int64_t k = 0; k < src->workers; k++) {
        s->all[s->workers++] = &src->call[k].worker;
        TDM_TRY(st, tdm_worker_start(&src->call[k].worker, err), done);
    }
done:
    return st;
}

tdm_status tdm_rewards_open(tdm_rewards **out, const tdm_recipe *r, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int64_t workers = 0;
    tdm_rewards *s = calloc(1, sizeof *s);
    *out = s;
    for (int64_t i = 0; i < r->reward_count; i++) workers += is_process(&r->reward[i]) ? r->reward[i].workers : 0;
    if (s) {
        s->r = r;
        s->source = calloc((size_t)r->reward_count + 1, sizeof *s->source);
        s->all = calloc((size_t)workers + 1, sizeof(tdm_worker *));
    }
    if (!s || !s->source || !s->all) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the rewards");
        goto done;
    }
    for (int64_t i = 0; i < r->reward_count; i++) {
        s->count++; /* counted before it opens, so that close sees what it holds */
        TDM_TRY(st, open_source(s, &s->source[i], i, err), done);
    }
done:
    if (st != TDM_OK) {
        tdm_rewards_close(s);
        *out = NULL;
    }
    return st;
}

void tdm_rewards_attach(tdm_rewards *s, tdm_reward_kind kind, tdm_reward_scorer *scorer, void *ctx)
{
    s->scorer[kind] = scorer;
    s->scorer_ctx[kind] = ctx;
}

void tdm_rewards_close(tdm_rewards *s)
{
    if (!s) return;
    for (int64_t i = 0; s->source && i < s->count; i++) {
        source *src = &s->source[i];
        for (int64_t k = 0; k < src->workers; k++) tdm_worker_stop(&src->call[k].worker, 2.0);
        free(src->call);
        tdm_rule_close(src->rule);
        tdm_plugin_close(src->plugin);
    }
    free(s->source);
    free(s->all);
    free(s);
}

int64_t tdm_rewards_count(const tdm_rewards *s) { return s->count; }
const char *tdm_rewards_name(const tdm_rewards *s, int64_t i) { return s->source[i].w->name; }
double tdm_rewards_weight(const tdm_rewards *s, int64_t i) { return s->source[i].w->weight; }

/* What a failure means: an error, or a warning and zeros or no opinion for the samples [first, first + count). */
static tdm_status settle(const source *src, tdm_status st, const tdm_error *why, double *out, int64_t first, int64_t count, tdm_error *err)
{
    const bool zero = src->w->on_error == TDM_ON_ERROR_ZERO;
    if (src->w->on_error == TDM_ON_ERROR_STOP || src->w->kind == TDM_REWARD_JUDGE) { /* what a judge still says is not about a reply */
        if (err && err->status == TDM_OK) *err = *why;
        return st;
    }
    fprintf(stderr, "warning: %s (%s): %s for %" PRId64 " samples\n", why->what, why->where, zero ? "0" : "no opinion", count);
    for (int64_t i = first; i < first + count; i++) out[i] = zero ? 0.0 : NAN;
    return TDM_OK;
}

tdm_status tdm_rewards_score(tdm_rewards *s, const tdm_reward_sample *samples, int64_t n, double *scores, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t i = 0; i < s->count; i++) /* processes first: they work while the rules are computed */
        for (int64_t k = 0; k < s->source[i].workers; k++) {
            const int64_t parts = s->source[i].workers, first = n * k / parts, end = n * (k + 1) / parts;
            if (end > first) tdm_reward_call_begin(&s->source[i].call[k], samples, first, end - first, scores + i * n);
            else s->source[i].call[k].worker.failed = false;
        }
    for (int64_t i = 0; i < s->count; i++) {
        source *src = &s->source[i];
        tdm_error why = {0};
        tdm_status one = TDM_OK;
        if (src->rule) one = tdm_rule_score(src->rule, (uint64_t)1 << i, samples, n, scores + i * n, &why);
        for (int64_t k = 0; src->w->kind == TDM_REWARD_ENVIRONMENT && k < n; k++) scores[i * n + k] = samples[k].given ? samples[k].given[i] : NAN;
        if (s->scorer[src->w->kind]) one = s->scorer[src->w->kind](s->scorer_ctx[src->w->kind], i, samples, n, scores + i * n, &why);
        if (src->plugin) one = tdm_plugin_score(src->plugin, samples, n, scores + i * n, &why);
        if (one != TDM_OK) one = settle(src, one, &why, scores + i * n, 0, n, err);
        if (st == TDM_OK) st = one;
    }
    tdm_workers_run(s->all, s->workers);
    for (int64_t i = 0; i < s->count; i++)
        for (int64_t k = 0; k < s->source[i].workers; k++) {
            tdm_reward_call *c = &s->source[i].call[k];
            if (!c->worker.failed) continue;
            c->worker.failed = false;
            const tdm_status one = settle(&s->source[i], c->worker.error.status, &c->worker.error, scores + i * n, c->first, c->count, err);
            if (st == TDM_OK) st = one;
        }
    for (int64_t i = 0; i < s->count; i++)
        for (int64_t k = 0; k < n; k++)
            if (samples[k].skip >> i & 1) scores[i * n + k] = NAN;
    return st;
}

void tdm_rewards_combine(const tdm_rewards *s, const double *scores, int64_t n, double *total)
{
    for (int64_t k = 0; k < n; k++) {
        bool any = false;
        double sum = 0.0;
        for (int64_t i = 0; i < s->count; i++) {
            const double v = scores[i * n + k];
            if (isnan(v)) continue;
            any = true;
            sum += tdm_rewards_weight(s, i) * v;
        }
        total[k] = any ? sum : NAN;
    }
}
