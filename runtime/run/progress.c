#include "runtime/run/progress.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void tdm_progress_init(tdm_progress *p, FILE *out, int64_t first, int64_t last, int64_t every, bool quiet)
{
    struct winsize size = {0};
    *p = (tdm_progress){.out = out, .quiet = quiet, .first = first, .last = last, .every = every > 0 ? every : 1, .start_s = tdm_now_s()};
    p->tty = isatty(fileno(out)) == 1;
    p->columns = p->tty && ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 100;
}

void tdm_progress_duration(double s, char *out, size_t bytes)
{
    int64_t t = s > 0 && s < 1e12 ? (int64_t)(s + 0.5) : 0;
    if (t >= 86400) snprintf(out, bytes, "%" PRId64 "d %02d:%02d", t / 86400, (int)(t / 3600 % 24), (int)(t / 60 % 60));
    else if (t >= 3600) snprintf(out, bytes, "%d:%02d:%02d", (int)(t / 3600), (int)(t / 60 % 60), (int)(t % 60));
    else snprintf(out, bytes, "%d:%02d", (int)(t / 60), (int)(t % 60));
}

/* Appends to a line that may be full already. */
TDM_PRINTF(4, 5) static void add(char *line, size_t bytes, size_t *at, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line + *at, bytes - *at, fmt, args);
    va_end(args);
    if (n > 0) *at = *at + (size_t)n < bytes ? *at + (size_t)n : bytes - 1;
}

static void add_rate(char *line, size_t bytes, size_t *at, double per_s)
{
    if (per_s >= 10000) add(line, bytes, at, "  %.1fk tok/s", per_s / 1000);
    else add(line, bytes, at, "  %.0f tok/s", per_s);
}

void tdm_progress_format(const tdm_progress *p, const tdm_step_metrics *m, double elapsed_s, char *line, size_t bytes)
{
    size_t at = 0;
    line[0] = 0;
    add(line, bytes, &at, "step %" PRId64 "/%" PRId64, m->step, p->last);
    if (m->set[TDM_METRIC_REWARD_MEAN]) {
        add(line, bytes, &at, "  reward %.3f", m->value[TDM_METRIC_REWARD_MEAN]);
        if (m->set[TDM_METRIC_REWARD_STD]) add(line, bytes, &at, " ± %.3f", m->value[TDM_METRIC_REWARD_STD]);
    }
    if (m->set[TDM_METRIC_REWARDS_ACCURACIES]) add(line, bytes, &at, "  accuracy %.3f", m->value[TDM_METRIC_REWARDS_ACCURACIES]);
    if (m->set[TDM_METRIC_LOSS]) add(line, bytes, &at, "  loss %.4g", m->value[TDM_METRIC_LOSS]);
    if (m->set[TDM_METRIC_KL]) add(line, bytes, &at, "  kl %.3g", m->value[TDM_METRIC_KL]);
    if (m->set[TDM_METRIC_COMPLETION_TOKENS_MEAN]) add(line, bytes, &at, "  length %.0f", m->value[TDM_METRIC_COMPLETION_TOKENS_MEAN]);
    if (m->set[TDM_METRIC_ROLLOUT_TOKENS_PER_S]) add_rate(line, bytes, &at, m->value[TDM_METRIC_ROLLOUT_TOKENS_PER_S]);
    else if (m->set[TDM_METRIC_TRAIN_TOKENS_PER_S]) add_rate(line, bytes, &at, m->value[TDM_METRIC_TRAIN_TOKENS_PER_S]);
    if (m->set[TDM_METRIC_STEP_S]) add(line, bytes, &at, "  %.1f s/step", m->value[TDM_METRIC_STEP_S]);
    int64_t done = m->step - p->first + 1, left = p->last - m->step;
    if (done > 0 && left > 0 && elapsed_s > 0) {
        char eta[32];
        tdm_progress_duration(elapsed_s / (double)done * (double)left, eta, sizeof eta);
        add(line, bytes, &at, "  ETA %s", eta);
    }
}

/* Over the line that stands there, cut to the terminal's width: a wrapped line cannot be redrawn. Columns count characters,
 * so bytes that continue one are free. */
static void draw(tdm_progress *p, const char *line)
{
    int used = 0;
    const char *c = line;
    for (; *c; c++) {
        if (((unsigned char)*c & 0xc0) == 0x80) continue;
        if (used == p->columns - 1) break;
        used++;
    }
    fprintf(p->out, "\r%.*s\033[K", (int)(c - line), line);
    fflush(p->out);
    p->drawn = true;
}

void tdm_progress_step(tdm_progress *p, const tdm_step_metrics *m)
{
    char line[512];
    if (p->quiet) return;
    tdm_progress_format(p, m, tdm_now_s() - p->start_s, line, sizeof line);
    if (p->tty) {
        draw(p, line);
    } else if (m->step % p->every == 0 || m->step == p->first || m->step == p->last) {
        fprintf(p->out, "%s\n", line);
        fflush(p->out);
    }
}

void tdm_progress_phase(tdm_progress *p, int64_t step, const char *phase, int64_t done, int64_t total)
{
    char line[512];
    if (p->quiet || !p->tty) return;
    if (total > 0) snprintf(line, sizeof line, "step %" PRId64 "/%" PRId64 "  %s %" PRId64 "/%" PRId64, step, p->last, phase, done, total);
    else snprintf(line, sizeof line, "step %" PRId64 "/%" PRId64 "  %s", step, p->last, phase);
    draw(p, line);
}

/* The line on the terminal is finished before anything else is printed. */
static void finish_line(tdm_progress *p)
{
    if (p->drawn) fputc('\n', p->out);
    p->drawn = false;
}

void tdm_progress_note(tdm_progress *p, const char *fmt, ...)
{
    va_list args;
    if (p->quiet) return;
    finish_line(p);
    va_start(args, fmt);
    vfprintf(p->out, fmt, args);
    va_end(args);
    fputc('\n', p->out);
    fflush(p->out);
}

void tdm_progress_end(tdm_progress *p)
{
    finish_line(p);
    fflush(p->out);
}
