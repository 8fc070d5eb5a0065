/* What a person sees while a run goes: on a terminal one line that redraws itself, elsewhere a plain line a step. */
#ifndef TANDEM_RUNTIME_RUN_PROGRESS_H
#define TANDEM_RUNTIME_RUN_PROGRESS_H

#include <stdio.h>

#include "runtime/run/metrics.h"

typedef struct tdm_progress {
    FILE *out;         /* stderr, by custom */
    bool quiet, tty;
    int64_t first, last; /* the first step of this process, and the last one */
    int64_t every;     /* plain lines: each n-th step */
    double start_s;    /* tdm_now_s when it began */
    int columns;
    bool drawn;        /* a line without its end stands on the terminal */
} tdm_progress;

void tdm_progress_init(tdm_progress *p, FILE *out, int64_t first, int64_t last, int64_t every, bool quiet);
void tdm_progress_step(tdm_progress *p, const tdm_step_metrics *m); /* after a step */
/* What is going on inside a step ("rollout 512/1024"); shown on a terminal only. */
void tdm_progress_phase(tdm_progress *p, int64_t step, const char *phase, int64_t done, int64_t total);
void tdm_progress_note(tdm_progress *p, const char *fmt, ...) TDM_PRINTF(2, 3); /* a line of its own: "saved checkpoints/step-000020" */
void tdm_progress_end(tdm_progress *p);

/* The line itself, for tests: elapsed_s since start. */
void tdm_progress_format(const tdm_progress *p, const tdm_step_metrics *m, double elapsed_s, char *line, size_t bytes);
/* 93784 s: "1d 02:03", 5025 s: "1:23:45", 83 s: "1:23". */
void tdm_progress_duration(double s, char *out, size_t bytes);

#endif
