/* Texts and chats of supervised rows as tokens: what job_sft.c and job_preference.c share. */
#ifndef TANDEM_RUNTIME_RUN_EXAMPLE_H
#define TANDEM_RUNTIME_RUN_EXAMPLE_H

#include "runtime/run/language.h"

typedef struct tdm_example {
    const tdm_language *l;
    const char *where; /* the row's, for errors */
    tdm_ids ids, part; /* scratch of the one who asks */
    tdm_text text;
} tdm_example;

void tdm_example_free(tdm_example *x);
/* The first `count` messages through the chat template. */
tdm_status tdm_example_chat(tdm_example *x, json_t *messages, size_t count, bool generation_prompt, tdm_ids *ids, tdm_error *err);
/* A text prompt, or with a completion both in one piece and the end-of-sequence token after them, unless it is there. */
tdm_status tdm_example_text(tdm_example *x, const json_t *prompt, const json_t *completion, tdm_ids *ids, tdm_error *err);

#endif
