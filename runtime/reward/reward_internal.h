/* What reward.c (the set), builtin.c, call.c (processes) and plugin.c share. */
#ifndef TANDEM_RUNTIME_REWARD_REWARD_INTERNAL_H
#define TANDEM_RUNTIME_REWARD_REWARD_INTERNAL_H

#include "runtime/reward/reward.h"
#include "runtime/reward/worker.h"

/* ---- Rules in this process: number, exact, regex, format, length ---- */
typedef struct tdm_rule tdm_rule;
tdm_status tdm_rule_open(tdm_rule **r, const tdm_recipe_reward *w, const tdm_recipe *recipe, const char *where, tdm_error *err);
void tdm_rule_close(tdm_rule *r);
/* Samples that have `bit` in their skip get NaN. */
tdm_status tdm_rule_score(tdm_rule *r, uint64_t bit, const tdm_reward_sample *samples, int64_t n, double *out, tdm_error *err);

/* ---- A shared object ---- */
typedef struct tdm_plugin tdm_plugin;
tdm_status tdm_plugin_open(tdm_plugin **p, const tdm_recipe_reward *w, const char *where, tdm_error *err);
void tdm_plugin_close(tdm_plugin *p);
tdm_status tdm_plugin_score(tdm_plugin *p, const tdm_reward_sample *samples, int64_t n, double *out, tdm_error *err);

/* ---- A process, asked for a part of a batch ---- */
typedef struct tdm_reward_call {
    tdm_worker worker;
    int64_t request;       /* number of the last request */
    const tdm_reward_sample *samples;
    int64_t first, count;  /* samples [first, first + count) of the batch */
    double *out;           /* of the batch */
} tdm_reward_call;
void tdm_reward_call_init(tdm_reward_call *c, const tdm_recipe_reward *w);
/* Begins; a failure is kept in c->worker. */
void tdm_reward_call_begin(tdm_reward_call *c, const tdm_reward_sample *samples, int64_t first, int64_t count, double *out);

#endif
