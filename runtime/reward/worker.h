/* A process that answers JSON lines: started with pipes, asked a line at a time, watched by the clock, always reaped. Rewards and environments
 * from outside are such processes (docs/rewards.md, docs/environments.md).
 *   threads   one at a time; several workers run side by side in tdm_workers_step */
#ifndef TANDEM_RUNTIME_REWARD_WORKER_H
#define TANDEM_RUNTIME_REWARD_WORKER_H

#include <jansson.h>

#include "kernels/base.h"

/* Everything is borrowed until the worker stops. */
typedef struct tdm_worker_spec {
    const char *python;         /* file.py:name, run by `program`; NULL: command */
    const char *program;        /* what the interpreter runs: tdm_python_reward or tdm_python_environment */
    const char *form;           /* how `python` is written, for errors */
    const char *interpreter;
    const char *const *command; /* argv, NULL-terminated */
    double timeout_s;           /* for an answer, and for a start */
} tdm_worker_spec;

/* One line of answer, without its end. An error means that the worker is not to be trusted further: it is stopped. */
typedef tdm_status tdm_worker_take_fn(void *ctx, const char *line, size_t len, tdm_error *err);

typedef struct tdm_worker {
    tdm_worker_spec spec;
    char label[160];       /* "python rewards/f.py:score" */
    int pid;               /* 0: not running */
    int to, from;          /* pipes; -1: closed */
    /* the call under way, or the last */
    char where[256];       /* for errors: the label and what was asked */
    tdm_worker_take_fn *take;
    void *ctx;
    char *send;            /* malloc'd */
    size_t send_bytes, sent;
    char *got;             /* malloc'd */
    size_t got_bytes, got_room;
    double deadline_s;
    bool busy, failed;
    tdm_error error;       /* of one that failed; it is not running any more */
} tdm_worker;

void tdm_worker_init(tdm_worker *k, const tdm_worker_spec *spec);
/* Starts the process; a python worker also says that its name was found, so a broken one shows before training. */
tdm_status tdm_worker_start(tdm_worker *k, tdm_error *err);
void tdm_worker_stop(tdm_worker *k, double patience_s); /* asks, waits, kills */
/* Begins a call; started when it is not running. A failure is kept in k->error. The request may go at once. */
void tdm_worker_call(tdm_worker *k, const json_t *request, const char *where, tdm_worker_take_fn *take, void *ctx);
/* Sends and receives what is ready, or waits wait_s for something; false: no call is under way. */
bool tdm_workers_step(tdm_worker *const *workers, int64_t count, double wait_s);
/* Runs all calls to their ends, side by side. */
void tdm_workers_run(tdm_worker *const *workers, int64_t count);

/* Columns of rows for a request: every key that any row has, as a list over the rows; null where a row lacks it. New. */
json_t *tdm_worker_columns(const json_t *const *rows, int64_t n);

extern const char tdm_python_reward[], tdm_python_environment[]; /* the program texts of python workers */

#endif
