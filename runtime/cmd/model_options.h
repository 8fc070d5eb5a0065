/* The options that every command that opens a model shares. */
#ifndef TANDEM_RUNTIME_CMD_MODEL_OPTIONS_H
#define TANDEM_RUNTIME_CMD_MODEL_OPTIONS_H

#include "runtime/cmd/args.h"
#include "runtime/run/session.h"

typedef struct tdm_model_options {
    const char *model, *adapter, *weights, *activations, *kv, *keep_bf16, *scales, *budget, *device;
    bool pow2, pow2_weights, pow2_acts, fp8_head, fp8_embedding, exact;
    int64_t first_bf16, last_bf16, threads;
    const char *keep_list[2];
} tdm_model_options;

enum { TDM_MODEL_OPTIONS = 18 };
/* Fills options[0 .. TDM_MODEL_OPTIONS); the command's own follow. */
void tdm_model_options_table(tdm_model_options *o, tdm_option options[TDM_MODEL_OPTIONS]);
/* Checks the words and fills the session's spec; --model is required. */
tdm_status tdm_model_options_apply(tdm_model_options *o, tdm_session_spec *spec, tdm_error *err);

#endif
