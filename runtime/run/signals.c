#include "runtime/run/signals.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

/* What a handler may write. File scope, because a signal belongs to the process. */
static volatile sig_atomic_t asked;

static void on_signal(int sig)
{
    if (asked && sig == SIGINT) {
        static const char bye[] = "\nstopped at once; the last complete checkpoint stands\n";
        ssize_t n = write(STDERR_FILENO, bye, sizeof bye - 1);
        (void)n;
        _exit(128 + SIGINT);
    }
    asked = sig;
}

static void set(int sig, void (*handler)(int))
{
    struct sigaction a = {.sa_flags = SA_RESTART}; /* a read in a worker's pipe goes on; the loop looks at the flag */
    a.sa_handler = handler;
    sigemptyset(&a.sa_mask);
    sigaction(sig, &a, NULL);
}

void tdm_signals_install(void)
{
    asked = 0;
    set(SIGINT, on_signal);
    set(SIGTERM, on_signal);
    set(SIGPIPE, SIG_IGN);
}

void tdm_signals_restore(void)
{
    set(SIGINT, SIG_DFL);
    set(SIGTERM, SIG_DFL);
    set(SIGPIPE, SIG_DFL);
    asked = 0;
}

bool tdm_signals_stop(void) { return asked != 0; }
int tdm_signals_which(void) { return (int)asked; }
