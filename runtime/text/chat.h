/* Chat templates: a bounded interpreter of the Jinja subset that the models' own templates use. No host access: a template sees
 * only the variables it is given; steps, output bytes and nesting have limits, and passing one is an error. */
#ifndef TANDEM_RUNTIME_TEXT_CHAT_H
#define TANDEM_RUNTIME_TEXT_CHAT_H

#include <jansson.h>

#include "runtime/text/tokenizer.h"

typedef struct tdm_chat tdm_chat;

/* Parses once. name is what errors call it ("tokenizer_config.json: chat_template"). */
tdm_status tdm_chat_open(tdm_chat **c, const char *template_text, const char *name, tdm_error *err);
void tdm_chat_close(tdm_chat *c);
/* Appends the rendered text. vars: a JSON object, "messages", "add_generation_prompt", "tools", "enable_thinking", "bos_token", ... */
tdm_status tdm_chat_render(const tdm_chat *c, const json_t *vars, tdm_text *out, tdm_error *err);

#endif
