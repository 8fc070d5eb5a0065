/* Multiple choice: a context and what may follow it, from a row as the data set has it, in lm-evaluation-harness' prompts.
 *   choices       {"query" or "context", "choices": [texts], "gold": index}: as they are
 *   arc_easy, arc_challenge, openbookqa, hellaswag, piqa, boolq: the columns of these data sets
 * Source: lm-evaluation-harness, lm_eval/tasks/{arc,openbookqa,hellaswag,piqa,super_glue/boolq}. */
#ifndef TANDEM_RUNTIME_DATA_CHOICES_H
#define TANDEM_RUNTIME_DATA_CHOICES_H

#include <jansson.h>

#include "kernels/base.h"

enum { TDM_CHOICES_MAX = 64 };

typedef struct tdm_choices {
    char *context;               /* owned */
    char *text[TDM_CHOICES_MAX]; /* owned; without the space before them */
    int count, gold;
} tdm_choices;

/* NULL: no such task. In alphabetical order; NULL-terminated. */
extern const char *const tdm_choices_tasks[];
bool tdm_choices_known(const char *task);
/* A column that is missing, another number of choices than 2 to TDM_CHOICES_MAX or a gold that is none of them is an error at `where`. */
tdm_status tdm_choices_read(tdm_choices *c, const char *task, const json_t *row, const char *where, tdm_error *err);
void tdm_choices_free(tdm_choices *c); /* {0} is fine */

#endif
