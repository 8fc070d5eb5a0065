/* Prompts of a command line: one text, or JSONL of strings, {"prompt"}, {"messages", ...} or {"ids"}; encoded. */
#ifndef TANDEM_RUNTIME_CMD_PROMPTS_H
#define TANDEM_RUNTIME_CMD_PROMPTS_H

#include "runtime/run/language.h"

typedef struct tdm_prompts {
    tdm_ids *ids;    /* [count] */
    int64_t count, room, longest;
} tdm_prompts;

tdm_status tdm_prompts_add_text(tdm_prompts *p, const tdm_language *l, const char *text, bool chat, tdm_error *err);
tdm_status tdm_prompts_read(tdm_prompts *p, const tdm_language *l, const char *path, const tdm_model_config *c, tdm_error *err);
void tdm_prompts_free(tdm_prompts *p);

#endif
