/* Command lines: --name VALUE or --name=VALUE, flags, and plain arguments. An unknown option names the nearest one. */
#ifndef TANDEM_RUNTIME_CMD_ARGS_H
#define TANDEM_RUNTIME_CMD_ARGS_H

#include "kernels/base.h"

typedef enum tdm_option_kind { TDM_OPTION_TEXT, TDM_OPTION_INT, TDM_OPTION_REAL, TDM_OPTION_FLAG } tdm_option_kind;

typedef struct tdm_option {
    const char *name;  /* "--max-new" */
    tdm_option_kind kind;
    void *value;       /* const char **, int64_t *, double *, bool * */
    double least, most; /* bounds of a number; both 0: none */
    const char *metavar, *help;
    bool *given;       /* set when the option was there; may be NULL */
} tdm_option;

typedef struct tdm_command {
    const char *name;    /* "tandem score" */
    const char *summary; /* one line */
    const char *example; /* a command line that works */
    const tdm_option *options;
    int count;
    const char **plain;  /* filled with plain arguments; NULL: none are taken */
    int plain_room;
    const char *plain_name; /* "COMMAND" in the usage line */
} tdm_command;

/* TDM_OK: go on. *help: --help was printed on stdout, nothing else is to be done. *plain_count may be NULL. */
tdm_status tdm_args_parse(const tdm_command *c, int argc, char **argv, int *plain_count, bool *help, tdm_error *err);

/* The nearest of `count` names within an edit distance that a typo has; NULL: none is near. */
const char *tdm_nearest(const char *word, const char *const *names, int64_t count);

#endif
