/* tandem eval: what its kinds of task share. */
#ifndef TANDEM_RUNTIME_CMD_EVAL_H
#define TANDEM_RUNTIME_CMD_EVAL_H

#include "runtime/run/session.h"

/* Multiple choice by log-probability, as lm-evaluation-harness has it: the choice whose tokens are likeliest behind the context (acc), and the same with the
 * sum divided by the choice's characters (acc_norm) or bytes (acc_bytes). Context and choice are joined by a space and tokenized together.
 * Prints one JSON object; samples (may be NULL): a file of one line a row. spec is the model's; its layout is filled in. limit 0: all rows. */
tdm_status tdm_eval_choices(tdm_session_spec *spec, const char *task, const char *file, int64_t limit, const char *samples, tdm_error *err);

#endif
