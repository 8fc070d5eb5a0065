/* What reward.c (the set), builtin.c, worker.c (processes) and plugin.c share. */
#ifndef TANDEM_RUNTIME_REWARD_REWARD_INTERNAL_H
#define TANDEM_RUNTIME_REWARD_REWARD_INTERNAL_H

#include "runtime/reward/reward.h"

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

/* ---- A process that answers JSON lines ---- */
typedef struct tdm_worker {
    const tdm_recipe_reward *w;
    char label[160];       /* "python rewards/f.py:score" */
    int pid;               /* 0: not running */
    int to, from;          /* pipes; -1: closed */
    int64_t request;       /* number of the last request */
    /* the call under way */
    const tdm_reward_sample *samples;
    int64_t first, count;  /* samples [first, first + count) of the batch */
    double *out;           /* of the batch */
    char *send;            /* malloc'd */
    size_t send_bytes, sent;
    char *got;             /* malloc'd */
    size_t got_bytes, got_room;
    double deadline_s;
    bool busy, failed;
    tdm_error error;
} tdm_worker;

void tdm_worker_init(tdm_worker *k, const tdm_recipe_reward *w);
/* Starts the process; a python worker also says that its function was found, so a broken one shows before training. */
tdm_status tdm_worker_start(tdm_worker *k, tdm_error *err);
void tdm_worker_stop(tdm_worker *k, double patience_s); /* asks, waits, kills */
/* Prepares samples [first, first + count); started when it is not running. A failure is kept in k->error. */
void tdm_worker_call(tdm_worker *k, const tdm_reward_sample *samples, int64_t first, int64_t count, double *out);
/* Runs all calls to their ends, side by side. */
void tdm_workers_run(tdm_worker *const *workers, int64_t count);

extern const char tdm_python_worker[]; /* the program text of a python worker */

#endif
