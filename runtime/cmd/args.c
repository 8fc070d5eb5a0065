#include "runtime/cmd/args.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t edit_distance(const char *a, const char *b)
{
    enum { MOST = 48 };
    const size_t n = strlen(a), m = strlen(b);
    int64_t row[MOST + 1];
    if (n > MOST || m > MOST) return MOST;
    for (size_t j = 0; j <= m; j++) row[j] = (int64_t)j;
    for (size_t i = 1; i <= n; i++) {
        int64_t diagonal = row[0];
        row[0] = (int64_t)i;
        for (size_t j = 1; j <= m; j++) {
            const int64_t up = row[j];
            row[j] = tdm_min_i64(tdm_min_i64(row[j], row[j - 1]) + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = up;
        }
    }
    return row[m];
}

const char *tdm_nearest(const char *word, const char *const *names, int64_t count)
{
    const char *best = NULL;
    int64_t least = tdm_max_i64(2, (int64_t)strlen(word) / 3) + 1;
    for (int64_t i = 0; i < count; i++) {
        const int64_t d = edit_distance(word, names[i]);
        if (d >= least) continue;
        least = d;
        best = names[i];
    }
    return best;
}

static void print_help(const tdm_command *c)
{
    printf("%s\n\nusage: %s%s%s%s\n", c->summary, c->name, c->plain ? " " : "", c->plain ? c->plain_name : "", c->count ? " [options]" : "");
    if (c->count) printf("\noptions:\n");
    for (int i = 0; i < c->count; i++) {
        char left[64];
        const tdm_option *o = &c->options[i];
        snprintf(left, sizeof left, "%s%s%s", o->name, o->metavar ? " " : "", o->metavar ? o->metavar : "");
        printf("  %-28s %s\n", left, o->help);
    }
    printf("  %-28s %s\n", "--help", "this text");
    printf("\nexample:\n  %s\n", c->example);
}

static tdm_status unknown(const tdm_command *c, const char *arg, size_t len, tdm_error *err)
{
    char word[64], hint[128];
    const char *names[64];
    int64_t n = 0;
    snprintf(word, sizeof word, "%.*s", (int)len, arg);
    for (int i = 0; i < c->count && n < 64; i++) names[n++] = c->options[i].name;
    const char *near = tdm_nearest(word, names, n);
    if (near) snprintf(hint, sizeof hint, "did you mean %s?", near);
    else snprintf(hint, sizeof hint, "%s --help lists the options", c->name);
    return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", hint, "unknown option %s", word);
}

static tdm_status take_number(const tdm_option *o, const char *text, tdm_error *err)
{
    char *end;
    errno = 0;
    const double v = strtod(text, &end);
    const bool whole = o->kind != TDM_OPTION_INT || (floor(v) == v && fabs(v) < 0x1p53);
    if (end == text || *end || errno || !isfinite(v) || !whole)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", o->help, "%s takes a%s number, not \"%.64s\"", o->name,
                        o->kind == TDM_OPTION_INT ? " whole" : "", text);
    if ((o->least != 0.0 || o->most != 0.0) && (v < o->least || v > o->most))
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", o->help, "%s is %g, outside %g to %g", o->name, v, o->least, o->most);
    if (o->kind == TDM_OPTION_INT) *(int64_t *)o->value = (int64_t)v;
    else *(double *)o->value = v;
    return TDM_OK;
}

static tdm_status take(const tdm_command *c, int argc, char **argv, int *at, tdm_error *err)
{
    const char *arg = argv[*at];
    const size_t len = strcspn(arg, "=");
    for (int i = 0; i < c->count; i++) {
        const tdm_option *o = &c->options[i];
        if (strlen(o->name) != len || strncmp(arg, o->name, len) != 0) continue;
        if (o->given) *o->given = true;
        if (o->kind == TDM_OPTION_FLAG) {
            if (arg[len]) return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", o->help, "%s takes no value", o->name);
            *(bool *)o->value = true;
            return TDM_OK;
        }
        const char *text = arg + len + 1;
        if (!arg[len]) {
            if (*at + 1 >= argc) return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", o->help, "%s needs a value", o->name);
            text = argv[++*at];
        }
        if (o->kind != TDM_OPTION_TEXT) return take_number(o, text, err);
        *(const char **)o->value = text;
        return TDM_OK;
    }
    return unknown(c, arg, len, err);
}

tdm_status tdm_args_parse(const tdm_command *c, int argc, char **argv, int *plain_count, bool *help, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int plain = 0;
    bool options_end = false;
    *help = false;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(c);
            *help = true;
            return TDM_OK;
        }
    for (int i = 1; i < argc; i++) {
        if (!options_end && strcmp(argv[i], "--") == 0) {
            options_end = true;
            continue;
        }
        if (!options_end && argv[i][0] == '-' && argv[i][1]) {
            TDM_TRY(st, take(c, argc, argv, &i, err), done);
            continue;
        }
        if (plain >= c->plain_room) {
            st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "--help shows what is taken", "%s: unexpected argument \"%.128s\"", c->name, argv[i]);
            goto done;
        }
        c->plain[plain++] = argv[i];
    }
    if (plain_count) *plain_count = plain;
done:
    return st;
}
