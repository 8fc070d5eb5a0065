/* Worker processes: started with pipes, asked in JSON lines, watched by the clock, always reaped. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/reward/worker.h"

enum { REPLY_MOST = 64 << 20 }; /* bytes of one reply line: a worker that floods is stopped */

void tdm_worker_init(tdm_worker *k, const tdm_worker_spec *spec)
{
    memset(k, 0, sizeof *k);
    k->spec = *spec;
    k->to = k->from = -1;
    if (spec->python) snprintf(k->label, sizeof k->label, "python %s", spec->python);
    else snprintf(k->label, sizeof k->label, "command %s", spec->command[0]);
}

static void close_pipe(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static bool reaped(tdm_worker *k, int *status)
{
    if (waitpid(k->pid, status, WNOHANG) != k->pid) return false;
    k->pid = 0;
    return true;
}

static void sleep_s(double s)
{
    const struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}

void tdm_worker_stop(tdm_worker *k, double patience_s)
{
    int status;
    close_pipe(&k->to); /* the end of its input asks it to end */
    close_pipe(&k->from);
    const double until = tdm_now_s() + patience_s;
    while (k->pid > 0 && !reaped(k, &status) && tdm_now_s() < until) sleep_s(0.005);
    if (k->pid > 0) {
        kill(-k->pid, SIGKILL); /* the whole group: what it started goes with it */
        kill(k->pid, SIGKILL);
        while (waitpid(k->pid, &status, 0) < 0 && errno == EINTR) {}
        k->pid = 0;
    }
    free(k->send);
    free(k->got);
    k->send = k->got = NULL;
    k->got_bytes = k->got_room = 0;
    k->busy = false;
}

/* In the child: everything here is safe between fork and exec. */
static void become_worker(char *const *argv, int in, int out, int report, pid_t parent)
{
    sigset_t none;
    setpgid(0, 0); /* a Ctrl-C at the terminal is for the trainer: it saves first */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0) _exit(127);
    execvp(argv[0], argv);
    const int code = errno;
    ssize_t ignored = write(report, &code, sizeof code);
    (void)ignored;
    _exit(127);
}

typedef struct python_command {
    char file[4096], name[256];
    char *argv[6];
} python_command;

static void python_argv(const tdm_worker *k, python_command *c)
{
    const char *colon = strrchr(k->spec.python, ':');
    snprintf(c->file, sizeof c->file, "%.*s", (int)(colon - k->spec.python), k->spec.python);
    snprintf(c->name, sizeof c->name, "%s", colon + 1);
    char *const argv[6] = {(char *)(uintptr_t)k->spec.interpreter, "-c", (char *)(uintptr_t)k->spec.program, c->file, c->name, NULL};
    memcpy(c->argv, argv, sizeof argv);
}

static tdm_status spawn(tdm_worker *k, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int in[2] = {-1, -1}, out[2] = {-1, -1}, report[2] = {-1, -1}, code = 0;
    python_command python;
    char *const *argv = (char *const *)(uintptr_t)k->spec.command;
    if (k->spec.python) {
        python_argv(k, &python);
        argv = python.argv;
    }
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(report, O_CLOEXEC) != 0) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, k->label, "raise the limit of open files", "cannot make pipes: %s", strerror(errno));
        goto done;
    }
    const pid_t parent = getpid();
    k->pid = fork();
    if (k->pid == 0) become_worker(argv, in[0], out[1], report[1], parent);
    if (k->pid < 0) {
        k->pid = 0;
        st = TDM_FAIL(err, TDM_ERR_OTHER, k->label, "free memory or processes", "cannot start the worker: %s", strerror(errno));
        goto done;
    }
    close_pipe(&report[1]);
    if (read(report[0], &code, sizeof code) == (ssize_t)sizeof code) { /* exec failed: it says why; else the pipe just closes */
        st = TDM_FAIL(err, TDM_ERR_INPUT, k->label, "is it installed and executable?", "cannot run %s: %s", argv[0], strerror(code));
        goto done;
    }
    k->to = in[1];
    k->from = out[0];
    in[1] = out[0] = -1;
    fcntl(k->to, F_SETFL, O_NONBLOCK);
    fcntl(k->from, F_SETFL, O_NONBLOCK);
done:
    for (int i = 0; i < 2; i++) {
        close_pipe(&in[i]);
        close_pipe(&out[i]);
        close_pipe(&report[i]);
    }
    if (st != TDM_OK && k->pid > 0) tdm_worker_stop(k, 0.0);
    return st;
}

/* ---- Waiting ------------------------------------------------------------------------------------------------------------------- */

static void fail(tdm_worker *k, const char *hint, const char *fmt, const char *detail)
{
    char what[200];
    snprintf(what, sizeof what, fmt, detail);
    (void)TDM_FAIL(&k->error, TDM_ERR_INPUT, k->where, hint, "%s", what);
    k->failed = true;
    k->busy = false;
}

static void died(tdm_worker *k)
{
    char how[64] = "it closed its output";
    int status = 0;
    const double until = tdm_now_s() + 0.5; /* the pipe closes a little before the process can be reaped */
    while (k->pid > 0 && !reaped(k, &status) && tdm_now_s() < until) sleep_s(0.005);
    if (k->pid == 0 && WIFEXITED(status)) snprintf(how, sizeof how, "exit status %d", WEXITSTATUS(status));
    else if (k->pid == 0 && WIFSIGNALED(status)) snprintf(how, sizeof how, "signal %d", WTERMSIG(status));
    fail(k, "see its messages above", "the worker ended before it answered: %s", how);
}

static void send_some(tdm_worker *k)
{
    while (k->sent < k->send_bytes) {
        const ssize_t n = write(k->to, k->send + k->sent, k->send_bytes - k->sent);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) {
            died(k);
            return;
        }
        k->sent += (size_t)n;
    }
}

/* Length of the first line that has arrived, its end included; 0: not yet. */
static size_t line_bytes(const tdm_worker *k)
{
    const char *end = k->got_bytes ? memchr(k->got, '\n', k->got_bytes) : NULL;
    return end ? (size_t)(end - k->got) + 1 : 0;
}

static void receive_some(tdm_worker *k)
{
    for (;;) {
        if (k->got_room - k->got_bytes < 4096) {
            const size_t room = k->got_room ? 2 * k->got_room : 65536;
            char *more = room <= REPLY_MOST ? realloc(k->got, room) : NULL;
            if (!more) {
                fail(k, "answer one line of JSON for each request", "the reply is longer than 64 MiB%s", "");
                return;
            }
            k->got = more;
            k->got_room = room;
        }
        const ssize_t n = read(k->from, k->got + k->got_bytes, k->got_room - k->got_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            died(k);
            return;
        }
        k->got_bytes += (size_t)n;
        if (line_bytes(k) > 0) return;
    }
}

/* The greeting of a python worker. */
static tdm_status take_greeting(void *ctx, const char *line, size_t len, tdm_error *err)
{
    tdm_worker *k = ctx;
    (void)err; /* kept by fail */
    json_t *o = json_loadb(line, len, 0, NULL);
    const char *error = json_string_value(json_object_get(o, "error"));
    if (error) fail(k, k->spec.form, "cannot load it: %s", error);
    else if (!json_is_true(json_object_get(o, "ready"))) fail(k, "is it a Python 3 interpreter?", "the worker does not greet%s", "");
    json_decref(o);
    return k->failed ? k->error.status : TDM_OK;
}

static void take_line(tdm_worker *k, size_t len)
{
    k->busy = false;
    k->failed = k->take(k->ctx, k->got, len - 1, &k->error) != TDM_OK;
    memmove(k->got, k->got + len, k->got_bytes - len);
    k->got_bytes -= len;
}

static void advance(tdm_worker *k, short to, short from)
{
    if (to) send_some(k);
    if (k->busy && from) receive_some(k);
    const size_t len = k->busy ? line_bytes(k) : 0;
    if (len > 0) take_line(k, len);
    if (k->busy && tdm_now_s() > k->deadline_s) {
        char limit[32];
        snprintf(limit, sizeof limit, "%g", k->spec.timeout_s);
        fail(k, "raise timeout_s, or mend the worker", "the worker did not answer within %s s", limit);
    }
}

bool tdm_workers_step(tdm_worker *const *workers, int64_t count, double wait_s)
{
    enum { MOST = 256 };
    struct pollfd fds[2 * MOST];
    tdm_worker *who[MOST];
    nfds_t n = 0;
    for (int64_t i = 0; i < count && n < 2 * MOST; i++) {
        tdm_worker *k = workers[i];
        if (!k->busy) continue;
        who[n / 2] = k;
        fds[n++] = (struct pollfd){.fd = k->sent < k->send_bytes ? k->to : -1, .events = POLLOUT};
        fds[n++] = (struct pollfd){.fd = k->from, .events = POLLIN};
        wait_s = k->deadline_s - tdm_now_s() < wait_s ? k->deadline_s - tdm_now_s() : wait_s;
    }
    if (n == 0) return false;
    (void)poll(fds, n, wait_s > 0.0 ? (int)(1000.0 * wait_s) + 1 : 0); /* a signal only wakes it */
    for (nfds_t i = 0; i < n; i += 2) {
        advance(who[i / 2], fds[i].revents, fds[i + 1].revents);
        if (who[i / 2]->failed) tdm_worker_stop(who[i / 2], 0.0); /* started anew at the next call */
    }
    return true;
}

void tdm_workers_run(tdm_worker *const *workers, int64_t count)
{
    while (tdm_workers_step(workers, count, 0.2)) {}
}

static void begin(tdm_worker *k, const char *where, tdm_worker_take_fn *take, void *ctx)
{
    snprintf(k->where, sizeof k->where, "%s", where);
    k->take = take;
    k->ctx = ctx;
    k->busy = true;
    k->failed = false;
    k->error = (tdm_error){0};
    k->sent = 0;
    k->deadline_s = tdm_now_s() + k->spec.timeout_s;
}

tdm_status tdm_worker_start(tdm_worker *k, tdm_error *err)
{
    tdm_status st = spawn(k, err);
    if (st != TDM_OK || !k->spec.python) return st;
    k->send_bytes = 0;
    begin(k, k->label, take_greeting, k);
    tdm_workers_run(&k, 1);
    if (!k->failed) return TDM_OK;
    if (err && err->status == TDM_OK) *err = k->error;
    return k->error.status;
}

void tdm_worker_call(tdm_worker *k, const json_t *request, const char *where, tdm_worker_take_fn *take, void *ctx)
{
    tdm_error err = {0};
    if (k->pid == 0 && tdm_worker_start(k, &err) != TDM_OK) {
        k->error = err;
        k->failed = true;
        return;
    }
    free(k->send);
    k->send = request ? json_dumps(request, JSON_COMPACT) : NULL;
    char *line = k->send ? realloc(k->send, strlen(k->send) + 2) : NULL;
    if (line) k->send = line;
    begin(k, where, take, ctx);
    if (!line) {
        fail(k, "free host memory", "out of memory for a request%s", "");
        return;
    }
    k->send_bytes = strlen(line);
    memcpy(line + k->send_bytes++, "\n", 2);
}

json_t *tdm_worker_columns(const json_t *const *rows, int64_t n)
{
    json_t *columns = json_object(), *value, *list;
    const char *key;
    void *tmp;
    for (int64_t i = 0; i < n; i++)
        json_object_foreach((json_t *)(uintptr_t)rows[i], key, value)
            if (!json_object_get(columns, key)) json_object_set_new(columns, key, json_array());
    json_object_foreach_safe(columns, tmp, key, list)
        for (int64_t i = 0; i < n; i++) {
            json_t *v = json_object_get(rows[i], key);
            json_array_append(list, v ? v : json_null());
        }
    return columns;
}
