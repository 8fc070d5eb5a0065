#include "kernels/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

tdm_status tdm_fail(tdm_error *err, tdm_status st, const char *src, int src_line, const char *where, const char *hint,
                    const char *fmt, ...)
{
    if (!err || err->status != TDM_OK) return st;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->what, sizeof err->what, fmt, args);
    va_end(args);
    snprintf(err->where, sizeof err->where, "%s", where ? where : "");
    snprintf(err->hint, sizeof err->hint, "%s", hint ? hint : "");
    err->status = st;
    err->src = src;
    err->src_line = src_line;
    return st;
}

static void print_clean(const char *s)
{
    for (; *s; s++) fputc((unsigned char)*s < 0x20 || *s == 0x7f ? ' ' : *s, stderr);
}

void tdm_error_print(const tdm_error *err)
{
    fputs("error: ", stderr);
    print_clean(err->what);
    if (err->where[0]) {
        fputs(" (", stderr);
        print_clean(err->where);
        fputs(")", stderr);
    }
    if (err->hint[0]) {
        fputs(": ", stderr);
        print_clean(err->hint);
    }
    if (getenv("TANDEM_DEBUG") && err->src) fprintf(stderr, " [%s:%d]", err->src, err->src_line);
    fputc('\n', stderr);
}

_Noreturn void tdm_assert_failed(const char *file, int line, const char *cond)
{
    fprintf(stderr, "bug: %s:%d: %s does not hold\n", file, line, cond);
    abort();
}

_Noreturn void tdm_assert_eq_failed(const char *file, int line, const char *cond, long long a, long long b)
{
    fprintf(stderr, "bug: %s:%d: %s does not hold: %lld, %lld\n", file, line, cond, a, b);
    abort();
}

double tdm_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
